//! Rows that could not be used: counted by reason, the first ones shown, none dropped silently.
use serde::Serialize;
use std::{collections::BTreeMap, fmt};

/// Rows shown in full; more would hide the counts.
const SHOWN_MAX: usize = 10;

/// What was left out of an import.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Rejects {
    /// Rows, or parts of rows, by reason.
    pub by_reason: BTreeMap<&'static str, usize>,
    /// `file:line: detail` of the first ones.
    pub first: Vec<String>,
}

impl Rejects {
    /// Counts one row. `line` counts from 1.
    pub fn add(&mut self, (file, line): (&str, usize), reason: &'static str, detail: impl fmt::Display) {
        *self.by_reason.entry(reason).or_default() += 1;
        if self.first.len() < SHOWN_MAX {
            self.first.push(format!("{file}:{line}: {reason}: {detail}"));
        }
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.by_reason.values().sum()
    }
}

impl fmt::Display for Rejects {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (reason, n) in &self.by_reason {
            writeln!(formatter, "{n} x {reason}")?;
        }
        self.first.iter().try_for_each(|row| writeln!(formatter, "  {row}"))
    }
}
