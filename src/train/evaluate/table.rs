//! Outcomes of readers to tables.
use super::{
    EvaluateSettings,
    measures::{MEASURES, RECALL_10},
    stopping::Stopping,
    tier::Tier,
    traits::{TRAITS, TraitRow},
    ways::{Outcome, Way},
};
use crate::{
    decode::sampler::SamplerSettings,
    train::{
        events::Split,
        statistics::{Estimate, N_RESAMPLES, bootstrap},
    },
};
use serde::Serialize;
use std::{collections::BTreeMap, fmt::Write};

/// Ways that are compared, the first against the second.
const COMPARED: [(Way, Way); 19] = [
    (Way::First, Way::Popularity),
    (Way::First, Way::Copy),
    (Way::LogProb, Way::First),
    (Way::Consensus, Way::First),
    (Way::Head, Way::First),
    (Way::Head, Way::Consensus),
    (Way::Head, Way::Random),
    (Way::Head, Way::Popularity),
    (Way::Head, Way::Copy),
    (Way::Head, Way::Vector),
    (Way::Head, Way::Judge),
    (Way::HeadSafe, Way::Head),
    (Way::HeadAggressive, Way::Head),
    (Way::HeadAdaptive, Way::Head),
    (Way::StitchedConsensus, Way::Consensus),
    (Way::StitchedHead, Way::Head),
    (Way::StitchedHead, Way::First),
    (Way::Composite, Way::First),
    (Way::Composite, Way::Head),
];
/// Ways that are shown by tier.
const BY_TIER: [Way; 6] = [Way::Popularity, Way::Copy, Way::Vector, Way::First, Way::Consensus, Way::Head];

/// Figures of one way to serve.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// Its name.
    pub name: String,
    /// Recall@10: mean over readers with its interval.
    pub recall: Estimate,
    /// Every measure by its name.
    pub measures: BTreeMap<&'static str, Estimate>,
}

/// Recall@10 of the readers of one tier.
#[derive(Clone, Debug, Serialize)]
pub struct TierRow {
    /// Which readers.
    pub tier: Tier,
    /// How many.
    pub n_users: usize,
    /// By the names of ways.
    pub recall: Vec<(String, Estimate)>,
}

/// All figures.
#[derive(Clone, Debug, Serialize)]
pub struct Evaluation {
    /// World, as it tells itself.
    pub world: String,
    /// The only stream that was read, where not all were.
    pub stream: Option<&'static str>,
    /// Bundle id.
    pub bundle: String,
    /// Which readers.
    pub split: Split,
    /// Readers evaluated.
    pub n_users: usize,
    /// Lists sampled per reader.
    pub n_lists: usize,
    /// Share of sampled lists that are valid, readers resampled.
    pub validity: Estimate,
    /// Lists that are not valid, by reason.
    pub invalid: BTreeMap<&'static str, usize>,
    /// One per way to serve.
    pub rows: Vec<Row>,
    /// Recall@10 of every way under each seed of sampling; empty where there is one.
    pub seeds: Vec<(String, Vec<f64>)>,
    /// Paired differences.
    pub differences: Vec<Row>,
    /// Readers by how much they clicked before.
    pub tiers: Vec<TierRow>,
    /// What early stopping saves, where the bundle's head foresees.
    pub stopping: Vec<Stopping>,
    /// What else tells ways apart.
    pub traits: Vec<TraitRow>,
}

/// Ways that every outcome has, in the order of tables.
fn ways(outcomes: &[Outcome]) -> Vec<Way> {
    outcomes.first().map_or_else(Vec::new, |outcome| outcome.found.iter().map(|(way, _)| *way).collect())
}

/// One row per way.
pub(super) fn rows(outcomes: &[Outcome], settings: EvaluateSettings) -> Vec<Row> {
    let row =
        |way: Way| row(way.name(settings.n_lists), settings.seed, |measure| column(outcomes, way, measure));
    ways(outcomes).into_iter().map(row).collect()
}

/// Recall@10 of every way by seed, where there are several.
pub(super) fn seeds(by_seed: &[Vec<Outcome>], settings: EvaluateSettings) -> Vec<(String, Vec<f64>)> {
    let known = by_seed.first().filter(|_| by_seed.len() > 1).map_or_else(Vec::new, |first| ways(first));
    let mean = |outcomes: &Vec<Outcome>, way: Way| {
        let values = column(outcomes, way, RECALL_10);
        #[allow(clippy::cast_precision_loss, reason = "thousands of readers")]
        let n = values.len().max(1) as f64;
        values.iter().sum::<f64>() / n
    };
    let row =
        |way: Way| (way.name(settings.n_lists), by_seed.iter().map(|outcomes| mean(outcomes, way)).collect());
    known.into_iter().map(row).collect()
}

/// One row per pair of ways.
pub(super) fn differences(outcomes: &[Outcome], settings: EvaluateSettings) -> Vec<Row> {
    let known = ways(outcomes);
    let pairs = COMPARED.into_iter().filter(|(one, other)| known.contains(one) && known.contains(other));
    let difference = |(one, other): (Way, Way)| {
        let name = format!("{} - {}", one.name(settings.n_lists), other.name(settings.n_lists));
        row(name, settings.seed, |measure| {
            let (one, other) = (column(outcomes, one, measure), column(outcomes, other, measure));
            one.iter().zip(other).map(|(one, other)| one - other).collect()
        })
    };
    pairs.map(difference).collect()
}

