//! Messages, service and client generated from `proto/newshound/v1`.
#![allow(
    missing_docs,
    unreachable_pub,
    clippy::all,
    clippy::allow_attributes_without_reason,
    clippy::missing_errors_doc,
    clippy::wildcard_enum_match_arm,
    clippy::too_many_lines,
    reason = "generated; the comments of the proto files are its documentation"
)]

tonic::include_proto!("newshound.v1");

/// Every message and service of the package, encoded, for reflection.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/newshound_descriptors.bin"));
