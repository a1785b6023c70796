//! The barest service that the library has, for measurements: every message is answered with the same bytes.
use super::{
    raw::Raw,
    server::{RpcError, builder},
};
use prost::bytes::Bytes;
use std::{
    convert::Infallible,
    future::{Future, Ready, ready},
    pin::Pin,
    task::{Context, Poll},
};
use tokio::net::TcpListener;
use tonic::{
    Request, Response, Status,
    body::Body,
    codegen::http,
    server::{Grpc, NamedService, UnaryService},
    transport::server::TcpIncoming,
};
use tower::Service;

/// Its only method.
pub const ECHO: &str = "/newshound.bench.Echo/Echo";

/// Serves on connections like those of the real service, until `stop` resolves.
///
/// # Errors
/// If the server fails.
pub async fn serve(
    listener: TcpListener,
    answer: Bytes,
    stop: impl Future<Output = ()>,
) -> Result<(), RpcError> {
    // As the real service has it: without it, answers wait for the acknowledgement of what went before.
    let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
    let serving = builder().add_service(Echo { answer });
    Ok(serving.serve_with_incoming_shutdown(incoming, stop).await?)
}

#[derive(Clone, Debug)]
struct Echo {
    answer: Bytes,
}

impl UnaryService<Bytes> for Echo {
    type Response = Bytes;
    type Future = Ready<Result<Response<Bytes>, Status>>;

    fn call(&mut self, _: Request<Bytes>) -> Self::Future {
        ready(Ok(Response::new(self.answer.clone())))
    }
}

impl Service<http::Request<Body>> for Echo {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let echo = self.clone();
        Box::pin(async move { Ok(Grpc::new(Raw).unary(echo, request).await) })
    }
}

impl NamedService for Echo {
    const NAME: &'static str = "newshound.bench.Echo";
}
