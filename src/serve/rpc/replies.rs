//! What a streaming call sends: counted when it ends, and never without a last word.
use super::{call::Call, status};
use crate::serve::answer::ServeError;
use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};
use tokio::sync::mpsc;
use tokio_stream::Stream;
use tonic::{Code, Status};

/// One message, and whether another one follows.
#[derive(Debug)]
pub(super) enum Sent<T> {
    More(T),
    Last(T),
}

impl<T> Sent<T> {
    /// The same with another message.
    pub(super) fn map<U>(self, change: impl FnOnce(T) -> U) -> Sent<U> {
        match self {
            Self::More(message) => Sent::More(change(message)),
            Self::Last(message) => Sent::Last(change(message)),
        }
    }
}

/// Where the task of a call puts what it sends; an error is the last word too.
pub(super) type Sender<T> = mpsc::Sender<Result<Sent<T>, Status>>;

/// The messages of one call: the last one is marked as such or an error, whatever becomes of the task that sends them.
#[derive(Debug)]
pub struct Replies<T> {
    sent: mpsc::Receiver<Result<Sent<T>, Status>>,
    call: Call,
}

impl<T> Replies<T> {
    /// `room`: messages that may wait for the reader.
    pub(super) fn new(call: Call, room: usize) -> (Sender<T>, Self) {
        let (sender, sent) = mpsc::channel(room);
        (sender, Self { sent, call })
    }
}

impl<T> Stream for Replies<T> {
    type Item = Result<T, Status>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let polled = match ready!(self.sent.poll_recv(context)) {
            Some(Ok(Sent::More(message))) => Some(Ok(message)),
            Some(Ok(Sent::Last(message))) => {
                self.call.code = Code::Ok;
                Some(Ok(message))
            }
            Some(Err(status)) => {
                self.call.code = status.code();
                Some(Err(status))
            }
            // The task ended without a last word, so it panicked.
            None if self.call.code == Code::Cancelled => {
                let status = status::status(&ServeError::Panicked);
                self.call.code = status.code();
                Some(Err(status))
            }
            None => None,
        };
        Poll::Ready(polled)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::serve::{health::Health, metrics::Metrics};
    use std::sync::Arc;
    use tokio_stream::StreamExt;
    use tonic_health::server::HealthReporter;

    /// What a client sees of a task that sends these messages and ends.
    async fn seen(sent: Vec<Sent<u8>>) -> Vec<Result<u8, Code>> {
        let metrics = Arc::new(Metrics::new().unwrap());
        let health = Health::new(HealthReporter::new(), Vec::new(), Arc::clone(&metrics)).await;
        let call = Call::new(&metrics, &health, "StreamGenerateQueries");
        let (sender, replies) = Replies::new(call, sent.len());
        for message in sent {
            sender.try_send(Ok(message)).unwrap();
        }
        drop(sender);
        replies.map(|message| message.map_err(|status| status.code())).collect().await
    }

    #[tokio::test]
    async fn a_stream_whose_task_ends_without_a_last_word_ends_with_one_error() {
        assert_eq!(seen(vec![Sent::More(1)]).await, [Ok(1), Err(Code::Internal)]);
    }

    #[tokio::test]
    async fn a_stream_that_is_done_ends_without_an_error() {
        assert_eq!(seen(vec![Sent::More(1), Sent::Last(2)]).await, [Ok(1), Ok(2)]);
    }
}
