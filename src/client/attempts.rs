//! One call, sent as often as its policy allows.
use super::{Client, Events, policy, reach::Wire, refusal::Refusal};
use rand::Rng;
use std::{
    future::Future,
    sync::atomic::{AtomicU32, Ordering::Relaxed},
};
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tonic::{Request, Response, Status, Streaming, metadata::MetadataMap};

/// How many failures a client begins with, in the half tokens that an answer gives back one of. Source: gRFC A6, with `maxTokens` 100 and
/// `tokenRatio` 0.5.
pub(super) const TOKENS_MAX: u32 = 200;
/// What a failure takes.
pub(super) const FAILURE: u32 = 2;

/// Stops repetitions while most calls fail, lest they keep a server down.
#[derive(Debug)]
pub(super) struct Throttle(AtomicU32);

impl Default for Throttle {
    fn default() -> Self {
        Self(AtomicU32::new(TOKENS_MAX))
    }
}

impl Throttle {
    fn answered(&self) {
        let _ = self.0.fetch_update(Relaxed, Relaxed, |tokens| (tokens < TOKENS_MAX).then_some(tokens + 1));
    }

    fn failed(&self) {
        let _ = self.0.fetch_update(Relaxed, Relaxed, |tokens| Some(tokens.saturating_sub(FAILURE)));
    }

    fn is_open(&self) -> bool {
        self.0.load(Relaxed) > TOKENS_MAX / 2
    }
}

impl Client {
    /// Sends a call until it is answered, refused for good, or late.
    pub(super) async fn tried<M: Clone, T>(
        &self,
        message: &M,
        metadata: &MetadataMap,
        deadline: Instant,
        send: &impl AsyncFn(Wire, Request<M>) -> Result<Response<T>, Status>,
    ) -> Result<T, Refusal> {
        let mut n_sent = 0;
        loop {
            let mut request = Request::new(message.clone());
            *request.metadata_mut() = metadata.clone();
            request.set_timeout(deadline.saturating_duration_since(Instant::now()));
            n_sent += 1;
            let status = match timeout_at(deadline, send(self.wire.clone(), request)).await {
                Ok(Ok(response)) => {
                    self.throttle.answered();
                    return Ok(response.into_inner());
                }
                Ok(Err(status)) => status,
                Err(_) => return Err(Refusal::late()),
            };
            if policy::is_lost(&status) {
                self.throttle.failed();
            }
            let left = deadline.saturating_duration_since(Instant::now());
            let pause = self.policy.pause(&status, n_sent, rand::rng().random_range(0.8..1.2));
            match pause.filter(|pause| *pause < left && self.throttle.is_open()) {
                Some(pause) => sleep(pause).await,
                None => return Err(Refusal::of(&status)),
            }
        }
    }

    /// The same, with a copy where the policy has one.
    pub(super) async fn hedged<M: Clone, T>(
        &self,
        message: M,
        metadata: MetadataMap,
        send: impl AsyncFn(Wire, Request<M>) -> Result<Response<T>, Status>,
    ) -> Result<T, Refusal> {
        let deadline = self.deadline();
        let first = self.tried(&message, &metadata, deadline, &send);
        let Some(after) = self.policy.hedge_after else { return first.await };
        tokio::pin!(first);
        if let Ok(ended) = timeout(after, &mut first).await {
            return ended;
        }
        if !self.throttle.is_open() {
            return first.await;
        }
        let mut elsewhere = metadata.clone();
        elsewhere.remove(super::USER_KEY);
        first_answer(first, self.tried(&message, &elsewhere, deadline, &send)).await
    }

    /// The same for what comes in pieces.
    pub(super) async fn streamed<M: Clone, T>(
        &self,
        message: M,
        metadata: MetadataMap,
        send: impl AsyncFn(Wire, Request<M>) -> Result<Response<Streaming<T>>, Status>,
    ) -> Result<Events<T>, Refusal> {
        let deadline = self.deadline();
        let stream = self.tried(&message, &metadata, deadline, &send).await?;
        Ok(Events { stream, deadline })
    }
}

/// What succeeds first, or the failure that comes last.
async fn first_answer<T, E>(
    one: impl Future<Output = Result<T, E>>,
    other: impl Future<Output = Result<T, E>>,
) -> Result<T, E> {
    tokio::pin!(one, other);
    tokio::select! {
        ended = &mut one => if ended.is_ok() { ended } else { other.await },
        ended = &mut other => if ended.is_ok() { ended } else { one.await },
    }
}
