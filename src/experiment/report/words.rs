//! A report in words, for people.
use super::{Comparison, Mismatch, Report, Row};
use std::fmt;

impl fmt::Display for Report {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(out, "experiment {}, phase {}, against {}", self.experiment, self.phase, self.control)?;
        for (arm, size) in &self.arms {
            write!(out, "  {arm:<20} {:>9} readers {:>10} answers", size.readers, size.answers)?;
            if let (Some(cost), Some(currency)) = (size.cost_per_1k_readers, &self.currency) {
                write!(out, "  {cost:.6} {currency} per 1,000 readers")?;
            }
            if size.answers_degraded > 0 {
                let share = 100.0 * size.answers_degraded as f64 / size.answers as f64;
                write!(out, "  {share:.1} % fell short")?;
            }
            writeln!(out)?;
        }
        self.write_soundness(out)?;
        if let Some(needed) = self.readers_needed {
            let lift = 100.0 * self.expected_lift;
            writeln!(
                out,
                "  {needed:.0} readers per arm find {lift} % more readers who click, in 4 of 5 experiments"
            )?;
        }
        write_rows(out, &self.rows)?;
        for before in &self.before {
            let Comparison { difference, interval, p, .. } = before.comparison;
            writeln!(
                out,
                "  {} readers of {} against themselves before: {difference:+.4} clicks per answer [{:.4}, {:.4}], p = {p:.3}",
                before.readers, before.arm, interval.low, interval.high
            )?;
        }
        if !self.in_full.is_empty() {
            writeln!(
                out,
                "\n  answers in full alone; which fall short comes after the arm and may come of it, so that no verdict rests on these rows"
            )?;
            write_rows(out, &self.in_full)?;
        }
        writeln!(out, "\n{}", self.verdict())?;
        let left_out = serde_json::to_string(&self.left_out).unwrap_or_default();
        write!(out, "left out: {left_out}")
    }
}

fn write_rows(out: &mut fmt::Formatter<'_>, rows: &[Row]) -> fmt::Result {
    writeln!(
        out,
        "\n  {:<26} {:<16} {:>9} {:>9} {:>10} {:>23} {:>8} {:>9} {:>8} {:>8}",
        "metric",
        "arm",
        "control",
        "arm",
        "difference",
        "95 % interval",
        "p",
        "corrected",
        "any day",
        "ranks"
    )?;
    rows.iter().try_for_each(|row| write_row(out, row))
}

fn write_row(out: &mut fmt::Formatter<'_>, row: &Row) -> fmt::Result {
    let Comparison { difference, interval, p, .. } = row.comparison;
    let ranks = row.p_ranks.map_or_else(|| "-".to_owned(), |p| format!("{p:.4}"));
    writeln!(
        out,
        "  {:<26} {:<16} {:>9.4} {:>9.4} {difference:>+10.4} {:>23} {p:>8.4} {:>9.4} {:>8.4} {ranks:>8}",
        row.metric,
        row.arm,
        row.control,
        row.treatment,
        format!("[{:.4}, {:.4}]", interval.low, interval.high),
        row.p_corrected,
        row.p_always_valid,
    )
}

impl Report {
    /// Whether arms can be compared at all, and whether they were answered alike.
    fn write_soundness(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.mismatch {
            Some(mismatch) if mismatch.is_alarming() => writeln!(
                out,
                "BROKEN: arms have not the readers that their weights say (p = {:.1e}); believe nothing below",
                mismatch.p
            )?,
            Some(mismatch) => {
                writeln!(out, "  arms have the readers that their weights say (p = {:.3})", mismatch.p)?
            }
            None => writeln!(out, "  there is nothing to compare the numbers of readers with")?,
        }
        match &self.degraded {
            Some(degraded) if degraded.is_alarming() => writeln!(
                out,
                "UNEVEN: answers of some arms fall short for more readers (p = {:.1e}); the rows below are of all answers, as readers got them",
                degraded.p
            )?,
            Some(degraded) => {
                writeln!(out, "  answers of all arms fall short for as many readers (p = {:.3})", degraded.p)?
            }
            None => {}
        }
        Ok(())
    }

    /// What can be said in a sentence or two.
    fn verdict(&self) -> String {
        if self.mismatch.as_ref().is_some_and(Mismatch::is_alarming) {
            return "verdict: none, the experiment is broken".to_owned();
        }
        let found: Vec<String> = self
            .rows
            .iter()
            .filter(|row| row.is_found())
            .map(|row| {
                let word = if row.comparison.difference > 0.0 { "more" } else { "fewer" };
                format!("{} has {word} {}", row.arm, row.metric)
            })
            .collect();
        match found.is_empty() {
            true => "verdict: no difference was found".to_owned(),
            false => format!("verdict: {}", found.join("; ")),
        }
    }
}
