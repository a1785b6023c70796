//! Figures of readers to the table: means, intervals, and what must hold of a world's baselines.
use super::{
    SequenceModel,
    asked::Measured,
    bars::bars,
    hstu::Hstu,
    kept::Part,
    sasrec::SasRec,
    table::{INTERESTS, of_platform},
};
use crate::{
    signals::Stream,
    train::{
        error::TrainError,
        evaluate::{
            EvaluateSettings,
            measures::{MEASURES, RECALL_10},
            page::{self, Points},
            tier::Tier,
            traits::OF_RANKINGS,
            ways::Way,
        },
        events::Split,
        gates::gate::{Bound, Gate, Table},
        statistics::{Estimate, N_RESAMPLES, bootstrap, bootstrap_crossed, bootstrap_ratio},
    },
};
use rayon::prelude::*;
use serde::Serialize;
use std::{collections::BTreeMap, fmt::Write};

/// Who finds what a row shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// Something that a platform has already.
    Platform,
    /// A list of queries that is written for the reader.
    Ours,
    /// What nobody can know when the list is asked for.
    Oracle,
}

/// What was measured of a row, seed by seed.
#[derive(Clone, Debug)]
pub struct Measurements {
    word: String,
    name: String,
    kind: Kind,
    by_seed: Vec<Measured>,
}

impl Measurements {
    /// One row by its word and name.
    pub fn of((word, name): (&str, &str), kind: Kind, by_seed: Vec<Measured>) -> Self {
        Self { word: word.to_owned(), name: name.to_owned(), kind, by_seed }
    }

    /// The rows of parts that hold the same names, one part for each seed.
    pub fn of_parts(word: &str, parts: &[Part], kind: impl Fn(&str) -> Kind) -> Vec<Self> {
        let row = |(idx, (name, _)): (usize, &(String, Measured))| {
            let by_seed = parts.iter().filter_map(|part| Some(part.get(idx)?.1.clone())).collect();
            Self::of((word, name), kind(name), by_seed)
        };
        parts.first().map_or_else(Vec::new, |first| first.iter().enumerate().map(row).collect())
    }

    /// Values of all readers by seed.
    fn columns(&self, value: impl Fn(&Measured) -> Vec<f64>) -> Vec<Vec<f64>> {
        self.by_seed.iter().map(value).collect()
    }

    fn recall(&self) -> Vec<Vec<f64>> {
        self.columns(|seed| seed.figures.iter().map(|figures| figures[RECALL_10]).collect())
    }

    /// Whether it is a row of a word whose name ends so.
    pub(super) fn is(&self, word: &str, ending: &str) -> bool {
        self.word == word && self.name.ends_with(ending)
    }

    /// Recall@10 of each reader, mean over seeds.
    #[allow(clippy::cast_precision_loss, reason = "a handful of seeds")]
    pub(super) fn mean_recall(&self) -> Vec<f64> {
        let by_seed = self.recall();
        let n_users = by_seed.first().map_or(0, Vec::len);
        let mean = |user: usize| by_seed.iter().map(|seed| seed[user]).sum::<f64>() / by_seed.len() as f64;
        (0..n_users).map(mean).collect()
    }
}

