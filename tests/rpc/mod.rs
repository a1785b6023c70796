//! Wire behaviour, one file each: a real server on a port of its own, with a script in place of the network.
mod cache;
mod cancel;
mod deadline;
mod drain;
mod faults;
mod health;
mod logs;
mod model;
mod queue;
mod rerank;
mod scrape;
mod script;
mod server;
mod single_flight;
mod stream;
mod unary;
mod validation;
