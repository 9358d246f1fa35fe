//! A rolling restart, and a rolling upgrade from another docent: each member in turn ends on SIGTERM and comes back, under load. No query
//! and no event fails, nothing acked is lost, and the cluster's format rises once everybody understands a higher one.

use docent_chaos::client::Client;
use docent_chaos::faults;
use docent_chaos::gateways::Gateways;
use docent_chaos::lab::{Lab, Options};
use docent_chaos::leaders::{self, Replicas};
use docent_chaos::load::{Outcome, open_loop_while};
use docent_chaos::traffic::{Load, Report, Traffic};
use serde_json::Value;
use std::panic::AssertUnwindSafe;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

const LOAD: Load = Load { events: 120.0, batch: 3, queries: 40.0, n: 10, users: 400, items: 400 };
/// Queries a second of clients that know of no restart.
const UNWARNED: f64 = 60.0;
/// Events acked between two restarts, so that the load goes on through all of them.
const BETWEEN: usize = 90;
/// Far above what a restart takes.
const PATIENCE: Duration = Duration::from_secs(90);
/// What a docent says of itself that tells no format: the first that had any.
const FIRST_FORMAT: u64 = 2;

/// Clients that nobody tells of a restart: where a node refuses the connection or says that it drains, they ask the next one.
struct Unwarned {
    nodes: Vec<Client>,
    is_over: AtomicBool,
    sent_on: AtomicUsize,
}

impl Unwarned {
    fn of(lab: &Lab) -> Unwarned {
        let nodes = lab.addresses().iter().map(|addr| Client::new(addr)).collect();
        Unwarned { nodes, is_over: AtomicBool::new(false), sent_on: AtomicUsize::new(0) }
    }

    fn run(&self) -> anyhow::Result<Outcome> {
        open_loop_while(UNWARNED, 60, |_| !self.is_over.load(Ordering::SeqCst), |number| self.ask(number))
    }

    fn ask(&self, number: usize) -> anyhow::Result<()> {
        let request = serde_json::json!({ "user_id": format!("u{}", number % LOAD.users), "n": LOAD.n });
        let mut last = String::new();
        for attempt in 0..self.nodes.len() {
            match self.nodes[(number + attempt) % self.nodes.len()].post("/v1/recommend", &request) {
                Ok((200, answer)) => {
                    let items = answer["items"].as_array().map_or(0, Vec::len);
                    anyhow::ensure!(items == LOAD.n, "{items} of {} items: {answer}", LOAD.n);
                    return Ok(());
                }
                Ok((503, why)) => last = why.to_string(),
                Ok((status, why)) => anyhow::bail!("recommend answered {status}: {why}"),
                Err(error) => last = error.to_string(),
            }
            self.sent_on.fetch_add(1, Ordering::Relaxed);
        }
        anyhow::bail!("no node took it, last: {last}")
    }
}

