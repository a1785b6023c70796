//! Prompt ids in, sampled rows out.
pub mod batch;
pub mod run;
pub mod sampler;
