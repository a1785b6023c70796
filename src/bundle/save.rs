//! Writes a bundle atomically.