/// Runs `change` under load. Nobody's query and nobody's event fails, and everything acked is there.
fn under_load(lab: &mut Lab, name: &str, change: impl FnOnce(&mut Lab, &Traffic<'_>, &Gateways)) {
    let (gateways, unwarned) = (Gateways::new(&lab.addresses()), Unwarned::of(lab));
    let traffic = Traffic::new(name, &gateways, LOAD);
    let start = Instant::now();
    let (report, others) = std::thread::scope(|scope| {
        let running = scope.spawn(|| traffic.run());
        let others = scope.spawn(|| unwarned.run());
        let outcome = std::panic::catch_unwind(AssertUnwindSafe(|| change(lab, &traffic, &gateways)));
        traffic.stop();
        unwarned.is_over.store(true, Ordering::SeqCst);
        let (report, others) = (running.join().unwrap().unwrap(), others.join().unwrap().unwrap());
        outcome.unwrap();
        (report, others)
    });
    let Report { queries, events, refused, impersonal, .. } = &report;
    println!(
        "{name}: {:.0} s; {} queries ({impersonal} not personal, p99 {:.0} ms, max {:.0} ms), {} of unwarned clients ({} sent on), {} \
         events acked in batches (p99 {:.0} ms, max {:.0} ms), {} tries refused",
        start.elapsed().as_secs_f64(),
        queries.latencies.len(),
        queries.percentile_ms(0.99),
        queries.percentile_ms(1.0),
        others.latencies.len(),
        unwarned.sent_on.load(Ordering::Relaxed),
        traffic.ledger().acked(),
        events.percentile_ms(0.99),
        events.percentile_ms(1.0),
        refused.len(),
    );
    let failures: Vec<&String> = queries.failures.iter().chain(&events.failures).chain(&others.failures).collect();
    assert!(failures.is_empty() && refused.is_empty(), "{failures:#?}\n{refused:#?}\n{}", lab.logs(10));
    assert!(queries.latencies.len() > 100 && events.latencies.len() > 100, "there was no load: {report:#?}");
    traffic.ledger().audit_of(lab, name).unwrap();
}

/// Waits until so many more events are acked.
fn more(traffic: &Traffic<'_>) {
    let (wanted, start) = (traffic.ledger().acked() + BETWEEN, Instant::now());
    while traffic.ledger().acked() < wanted {
        assert!(start.elapsed() < PATIENCE, "no further acks");
        std::thread::sleep(Duration::from_millis(20)); // between looks at what the clients have
    }
}

fn applied(lab: &Lab, index: usize) -> Replicas {
    leaders::replicas(&lab.client(index)).unwrap()
}

/// SIGTERM, the end in order, a start from `binary`, and the wait that an operator's tool would do. A node that says that it is ready has
/// everything that was applied elsewhere when it started, and answers from the live model.
fn restart_node(lab: &mut Lab, gateways: &Gateways, index: usize, binary: Option<&Path>) {
    gateways.condemn(index);
    let start = Instant::now();
    let status = lab.nodes[index].terminate().unwrap();
    let ended = start.elapsed();
    let log = lab.nodes[index].tail(40);
    assert!(status.code() == Some(0) && !log.contains("did not end in order"), "{status}\n{log}");
    if let Some(binary) = binary {
        lab.nodes[index].binary = binary.to_owned();
    }
    let others: Vec<Replicas> = (0..lab.nodes.len()).filter(|other| *other != index).map(|o| applied(lab, o)).collect();
    lab.nodes[index].start().unwrap();
    lab.wait_ready(PATIENCE).unwrap();
    let own = applied(lab, index);
    assert!(leaders::has_caught_up(&own, &others), "ready and behind: {own:?}\n{others:?}");
    let answer = lab.client(index).recommend("u5", 10).unwrap();
    assert!(
        answer["model"]["version"] == 1 && answer["coverage"]["asked"] == answer["coverage"]["answered"],
        "{answer}"
    );
    println!("node {}: ended in {:.1} s, ready {:.1} s after", index + 1, ended.as_secs_f64(), {
        (start.elapsed() - ended).as_secs_f64()
    });
    gateways.revive(index, &lab.nodes[index].query_addr);
}

/// Every node and then every coordinator, one after the other; `between` is called when the nodes are done.
fn restart_all(
    lab: &mut Lab,
    traffic: &Traffic<'_>,
    gateways: &Gateways,
    binary: Option<&Path>,
    between: impl FnOnce(),
) {
    for index in 0..lab.nodes.len() {
        more(traffic);
        restart_node(lab, gateways, index, binary);
    }
    between();
    for index in 0..lab.coordinators.len() {
        more(traffic);
        restart_coordinator(lab, index, binary);
    }
    more(traffic);
}

fn restart_coordinator(lab: &mut Lab, index: usize, binary: Option<&Path>) {
    let member = &mut lab.coordinators[index];
    let starts = |log: String| log.matches("coordinator started").count();
    let status = member.terminate().unwrap();
    assert_eq!(status.code(), Some(0), "{}", member.tail(40));
    if let Some(binary) = binary {
        member.binary = binary.to_owned();
    }
    let before = starts(member.tail(usize::MAX));
    member.start().unwrap();
    let start = Instant::now();
    while starts(lab.coordinators[index].tail(usize::MAX)) == before {
        assert!(start.elapsed() < PATIENCE, "{}", lab.coordinators[index].tail(20));
        std::thread::sleep(Duration::from_millis(50)); // between looks at its log
    }
}

fn cluster(lab: &Lab) -> Value {
    lab.client(0).get("/v1/cluster").unwrap().1
}

fn seed_and_train(lab: &Lab) {
    let gateways = Gateways::new(&[]);
    Traffic::new("seed", &gateways, LOAD).seed(&lab.client(0), 8).unwrap();
    lab.docent(&["train", "--dim", "8", "--epochs", "2", "--holdout", "0", "--wait"]).unwrap();
}

#[test]
fn a_rolling_restart_under_load_fails_no_query_and_no_event() {
    let mut lab = Lab::start(&Options::default()).unwrap();
    seed_and_train(&lab);
    let format = lab.wait_format(PATIENCE).unwrap();
    println!("format {format}");
    under_load(&mut lab, "restart", |lab, traffic, gateways| restart_all(lab, traffic, gateways, None, || {}));
    assert_eq!(lab.wait_format(PATIENCE).unwrap(), format);
    lab.docent(&["verify"]).unwrap();
}

/// `make test-upgrade PREV=...` builds the other docent and says where it is.
#[test]
fn a_rolling_upgrade_under_load_fails_no_query_and_raises_the_format_at_its_end() {
    let Some(previous) = std::env::var_os("DOCENT_PREVIOUS").map(PathBuf::from) else {
        println!("SKIPPED: DOCENT_PREVIOUS names no other docent; `make test-upgrade` builds one");
        return;
    };
    let ours = docent_chaos::lab::docent().unwrap();
    let mut lab = Lab::start(&Options { binary: Some(previous.clone()), ..Options::default() }).unwrap();
    seed_and_train(&lab);
    let before = cluster(&lab)["format"].as_u64().unwrap_or(FIRST_FORMAT);
    under_load(&mut lab, "upgrade", |lab, traffic, gateways| {
        let addr = lab.nodes[0].query_addr.clone();
        restart_all(lab, traffic, gateways, Some(&ours), || {
            let state = Client::new(&addr).get("/v1/cluster").unwrap().1;
            assert_eq!(state["format"], before, "the coordinators do not understand more yet: {state:#}");
        });
        lab.wait_format(PATIENCE).unwrap();
        more(traffic);
    });
    let after = lab.wait_format(PATIENCE).unwrap();
    println!("format {before} -> {after}");
    lab.docent(&["verify"]).unwrap();
    lab.docent(&["train", "--dim", "8", "--epochs", "2", "--holdout", "0", "--wait"]).unwrap();
    lab.kill_all_and_restart().unwrap();
    assert_eq!(lab.wait_format(PATIENCE).unwrap(), after);
    if after > before {
        an_older_node_is_refused(&mut lab, &previous, &ours);
    }
}

fn an_older_node_is_refused(lab: &mut Lab, previous: &Path, ours: &Path) {
    lab.nodes[0].terminate().unwrap();
    lab.nodes[0].binary = previous.to_owned();
    lab.nodes[0].start().unwrap();
    let status = faults::end_of(&mut lab.nodes[0], PATIENCE).unwrap();
    let said = lab.nodes[0].tail(4);
    assert!(status.code() == Some(1) && said.contains("start this node with a newer docent"), "{status}\n{said}");
    println!("{}", lab.nodes[0].tail(1));
    lab.nodes[0].binary = ours.to_owned();
    lab.nodes[0].start().unwrap();
    lab.wait_ready(PATIENCE).unwrap();
}
