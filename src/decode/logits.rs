//! The logits of one position in few passes: a block of them is looked into only where its largest matters.
use crate::model::ops::exp;
use std::ops::Range;

/// Logits of a block: four vector registers, and few enough that looking through one costs next to nothing.
const BLOCK: usize = 64;

/// Numbers that are summed side by side, so that the compiler can use vector registers.
const LANES: usize = 16;

/// Logits (V), and the largest of each block. A NaN counts as minus infinity: a token that cannot be drawn.
#[derive(Clone, Debug)]
pub(super) struct Logits<'a> {
    values: &'a [f32],
    /// Blocks that take the place of those of the values, in their order.
    changed: Vec<(usize, [f32; BLOCK])>,
    maxima: Vec<f32>,
    /// The largest of all, which is finite.
    pub(super) max: f32,
}

impl<'a> Logits<'a> {
    /// None: no logit is finite, or one is plus infinity.
    pub(super) fn new(values: &'a [f32]) -> Option<Self> {
        let maxima = pulp::Arch::new().dispatch(Maxima(values));
        let max = largest(&maxima);
        max.is_finite().then_some(Self { values, changed: Vec::new(), maxima, max })
    }

    /// The same with tokens that cannot be drawn. None: nothing would be left.
    pub(super) fn without(&self, ids: &[u32]) -> Option<Self> {
        let mut ids: Vec<usize> =
            ids.iter().map(|&id| id as usize).filter(|&id| id < self.values.len()).collect();
        ids.sort_unstable();
        let mut left = self.clone();
        for of_block in ids.chunk_by(|a, b| a / BLOCK == b / BLOCK) {
            let block_idx = of_block[0] / BLOCK;
            let mut block = [f32::NEG_INFINITY; BLOCK];
            let before = self.values_of(block_idx);
            block[..before.len()].copy_from_slice(before);
            of_block.iter().for_each(|id| block[id % BLOCK] = f32::NEG_INFINITY);
            left.maxima[block_idx] = largest(&block);
            left.changed.push((block_idx, block));
        }
        left.max = largest(&left.maxima);
        left.max.is_finite().then_some(left)
    }

    pub(super) fn at(&self, id: u32) -> Option<f32> {
        self.values.get(id as usize).copied()
    }

    /// The tokens whose logits are at least `least`, those of minus infinity left out, by id.
    pub(super) fn from(&self, least: f32) -> Vec<(u32, f32)> {
        let matters = |&(_, &max): &(usize, &f32)| max >= least && max > f32::NEG_INFINITY;
        let blocks = self.maxima.iter().enumerate().filter(matters);
        let tokens = blocks.flat_map(|(block_idx, _)| self.block(block_idx));
        tokens.filter(|&(_, logit)| logit >= least && logit > f32::NEG_INFINITY).collect()
    }

    /// The k-th largest logit; minus infinity where k is 0 or not below V.
    pub(super) fn kth_largest(&self, k: usize) -> f32 {
        if k == 0 || k >= self.values.len() {
            return f32::NEG_INFINITY;
        }
        // The k-th largest of the blocks' largest is no larger than the one that is looked for.
        let floor = match k {
            k if k <= self.maxima.len() => nth(self.maxima.clone(), k),
            _ => f32::NEG_INFINITY,
        };
        let above: Vec<f32> = self.from(floor).into_iter().map(|(_, logit)| logit).collect();
        if k > above.len() { f32::NEG_INFINITY } else { nth(above, k) }
    }

    /// Exponentials of (logit - largest) · `scale`, summed by blocks.
    pub(super) fn sums(&self, scale: f32) -> Sums<'_> {
        let max = self.max;
        let sums = |values| pulp::Arch::new().dispatch(Exponentials { values, max, scale });
        let mut by_block = sums(self.values);
        for (block_idx, block) in &self.changed {
            by_block[*block_idx] = sums(&block[..self.range(*block_idx).len()])[0];
        }
        Sums { logits: self, scale, by_block }
    }

    fn values_of(&self, block_idx: usize) -> &[f32] {
        let range = self.range(block_idx);
        match self.changed.binary_search_by_key(&block_idx, |&(changed, _)| changed) {
            Ok(place) => &self.changed[place].1[..range.len()],
            Err(_) => &self.values[range],
        }
    }

    fn range(&self, block_idx: usize) -> Range<usize> {
        let start = block_idx * BLOCK;
        start..(start + BLOCK).min(self.values.len())
    }

    #[allow(clippy::cast_possible_truncation, reason = "ids are far below 2^32")]
    fn block(&self, block_idx: usize) -> impl Iterator<Item = (u32, f32)> {
        ((block_idx * BLOCK) as u32..).zip(self.values_of(block_idx).iter().copied())
    }
}

