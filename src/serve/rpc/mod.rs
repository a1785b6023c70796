//! The wire: the only room that names protobuf messages and gRPC statuses.
pub mod proto;