/// One row of the table.
#[derive(Clone, Debug, Serialize)]
pub struct BaselineRow {
    /// Its word in `--only`; rows of a bundle have its name.
    pub word: String,
    /// Its name.
    pub name: String,
    /// Who finds it.
    pub kind: Kind,
    /// Every measure and every trait by its name: means over readers and seeds, intervals over both.
    pub measures: BTreeMap<&'static str, Estimate>,
    /// Recall@10 less that of popularity for the same readers; none where popularity is no row.
    pub over_popularity: Option<Estimate>,
    /// Recall@10 under each seed; one where nothing is drawn.
    pub seeds: Vec<f64>,
    /// Recall@10 of the readers of each tier that has some.
    pub tiers: Vec<(Tier, Estimate)>,
    /// Recall@10 after one stream alone, first seed; empty where that was not asked.
    pub streams: Vec<(&'static str, Estimate)>,
}

/// All of them.
#[derive(Clone, Debug, Serialize)]
pub struct BaselineTable {
    /// World, as it tells itself.
    pub world: String,
    /// Which readers.
    pub split: Split,
    /// How many.
    pub n_users: usize,
    /// How many of each tier.
    pub tiers: Vec<(Tier, usize)>,
    /// One per baseline.
    pub rows: Vec<BaselineRow>,
    /// What must hold, as far as there are rows to say it.
    pub gates: Vec<Gate>,
    /// What the method must show, as far as bundles bear the names of its roles. One that is missed fails no command: it is a figure.
    pub bars: Vec<Gate>,
}

impl BaselineTable {
    /// Puts figures and intervals together. `tiers`: of each reader.
    pub fn of(world: String, settings: EvaluateSettings, tiers: &[Tier], measured: &[Measurements]) -> Self {
        let popularity = measured.iter().find(|row| row.word == Way::Popularity.word());
        let popularity = popularity.map(Measurements::mean_recall);
        let rows = measured
            .par_iter()
            .map(|row| baseline(row, tiers, popularity.as_deref(), settings.seed))
            .collect();
        let n_of = |tier: Tier| tiers.iter().filter(|of| **of == tier).count();
        Self {
            world,
            split: settings.split,
            n_users: tiers.len(),
            tiers: Tier::ALL.into_iter().map(|tier| (tier, n_of(tier))).collect(),
            rows,
            gates: gates(measured, settings.seed),
            bars: bars(measured, settings.seed),
        }
    }
}

fn baseline(row: &Measurements, tiers: &[Tier], popularity: Option<&[f64]>, seed: u64) -> BaselineRow {
    let estimate = |by_seed: &[Vec<f64>]| bootstrap_crossed(by_seed, seed);
    let figures = MEASURES.iter().enumerate().map(|(idx, (name, _))| {
        (*name, row.columns(|seed| seed.figures.iter().map(|figures| figures[idx]).collect()))
    });
    let traits = OF_RANKINGS.iter().enumerate().map(|(idx, name)| {
        (*name, row.columns(|seed| seed.traits.iter().map(|traits| traits[idx]).collect()))
    });
    let recall = row.recall();
    let of_tier = |tier: Tier| {
        let only = |seed: &Vec<f64>| {
            seed.iter().zip(tiers).filter(|(_, of)| **of == tier).map(|(recall, _)| *recall).collect()
        };
        let by_seed: Vec<Vec<f64>> = recall.iter().map(only).collect();
        by_seed.first().is_some_and(|users| !users.is_empty()).then(|| (tier, estimate(&by_seed)))
    };
    let less = |popularity: &[f64]| {
        let paired = |seed: &Vec<f64>| seed.iter().zip(popularity).map(|(one, other)| one - other).collect();
        estimate(&recall.iter().map(paired).collect::<Vec<Vec<f64>>>())
    };
    let alone = row.by_seed.first().map_or(&[][..], |first| &first.alone);
    let of_stream = |stream: Stream| {
        let recall: Vec<f64> = alone.iter().map(|alone| alone[stream as usize]).collect();
        (stream.word(), bootstrap(&recall, seed))
    };
    #[allow(clippy::cast_precision_loss, reason = "thousands of readers")]
    let mean = |users: &Vec<f64>| users.iter().sum::<f64>() / users.len().max(1) as f64;
    BaselineRow {
        word: row.word.clone(),
        name: row.name.clone(),
        kind: row.kind,
        measures: figures.chain(traits).map(|(name, by_seed)| (name, estimate(&by_seed))).collect(),
        over_popularity: popularity.map(less),
        seeds: recall.iter().map(mean).collect(),
        tiers: Tier::ALL.into_iter().filter_map(of_tier).collect(),
        streams: if alone.is_empty() { Vec::new() } else { Stream::ALL.map(of_stream).to_vec() },
    }
}

/// What must hold of a world before figures made in it say anything: models that learn from clicks find more than what is popular,
/// and who knows the reader's interests finds three times what the best of a platform finds.
fn gates(measured: &[Measurements], seed: u64) -> Vec<Gate> {
    let of = |word: &str| measured.iter().find(|row| row.word == word);
    let Some(popularity) = of(Way::Popularity.word()).map(Measurements::mean_recall) else {
        return Vec::new();
    };
    let over_popularity = |name: &'static str, word: &str| {
        let paired = |seed: &Vec<f64>| seed.iter().zip(&popularity).map(|(one, other)| one - other).collect();
        let by_seed: Vec<Vec<f64>> = of(word)?.recall().iter().map(paired).collect();
        Some(Gate::of(name, bootstrap_crossed(&by_seed, seed), Bound::Above(0.0)))
    };
    let platforms = measured.iter().filter(|row| row.kind == Kind::Platform).map(Measurements::mean_recall);
    let best = platforms.max_by(|a, b| a.iter().sum::<f64>().total_cmp(&b.iter().sum()));
    // The best of some rows may not be the best of all.
    let is_whole = of_platform().all(|word| of(word).is_some());
    let interests = of(INTERESTS).filter(|_| is_whole).zip(best).map(|(interests, best)| {
        let ratio = bootstrap_ratio(&interests.mean_recall(), &best, seed);
        Gate::of("true interests / best of a platform", ratio, Bound::AtLeast(3.0))
    });
    let gates = [
        over_popularity("SASRec - popularity", SasRec::WORD),
        over_popularity("HSTU - popularity", Hstu::WORD),
        interests,
    ];
    gates.into_iter().flatten().collect()
}

