//! Rankings and clicks in the formats of TREC, so that trec_eval and ranx can check our figures.
//!
//! `qrels.txt`: `reader 0 article 1` for each held-out click. `<way>.run`: `reader Q0 article rank score way`; scores only fall
//! with the rank. A reader who is shown nothing has no line: `trec_eval -c` counts such readers, as our tables do.
use super::{
    Question,
    ways::{Outcome, Way},
};
use crate::{
    news::article::Article,
    train::{checkpoint::write_file, error::TrainError},
};
use std::{fmt::Write, path::Path};

/// Writes the files of every way that shows one ranking.
///
/// # Errors
/// If the disk refuses.
pub fn write(
    dir: &Path,
    questions: &[Question<'_>],
    outcomes: &[Outcome],
    articles: &[Article],
) -> Result<(), TrainError> {
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
