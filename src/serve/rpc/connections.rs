//! Our own accept loop: what the library does not offer. Connections are counted, all together and per peer; one that does not
//! speak HTTP, or TLS where there is a certificate, soon after it opened is closed, and sooner where its place is wanted, as is one on which
//! nobody calls for long; and all can be closed at once when the server must end.
use super::{
    closing::{Closing, LINGER},
    streams::Streams,
};
use crate::serve::{door::certificates::Certificates, metrics::Metrics, settings::ConnectionSettings};
use metrics::Gauge;
use std::{
    collections::{BTreeMap, HashMap},
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
use tokio_util::{
    either::Either,
    sync::{CancellationToken, WaitForCancellationFutureOwned},
};
use tonic::transport::server::Connected;
use tracing::{debug, warn};

/// What a client of HTTP/2 must send first. Source: RFC 9113, section 3.4.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// Pause after the system refused to accept (no descriptors left); without it the loop would spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// What a connection meets first.
#[derive(Clone, Debug)]
pub struct Doorstep {
    /// Limits of connections.
    pub settings: ConnectionSettings,
    /// What the server shows of itself; none: connections are plain.
    pub certificates: Option<Arc<Certificates>>,
    /// How many are open.
    pub open: Gauge,
    /// Where those are counted that the server closes.
    pub metrics: Arc<Metrics>,
}

/// Accepts connections within the limits, for ever. Every connection ends when `cut` is cancelled.
pub fn accept(
    listener: TcpListener,
    doorstep: Doorstep,
    cut: CancellationToken,
) -> impl Stream<Item = Guarded> {
    let Doorstep { settings, certificates, open, metrics } = doorstep;
    let peers = Arc::new(Peers { present: Mutex::default(), settings, open, metrics });
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
            let Some(place) = Peers::enter(&peers, peer.ip(), cut.child_token()) else { continue };
            // Small frames are answers to a waiting reader; they must not wait for company.
            let _ = stream.set_nodelay(true);
            match &certificates {
                None => {
                    let timeout = peers.settings.handshake_timeout;
                    let guarded = Guarded::new(Wire::Left(stream), place, timeout);
                    if sender.send(guarded).await.is_err() {
                        return;
                    }
                }
                // Shaking hands takes as long as the peer likes, and nobody else may wait for it. Places bound these tasks.
                Some(certificates) => {
                    tokio::spawn(shake_hands(certificates.acceptor(), (stream, place), sender.clone()));
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
    sender: mpsc::Sender<Guarded>,
) {
    let (started, timeout) = (Instant::now(), place.peers.settings.handshake_timeout);
    let shaken = tokio::select! {
        shaken = tokio::time::timeout(timeout, acceptor.accept(stream)) => shaken,
        () = place.cut.cancelled() => return,
    };
    match shaken {
        Ok(Ok(stream)) => {
            let left = timeout.saturating_sub(started.elapsed());
            let guarded = Guarded::new(Wire::Right(Box::new(stream)), place, left);
            // The server may have ended meanwhile.
            let _ = sender.send(guarded).await;
        }
        Ok(Err(error)) => {
            place.peers.metrics.connection_refused("tls");
            debug!(%error, "TLS handshake failed");
        }
        Err(_) => place.peers.metrics.connection_refused("handshake"),
    }
}

/// Bytes of a connection, as they are or under TLS.
type Wire = Either<TcpStream, Box<TlsStream<TcpStream>>>;

#[derive(Debug)]
struct Peers {
    present: Mutex<Present>,
    settings: ConnectionSettings,
    open: Gauge,
    metrics: Arc<Metrics>,
}

#[derive(Debug, Default)]
struct Present {
    by_ip: HashMap<IpAddr, usize>,
    /// Those that have said nothing yet which begins HTTP, the oldest first.
    silent: BTreeMap<u64, (IpAddr, CancellationToken)>,
    n_came: u64,
}

impl Peers {
    /// A place for one more; where there is none, that of the oldest which is silent, among its peer's where those are too many. Until
    /// that one has ended, in a moment, there is one more than the limit.
    fn enter(peers: &Arc<Self>, ip: IpAddr, cut: CancellationToken) -> Option<Place> {
        let mut present = peers.lock();
        let total: usize = present.by_ip.values().sum();
        let of_peer = present.by_ip.get(&ip).copied().unwrap_or(0);
        let peer_is_full = of_peer >= peers.settings.per_peer_max;
        if peer_is_full || total >= peers.settings.total_max {
            let reason = if peer_is_full { "per_peer" } else { "total" };
            peers.metrics.connection_refused(reason);
            debug!(reason, "connection refused");
            let oldest = present.silent.iter().find(|(_, (other, _))| !peer_is_full || *other == ip);
            let number = *oldest?.0;
            let (_, silent) = present.silent.remove(&number)?;
            silent.cancel();
        }
        *present.by_ip.entry(ip).or_default() += 1;
        present.n_came += 1;
        let number = present.n_came;
        present.silent.insert(number, (ip, cut.clone()));
        peers.open.increment(1.0);
        Some(Place { peers: Arc::clone(peers), ip, number, cut })
    }

    fn lock(&self) -> MutexGuard<'_, Present> {
        // It is whole after every statement.
        self.present.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A connection's place among the counted ones.
#[derive(Debug)]
struct Place {
    peers: Arc<Peers>,
    ip: IpAddr,
    number: u64,
    /// Ends the connection, and tells that it has ended.
    cut: CancellationToken,
}

impl Place {
    /// Keeps it from those who come later.
    fn hold(&self) {
        self.peers.lock().silent.remove(&self.number);
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.hold();
        self.cut.cancel();
        let mut present = self.peers.lock();
        match present.by_ip.get_mut(&self.ip) {
            Some(n) if *n > 1 => *n -= 1,
            Some(_) | None => {
                present.by_ip.remove(&self.ip);
            }
        }
        self.peers.open.decrement(1.0);
    }
}

/// A connection that ends by itself when its client does not speak, or when the server must end.
#[derive(Debug)]
pub struct Guarded {
    wire: Wire,
    /// Until it has said what begins HTTP.
    handshake: Option<Handshake>,
    /// Its calls, and when to look whether there are any.
    streams: Streams,
    look: Pin<Box<Sleep>>,
    closing: Closing,
    cut: Pin<Box<WaitForCancellationFutureOwned>>,
    place: Place,
}

#[derive(Debug)]
struct Handshake {
    /// Bytes of the preface of HTTP/2 that have come; none where something else has.
    preface: Option<usize>,
    timeout: Pin<Box<Sleep>>,
}

impl Handshake {
    fn read(&mut self, bytes: &[u8]) {
        self.preface = self.preface.and_then(|n_bytes| {
            let left = &PREFACE[n_bytes..];
            let n_common = left.len().min(bytes.len());
            (left[..n_common] == bytes[..n_common]).then_some(n_bytes + n_common)
        });
    }

    /// Whether the preface is here, or in place of it the head of a request.
    fn is_over(&self, streams: &Streams) -> bool {
        self.preface.map_or_else(|| streams.has_called(), |n_bytes| n_bytes == PREFACE.len())
    }
}

impl Guarded {
    fn new(wire: Wire, place: Place, timeout: Duration) -> Self {
        let timeout = Box::pin(tokio::time::sleep(timeout));
        let handshake = Some(Handshake { preface: Some(0), timeout });
        let look = Box::pin(tokio::time::sleep(place.peers.settings.idle_timeout));
        let cut = Box::pin(place.cut.clone().cancelled_owned());
        Self { wire, handshake, streams: Streams::new(), look, closing: Closing::default(), cut, place }
    }

    /// What ends this connection, and is cancelled when it has ended.
    pub(super) fn cut(&self) -> CancellationToken {
        self.place.cut.clone()
    }

    /// An error if the connection has to end now.
    fn ended(&mut self, context: &mut Context<'_>) -> io::Result<()> {
        if self.cut.as_mut().poll(context).is_ready() {
            return Err(io::Error::new(io::ErrorKind::ConnectionAborted, "connection is cut"));
        }
        Ok(())
    }

    /// An error if what begins HTTP should be here by now. Asked when nothing more is there to be read.
    fn overdue(&mut self, context: &mut Context<'_>) -> io::Result<()> {
        let Some(handshake) = &mut self.handshake else { return Ok(()) };
        if handshake.is_over(&self.streams) {
            self.handshake = None;
            self.place.hold();
        } else if handshake.timeout.as_mut().poll(context).is_ready() {
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
        let read = Pin::new(&mut self.wire).poll_read(context, buffer);
        if read.is_pending() {
            self.overdue(context)?;
        }
        ready!(read)?;
        if let Some(handshake) = &mut self.handshake {
            handshake.read(&buffer.filled()[before..]);
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
        Pin::new(&mut self.wire).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.ended(context)?;
        Pin::new(&mut self.wire).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.ended(context)?;
        let Self { wire, closing, .. } = &mut *self;
        closing.poll(wire, LINGER, context)
    }
}
