//! The end by signal, for every way of serving: the first SIGTERM or SIGINT asks, the second insists.
use super::CommandError;
use std::{future::Future, pin::pin};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// Works until the work ends by itself. The first signal cancels the token that the work was given; at the second one the work is
/// given up where it stands. Signals are listened to before the work starts; two that come before the first is seen count as
/// one, as the system counts them.
///
/// # Errors
/// Those of the work; if signals cannot be listened to; if a second one came.
pub async fn until_signalled<W>(work: impl FnOnce(CancellationToken) -> W) -> Result<(), CommandError>
where
    W: Future<Output = Result<(), CommandError>>,
{
    let mut terminate = signal(SignalKind::terminate()).map_err(CommandError::Signals)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(CommandError::Signals)?;
    let next = async || {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    };
    until(next, work).await
}

async fn until<W>(
    mut next: impl AsyncFnMut(),
    work: impl FnOnce(CancellationToken) -> W,
) -> Result<(), CommandError>
where
    W: Future<Output = Result<(), CommandError>>,
{
    let asked = CancellationToken::new();
    let work = pin!(work(asked.clone()));
    let insisted = async {
        next().await;
        asked.cancel();
        next().await;
    };
    tokio::select! {
        done = work => done,
        () = insisted => Err(CommandError::Insisted),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::sync::mpsc;

    /// `n` signals, all of them there already.
    fn signals(n: usize) -> impl AsyncFnMut() {
        let (sender, mut receiver) = mpsc::channel(n + 1);
        (0..n).for_each(|_| sender.try_send(()).unwrap());
        async move || {
            let open = sender.clone();
            receiver.recv().await;
            drop(open);
        }
    }

    #[tokio::test]
    async fn the_first_signal_is_told_to_the_work_which_ends_in_its_own_time() {
        let drained = |asked: CancellationToken| async move {
            asked.cancelled().await;
            tokio::task::yield_now().await;
            Ok(())
        };
        assert!(until(signals(1), drained).await.is_ok());
    }

    #[tokio::test]
    async fn the_second_signal_gives_up_work_that_does_not_end() {
        let stuck = |_| std::future::pending();
        assert!(matches!(until(signals(2), stuck).await, Err(CommandError::Insisted)));
    }

    #[tokio::test]
    async fn work_that_ends_waits_for_no_signal() {
        assert!(until(signals(0), |_| async { Ok(()) }).await.is_ok());
    }
}
