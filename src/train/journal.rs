//! A run's diary: one JSON line per step, the same for TensorBoard, a progress bar with the time left, and the loss as a curve.
#![allow(clippy::cast_precision_loss, reason = "counts of steps and tokens are far below 2^52")]
use super::{checkpoint::write_file, error::TrainError, event_file::EventFile};
use indicatif::{ProgressBar, ProgressStyle};
use plotters::prelude::{ChartBuilder, IntoDrawingArea, LineSeries, RGBColor, SVGBackend, WHITE};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use std::{
    fs::{File, OpenOptions},
    io::Write,
    path::{Path, PathBuf},
};

/// One optimiser step.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct StepMetrics {
    /// Optimiser step, from 0.
    pub step: u64,
    /// Mean loss per target token, nats.
    pub loss: f64,
    /// Norm of the gradient before clipping.
    pub grad_norm: f64,
    /// Learning rate of the step.
    pub learning_rate: f64,
    /// Tokens that carried loss.
    pub target_tokens: usize,
    /// Tokens that went through the network.
    pub tokens: usize,
    /// Wall time of the step, seconds.
    pub step_time_s: f64,
}

/// What is known of a step only after its update.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Moved {
    /// Norm of the gradient before clipping.
    pub grad_norm: f64,
    /// Learning rate of the step.
    pub learning_rate: f64,
    /// Wall time of the step, seconds.
    pub step_time_s: f64,
    /// Tokens that carried loss so far, this step's among them.
    pub target_tokens: u64,
}

/// One line of a diary.
pub trait Line: Serialize + DeserializeOwned {
    /// Optimiser step, from 0.
    fn step(&self) -> u64;
    /// The line with what the update added.
    #[must_use]
    fn moved(self, moved: Moved) -> Self;
    /// What the curve shows, with its name.
    fn headline(&self) -> (&'static str, f64);
    /// Tokens that went through the network, and the seconds that it took.
    fn pace(&self) -> (usize, f64);
}

impl Line for StepMetrics {
    fn step(&self) -> u64 {
        self.step
    }

    fn moved(self, Moved { grad_norm, learning_rate, step_time_s, .. }: Moved) -> Self {
        Self { grad_norm, learning_rate, step_time_s, ..self }
    }

    fn headline(&self) -> (&'static str, f64) {
        ("loss", self.loss)
    }

    fn pace(&self) -> (usize, f64) {
        (self.tokens, self.step_time_s)
    }
}

/// Lines of a run's steps in a file, one JSON object each.
#[derive(Debug)]
pub struct Diary<L> {
    path: PathBuf,
    file: File,
    lines: Vec<L>,
}

impl<L: Line> Diary<L> {
    /// Opens a diary; lines of steps from `first_step` on are dropped, as those steps will be done again.
    /// # Errors
    /// If the disk refuses, or a line is none of this diary: what stands behind it is not thrown away.
    pub fn open(path: &Path, first_step: u64) -> Result<Self, TrainError> {
        let text = if path.is_file() {
            std::fs::read_to_string(path).map_err(TrainError::disk(path, "read"))?
        } else {
            String::new()
        };
        let (mut texts, mut kept) = (Vec::new(), Vec::new());
        for (idx, whole) in text.split_inclusive('\n').enumerate() {
            let line = whole.trim_end();
            match serde_json::from_str::<L>(line) {
                Ok(read) if read.step() < first_step => {
                    texts.push(line);
                    kept.push(read);
                }
                Ok(_) => {}
                // The last line, cut short by a crash.
                Err(_) if !whole.ends_with('\n') => {}
                Err(error) => {
                    let (file, reason) = (path.display().to_string(), error.to_string());
                    return Err(TrainError::Line { file, line: idx + 1, reason });
                }
            }
        }
        // As they stand, since a number that is read and written anew may end in another digit; and whole or not at all, since a run
        // that is killed here must not lose what it had noted.
        let texts: String = texts.iter().map(|line| format!("{line}\n")).collect();
        write_file(path, texts.as_bytes())?;
        let file = OpenOptions::new().append(true).open(path).map_err(TrainError::disk(path, "write"))?;
        Ok(Self { path: path.to_owned(), file, lines: kept })
    }

    /// Adds a line.
    /// # Errors
    /// If the disk refuses.
    pub fn write(&mut self, line: L) -> Result<(), TrainError> {
        let json = json_line(&self.path, &line)?;
        self.file.write_all(json.as_bytes()).map_err(TrainError::disk(&self.path, "write"))?;
        self.lines.push(line);
        Ok(())
    }

