//! What runs went through, as one page: a curve of every figure, and lists before and after.
//!
//! Read from what a run leaves in its folder: `metrics.jsonl`, `watch.jsonl`, `samples.jsonl`. The page holds no script and no other
//! file.
mod lists;

use super::{
    error::TrainError,
    html,
    samples::{SAMPLES_FILE, Sample},
};
use crate::plot::{self, Chart, Curve};
use serde_json::{Map, Value};
use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

/// Figures that are shown first, in this order; the others follow by name.
const FIRST: [&str; 8] =
    ["reward", "rewards/", "loss", "teacher_kl", "entropy", "ppo_kl", "completions/", "clip_ratio/"];

/// One run as its folder tells it.
struct RunStory {
    name: String,
    /// By figure: step and value, oldest first.
    figures: BTreeMap<String, Vec<(f64, f64)>>,
    samples: Vec<Sample>,
}

/// Writes the page of some runs.
/// # Errors
/// If a folder holds no `metrics.jsonl`, a file is broken, or the page cannot be written.
pub fn run(runs: &[PathBuf], out: &Path) -> Result<(), TrainError> {
    let stories = runs.iter().map(|run| read(run)).collect::<Result<Vec<_>, _>>()?;
    let names: Vec<&str> = stories.iter().map(|story| story.name.as_str()).collect();
    let mut page = html::head(&format!("newshound: {}", names.join(", ")));
    for figure in figures(&stories) {
        let curves: Vec<Curve<'_>> = stories
            .iter()
            .filter_map(|story| Some(Curve { name: &story.name, points: story.figures.get(&figure)? }))
            .collect();
        let chart = Chart { title: &figure, x: "step", curves: &curves };
        page.push_str(&plot::draw(&[chart]).map_err(|reason| TrainError::file(out, reason))?);
    }
    for story in &stories {
        page.push_str(&lists::side_by_side(&story.name, &story.samples));
    }
    page.push_str("</body></html>\n");
    super::checkpoint::write_file(out, page.as_bytes())
}

/// Names of all figures of all runs, as they are shown.
fn figures(stories: &[RunStory]) -> Vec<String> {
    let mut names: Vec<String> = stories.iter().flat_map(|story| story.figures.keys().cloned()).collect();
    names.sort();
    names.dedup();
    let place = |name: &str| {
        FIRST.iter().position(|first| name == *first || first.ends_with('/') && name.starts_with(first))
    };
    names.sort_by_key(|name| place(name).unwrap_or(FIRST.len()));
    names
}

fn read(folder: &Path) -> Result<RunStory, TrainError> {
    let mut figures: BTreeMap<String, Vec<(f64, f64)>> = BTreeMap::new();
    let mut add = |prefix: &str, lines: Vec<Map<String, Value>>| {
        for line in lines {
            let Some(step) = line.get("step").and_then(Value::as_f64) else { continue };
            for (name, figure) in line.iter().filter(|(name, _)| *name != "step") {
                let Some(figure) = figure.as_f64() else { continue };
                figures.entry(format!("{prefix}{name}")).or_default().push((step, figure));
            }
        }
    };
    let metrics = folder.join("metrics.jsonl");
    if !metrics.is_file() {
        return Err(TrainError::file(&metrics, "not there; expected the folder of a run"));
    }
    add("", json_lines(&metrics)?);
    add("validation/", json_lines(&folder.join("watch.jsonl"))?);
    let samples = json_lines(&folder.join(SAMPLES_FILE))?;
    let name = folder.file_name().unwrap_or(folder.as_os_str()).to_string_lossy().into_owned();
    Ok(RunStory { name, figures, samples })
}

/// Lines of a file; none where it is not there. A last line that a crash cut short is left out.
fn json_lines<T: serde::de::DeserializeOwned>(path: &Path) -> Result<Vec<T>, TrainError> {
    if !path.is_file() {
        return Ok(Vec::new());
    }
    let text = std::fs::read_to_string(path).map_err(TrainError::disk(path, "read"))?;
    let n_lines = text.lines().count();
    let mut lines = Vec::with_capacity(n_lines);
    for (idx, line) in text.lines().enumerate() {
        match serde_json::from_str(line) {
            Ok(line) => lines.push(line),
            Err(_) if idx + 1 == n_lines && !text.ends_with('\n') => {}
            Err(error) => {
                let (file, reason) = (path.display().to_string(), error.to_string());
                return Err(TrainError::Line { file, line: idx + 1, reason });
            }
        }
    }
    Ok(lines)
}
