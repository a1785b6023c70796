//! Norm, softmax, rope, attention in two numerics.

/// Which kernels a network uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Numerics {
    /// Fused kernels without a backward pass. A gradient asked of them would be lost silently, so training never builds with it.
    Serve,
    /// Differentiable operations.
    Train,
}