    /// All lines, the oldest first.
    pub fn lines(&self) -> &[L] {
        &self.lines
    }
}

fn json_line(path: &Path, line: &impl Serialize) -> Result<String, TrainError> {
    let json = serde_json::to_string(line).map_err(|error| TrainError::file(path, error))?;
    Ok(format!("{json}\n"))
}

/// The diary of one run, with a progress bar and a curve.
#[derive(Debug)]
pub struct Journal<L = StepMetrics> {
    folder: PathBuf,
    diary: Diary<L>,
    events: EventFile,
    bar: ProgressBar,
}

impl<L: Line> Journal<L> {
    /// Opens `metrics.jsonl` in the folder and begins an event file; lines of steps from `first_step` on are dropped, as they will be done again.
    /// # Errors
    /// If the disk refuses.
    pub fn open(folder: &Path, title: &str, first_step: u64, n_steps: u64) -> Result<Self, TrainError> {
        std::fs::create_dir_all(folder).map_err(TrainError::disk(folder, "create"))?;
        let diary = Diary::open(&folder.join("metrics.jsonl"), first_step)?;
        let events = EventFile::new(folder, first_step);
        let journal = Self { folder: folder.to_owned(), diary, events, bar: progress_bar(title, n_steps) };
        journal.bar.set_position(first_step);
        journal.bar.reset_eta();
        Ok(journal)
    }

    /// Notes a step.
    /// # Errors
    /// If the disk refuses.
    pub fn note(&mut self, line: L) -> Result<(), TrainError> {
        let ((name, value), (tokens, seconds)) = (line.headline(), line.pace());
        let rate = tokens as f64 / seconds.max(1e-9);
        self.bar.set_message(format!("{name} {value:.3}, {rate:.0} tokens/s"));
        self.bar.set_position(line.step() + 1);
        self.events.add("train", line.step(), &line)?;
        self.diary.write(line)
    }

    /// Draws the headline of all steps so far, as `loss.svg` where it is the loss.
    /// # Errors
    /// If the drawing cannot be written.
    pub fn draw(&self) -> Result<(), TrainError> {
        let lines = self.diary.lines();
        let Some((name, _)) = lines.first().map(Line::headline) else { return Ok(()) };
        let path = self.folder.join(format!("{name}.svg"));
        let points: Vec<(f64, f64)> =
            lines.iter().map(|line| (line.step() as f64, line.headline().1)).collect();
        draw_curve(&path, name, &points).map_err(|reason| TrainError::file(&path, reason))
    }

    /// Ends the progress bar.
    pub fn finish(&self) {
        self.bar.finish();
    }
}

/// Makes a progress bar that shows the time left. It draws on standard error, and only on a terminal.
pub fn progress_bar(title: &str, n_steps: u64) -> ProgressBar {
    let bar = ProgressBar::new(n_steps);
    let style = ProgressStyle::with_template("{prefix:>12} {wide_bar} {pos}/{len} eta {eta} {msg}");
    if let Ok(style) = style {
        bar.set_style(style);
    }
    bar.set_prefix(title.to_owned());
    bar
}

fn draw_curve(path: &Path, title: &str, points: &[(f64, f64)]) -> Result<(), String> {
    let text = |error: &dyn std::fmt::Display| error.to_string();
    let last_step = points.last().map_or(1.0, |(step, _)| step.max(1.0));
    let highest = points.iter().map(|(_, loss)| *loss).fold(1.0, f64::max);
    let area = SVGBackend::new(path, (800, 480)).into_drawing_area();
    area.fill(&WHITE).map_err(|e| text(&e))?;
    let mut chart = ChartBuilder::on(&area)
        .caption(title, ("sans-serif", 20))
        .margin(12)
        .x_label_area_size(36)
        .y_label_area_size(48)
        .build_cartesian_2d(0.0..last_step, 0.0..highest * 1.05)
        .map_err(|e| text(&e))?;
    chart.configure_mesh().x_desc("step").draw().map_err(|e| text(&e))?;
    let line = LineSeries::new(points.iter().copied(), RGBColor(30, 90, 160));
    chart.draw_series(line).map_err(|e| text(&e))?;
    area.present().map_err(|e| text(&e))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Lines were read and written anew: in a run that went on 0.11983093004444349 had become 0.11983093004444348.
    #[test]
    fn lines_that_are_kept_stay_as_they_were_written_and_others_go() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("metrics.jsonl");
        let line = |step: u64| StepMetrics { step, loss: 0.119_830_930_044_443_49, ..StepMetrics::default() };
        let mut diary = Diary::open(&path, 0).unwrap();
        (0..3).for_each(|step| diary.write(line(step)).unwrap());
        let written = std::fs::read_to_string(&path).unwrap();
        std::fs::write(&path, written.clone() + "{\"step\":3,").unwrap();
        let diary = Diary::<StepMetrics>::open(&path, 2).unwrap();
        assert_eq!(diary.lines().len(), 2);
        let kept: String = written.split_inclusive('\n').take(2).collect();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), kept);
    }

    /// The file was written anew without all that stood behind the line.
    #[test]
    fn a_line_that_is_broken_and_not_the_last_is_an_error_and_nothing_is_lost() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("metrics.jsonl");
        let whole = serde_json::to_string(&StepMetrics::default()).unwrap();
        let text = format!("{whole}\n{{\"step\":1,\n{whole}\n");
        std::fs::write(&path, &text).unwrap();
        let error = Diary::<StepMetrics>::open(&path, 9).unwrap_err().to_string();
        assert!(error.contains("line 2"), "{error}");
        assert_eq!(std::fs::read_to_string(&path).unwrap(), text);
    }
}
