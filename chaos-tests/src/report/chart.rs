//! The drawings, as SVG: a timeline of faults by member, and curves under it on the same axis of time. Each colour is one word of the
//! page's style sheet, which has another for the dark; what colours say is said by words or dashes too.

use super::story::{Bar, Point, Story};
use anyhow::{Result, anyhow};
use docent_trial::Layer;
use plotters::coord::Shift;
use plotters::coord::ranged1d::ValueFormatter;
use plotters::coord::types::RangedCoordf64;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

/// Width of every drawing, in its own units; the page scales it.
pub(super) const WIDTH: u32 = 960;
const CURVE_HEIGHT: u32 = 170;
/// Room for the names of rows and the labels of axes, the same on every drawing so that times stand below each other.
const LEFT: u32 = 116;
const RIGHT: u32 = 16;
const LANE_HEIGHT: f64 = 20.0;
/// Faults of one member that are drawn below each other; more share the last lane.
const LANES_MAX: usize = 3;

const INK: RGBColor = RGBColor(0x1f, 0x23, 0x28);
const SOFT: RGBColor = RGBColor(0x65, 0x6d, 0x76);
const GRID: RGBColor = RGBColor(0xd8, 0xde, 0xe4);
const BAND: RGBColor = RGBColor(0xfa, 0xf0, 0xe0);
const BLUE: RGBColor = RGBColor(0x09, 0x69, 0xda);
const RED: RGBColor = RGBColor(0xcf, 0x22, 0x2e);
const ORANGE: RGBColor = RGBColor(0xbc, 0x4c, 0x00);

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;
type Chart<'a, 'b, Y> = ChartContext<'a, SVGBackend<'b>, Cartesian2d<RangedCoordf64, Y>>;

type Timeline<'a, 'b> = Chart<'a, 'b, RangedCoordf64>;

/// What is inside of an `svg` element.
#[derive(Clone, Debug)]
pub(super) struct Svg {
    /// In the drawing's units; its width is [`WIDTH`].
    pub(super) height: u32,
    /// Elements.
    pub(super) inside: String,
}

/// All drawings of a page.
#[derive(Clone, Debug)]
pub(super) struct Charts {
    pub(super) timeline: Svg,
    pub(super) queries: Svg,
    pub(super) shares: Svg,
    pub(super) acked: Svg,
    pub(super) latency: Svg,
}

/// A curve; where it has no value it is broken.
struct Curve {
    color: RGBColor,
    of: fn(&Point) -> Option<f64>,
}

impl Charts {
    /// Of a story.
    ///
    /// # Errors
    /// A drawing cannot be made.
    pub(super) fn draw(story: &Story) -> Result<Charts> {
        let curve = |color: RGBColor, of: fn(&Point) -> Option<f64>| Curve { color, of };
        let counted = [
            curve(BLUE, |point| Some(point.answered)),
            curve(ORANGE, |point| Some(point.impersonal)),
            curve(RED, |point| Some(point.failed)),
        ];
        let shares = [curve(BLUE, |point| Some(point.coverage)), curve(ORANGE, |point| Some(point.personal))];
        let acked = [curve(BLUE, |point| Some(point.acked))];
        let latency = [curve(BLUE, |point| point.p50_ms), curve(ORANGE, |point| point.p99_ms)];
        Ok(Charts {
            timeline: timeline(story)?,
            queries: curves(story, &counted, Scale::FromZero)?,
            shares: curves(story, &shares, Scale::Percent)?,
            acked: curves(story, &acked, Scale::FromZero)?,
            latency: curves(story, &latency, Scale::Milliseconds)?,
        })
    }
}

#[derive(Clone, Copy)]
enum Scale {
    FromZero,
    Percent,
    /// Logarithmic: an outage is a thousand times a good answer.
    Milliseconds,
}

/// plotters' errors are of its backend, which here is a string.
fn told<E: std::fmt::Display>(error: E) -> anyhow::Error {
    anyhow!("a chart cannot be drawn: {error}")
}

