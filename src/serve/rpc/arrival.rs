//! Requests whose message does not come: each would hold a place of its connection for as long as that lives.
use super::status;
use axum::{body::Body, extract::Request};
use http_body::{Frame, SizeHint};
use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};
use tokio::time::{Sleep, sleep};
use tonic::{Code, Status, codegen::Bytes};

/// How long a message may take to arrive, as long as the HTTP library gives the head of a request. Pings tell only that the client lives.
pub(super) const ARRIVAL_MAX: Duration = Duration::from_secs(30);

/// Our own methods are asked by one message each, whatever they answer; reflection and health checks are the library's, and may be held open.
const OURS: &str = "/newshound.";

/// What a caller hears whose message is late, by whatever door.
pub(super) fn late() -> Status {
    status::plain(Code::DeadlineExceeded, "BODY_LATE", "body did not arrive")
}

/// A request of which the body ends in time, or fails.
pub(super) fn bounded(request: Request) -> Request {
    if !is_ours(request.uri().path()) {
        return request;
    }
    request.map(|body| Body::new(Arriving { body, late: Box::pin(sleep(ARRIVAL_MAX)) }))
}

fn is_ours(path: &str) -> bool {
    path.starts_with(OURS)
}

/// A body that fails when it is late.
struct Arriving<B> {
    body: B,
    late: Pin<Box<Sleep>>,
}

impl<B: http_body::Body<Data = Bytes, Error: Into<tonic::codegen::StdError>> + Unpin> http_body::Body
    for Arriving<B>
{
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        if let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(context) {
            return Poll::Ready(frame.map(|frame| frame.map_err(|error| Status::from_error(error.into()))));
        }
        ready!(self.late.as_mut().poll(context));
        Poll::Ready(Some(Err(late())))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{convert::Infallible, future::poll_fn};

    /// A body with one frame, if it has any, that never ends.
    struct Endless(Option<Bytes>);

    impl http_body::Body for Endless {
        type Data = Bytes;
        type Error = Infallible;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
            self.0.take().map_or(Poll::Pending, |bytes| Poll::Ready(Some(Ok(Frame::data(bytes)))))
        }
    }

    #[tokio::test]
    async fn a_body_that_does_not_end_fails_in_time_and_what_has_come_is_read() {
        let body = Endless(Some(Bytes::from_static(b"half a message")));
        let mut arriving = Arriving { body, late: Box::pin(sleep(Duration::from_millis(1))) };
        let mut frame =
            async || poll_fn(|context| http_body::Body::poll_frame(Pin::new(&mut arriving), context)).await;
        assert!(frame().await.unwrap().unwrap().is_data());
        assert_eq!(frame().await.unwrap().unwrap_err().code(), Code::DeadlineExceeded);
    }

    #[test]
    fn what_may_be_held_open_is_not_bounded() {
        for service in super::super::server::SERVICE_NAMES {
            assert!(is_ours(&format!("/{service}/Any")), "{service}");
        }
        assert!(!is_ours("/grpc.health.v1.Health/Watch"));
        assert!(!is_ours("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo"));
    }
}
