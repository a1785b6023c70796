//! How many readers are answered per second, over what they ask for.
use super::CommandError;
use crate::plot::{self, Chart, Curve};
use std::path::Path;

/// What every height is.
const TITLE: &str = "readers per second";
/// Points of a sweep beside the largest number: half of it, a quarter, an eighth.
const HALVINGS: u32 = 3;

/// One number that changed, and readers per second at each of its values.
#[derive(Debug)]
pub(super) struct Sweep {
    pub(super) x: &'static str,
    pub(super) points: Vec<(usize, f64)>,
}

/// Numbers to measure beside the largest, ascending.
pub(super) fn below(most: usize) -> impl Iterator<Item = usize> {
    (1..=HALVINGS).rev().map(move |times| most >> times).filter(|&number| number > 0)
}

/// Draws sweeps into a file as SVG.
pub(super) fn write(sweeps: &[Sweep], path: &Path) -> Result<(), CommandError> {
    #[allow(clippy::cast_precision_loss, reason = "what is measured has small numbers")]
    let number = |(number, rate): &(usize, f64)| (*number as f64, *rate);
    let points: Vec<Vec<_>> = sweeps.iter().map(|sweep| sweep.points.iter().map(number).collect()).collect();
    let curves: Vec<_> = points.iter().map(|points| [Curve { name: "measured", points }]).collect();
    let charts = sweeps.iter().zip(&curves);
    let charts: Vec<_> = charts.map(|(sweep, curves)| Chart { title: TITLE, x: sweep.x, curves }).collect();
    let svg = plot::draw(&charts).map_err(CommandError::Usage)?;
    Ok(std::fs::write(path, svg)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_halved_down_to_one() {
        let all = |most| below(most).collect::<Vec<_>>();
        assert_eq!((all(512), all(8), all(3), all(1)), (vec![64, 128, 256], vec![1, 2, 4], vec![1], vec![]));
    }
}
