//! Which keys and values of earlier prompts are kept, so that a prompt that begins alike need not be computed from its start.
//!
//! Two kinds: the opening that all prompts share, and each reader's last prompt. A reader's prompt serves that reader alone: were it
//! shared, the time of an answer would tell what somebody else has read (CVE-2025-46570).
use crate::{decode::batch::Known, model::kv_cache::Prefix, serve::owner::Owner};
use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

/// What may be kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PrefixLimits {
    /// Memory of readers' prompts; the one that was used longest ago goes first. 0: none is kept.
    pub bytes_max: usize,
    /// How long a prompt is kept after its last use.
    pub age_max: Duration,
}

/// Prompts that were computed.
#[derive(Debug)]
pub struct Prefixes {
    limits: PrefixLimits,
    opening: Arc<[u32]>,
    of_opening: Option<Arc<Prefix>>,
    kept: HashMap<Owner, Kept>,
    n_bytes: usize,
}

#[derive(Debug)]
struct Kept {
    ids: Vec<u32>,
    prefix: Arc<Prefix>,
    used: Instant,
}

impl Prefixes {
    /// Keeps nothing yet. `opening`: the ids with which every prompt begins.
    pub fn new(limits: PrefixLimits, opening: Arc<[u32]>) -> Self {
        Self { limits, opening, of_opening: None, kept: HashMap::new(), n_bytes: 0 }
    }

    /// Returns the longest beginning of a reader's prompt that need not be computed. At least one id is left to compute: what is
    /// sampled first follows from it.
    pub fn find(&mut self, owner: Owner, ids: &[u32], now: Instant) -> Option<Known> {
        let computed_max = ids.len().saturating_sub(1);
        if let Some(kept) = self.kept.get_mut(&owner) {
            let n_positions = n_equal(&kept.ids, ids).min(computed_max);
            if n_positions > self.opening.len() {
                kept.used = now;
                return Some(Known { prefix: Arc::clone(&kept.prefix), n_positions });
            }
        }
        let prefix = Arc::clone(self.of_opening.as_ref()?);
        let n_positions = n_equal(&self.opening, ids).min(computed_max);
        (n_positions > 0).then_some(Known { prefix, n_positions })
    }

    /// Keeps a prompt in place of the reader's last one.
    pub fn keep(&mut self, owner: Owner, ids: Vec<u32>, prefix: Arc<Prefix>, now: Instant) {
        if self.of_opening.is_none() && ids.starts_with(&self.opening) {
            // Positions know nothing of those behind them, so these are the same for every reader. A failure costs time alone.
            self.of_opening = prefix.first(self.opening.len()).ok().map(Arc::new);
        }
        self.forget(owner);
        let n_bytes = prefix.n_bytes();
        if n_bytes > self.limits.bytes_max {
            return;
        }
        while self.n_bytes + n_bytes > self.limits.bytes_max {
            let oldest = self.kept.iter().min_by_key(|(_, kept)| kept.used).map(|(&owner, _)| owner);
            match oldest {
                Some(owner) => self.forget(owner),
                None => return,
            }
        }
        self.n_bytes += n_bytes;
        self.kept.insert(owner, Kept { ids, prefix, used: now });
    }

    /// Memory of readers' prompts. One that is dropped or replaced while rows read it stays until they end, and is counted with them.
    pub fn n_bytes(&self) -> usize {
        self.n_bytes
    }

    /// Whether what is counted is what is held.
    pub fn is_accounted(&self) -> bool {
        self.n_bytes == self.kept.values().map(|kept| kept.prefix.n_bytes()).sum::<usize>()
    }

    /// Drops a reader's prompt.
    pub fn forget(&mut self, owner: Owner) {
        if let Some(kept) = self.kept.remove(&owner) {
            self.n_bytes -= kept.prefix.n_bytes();
        }
    }

    /// Drops what was used too long ago.
    pub fn forget_old(&mut self, now: Instant) {
        let age_max = self.limits.age_max;
        let is_old = |kept: &Kept| now.saturating_duration_since(kept.used) > age_max;
        let old: Vec<Owner> =
            self.kept.iter().filter(|(_, kept)| is_old(kept)).map(|(&owner, _)| owner).collect();
        old.into_iter().for_each(|owner| self.forget(owner));
    }
}

