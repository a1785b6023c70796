//! How much memory a process has, looked at again and again.
use super::super::CommandError;
use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::task::AbortHandle;

/// How often it is looked at: many times while a model is loaded.
const LOOK: Duration = Duration::from_millis(50);

/// A process that is watched until this is dropped.
#[derive(Debug)]
pub struct ProcessMemory {
    largest: Arc<AtomicU64>,
    watching: AbortHandle,
}

impl ProcessMemory {
    /// Watches the process of an id, which is one of Linux.
    ///
    /// # Errors
    /// If the system does not say how much memory it has.
    pub fn start(pid: u32) -> Result<Self, CommandError> {
        let path = PathBuf::from(format!("/proc/{pid}/status"));
        let largest = Arc::new(AtomicU64::new(resident(&path)?));
        let of_task = Arc::clone(&largest);
        let watching = tokio::spawn(async move {
            // A process that has ended has no memory.
            while let Ok(bytes) = resident(&path) {
                of_task.fetch_max(bytes, Ordering::Relaxed);
                tokio::time::sleep(LOOK).await;
            }
        });
        Ok(Self { largest, watching: watching.abort_handle() })
    }

    /// The most that it had since it was asked last, in bytes.
    pub fn largest(&self) -> u64 {
        self.largest.swap(0, Ordering::Relaxed)
    }
}

impl Drop for ProcessMemory {
    fn drop(&mut self) {
        self.watching.abort();
    }
}

/// Source: proc(5), `VmRSS`.
fn resident(path: &PathBuf) -> Result<u64, CommandError> {
    let text =
        std::fs::read_to_string(path).map_err(|source| CommandError::File { path: path.clone(), source })?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.trim().split(' ').next()?.parse::<u64>().ok());
    kib.map(|kib| kib * 1024).ok_or_else(|| {
        let words = format!("{} does not say VmRSS", path.display());
        CommandError::Usage(words)
    })
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_memory_of_this_process_is_seen_and_that_of_none_is_not() {
        let memory = ProcessMemory::start(std::process::id()).unwrap();
        assert!(memory.largest() > 1 << 20);
        assert!(ProcessMemory::start(u32::MAX).is_err());
    }
}
