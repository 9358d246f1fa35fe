//! Power that goes: what was not synced is gone, the lab sees it, and Docent loses nothing that it acked.

use docent_chaos::client::Client;
use docent_chaos::gateways::Gateways;
use docent_chaos::lab::disk::{self, Shelf};
use docent_chaos::lab::world::LabWorld;
use docent_chaos::lab::{self, Abilities, Options};
use docent_chaos::traffic::{Load, Traffic, event};
use docent_trial::history::{Observed, Sight};
use docent_trial::{Applied, World};
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

const LOAD: Load = Load { events: 1.0, batch: 1, queries: 1.0, n: 10, users: 500, items: 300 };
const BATCH: u64 = 10;
const PATIENCE: Duration = Duration::from_secs(90);

/// Appends numbered records to a file and acks each on its output: after a sync, or, as a broken store would, without one.
const WRITER: &str = "
import os, sys
f = os.open(sys.argv[1], os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o600)
d = os.open(os.path.dirname(sys.argv[1]), os.O_RDONLY)
os.fsync(f); os.fsync(d)
number = 0
while True:
    os.write(f, b'%d\\n' % number)
    if sys.argv[2] == 'synced': os.fdatasync(f)
    print(number, flush=True)
    number += 1
";

fn writer(path: &Path, how: &str) -> (Child, BufReader<ChildStdout>) {
    let mut child =
        Command::new("python3").args(["-c", WRITER]).arg(path).arg(how).stdout(Stdio::piped()).spawn().unwrap();
    let output = BufReader::new(child.stdout.take().unwrap());
    (child, output)
}

/// Records that a writer acked before its power went, and those that are there afterwards.
fn acked_and_kept(how: &str) -> (u64, u64) {
    let dir = disk::workshop().unwrap();
    let shelf = Shelf::build(&dir.path().join("images")).unwrap();
    let disk = shelf.disk(dir.path(), "fake").unwrap();
    let path = disk.root().join("records");
    let (mut child, mut output) = writer(&path, how);
    let mut line = String::new();
    while line.trim() != "499" {
        line.clear();
        assert!(output.read_line(&mut line).unwrap() > 0, "the writer ended");
    }
    child.kill().unwrap();
    child.wait().unwrap();
    let acked = output.lines().map_while(Result::ok).last().map_or(499, |last| last.parse().unwrap()) + 1;
    let loss = disk.lose_power(false).unwrap();
    assert!(how == "synced" || loss.files > 0, "the lab says what it took");
    let kept = std::fs::read_to_string(&path).unwrap();
    (acked, kept.lines().count() as u64)
}

#[test]
fn a_writer_that_acks_without_a_sync_is_caught_and_one_that_syncs_is_not() {
    if let Err(why) = &Abilities::here().disks {
        println!("SKIPPED: {why}");
        return;
    }
    let _only_one = lab::lock().unwrap();
    let (acked, kept) = acked_and_kept("unsynced");
    assert!(kept < acked, "all {acked} records that were never synced survived the loss of power");
    let (acked, kept) = acked_and_kept("synced");
    assert!(kept >= acked, "{} of {acked} synced records are gone", acked - kept);
}

/// `DOCENT_ROUNDS`, where it is given.
fn rounds(usually: u64) -> u64 {
    let given = std::env::var("DOCENT_ROUNDS").ok().map(|text| text.parse().expect("DOCENT_ROUNDS: a number"));
    given.unwrap_or(usually)
}

fn install(world: &mut LabWorld, fault: &str) {
    let applied = world.apply(&fault.parse().unwrap(), 7);
    assert!(matches!(applied, Applied::Installed { .. }), "{fault}: {applied}");
}

/// Imports through every node until the power goes under it. Returns the batches that were sent.
fn lose_power_at_work(world: &mut LabWorld, traffic: &Traffic<'_>, round: u64) -> u64 {
    let clients: Vec<Client> = (0..world.lab().nodes.len()).map(|place| world.lab().client(place)).collect();
    let (next, acked) = (AtomicU64::new(0), AtomicU64::new(0));
    std::thread::scope(|scope| {
        for client in clients.iter().chain(&clients) {
            // A request that fails is the loss of power: its events are unknown, and this writer ends.
            scope.spawn(|| {
                loop {
                    let events = batch(round, next.fetch_add(1, Ordering::Relaxed));
                    let outcomes = client.ingest(&events);
                    traffic.ledger().note_all(&events, outcomes.as_ref().ok().map(Vec::as_slice));
                    acked.fetch_add(1, Ordering::Relaxed);
                    if outcomes.is_err() {
                        return;
                    }
                }
            });
        }
        while acked.load(Ordering::Relaxed) < 40 {
            std::thread::yield_now();
        }
        // Every second time, the write that was under way is there in half.
        if round % 2 == 1 {
            install(world, "torn-write all");
        }
        install(world, "power-loss all");
    });
    next.load(Ordering::Relaxed)
}

fn batch(round: u64, number: u64) -> Vec<serde_json::Value> {
    let numbers = (0..BATCH).map(|i| number * BATCH + i);
    numbers.map(|n| event(&format!("power-{round}-{n}"), (n * 31 % 500) as usize, (n * 17 % 300) as usize)).collect()
}

/// Fifty rounds, as the acceptance has it: `DOCENT_ROUNDS=50`.
#[test]
fn the_whole_cluster_loses_its_power_again_and_again_and_nothing_that_was_acked() {
    if let Err(why) = &Abilities::here().disks {
        println!("SKIPPED: {why}");
        return;
    }
    let mut world = LabWorld::start(&Options::default()).unwrap();
    let gateways = Gateways::new(&[]);
    let traffic = Traffic::new("before", &gateways, LOAD);
    traffic.seed(&world.lab().client(0), 4).unwrap();
    let (mut lost, mut torn) = (0, 0);
    for round in 0..rounds(2) {
        let sent = lose_power_at_work(&mut world, &traffic, round);
        install(&mut world, "restart all");
        world.lab_mut().wait_ready(PATIENCE).unwrap();
        traffic
            .ledger()
            .audit(world.lab())
            .unwrap_or_else(|error| panic!("round {round}: {error:#}\n{}", world.lab().logs(20)));
        // What is unknown may be sent again under its id, and counts once.
        for number in sent.saturating_sub(8)..sent {
            traffic.ledger().send(&world.lab().client(number as usize % 3), &batch(round, number)).unwrap();
        }
        for seen in world.observe() {
            match seen {
                Observed::Seen { what: Sight::LostUnsyncedWrites, count } => lost += count,
                Observed::Seen { what: Sight::TornWrites, count } => torn += count,
                _ => {}
            }
        }
    }
    traffic.ledger().audit(world.lab()).unwrap();
    world.lab().docent(&["verify"]).unwrap();
    assert!(lost > 0, "no file lost anything: the test proves nothing");
    println!(
        "{} rounds, {lost} files lost what was not synced, {torn} torn, {} events acked",
        rounds(2),
        traffic.ledger().acked()
    );
}