/// Weights of all tokens, relative to the largest, of which only the blocks' sums are kept.
#[derive(Debug)]
pub(super) struct Sums<'a> {
    logits: &'a Logits<'a>,
    scale: f32,
    by_block: Vec<f32>,
}

impl Sums<'_> {
    pub(super) fn total(&self) -> f64 {
        self.by_block.iter().map(|&sum| f64::from(sum)).sum()
    }

    /// The token at a point in [0, 1) of the weights, in the order of ids.
    pub(super) fn token_at(&self, point: f64) -> u32 {
        let target = point * self.total();
        let mut below = 0.0;
        // Rounding can put the target behind all weights; the last token that can be drawn stands there.
        let mut last = 0;
        for (block_idx, &sum) in self.by_block.iter().enumerate() {
            let sum = f64::from(sum);
            if sum == 0.0 {
                continue;
            }
            if below + sum <= target {
                below += sum;
                last = block_idx;
                continue;
            }
            return self.in_block(block_idx, target - below);
        }
        self.in_block(last, f64::INFINITY)
    }

    fn in_block(&self, block_idx: usize, target: f64) -> u32 {
        let mut below = 0.0;
        let mut last = 0;
        for (id, logit) in self.logits.block(block_idx) {
            let weight = weight((logit - self.logits.max) * self.scale);
            if weight > 0.0 {
                last = id;
                below += f64::from(weight);
                if target < below {
                    break;
                }
            }
        }
        last
    }
}

/// e^x for x up to 0; 0 where no number of f32 is as small, and for what is no number.
#[inline(always)]
fn weight(x: f32) -> f32 {
    /// The least exponent that `exp` takes as it is.
    const LEAST: f32 = -87.0;
    if x > LEAST { exp(x) } else { 0.0 }
}

fn nth(mut values: Vec<f32>, k: usize) -> f32 {
    let (_, kth, _) = values.select_nth_unstable_by(k - 1, |a, b| b.total_cmp(a));
    *kth
}

/// The largest of numbers, NaN passed over.
#[inline(always)]
fn largest(values: &[f32]) -> f32 {
    let (chunks, rest) = values.as_chunks::<LANES>();
    let mut lanes = [f32::NEG_INFINITY; LANES];
    for chunk in chunks {
        for (lane, &value) in lanes.iter_mut().zip(chunk) {
            *lane = if value > *lane { value } else { *lane };
        }
    }
    lanes.iter().chain(rest).fold(f32::NEG_INFINITY, |max, &value| if value > max { value } else { max })
}

/// The largest of each block. Like the exponentials it is compiled for several kinds of vector registers, and the widest that the
/// processor has are used.
struct Maxima<'a>(&'a [f32]);

impl pulp::NullaryFnOnce for Maxima<'_> {
    type Output = Vec<f32>;

    // A function that is not inlined here would be compiled for the narrowest registers only.
    #[inline(always)]
    fn call(self) -> Vec<f32> {
        let mut maxima = Vec::with_capacity(self.0.len().div_ceil(BLOCK));
        for block in self.0.chunks(BLOCK) {
            maxima.push(largest(block));
        }
        maxima
    }
}

/// The sum of exponentials of each block.
struct Exponentials<'a> {
    values: &'a [f32],
    max: f32,
    scale: f32,
}

