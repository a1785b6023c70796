//! A judge elsewhere: a language model that rates lists, as an optional reward beside the five.
//!
//! It is asked through OpenAI's format, which most servers of language models speak. A call that fails in passing gives no
//! value, nor does one list that the judge refuses: it is then judged by what else is known, and never worse for it. A key, a name or a path
//! that the judge refuses ends the run: it would otherwise be a run without a judge, which nobody asked for. What was answered once is kept in a file and not asked again.
use super::Service;
use crate::{
    bundle::manifest::sha256_hex,
    train::{error::TrainError, settings::remote::HttpJudgeSettings},
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::{
    collections::HashMap,
    fs::{File, OpenOptions},
    io::Write,
    path::{Path, PathBuf},
};
use tracing::warn;

/// Name of the cache in a run's folder.
const CACHE_FILE: &str = "judge.jsonl";
/// Statuses that refuse every call alike: no key, a wrong one, no such model or path. Another one is about the list that was sent.
const REFUSES_ALL: [u16; 3] = [401, 403, 404];
/// Highest rating.
const RATING_MAX: f64 = 10.0;
/// Tokens of an answer: a number, and what some models say around it.
const ANSWER_TOKENS: usize = 16;
const TASK: &str = "You rate lists of news search queries that were written for one reader after what the reader did. \
A good list asks for each interest that shows in the signals, with telling words a news search can match, without \
repeating itself, and ignores signals that say nothing about news. Answer with one number from 0 (useless) to 10 (perfect) \
and nothing else.";

/// What is judged: what a reader did, oldest first, and a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    /// Signals, the oldest first.
    pub signals: Vec<String>,
    /// The list, one query a line.
    pub list: String,
}

/// A judge with what it has said already.
#[derive(Debug)]
pub struct HttpJudge {
    service: Service,
    model: String,
    path: PathBuf,
    file: File,
    said: HashMap<String, f64>,
}

#[derive(Deserialize, Serialize)]
struct CacheLine {
    key: String,
    rating: f64,
}

impl HttpJudge {
    /// Opens the judge of the settings; what it said before is read from `folder`, where what it will say is kept.
    /// # Errors
    /// If a setting is wrong, or the disk refuses.
    pub fn open(settings: &HttpJudgeSettings, folder: &Path) -> Result<Self, TrainError> {
        let key_file = (!settings.key_file.is_empty()).then(|| Path::new(&settings.key_file));
        let service = Service::new(&settings.url, key_file, settings.calls)?;
        if !(settings.weight.is_finite() && settings.weight > 0.0) {
            let reason = format!("http_judge.weight is {}, expected above 0", settings.weight);
            return Err(TrainError::Settings { reason });
        }
        std::fs::create_dir_all(folder).map_err(TrainError::disk(folder, "create"))?;
        let path = folder.join(CACHE_FILE);
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
            Err(error) => return Err(TrainError::disk(&path, "read")(error)),
        };
        // A line that a crash cut short is asked again.
        let lines = text.lines().filter_map(|line| serde_json::from_str::<CacheLine>(line).ok());
        let said = lines.map(|CacheLine { key, rating }| (key, rating)).collect();
        let mut file = OpenOptions::new()
            .append(true)
            .create(true)
            .open(&path)
            .map_err(TrainError::disk(&path, "write"))?;
        if !text.is_empty() && !text.ends_with('\n') {
            file.write_all(b"\n").map_err(TrainError::disk(&path, "write"))?;
        }
        Ok(Self { service, model: settings.model.clone(), path, file, said })
    }

    /// Rates lists, each from 0 to 1; None where no answer came or it held no rating.
    /// # Errors
    /// If the judge refuses whatever it is asked, or an answer cannot be kept; what it answered besides is kept before.
    pub fn rate(&mut self, questions: &[Question]) -> Result<Vec<Option<f64>>, TrainError> {
        let bodies: Vec<Value> = questions.iter().map(|question| self.body(question)).collect();
        let keys: Vec<String> = bodies.iter().map(|body| sha256_hex(body.to_string().as_bytes())).collect();
        let mut asked: Vec<usize> =
            (0..keys.len()).filter(|&idx| !self.said.contains_key(&keys[idx])).collect();
        // Lists of a group are often the same.
        asked.sort_by_key(|&idx| &keys[idx]);
        asked.dedup_by_key(|idx| &keys[*idx]);
        let answers =
            self.service.of_all(&asked, |&idx| self.service.post("/v1/chat/completions", &bodies[idx]));
        let (mut n_failed, mut refused) = (0, None);
        for (idx, answer) in asked.into_iter().zip(answers) {
            let rated = match answer {
                Err(error) if refuses_all(&error) => {
                    refused = Some(error);
                    continue;
                }
                Err(error) => Err(error.to_string()),
                Ok(answer) => rating(&answer),
            };
            match rated {
                Ok(rating) => self.keep(CacheLine { key: keys[idx].clone(), rating })?,
                Err(reason) => {
                    if n_failed == 0 {
                        warn!(reason, "the judge gave no rating; the list is judged without it");
                    }
                    n_failed += 1;
                }
            }
        }
        match refused {
            Some(error) => Err(error),
            None => Ok(keys.iter().map(|key| self.said.get(key).copied()).collect()),
        }
    }

    fn keep(&mut self, line: CacheLine) -> Result<(), TrainError> {
        let json = serde_json::to_string(&line).map_err(|error| TrainError::file(&self.path, error))?;
        self.file.write_all(format!("{json}\n").as_bytes()).map_err(TrainError::disk(&self.path, "write"))?;
        self.said.insert(line.key, line.rating);
        Ok(())
    }

    fn body(&self, question: &Question) -> Value {
        let text =
            format!("Signals, oldest first:\n{}\n\nQueries:\n{}", question.signals.join("\n"), question.list);
        json!({
            "model": self.model,
            "messages": [{"role": "system", "content": TASK}, {"role": "user", "content": text}],
            "temperature": 0,
            "max_tokens": ANSWER_TOKENS,
        })
    }
}

