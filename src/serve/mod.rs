//! Signals to queries, online: one request at a time through cache, prompt, engine, parser and reward head.
pub mod rpc;
