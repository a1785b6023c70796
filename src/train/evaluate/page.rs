//! Figures as a page: the tables, and Recall@10 of every row as points with intervals.
use super::table::{Evaluation, Row};
use crate::train::{
    error::TrainError,
    html::{self, escaped},
    statistics::Estimate,
};
use plotters::prelude::*;
use std::fmt::Write;

const WIDTH: u32 = 900;
/// Height of one way in the plot, pixels.
const ROW_HEIGHT: u32 = 30;
/// Room beside the rows for the axis and its title, pixels.
const AXIS_HEIGHT: u32 = 60;
/// Room for names, pixels.
const NAMES_WIDTH: i32 = 420;

/// Rows of one plot: names and figures.
pub type Points<'a> = Vec<(&'a str, Estimate)>;

impl Evaluation {
    /// Returns the figures as one HTML page without any script or outside file.
    /// # Errors
    /// If a plot cannot be drawn.
    pub fn html(&self) -> Result<String, TrainError> {
        fn points(rows: &[Row]) -> Points<'_> {
            rows.iter().map(|row| (row.name.as_str(), row.recall)).collect()
        }
        let plots = [
            ("Recall@10, mean and 95 % interval", points(&self.rows)),
            ("Paired difference of Recall@10", points(&self.differences)),
        ];
        page(&format!("newshound eval: {}", self.world), &plots, &self.markdown())
    }
}

/// Plots, each with its title, and the tables of our own Markdown as one HTML page without any script or outside file.
/// # Errors
/// If a plot cannot be drawn.
pub fn page(title: &str, plots: &[(&str, Points<'_>)], markdown: &str) -> Result<String, TrainError> {
    let mut page = html::head(title);
    for (title, points) in plots {
        page.push_str(&plot(title, points)?);
    }
    page.push_str(&tables(markdown));
    page.push_str("</body></html>\n");
    Ok(page)
}

/// Points with whiskers as SVG; nothing where there are no rows.
fn plot(title: &str, rows: &[(&str, Estimate)]) -> Result<String, TrainError> {
    let mut svg = String::new();
    if !rows.is_empty() {
        draw(&mut svg, title, rows)
            .map_err(|reason| TrainError::File { file: format!("plot of {title}"), reason })?;
    }
    Ok(svg)
}

#[allow(clippy::cast_possible_wrap, reason = "a dozen rows")]
fn draw(svg: &mut String, title: &str, rows: &[(&str, Estimate)]) -> Result<(), String> {
    let text = |error: &dyn std::fmt::Display| error.to_string();
    let n_rows = u32::try_from(rows.len()).map_err(|error| text(&error))?;
    let height = n_rows * ROW_HEIGHT + AXIS_HEIGHT;
    let low = rows.iter().map(|(_, recall)| recall.low).fold(0.0, f64::min);
    let high = rows.iter().map(|(_, recall)| recall.high).fold(f64::MIN_POSITIVE, f64::max);
    let area = SVGBackend::with_string(svg, (WIDTH, height)).into_drawing_area();
    area.fill(&WHITE).map_err(|error| text(&error))?;
    let mut chart = ChartBuilder::on(&area)
        .margin_left(NAMES_WIDTH)
        .margin_right(20)
        .x_label_area_size(AXIS_HEIGHT / 2)
        .margin_bottom(AXIS_HEIGHT / 2 - 10)
        .margin_top(10)
        .build_cartesian_2d(low * 1.05..high * 1.05, 0.0..f64::from(n_rows))
        .map_err(|error| text(&error))?;
    chart
        .configure_mesh()
        .disable_y_axis()
        .disable_y_mesh()
        .x_desc(title)
        .draw()
        .map_err(|error| text(&error))?;
    let colour = RGBColor(30, 90, 160);
    for (idx, (name, recall)) in (0_u32..).zip(rows) {
        let y = f64::from(n_rows - idx) - 0.5;
        let whisker = PathElement::new(vec![(recall.low, y), (recall.high, y)], colour.stroke_width(2));
        chart.draw_series(std::iter::once(whisker)).map_err(|error| text(&error))?;
        let point = Circle::new((recall.mean, y), 4, colour.filled());
        chart.draw_series(std::iter::once(point)).map_err(|error| text(&error))?;
        let middle = 10 + (idx * ROW_HEIGHT + ROW_HEIGHT / 2 - 7) as i32;
        let named = Text::new((*name).to_owned(), (8, middle), ("sans-serif", 14));
        area.draw(&named).map_err(|error| text(&error))?;
    }
    area.present().map_err(|error| text(&error))
}

/// Tables and paragraphs of our own Markdown as HTML.
fn tables(markdown: &str) -> String {
    let mut html = String::new();
    let mut in_table = false;
    for line in markdown.lines() {
        let cells = line.strip_prefix("| ").and_then(|line| line.strip_suffix(" |"));
        match cells {
            Some(cells) => {
                let tag = if in_table { "td" } else { "th" };
                if !in_table {
                    html.push_str("<table>\n");
                }
                in_table = true;
                html.push_str("<tr>");
                for cell in cells.split(" | ") {
                    let _ = write!(html, "<{tag}>{}</{tag}>", escaped(cell));
                }
                html.push_str("</tr>\n");
            }
            // The rule below a header.
            None if line.starts_with("|-") => {}
            None => {
                if in_table {
                    html.push_str("</table>\n");
                }
                in_table = false;
                if !line.is_empty() {
                    let _ = writeln!(html, "<p>{}</p>", escaped(line));
                }
            }
        }
    }
    if in_table {
        html.push_str("</table>\n");
    }
    html
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn markdown_tables_become_html_and_nothing_of_a_name_is_markup() {
        let html = tables("a <b>\n\n| x | mean |\n|---|---|\n| <i> | 1 |\n\nend");
        let expected = "<p>a &lt;b&gt;</p>\n<table>\n<tr><th>x</th><th>mean</th></tr>\n\
                        <tr><td>&lt;i&gt;</td><td>1</td></tr>\n</table>\n<p>end</p>\n";
        assert_eq!(html, expected);
    }
}
