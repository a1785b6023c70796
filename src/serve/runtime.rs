//! The threads that speak with clients.
use crate::{model::workers::interrupt, serve::metrics::Metrics};
use std::{
    io,
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::runtime::{Builder, Runtime};

/// How often something is due: a stall of a second is seen ten times, and it costs nothing.
const LOOK_INTERVAL: Duration = Duration::from_millis(100);

/// A runtime whose threads do not interrupt the model's. They have little to do each time, and often; and a thread of the model that stands still
/// holds up the others, which wait for its part of a product.
///
/// # Errors
/// If the system has no more threads.
pub fn runtime() -> io::Result<Runtime> {
    Builder::new_multi_thread().enable_all().on_thread_start(|| interrupt(false)).build()
}

/// Records how late these threads come to what is due, which they do where they have no processor, or all are held up. What was due meanwhile counts
/// too. Never ends.
pub async fn watch_lag(metrics: Arc<Metrics>) {
    let mut due = Instant::now();
    loop {
        due += LOOK_INTERVAL;
        tokio::time::sleep_until(due.into()).await;
        metrics.runtime_lag(due.elapsed());
    }
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

    /// A thread that is held up is late.
    #[tokio::test]
    async fn a_task_that_holds_its_thread_up_is_seen_as_lag() {
        const HELD: Duration = Duration::from_millis(300);
        let metrics = Arc::new(Metrics::new().unwrap());
        let watching = tokio::spawn(watch_lag(Arc::clone(&metrics)));
        tokio::task::yield_now().await;
        std::thread::sleep(LOOK_INTERVAL + HELD);
        tokio::time::sleep(LOOK_INTERVAL).await;
        watching.abort();
        let text = metrics.render();
        let sum = text.lines().find_map(|line| line.strip_prefix("newshound_runtime_lag_seconds_sum "));
        // 300 ms late, 200 ms and 100 ms.
        assert!(sum.unwrap().parse::<f64>().unwrap() >= 2.0 * HELD.as_secs_f64(), "{sum:?}");
    }
}
