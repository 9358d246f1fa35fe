//! One node's disk fails: nothing acked is lost, clients go on, and the node comes back without an operator where it can.

use docent_chaos::faults::{self, FailingSyncs, SmallDisk};
use docent_chaos::gateways::Gateways;
use docent_chaos::lab::{Lab, Options};
use docent_chaos::leaders::{self, Replicas};
use docent_chaos::traffic::{Load, Report, Traffic};
use serde_json::Value;
use std::collections::BTreeMap;
use std::panic::AssertUnwindSafe;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

const LOAD: Load = Load { events: 200.0, batch: 4, queries: 40.0, n: 10, users: 300, items: 300 };
/// Far above what anything here takes.
const PATIENCE: Duration = Duration::from_secs(90);
/// The node whose disk fails, from 0.
const VICTIM: usize = 2;
/// Small files, so that little data makes several of each kind; every replica is looked at by no timer but the test's.
const SMALL_FILES: &str = "verify_interval_s = 0\nraft.snapshot_entries = 60\nraft.purge_margin_entries = 20\njournal.segment_bytes_max = 65536\nstore.memtable_bytes = 1048576";

fn options(node_settings: &str) -> Options {
    Options { coordinators: 1, node_settings: node_settings.to_owned(), ..Options::default() }
}

/// Says why a test proves nothing here.
fn skipped(why: Option<String>) -> bool {
    if let Some(why) = &why {
        println!("SKIPPED: {why}");
    }
    why.is_some()
}

fn until(what: &str, lab: &Lab, mut is_there: impl FnMut() -> bool) {
    let start = Instant::now();
    while !is_there() {
        assert!(start.elapsed() < PATIENCE, "{what} did not happen\n{}", lab.logs(20));
        std::thread::sleep(Duration::from_millis(50)); // between polls of another process
    }
}

