//! The threads that speak with clients.
use crate::model::workers::interrupt;
use std::io;
use tokio::runtime::{Builder, Runtime};

/// A runtime whose threads do not interrupt the model's. They have little to do each time, and often; and a thread of the model that stands still
/// holds up the others, which wait for its part of a product.
///
/// # Errors
/// If the system has no more threads.
pub fn runtime() -> io::Result<Runtime> {
    Builder::new_multi_thread().enable_all().on_thread_start(|| interrupt(false)).build()
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;
    use crate::model::workers::interrupts;

    #[test]
    fn threads_that_speak_with_clients_interrupt_nobody() {
        let runtime = runtime().unwrap();
        let speaking = async { tokio::spawn(async { interrupts() }).await.unwrap() };
        assert!(!runtime.block_on(speaking));
        let blocking = async { tokio::task::spawn_blocking(interrupts).await.unwrap() };
        assert!(!runtime.block_on(blocking));
    }
}
