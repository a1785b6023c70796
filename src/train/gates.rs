//! Gates that a world must pass before anything is trained on it: what no model is needed to find out.
//!
//! | gate | why |
//! |---|---|
//! | the reader's true interests find at least 5 times as much as popularity | else nothing is personal |
//! | copying signals finds at most 60 % of what the interests find | else there is no gap between searches and news |
//! | copying searches alone finds at most 40 % of it | else searches name the news already |
//! | another reader's interests find at most 0.02 more than popularity | else interests are no one's own |
//! | copying signals without noise finds at least 5 % more | else cleaning cannot pay; in points five copied signals find too little to tell |
//! | a linear probe finds at most 60 % of what the interests find | else counting solves the world, and no model is needed |
//!
//! Figures are means of Recall@10 over readers, clicks held out in the day after the cutoff. Intervals resample readers.
use super::{
    error::TrainError,
    evaluate,
    events::{Event, Reader, Scope, Split, World},
    order::Order,
    probe::{Bag, Probe},
    ranking,
    retrieval::{RECALL_K, Retrieval},
    statistics::{Estimate, bootstrap, bootstrap_ratio},
};
use crate::{signals::Stream, world::known::Known};
use rayon::prelude::*;
use serde::Serialize;
use std::{fmt, path::Path};

/// Signals that are copied, and interests that become queries: as many as a list has queries.
const N_QUERIES: usize = 5;

/// Which readers are asked.
#[derive(Clone, Copy, Debug)]
pub struct GateSettings {
    /// Of which split.
    pub split: Split,
    /// How many at most.
    pub n_users: usize,
    /// Seed of their choice and of the intervals.
    pub seed: u64,
}

/// One gate with its figure.
#[derive(Clone, Debug, Serialize)]
pub struct Gate {
    /// What is compared.
    pub name: &'static str,
    /// Its figure with an interval.
    pub figure: Estimate,
    /// Where the figure must stay: `>=` or `<=` and a number.
    pub bound: Bound,
    /// Whether the figure is there.
    pub passed: bool,
}

/// Where a figure must stay.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Bound {
    /// Not below.
    AtLeast(f64),
    /// Not above.
    AtMost(f64),
}

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
    /// The gates.
    pub gates: Vec<Gate>,
}

/// Recall@10 of one reader by each way.
struct Found {
    popularity: f64,
    copy: f64,
    copy_clean: f64,
    searches: f64,
    interests: f64,
    permuted: f64,
    probe: f64,
}

/// Measures every gate.
///
/// # Errors
/// If the world cannot be read, or has no reader of the split with signals and held-out clicks.
pub fn check(world_at: &Path, settings: GateSettings) -> Result<GateReport, TrainError> {
    let world = World::read(world_at, Scope::Evaluation)?;
    let known = Known::read(world_at)?;
    let cutoff = world.cutoff_unix_s;
    let retrieval = Retrieval::of(&world.articles, |article| article.is_alive_at(cutoff))?;
    let is_able = |reader: &&Reader| {
        reader.split == settings.split && !reader.held_out.is_empty() && !reader.events.is_empty()
    };
    let able: Vec<&Reader> = world.readers.iter().filter(is_able).collect();
    let order = Order::new(settings.seed, able.len()).items(0, able.len().min(settings.n_users));
    let readers: Vec<&Reader> = order.into_iter().map(|idx| able[idx]).collect();
    if readers.len() < 2 {
        return Err(TrainError::TooLittleData {
            reason: "fewer than two readers of the split can be asked".to_owned(),
        });
    }
    let probe = Probe::of(&world);
    let ways = Ways {
        known: &known,
        retrieval: &retrieval,
        popular: evaluate::popular(&world),
        bags: probe.bags((0..world.articles.len()).filter(|&idx| world.articles[idx].is_alive_at(cutoff))),
        probe,
        cutoff,
    };
    let found: Vec<Found> = (0..readers.len())
        .into_par_iter()
        .map(|idx| {
            let (reader, other) = (readers[idx], readers[(idx + 1) % readers.len()]);
            ways.find(reader, other)
        })
        .collect::<Result<_, _>>()?;
    Ok(report(&world, settings, &found))
}

/// What finds articles for a reader.
struct Ways<'a> {
    known: &'a Known,
    retrieval: &'a Retrieval,
    popular: Vec<usize>,
    probe: Probe,
    bags: Vec<Bag>,
    cutoff: i64,
}

