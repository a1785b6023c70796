//! Stands between a server and Redis, and does to connections what networks do.
use std::{sync::Arc, time::Duration};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::watch,
};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    Pass,
    /// Everything arrives so much later.
    Slow(Duration),
    /// Nothing arrives, and nobody is told.
    Swallow,
    /// Open connections are reset, and new ones too.
    Reset,
}

pub struct Proxy {
    pub port: u16,
    mode: Arc<watch::Sender<Mode>>,
}

impl Proxy {
    pub async fn start(to: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let mode = Arc::new(watch::Sender::new(Mode::Pass));
        let of_task = Arc::clone(&mode);
        tokio::spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                tokio::spawn(connection(near, to, of_task.subscribe()));
            }
        });
        Self { port, mode }
    }

    pub fn set(&self, mode: Mode) {
        self.mode.send_replace(mode);
    }
}

async fn connection(near: TcpStream, to: u16, mut mode: watch::Receiver<Mode>) {
    // Whatever is closed while this is so is reset.
    near.set_zero_linger().unwrap();
    if *mode.borrow() == Mode::Reset {
        return;
    }
    let Ok(far) = TcpStream::connect(("127.0.0.1", to)).await else { return };
    let ((near_read, near_write), (far_read, far_write)) = (near.into_split(), far.into_split());
    tokio::select! {
        () = carry(near_read, far_write, mode.clone()) => {}
        () = carry(far_read, near_write, mode.clone()) => {}
        _ = mode.wait_for(|mode| *mode == Mode::Reset) => {}
    }
}

async fn carry(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, mode: watch::Receiver<Mode>) {
    let mut bytes = vec![0; 1 << 16];
    while let Ok(n_bytes @ 1..) = from.read(&mut bytes).await {
        let now = *mode.borrow();
        match now {
            Mode::Swallow => continue,
            Mode::Slow(time) => tokio::time::sleep(time).await,
            Mode::Pass | Mode::Reset => {}
        }
        if to.write_all(&bytes[..n_bytes]).await.is_err() {
            return;
        }
    }
}
