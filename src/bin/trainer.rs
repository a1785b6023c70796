//! The trainer: arguments, settings, telemetry, one library call.
fn main() {}
