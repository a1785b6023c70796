//! Goldens: reward_head.
