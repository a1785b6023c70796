//! Whose answers and prompts are stored, and since when they count: pure, without the reader's key.
//!
//! Every stored answer of a reader carries the number of her epoch, and her prompt is kept only while the one it was asked in lasts. Ending the epoch is one step, and whatever was made in it,
//! or will be by a generation that began in it, is never found again: it stands under a number that nobody asks for.
use sha2::{Digest, Sha256};
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// Readers whose epochs are remembered apart, some five megabytes. When there are more, all readers' epochs end together: that costs
/// what is stored, and never brings back an old answer.
const ENDED_MAX: usize = 100_000;

/// A reader of a tenant: a digest of both.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Owner(pub [u8; 16]);

impl Owner {
    /// `whose`: bytes that are equal exactly when reader and tenant are.
    pub fn of(whose: &[u8]) -> Self {
        let digest: [u8; 32] = Sha256::digest(whose).into();
        let (first, _) = digest.split_first_chunk().expect("16 of 32 bytes");
        Self(*first)
    }
}

/// A time in which what is kept of a reader may be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Epoch {
    /// The reader.
    pub owner: Owner,
    number: u64,
}

/// A reader's leave to keep what is made for her, which stands as long as her epoch.
#[derive(Clone, Debug)]
pub struct Leave {
    /// The epoch in which it was given.
    pub epoch: Epoch,
    /// Who knows whether it has ended.
    pub epochs: Arc<Epochs>,
}

impl Leave {
    /// Whether it stands.
    pub fn stands(&self) -> bool {
        self.epochs.holds(self.epoch)
    }
}

/// The epoch of every reader.
#[derive(Debug, Default)]
pub struct Epochs {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Epochs of readers that were ended since `floor`.
    by_owner: HashMap<Owner, u64>,
    /// The epoch of all others.
    floor: u64,
    /// No epoch has a larger number.
    newest: u64,
}

impl Epochs {
    /// A reader's epoch now.
    pub fn now(&self, owner: Owner) -> Epoch {
        let state = self.lock();
        let number = state.by_owner.get(&owner).copied().unwrap_or(state.floor);
        Epoch { owner, number }
    }

    /// Whether what was made in an epoch may still be used, and kept.
    pub fn holds(&self, epoch: Epoch) -> bool {
        self.now(epoch.owner) == epoch
    }

    /// Ends a reader's epoch: the next one is new.
    pub fn end(&self, owner: Owner) {
        let mut state = self.lock();
        state.newest += 1;
        let newest = state.newest;
        state.by_owner.insert(owner, newest);
        if state.by_owner.len() > ENDED_MAX {
            state.by_owner.clear();
            state.floor = newest;
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // A panic while it was locked left numbers that are too large at worst, and those are of no use to anybody.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn owner(number: u32) -> Owner {
        Owner::of(&number.to_le_bytes())
    }

    #[test]
    fn an_epoch_holds_until_it_is_ended_and_others_go_on() {
        let epochs = Epochs::default();
        let (one, other) = (epochs.now(owner(1)), epochs.now(owner(2)));
        assert!(epochs.holds(one) && epochs.holds(other));
        epochs.end(owner(1));
        assert!(!epochs.holds(one) && epochs.holds(other));
        let second = epochs.now(owner(1));
        epochs.end(owner(1));
        assert!(!epochs.holds(second) && !epochs.holds(one), "none comes back");
    }

    #[test]
    fn beyond_the_limit_all_epochs_end_and_none_comes_back() {
        let epochs = Epochs::default();
        let before: Vec<Epoch> = (0..3).map(|number| epochs.now(owner(number))).collect();
        let ended = u32::try_from(ENDED_MAX).unwrap();
        (1..=ended).for_each(|number| epochs.end(owner(number)));
        assert!(epochs.holds(before[0]), "as many as are remembered");
        epochs.end(owner(ended + 1));
        assert!(before.iter().all(|&epoch| !epochs.holds(epoch)));
        assert!(epochs.state.lock().unwrap().by_owner.is_empty());
        assert!(epochs.holds(epochs.now(owner(0))));
    }
}
