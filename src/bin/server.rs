//! The server: arguments, settings, telemetry, one library call.
fn main() {}
