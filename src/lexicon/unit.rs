//! Directions in the space of the news.

/// Numbers of a vector. 128: more directions than a catalogue has topics, few enough to be searched exactly.
pub const WIDTH: usize = 128;
/// Sums that are added up side by side: what one vector register holds.
const LANES: usize = 8;

/// A vector of length 1, [`WIDTH`] numbers.
#[derive(Clone, Debug, PartialEq)]
pub struct Unit(pub Vec<f32>);

impl Unit {
    /// Scales a vector to length 1; none if it has none.
    pub fn of(mut vector: Vec<f32>) -> Option<Self> {
        let length = vector.iter().map(|value| value * value).sum::<f32>().sqrt();
        if length <= f32::EPSILON {
            return None;
        }
        vector.iter_mut().for_each(|value| *value /= length);
        Some(Self(vector))
    }

    /// Cosine of the angle to another.
    pub fn cosine(&self, other: &Self) -> f64 {
        f64::from(dot(&self.0, &other.0))
    }
}

/// Scalar product of two vectors of one length.
///
/// The order of the sum is fixed: the same numbers on every machine.
pub fn dot(a: &[f32], b: &[f32]) -> f32 {
    let (a_lanes, b_lanes) = (a.chunks_exact(LANES), b.chunks_exact(LANES));
    let rest: f32 = a_lanes.remainder().iter().zip(b_lanes.remainder()).map(|(a, b)| a * b).sum();
    let mut sums = [0.0_f32; LANES];
    for (a, b) in a_lanes.zip(b_lanes) {
        for lane in 0..LANES {
            sums[lane] += a[lane] * b[lane];
        }
    }
    sums.iter().sum::<f32>() + rest
}
