//! Many requests in one call: a few at a time, each answered or refused as it would be alone, told as they end.
use super::{
    call, encode, proto,
    proto::batch_generate_queries_item::Result as Outcome,
    replies::{Sender, Sent},
    service::{Shared, response_id},
    status::{self, Violations},
};
use crate::{client::refusal::code_word, serve::answer::ServeError};
use std::{sync::Arc, time::Instant};
use tokio::task::JoinSet;
use tonic::{Code, Status, metadata::MetadataMap};

/// What each request's trace is called.
const METHOD: &str = "BatchGenerateQueries";

/// Most requests of a batch; the proto promises this number. A message has room for so many of one or two dozen signals.
pub(super) const REQUESTS_MAX: usize = 256;

/// Most requests of a batch that are under way together: with eight candidates each they are the half of all rows that bulk may take.
const WIDTH_MAX: usize = 8;
/// Share of the queue that one batch may take, so that many batches leave room for those who wait for an answer.
const QUEUE_SHARE: usize = 32;

/// Requests of one batch that are under way together, where so many may wait for the model.
pub(super) fn width(queue_requests_max: usize) -> usize {
    (queue_requests_max / QUEUE_SHARE).clamp(1, WIDTH_MAX)
}

/// A batch, and what its requests share.
#[derive(Debug)]
pub(super) struct Batch {
    requests: Vec<proto::GenerateQueriesRequest>,
    metadata: Arc<MetadataMap>,
    deadline: Option<Instant>,
}

impl Batch {
    /// The requests of a call, which has this metadata and ends by then.
    ///
    /// # Errors
    /// If there are none or too many.
    pub(super) fn new(
        batch: proto::BatchGenerateQueriesRequest,
        metadata: MetadataMap,
        deadline: Option<Instant>,
    ) -> Result<Self, Status> {
        let got = batch.requests.len();
        if !(1..=REQUESTS_MAX).contains(&got) {
            let mut violations = Violations::default();
            violations.add("requests", format!("must have 1 to {REQUESTS_MAX} items, has {got}"));
            return Err(status::invalid(&violations));
        }
        Ok(Self { requests: batch.requests, metadata: Arc::new(metadata), deadline })
    }

    /// Answers all, at most `width` at a time, unless the client goes.
    pub(super) async fn run(
        self,
        shared: Arc<Shared>,
        width: usize,
        items: Sender<proto::BatchGenerateQueriesItem>,
    ) {
        tokio::select! {
            () = self.answer_all(shared, width, &items) => {}
            () = items.closed() => {}
        }
    }

    async fn answer_all(
        self,
        shared: Arc<Shared>,
        width: usize,
        items: &Sender<proto::BatchGenerateQueriesItem>,
    ) {
        let mut n_left = self.requests.len();
        let mut waiting = self.requests.into_iter().enumerate().map(|(idx, request)| {
            let (shared, metadata) = (Arc::clone(&shared), Arc::clone(&self.metadata));
            async move { item(idx, answer(&shared, in_bulk(request), &metadata, self.deadline).await) }
        });
        // Dropped, it ends whatever still runs.
        let mut running = JoinSet::new();
        waiting.by_ref().take(width).for_each(|answering| {
            running.spawn(answering);
        });
        while let Some(ended) = running.join_next().await {
            if let Some(next) = waiting.next() {
                running.spawn(next);
            }
            n_left -= 1;
            let sent = match ended {
                Ok(item) if n_left == 0 => Ok(Sent::Last(item)),
                Ok(item) => Ok(Sent::More(item)),
                // A request that panics takes its call with it, in a batch as alone.
                Err(_) => Err(status::status(&ServeError::Panicked)),
            };
            let is_last_word = sent.is_err();
            if items.send(sent).await.is_err() || is_last_word {
                return;
            }
        }
    }
}

/// Nobody waits for a batch, unless the request says otherwise.
fn in_bulk(request: proto::GenerateQueriesRequest) -> proto::GenerateQueriesRequest {
    let is_open = request.priority == proto::Priority::Unspecified as i32;
    let priority = if is_open { proto::Priority::Bulk.into() } else { request.priority };
    proto::GenerateQueriesRequest { priority, ..request }
}

async fn answer(
    shared: &Shared,
    request: proto::GenerateQueriesRequest,
    metadata: &MetadataMap,
    deadline: Option<Instant>,
) -> Result<proto::GenerateQueriesResponse, Status> {
    let trace = call::trace(&shared.rooms, METHOD, metadata);
    let answered = match shared.asked(request, metadata, deadline, &trace) {
        Ok(asked) => shared.answer(asked.unseen(), response_id(), |_| {}).await,
        Err(status) => Err(status),
    };
    let code = answered.as_ref().map_or_else(Status::code, |_| Code::Ok);
    trace.end(code_word(code), status::is_fault(code));
    answered
}

fn item(
    idx: usize,
    answered: Result<proto::GenerateQueriesResponse, Status>,
) -> proto::BatchGenerateQueriesItem {
    let outcome = match answered {
        Ok(response) => Outcome::Response(response),
        Err(status) => Outcome::Error(status::of_item(&status)),
    };
    proto::BatchGenerateQueriesItem { index: encode::count(idx), result: Some(outcome) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_takes_a_small_share_of_the_queue_and_at_least_one_place() {
        for (queue, expected) in [(1, 1), (63, 1), (64, 2), (256, 8), (65_536, 8)] {
            assert_eq!(width(queue), expected, "{queue}");
        }
    }
}