impl pulp::NullaryFnOnce for Exponentials<'_> {
    type Output = Vec<f32>;

    #[inline(always)]
    fn call(self) -> Vec<f32> {
        let mut sums = Vec::with_capacity(self.values.len().div_ceil(BLOCK));
        for block in self.values.chunks(BLOCK) {
            let (chunks, rest) = block.as_chunks::<LANES>();
            let mut lanes = [0.0; LANES];
            for chunk in chunks {
                for (lane, &value) in lanes.iter_mut().zip(chunk) {
                    *lane += weight((value - self.max) * self.scale);
                }
            }
            let mut sum = lanes.iter().sum::<f32>();
            for &value in rest {
                sum += weight((value - self.max) * self.scale);
            }
            sums.push(sum);
        }
        sums
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::{Rng, SeedableRng, rngs::StdRng};

    /// Random logits, some of them equal, of which one of nine cannot be drawn.
    fn random(n: usize, seed: u64) -> Vec<f32> {
        let mut rng = StdRng::seed_from_u64(seed);
        let logit = |idx: usize| match idx % 9 {
            4 if idx.is_multiple_of(2) => f32::NAN,
            4 => f32::NEG_INFINITY,
            _ => (rng.random_range(-9.0..9.0_f32) * 8.0).round() / 8.0,
        };
        (0..n).map(logit).collect()
    }

    #[test]
    fn blocks_say_what_a_look_at_every_logit_says() {
        for n in [1, 63, 64, 65, 1_000, 4_099] {
            let values = random(n, n as u64);
            let logits = Logits::new(&values).unwrap();
            let mut ranked: Vec<f32> = values.iter().copied().filter(|value| value.is_finite()).collect();
            ranked.sort_unstable_by(|a, b| b.total_cmp(a));
            assert_eq!(logits.max, ranked[0]);
            for k in [1, 2, 7, 50, 63, 200, 900, 4_000] {
                let expected = if k < n { ranked.get(k - 1) } else { None };
                let expected = expected.copied().unwrap_or(f32::NEG_INFINITY);
                assert_eq!(logits.kth_largest(k), expected, "{k} of {n}");
            }
            for least in [8.0, 1.0, f32::NEG_INFINITY] {
                let expected = (0u32..).zip(values.iter().copied());
                let expected: Vec<_> =
                    expected.filter(|(_, value)| value.is_finite() && *value >= least).collect();
                assert_eq!(logits.from(least), expected);
            }
            for scale in [1.0_f32, 1.25, 40.0] {
                let weights = ranked.iter().map(|value| f64::from((value - ranked[0]) * scale).exp());
                let (expected, got) = (weights.sum::<f64>(), logits.sums(scale).total());
                assert!((got - expected).abs() < 1e-6 * expected, "{got}, expected {expected}");
            }
        }
    }

    #[test]
    fn logits_without_some_tokens_are_those_of_a_copy_without_them() {
        for n in [1, 63, 200, 4_099_u32] {
            let values = random(n as usize, 7);
            let logits = Logits::new(&values).unwrap();
            // The largest among them, twice in one block, and one that is not there.
            let largest = logits.from(logits.max)[0].0;
            let ids = [largest, n / 2, n / 2 + 1, n + 9];
            let mut left = values.clone();
            ids.iter().filter(|&&id| id < n).for_each(|&id| left[id as usize] = f32::NEG_INFINITY);
            let (got, expected) = (logits.without(&ids), Logits::new(&left));
            assert_eq!(got.is_some(), expected.is_some());
            let (Some(got), Some(expected)) = (got, expected) else { continue };
            assert_eq!((got.max, &got.maxima), (expected.max, &expected.maxima));
            assert_eq!(got.from(-2.0), expected.from(-2.0));
            assert_eq!(got.kth_largest(5), expected.kth_largest(5));
            assert_eq!(got.sums(1.25).by_block, expected.sums(1.25).by_block);
            assert_eq!(got.sums(1.25).token_at(0.7), expected.sums(1.25).token_at(0.7));
            assert_eq!(logits.at(largest), Some(logits.max), "the others are as they were");
        }
    }

    #[test]
    fn points_fall_on_tokens_by_their_weights_and_the_last_one_on_the_last_that_can_be_drawn() {
        let mut values = vec![f32::NEG_INFINITY; 300];
        (values[70], values[71], values[200]) = (0.0, 2.0_f32.ln(), 0.0);
        let logits = Logits::new(&values).unwrap();
        let sums = logits.sums(1.0);
        let points = [0.0, 0.24, 0.26, 0.74, 0.76, 0.999, 1.0];
        assert_eq!(points.map(|point| sums.token_at(point)), [70, 70, 71, 71, 200, 200, 200]);
    }
}
