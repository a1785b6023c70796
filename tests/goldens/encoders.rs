//! Goldens: encoders.
