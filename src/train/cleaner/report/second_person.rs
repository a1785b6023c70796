//! The second person on an account: what becomes of their signals, and what the account's other signals say of them.
use crate::{
    cleaner::Verdict,
    lexicon::unit::Unit,
    signals::Stream,
    train::{evaluate::ways::Platform, events::Reader},
    world::known::{Known, Tag},
};
use rayon::prelude::*;
use serde::Serialize;
use std::fmt;

/// Signals whose meanings are as near as this are about the same, as where interests are found.
const ALIKE: f64 = 0.5;

/// What is known of signals of the second person: searches and pages of readers who share their account.
#[derive(Clone, Debug, Serialize)]
pub struct SecondPerson {
    /// Their signals.
    pub n: usize,
    /// The share of them that the cleaner keeps.
    pub kept: f64,
    /// The chance that of a kept signal of the reader's own and one of the second person's on the same accounts the own one has the
    /// larger share of the account's other signals about the same. A half: the account tells nothing.
    pub alike: f64,
}

impl SecondPerson {
    /// Asks the accounts that have a second person.
    #[allow(clippy::cast_precision_loss, reason = "counts of signals")]
    pub(super) fn of(platform: &Platform<'_>, cleaned: &[Reader], known: &Known) -> Self {
        let shared = cleaned.par_iter().filter(|reader| known.tags(&reader.key).contains(&Tag::Household));
        let of_account = |reader: &Reader| account(platform, reader, known.tags(&reader.key));
        let accounts: Vec<Account> = shared.map(of_account).collect();
        let n: usize = accounts.iter().map(|account| account.n).sum();
        let n_kept: usize = accounts.iter().map(|account| account.n_kept).sum();
        let [own, other] = [false, true].map(|is_other| -> Vec<f64> {
            let signals = accounts.iter().flat_map(|account| &account.alike);
            signals.filter(|(other, _)| *other == is_other).map(|(_, alike)| *alike).collect()
        });
        Self { n, kept: n_kept as f64 / n.max(1) as f64, alike: chance_larger(&own, other) }
    }
}

/// What one account shows.
struct Account {
    n: usize,
    n_kept: usize,
    /// Whether a kept signal is the second person's, and the share of the account's other signals about the same.
    alike: Vec<(bool, f64)>,
}

#[allow(clippy::cast_precision_loss, reason = "signals of one account")]
fn account(platform: &Platform<'_>, reader: &Reader, tags: &[Tag]) -> Account {
    let typed = reader.events.iter().zip(tags).filter(|(event, _)| event.stream != Stream::Click);
    let of_other: Vec<_> = typed.clone().filter(|(_, tag)| **tag == Tag::Household).collect();
    let n_kept = of_other.iter().filter(|(event, _)| event.verdict == Verdict::Keep).count();
    let persons = typed.filter(|(_, tag)| matches!(tag, Tag::Household | Tag::Interest));
    let kept = persons.filter(|(event, _)| event.verdict == Verdict::Keep);
    let said: Vec<(bool, Unit)> = kept
        .filter_map(|(event, tag)| Some((*tag == Tag::Household, platform.meaning().signal(event)?.unit)))
        .collect();
    let share = |idx: usize| {
        let others = said.iter().enumerate().filter(|(other, _)| *other != idx);
        let n_alike = others.filter(|(_, (_, unit))| unit.cosine(&said[idx].1) >= ALIKE).count();
        n_alike as f64 / (said.len() - 1).max(1) as f64
    };
    let alike = (0..said.len()).map(|idx| (said[idx].0, share(idx))).collect();
    Account { n: of_other.len(), n_kept, alike }
}

/// The chance that a value of the first is larger than one of the second; equal ones count half. A half if there are none.
#[allow(clippy::cast_precision_loss, reason = "counts of signals")]
fn chance_larger(first: &[f64], mut second: Vec<f64>) -> f64 {
    if first.is_empty() || second.is_empty() {
        return 0.5;
    }
    second.sort_by(f64::total_cmp);
    let wins = |value: &f64| {
        let below = second.partition_point(|other| other < value);
        let not_above = second.partition_point(|other| other <= value);
        below as f64 + (not_above - below) as f64 / 2.0
    };
    first.iter().map(wins).sum::<f64>() / (first.len() * second.len()) as f64
}

impl fmt::Display for SecondPerson {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { n, kept, alike } = self;
        write!(
            out,
            "Second person on the account: {n} searches and pages, {:.1} % kept; the share of the account's other signals about the same \
             tells them from the reader's own with an area under the curve of {alike:.3}.",
            100.0 * kept
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chances_count_pairs_and_share_ties() {
        assert_eq!(chance_larger(&[3.0, 2.0], vec![1.0, 0.0]), 1.0);
        assert_eq!(chance_larger(&[0.0], vec![1.0, 2.0]), 0.0);
        assert_eq!(chance_larger(&[1.0, 2.0], vec![1.0, 2.0]), 0.5);
        assert_eq!(chance_larger(&[], vec![1.0]), 0.5);
    }
}
