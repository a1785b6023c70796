//! Prompt ids in, sampled rows out.
pub mod adaptive;
pub mod batch;
mod error;
pub mod features;
pub mod forced;
mod group;
mod logits;
mod outlined;
pub mod pruning;
mod row;
pub mod run;
pub mod sampler;
