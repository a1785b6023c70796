//! Our own accept loop: what the library does not offer. Connections are counted, all together and per peer; one that does not
//! speak HTTP, or TLS where there is a certificate, soon after it opened is closed, as is one on which nobody calls for long; and all can be
//! closed at once when the server must end.
use super::streams::Streams;
use crate::serve::{door::certificates::Certificates, metrics::Metrics, settings::ConnectionSettings};
use std::{
    collections::HashMap,
    io,
    net::IpAddr,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, ready},
    time::{Duration, Instant},
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
    sync::mpsc,
    time::Sleep,
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tokio_stream::Stream;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tonic::transport::server::Connected;
use tracing::{debug, warn};

/// Bytes of the HTTP/2 preface, which a client must send first; a request of HTTP/1.1 is longer, and the HTTP library waits for the rest of
/// its head half a minute. Source: RFC 9113, section 3.4.
const PREFACE_BYTES: usize = 24;
/// Pause after the system refused to accept (no descriptors left); without it the loop would spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// What a connection meets first.
#[derive(Clone, Debug)]
pub struct Doorstep {
    /// Limits of connections.
    pub settings: ConnectionSettings,
    /// What the server shows of itself; none: connections are plain.
    pub certificates: Option<Arc<Certificates>>,
    /// Where connections are counted.
    pub metrics: Arc<Metrics>,
}

/// Accepts connections within the limits, for ever. Every connection ends when `cut` is cancelled.
pub fn accept(
    listener: TcpListener,
    doorstep: Doorstep,
    cut: CancellationToken,
) -> impl Stream<Item = io::Result<Guarded>> {
    let Doorstep { settings, certificates, metrics } = doorstep;
    let peers = Arc::new(Peers { by_ip: Mutex::default(), settings, metrics });
    let (sender, receiver) = mpsc::channel(1);
    tokio::spawn(async move {
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                () = sender.closed() => return,
            };
            let (stream, peer) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    warn!(%error, "connection could not be accepted");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            let Some(place) = Peers::enter(&peers, peer.ip()) else { continue };
            // Small frames are answers to a waiting reader; they must not wait for company.
            let _ = stream.set_nodelay(true);
            match &certificates {
                None => {
                    let timeout = peers.settings.handshake_timeout;
                    let guarded = Guarded::new(Wire::Plain(stream), place, timeout, &cut);
                    if sender.send(Ok(guarded)).await.is_err() {
                        return;
                    }
                }
                // Shaking hands takes as long as the peer likes, and nobody else may wait for it. Places bound these tasks.
                Some(certificates) => {
                    tokio::spawn(shake_hands(
                        certificates.acceptor(),
                        (stream, place),
                        cut.clone(),
                        sender.clone(),
                    ));
                }
            }
        }
    });
    tokio_stream::wrappers::ReceiverStream::new(receiver)
}

/// Speaks TLS with a connection, which then has the rest of its time for the preface.
async fn shake_hands(
    acceptor: TlsAcceptor,
    (stream, place): (TcpStream, Place),
    cut: CancellationToken,
    sender: mpsc::Sender<io::Result<Guarded>>,
) {
    let (started, timeout) = (Instant::now(), place.peers.settings.handshake_timeout);
    let shaken = tokio::select! {
        shaken = tokio::time::timeout(timeout, acceptor.accept(stream)) => shaken,
        () = cut.cancelled() => return,
    };
    match shaken {
        Ok(Ok(stream)) => {
            let left = timeout.saturating_sub(started.elapsed());
            let guarded = Guarded::new(Wire::Tls(Box::new(stream)), place, left, &cut);
            // The server may have ended meanwhile.
            let _ = sender.send(Ok(guarded)).await;
        }
        Ok(Err(error)) => {
            place.peers.metrics.connection_refused("tls");
            debug!(%error, "TLS handshake failed");
        }
        Err(_) => place.peers.metrics.connection_refused("handshake"),
    }
}