fn svg(height: u32, draw: impl FnOnce(&Area<'_>) -> Result<()>) -> Result<Svg> {
    let mut text = String::new();
    {
        let area = SVGBackend::with_string(&mut text, (WIDTH, height)).into_drawing_area();
        draw(&area)?;
        area.present().map_err(told)?;
    }
    // The page has an element of its own around it, with a title and a description.
    let inside = text.split_once('>').and_then(|(_, rest)| rest.rsplit_once("</svg>")).map(|(inside, _)| inside);
    Ok(Svg { height, inside: inside.unwrap_or_default().trim().to_owned() })
}

fn font<'a>(size: u32, color: &RGBColor) -> TextStyle<'a> {
    ("sans-serif", size).into_font().color(color)
}

fn mesh<Y>(chart: &mut Chart<'_, '_, Y>, y_labels: usize) -> Result<()>
where
    Y: Ranged<ValueType = f64> + ValueFormatter<f64>,
{
    let number = |value: &f64| if value.fract() == 0.0 { format!("{value:.0}") } else { format!("{value}") };
    let seconds = |value: &f64| format!("{} s", number(value));
    let mut mesh = chart.configure_mesh();
    mesh.disable_x_mesh().bold_line_style(GRID).light_line_style(TRANSPARENT).axis_style(GRID);
    mesh.label_style(font(12, &SOFT)).x_labels(10).y_labels(y_labels);
    mesh.x_label_formatter(&seconds).y_label_formatter(&number).draw().map_err(told)
}

/// Shades the times in which something was broken.
fn shade<Y>(chart: &mut Chart<'_, '_, Y>, story: &Story, low: f64, high: f64) -> Result<()>
where
    Y: Ranged<ValueType = f64> + ValueFormatter<f64>,
{
    let mut times: Vec<(f64, f64)> = story.bars.iter().map(|bar| (bar.from_s, end(bar, story))).collect();
    times.sort_by(|a, b| a.0.total_cmp(&b.0));
    let mut merged: Vec<(f64, f64)> = Vec::new();
    for (from, until) in times {
        match merged.last_mut().filter(|last| last.1 >= from) {
            Some(last) => last.1 = last.1.max(until),
            None => merged.push((from, until)),
        }
    }
    let band = |(from, until): (f64, f64)| Rectangle::new([(from, low), (until, high)], BAND.filled());
    chart.draw_series(merged.into_iter().map(band)).map(drop).map_err(told)
}

/// Where a bar ends on paper: what was over at once is seen all the same.
fn end(bar: &Bar, story: &Story) -> f64 {
    bar.until_s.max(bar.from_s + story.seconds * 0.004).min(story.seconds)
}

fn curves(story: &Story, curves: &[Curve], scale: Scale) -> Result<Svg> {
    let values = curves.iter().flat_map(|curve| story.points.iter().filter_map(curve.of));
    let top = values.clone().fold(0.0, f64::max);
    svg(CURVE_HEIGHT, |area| {
        let mut builder = ChartBuilder::on(area);
        builder.margin_top(8).margin_right(RIGHT).x_label_area_size(24).y_label_area_size(LEFT);
        let time = 0.0..story.seconds;
        match scale {
            Scale::Milliseconds => {
                let low = values.clone().filter(|value| *value > 0.0).fold(1.0, f64::min).max(0.01);
                let high = top.max(low * 10.0) * 1.2;
                let mut chart = builder.build_cartesian_2d(time, (low..high).log_scale()).map_err(told)?;
                draw_curves(&mut chart, story, curves, (low, high), 4)
            }
            _ => {
                let high = if matches!(scale, Scale::Percent) { 105.0 } else { (top * 1.1).max(1.0) };
                let mut chart = builder.build_cartesian_2d(time, 0.0..high).map_err(told)?;
                draw_curves(&mut chart, story, curves, (0.0, high), 5)
            }
        }
    })
}

fn draw_curves<Y>(
    chart: &mut Chart<'_, '_, Y>,
    story: &Story,
    curves: &[Curve],
    (low, high): (f64, f64),
    labels: usize,
) -> Result<()>
where
    Y: Ranged<ValueType = f64> + ValueFormatter<f64>,
{
    shade(chart, story, low, high)?;
    mesh(chart, labels)?;
    for curve in curves {
        let points: Vec<(f64, Option<f64>)> =
            story.points.iter().map(|point| (point.at_s, (curve.of)(point))).collect();
        for part in points.split(|(_, value)| value.is_none()) {
            let line = part.iter().filter_map(|(at, value)| Some((*at, value.map(|value| value.max(low))?)));
            chart.draw_series(LineSeries::new(line, curve.color.stroke_width(2))).map_err(told)?;
        }
    }
    Ok(())
}

/// Where the rows of the timeline stand, in lanes from above: phases, members, leaders.
struct Rows {
    members: Vec<(String, usize, usize)>,
    lanes: usize,
}

impl Rows {
    fn of(story: &Story) -> Rows {
        let mut next = 1;
        let mut members = Vec::new();
        for member in &story.members {
            let lanes = story.bars.iter().filter(|bar| bar.member == *member).map(|bar| bar.lane + 1).max();
            let lanes = lanes.unwrap_or(1).min(LANES_MAX);
            members.push((member.to_string(), next, lanes));
            next += lanes;
        }
        Rows { members, lanes: next + 1 }
    }
}

fn timeline(story: &Story) -> Result<Svg> {
    let rows = Rows::of(story);
    let height = (rows.lanes as f64 * LANE_HEIGHT) as u32 + 32;
    svg(height, |area| {
        let mut builder = ChartBuilder::on(area);
        builder.margin_top(8).margin_right(RIGHT).margin_left(LEFT).x_label_area_size(24);
        let mut chart = builder.build_cartesian_2d(0.0..story.seconds, rows.lanes as f64..0.0).map_err(told)?;
        mesh(&mut chart, 0)?;
        let name = |text: &str, lane: f64| {
            let (x, y) = chart.backend_coord(&(0.0, lane));
            let style = font(12, &INK).pos(Pos::new(HPos::Right, VPos::Center));
            area.draw(&Text::new(text.to_owned(), (x - 8, y), style)).map_err(told)
        };
        name("phases", 0.5)?;
        rows.members.iter().try_for_each(|(member, first, lanes)| name(member, *first as f64 + *lanes as f64 / 2.0))?;
        name("new leaders", rows.lanes as f64 - 0.5)?;
        draw_phases(area, &mut chart, story)?;
        draw_bars(area, &mut chart, story, &rows)?;
        draw_changes(&mut chart, story, rows.lanes as f64)
    })
}

/// A text beside a place; one that would leave the drawing ends there instead.
fn label(area: &Area<'_>, chart: &Timeline<'_, '_>, text: &str, (at_s, lane): (f64, f64), story: &Story) -> Result<()> {
    let (x, y) = chart.backend_coord(&(at_s, lane));
    let (side, shift) = if at_s > story.seconds * 0.85 { (HPos::Right, -4) } else { (HPos::Left, 4) };
    let style = font(11, &INK).pos(Pos::new(side, VPos::Center));
    area.draw(&Text::new(text.to_owned(), (x + shift, y), style)).map_err(told)
}

fn draw_phases(area: &Area<'_>, chart: &mut Timeline<'_, '_>, story: &Story) -> Result<()> {
    for span in &story.phases {
        let edge = PathElement::new([(span.from_s, 0.0), (span.from_s, 1.0)], SOFT.stroke_width(1));
        chart.draw_series([edge]).map_err(told)?;
        // Healing takes no time to speak of: its name would cover the next one.
        if span.until_s - span.from_s > story.seconds * 0.06 {
            label(area, chart, span.phase.name(), (span.from_s, 0.5), story)?;
        }
    }
    Ok(())
}

fn draw_bars(area: &Area<'_>, chart: &mut Timeline<'_, '_>, story: &Story, rows: &Rows) -> Result<()> {
    for bar in &story.bars {
        let name = bar.member.to_string();
        let Some((_, first, lanes)) = rows.members.iter().find(|(member, ..)| *member == name) else { continue };
        let lane = (first + bar.lane.min(lanes - 1)) as f64;
        let corners = [(bar.from_s, lane + 0.12), (end(bar, story), lane + 0.88)];
        chart.draw_series([Rectangle::new(corners, color(bar.layer).filled())]).map_err(told)?;
        label(area, chart, bar.kind, (bar.from_s, lane + 0.5), story)?;
    }
    Ok(())
}

fn draw_changes(chart: &mut Timeline<'_, '_>, story: &Story, lanes: f64) -> Result<()> {
    let tick = |at_s: f64| PathElement::new([(at_s, lanes - 0.85), (at_s, lanes - 0.15)], BLUE.stroke_width(2));
    chart.draw_series(story.changes.iter().map(|change| tick(change.at_s))).map(drop).map_err(told)
}

/// Light enough for ink on it.
fn color(layer: Layer) -> RGBColor {
    match layer {
        Layer::Process => RGBColor(0xff, 0xc1, 0xba),
        Layer::Network => RGBColor(0xff, 0xd8, 0xb5),
        Layer::Disk => RGBColor(0xe2, 0xcf, 0xff),
        Layer::Clock => RGBColor(0xb6, 0xe3, 0xff),
        Layer::Resource => RGBColor(0xb3, 0xf0, 0xe4),
        Layer::Operator | Layer::Everything => RGBColor(0xd0, 0xd7, 0xde),
    }
}
