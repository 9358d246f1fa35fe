//! What the probes do to a lab and send to it.

use crate::client::Client;
use crate::lab::{Ground, Lab, Options};
use crate::leaders;
use crate::ledger::Ledger;
use anyhow::{Result, bail, ensure};
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Between polls of another process.
const POLL: Duration = Duration::from_millis(50);
/// A write waits through an election; an answer that has not come by then does not come.
const WRITE: Duration = Duration::from_secs(12);

/// A lab's options: few shards, so that each has work.
pub(crate) fn options(binary: &Option<PathBuf>) -> Options {
    Options { user_shards: 4, item_shards: 2, binary: binary.clone(), ..Options::default() }
}

/// The same over disks that can lose power.
pub(crate) fn options_with_disks(binary: &Option<PathBuf>) -> Options {
    Options { ground: Ground { disks: true, ..Ground::default() }, ..options(binary) }
}

/// An event.
pub(crate) fn event(id: &str, user: &str, item: &str) -> Value {
    json!({ "event_id": id, "user_id": user, "item_id": item, "type": "click" })
}

/// One event at a time from a thread a node, until `stop` says so; each is noted.
fn write_until(addr: &str, name: &str, thread: usize, stop: &AtomicBool) -> Ledger {
    let (client, mut ledger) = (Client::with_timeout(addr, WRITE), Ledger::default());
    for number in 0.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let users = format!("u{}", (number * 7 + thread) % 60);
        let events = [event(&format!("{name}-{thread}-{number}"), &users, &format!("i{}", number % 30))];
        let answer = client.ingest(&events);
        ledger.note_all(&events, answer.as_ref().ok().map(Vec::as_slice));
        if answer.is_err() {
            std::thread::sleep(POLL); // a dead node refuses at once
        }
    }
    ledger
}

/// Does something to the lab while `threads` clients send events through every node; what was said of them.
pub(crate) fn under_writes(
    lab: &mut Lab,
    name: &str,
    threads: usize,
    change: impl FnOnce(&mut Lab) -> Result<()>,
) -> Result<Ledger> {
    let (stop, addresses) = (AtomicBool::new(false), lab.addresses());
    std::thread::scope(|scope| {
        let of = |thread: usize| {
            let (addr, stop) = (addresses[thread % addresses.len()].clone(), &stop);
            scope.spawn(move || write_until(&addr, name, thread, stop))
        };
        let running: Vec<_> = (0..threads).map(of).collect();
        let outcome = change(lab);
        stop.store(true, Ordering::Relaxed);
        let mut all = Ledger::default();
        for thread in running {
            match thread.join() {
                Ok(ledger) => all.absorb(ledger),
                Err(_) => bail!("a client panicked"),
            }
        }
        outcome.map(|()| all)
    })
}

/// The node that leads most shards.
pub(crate) fn busiest(lab: &Lab) -> usize {
    let led = |index: usize| leaders::replicas(&lab.client(index)).map_or(0, |all| leaders::led(&all).len());
    let living = (0..lab.nodes.len()).filter(|index| lab.nodes[*index].pid().is_some());
    living.max_by_key(|index| led(*index)).unwrap_or(0)
}

/// Waits until the nodes but `without` lead all `groups` between them.
pub(crate) fn wait_led(lab: &Lab, without: usize, groups: usize, within: Duration) -> Result<()> {
    let start = Instant::now();
    loop {
        let led = |index: usize| leaders::replicas(&lab.client(index)).map_or(0, |all| leaders::led(&all).len());
        if (0..lab.nodes.len()).filter(|index| *index != without).map(led).sum::<usize>() >= groups {
            return Ok(());
        }
        ensure!(start.elapsed() < within, "the others did not elect leaders within {within:?}");
        std::thread::sleep(POLL);
    }
}

/// SIGKILL to every process at once, then all of them again; an error names the one that does not come back.
pub(crate) fn restart_all(lab: &mut Lab, within: Duration) -> Result<()> {
    lab.members().try_for_each(crate::lab::Member::kill)?;
    lab.members().try_for_each(crate::lab::Member::start)?;
    lab.wait_ready(within)
}

/// Stops a process as SIGSTOP does.
pub(crate) fn pause(lab: &Lab, node: usize) -> Result<()> {
    lab.nodes[node].signal(Signal::SIGSTOP)
}

/// Lets it go on.
pub(crate) fn resume(lab: &Lab, node: usize) -> Result<()> {
    lab.nodes[node].signal(Signal::SIGCONT)
}

/// Sends a batch that must be accepted as a whole.
pub(crate) fn seed(client: &Client, events: &[Value]) -> Result<()> {
    for events in events.chunks(500) {
        let outcomes = client.ingest(events)?;
        let odd = outcomes.iter().find(|outcome| *outcome != "accepted");
        ensure!(odd.is_none(), "a first event is {odd:?}");
    }
    Ok(())
}

/// A write that may be repeated, until it is acked.
pub(crate) fn put(client: &Client, path: &str, body: &Value) -> Result<()> {
    let start = Instant::now();
    loop {
        match client.put(path, body)? {
            (200, _) => return Ok(()),
            (status, body) => ensure!(start.elapsed() < WRITE * 2, "PUT {path} answered {status}: {body}"),
        }
        std::thread::sleep(POLL);
    }
}

/// Where an HTTP body has a flag.
pub(crate) fn recommend_flag(client: &Client, user: &str) -> Result<Option<bool>> {
    let (status, body) = client.get(&format!("/v1/users/{user}/consent"))?;
    Ok((status == 200).then(|| body["recommend"].as_bool()).flatten())
}

/// Acked consent: personal answers or none.
pub(crate) fn set_recommend(client: &Client, user: &str, allows: bool) -> Result<()> {
    let flags = json!({ "collect": true, "recommend": allows, "train": true });
    put(client, &format!("/v1/users/{user}/consent"), &flags)
}
