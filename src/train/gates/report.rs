//! What the gates say: figures with intervals, bounds and verdicts.
use super::{
    super::{
        events::{Split, World},
        rewards::{Aggregation, Rewards},
        statistics::{Estimate, bootstrap, bootstrap_ratio},
    },
    GateSettings,
    climb::{Climbs, N_SEARCHES},
    gate::{Bound, Gate, Table},
    ranks::Ranks,
};
use serde::Serialize;
use std::fmt;

/// Places among the searches.
const ALL: usize = 0;
const WITHOUT_COVERAGE: usize = 2;
/// A reader with this share of noise has much of it; a quarter of all events is.
pub(in crate::train) const MUCH_NOISE: f64 = 1.0 / 3.0;
/// Place of the aggregation that the gate asks of.
const WEIGHTED: usize = 1;

/// What a world's gates say.
#[derive(Clone, Debug, Serialize)]
pub struct GateReport {
    /// World, as it tells itself.
    pub world: String,
    /// Which readers.
    pub split: Split,
    /// Readers asked.
    pub n_users: usize,
    /// Recall@10 of each way to find articles.
    pub rows: Vec<(&'static str, Estimate)>,
    /// Rank correlation, within a reader's varied lists, between each reward and Recall@10.
    pub ranks: Vec<(&'static str, Estimate)>,
    /// What searching by reward alone finds, and how much less another reader's clicks it finds.
    pub searches: Vec<(String, Estimate, Estimate)>,
    /// The gates.
    pub gates: Vec<Gate>,
}

/// Recall@10 of one reader by each way.
pub(super) struct Found {
    pub(super) popularity: f64,
    pub(super) copy: f64,
    pub(super) copy_clean: f64,
    pub(super) searches: f64,
    pub(super) interests: f64,
    pub(super) permuted: f64,
    pub(super) vector: f64,
    pub(super) probe: f64,
    pub(super) neighbours: f64,
    /// Share of the signals that are noise.
    pub(super) noise_share: f64,
    pub(super) wishes: f64,
    pub(super) wishes_clean: f64,
    pub(super) climbs: Option<Climbs>,
    pub(super) ranks: Option<Ranks>,
}

/// Puts figures, intervals and verdicts together.
pub(super) fn report(world: &World, settings: GateSettings, found: &[Found]) -> GateReport {
    let column = |value: fn(&Found) -> f64| -> Vec<f64> { found.iter().map(value).collect() };
    let row = |name, value| (name, bootstrap(&column(value), settings.seed));
    GateReport {
        world: world.title(),
        split: settings.split,
        n_users: found.len(),
        rows: vec![
            row("popularity", |f| f.popularity),
            row("copy the last 5 signals", |f| f.copy),
            row("copy the last 5 signals that are no noise", |f| f.copy_clean),
            row("copy the last 5 searches", |f| f.searches),
            row("true interests as 5 queries", |f| f.interests),
            row("another reader's interests", |f| f.permuted),
            row("mean vector of the last signals", |f| f.vector),
            row("linear probe", |f| f.probe),
            row("probe of neighbouring words", |f| f.neighbours),
            row("the judge's own list", |f| f.wishes),
            row("the judge's own list without noise", |f| f.wishes_clean),
        ],
        ranks: correlations(found, settings.seed),
        searches: searches(found, settings.seed),
        gates: [gates_of_worlds(found, settings.seed), gates_of_rewards(found, settings.seed)].concat(),
    }
}

/// Is there something to learn between copying and knowing?
fn gates_of_worlds(found: &[Found], seed: u64) -> Vec<Gate> {
    let column = |value: fn(&Found) -> f64| -> Vec<f64> { found.iter().map(value).collect() };
    let ratio = |part: fn(&Found) -> f64, whole: fn(&Found) -> f64| {
        bootstrap_ratio(&column(part), &column(whole), seed)
    };
    let difference = |value: fn(&Found) -> f64| bootstrap(&column(value), seed);
    let means = [column(|f| f.popularity), column(|f| f.copy), column(|f| f.vector)];
    let sums = means.each_ref().map(|column| column.iter().sum::<f64>());
    let best: fn(&Found) -> f64 = if sums[2] >= sums[0].max(sums[1]) {
        |f| f.vector
    } else if sums[1] >= sums[0] {
        |f| f.copy
    } else {
        |f| f.popularity
    };
    let noisy = |value: fn(&Found) -> f64| -> Vec<f64> {
        found.iter().filter(|f| f.noise_share >= MUCH_NOISE).map(value).collect()
    };
    let by_interests = |part: fn(&Found) -> f64| ratio(part, |f| f.interests);
    vec![
        Gate::of("interests / popularity", ratio(|f| f.interests, |f| f.popularity), Bound::AtLeast(5.0)),
        Gate::of("copy / interests", by_interests(|f| f.copy), Bound::AtMost(0.6)),
        Gate::of("searches / interests", by_interests(|f| f.searches), Bound::AtMost(0.4)),
        Gate::of(
            "another's interests - popularity",
            difference(|f| f.permuted - f.popularity),
            Bound::AtMost(0.02),
        ),
        Gate::of("interests / best of a platform", ratio(|f| f.interests, best), Bound::AtLeast(3.0)),
        Gate::of("linear probe / interests", by_interests(|f| f.probe), Bound::AtMost(0.6)),
        Gate::of(
            "neighbouring words - linear probe",
            difference(|f| f.neighbours - f.probe),
            Bound::AtLeast(0.05),
        ),
        Gate::of(
            "noisy readers: judge's list without noise / with it",
            bootstrap_ratio(&noisy(|f| f.wishes_clean), &noisy(|f| f.wishes), seed),
            Bound::AtLeast(1.05),
        ),
    ]
}

/// Do the rewards ask for what readers want?
fn gates_of_rewards(found: &[Found], seed: u64) -> Vec<Gate> {
    let composites = found.iter().filter_map(|f| f.ranks.as_ref()).map(|ranks| ranks.composites[WEIGHTED]);
    let climbs = |value: fn(&Climbs) -> f64| {
        bootstrap(&found.iter().filter_map(|f| f.climbs.as_ref()).map(value).collect::<Vec<_>>(), seed)
    };
    vec![
        Gate::of(
            "composite ranks lists by recall",
            bootstrap(&composites.collect::<Vec<_>>(), seed),
            Bound::AtLeast(0.4),
        ),
        Gate::of("search on five rewards - copy", climbs(|c| c.own[ALL] - c.copy), Bound::AtLeast(0.0)),
        Gate::of(
            "search without coverage - copy",
            climbs(|c| c.own[WITHOUT_COVERAGE] - c.copy),
            Bound::AtMost(0.0),
        ),
        Gate::of(
            "own part without coverage - with it",
            climbs(|c| {
                let own_part = |search: usize| c.own[search] - c.permuted[search];
                own_part(WITHOUT_COVERAGE) - own_part(ALL)
            }),
            Bound::AtMost(0.0),
        ),
    ]
}

fn correlations(found: &[Found], seed: u64) -> Vec<(&'static str, Estimate)> {
    let of = |value: &dyn Fn(&Ranks) -> Option<f64>| {
        bootstrap(&found.iter().filter_map(|f| value(f.ranks.as_ref()?)).collect::<Vec<_>>(), seed)
    };
    let parts = Rewards::NAMES.iter().enumerate().map(|(idx, name)| (*name, of(&|ranks| ranks.parts[idx])));
    let composites = Aggregation::ALL.iter().enumerate();
    let mut correlations: Vec<(&'static str, Estimate)> =
        composites.map(|(idx, (_, name))| (*name, of(&|ranks| Some(ranks.composites[idx])))).collect();
    correlations.extend(parts);
    correlations.push(("true interests", of(&|ranks| ranks.truth)));
    correlations
}

fn searches(found: &[Found], seed: u64) -> Vec<(String, Estimate, Estimate)> {
    let of = |value: &dyn Fn(&Climbs) -> f64| {
        bootstrap(&found.iter().filter_map(|f| f.climbs.as_ref()).map(value).collect::<Vec<_>>(), seed)
    };
    let row = |search: usize| {
        let name = match search.checked_sub(1) {
            Some(without) => format!("without {}", Rewards::NAMES[without]),
            None => "all five".to_owned(),
        };
        (name, of(&|c| c.own[search]), of(&|c| c.own[search] - c.permuted[search]))
    };
    (0..N_SEARCHES).map(row).collect()
}

/// Four Markdown tables.
impl fmt::Display for GateReport {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (world, split) = (&self.world, self.split.name());
        writeln!(
            out,
            "{world} ({} {split} readers, synthetic). Intervals: 95 %, readers resampled.\n",
            self.n_users
        )?;
        writeln!(out, "| Recall@10 | mean | 95 % interval |\n|---|---|---|")?;
        for (name, Estimate { mean, low, high }) in &self.rows {
            writeln!(out, "| {name} | {mean:.4} | [{low:.4}, {high:.4}] |")?;
        }
        writeln!(out, "\n| rank correlation with Recall@10 | mean | 95 % interval |\n|---|---|---|")?;
        for (name, Estimate { mean, low, high }) in &self.ranks {
            writeln!(out, "| {name} | {mean:.3} | [{low:.3}, {high:.3}] |")?;
        }
        writeln!(
            out,
            "\n| search on rewards alone | Recall@10 | 95 % interval | less another reader's | 95 % interval |\n\
             |---|---|---|---|---|"
        )?;
        for (name, own, part) in &self.searches {
            let Estimate { mean, low, high } = own;
            write!(out, "| {name} | {mean:.3} | [{low:.3}, {high:.3}] ")?;
            let Estimate { mean, low, high } = part;
            writeln!(out, "| {mean:.3} | [{low:.3}, {high:.3}] |")?;
        }
        write!(out, "\n{}", Table(&self.gates))
    }
}

#[cfg(test)]
mod tests {
    use super::{super::super::rewards::N_REWARDS, *};

    const SETTINGS: GateSettings = GateSettings { split: Split::Valid, n_users: 2, n_climbers: 2, seed: 1 };

    /// A world that passes every gate.
    fn good() -> Found {
        Found {
            popularity: 0.02,
            copy: 0.1,
            copy_clean: 0.12,
            searches: 0.05,
            interests: 0.5,
            permuted: 0.02,
            vector: 0.1,
            probe: 0.2,
            neighbours: 0.3,
            noise_share: 0.4,
            wishes: 0.3,
            wishes_clean: 0.33,
            climbs: Some(Climbs {
                copy: 0.1,
                own: [0.3, 0.3, 0.05, 0.3, 0.3, 0.3],
                permuted: [0.02; N_SEARCHES],
            }),
            ranks: Some(Ranks { composites: [0.5; 3], parts: [Some(0.2); N_REWARDS], truth: None }),
        }
    }

    fn failed(edit: impl Fn(&mut Found)) -> Vec<&'static str> {
        let mut found = [good(), good()];
        found.iter_mut().for_each(edit);
        let world = World {
            name: "test".to_owned(),
            digest: String::new(),
            seed: 1,
            cutoff_unix_s: 0,
            articles: Vec::new(),
            readers: Vec::new(),
        };
        let gates = report(&world, SETTINGS, &found).gates;
        gates.into_iter().filter(|gate| !gate.passed).map(|gate| gate.name).collect()
    }

    #[test]
    fn every_gate_turns_at_its_bound() {
        assert!(failed(|_| ()).is_empty());
        let check = |edit: fn(&mut Found, f64), within: f64, beyond: f64, name: &str| {
            assert!(failed(|found| edit(found, within)).is_empty(), "{name} at {within}");
            assert_eq!(failed(|found| edit(found, beyond)), [name], "{beyond}");
        };
        check(|f, x| f.popularity = x, 0.099, 0.101, "interests / popularity");
        check(|f, x| f.vector = x, 0.166, 0.167, "interests / best of a platform");
        // Copying is something a platform has: what finds so much fails two gates.
        let copied = |x: f64| failed(|f| (f.copy, f.copy_clean) = (x, 0.4));
        assert_eq!(copied(0.299), ["interests / best of a platform"]);
        assert_eq!(copied(0.301), ["copy / interests", "interests / best of a platform"]);
        check(|f, x| f.searches = x, 0.199, 0.201, "searches / interests");
        check(|f, x| f.permuted = x, 0.039, 0.041, "another's interests - popularity");
        check(|f, x| (f.probe, f.neighbours) = (x, 0.4), 0.299, 0.301, "linear probe / interests");
        check(|f, x| f.neighbours = x, 0.251, 0.249, "neighbouring words - linear probe");
        check(
            |f, x| f.ranks.as_mut().unwrap().composites[WEIGHTED] = x,
            0.401,
            0.399,
            "composite ranks lists by recall",
        );
        let without = |f: &mut Found, x| f.climbs.as_mut().unwrap().own[WITHOUT_COVERAGE] = x;
        check(without, 0.09, 0.11, "search without coverage - copy");
        let stranger = |f: &mut Found, x| f.climbs.as_mut().unwrap().permuted[ALL] = x;
        check(stranger, 0.26, 0.28, "own part without coverage - with it");
        check(|f, x| f.climbs.as_mut().unwrap().own[ALL] = x, 0.11, 0.09, "search on five rewards - copy");
        let cleaning = "noisy readers: judge's list without noise / with it";
        check(|f, x| f.wishes_clean = x, 0.316, 0.314, cleaning);
        assert_eq!(failed(|f| f.noise_share = 0.3), [cleaning], "without noisy readers there is no figure");
    }
}
