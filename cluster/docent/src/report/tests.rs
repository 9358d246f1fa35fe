//! The page is whole, says what the cluster said, and lets nothing out of it.

use super::*;

fn step(phase: &str, epoch: u32, seconds: f64, loss: Option<f64>) -> v1::JobStep {
    let bytes = (seconds * 1e6) as u64;
    let progress = v1::JobProgress { phase: phase.into(), epoch, epochs: 4, loss, seconds, bytes };
    v1::JobStep { progress: Some(progress), waited_seconds: seconds / 2.0, hosts: 2 }
}

fn course() -> Vec<v1::JobStep> {
    let mut course = vec![step("load", 0, 1.0, None), step("link", 0, 2.0, None)];
    // The second pass was thinned out.
    course
        .extend([(1, 4.0), (3, 6.0), (4, 7.0)].map(|(epoch, at)| step("train to evaluate", epoch, at, Some(1.0 / at))));
    course.push(step("evaluate", 4, 9.0, Some(1.0)));
    course.extend([(1, 10.0), (2, 11.0)].map(|(epoch, at)| step("train", epoch, at, Some(0.5 / at))));
    course
}

#[test]
fn curves_are_of_passes_and_of_what_was_between_two_steps() {
    let figures = course::figures(&course(), Some(1_000.0));
    let titles: Vec<&str> = figures.iter().map(|figure| figure.title).collect();
    assert_eq!(
        titles,
        ["Objective", "Time of a pass", "Throughput", "Exchanged between nodes", "Waiting for the slowest host"]
    );
    let curve = |figure: usize, name: &str| -> Vec<(f64, f64)> {
        let found = figures[figure].curves.iter().find(|curve| curve.name == name);
        found.map(|curve| curve.points.clone()).unwrap_or_default()
    };
    assert_eq!(curve(1, "train to evaluate"), [(1.0, 2.0), (3.0, 1.0), (4.0, 1.0)]);
    assert_eq!(curve(2, "train to evaluate"), [(1.0, 500.0), (3.0, 1_000.0), (4.0, 1_000.0)]);
    assert_eq!(curve(1, "train"), [(1.0, 1.0), (2.0, 1.0)]);
    assert!(curve(0, "evaluate").is_empty() && curve(1, "evaluate").is_empty(), "no pass");
    assert_eq!(curve(0, "train"), [(1.0, 0.05), (2.0, 0.5 / 11.0)]);
    // Half a second of two hosts' waiting in every second of theirs.
    assert!(curve(4, "waiting").iter().all(|point| (point.1 - 25.0).abs() < 1e-9));
    assert!((curve(3, "bytes")[0].1 - 1e6 / 1_048_576.0).abs() < 1e-9);
}

#[test]
fn a_page_has_its_drawings_and_escapes_what_was_said() {
    let job = v1::Job {
        id: 7,
        state: "succeeded".into(),
        settings: Some(v1::TrainSettings { algorithm: Some("ials".into()), ..Default::default() }),
        error: "<script>alert(1)</script>".into(),
        course: course(),
        version: 3,
        ..v1::Job::default()
    };
    let metrics = [("positives", 1_000.0), ("ndcg@20", 0.1), ("ndcg@20.low", 0.09), ("ndcg@20.high", 0.11)];
    let metrics = metrics.map(|(name, value)| (name.to_owned(), value)).into_iter().collect();
    let model = v1::Model { version: 3, state: "live".into(), metrics, ..v1::Model::default() };
    let whole = page(&job, Some(&model)).unwrap();
    assert_eq!(whole.matches("<svg ").count(), 5);
    assert!(whole.contains("Training job 7: succeeded") && whole.contains("3, live"));
    assert!(whole.contains("0.0900 to 0.1100") && whole.contains("&lt;script&gt;") && !whole.contains("<script"));
    assert!(
        !whole.contains("http://")
            || whole.matches("http://").count() == whole.matches("http://www.w3.org/2000/svg").count()
    );
}

#[test]
fn a_job_of_long_ago_has_a_page_without_drawings() {
    let whole = page(&v1::Job { id: 1, state: "failed".into(), ..v1::Job::default() }, None).unwrap();
    assert!(whole.contains("is not kept") && !whole.contains("<svg"));
}

#[test]
fn values_that_are_no_numbers_do_not_break_a_drawing() {
    let strange = [f64::NAN, f64::INFINITY, -1.0].map(|loss| step("train", 1, loss, Some(loss)));
    let same = [step("train", 1, 0.0, Some(2.0)), step("train", 2, 0.0, Some(2.0))];
    let job = v1::Job { course: strange.into_iter().chain(same).collect(), ..v1::Job::default() };
    assert!(page(&job, None).is_ok());
}
