//! A drawing, as SVG. Each colour is one word of the page's style sheet, which has another for the dark; curves differ by dashes too.

use super::course::Figure;
use plotters::prelude::*;

/// Size of every drawing, in its own units; the page scales it.
pub(super) const SIZE: (u32, u32) = (960, 220);

const SOFT: RGBColor = RGBColor(0x65, 0x6d, 0x76);
const GRID: RGBColor = RGBColor(0xd8, 0xde, 0xe4);
/// By a curve's place in its figure; the style sheet's words for them are `page::KEYS`.
const INKS: [RGBColor; 3] = [RGBColor(0x09, 0x69, 0xda), RGBColor(0xbc, 0x4c, 0x00), RGBColor(0xcf, 0x22, 0x2e)];

/// What is inside of an `svg` element of [`SIZE`].
///
/// # Errors
/// The library's, in words.
pub(super) fn draw(figure: &Figure) -> Result<String, String> {
    let mut text = String::new();
    {
        let area = SVGBackend::with_string(&mut text, SIZE).into_drawing_area();
        let points = figure.curves.iter().flat_map(|curve| &curve.points);
        let (x, y) = (points.clone().map(|point| point.0), points.map(|point| point.1));
        let mut chart = ChartBuilder::on(&area)
            .margin_top(8)
            .margin_right(16)
            .x_label_area_size(40)
            .y_label_area_size(96)
            .build_cartesian_2d(range(x, false), range(y, figure.is_from_zero))
            .map_err(told)?;
        let label = ("sans-serif", 12).into_font().color(&SOFT);
        let mut mesh = chart.configure_mesh();
        mesh.disable_x_mesh().bold_line_style(GRID).light_line_style(TRANSPARENT).axis_style(GRID);
        mesh.label_style(label.clone()).axis_desc_style(label).x_labels(10).y_labels(5).x_desc(figure.x);
        mesh.y_desc(figure.y).x_label_formatter(&number).y_label_formatter(&number).draw().map_err(told)?;
        for (curve, ink) in figure.curves.iter().zip(INKS.iter().cycle()) {
            chart.draw_series(LineSeries::new(curve.points.clone(), ink.stroke_width(2))).map_err(told)?;
        }
        area.present().map_err(told)?;
    }
    // The page has an element of its own around it, with a title and a description.
    let inside = text.split_once('>').and_then(|(_, rest)| rest.rsplit_once("</svg>")).map(|(inside, _)| inside);
    Ok(inside.unwrap_or_default().trim().to_owned())
}

/// The values' range, never empty.
fn range(values: impl Iterator<Item = f64> + Clone, is_from_zero: bool) -> std::ops::Range<f64> {
    let low = if is_from_zero { 0.0 } else { values.clone().fold(f64::INFINITY, f64::min) };
    let high = values.fold(f64::NEG_INFINITY, f64::max);
    let room = (high - low).max(high.abs() * 0.01).max(1e-9) * 0.05;
    if is_from_zero { 0.0..high + room } else { low - room..high + room }
}

fn number(value: &f64) -> String {
    match value.abs() {
        large if large >= 1e6 => format!("{:.1} M", value / 1e6),
        large if large >= 1e4 => format!("{:.0} k", value / 1e3),
        large if large >= 100.0 || value.fract() == 0.0 => format!("{value:.0}"),
        large if large >= 1.0 => format!("{value:.2}"),
        _ => format!("{value:.4}"),
    }
}

/// plotters' errors are of its backend, which here is a string.
fn told<E: std::fmt::Display>(error: E) -> String {
    format!("a chart cannot be drawn: {error}")
}
