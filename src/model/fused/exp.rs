//! An exponential that compilers vectorise.

/// Returns e^x with a relative error below 2e-7; inputs are clamped to -87..88, so a result is never 0 or infinite.
///
/// Source: the range reduction and polynomial of Cephes `expf` (Moshier, 1992). The library's own function is a call
/// per value, which costs more than the rest of a softmax.
#[inline(always)]
pub(crate) fn exp(x: f32) -> f32 {
    const ROUND: f32 = 12_582_912.0; // 1.5 · 2^23: adding it leaves the nearest integer in the low bits
    const LN_2_HIGH: f32 = 355.0 / 512.0; // few digits, so that its multiples are exact
    const LN_2_LOW: f32 = -2.121_944_4e-4;
    let x = if x < -87.0 { -87.0 } else { x };
    let x = if x > 88.0 { 88.0 } else { x };
    let shifted = x * std::f32::consts::LOG2_E + ROUND;
    let whole = shifted - ROUND;
    let rest = x - whole * LN_2_HIGH - whole * LN_2_LOW;
    let mut series = 1.987_569_1e-4;
    for coefficient in [1.398_199_9e-3, 8.333_452e-3, 4.166_579_6e-2, 0.166_666_65, 0.5] {
        series = series * rest + coefficient;
    }
    let power = f32::from_bits((shifted.to_bits() << 23).wrapping_add(0x3f80_0000));
    (series * rest * rest + rest + 1.0) * power
}

/// Replaces scores by their exponentials relative to the largest, and returns (largest, sum of exponentials).
pub(super) fn exponentials(scores: &[f32], out: &mut [f32]) -> (f32, f32) {
    let out = &mut out[..scores.len()];
    out.copy_from_slice(scores);
    pulp::Arch::new().dispatch(Exponentiate(out))
}

/// Compiled for several kinds of vector registers: the widest that the processor has are used. Without a fused multiplication, they
/// all give the same bits.
struct Exponentiate<'a>(&'a mut [f32]);

impl pulp::NullaryFnOnce for Exponentiate<'_> {
    type Output = (f32, f32);

    #[inline(always)]
    fn call(self) -> (f32, f32) {
        exponentiate(self.0)
    }
}

/// The same in place, with the instructions of the function that it is called from.
#[inline(always)]
pub(in crate::model) fn exponentiate(scores: &mut [f32]) -> (f32, f32) {
    let max = largest(scores);
    for score in scores.iter_mut() {
        *score = exp(*score - max);
    }
    (max, sum(scores))
}

/// Independent partial results per lane let the compiler use vector registers.
const LANES: usize = 16;

#[inline(always)]
fn largest(values: &[f32]) -> f32 {
    let (blocks, rest) = values.as_chunks::<LANES>();
    let mut lanes = [f32::NEG_INFINITY; LANES];
    for block in blocks {
        for (lane, value) in lanes.iter_mut().zip(block) {
            *lane = if *value > *lane { *value } else { *lane };
        }
    }
    lanes.iter().chain(rest).copied().fold(f32::NEG_INFINITY, f32::max)
}

#[inline(always)]
pub(super) fn sum(values: &[f32]) -> f32 {
    let (blocks, rest) = values.as_chunks::<LANES>();
    let mut lanes = [0.0; LANES];
    for block in blocks {
        for (lane, value) in lanes.iter_mut().zip(block) {
            *lane += value;
        }
    }
    lanes.iter().sum::<f32>() + rest.iter().sum::<f32>()
}

/// Sum of products, with the instructions of the function that it is called from.
#[inline(always)]
pub(super) fn dot(left: &[f32], right: &[f32]) -> f32 {
    let (left_blocks, left_rest) = left.as_chunks::<LANES>();
    let (right_blocks, right_rest) = right.as_chunks::<LANES>();
    let mut lanes = [0.0; LANES];
    for (left, right) in left_blocks.iter().zip(right_blocks) {
        for lane in 0..LANES {
            lanes[lane] += left[lane] * right[lane];
        }
    }
    lanes.iter().sum::<f32>() + left_rest.iter().zip(right_rest).map(|(l, r)| l * r).sum::<f32>()
}

#[cfg(test)]
mod tests {
    use super::exp;

    #[test]
    fn exponential_is_accurate_over_its_range() {
        for step in -8_700..=8_800_i16 {
            let x = f32::from(step) / 100.0;
            let expected = f64::from(x).exp();
            assert!((f64::from(exp(x)) - expected).abs() <= 2e-7 * expected, "{x}");
        }
        assert!(exp(f32::NEG_INFINITY) < 2e-38);
        assert!(exp(1e30).is_finite());
    }
}
