//! Where a reader falls: pure functions of a seed, her key and the weights. Whole numbers only, so that every machine agrees.
use sha2::{Digest, Sha256};

/// How readers are spread over arms. What a version does never changes: `tests/fixtures/assignment` holds its answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HashVersion {
    /// flagd's: one hash of 32 bits picks a place on a line on which arms follow each other.
    Flagd,
    /// A hash of seed and key, hashed again with each arm. Only readers of arms whose share shrinks move, and only to arms whose
    /// share grows, in whatever order the file lists them.
    Rendezvous,
}

impl HashVersion {
    /// Its number in files and records.
    pub fn number(self) -> u32 {
        match self {
            Self::Flagd => 1,
            Self::Rendezvous => 2,
        }
    }

    /// The version of a number.
    pub fn of_number(number: u64) -> Option<Self> {
        [Self::Flagd, Self::Rendezvous].into_iter().find(|version| u64::from(version.number()) == number)
    }
}

/// The position of the weight that `bucketing` falls on; none if all weights are 0.
///
/// Source: flagd's `fractional` operation with integer buckets, (hash x total) >> 32. Releases of flagd before it bucket by a
/// percentage and differ.
pub fn flagd(bucketing: &[u8], weights: &[u32]) -> Option<usize> {
    let total: u64 = weights.iter().map(|&weight| u64::from(weight)).sum();
    let place = (u64::from(murmur3(bucketing)) * total) >> 32;
    let mut end = 0;
    weights.iter().position(|&weight| {
        end += u64::from(weight);
        place < end
    })
}

/// The first of the two hashes: what a reader is under a seed.
#[derive(Clone, Copy, Debug)]
pub struct Draw([u8; 32]);

impl Draw {
    /// `seeds`: texts that make one experiment's draw independent of another's.
    pub fn new(seeds: &[&str], key: &str) -> Self {
        let mut hash = Sha256::new();
        hash.update(b"newshound draw 2");
        for part in seeds.iter().chain([&key]) {
            hash.update((part.len() as u64).to_le_bytes());
            hash.update(part.as_bytes());
        }
        Self(hash.finalize().into())
    }

    /// The arm of this reader, among (name, weight); none if all weights are 0.
    ///
    /// Each arm draws an exponential waiting time with its weight as rate, from a hash of its own, and the shortest wins.
    /// Source: weighted rendezvous hashing, Schindelhauer and Schomaker, "Weighted distributed hash tables", SPAA 2005.
    pub fn arm<'a>(&self, arms: impl Iterator<Item = (&'a str, u32)>) -> Option<usize> {
        let mut best: Option<(usize, u128, u128, &str)> = None;
        for (idx, (name, weight)) in arms.enumerate().filter(|(_, (_, weight))| *weight > 0) {
            let (time, weight) = (u128::from(self.unweighted_time(name)), u128::from(weight));
            let wins = best.is_none_or(|(_, best_time, best_weight, best_name)| {
                // time / weight < best_time / best_weight; the name decides between equals, so that order never does.
                (time * best_weight, name) < (best_time * weight, best_name)
            });
            if wins {
                best = Some((idx, time, weight, name));
            }
        }
        best.map(|(idx, ..)| idx)
    }

    /// -log2 of a uniform number, in units of 2^-32: an exponential waiting time.
    fn unweighted_time(&self, name: &str) -> u64 {
        let mut hash = Sha256::new();
        hash.update(self.0);
        hash.update(name.as_bytes());
        let digest: [u8; 32] = hash.finalize().into();
        let mut first = [0; 8];
        first.copy_from_slice(&digest[..8]);
        (64 << 32) - log2(u64::from_le_bytes(first).max(1))
    }
}

/// log2 of a number above 0, in units of 2^-32, rounded down: below 64 x 2^32.
///
/// Squaring a number of [1, 2) doubles its logarithm, and whether the square reaches 2 is the next binary digit.
fn log2(number: u64) -> u64 {
    let n_zeros = number.leading_zeros();
    let mut mantissa = number << n_zeros;
    let mut digits = u64::from(63 - n_zeros);
    for _ in 0..32 {
        let square = (u128::from(mantissa) * u128::from(mantissa)) >> 63;
        let carries = square >> 64 > 0;
        digits = digits << 1 | u64::from(carries);
        #[allow(
            clippy::cast_possible_truncation,
            reason = "the square is below 2^65, and halved where it reaches 2^64"
        )]
        {
            mantissa = (if carries { square >> 1 } else { square }) as u64;
        }
    }
    digits
}

/// MurmurHash3 for 32-bit machines, seed 0. Source: Austin Appleby, SMHasher, `MurmurHash3_x86_32` (public domain).
fn murmur3(bytes: &[u8]) -> u32 {
    let mix = |block: u32| block.wrapping_mul(0xcc9e_2d51).rotate_left(15).wrapping_mul(0x1b87_3593);
    let blocks = bytes.chunks_exact(4);
    // The bytes that fill no block, as the low bytes of one more.
    let rest = blocks.remainder().iter().rev().fold(0, |rest, &byte| rest << 8 | u32::from(byte));
    let whole = blocks.fold(0u32, |state, block| {
        let block = block.iter().rev().fold(0, |block, &byte| block << 8 | u32::from(byte));
        (state ^ mix(block)).rotate_left(13).wrapping_mul(5).wrapping_add(0xe654_6b64)
    });
    #[allow(clippy::cast_possible_truncation, reason = "the algorithm takes the length modulo 2^32")]
    let mut state = whole ^ mix(rest) ^ bytes.len() as u32;
    state = (state ^ state >> 16).wrapping_mul(0x85eb_ca6b);
    state = (state ^ state >> 13).wrapping_mul(0xc2b2_ae35);
    state ^ state >> 16
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn logarithms_are_right_to_the_last_digit() {
        let unit = f64::from(u32::MAX) + 1.0;
        assert_eq!(log2(1), 0);
        assert_eq!(log2(1 << 40), 40 << 32);
        assert_eq!(log2(u64::MAX), (64 << 32) - 1);
        for number in [3, 10, 12_345, 1 << 33 | 1, u64::MAX / 3] {
            let expected = (number as f64).log2() * unit;
            assert!((log2(number) as f64 - expected).abs() < 2.0, "{number}");
        }
    }

    #[test]
    fn an_arm_without_weight_gets_nobody_and_no_weight_at_all_gives_no_arm() {
        let draw = Draw::new(&["seed"], "reader");
        assert_eq!(draw.arm([("a", 0), ("b", 1)].into_iter()), Some(1));
        assert_eq!(draw.arm([("a", 0)].into_iter()), None);
        assert_eq!(flagd(b"reader", &[0, 1]), Some(1));
        assert_eq!(flagd(b"reader", &[0, 0]), None);
    }

    #[test]
    fn the_order_of_arms_decides_nothing() {
        for reader in 0..200 {
            let draw = Draw::new(&["seed"], &reader.to_string());
            let (arms, reversed) = ([("a", 3), ("b", 2), ("c", 5)], [("c", 5), ("b", 2), ("a", 3)]);
            let name = |arms: [(&'static str, u32); 3]| draw.arm(arms.into_iter()).map(|idx| arms[idx].0);
            assert_eq!(name(arms), name(reversed));
        }
    }

    #[test]
    fn seeds_and_key_do_not_run_into_each_other() {
        assert_ne!(Draw::new(&["ab"], "c").0, Draw::new(&["a"], "bc").0);
    }
}
