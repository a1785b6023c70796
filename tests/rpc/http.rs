//! HTTP/1.1 by hand, so that tests see every byte of it.
use super::server::within;
use serde_json::Value;
use std::net::SocketAddr;
use tokio::{
    io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader},
    net::TcpStream,
};

pub trait Wire: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Wire for T {}

/// An answer whose head has come.
pub struct Answer {
    pub status: u16,
    headers: Vec<(String, String)>,
    wire: BufReader<Box<dyn Wire>>,
    /// Bytes of the body that came and were not taken.
    came: Vec<u8>,
}

/// One request on a connection of its own, which the server closes after its answer.
pub fn text(verb: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Vec<u8> {
    let mut head = format!("{verb} {path} HTTP/1.1\r\nhost: test\r\nconnection: close\r\n");
    for (name, value) in headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    head.push_str(&format!("content-length: {}\r\n\r\n", body.len()));
    [head.as_bytes(), body].concat()
}

/// Sends a request, and reads the head of the answer.
pub async fn exchange(mut wire: impl Wire + 'static, request: &[u8]) -> Answer {
    wire.write_all(request).await.unwrap();
    let mut wire: BufReader<Box<dyn Wire>> = BufReader::new(Box::new(wire));
    let mut lines = Vec::new();
    loop {
        let mut line = String::new();
        within(wire.read_line(&mut line)).await.unwrap();
        match line.trim_end() {
            "" => break,
            line => lines.push(line.to_owned()),
        }
    }
    let status = lines[0].split(' ').nth(1).unwrap().parse().unwrap();
    let header =
        |line: &String| line.split_once(": ").map(|(name, value)| (name.to_owned(), value.to_owned()));
    let headers = lines[1..].iter().filter_map(header).collect();
    Answer { status, headers, wire, came: Vec::new() }
}

pub async fn send(addr: SocketAddr, request: &[u8]) -> Answer {
    exchange(TcpStream::connect(addr).await.unwrap(), request).await
}

/// Posts JSON, with further headers.
pub async fn post(addr: SocketAddr, path: &str, headers: &[(&str, &str)], json: &str) -> Answer {
    let headers = [headers, &[("content-type", "application/json")]].concat();
    send(addr, &text("POST", path, &headers, json.as_bytes())).await
}

impl Answer {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(found, _)| found == name).map(|(_, value)| value.as_str())
    }

    /// Takes what comes next of the body; false at its end.
    async fn pull(&mut self) -> bool {
        if self.header("transfer-encoding") != Some("chunked") {
            return within(self.wire.read_buf(&mut self.came)).await.unwrap() > 0;
        }
        let mut line = String::new();
        within(self.wire.read_line(&mut line)).await.unwrap();
        let n_bytes = usize::from_str_radix(line.trim(), 16).unwrap();
        let mut chunk = vec![0; n_bytes + 2];
        within(self.wire.read_exact(&mut chunk)).await.unwrap();
        self.came.extend_from_slice(&chunk[..n_bytes]);
        n_bytes > 0
    }

    /// The next line of the body, as soon as it is there; none after the last one.
    pub async fn line(&mut self) -> Option<Value> {
        loop {
            if let Some(end) = self.came.iter().position(|&byte| byte == b'\n') {
                let line: Vec<u8> = self.came.drain(..=end).collect();
                return Some(serde_json::from_slice(&line).unwrap());
            }
            if !self.pull().await {
                assert!(self.came.is_empty(), "a line without an end");
                return None;
            }
        }
    }

    pub async fn body(mut self) -> Vec<u8> {
        while self.pull().await {}
        self.came
    }

    pub async fn json(self) -> Value {
        serde_json::from_slice(&self.body().await).unwrap()
    }
}
