//! Directions in the space of the news.

/// Numbers of a vector. 128: more directions than a catalogue has topics, few enough to be searched exactly.
pub const WIDTH: usize = 128;
/// Distance of two queries that is enough: unrelated ones are no better than different ones.
pub const APART_ENOUGH: f64 = 0.6;
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

/// Pairs of places among `n`.
pub fn pairs(n: usize) -> impl Iterator<Item = (usize, usize)> {
    (0..n).flat_map(move |a| (a + 1..n).map(move |b| (a, b)))
}

/// Mean over pairs of the cosine distance, from 0 to 2, each at most `cap`; none of less than two units.
///
/// Texts that mean nothing say nothing different. With a cap of 2 this is the raw diversity of arXiv 2602.15005.
pub fn mean_distance(units: &[Option<&Unit>], cap: f64) -> Option<f64> {
    let distance = |(a, b): (usize, usize)| match (units[a], units[b]) {
        (Some(a), Some(b)) => (1.0 - a.cosine(b)).min(cap),
        _ => 0.0,
    };
    (units.len() > 1).then(|| mean(pairs(units.len()).map(distance)))
}

/// Mean of numbers; 0 of none.
pub(super) fn mean(numbers: impl Iterator<Item = f64>) -> f64 {
    let (n, sum) = numbers.fold((0.0, 0.0), |(n, sum), number| (n + 1.0, sum + number));
    if n == 0.0 { 0.0 } else { sum / n }
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
