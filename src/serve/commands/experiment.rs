//! `experiment`: checks an experiments file, and says what the logs of servers show.
use super::CommandError;
use crate::{
    experiment::{
        flags::Experiments,
        policy::Head,
        readers::Collector,
        report::{Question, report},
        statistics::many::Correction,
    },
    serve::{experiments::log, opening::bounds},
};
use clap::{Args, Subcommand, ValueEnum};
use std::{
    fs::File,
    io::{BufRead, BufReader, Write},
    path::{Path, PathBuf},
};

/// What to do with experiments.
#[derive(Clone, Debug, Subcommand)]
pub enum ExperimentCommand {
    /// Says what an experiments file holds, or everything that is wrong with it
    Check(CheckArgs),
    /// Compares the arms of an experiment by the logs of one or more servers
    Report(ReportArgs),
}

/// Which file.
#[derive(Clone, Debug, Args)]
pub struct CheckArgs {
    /// The file
    pub file: PathBuf,
    /// Refuses arms that ask for a reward head, as a server does whose bundle has none
    #[arg(long)]
    pub no_reward_head: bool,
    /// Refuses arms that stop lists early, as a server does whose reward head does not foresee
    #[arg(long)]
    pub no_foresight: bool,
    /// Name of a bundle that is resident (setting models.residents); may be given more than once
    #[arg(long)]
    pub resident: Vec<String>,
}

/// Which logs, and what to compare.
#[derive(Clone, Debug, Args)]
pub struct ReportArgs {
    /// Folder of a server's log; may be given more than once
    #[arg(long, required = true)]
    pub log_dir: Vec<PathBuf>,
    /// Id of the experiment, without `newshound.`
    #[arg(long)]
    pub experiment: String,
    /// The arm that others are compared with
    #[arg(long)]
    pub control: String,
    /// Phase of the experiment; by default that of the latest answer
    #[arg(long)]
    pub phase: Option<String>,
    /// How p-values are corrected for the number of arms and metrics
    #[arg(long, default_value = "holm")]
    pub correction: CorrectionWord,
    /// Relative lift that the experiment was made to find; the same at every look
    #[arg(long, default_value_t = 0.05)]
    pub expected_lift: f64,
    /// Writes one JSON object
    #[arg(long)]
    pub json: bool,
}

/// A correction on the command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum CorrectionWord {
    /// Bounds the chance of any false finding
    Holm,
    /// The same, more simply and more blindly
    Bonferroni,
    /// Bounds the share of false findings among findings
    BenjaminiHochberg,
}

impl From<CorrectionWord> for Correction {
    fn from(word: CorrectionWord) -> Self {
        match word {
            CorrectionWord::Holm => Self::Holm,
            CorrectionWord::Bonferroni => Self::Bonferroni,
            CorrectionWord::BenjaminiHochberg => Self::BenjaminiHochberg,
        }
    }
}

/// Runs one of the commands.
///
/// # Errors
/// If a file cannot be read or has mistakes, or the logs say nothing of the experiment.
pub fn experiment(command: &ExperimentCommand, out: &mut dyn Write) -> Result<(), CommandError> {
    match command {
        ExperimentCommand::Check(args) => check(args, out),
        ExperimentCommand::Report(args) => compare(args, out),
    }
}

fn check(args: &CheckArgs, out: &mut dyn Write) -> Result<(), CommandError> {
    let text = std::fs::read(&args.file).map_err(unreadable(&args.file))?;
    let name = args.file.display().to_string();
    let head = match (args.no_reward_head, args.no_foresight) {
        (true, _) => Head::Absent,
        (false, true) => Head::Scores,
        (false, false) => Head::Foresees,
    };
    let experiments =
        Experiments::read(&text, &name, &bounds(head, args.resident.iter().cloned().collect()))?;
    let version = experiments.version.as_deref().unwrap_or("none");
    let (digest, n_ignored) = (&experiments.digest, experiments.n_ignored);
    writeln!(out, "{name}: version {version}, digest {digest}, {n_ignored} flags of others")?;
    for experiment in &experiments.experiments {
        let state = if experiment.enabled { "on" } else { "off" };
        let (phase, hash) = (&experiment.spread.phase, experiment.spread.version.number());
        let moves = if hash == 1 {
            ", by which a change of weights moves readers between arms (2 leaves them)"
        } else {
            ""
        };
        writeln!(out, "  {} is {state}, phase {phase}, hash version {hash}{moves}", experiment.id)?;
        for arm in &experiment.arms {
            let fields: Vec<&str> = arm.policy.fields().map(|field| field.word()).collect();
            let sets = if fields.is_empty() { "nothing".to_owned() } else { fields.join(", ") };
            writeln!(out, "    {:<20} sets {sets}", arm.id)?;
        }
    }
    Ok(())
}

fn compare(args: &ReportArgs, out: &mut dyn Write) -> Result<(), CommandError> {
    if !(args.expected_lift > 0.0 && args.expected_lift.is_finite()) {
        return Err(CommandError::Usage("--expected-lift must be above 0".to_owned()));
    }
    let mut collector = Collector::new(&args.experiment);
    for dir in &args.log_dir {
        for file in log::files(dir).map_err(unreadable(dir))? {
            let lines = BufReader::new(File::open(&file).map_err(unreadable(&file))?).split(b'\n');
            for line in lines {
                // What a failing disk has left need not be text; such a line is counted as unreadable.
                collector.add(&String::from_utf8_lossy(&line.map_err(unreadable(&file))?));
            }
        }
    }
    let Some(readers) = collector.readers(args.phase.as_deref()) else {
        let experiment = &args.experiment;
        let nobody = format!("no reader had an arm of {experiment} by hash in these logs");
        return Err(CommandError::Usage(nobody));
    };
    let question = Question {
        experiment: args.experiment.clone(),
        control: args.control.clone(),
        correction: args.correction.into(),
        expected_lift: args.expected_lift,
    };
    let report = report(&readers, &question);
    if !report.arms.contains_key(&args.control) {
        let arms: Vec<&str> = report.arms.keys().map(String::as_str).collect();
        let (control, arms) = (&args.control, arms.join(", "));
        return Err(CommandError::Usage(format!("no reader is in arm {control}; there are {arms}")));
    }
    if args.json {
        serde_json::to_writer(&mut *out, &report).map_err(std::io::Error::from)?;
        return Ok(writeln!(out)?);
    }
    Ok(writeln!(out, "{report}")?)
}

fn unreadable(path: &Path) -> impl Fn(std::io::Error) -> CommandError {
    let path = path.to_owned();
    move |source| CommandError::File { path: path.clone(), source }
}
