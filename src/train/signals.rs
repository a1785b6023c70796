//! The end by signal.
use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::Notify,
};

/// How a process ends by SIGTERM or SIGINT: at once, and where it serves, when it has answered what it was asked.
#[derive(Debug, Default)]
pub struct End {
    is_serving: AtomicBool,
    told: Notify,
}

impl End {
    /// Listens from now on, inside a runtime, for the signal that ends the process at once, which for a service is the second; gives the exit
    /// code by which shells name it.
    ///
    /// # Errors
    /// If signals cannot be listened to.
    pub fn at_once(self: Arc<Self>) -> io::Result<impl Future<Output = u8> + Send> {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        Ok(async move {
            loop {
                let code = tokio::select! {
                    _ = terminate.recv() => 128 + 15,
                    _ = interrupt.recv() => 128 + 2,
                };
                if !self.is_serving.swap(false, Ordering::Relaxed) {
                    return code;
                }
                self.told.notify_one();
            }
        })
    }

    /// Waits, while the process serves, for its first signal.
    pub async fn of_service(self: Arc<Self>) {
        self.is_serving.store(true, Ordering::Relaxed);
        self.told.notified().await;
    }
}