impl BaselineTable {
    /// Returns the figures as one HTML page without any script or outside file.
    /// # Errors
    /// If a plot cannot be drawn.
    pub fn html(&self) -> Result<String, TrainError> {
        let points: Points<'_> =
            self.rows.iter().map(|row| (row.name.as_str(), row.measures[MEASURES[RECALL_10].0])).collect();
        let plots = [("Recall@10, mean and 95 % interval", points)];
        page::page(&format!("newshound baselines: {}", self.world), &plots, &self.markdown())
    }

    /// Returns the figures as Markdown tables. Writing to a string cannot fail.
    pub fn markdown(&self) -> String {
        let mut text = format!(
            "{} ({} {} readers, synthetic unless imported). Intervals: 95 %, {N_RESAMPLES} resamples of readers and seeds.\n\n",
            self.world,
            self.n_users,
            self.split.name(),
        );
        self.write_recall(&mut text);
        self.write_measures(&mut text);
        self.write_tiers(&mut text);
        self.write_streams(&mut text);
        for gates in [&self.gates, &self.bars].into_iter().filter(|gates| !gates.is_empty()) {
            let _ = writeln!(text, "{}", Table(gates));
        }
        text
    }

    fn write_recall(&self, text: &mut String) {
        text.push_str(
            "| Recall@10 | mean | 95 % interval | less popularity | by seed |\n|---|---|---|---|---|\n",
        );
        for BaselineRow { name, measures, over_popularity, seeds, .. } in &self.rows {
            let less = over_popularity.as_ref().map_or_else(|| "-".to_owned(), cell);
            let seeds: Vec<String> = seeds.iter().map(|mean| format!("{mean:.4}")).collect();
            let seeds = if seeds.len() > 1 { seeds.join(", ") } else { "-".to_owned() };
            let Estimate { mean, low, high } = measures[MEASURES[RECALL_10].0];
            let _ = writeln!(text, "| {name} | {mean:.4} | [{low:.4}, {high:.4}] | {less} | {seeds} |");
        }
        text.push('\n');
    }

    fn write_measures(&self, text: &mut String) {
        let header: Vec<&str> =
            MEASURES.iter().map(|(name, _)| *name).chain(OF_RANKINGS.iter().copied()).collect();
        let _ = writeln!(text, "| means | {} |\n|---{}|", header.join(" | "), "|---".repeat(header.len()));
        for BaselineRow { name, measures, .. } in &self.rows {
            let means: Vec<String> =
                header.iter().map(|measure| format!("{:.4}", measures[measure].mean)).collect();
            let _ = writeln!(text, "| {name} | {} |", means.join(" | "));
        }
        text.push('\n');
    }

    fn write_tiers(&self, text: &mut String) {
        let known: Vec<&(Tier, usize)> = self.tiers.iter().filter(|(_, n)| *n > 0).collect();
        let header: Vec<String> =
            known.iter().map(|(tier, n)| format!("{}: {n} readers", tier.name())).collect();
        let _ = writeln!(
            text,
            "| Recall@10 by clicks before | {} |\n|---{}|",
            header.join(" | "),
            "|---".repeat(header.len())
        );
        for BaselineRow { name, tiers, .. } in &self.rows {
            let cells: Vec<String> = tiers.iter().map(|(_, estimate)| cell(estimate)).collect();
            let _ = writeln!(text, "| {name} | {} |", cells.join(" | "));
        }
        text.push('\n');
    }

    fn write_streams(&self, text: &mut String) {
        let words = Stream::ALL.map(Stream::word);
        let _ = writeln!(
            text,
            "| Recall@10 of one stream alone, first seed | {} |\n|---|---|---|---|",
            words.join(" | ")
        );
        for BaselineRow { name, streams, .. } in self.rows.iter().filter(|row| !row.streams.is_empty()) {
            let cells: Vec<String> = streams.iter().map(|(_, estimate)| cell(estimate)).collect();
            let _ = writeln!(text, "| {name} | {} |", cells.join(" | "));
        }
        text.push('\n');
    }
}

fn cell(Estimate { mean, low, high }: &Estimate) -> String {
    format!("{mean:.4} [{low:.4}, {high:.4}]")
}
