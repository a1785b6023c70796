//! Prompt ids in, sampled rows out.
pub mod batch;
pub mod features;
mod row;
pub mod run;
pub mod sampler;
