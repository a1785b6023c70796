//! The wire: the only room that names protobuf messages and gRPC statuses.
pub mod admin;
pub mod admin_client;
pub mod auth;
mod call;
pub mod client;
pub mod codec;
pub mod connections;
pub mod decode;
pub mod encode;
pub mod feedback;
mod json;
pub mod proto;
pub mod reach;
pub mod reader;
pub mod server;
pub mod service;
pub mod status;
