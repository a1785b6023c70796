//! The table of what a platform has without us: every row filled by one command.
use super::{
    Recommender,
    gru4rec::Gru4Rec,
    hstu::Hstu,
    nrhub::Nrhub,
    pinsage::CoClicks,
    roles::{self, NamedBundle},
    sasrec::SasRec,
    training::Trained,
};
use crate::train::{
    error::TrainError,
    evaluate::{
        self, EvaluateSettings, Question,
        measures::{Figures, MEASURES, figures, mean},
        ways::Platform,
    },
    events::{Scope, Split, World},
    statistics::{Estimate, N_RESAMPLES, bootstrap},
};
use candle_core::Device;
use rayon::prelude::*;
use serde::Serialize;
use std::{collections::BTreeMap, fmt::Write, path::Path};

/// One baseline.
#[derive(Clone, Debug, Serialize)]
pub struct BaselineRow {
    /// Its name.
    pub name: String,
    /// Every measure by its name: means over readers and seeds, intervals over readers.
    pub measures: BTreeMap<&'static str, Estimate>,
    /// Recall@10 under each seed; one where nothing is drawn.
    pub seeds: Vec<f64>,
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
    /// One per baseline.
    pub rows: Vec<BaselineRow>,
}

/// Trains and measures every baseline. `settings.n_seeds`: how often models are trained and lists of `bundles` are sampled, each
/// time with the next seed; networks of bundles compute on `device`.
/// # Errors
/// If the world cannot be read, has no reader to ask, or training fails.
pub fn run(
    world_at: &Path,
    settings: EvaluateSettings,
    bundles: &[NamedBundle],
    device: &Device,
) -> Result<BaselineTable, TrainError> {
    let world = World::read(world_at, Scope::Evaluation)?;
    let questions = evaluate::questions(&world, settings);
    if questions.is_empty() {
        return Err(TrainError::TooLittleData {
            reason: "no reader of the split has signals and held-out clicks".to_owned(),
        });
    }
    let popular = evaluate::popular(&world);
    let platform = Platform::of(&world, popular.clone(), None, None)?;
    let untrained = questions
        .par_iter()
        .map(|question| platform.without_student(question))
        .collect::<Result<Vec<_>, _>>()?;
    let mut rows: Vec<BaselineRow> = Vec::new();
    for idx in 0..untrained.first().map_or(0, Vec::len) {
        let of_seed: Vec<Figures> = untrained.iter().map(|ways| ways[idx].1.figures).collect();
        rows.push(row(untrained[0][idx].0.name(0), &[of_seed], settings.seed));
    }
    let asked = Asked { world: &world, questions: &questions, popular: &popular, settings };
    rows.push(asked.row_of::<CoClicks>()?);
    rows.push(asked.row_of::<Trained<Gru4Rec>>()?);
    rows.push(asked.row_of::<Trained<SasRec>>()?);
    rows.push(asked.row_of::<Trained<Hstu>>()?);
    rows.push(asked.row_of::<Nrhub>()?);
    for named in bundles {
        let by_seed = roles::bundle(world_at, named, settings, &questions, device)?;
        rows.push(row(named.name.clone(), &by_seed, settings.seed));
    }
    if let Some(found) = roles::oracle(world_at, &world, &platform, &questions)? {
        rows.push(row(roles::ORACLE.to_owned(), &[found], settings.seed));
    }
    Ok(BaselineTable { world: world.title(), split: settings.split, n_users: questions.len(), rows })
}

struct Asked<'a> {
    world: &'a World,
    questions: &'a [Question<'a>],
    popular: &'a [usize],
    settings: EvaluateSettings,
}

impl Asked<'_> {
    /// Trains a baseline once per seed and asks it for every reader; of whom it knows nothing is shown what is popular.
    fn row_of<R: Recommender + Sync>(&self) -> Result<BaselineRow, TrainError> {
        let cutoff = self.world.cutoff_unix_s;
        let alive: Vec<usize> = (0..self.world.articles.len())
            .filter(|&idx| self.world.articles[idx].is_alive_at(cutoff))
            .collect();
        let mut by_seed = Vec::new();
        for seed in (self.settings.seed..).take(usize::try_from(self.settings.n_seeds.max(1)).unwrap_or(1)) {
            let trained = R::fit(self.world, seed)?;
            let of_reader = |question: &Question<'_>| -> Result<Figures, TrainError> {
                let ranking = trained.ranking(question.reader, cutoff, &alive)?;
                Ok(figures(ranking.as_deref().unwrap_or(self.popular), &question.clicked))
            };
            by_seed.push(self.questions.par_iter().map(of_reader).collect::<Result<Vec<_>, _>>()?);
        }
        Ok(row(R::NAME.to_owned(), &by_seed, self.settings.seed))
    }
}

/// Figures of readers by seed to a row.
fn row(name: String, by_seed: &[Vec<Figures>], seed: u64) -> BaselineRow {
    let n_users = by_seed.first().map_or(0, Vec::len);
    let over_seeds: Vec<Figures> = (0..n_users)
        .map(|user| mean(&by_seed.iter().map(|figures| figures[user]).collect::<Vec<_>>()))
        .collect();
    let column = |idx: usize| -> Vec<f64> { over_seeds.iter().map(|figures| figures[idx]).collect() };
    let measures =
        MEASURES.iter().enumerate().map(|(idx, (name, _))| (*name, bootstrap(&column(idx), seed))).collect();
    let seeds = by_seed.iter().map(|figures| mean(figures)[evaluate::measures::RECALL_10]).collect();
    BaselineRow { name, measures, seeds }
}

impl BaselineTable {
    /// Returns the figures as Markdown. Writing to a string cannot fail.
    pub fn markdown(&self) -> String {
        let header: Vec<&str> = MEASURES.iter().map(|(name, _)| *name).collect();
        let mut text = format!(
            "{} ({} {} readers, synthetic unless imported). Intervals: 95 %, {N_RESAMPLES} resamples of readers.\n\n\
             | baseline | {} | Recall@10, 95 % interval | Recall@10 by seed |\n|---{}|---|---|\n",
            self.world,
            self.n_users,
            self.split.name(),
            header.join(" | "),
            "|---".repeat(header.len())
        );
        for BaselineRow { name, measures, seeds } in &self.rows {
            let means: Vec<String> =
                header.iter().map(|name| format!("{:.4}", measures[name].mean)).collect();
            let Estimate { low, high, .. } = measures["Recall@10"];
            let seeds: Vec<String> = seeds.iter().map(|mean| format!("{mean:.4}")).collect();
            let seeds = if seeds.len() > 1 { seeds.join(", ") } else { "-".to_owned() };
            let _ = writeln!(text, "| {name} | {} | [{low:.4}, {high:.4}] | {seeds} |", means.join(" | "));
        }
        text
    }
}