impl Ways<'_> {
    fn find(&self, reader: &Reader, other: &Reader) -> Result<Found, TrainError> {
        let (known, retrieval, cutoff) = (self.known, self.retrieval, self.cutoff);
        let clicked = ranking::alike(reader.held_out.iter().copied());
        let recall = |found: &[usize]| ranking::recall(found, &clicked, RECALL_K);
        let by_texts = |events: &mut dyn Iterator<Item = &Event>| {
            let texts: Vec<&str> = events.take(N_QUERIES).map(|event| event.text.as_str()).collect();
            Ok::<_, TrainError>(recall(&retrieval.ranking(texts.into_iter(), cutoff)?))
        };
        let by_interests = |of: &Reader| {
            let queries: Vec<String> = known
                .interests(&of.key, cutoff)
                .iter()
                .take(N_QUERIES)
                .map(|names| names.join(" "))
                .collect();
            Ok::<_, TrainError>(recall(&retrieval.ranking(queries.iter().map(String::as_str), cutoff)?))
        };
        let newest = || reader.events.iter().rev();
        let own = reader.events.iter().zip(known.noise(&reader.key)).rev().filter(|(_, noise)| !**noise);
        Ok(Found {
            popularity: recall(&self.popular),
            copy: by_texts(&mut newest())?,
            copy_clean: by_texts(&mut own.map(|(event, _)| event))?,
            searches: by_texts(&mut newest().filter(|event| event.stream == Stream::Search))?,
            interests: by_interests(reader)?,
            permuted: by_interests(other)?,
            probe: recall(&self.probe.ranking(reader, cutoff, &self.bags, RECALL_K)),
        })
    }
}

fn report(world: &World, settings: GateSettings, found: &[Found]) -> GateReport {
    let column = |value: fn(&Found) -> f64| -> Vec<f64> { found.iter().map(value).collect() };
    let (popularity, interests) = (column(|f| f.popularity), column(|f| f.interests));
    let (copy, searches) = (column(|f| f.copy), column(|f| f.searches));
    let row = |name, value| (name, bootstrap(&column(value), settings.seed));
    let ratio = |part: &[f64], whole: &[f64]| bootstrap_ratio(part, whole, settings.seed);
    let difference = |value: fn(&Found) -> f64| bootstrap(&column(value), settings.seed);
    let gate = |name, figure: Estimate, bound| {
        let passed = match bound {
            Bound::AtLeast(least) => figure.mean >= least,
            Bound::AtMost(most) => figure.mean <= most,
        };
        Gate { name, figure, bound, passed }
    };
    GateReport {
        world: world.name.clone(),
        split: settings.split,
        n_users: found.len(),
        rows: vec![
            row("popularity", |f| f.popularity),
            row("copy the last 5 signals", |f| f.copy),
            row("copy the last 5 signals that are no noise", |f| f.copy_clean),
            row("copy the last 5 searches", |f| f.searches),
            row("true interests as 5 queries", |f| f.interests),
            row("another reader's interests", |f| f.permuted),
            row("linear probe", |f| f.probe),
        ],
        gates: vec![
            gate("interests / popularity", ratio(&interests, &popularity), Bound::AtLeast(5.0)),
            gate("copy / interests", ratio(&copy, &interests), Bound::AtMost(0.6)),
            gate("searches / interests", ratio(&searches, &interests), Bound::AtMost(0.4)),
            gate(
                "another's interests - popularity",
                difference(|f| f.permuted - f.popularity),
                Bound::AtMost(0.02),
            ),
            gate("linear probe / interests", ratio(&column(|f| f.probe), &interests), Bound::AtMost(0.6)),
            gate("copy without noise / copy", ratio(&column(|f| f.copy_clean), &copy), Bound::AtLeast(1.05)),
        ],
    }
}

impl GateReport {
    /// How many gates failed.
    pub fn n_failed(&self) -> usize {
        self.gates.iter().filter(|gate| !gate.passed).count()
    }
}

impl fmt::Display for Bound {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AtLeast(least) => write!(out, "at least {least}"),
            Self::AtMost(most) => write!(out, "at most {most}"),
        }
    }
}

/// Two Markdown tables.
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
        writeln!(out, "\n| gate | bound | figure | 95 % interval | verdict |\n|---|---|---|---|---|")?;
        for Gate { name, figure: Estimate { mean, low, high }, bound, passed } in &self.gates {
            let verdict = if *passed { "passed" } else { "FAILED" };
            writeln!(out, "| {name} | {bound} | {mean:.3} | [{low:.3}, {high:.3}] | {verdict} |")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SETTINGS: GateSettings = GateSettings { split: Split::Valid, n_users: 2, seed: 1 };

    /// A world that passes every gate.
    fn good() -> Found {
        Found {
            popularity: 0.02,
            copy: 0.1,
            copy_clean: 0.12,
            searches: 0.05,
            interests: 0.5,
            permuted: 0.02,
            probe: 0.2,
        }
    }

    fn failed(edit: impl Fn(&mut Found)) -> Vec<&'static str> {
        let mut found = [good(), good()];
        found.iter_mut().for_each(edit);
        let world = World {
            name: "test".to_owned(),
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
        check(|f, x| (f.copy, f.copy_clean) = (x, 0.4), 0.299, 0.301, "copy / interests");
        check(|f, x| f.searches = x, 0.199, 0.201, "searches / interests");
        check(|f, x| f.permuted = x, 0.039, 0.041, "another's interests - popularity");
        check(|f, x| f.probe = x, 0.299, 0.301, "linear probe / interests");
        check(|f, x| f.copy_clean = x, 0.106, 0.104, "copy without noise / copy");
    }
}
