//! The data plane does without the coordinators, and they come back without help.

use docent_chaos::gateways::Gateways;
use docent_chaos::lab::{Lab, Options};
use docent_chaos::ledger::Ledger;
use docent_chaos::traffic::{Load, Report, Traffic};
use nix::sys::signal::Signal;
use serde_json::Value;
use std::panic::AssertUnwindSafe;
use std::time::Duration;

const LOAD: Load = Load { events: 60.0, batch: 3, queries: 30.0, n: 10, users: 300, items: 400 };

/// How long the coordinators are away: far beyond the three seconds after which they would count a silent node as dead.
fn outage() -> Duration {
    let seconds = std::env::var("DOCENT_OUTAGE_S").ok().map(|text| text.parse().expect("DOCENT_OUTAGE_S: seconds"));
    Duration::from_secs(seconds.unwrap_or(8))
}

/// Runs `outage` under load through every node; then a version is trained and goes live, and everything acked is there.
fn under_load(lab: &mut Lab, ledger: &mut Ledger, version: u64, outage: impl FnOnce(&mut Lab)) {
    let gateways = Gateways::new(&lab.addresses());
    let name = format!("outage-{version}");
    let traffic = Traffic::new(&name, &gateways, LOAD);
    let report = std::thread::scope(|scope| {
        let running = scope.spawn(|| traffic.run());
        let outcome = std::panic::catch_unwind(AssertUnwindSafe(|| outage(lab)));
        traffic.stop();
        let report = running.join().unwrap().unwrap();
        outcome.unwrap();
        report
    });
    let Report { queries, events, refused, .. } = &report;
    assert!(queries.failures.is_empty() && events.failures.is_empty() && refused.is_empty(), "{report:#?}");
    assert!(queries.latencies.len() > 100 && events.latencies.len() > 100, "there was no load: {report:#?}");
    let seed = version.to_string();
    lab.docent(&["train", "--dim", "8", "--epochs", "2", "--holdout", "0", "--seed", &seed, "--wait"]).unwrap();
    ledger.absorb(std::mem::take(&mut *traffic.ledger()));
    ledger.audit(lab).unwrap();
    for i in 0..lab.nodes.len() {
        let answer: Value = lab.client(i).recommend("u7", 5).unwrap();
        assert_eq!(answer["model"]["version"], version, "node {i}: {answer}");
    }
}

/// All three are stopped, and later two of three are killed. A minute each, as the acceptance has it: `DOCENT_OUTAGE_S=60`.
#[test]
fn a_lost_coordinator_quorum_hurts_no_event_and_no_query_and_heals_by_itself() {
    let mut lab = Lab::start(&Options::default()).unwrap();
    let addresses = lab.addresses();
    let gateways = Gateways::new(&addresses);
    let traffic = Traffic::new("before", &gateways, LOAD);
    traffic.seed(&lab.client(0), 8).unwrap();
    let mut ledger = std::mem::take(&mut *traffic.ledger());
    lab.docent(&["train", "--dim", "8", "--epochs", "2", "--holdout", "0", "--wait"]).unwrap();
    under_load(&mut lab, &mut ledger, 2, |lab| {
        lab.coordinators.iter().try_for_each(|member| member.signal(Signal::SIGSTOP)).unwrap();
        std::thread::sleep(outage()); // the outage itself
        lab.coordinators.iter().try_for_each(|member| member.signal(Signal::SIGCONT)).unwrap();
    });
    under_load(&mut lab, &mut ledger, 3, |lab| {
        lab.coordinators[..2].iter_mut().try_for_each(|member| member.kill()).unwrap();
        std::thread::sleep(outage()); // the outage itself
        lab.coordinators[..2].iter_mut().try_for_each(|member| member.start()).unwrap();
    });
}
