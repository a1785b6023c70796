//! Goldens: causal.
