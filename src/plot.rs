//! Curves as SVG, for people.
use plotters::{coord::Shift, prelude::*};

const SIZE: (u32, u32) = (900, 260);
/// Points of one curve: more would not be seen, so neighbours are averaged.
const POINTS_MAX: usize = 300;
/// Told apart in print and by readers who see few colours. Source: the palette of Okabe and Ito.
const COLOURS: [RGBColor; 6] = [
    RGBColor(0, 114, 178),
    RGBColor(213, 94, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(86, 180, 233),
    RGBColor(0, 0, 0),
];

/// Some numbers over others.
#[derive(Clone, Debug)]
pub struct Curve<'a> {
    /// What the legend calls it.
    pub name: &'a str,
    /// From left to right.
    pub points: &'a [(f64, f64)],
}

/// Curves that are compared.
#[derive(Clone, Debug)]
pub struct Chart<'a> {
    /// What its heights are.
    pub title: &'a str,
    /// What lies along its lower edge, from 0.
    pub x: &'a str,
    /// At least one, of at least one point.
    pub curves: &'a [Curve<'a>],
}

/// Draws charts one below the other, as SVG.
///
/// # Errors
/// Why they cannot be drawn.
pub fn draw(charts: &[Chart<'_>]) -> Result<String, String> {
    let mut svg = String::new();
    let n_charts = u32::try_from(charts.len()).map_err(|error| error.to_string())?;
    let area = SVGBackend::with_string(&mut svg, (SIZE.0, SIZE.1 * n_charts)).into_drawing_area();
    area.fill(&WHITE).map_err(|error| error.to_string())?;
    for (area, chart) in area.split_evenly((charts.len(), 1)).iter().zip(charts) {
        chart.draw(area).map_err(|error| format!("plot of {}: {error}", chart.title))?;
    }
    area.present().map_err(|error| error.to_string())?;
    drop(area);
    Ok(svg)
}

impl Chart<'_> {
    fn draw(&self, area: &DrawingArea<SVGBackend<'_>, Shift>) -> Result<(), String> {
        let text = |error: &dyn std::fmt::Display| error.to_string();
        let Self { title, x, curves } = *self;
        let thinned: Vec<Vec<(f64, f64)>> = curves.iter().map(|curve| thinned(curve.points)).collect();
        let all = || thinned.iter().flatten();
        let last_step = all().map(|point| point.0).fold(1.0, f64::max);
        let low = all().map(|point| point.1).fold(f64::INFINITY, f64::min);
        let high = all().map(|point| point.1).fold(f64::NEG_INFINITY, f64::max);
        // A figure that never changes still gets a height.
        let room = (0.05 * (high - low)).max(1e-6 * high.abs()).max(1e-9);
        let mut chart = ChartBuilder::on(area)
            .caption(title, ("sans-serif", 16))
            .margin(10)
            .x_label_area_size(28)
            .y_label_area_size(70)
            .build_cartesian_2d(0.0..last_step, low - room..high + room)
            .map_err(|error| text(&error))?;
        chart.configure_mesh().light_line_style(WHITE).x_desc(x).draw().map_err(|error| text(&error))?;
        for ((curve, points), colour) in curves.iter().zip(&thinned).zip(COLOURS.iter().cycle()) {
            let line = LineSeries::new(points.iter().copied(), colour);
            let drawn = chart.draw_series(line).map_err(|error| text(&error))?;
            drawn
                .label(curve.name)
                .legend(move |(x, y)| PathElement::new([(x, y), (x + 16, y)], colour.stroke_width(2)));
        }
        let mut labels = chart.configure_series_labels();
        labels.background_style(WHITE.mix(0.8)).label_font(("sans-serif", 12));
        labels.draw().map_err(|error| text(&error))
    }
}

/// At most [`POINTS_MAX`] points, each the mean of as many neighbours.
#[allow(clippy::cast_precision_loss, reason = "counts of steps")]
fn thinned(points: &[(f64, f64)]) -> Vec<(f64, f64)> {
    let finite: Vec<(f64, f64)> = points.iter().copied().filter(|point| point.1.is_finite()).collect();
    let mean = |part: &[(f64, f64)]| {
        let sum = part.iter().fold((0.0, 0.0), |sum, point| (sum.0 + point.0, sum.1 + point.1));
        (sum.0 / part.len() as f64, sum.1 / part.len() as f64)
    };
    finite.chunks(finite.len().div_ceil(POINTS_MAX).max(1)).map(mean).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_curves_are_means_of_neighbours_and_short_ones_stay() {
        let long: Vec<(f64, f64)> = (0..600).map(|step| (f64::from(step), 2.0)).collect();
        let got = thinned(&long);
        assert_eq!((got.len(), got[0], got[299]), (300, (0.5, 2.0), (598.5, 2.0)));
        assert_eq!(thinned(&[(0.0, 1.0), (1.0, f64::NAN)]), [(0.0, 1.0)]);
    }

    #[test]
    fn a_figure_that_never_changes_and_one_of_a_single_step_are_drawn() {
        for points in [vec![(0.0, 0.0)], vec![(0.0, 3.0), (1.0, 3.0)]] {
            let curves = [Curve { name: "run", points: &points }];
            let svg = draw(&[Chart { title: "flat", x: "step", curves: &curves }]).unwrap();
            assert!(
                svg.contains("<svg") && svg.contains("flat") && svg.contains("run") && svg.contains("step")
            );
        }
    }
}
