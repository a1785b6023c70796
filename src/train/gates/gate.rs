//! One gate: a figure, where it must stay, and whether it is there.
use super::super::statistics::Estimate;
use serde::Serialize;
use std::fmt;

/// One gate with its figure.
#[derive(Clone, Debug, Serialize)]
pub struct Gate {
    /// What is compared.
    pub name: &'static str,
    /// Its figure with an interval.
    pub figure: Estimate,
    /// Where the figure must stay: `>=` or `<=` and a number.
    pub bound: Bound,
    /// Whether the figure is there.
    pub passed: bool,
}

/// Where a figure must stay.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Bound {
    /// Not below.
    AtLeast(f64),
    /// Above.
    Above(f64),
    /// Not above.
    AtMost(f64),
    /// Anywhere: the figure is there to be read.
    Any,
}

impl Gate {
    /// Holds a figure against its bound; what is no number passes none.
    pub fn of(name: &'static str, figure: Estimate, bound: Bound) -> Self {
        let passed = match bound {
            Bound::AtLeast(least) => figure.mean >= least,
            Bound::Above(below) => figure.mean > below,
            Bound::AtMost(most) => figure.mean <= most,
            Bound::Any => figure.mean.is_finite(),
        };
        Self { name, figure, bound, passed }
    }
}

/// How many gates failed.
pub fn n_failed(gates: &[Gate]) -> usize {
    gates.iter().filter(|gate| !gate.passed).count()
}

/// Gates as a Markdown table.
#[derive(Clone, Copy, Debug)]
pub struct Table<'a>(pub &'a [Gate]);

impl fmt::Display for Table<'_> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(out, "| gate | bound | figure | 95 % interval | verdict |\n|---|---|---|---|---|")?;
        for Gate { name, figure: Estimate { mean, low, high }, bound, passed } in self.0 {
            let verdict = if *passed { "passed" } else { "FAILED" };
            writeln!(out, "| {name} | {bound} | {mean:.3} | [{low:.3}, {high:.3}] | {verdict} |")?;
        }
        Ok(())
    }
}

impl fmt::Display for Bound {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AtLeast(least) => write!(out, "at least {least}"),
            Self::Above(below) => write!(out, "above {below}"),
            Self::AtMost(most) => write!(out, "at most {most}"),
            Self::Any => write!(out, "-"),
        }
    }
}
