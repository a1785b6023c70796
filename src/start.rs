//! How both programs start: with the variables that libraries read from the environment alone.
use std::{ffi::OsString, num::NonZero, process::Command};

/// Threads of one matrix product.
const PRODUCT_THREADS: &str = "RAYON_NUM_THREADS";
/// Threads of candle's pool for element-wise operations.
pub const ELEMENTWISE_THREADS: &str = "CANDLE_NUM_THREADS";

/// A variable for `with_environment`: as many threads for a matrix product as there are cores that this process may use.
///
/// Where it is absent, candle asks the system at every single product, which on Linux means to read /proc/cpuinfo: 36 us with 2
/// cores, more with more of them. Without it a generation of the demo took 1.1 to 1.8 times as long.
pub fn product_threads() -> (&'static str, String) {
    let usable = std::thread::available_parallelism().map_or(1, NonZero::get);
    (PRODUCT_THREADS, candle_core::utils::get_num_threads().min(usable).to_string())
}

/// A variable for `with_environment`: for how many milliseconds free memory is kept, so that one operation's serves the next without
/// being zeroed by the system again; -1: for good.
#[must_use]
pub fn kept_memory(milliseconds: i32) -> (&'static str, String) {
    ("MIMALLOC_PURGE_DELAY", milliseconds.to_string())
}

/// Starts this program again, in the same process, with those of `defaults` that are not set; returns if all are. `environment`
/// and `arguments` are the program's own, its name among the arguments.
///
/// Where that is impossible it returns too, and the program is only slower.
pub fn with_environment(
    environment: impl Iterator<Item = (OsString, OsString)>,
    arguments: impl Iterator<Item = OsString>,
    defaults: &[(&str, String)],
) {
    let set: Vec<OsString> = environment.map(|(name, _)| name).collect();
    let missing: Vec<_> = defaults.iter().filter(|(name, _)| set.iter().all(|set| set != name)).collect();
    if let (false, Ok(program)) = (missing.is_empty(), std::env::current_exe()) {
        let mut again = Command::new(program);
        again.args(arguments.skip(1)).envs(missing.into_iter().map(|(name, value)| (name, value)));
        replace_process(again);
    }
}

#[cfg(unix)]
fn replace_process(mut program: Command) {
    use std::os::unix::process::CommandExt;
    // It comes back only with an error.
    let _ = program.exec();
}

#[cfg(not(unix))]
fn replace_process(_: Command) {}