/// Bytes of a connection, as they are or under TLS.
#[derive(Debug)]
enum Wire {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

#[derive(Debug)]
struct Peers {
    by_ip: Mutex<HashMap<IpAddr, usize>>,
    settings: ConnectionSettings,
    metrics: Arc<Metrics>,
}

impl Peers {
    fn enter(peers: &Arc<Self>, ip: IpAddr) -> Option<Place> {
        let mut by_ip = peers.lock();
        let total: usize = by_ip.values().sum();
        let of_peer = by_ip.get(&ip).copied().unwrap_or(0);
        if total >= peers.settings.total_max || of_peer >= peers.settings.per_peer_max {
            let reason = if total >= peers.settings.total_max { "total" } else { "per_peer" };
            peers.metrics.connection_refused(reason);
            debug!(reason, "connection refused");
            return None;
        }
        by_ip.insert(ip, of_peer + 1);
        peers.metrics.connections_open().increment(1.0);
        Some(Place { peers: Arc::clone(peers), ip })
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<IpAddr, usize>> {
        // The map is whole after every statement.
        self.by_ip.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A connection's place among the counted ones.
#[derive(Debug)]
struct Place {
    peers: Arc<Peers>,
    ip: IpAddr,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut by_ip = self.peers.lock();
        match by_ip.get_mut(&self.ip) {
            Some(n) if *n > 1 => *n -= 1,
            Some(_) | None => {
                by_ip.remove(&self.ip);
            }
        }
        self.peers.metrics.connections_open().decrement(1.0);
    }
}

/// A connection that ends by itself when its client does not speak, or when the server must end.
#[derive(Debug)]
pub struct Guarded {
    wire: Wire,
    /// Until the preface is here.
    handshake: Option<Handshake>,
    /// Its calls, and when to look whether there are any.
    streams: Streams,
    look: Pin<Box<Sleep>>,
    cut: Pin<Box<WaitForCancellationFutureOwned>>,
    place: Place,
}

#[derive(Debug)]
struct Handshake {
    bytes_left: usize,
    timeout: Pin<Box<Sleep>>,
}

impl Guarded {
    fn new(wire: Wire, place: Place, timeout: Duration, cut: &CancellationToken) -> Self {
        let timeout = Box::pin(tokio::time::sleep(timeout));
        let handshake = Some(Handshake { bytes_left: PREFACE_BYTES, timeout });
        let look = Box::pin(tokio::time::sleep(place.peers.settings.idle_timeout));
        let cut = Box::pin(cut.clone().cancelled_owned());
        Self { wire, handshake, streams: Streams::new(), look, cut, place }
    }

    /// An error if the connection has to end now.
    fn ended(&mut self, context: &mut Context<'_>) -> io::Result<()> {
        if self.cut.as_mut().poll(context).is_ready() {
            return Err(io::Error::new(io::ErrorKind::ConnectionAborted, "server ends"));
        }
        if let Some(handshake) = &mut self.handshake
            && handshake.timeout.as_mut().poll(context).is_ready()
        {
            self.place.peers.metrics.connection_refused("handshake");
            return Err(io::Error::new(io::ErrorKind::TimedOut, "nothing that begins HTTP"));
        }
        Ok(())
    }

    /// Whether nobody has called for as long as a connection may be idle; otherwise it is looked at again when that may be so.
    fn is_idle(&mut self, context: &mut Context<'_>) -> bool {
        let timeout = self.place.peers.settings.idle_timeout;
        while self.look.as_mut().poll(context).is_ready() {
            let until = self.streams.idle_since().unwrap_or_else(Instant::now) + timeout;
            if until <= Instant::now() {
                return true;
            }
            self.look.as_mut().reset(until.into());
        }
        false
    }
}

impl Connected for Guarded {
    /// What every call of the connection finds in its extensions.
    type ConnectInfo = Streams;

    fn connect_info(&self) -> Streams {
        self.streams.clone()
    }
}

impl AsyncRead for Guarded {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.ended(context)?;
        if self.is_idle(context) {
            self.place.peers.metrics.connection_idled();
            // The end of what is read: the server closes the connection as if the client had.
            return Poll::Ready(Ok(()));
        }
        let before = buffer.filled().len();
        ready!(match &mut self.wire {
            Wire::Plain(stream) => Pin::new(stream).poll_read(context, buffer),
            Wire::Tls(stream) => Pin::new(stream).poll_read(context, buffer),
        })?;
        let n_bytes = buffer.filled().len() - before;
        if let Some(handshake) = &mut self.handshake {
            handshake.bytes_left = handshake.bytes_left.saturating_sub(n_bytes);
            if handshake.bytes_left == 0 {
                self.handshake = None;
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Guarded {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.ended(context)?;
        match &mut self.wire {
            Wire::Plain(stream) => Pin::new(stream).poll_write(context, bytes),
            Wire::Tls(stream) => Pin::new(stream).poll_write(context, bytes),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.ended(context)?;
        match &mut self.wire {
            Wire::Plain(stream) => Pin::new(stream).poll_flush(context),
            Wire::Tls(stream) => Pin::new(stream).poll_flush(context),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.wire {
            Wire::Plain(stream) => Pin::new(stream).poll_shutdown(context),
            Wire::Tls(stream) => Pin::new(stream).poll_shutdown(context),
        }
    }
}
