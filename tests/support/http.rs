//! A service on a free port of this machine, for tests of those who call one.
use axum::{
    Router,
    body::Bytes,
    http::{StatusCode, Uri},
};
use serde_json::Value;
use std::{net::SocketAddr, sync::Arc};
use tokio::{net::TcpListener, runtime::Runtime};

/// Answers until it is dropped.
pub struct Service {
    pub addr: SocketAddr,
    runtime: Option<Runtime>,
}

impl Service {
    /// `answer` gets the path and the JSON of each call (null of none), and says status and JSON.
    pub fn start(answer: impl Fn(&str, Value) -> (u16, Value) + Send + Sync + 'static) -> Self {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
        let addr = listener.local_addr().unwrap();
        let answer = Arc::new(answer);
        let app = Router::new().fallback(move |uri: Uri, body: Bytes| {
            let answer = answer.clone();
            async move {
                let json = serde_json::from_slice(&body).unwrap_or(Value::Null);
                // It may take its time, and others are answered meanwhile.
                let answered = tokio::task::spawn_blocking(move || answer(uri.path(), json)).await;
                let (status, json) = answered.unwrap();
                (StatusCode::from_u16(status).unwrap(), json.to_string())
            }
        });
        runtime.spawn(async move { axum::serve(listener, app).await });
        Self { addr, runtime: Some(runtime) }
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.addr)
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        // Calls that are still answered are of nobody's interest.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}
