//! Arguments of the commands that measure.
use crate::{model::precision::Precision, train::baselines::roles::NamedBundle};
use clap::{Args, ValueEnum};
use std::path::PathBuf;

/// Arguments of `eval`.
#[derive(Args, Debug)]
pub struct EvalArgs {
    /// World folder.
    #[arg(long)]
    pub(in crate::train) world: PathBuf,
    /// Bundle folder.
    #[arg(long)]
    pub(in crate::train) bundle: PathBuf,
    /// Readers of which split: choices between runs are made on `valid`, so that `test` stays unseen.
    #[arg(long, value_enum, default_value = "test")]
    pub(in crate::train) split: HeldOutSplit,
    /// Let everything read this stream of the readers alone: what is it worth by itself?
    #[arg(long, value_enum)]
    pub(in crate::train) stream: Option<OnlyStream>,
    /// Sentence-transformers folder by which vectors are compared, instead of those that the rewards are made of.
    #[arg(long)]
    pub(in crate::train) embedder: Option<PathBuf>,
    /// How the bundle's numbers are held: f32, bf16, f16 or int8
    #[arg(long, default_value = "f32")]
    pub(in crate::train) precision: Precision,
    /// Folder for rankings and clicks in TREC's formats.
    #[arg(long)]
    pub(in crate::train) trec: Option<PathBuf>,
    /// Most readers.
    #[arg(long, default_value_t = 1_000)]
    pub(in crate::train) users: usize,
    /// Lists per reader: best-of-N is compared with the first of them.
    #[arg(long, default_value_t = 8)]
    pub(in crate::train) n: usize,
    /// Seed of readers, sampling and bootstrap.
    #[arg(long, default_value_t = 7)]
    pub(in crate::train) seed: u64,
    /// Times that lists are sampled, each with the next seed; figures are means over them.
    #[arg(long, default_value_t = 1)]
    pub(in crate::train) seeds: u64,
    /// Also write the figures as a page with plots.
    #[arg(long)]
    pub(in crate::train) html: Option<PathBuf>,
    /// Also write the figures as JSON.
    #[arg(long)]
    pub(in crate::train) json: Option<PathBuf>,
}

/// Splits that have held-out clicks.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum HeldOutSplit {
    /// For choices between runs.
    Valid,
    /// For final figures.
    Test,
}

/// One stream of signals.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum OnlyStream {
    /// Searches.
    Search,
    /// Page visits.
    Page,
    /// News clicks.
    Click,
}

/// Arguments of `baselines`.
#[derive(Args, Debug)]
pub struct BaselineArgs {
    /// World folder.
    #[arg(long)]
    pub(in crate::train) world: PathBuf,
    /// Readers of which split.
    #[arg(long, value_enum, default_value = "test")]
    pub(in crate::train) split: HeldOutSplit,
    /// Most readers.
    #[arg(long, default_value_t = 6_000)]
    pub(in crate::train) users: usize,
    /// Seed of readers, models and bootstrap.
    #[arg(long, default_value_t = 7)]
    pub(in crate::train) seed: u64,
    /// Times that models are trained and lists are sampled, each with the next seed.
    #[arg(long, default_value_t = 3)]
    pub(in crate::train) seeds: u64,
    /// A bundle as rows too, as name=folder; repeat for each: its one list, the best of several by its head, and what an oracle would
    /// choose among its queries. Those named teacher, prompt-only, undistilled, student and supervised are held against the bars of the
    /// method.
    #[arg(long = "bundle", value_parser = named_bundle)]
    pub(in crate::train) bundles: Vec<NamedBundle>,
    /// Lists of a bundle per reader.
    #[arg(long, default_value_t = 8)]
    pub(in crate::train) n: usize,
    /// Folder of a cleaner that judges signals before baselines read them; bundles bring their own.
    #[arg(long)]
    pub(in crate::train) cleaner: Option<PathBuf>,
    /// Make these rows alone: popularity, copy, vector, judge, pinsage, gru4rec, sasrec, hstu, nrhub, interests, or the name of a bundle;
    /// repeat for each.
    #[arg(long)]
    pub(in crate::train) only: Vec<String>,
    /// Folder for the figures of what is trained or sampled, row by row and seed by seed: what is there is not made again, so that a
    /// table goes on where it was stopped, or is made by several processes.
    #[arg(long)]
    pub(in crate::train) kept: Option<PathBuf>,
    /// Also write the figures as a page with a plot.
    #[arg(long)]
    pub(in crate::train) html: Option<PathBuf>,
    /// Also write the figures as JSON.
    #[arg(long)]
    pub(in crate::train) json: Option<PathBuf>,
}

fn named_bundle(text: &str) -> Result<NamedBundle, String> {
    let (name, folder) = text.split_once('=').ok_or("expected name=folder")?;
    Ok(NamedBundle { name: name.to_owned(), folder: PathBuf::from(folder) })
}

/// Arguments of `measure`.
#[derive(Args, Debug)]
pub struct MeasureArgs {
    /// Clicks: `reader 0 article grade` on each line.
    #[arg(long)]
    pub(in crate::train) qrels: PathBuf,
    /// Rankings: `reader Q0 article rank score name` on each line; the highest score comes first.
    #[arg(long)]
    pub(in crate::train) run: PathBuf,
}

/// Arguments of `report`.
#[derive(Args, Debug)]
pub struct ReportArgs {
    /// Folder of a run, with metrics.jsonl; repeat for runs to be compared.
    #[arg(long = "run", required = true)]
    pub(in super::super) runs: Vec<PathBuf>,
    /// Page to write.
    #[arg(long)]
    pub(in super::super) out: PathBuf,
}