fn refuses_all(error: &TrainError) -> bool {
    matches!(error, TrainError::Remote { refused: Some(status), .. } if REFUSES_ALL.contains(status))
}

/// The number that the answer's text begins with, as a share of the highest rating.
fn rating(answer: &Value) -> Result<f64, String> {
    let text = answer["choices"][0]["message"]["content"].as_str().ok_or("the answer holds no message")?;
    number(text)
        .filter(|rating| (0.0..=RATING_MAX).contains(rating))
        .map(|rating| rating / RATING_MAX)
        .ok_or_else(|| "the answer is no number from 0 to 10".to_owned())
}

/// A number at the beginning, perhaps after "Rating:", and no other number but "/10" behind it: of several it is not known which is
/// meant, and a rating is kept for good.
fn number(text: &str) -> Option<f64> {
    let text = text.trim();
    let text = text.strip_prefix("Rating:").unwrap_or(text).trim_start();
    let end = text.find(|c: char| !(c.is_ascii_digit() || c == '.')).unwrap_or(text.len());
    let (number, rest) = text.split_at(end);
    let rest = match rest.trim_start().strip_prefix('/') {
        Some(whole) => whole.trim_start().strip_prefix("10")?,
        None => rest,
    };
    if rest.contains(char::is_numeric) {
        return None;
    }
    number.trim_end_matches('.').parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ratings_are_read_out_of_what_models_say_around_them() {
        let rated = |text: &str| rating(&json!({"choices": [{"message": {"content": text}}]})).ok();
        assert_eq!(rated("7"), Some(0.7));
        assert_eq!(rated("Rating: 8.5/10."), Some(0.85));
        assert_eq!(rated("10."), Some(1.0));
        assert_eq!(rated("11"), None);
        assert_eq!(rated("none"), None);
        assert_eq!(rated("8 / 10, for it is telling"), Some(0.8));
        // The first of these had been read as 0, the second as 3, and both were kept for good.
        assert_eq!(rated("On a scale of 0 to 10, I'd say 8"), None);
        assert_eq!(rated("-3"), None);
        assert_eq!(rated("8/100"), None);
        assert_eq!(rated("8, or 9"), None);
        assert!(rating(&json!({"choices": []})).is_err());
    }
}
