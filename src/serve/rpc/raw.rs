//! A client that sends bytes and takes bytes, for measurements: it costs little beside the server that it measures, and keeps no time of its
//! own, so that it sees an answer that comes after its deadline, where the library's client would have gone.
use super::{
    client::{self, Ask, ClientError},
    proto,
};
use crate::client::refusal::Refusal;
use hyper::{
    body::Incoming,
    client::conn::http2::{Builder, SendRequest},
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost::{
    Message,
    bytes::{Buf, BufMut, Bytes},
};
use std::{
    future::Future,
    io,
    net::SocketAddr,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};
use tokio::net::TcpStream;
use tonic::{
    Request, Status,
    body::Body,
    client::Grpc,
    codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder},
    codegen::http::{self, Uri, uri::PathAndQuery},
};
use tower::Service;

/// Asks for queries.
pub const GENERATE: &str = "/newshound.v1.QueryGenerationService/GenerateQueries";

/// Bytes as they are, in both directions.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Raw;

impl Codec for Raw {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        *self
    }

    fn decoder(&mut self) -> Self {
        *self
    }
}

impl Encoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, message: Bytes, to: &mut EncodeBuf<'_>) -> Result<(), Status> {
        to.put(message);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(from.copy_to_bytes(from.remaining())))
    }
}

/// A connection. Clones share it.
#[derive(Clone, Debug)]
pub struct RawClient {
    grpc: Grpc<Connection>,
}

impl RawClient {
    /// Connects without TLS.
    ///
    /// # Errors
    /// If nobody answers there.
    pub async fn connect(addr: SocketAddr) -> Result<Self, ClientError> {
        let not_reached = |source| ClientError::NotReached { addr, source };
        let stream = TcpStream::connect(addr).await.map_err(not_reached)?;
        stream.set_nodelay(true).map_err(not_reached)?;
        let begun = Builder::new(TokioExecutor::new()).handshake(TokioIo::new(stream)).await;
        let (sender, driver) = begun.map_err(|error| not_reached(io::Error::other(error)))?;
        // It ends with its last clone, or with the server; calls hear of it.
        tokio::spawn(driver);
        let origin = Uri::builder().scheme("http").authority(addr.to_string()).path_and_query("/").build();
        let origin = origin.map_err(|error| not_reached(io::Error::other(error)))?;
        Ok(Self { grpc: Grpc::with_origin(Connection(sender), origin) })
    }

    /// Calls a method. `timeout`: what the server is told of the time that there is.
    ///
    /// # Errors
    /// Whatever else than an answer comes.
    pub async fn call(
        &self,
        method: &'static str,
        message: Bytes,
        timeout: Option<Duration>,
    ) -> Result<Bytes, Refusal> {
        let mut grpc = self.grpc.clone();
        let ready = grpc.ready().await.map_err(|error| Status::unavailable(error.to_string()));
        ready.map_err(|status| Refusal::of(&status))?;
        let mut request = Request::new(message);
        timeout.into_iter().for_each(|timeout| request.set_timeout(timeout));
        let answered = grpc.unary(request, PathAndQuery::from_static(method), Raw).await;
        answered.map(tonic::Response::into_inner).map_err(|status| Refusal::of(&status))
    }
}

/// What is sent to ask for queries.
pub fn message(ask: &Ask) -> Bytes {
    client::message(ask).encode_to_vec().into()
}

/// How an answer was found, as `client::Reply` says it; none where it is no answer.
pub fn cache_of(answer: Bytes) -> Option<&'static str> {
    proto::GenerateQueriesResponse::decode(answer).ok().map(|response| client::reply(response).cache)
}

/// Whether bytes are a request of a reader who has a key.
#[cfg(test)]
pub(crate) fn has_reader(bytes: &[u8]) -> bool {
    let request = proto::GenerateQueriesRequest::decode(bytes);
    request.is_ok_and(|request| request.user.is_some_and(|user| !user.key.is_empty()))
}

/// A connection of the HTTP library, without what makes a client comfortable.
#[derive(Clone, Debug)]
struct Connection(SendRequest<Body>);

impl Service<http::Request<Body>> for Connection {
    type Response = http::Response<Incoming>;
    type Error = hyper::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, hyper::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), hyper::Error>> {
        self.0.poll_ready(context)
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        Box::pin(self.0.send_request(request))
    }
}
