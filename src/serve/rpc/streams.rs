//! Which connections have a call open: counted by a layer above all services, and read where connections are accepted.
use crate::serve::health::InFlight;
use std::{
    future::Future,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
    time::Instant,
};
use tonic::codegen::{
    Body,
    http::{Request, Response},
};
use tower::{Layer, Service};

/// The open calls of one connection. Clones share them; each call finds one in its extensions.
#[derive(Clone, Debug)]
pub struct Streams(Arc<Mutex<State>>);

#[derive(Clone, Copy, Debug)]
struct State {
    n_open: usize,
    has_called: bool,
    /// When the last one ended, or the connection began.
    since: Instant,
}

impl Streams {
    /// Those of a new connection.
    pub(super) fn new() -> Self {
        Self(Arc::new(Mutex::new(State { n_open: 0, has_called: false, since: Instant::now() })))
    }

    /// Since when no call is open; none while one is.
    pub(super) fn idle_since(&self) -> Option<Instant> {
        let state = *self.lock();
        (state.n_open == 0).then_some(state.since)
    }

    /// Whether there has been any.
    pub(super) fn has_called(&self) -> bool {
        self.lock().has_called
    }

    fn open(&self) -> Open {
        let mut state = self.lock();
        *state = State { n_open: state.n_open + 1, has_called: true, ..*state };
        drop(state);
        Open(self.clone())
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // The state is whole after every statement.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An open call.
#[derive(Debug)]
struct Open(Streams);

impl Drop for Open {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        *state = State { n_open: state.n_open.saturating_sub(1), since: Instant::now(), ..*state };
    }
}

/// Counts calls, whatever service they are of.
#[derive(Clone, Copy, Debug)]
pub struct CountStreams;

impl<S> Layer<S> for CountStreams {
    type Service = Counted<S>;

    fn layer(&self, inner: S) -> Counted<S> {
        Counted(inner)
    }
}

/// A service whose calls are counted.
#[derive(Clone, Debug)]
pub struct Counted<S>(S);

impl<S, A, B> Service<Request<A>> for Counted<S>
where
    S: Service<Request<A>, Response = Response<B>>,
    S::Future: Send + 'static,
{
    type Response = Response<Held<B>>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, S::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.0.poll_ready(context)
    }

    fn call(&mut self, request: Request<A>) -> Self::Future {
        let open = request.extensions().get::<Streams>().map(Streams::open);
        let answering = self.0.call(request);
        Box::pin(async move {
            let mut response = answering.await?;
            let in_flight = response.extensions_mut().remove();
            Ok(response.map(|body| Held { body, _open: open, _in_flight: in_flight }))
        })
    }
}

/// A body that keeps its call open, and under way, to its end.
#[derive(Debug)]
pub struct Held<B> {
    body: B,
    _open: Option<Open>,
    _in_flight: Option<Arc<InFlight>>,
}

impl<B: Body + Unpin> Body for Held<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<http_body::Frame<B::Data>, B::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> http_body::SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::serve::{health::Health, metrics::Metrics};
    use std::time::Duration;
    use tower::{ServiceExt, service_fn};

    #[tokio::test]
    async fn a_call_is_under_way_until_its_answer_is_handed_over() {
        let (reporter, _) = tonic_health::server::health_reporter();
        let health = Health::new(reporter, Vec::new(), Arc::new(Metrics::new().unwrap())).await;
        let of_call = Arc::clone(&health);
        let answering = service_fn(move |_: Request<()>| {
            let mut response = Response::new(String::from("answer"));
            response.extensions_mut().insert(Arc::new(of_call.enter()));
            async { Ok::<_, std::convert::Infallible>(response) }
        });
        let response = CountStreams.layer(answering).oneshot(Request::new(())).await.unwrap();
        let idle =
            async || tokio::time::timeout(Duration::from_millis(20), health.idle_for(Duration::ZERO)).await;
        assert!(idle().await.is_err());
        drop(response);
        assert!(idle().await.is_ok());
    }
}