/// One row per tier that has readers.
pub(super) fn tiers(outcomes: &[Outcome], settings: EvaluateSettings) -> Vec<TierRow> {
    let known = ways(outcomes);
    let of_tier = |tier: Tier| {
        let values = |way: Way| -> Vec<f64> {
            let of_tier = outcomes.iter().filter(|outcome| outcome.tier == tier);
            of_tier.filter_map(|outcome| outcome.of(way)).map(|served| served.figures[RECALL_10]).collect()
        };
        let shown = BY_TIER.into_iter().filter(|way| known.contains(way));
        let recall =
            shown.map(|way| (way.name(settings.n_lists), bootstrap(&values(way), settings.seed))).collect();
        TierRow { tier, n_users: outcomes.iter().filter(|outcome| outcome.tier == tier).count(), recall }
    };
    Tier::ALL.into_iter().map(of_tier).filter(|row| row.n_users > 0).collect()
}

fn row(name: String, seed: u64, values: impl Fn(usize) -> Vec<f64>) -> Row {
    let of_measure =
        |(idx, (measure, _)): (usize, (&'static str, _))| (measure, bootstrap(&values(idx), seed));
    let measures = MEASURES.into_iter().enumerate().map(of_measure).collect();
    Row { name, recall: bootstrap(&values(RECALL_10), seed), measures }
}

fn column(outcomes: &[Outcome], way: Way, measure: usize) -> Vec<f64> {
    outcomes.iter().filter_map(|outcome| outcome.of(way)).map(|served| served.figures[measure]).collect()
}

impl Evaluation {
    /// Returns the figures as Markdown tables. Writing to a string cannot fail.
    pub fn markdown(&self) -> String {
        let mut text = format!(
            "{} ({} {} readers, synthetic unless imported), bundle {}, N={}, temperature {}. Intervals: 95 %, {N_RESAMPLES} resamples of readers.\n\n",
            self.world,
            self.n_users,
            self.split.name(),
            self.bundle,
            self.n_lists,
            SamplerSettings::SERVING.temperature
        );
        if let Some(stream) = self.stream {
            let _ = write!(text, "Of these readers only signals of the stream `{stream}` were read.\n\n");
        }
        let Estimate { mean, low, high } = self.validity;
        let _ = write!(text, "Valid lists: {:.1} % [{:.1}, {:.1}]", 100.0 * mean, 100.0 * low, 100.0 * high);
        for (reason, n) in &self.invalid {
            let _ = write!(text, ", {reason} {n}");
        }
        text.push_str("\n\n");
        for (title, rows) in
            [("Recall@10", &self.rows), ("Paired difference of Recall@10", &self.differences)]
        {
            let _ = writeln!(text, "| {title} | mean | 95 % interval |\n|---|---|---|");
            for Row { name, recall, .. } in rows {
                let Estimate { mean, low, high } = recall;
                let _ = writeln!(text, "| {name} | {mean:.4} | [{low:.4}, {high:.4}] |");
            }
            text.push('\n');
        }
        self.write_measures(&mut text);
        self.write_seeds(&mut text);
        self.write_stopping(&mut text);
        self.write_traits(&mut text);
        self.write_tiers(&mut text);
        text
    }

    fn write_measures(&self, text: &mut String) {
        let header: Vec<&str> = MEASURES.iter().map(|(name, _)| *name).collect();
        let _ = writeln!(text, "| means | {} |\n|---{}|", header.join(" | "), "|---".repeat(header.len()));
        for row in &self.rows {
            let means: Vec<String> =
                header.iter().map(|name| format!("{:.4}", row.measures[name].mean)).collect();
            let _ = writeln!(text, "| {} | {} |", row.name, means.join(" | "));
        }
        text.push('\n');
    }

    fn write_seeds(&self, text: &mut String) {
        let Some((_, first)) = self.seeds.first() else { return };
        let header: Vec<String> = (1..=first.len()).map(|seed| format!("seed {seed}")).collect();
        let _ = writeln!(text, "| Recall@10 | {} |\n|---{}|", header.join(" | "), "|---".repeat(first.len()));
        for (name, means) in &self.seeds {
            let means: Vec<String> = means.iter().map(|mean| format!("{mean:.4}")).collect();
            let _ = writeln!(text, "| {name} | {} |", means.join(" | "));
        }
        text.push('\n');
    }

    fn write_stopping(&self, text: &mut String) {
        if self.stopping.is_empty() {
            return;
        }
        let _ = writeln!(
            text,
            "| early stopping, first seed | lists stopped | tokens saved | head's score of the chosen list, less that without |\n|---|---|---|---|"
        );
        for Stopping { name, lists, tokens, score } in &self.stopping {
            let Estimate { mean, low, high } = score;
            let _ = writeln!(
                text,
                "| {name} | {:.4} | {:.4} | {mean:.4} [{low:.4}, {high:.4}] |",
                lists.mean, tokens.mean
            );
        }
        text.push('\n');
    }

    fn write_traits(&self, text: &mut String) {
        let _ = writeln!(
            text,
            "| means, first seed | {} |\n|---{}|",
            TRAITS.join(" | "),
            "|---".repeat(TRAITS.len())
        );
        for TraitRow { name, traits } in &self.traits {
            let mean =
                |name: &&str| traits.get(name).map_or("-".to_owned(), |value| format!("{:.4}", value.mean));
            let means: Vec<String> = TRAITS.iter().map(mean).collect();
            let _ = writeln!(text, "| {name} | {} |", means.join(" | "));
        }
        text.push('\n');
    }

    fn write_tiers(&self, text: &mut String) {
        let _ = writeln!(
            text,
            "| Recall@10 by clicks before | readers | way | mean | 95 % interval |\n|---|---|---|---|---|"
        );
        for TierRow { tier, n_users, recall } in &self.tiers {
            for (way, Estimate { mean, low, high }) in recall {
                let tier = tier.name();
                let _ = writeln!(text, "| {tier} | {n_users} | {way} | {mean:.4} | [{low:.4}, {high:.4}] |");
            }
        }
    }
}
