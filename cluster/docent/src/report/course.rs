//! Curves of a job's course. Steps may be thinned out, so that what is of one pass is a difference of steps over a difference of passes.

use docent_proto::v1;

/// A drawing: what its axes are, its curves, and what it says in words.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Figure {
    pub(super) title: &'static str,
    pub(super) says: &'static str,
    pub(super) x: &'static str,
    pub(super) y: &'static str,
    /// Whether the vertical axis begins at 0.
    pub(super) is_from_zero: bool,
    pub(super) curves: Vec<Curve>,
}

/// A curve with its name.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Curve {
    pub(super) name: String,
    pub(super) points: Vec<(f64, f64)>,
}

/// Two steps of the course that follow each other.
struct Stretch<'a> {
    phase: &'a str,
    epoch: u32,
    /// Passes done in it, 0 where another phase began.
    passes: u32,
    at_s: f64,
    seconds: f64,
    bytes: f64,
    waited: f64,
    hosts: f64,
    loss: Option<f64>,
}

/// The drawings of a course that say something; `positives` are what one pass goes over.
pub(super) fn figures(course: &[v1::JobStep], positives: Option<f64>) -> Vec<Figure> {
    let stretches = stretches(course);
    let of_passes = |value: &dyn Fn(&Stretch<'_>) -> Option<f64>| curves(&stretches, value);
    let rate = |stretch: &Stretch<'_>| {
        let passes = f64::from(stretch.passes);
        Some(positives? * passes / stretch.seconds).filter(|rate| stretch.passes > 0 && rate.is_finite())
    };
    let once = |stretch: &Stretch<'_>| (stretch.passes > 0).then(|| stretch.seconds / f64::from(stretch.passes));
    let over_time = |name: &str, value: &dyn Fn(&Stretch<'_>) -> f64| {
        let finite = stretches.iter().filter(|stretch| stretch.at_s.is_finite() && stretch.seconds.is_finite());
        let points = finite.map(|stretch| (stretch.at_s, value(stretch))).collect();
        vec![Curve { name: name.to_owned(), points }]
    };
    let mut exchanged = 0.0;
    let mut bytes = over_time("bytes", &|stretch| stretch.bytes);
    for (_, value) in bytes.iter_mut().flat_map(|curve| &mut curve.points) {
        exchanged += *value / f64::from(1 << 20);
        *value = exchanged;
    }
    let waits = |stretch: &Stretch<'_>| {
        let all = stretch.hosts * stretch.seconds;
        if all > 0.0 { (100.0 * stretch.waited / all).clamp(0.0, 100.0) } else { 0.0 }
    };
    let figures = [
        Figure {
            title: "Objective",
            says: "What training makes small, after each pass; while the model is measured, on what is not held out.",
            x: "pass",
            y: "loss",
            is_from_zero: false,
            curves: of_passes(&|stretch| stretch.loss),
        },
        Figure {
            title: "Time of a pass",
            says: "Seconds that each pass took.",
            x: "pass",
            y: "seconds",
            is_from_zero: true,
            curves: of_passes(&once),
        },
        Figure {
            title: "Throughput",
            says: "Positives that a second of each pass went over, all hosts together.",
            x: "pass",
            y: "positives/s",
            is_from_zero: true,
            curves: of_passes(&rate),
        },
        Figure {
            title: "Exchanged between nodes",
            says: "Bytes that hosts have pulled from one another since the attempt began.",
            x: "seconds",
            y: "MiB",
            is_from_zero: true,
            curves: bytes,
        },
        Figure {
            title: "Waiting for the slowest host",
            says: "Share of the hosts' time between their own answers to the driver and the slowest host's.",
            x: "seconds",
            y: "% of time",
            is_from_zero: true,
            curves: over_time("waiting", &waits),
        },
    ];
    let is_drawn = |figure: &Figure| figure.curves.iter().any(|curve| curve.points.len() > 1);
    figures.into_iter().filter(is_drawn).collect()
}

fn stretches(course: &[v1::JobStep]) -> Vec<Stretch<'_>> {
    let empty = v1::JobStep { progress: Some(v1::JobProgress::default()), ..v1::JobStep::default() };
    let mut last = &empty;
    let mut stretches = Vec::with_capacity(course.len());
    for step in course {
        let (Some(now), Some(before)) = (&step.progress, &last.progress) else { continue };
        let begins = if now.phase == before.phase { before.epoch } else { 0 };
        stretches.push(Stretch {
            phase: &now.phase,
            epoch: now.epoch,
            passes: if is_pass(&now.phase) { now.epoch.saturating_sub(begins) } else { 0 },
            at_s: now.seconds,
            seconds: (now.seconds - before.seconds).max(0.0),
            bytes: now.bytes.saturating_sub(before.bytes) as f64,
            waited: (step.waited_seconds - last.waited_seconds).max(0.0),
            hosts: f64::from(step.hosts),
            loss: now.loss.filter(|_| is_pass(&now.phase)),
        });
        last = step;
    }
    stretches
}

/// Phases of which each step is one more pass over the data.
fn is_pass(phase: &str) -> bool {
    ["train", "count"].iter().any(|start| phase.starts_with(start))
}

/// A curve for each phase that has values, by pass.
fn curves(stretches: &[Stretch<'_>], value: &dyn Fn(&Stretch<'_>) -> Option<f64>) -> Vec<Curve> {
    let mut curves: Vec<Curve> = Vec::new();
    for stretch in stretches.iter().filter(|stretch| stretch.epoch > 0) {
        let Some(value) = value(stretch).filter(|value| value.is_finite()) else { continue };
        let point = (f64::from(stretch.epoch), value);
        match curves.iter_mut().find(|curve| curve.name == stretch.phase) {
            Some(curve) => curve.points.push(point),
            None => curves.push(Curve { name: stretch.phase.to_owned(), points: vec![point] }),
        }
    }
    curves
}
