//! Goldens: sampler.
