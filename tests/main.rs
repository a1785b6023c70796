//! Every test of the house in one binary: one link, one run.
#![allow(missing_docs, unreachable_pub, reason = "tests are read, not linked against")]
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "clippy.toml frees test functions only, not the helpers they share"
)]
#![allow(
    clippy::cast_possible_truncation,
    clippy::wildcard_enum_match_arm,
    reason = "numbers of tests are small, and the JSON they read is theirs"
)]

mod support;

mod adapters;
mod architecture;
mod baselines;
mod binary;
mod bundles;
mod cleaner;
mod continuations;
mod decoding;
mod dependencies;
mod deploy;
mod device;
mod embedder;
mod evaluation;
mod examples;
mod experiment;
mod gates;
mod goldens;
mod gradients;
mod imports;
mod lexicon;
mod news;
mod parity;
mod pipeline;
mod report;
mod reward_head;
mod rewards;
mod rpc;
mod rubric;
mod services;
mod sharded;
mod student;
mod teacher;
mod text;
mod training;
mod watch;
mod weights;
mod world;
