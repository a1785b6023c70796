//! What is told of a model.
use crate::bundle::manifest::{BundleId, Manifest};
use std::{path::PathBuf, sync::Arc, time::Duration};

/// Where a model is read from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The demo in the program.
    BuiltIn,
    /// A bundle's folder or archive.
    At(PathBuf),
}

/// What answers and operators are told of a model.
#[derive(Clone, Debug)]
pub struct ModelFacts {
    /// Its number among the models that this server has loaded, from 1.
    pub generation: u64,
    /// The name under which it answers, or is to; empty for the default one.
    pub resident: String,
    /// Id of the bundle.
    pub bundle: BundleId,
    /// What the bundle says of itself.
    pub manifest: Manifest,
    /// Where it was read from.
    pub origin: Origin,
    /// How long loading took; absent for the one that the server started with.
    pub load_time: Option<Duration>,
    /// Whether lists are scored.
    pub has_reward_head: bool,
    /// Whether the head foresees, so that weak lists can be stopped early.
    pub foresees: bool,
    /// Whether signals are cleaned.
    pub has_cleaner: bool,
}

/// What a model in memory does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// It waits to be swapped in.
    Loaded,
    /// It answers.
    Serving,
    /// It ends the requests with which it began.
    Retiring,
}

/// The models in memory, and what was there before.
#[derive(Clone, Debug)]
pub struct Listed {
    /// By generation.
    pub models: Vec<(Arc<ModelFacts>, Role)>,
    /// What a rollback of the default model goes to.
    pub previous: Option<Arc<ModelFacts>>,
}
