//! The binaries as their users start them: processes with arguments, an environment, two streams and signals.
mod bench;
mod calls;
mod end;
mod experiments;
mod killed_stages;
mod kills;
mod models;
mod process;
mod settings;
