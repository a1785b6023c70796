//! Messages, services and clients generated from `proto/newshound`.
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

/// The packages as they stand in each other: what is generated for one names the other by this path.
mod newshound {
    pub mod v1 {
        tonic::include_proto!("newshound.v1");
    }

    pub mod admin {
        pub mod v1 {
            tonic::include_proto!("newshound.admin.v1");
        }
    }
}

pub use newshound::{admin::v1 as admin, v1::*};

/// Every message and service of `newshound.v1`, encoded, for reflection.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/newshound_descriptors.bin"));

/// Every message and service of `newshound.admin.v1`, which the public port says nothing of.
pub const ADMIN_DESCRIPTORS: &[u8] =
    include_bytes!(concat!(env!("OUT_DIR"), "/newshound_admin_descriptors.bin"));