fn n_equal(left: &[u32], right: &[u32]) -> usize {
    left.iter().zip(right).take_while(|(left, right)| left == right).count()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{
        config::{Biases, DecoderConfig, Family, OutputIds, RopeScaling},
        ops::Numerics,
        transformer::Transformer,
        weights::Parameters,
    };
    use candle_core::Device;

    const READER: Owner = Owner([1; 16]);
    const OTHER: Owner = Owner([2; 16]);
    const AGE_MAX: Duration = Duration::from_secs(60);

    fn model() -> Transformer {
        let config = DecoderConfig {
            family: Family::Qwen2,
            hidden_size: 16,
            intermediate_size: 16,
            n_layers: 1,
            n_heads: 2,
            n_kv_heads: 1,
            head_dim: 8,
            vocab_size: 50,
            max_positions: 64,
            rms_norm_eps: 1e-6,
            rope_theta: 10_000.0,
            rope_scaling: RopeScaling::None,
            tied_head: true,
            eos_ids: vec![1],
            biases: Biases::of(Family::Qwen2),
            output_ids: OutputIds::All,
        };
        Transformer::load(&config, &mut Parameters::fresh(1, &Device::Cpu), Numerics::Serve).unwrap()
    }

    fn prefix(ids: &[u32]) -> Arc<Prefix> {
        Arc::new(model().prefill(ids).unwrap().0)
    }

    fn prefixes(bytes_max: usize) -> Prefixes {
        Prefixes::new(PrefixLimits { bytes_max, age_max: AGE_MAX }, Arc::new([1, 2]))
    }

    fn known(prefixes: &mut Prefixes, owner: Owner, ids: &[u32], now: Instant) -> usize {
        prefixes.find(owner, ids, now).map_or(0, |known| known.n_positions)
    }

    #[test]
    fn a_reader_finds_what_her_prompts_have_in_common_and_another_reader_the_opening_alone() {
        let (mut prefixes, now) = (prefixes(1 << 20), Instant::now());
        assert_eq!(known(&mut prefixes, READER, &[1, 2, 3], now), 0);
        prefixes.keep(READER, vec![1, 2, 3, 4, 9], prefix(&[1, 2, 3, 4, 9]), now);
        assert_eq!(known(&mut prefixes, READER, &[1, 2, 3, 4, 5, 9], now), 4);
        assert_eq!(known(&mut prefixes, OTHER, &[1, 2, 3, 4, 5, 9], now), 2);
        assert_eq!(known(&mut prefixes, OTHER, &[7, 2, 3], now), 0);
        let of_opening = prefixes.find(OTHER, &[1, 2, 3], now).unwrap().prefix;
        assert_eq!(of_opening.n_positions(), 2, "nothing of the reader's signals is in it");
    }

    #[test]
    fn the_last_id_is_always_computed() {
        let (mut prefixes, now) = (prefixes(1 << 20), Instant::now());
        prefixes.keep(READER, vec![1, 2, 3, 4], prefix(&[1, 2, 3, 4]), now);
        assert_eq!(known(&mut prefixes, READER, &[1, 2, 3, 4], now), 3);
        assert_eq!(known(&mut prefixes, READER, &[1, 2], now), 1);
        assert_eq!(known(&mut prefixes, READER, &[1], now), 0);
    }

    #[test]
    fn a_prompt_is_kept_until_its_age_is_over_and_use_makes_it_young() {
        let (mut prefixes, start) = (prefixes(1 << 20), Instant::now());
        prefixes.keep(READER, vec![1, 2, 3, 4], prefix(&[1, 2, 3, 4]), start);
        let used = start + AGE_MAX;
        assert_eq!(known(&mut prefixes, READER, &[1, 2, 3, 5], used), 3);
        assert_eq!(known(&mut prefixes, READER, &[1, 2, 3, 5], used + AGE_MAX), 3);
        let late = used + 2 * AGE_MAX + Duration::from_millis(1);
        prefixes.forget_old(late);
        assert_eq!(known(&mut prefixes, READER, &[1, 2, 3, 5], late), 2);
        assert_eq!(prefixes.n_bytes(), 0);
    }

    #[test]
    fn bytes_are_bounded_and_the_longest_unused_goes_first() {
        let ids = [1, 2, 3, 4];
        let n_bytes = prefix(&ids).n_bytes();
        let (mut prefixes, start) = (prefixes(2 * n_bytes), Instant::now());
        let third = Owner([3; 16]);
        let at = |seconds| start + Duration::from_secs(seconds);
        prefixes.keep(READER, ids.to_vec(), prefix(&ids), at(0));
        prefixes.keep(OTHER, ids.to_vec(), prefix(&ids), at(1));
        assert_eq!(known(&mut prefixes, READER, &ids, at(2)), 3);
        prefixes.keep(third, ids.to_vec(), prefix(&ids), at(3));
        assert_eq!(prefixes.n_bytes(), 2 * n_bytes);
        assert_eq!(known(&mut prefixes, OTHER, &ids, at(4)), 2, "used longest ago");
        assert_eq!(known(&mut prefixes, READER, &ids, at(4)), 3);
        assert_eq!(known(&mut prefixes, third, &ids, at(4)), 3);
        prefixes.keep(third, ids.to_vec(), prefix(&ids), at(5));
        assert_eq!(prefixes.n_bytes(), 2 * n_bytes, "a prompt in place of an older one counts once");
        assert!(prefixes.is_accounted());
        prefixes.n_bytes += 1;
        assert!(!prefixes.is_accounted());
        prefixes.n_bytes -= 1;
        prefixes.forget(READER);
        assert_eq!(known(&mut prefixes, READER, &ids, at(6)), 2);
    }

    #[test]
    fn nothing_of_a_reader_is_kept_where_there_is_no_room() {
        let (mut prefixes, now) = (prefixes(0), Instant::now());
        prefixes.keep(READER, vec![1, 2, 3], prefix(&[1, 2, 3]), now);
        assert_eq!(prefixes.n_bytes(), 0);
        assert_eq!(known(&mut prefixes, READER, &[1, 2, 3], now), 2, "the opening is nobody's");
    }
}
