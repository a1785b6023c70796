//! Goldens: train_steps.
