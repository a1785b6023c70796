//! The server's binary as its users start it: a process with arguments, an environment, two streams and signals.
mod calls;
mod end;
mod experiments;
mod process;
mod settings;
