//! Messages and clients generated from `proto/newshound`.
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
pub(crate) mod newshound {
    pub mod v1 {
        include!(concat!(env!("OUT_DIR"), "/clients/newshound.v1.rs"));
    }

    #[cfg(feature = "serve")]
    pub mod admin {
        pub mod v1 {
            include!(concat!(env!("OUT_DIR"), "/clients/newshound.admin.v1.rs"));
        }
    }
}

pub use newshound::v1::*;
