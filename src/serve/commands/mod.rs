//! What the server's commands do; `bin/server.rs` only reads the command line. Everything is written to a writer that is passed in.
pub mod ask;
pub mod bench;
pub mod cost;
pub mod engine;
pub mod experiment;
pub mod index;
pub mod model;
mod plot;
pub mod probe;
pub mod reach;
pub mod serve;
pub mod signals;
pub mod swaps;
pub mod token;
pub mod tour;

use crate::{
    bundle::load::BundleError,
    model::{device::DeviceError, weights::ModelError},
    news::{index::IndexError, nearest::VectorsError},
    serve::{RunError, demo::DemoError, rpc::client::ClientError},
    settings::Mistakes,
};
use std::{io, path::PathBuf};
use thiserror::Error;

/// Settings that the environment holds, such as `NEWSHOUND__ENGINE__ROWS_MAX`. Two underscores, because Kubernetes gives every pod
/// variables such as `NEWSHOUND_SERVICE_HOST` and `NEWSHOUND_PORT` for a service of that name, and none of them has two.
pub const ENVIRONMENT_PREFIX: &str = "NEWSHOUND__";
/// What the help says of variables.
pub const ENVIRONMENT_HELP: &str = "\
Environment, for the demo, for `serve`, and for `probe` without --addr:
  NEWSHOUND__GRPC_ADDR, NEWSHOUND__ENGINE__ROWS_MAX, ...
          Any setting of deploy/server.toml: NEWSHOUND__KEY or NEWSHOUND__SECTION__KEY. It wins over the file.

Environment, for every command:
  RAYON_NUM_THREADS
          Threads that compute one matrix product. Default: the cores that this process may use.
  MIMALLOC_PURGE_DELAY
          Milliseconds for which free memory is kept before the system gets it back; -1: for good. Default: 400.";

/// Why a command failed.
#[derive(Debug, Error)]
pub enum CommandError {
    /// The settings have mistakes.
    #[error(transparent)]
    Settings(#[from] Mistakes),
    /// A file cannot be read.
    #[error("{} cannot be read", .path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What the system says.
        #[source]
        source: io::Error,
    },
    /// The bundle is refused.
    #[error("bundle could not be loaded")]
    Bundle(#[from] BundleError),
    /// There is no such device.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// A model folder is refused.
    #[error("model could not be loaded")]
    Model(#[from] ModelError),
    /// The demo is absent or refused.
    #[error(transparent)]
    Demo(#[from] DemoError),
    /// The demo's catalogue cannot be searched.
    #[error(transparent)]
    Index(#[from] IndexError),
    /// Vectors cannot be searched in a measurement.
    #[error(transparent)]
    Vectors(#[from] VectorsError),
    /// The server did not start, or did not end well.
    #[error(transparent)]
    Run(#[from] RunError),
    /// The server that was asked refused.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// The server that was asked does not serve.
    #[error("server at {addr} does not serve")]
    NotServing {
        /// Its address.
        addr: String,
    },
    /// The server that was asked says nothing.
    #[error("server at {addr} did not answer within {timeout_ms} ms")]
    Silent {
        /// Its address.
        addr: String,
        /// How long it was waited for.
        timeout_ms: u64,
    },
    /// No request of a load was answered.
    #[error("none of {n_requests} requests was answered")]
    NoAnswer {
        /// How many were sent.
        n_requests: u64,
    },
    /// What was asked makes no sense.
    #[error("{0}")]
    Usage(String),
    /// The model failed in a measurement.
    #[error("model failed")]
    Decode(#[from] crate::decode::batch::DecodeError),
    /// The output cannot be written.
    #[error("output cannot be written")]
    Output(#[from] io::Error),
    /// Signals of the system cannot be listened to.
    #[error("signals cannot be listened to")]
    Signals(#[source] io::Error),
    /// A second signal came before the server had drained.
    #[error("ended at once by a second signal; what was under way is cut")]
    Insisted,
    /// A task of the command panicked.
    #[error("a task panicked")]
    Panicked,
}