/// Runs `change` under load through the nodes that stay well. No query fails, and every event is acked in the end.
fn under_load(lab: &mut Lab, name: &str, change: impl FnOnce(&mut Lab, &Traffic<'_>)) -> Report {
    let gateways = Gateways::new(&lab.addresses()[..VICTIM]);
    let traffic = Traffic::new(name, &gateways, LOAD);
    let report = std::thread::scope(|scope| {
        let running = scope.spawn(|| traffic.run());
        let outcome = std::panic::catch_unwind(AssertUnwindSafe(|| {
            more(&traffic, 60, lab);
            change(lab, &traffic);
            more(&traffic, 60, lab);
        }));
        traffic.stop();
        let report = running.join().unwrap().unwrap();
        outcome.unwrap();
        report
    });
    assert!(report.queries.failures.is_empty() && report.events.failures.is_empty(), "{report:#?}\n{}", lab.logs(10));
    println!("{name}: {} events acked, {} tries refused meanwhile", traffic.ledger().acked(), report.refused.len());
    traffic.ledger().audit_of(lab, name).unwrap();
    report
}

/// Waits until so many more events are acked.
fn more(traffic: &Traffic<'_>, events: usize, lab: &Lab) {
    let wanted = traffic.ledger().acked() + events;
    until("further acks", lab, || traffic.ledger().acked() >= wanted);
}

fn seed(lab: &Lab) {
    let gateways = Gateways::new(&[]);
    Traffic::new("seed", &gateways, LOAD).seed(&lab.client(0), 8).unwrap();
}

fn caught_up(lab: &Lab) {
    let others: Vec<Replicas> = (0..VICTIM).map(|index| leaders::replicas(&lab.client(index)).unwrap()).collect();
    until("catching up", lab, || {
        leaders::replicas(&lab.client(VICTIM)).is_ok_and(|own| leaders::has_caught_up(&own, &others))
    });
}

/// Every replica of every shard has the same bytes.
fn agrees(lab: &Lab) {
    caught_up(lab);
    lab.docent(&["verify"]).unwrap();
}

#[test]
fn a_failed_sync_ends_the_node_at_once_and_loses_nothing() {
    if skipped(faults::why_no_tracing()) {
        return;
    }
    let mut lab = Lab::start(&options("")).unwrap();
    seed(&lab);
    let trace = lab.dir().join("syncs");
    under_load(&mut lab, "sync", |lab, traffic| {
        let syncs = FailingSyncs::of(lab.nodes[VICTIM].pid().unwrap(), trace).unwrap();
        let status = faults::end_of(&mut lab.nodes[VICTIM], PATIENCE).unwrap();
        let failed = syncs.failed().unwrap();
        println!("{status}; failed syncs: {failed:?}\n{}", lab.nodes[VICTIM].tail(12));
        assert_eq!(status.code(), Some(1), "{status}");
        let journal: Vec<&String> = failed.iter().filter(|file| file.ends_with(".journal")).collect();
        assert_eq!(journal.len(), 1, "a sync that failed was tried again: {failed:?}");
        assert!(lab.nodes[VICTIM].tail(40).contains("cannot sync"), "{}", lab.nodes[VICTIM].tail(40));
        more(traffic, 400, lab);
    });
    lab.nodes[VICTIM].start().unwrap();
    lab.wait_ready(PATIENCE).unwrap();
    agrees(&lab);
}

fn cluster(lab: &Lab) -> Value {
    lab.client(0).get("/v1/cluster").unwrap().1
}

/// Replica ids of the victim's node by shard; `None` while one is on its way.
fn replicas(lab: &Lab) -> Option<BTreeMap<String, u64>> {
    let state = cluster(lab);
    // Ids are given in the order of joining.
    let is_victim = |node: &&Value| node["query_addr"] == lab.nodes[VICTIM].query_addr.as_str();
    let victim = &state["nodes"].as_array()?.iter().find(is_victim).expect("the victim is a member")["id"];
    let mut found = BTreeMap::new();
    for shard in state["shards"].as_array()? {
        if !shard["move"].is_null() {
            return None;
        }
        let own = shard["replicas"].as_array()?.iter().find(|replica| replica["node"] == *victim)?;
        found.insert(shard["id"].as_str()?.to_owned(), own["id"].as_u64()?);
    }
    Some(found)
}

fn victim_leads(lab: &Lab) -> usize {
    leaders::led(&leaders::replicas(&lab.client(VICTIM)).unwrap()).len()
}

/// Answers of the victim itself, to a user that it must know.
fn victim_reads(lab: &Lab) {
    let answer = lab.client(VICTIM).recommend("u5", 10).unwrap();
    assert_eq!(answer["items"].as_array().unwrap().len(), 10, "{answer}");
}

#[test]
fn a_full_disk_takes_no_writes_goes_on_reading_and_comes_back_by_itself() {
    if skipped(faults::why_no_mounting()) {
        return;
    }
    const MIB: u64 = 1 << 20;
    let mut lab = Lab::start(&options("")).unwrap();
    seed(&lab);
    lab.nodes[VICTIM].kill().unwrap();
    let disk = SmallDisk::over(&lab.dir().join(format!("node-{}", VICTIM + 1)), 512 * MIB).unwrap();
    lab.nodes[VICTIM].start().unwrap();
    lab.wait_ready(PATIENCE).unwrap();
    // Slowly: it hands over before it has to refuse. Then at once, to the last byte.
    for (name, left) in [("full", 40 * MIB), ("brimful", 0)] {
        until("leaderships of the victim", &lab, || victim_leads(&lab) > 0);
        let pid = lab.nodes[VICTIM].pid();
        under_load(&mut lab, name, |lab, traffic| {
            disk.fill_but(left).unwrap();
            until("handing over", lab, || victim_leads(lab) == 0);
            more(traffic, 400, lab);
            victim_reads(lab);
            // Written through the node with the full disk, kept by the others.
            let event = docent_chaos::traffic::event(&format!("{name}-through-victim"), 5, 5);
            traffic.ledger().send(&lab.client(VICTIM), &[event]).unwrap();
            assert_eq!(victim_leads(lab), 0);
            disk.clear().unwrap();
        });
        lab.wait_ready(PATIENCE).unwrap();
        assert_eq!(lab.nodes[VICTIM].pid(), pid);
        agrees(&lab);
    }
}

#[test]
fn when_all_disks_are_full_writes_are_refused_in_plain_words_and_reads_go_on() {
    if skipped(faults::why_no_mounting()) {
        return;
    }
    let mut lab = Lab::start(&options("")).unwrap();
    seed(&lab);
    let mut disks = Vec::new();
    for index in 0..lab.nodes.len() {
        lab.nodes[index].terminate().unwrap();
        disks.push(SmallDisk::over(&lab.dir().join(format!("node-{}", index + 1)), 512 << 20).unwrap());
        lab.nodes[index].start().unwrap();
        lab.wait_ready(PATIENCE).unwrap();
    }
    disks.iter().for_each(|disk| disk.fill_but(0).unwrap());
    let gateways = Gateways::new(&[]);
    let traffic = Traffic::new("all", &gateways, LOAD);
    let mut number = 0;
    let mut refused = String::new();
    until("a refusal", &lab, || {
        number += 1;
        refused = traffic
            .ledger()
            .send(&lab.client(0), &[event(number)])
            .err()
            .map(|error| error.to_string())
            .unwrap_or_default();
        refused.contains("429") && refused.contains("full")
    });
    (0..3).for_each(|index| {
        assert_eq!(lab.client(index).recommend("u5", 10).unwrap()["items"].as_array().unwrap().len(), 10)
    });
    disks.iter().for_each(|disk| disk.clear().unwrap());
    until("an ack", &lab, || {
        number += 1;
        traffic.ledger().send(&lab.client(1), &[event(number)]).is_ok()
    });
    agrees(&lab);
    traffic.ledger().audit_of(&lab, "all").unwrap();
}

fn event(number: usize) -> Value {
    docent_chaos::traffic::event(&format!("all-{number}"), number, number)
}

/// A way to damage the files of a node that is down, and what must come of it.
struct Damage {
    name: &'static str,
    of: fn(&Path),
    /// What the node says of it.
    said: &'static str,
    /// Whether replicas are made anew under other ids; otherwise the node heals by itself under the same.
    is_lost: bool,
}

const DAMAGES: [Damage; 5] = [
    Damage { name: "a torn tail", of: torn_tail, said: "cutting a torn, never synced tail", is_lost: false },
    Damage { name: "flipped bytes in the journal", of: flipped_journal, said: "is damaged at byte", is_lost: true },
    Damage { name: "a journal segment cut short", of: cut_journal, said: "is quarantined", is_lost: true },
    Damage { name: "bad snapshots", of: bad_snapshots, said: "removing a damaged snapshot", is_lost: false },
    Damage { name: "bad tables", of: bad_tables, said: "removed and rebuilt from snapshots and logs", is_lost: false },
];

fn torn_tail(dir: &Path) {
    let last = faults::files(&dir.join("journal"), ".journal").unwrap().pop().unwrap();
    faults::cut(&last, faults::written(&last).unwrap() - 5).unwrap();
}

/// A little before the end: later records say that these were synced, and no snapshot has made them superfluous yet.
fn flipped_journal(dir: &Path) {
    let last = faults::files(&dir.join("journal"), ".journal").unwrap().pop().unwrap();
    faults::flip(&last, faults::written(&last).unwrap().saturating_sub(4_096).max(128), 512).unwrap();
}

/// The next segment knows how long this one was.
fn cut_journal(dir: &Path) {
    let segments = faults::files(&dir.join("journal"), ".journal").unwrap();
    let segment = &segments[segments.len().checked_sub(2).expect("two segments at least")];
    faults::cut(segment, faults::written(segment).unwrap() / 2).unwrap();
}

/// One is gone, one has a wrong byte, one is cut short.
fn bad_snapshots(dir: &Path) {
    let snapshots = faults::files(&dir.join("snapshots"), ".snap").unwrap();
    let length = |path: &Path| std::fs::metadata(path).unwrap().len();
    std::fs::remove_file(&snapshots[0]).unwrap();
    faults::flip(&snapshots[1], length(&snapshots[1]) / 2, 1).unwrap();
    faults::cut(&snapshots[2], length(&snapshots[2]) / 2).unwrap();
}

fn bad_tables(dir: &Path) {
    let tables: Vec<PathBuf> = faults::files(&dir.join("state"), "")
        .unwrap()
        .into_iter()
        .filter(|path| path.parent().is_some_and(|dir| dir.ends_with("tables")))
        .collect();
    assert!(!tables.is_empty(), "the state has no tables yet");
    for table in tables {
        let length = std::fs::metadata(&table).unwrap().len();
        (0..length / 4_096).for_each(|block| faults::flip(&table, block * 4_096 + 2_000.min(length / 2), 8).unwrap());
    }
}

/// Starts the victim until it stays; how often it ended by itself before.
fn start_until_it_stays(lab: &mut Lab) -> usize {
    for ends in 0..3 {
        lab.nodes[VICTIM].start().unwrap();
        match lab.wait_ready(PATIENCE) {
            Ok(()) => return ends,
            Err(error) => println!("{}", error.to_string().lines().last().unwrap_or_default()),
        }
        // It is gone: this only collects the status.
        let status = lab.nodes[VICTIM].terminate().unwrap();
        assert_eq!(status.code(), Some(1), "{status}\n{}", lab.nodes[VICTIM].tail(30));
    }
    panic!("the node ends again and again:\n{}", lab.nodes[VICTIM].tail(60));
}

#[test]
fn damaged_files_are_found_and_rebuilt_without_an_operator() {
    let coordinator_settings = "moves_at_once = 6".to_owned();
    let mut lab = Lab::start(&Options { coordinator_settings, ..options(SMALL_FILES) }).unwrap();
    seed(&lab);
    for Damage { name, of, said, is_lost } in &DAMAGES {
        let (before, lost_before) = (replicas(&lab).expect("nothing moves"), lost_so_far(&lab));
        under_load(&mut lab, name, |lab, traffic| {
            more(traffic, 300, lab);
            lab.nodes[VICTIM].kill().unwrap();
            of(&lab.dir().join(format!("node-{}", VICTIM + 1)));
            more(traffic, 100, lab);
            let ends = start_until_it_stays(lab);
            assert!(ends <= 1, "{name}: {ends} ends");
            until(name, lab, || {
                let lost = lost_so_far(lab) - lost_before;
                (lost > 0) == *is_lost && replicas(lab).is_some_and(|now| changed(&before, &now) == lost)
            });
            println!(
                "{name}: {} of {} replicas made anew, {ends} ends",
                changed(&before, &replicas(lab).unwrap_or_default()),
                before.len()
            );
        });
        agrees(&lab);
        let log = lab.nodes[VICTIM].tail(100_000);
        assert!(log.contains(said) && !log.contains("panicked"), "{name}: {log}");
    }
}

/// Replicas that the victim has given up.
fn lost_so_far(lab: &Lab) -> usize {
    lab.nodes[VICTIM].tail(1_000_000).matches("replica is lost and must be made anew").count()
}

fn changed(before: &BTreeMap<String, u64>, now: &BTreeMap<String, u64>) -> usize {
    before.iter().filter(|(shard, replica)| now.get(*shard) != Some(replica)).count()
}

/// What cannot be rebuilt is told, with what to do.
#[test]
fn a_node_without_its_metadata_says_what_is_damaged_and_what_to_do() {
    let mut lab = Lab::start(&options("")).unwrap();
    seed(&lab);
    lab.nodes[VICTIM].kill().unwrap();
    let meta = lab.dir().join(format!("node-{}", VICTIM + 1)).join("meta");
    let database = meta.join("db");
    let whole = std::fs::read(&database).unwrap();
    let damages: [(&str, &dyn Fn()); 3] = [
        ("zeros", &|| std::fs::write(&database, vec![0; whole.len()]).unwrap()),
        ("noise", &|| std::fs::write(&database, whole.iter().map(|byte| byte ^ 0xa5).collect::<Vec<u8>>()).unwrap()),
        ("gone", &|| std::fs::remove_dir_all(&meta).unwrap()),
    ];
    for (name, damage) in damages {
        damage();
        lab.nodes[VICTIM].start().unwrap();
        let status = faults::end_of(&mut lab.nodes[VICTIM], PATIENCE).unwrap();
        let said = lab.nodes[VICTIM].tail(3);
        assert_eq!(status.code(), Some(1), "{name}: {said}");
        assert!(
            said.contains("node-3") && said.contains("nodes remove") && said.contains("docent token create"),
            "{name}: {said}"
        );
    }
}
