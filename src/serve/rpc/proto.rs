//! Services generated from `proto/newshound`, beside the messages and clients of `client::proto`.
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

pub use crate::client::proto::newshound::v1::*;

include!(concat!(env!("OUT_DIR"), "/services/newshound.v1.rs"));

/// What the admin port speaks.
pub mod admin {
    pub use crate::client::proto::newshound::admin::v1::*;

    include!(concat!(env!("OUT_DIR"), "/services/newshound.admin.v1.rs"));
}

/// Every message and service of `newshound.v1`, encoded, for reflection.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/newshound_descriptors.bin"));

/// Every message and service of `newshound.admin.v1`, which the public port says nothing of.
pub const ADMIN_DESCRIPTORS: &[u8] =
    include_bytes!(concat!(env!("OUT_DIR"), "/newshound_admin_descriptors.bin"));
