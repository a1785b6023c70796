//! The end of a connection on which all is said.
use std::{
    future::Future,
    io,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::Sleep,
};

/// How long the peer may take to close. To what comes after a close of ours the system would answer with a reset, at which peers drop answers
/// that they have not read yet. Source: Envoy's `delayed_close_timeout`, whose default it is.
pub(super) const LINGER: Duration = Duration::from_secs(1);
/// Read at once of what nobody wants any more.
const LEFTOVER_BYTES: usize = 4 << 10;

/// Says that nothing more will be said, then waits for the peer to close.
#[derive(Debug, Default)]
pub(super) struct Closing {
    /// Once it is said: until when.
    linger: Option<Pin<Box<Sleep>>>,
}

impl Closing {
    /// Ready when the peer has closed, or had so long to do so; what it says until then is dropped.
    pub(super) fn poll(
        &mut self,
        wire: &mut (impl AsyncRead + AsyncWrite + Unpin),
        longest: Duration,
        context: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        if self.linger.is_none() {
            ready!(Pin::new(&mut *wire).poll_shutdown(context))?;
        }
        let linger = self.linger.get_or_insert_with(|| Box::pin(tokio::time::sleep(longest)));
        if linger.as_mut().poll(context).is_ready() {
            return Poll::Ready(Ok(()));
        }
        loop {
            let mut bytes = [0; LEFTOVER_BYTES];
            let mut leftover = ReadBuf::new(&mut bytes);
            let read = ready!(Pin::new(&mut *wire).poll_read(context, &mut leftover));
            if read.is_err() || leftover.filled().is_empty() {
                return Poll::Ready(Ok(()));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::poll_fn;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};

    const HOUR: Duration = Duration::from_secs(3600);

    async fn ended(wire: &mut DuplexStream, longest: Duration) {
        let mut closing = Closing::default();
        poll_fn(|context| closing.poll(wire, longest, context)).await.unwrap();
    }

    #[tokio::test]
    async fn a_peer_may_speak_until_it_closes() {
        // Far fewer bytes than are said: the end has to read them.
        let (mut wire, mut peer) = duplex(64);
        let speaking = async move {
            assert_eq!(peer.read(&mut [0; 8]).await.unwrap(), 0);
            peer.write_all(&[0; 4 * LEFTOVER_BYTES]).await.unwrap();
        };
        tokio::join!(ended(&mut wire, HOUR), speaking);
    }

    #[tokio::test]
    async fn a_peer_that_does_not_close_is_left() {
        let (mut wire, _peer) = duplex(64);
        ended(&mut wire, Duration::from_millis(1)).await;
    }
}
