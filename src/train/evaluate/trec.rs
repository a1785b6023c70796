//! Rankings and clicks in the formats of TREC, so that trec_eval and ranx can check our figures.
//!
//! `qrels.txt`: `reader 0 article 1` for each held-out click. `<way>.run`: `reader Q0 article rank score way`; scores only fall
//! with the rank. A reader who is shown nothing has no line: `trec_eval -c` counts such readers, as our tables do.
use super::{
    Question,
    measures::{Figures, MEASURES, figures},
    ways::{Outcome, Way},
};
use crate::{
    news::article::Article,
    train::{
        checkpoint::write_file,
        error::TrainError,
        ranking::Grades,
        statistics::{Estimate, bootstrap},
    },
};
use std::{
    collections::{BTreeMap, HashMap, HashSet},
    fmt::Write,
    path::Path,
};

/// Seed of the intervals of measured files.
const SEED: u64 = 1;
/// Writes the files of every way that shows one ranking; with several seeds, what the first of them shows.
///
/// # Errors
/// If the disk refuses, or a name holds white space, which parts the fields of these formats.
pub fn write(
    dir: &Path,
    questions: &[Question<'_>],
    outcomes: &[Outcome],
    articles: &[Article],
) -> Result<(), TrainError> {
    let keys = questions.iter().map(|question| &question.reader.key);
    let ids = questions.iter().flat_map(|question| question.clicked.keys()).map(|idx| &articles[*idx].id);
    if let Some(name) = keys.chain(ids).find(|name| name.contains(char::is_whitespace)) {
        return Err(TrainError::file(dir, format!("{name:?} holds white space, which files of TREC cannot")));
    }
    let mut qrels = String::new();
    for question in questions {
        for &article_idx in question.clicked.keys() {
            let _ = writeln!(qrels, "{} 0 {} 1", question.reader.key, articles[article_idx].id);
        }
    }
    write_file(&dir.join("qrels.txt"), qrels.as_bytes())?;
    for way in Way::RANKED {
        let mut run = String::new();
        for (question, outcome) in questions.iter().zip(outcomes) {
            let Some(served) = outcome.of(way) else { continue };
            for (rank, &article_idx) in (1..).zip(&served.ranking) {
                let (reader, article) = (&question.reader.key, &articles[article_idx].id);
                let score = 1.0 / f64::from(rank);
                let _ = writeln!(run, "{reader} Q0 {article} {rank} {score} {}", way.word());
            }
        }
        let path = dir.join(format!("{}.run", way.word()));
        if outcomes.iter().all(|outcome| outcome.of(way).is_some()) {
            write_file(&path, run.as_bytes())?;
        } else if path.exists() {
            // Of an earlier bundle; it would be taken for this one's.
            std::fs::remove_file(&path).map_err(TrainError::disk(&path, "delete"))?;
        }
    }
    Ok(())
}

/// Measures a run against qrels and returns a Markdown table: means over the readers of the qrels, with 95 % intervals.
///
/// A reader without a line in the run counts as shown nothing, as with `trec_eval -c`. Scores order a ranking, the highest first;
/// equal scores stay in the order of the file, where trec_eval orders them by name.
/// # Errors
/// If a file cannot be read, or a line is not of its format, or the qrels are empty.
pub fn measure(qrels_at: &Path, run_at: &Path) -> Result<String, TrainError> {
    let (qrels, run) = (read(qrels_at)?, read(run_at)?);
    let mut ids: HashMap<&str, usize> = HashMap::new();
    let mut clicked: BTreeMap<&str, Grades<usize>> = BTreeMap::new();
    for_each_row(qrels_at, &qrels, |[reader, _, article, grade]| {
        let grade: i64 = grade.parse().map_err(|_| format!("grade {grade} is no whole number"))?;
        // Grades below 0 mark spam in some collections: not relevant.
        let grade = u32::try_from(grade.max(0)).map_err(|_| format!("grade {grade} is too large"))?;
        clicked.entry(reader).or_default().insert(id_of(&mut ids, article), grade);
        Ok(())
    })?;
    let mut named: HashSet<(&str, &str)> = HashSet::new();
    let mut shown: BTreeMap<&str, Vec<(f64, usize)>> = BTreeMap::new();
    for_each_row(run_at, &run, |[reader, _, article, _, score, _]| {
        let value: f64 = score.parse().map_err(|_| format!("score {score} is no number"))?;
        if value.is_nan() {
            return Err(format!("score {score} is no number"));
        }
        if !named.insert((reader, article)) {
            return Err(format!("article {article} stands twice in the ranking of {reader}"));
        }
        shown.entry(reader).or_default().push((value, id_of(&mut ids, article)));
        Ok(())
    })?;
    if clicked.is_empty() {
        return Err(TrainError::file(qrels_at, "holds no click"));
    }
    shown.values_mut().for_each(|ranking| ranking.sort_by(|a, b| b.0.total_cmp(&a.0)));
    let of_reader = |(reader, grades): (&&str, &Grades<usize>)| {
        let ranking: Vec<usize> = shown.get(reader).into_iter().flatten().map(|(_, id)| *id).collect();
        figures(&ranking, grades)
    };
    let all: Vec<Figures> = clicked.iter().map(of_reader).collect();
    let mut table = format!("| {} readers | mean | 95 % interval |\n|---|---|---|\n", clicked.len());
    for (idx, (name, _)) in MEASURES.iter().enumerate() {
        let column: Vec<f64> = all.iter().map(|figures| figures[idx]).collect();
        let Estimate { mean, low, high } = bootstrap(&column, SEED);
        let _ = writeln!(table, "| {name} | {mean:.4} | [{low:.4}, {high:.4}] |");
    }
    Ok(table)
}

/// Numbers names in the order in which they come.
fn id_of<'a>(ids: &mut HashMap<&'a str, usize>, name: &'a str) -> usize {
    let next = ids.len();
    *ids.entry(name).or_insert(next)
}

fn read(path: &Path) -> Result<String, TrainError> {
    std::fs::read_to_string(path).map_err(TrainError::disk(path, "read"))
}

/// Calls `each` with the fields of every line; `N` fields between white space. Blank lines are passed over.
fn for_each_row<'a, const N: usize>(
    path: &Path,
    text: &'a str,
    mut each: impl FnMut([&'a str; N]) -> Result<(), String>,
) -> Result<(), TrainError> {
    for (idx, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        let wrong =
            |reason: String| TrainError::Line { file: path.display().to_string(), line: idx + 1, reason };
        let fields: Vec<&str> = line.split_whitespace().collect();
        let n_fields = fields.len();
        let fields = fields.try_into().map_err(|_| wrong(format!("{n_fields} fields where {N} belong")))?;
        each(fields).map_err(wrong)?;
    }
    Ok(())
}
