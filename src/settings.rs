//! Settings files: read once in bin, all mistakes printed together, unknown keys refused.
