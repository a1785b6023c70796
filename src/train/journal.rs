//! A run's diary: one JSON line per step, a progress bar with the time left, and the loss as a curve.
#![allow(clippy::cast_precision_loss, reason = "counts of steps and tokens are far below 2^52")]
use super::error::TrainError;
use indicatif::{ProgressBar, ProgressStyle};
use plotters::prelude::{ChartBuilder, IntoDrawingArea, LineSeries, RGBColor, SVGBackend, WHITE};
use serde::{Deserialize, Serialize};
use std::{
    fs::{File, OpenOptions},
    io::Write,
    path::{Path, PathBuf},
};

/// One optimiser step.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
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

/// The diary of one run.
#[derive(Debug)]
pub struct Journal {
    folder: PathBuf,
    file: File,
    metrics: Vec<StepMetrics>,
    bar: ProgressBar,
}

impl Journal {
    /// Opens `metrics.jsonl` in the folder; lines of steps from `first_step` on are dropped, as they will be done again.
    /// # Errors
    /// If the disk refuses.
    pub fn open(folder: &Path, title: &str, first_step: u64, n_steps: u64) -> Result<Self, TrainError> {
        std::fs::create_dir_all(folder).map_err(TrainError::disk(folder, "create"))?;
        let path = folder.join("metrics.jsonl");
        let text = if path.is_file() {
            std::fs::read_to_string(&path).map_err(TrainError::disk(&path, "read"))?
        } else {
            String::new()
        };
        // A line cut short by a crash is dropped with the rest.
        let metrics: Vec<StepMetrics> = text
            .lines()
            .map_while(|line| serde_json::from_str(line).ok())
            .filter(|m: &StepMetrics| m.step < first_step)
            .collect();
        let file = OpenOptions::new().write(true).create(true).truncate(true).open(&path);
        let file = file.map_err(TrainError::disk(&path, "write"))?;
        let mut journal =
            Self { folder: folder.to_owned(), file, metrics: Vec::new(), bar: progress_bar(title, n_steps) };
        for line in metrics {
            journal.write(line)?;
        }
        journal.bar.set_position(first_step);
        journal.bar.reset_eta();
        Ok(journal)
    }

    /// Notes a step.
    /// # Errors
    /// If the disk refuses.
    pub fn note(&mut self, metrics: StepMetrics) -> Result<(), TrainError> {
        let rate = metrics.tokens as f64 / metrics.step_time_s.max(1e-9);
        self.bar.set_message(format!("loss {:.3}, {rate:.0} tokens/s", metrics.loss));
        self.bar.set_position(metrics.step + 1);
        self.write(metrics)
    }

    /// Mean loss of the last `n_steps` steps noted.
    pub fn recent_loss(&self, n_steps: usize) -> Option<f64> {
        let recent = &self.metrics[self.metrics.len().saturating_sub(n_steps)..];
        (!recent.is_empty()).then(|| recent.iter().map(|m| m.loss).sum::<f64>() / recent.len() as f64)
    }

    /// Draws `loss.svg` from all steps so far.
    /// # Errors
    /// If the drawing cannot be written.
    pub fn draw(&self) -> Result<(), TrainError> {
        let path = self.folder.join("loss.svg");
        let points: Vec<(f64, f64)> = self.metrics.iter().map(|m| (m.step as f64, m.loss)).collect();
        draw_curve(&path, "loss, nats per token", &points).map_err(|reason| TrainError::file(&path, reason))
    }

    /// Ends the progress bar.
    pub fn finish(&self) {
        self.bar.finish();
    }

    fn write(&mut self, metrics: StepMetrics) -> Result<(), TrainError> {
        let path = self.folder.join("metrics.jsonl");
        let line = serde_json::to_string(&metrics).map_err(|error| TrainError::file(&path, error))?;
        writeln!(self.file, "{line}").map_err(TrainError::disk(&path, "write"))?;
        self.metrics.push(metrics);
        Ok(())
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
