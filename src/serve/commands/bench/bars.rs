//! What a measurement should show, and whether it does.
use std::fmt;

/// One figure, and what it should be.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Bar {
    name: &'static str,
    got: f64,
    bar: f64,
    /// Whether it may not be above the bar, or not below.
    at_most: bool,
}

impl Bar {
    /// A figure that should be no less than `bar`.
    pub fn at_least(name: &'static str, got: f64, bar: f64) -> Self {
        Self { name, got, bar, at_most: false }
    }

    /// A figure that should be no more than `bar`.
    pub fn at_most(name: &'static str, got: f64, bar: f64) -> Self {
        Self { name, got, bar, at_most: true }
    }

    /// Whether it is so. What could not be measured, and is no number, is not.
    fn is_met(&self) -> bool {
        if self.at_most { self.got <= self.bar } else { self.got >= self.bar }
    }
}

/// All figures of a measurement.
#[derive(Clone, Debug, PartialEq)]
pub struct Bars(pub Vec<Bar>);

impl Bars {
    /// For programs: a list of objects.
    pub fn json(&self) -> serde_json::Value {
        let bars = self.0.iter().map(|bar| {
            let limit = if bar.at_most { "at_most" } else { "at_least" };
            serde_json::json!({ "name": bar.name, "got": bar.got, limit: bar.bar, "met": bar.is_met() })
        });
        bars.collect()
    }
}

impl fmt::Display for Bars {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        for bar in &self.0 {
            let Bar { name, got, bar: limit, at_most } = bar;
            let (word, limit_word) =
                (if bar.is_met() { "met" } else { "MISSED" }, if *at_most { "at most" } else { "at least" });
            writeln!(out, "  {word:<6} {name} {got:.3}, {limit_word} {limit}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bar_is_met_on_its_own_side_and_never_by_what_is_no_number() {
        let check = |bar: Bar, is_met: bool| {
            let bars = Bars(vec![bar]);
            assert_eq!(bars.json()[0]["met"], is_met, "{bars}");
            assert_eq!(bars.to_string().contains("MISSED"), !is_met, "{bars}");
        };
        check(Bar::at_least("rate", 0.6, 0.6), true);
        check(Bar::at_least("rate", 0.59, 0.6), false);
        check(Bar::at_most("p99", 2.0, 2.0), true);
        check(Bar::at_most("p99", 2.01, 2.0), false);
        check(Bar::at_most("p99", f64::NAN, 2.0), false);
        check(Bar::at_least("p99", f64::NAN, 2.0), false);
    }
}
