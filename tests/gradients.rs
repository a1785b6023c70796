//! Tests of gradients.
