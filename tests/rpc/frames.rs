//! HTTP/2 by hand, so that tests may send what no client does. Source: RFC 9113.
use super::server::{Server, within};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

/// What a client sends first, and settings that change nothing.
pub const BEGIN: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";

/// Of what a client sends first, before any frame.
const PREFACE_BYTES: usize = 24;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const SETTINGS: u8 = 4;
const RST_STREAM: u8 = 3;
const GOAWAY: u8 = 7;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
/// The reason by which a client is told that it asks for too much.
pub const ENHANCE_YOUR_CALM: u32 = 11;
const CANCEL: u32 = 8;

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// A field of a head: literal, without indexing, and not compressed. Source: RFC 7541, section 6.2.2.
pub fn field(name: &str, value: &str) -> Vec<u8> {
    [&[0], &*text(name), &*text(value)].concat()
}

/// A length with a prefix of seven bits, and as many bytes. Source: RFC 7541, sections 5.1 and 5.2.
fn text(text: &str) -> Vec<u8> {
    let mut coded = Vec::new();
    match u8::try_from(text.len()).ok().filter(|&short| short < 127) {
        Some(short) => coded.push(short),
        None => {
            let mut left = text.len() - 127;
            coded.push(127);
            while left >= 128 {
                coded.push(u8::try_from(left % 128).unwrap() | 128);
                left /= 128;
            }
            coded.push(u8::try_from(left).unwrap());
        }
    }
    coded.extend_from_slice(text.as_bytes());
    coded
}

/// The head of a health check, with these fields beside those of every request.
pub fn head(stream: u32, more: &[u8]) -> Vec<u8> {
    let mut fields: Vec<u8> = [
        (":method", "POST"),
        (":scheme", "http"),
        (":path", "/grpc.health.v1.Health/Check"),
        (":authority", "test"),
        ("content-type", "application/grpc"),
        ("te", "trailers"),
    ]
    .iter()
    .flat_map(|(name, value)| field(name, value))
    .collect();
    fields.extend_from_slice(more);
    frame(HEADERS, END_STREAM | END_HEADERS, stream, &fields)
}

/// A head of so many bytes and more, in frames of which none says that it is the last.
pub fn endless(stream: u32, n_bytes: usize) -> impl Iterator<Item = Vec<u8>> {
    let part = field("long", &"a".repeat(1 << 13));
    let kinds = std::iter::once(HEADERS).chain(std::iter::repeat(CONTINUATION));
    kinds.take(n_bytes / part.len() + 1).map(move |kind| frame(kind, 0, stream, &part))
}

/// What a server says first, and how a proxy ends an answer whose server it lost: its head, the first bytes of its message, and no status.
pub fn cut_answer(stream: u32, message: &[u8]) -> Vec<u8> {
    let head = [field(":status", "200"), field("content-type", "application/grpc")].concat();
    [
        frame(SETTINGS, 0, 0, &[]),
        frame(HEADERS, END_HEADERS, stream, &head),
        frame(DATA, END_STREAM, stream, message),
    ]
    .concat()
}

/// Takes a request back.
pub fn reset(stream: u32) -> Vec<u8> {
    frame(RST_STREAM, 0, stream, &CANCEL.to_be_bytes())
}

/// A connection on which nothing was said.
pub async fn open(server: &Server) -> TcpStream {
    within(TcpStream::connect(server.grpc)).await.unwrap()
}

/// A frame that has come.
#[derive(Debug)]
pub struct Frame {
    kind: u8,
    pub payload: Vec<u8>,
}

impl Frame {
    /// Whether an answer begins with it.
    pub fn is_head(&self) -> bool {
        self.kind == HEADERS
    }

    /// Why the server wants the client to go, if it does.
    pub fn reason(&self) -> Option<u32> {
        (self.kind == GOAWAY).then(|| u32::from_be_bytes(self.payload[4..8].try_into().unwrap()))
    }

    /// The last stream that the server says it has begun, if it says so.
    pub fn last_stream(&self) -> Option<u32> {
        (self.kind == GOAWAY).then(|| u32::from_be_bytes(self.payload[..4].try_into().unwrap()))
    }
}

/// The next frame; none where the connection has ended, by whatever way.
pub async fn next(wire: &mut (impl AsyncReadExt + Unpin)) -> Option<Frame> {
    let mut head = [0; 9];
    within(wire.read_exact(&mut head)).await.ok()?;
    let [a, b, c, kind, ..] = head;
    let mut payload = vec![0; usize::try_from(u32::from_be_bytes([0, a, b, c])).unwrap()];
    within(wire.read_exact(&mut payload)).await.ok()?;
    Some(Frame { kind, payload })
}

/// Reads what a client says until it has called.
pub async fn call(wire: &mut (impl AsyncReadExt + Unpin)) {
    let (preface, _) = BEGIN.split_at(PREFACE_BYTES);
    let mut said = vec![0; preface.len()];
    within(wire.read_exact(&mut said)).await.unwrap();
    assert_eq!(said, preface);
    while !next(wire).await.unwrap().is_head() {}
}

/// All that comes until the connection ends, and why the server says that it does.
pub async fn rest(wire: &mut (impl AsyncReadExt + Unpin)) -> (Vec<Frame>, Option<u32>) {
    let (mut frames, mut reason) = (Vec::new(), None);
    while let Some(frame) = next(wire).await {
        reason = frame.reason().or(reason);
        frames.push(frame);
    }
    (frames, reason)
}

/// Writes as much as the server takes: it may have closed before all of it was written.
pub async fn write(wire: &mut (impl AsyncWriteExt + Unpin), bytes: &[u8]) {
    let _ = within(wire.write_all(bytes)).await;
}
