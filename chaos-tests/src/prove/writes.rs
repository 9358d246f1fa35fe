//! Probes of what was acknowledged: it is there afterwards, once, whatever dies.

use super::ground::{
    busiest, event, options, options_with_disks, pause, put, recommend_flag, restart_all, resume, seed, set_recommend,
    under_writes, wait_led,
};
use super::{Finding, Outcome, Subject, briefly};
use crate::lab::{Lab, Member, Options};
use crate::ledger::Ledger;
use anyhow::{Context, Result};
use docent_trial::check::Checker;
use serde_json::{Value, json};
use std::time::Duration;

/// What a cluster needs at most to come back.
const BACK: Duration = Duration::from_secs(60);
/// Clients that send at the same time.
const CLIENTS: usize = 12;

/// What the ledger says against an export of everything.
fn audit(lab: &Lab, ledger: &Ledger) -> Outcome {
    let exported = lab.docent(&["export", "events"])?;
    let events: Vec<Value> = exported.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
    anyhow::ensure!(ledger.acked() > 100, "only {} events were acked: the run says nothing", ledger.acked());
    let wrong = ledger.violations(events.into_iter());
    Ok(wrong.into_iter().take(10).map(|what| Finding::new(Checker::Events, what)).collect())
}

/// A cluster that does not come back is a finding, not an accident.
fn back(outcome: Result<()>) -> Vec<Finding> {
    let told = |error: anyhow::Error| Finding::new(Checker::Liveness, briefly(&format!("{error:#}")));
    outcome.err().map(told).into_iter().collect()
}

/// How a node goes away, and how it comes back.
struct Absence {
    name: &'static str,
    clients: usize,
    times: u32,
    /// Load before each, so that every round meets the cluster elsewhere.
    load: Duration,
    leave: fn(&mut Lab, usize) -> Result<()>,
    come_back: fn(&mut Lab, usize) -> Result<()>,
}

impl Absence {
    /// The node that leads most is away under writes until others lead all that it led.
    fn of_leaders(&self, subject: &Subject) -> Outcome {
        let options = options(&subject.binary);
        let groups = options.user_shards + options.item_shards;
        let mut lab = Lab::start(&options)?;
        let mut found = Vec::new();
        let ledger = under_writes(&mut lab, self.name, self.clients, |lab| {
            for _ in 0..self.times {
                std::thread::sleep(self.load); // how long the load lasts is what differs between rounds: there is no event to wait for
                let victim = busiest(lab);
                (self.leave)(lab, victim)?;
                wait_led(lab, victim, groups, BACK)?;
                (self.come_back)(lab, victim)?;
                found.extend(back(lab.wait_ready(BACK)));
                if !found.is_empty() {
                    break;
                }
            }
            Ok(())
        })?;
        match found.is_empty() {
            true => audit(&lab, &ledger),
            false => Ok(found),
        }
    }
}

/// The node that leads most is killed under writes and comes back.
pub(super) fn leader_killed(subject: &Subject) -> Outcome {
    let kill = Absence {
        name: "kill",
        clients: CLIENTS,
        times: 2,
        load: Duration::from_millis(1_500 + subject.round * 130),
        leave: |lab, victim| lab.nodes[victim].kill(),
        come_back: |lab, victim| lab.nodes[victim].start(),
    };
    kill.of_leaders(subject)
}

/// The node that leads most is stopped for longer than an election takes, with writes waiting at its door when it goes on.
pub(super) fn leader_paused(subject: &Subject) -> Outcome {
    let pause = Absence {
        name: "pause",
        clients: CLIENTS * 2,
        times: 3,
        load: Duration::from_millis(1_000 + subject.round * 70),
        leave: |lab, victim| pause(lab, victim),
        come_back: |lab, victim| {
            resume(lab, victim)?;
            std::thread::sleep(Duration::from_millis(1_500)); // what waited at its door is answered
            Ok(())
        },
    };
    pause.of_leaders(subject)
}

/// Consent and profiles are read again after `kill -9` of everything.
pub(super) fn restart(subject: &Subject) -> Outcome {
    let mut lab = Lab::start(&options(&subject.binary))?;
    let users: Vec<String> = (0..40).map(|i| format!("u{i}")).collect();
    for (i, user) in users.iter().enumerate() {
        set_recommend(&lab.client(i % 3), user, i % 2 == 0)?;
    }
    let gone = back(restart_all(&mut lab, BACK));
    if !gone.is_empty() {
        return Ok(gone);
    }
    let mut found = Vec::new();
    for (i, user) in users.iter().enumerate() {
        let now = recommend_flag(&lab.client((i + 1) % 3), user)?;
        if now != Some(i % 2 == 0) {
            found.push(Finding::new(
                Checker::Linear,
                format!("consent `recommend` = {} was acked for {user}; after a restart it is {now:?}", i % 2 == 0),
            ));
        }
    }
    Ok(found)
}

/// Every member loses power at once: killed, and its disk has what was synced.
fn lose_power(lab: &mut Lab) -> Result<()> {
    lab.members().try_for_each(Member::kill)?;
    for member in lab.members() {
        let disk = member.site.disk.as_ref().with_context(|| format!("{} has no disk of its own", member.name))?;
        disk.lose_power(false)?;
    }
    lab.members().try_for_each(Member::start)
}

fn power_lost(lab: &mut Lab, ledger: &Ledger) -> Outcome {
    lose_power(lab)?;
    let gone = back(lab.wait_ready(BACK));
    match gone.is_empty() {
        true => audit(lab, ledger),
        false => Ok(gone),
    }
}

/// The whole cluster loses power while events come in.
pub(super) fn power_loss(subject: &Subject) -> Outcome {
    let mut lab = Lab::start(&options_with_disks(&subject.binary))?;
    let wait = Duration::from_millis(2_500 + subject.round * 130);
    let ledger = under_writes(&mut lab, "power", CLIENTS, |_| {
        std::thread::sleep(wait); // some load
        Ok(())
    })?;
    power_lost(&mut lab, &ledger)
}

/// The same when logs were purged shortly before.
pub(super) fn power_loss_after_purge(subject: &Subject) -> Outcome {
    let node_settings = "raft.snapshot_entries = 60\nraft.purge_margin_entries = 0\nraft.compaction_interval_ms = 300";
    let options = Options { node_settings: node_settings.to_owned(), ..options_with_disks(&subject.binary) };
    let mut lab = Lab::start(&options)?;
    let ledger = under_writes(&mut lab, "purge", CLIENTS, |_| {
        std::thread::sleep(Duration::from_millis(6_000)); // several purges a shard
        Ok(())
    })?;
    power_lost(&mut lab, &ledger)
}

/// Nothing of an erased user is there when the user comes again.
pub(super) fn erasure(subject: &Subject) -> Outcome {
    let lab = Lab::start(&options(&subject.binary))?;
    let mut found = Vec::new();
    for i in 0..5 {
        let (user, client) = (format!("gone{i}"), lab.client(i % 3));
        let old: Vec<Value> = (0..10).map(|n| event(&format!("{user}-{n}"), &user, &format!("i{n}"))).collect();
        seed(&client, &old)?;
        put(&client, &format!("/v1/users/{user}/blocks"), &json!({ "item_ids": ["i1"] }))?;
        let (status, body) = client.delete(&format!("/v1/users/{user}"))?;
        anyhow::ensure!(status == 200, "DELETE answered {status}: {body}");
        let other = lab.client((i + 1) % 3);
        let outcomes = other.ingest(&[event(&format!("{user}-new"), &user, "i20"), old[0].clone()])?;
        let events = other.get(&format!("/v1/users/{user}"))?.1["events"].as_u64();
        if outcomes != ["accepted", "accepted"] || events != Some(2) {
            let what =
                format!("{user} was erased; two events later there are {events:?} events, outcomes {outcomes:?}");
            found.push(Finding::new(Checker::Linear, what));
        }
    }
    Ok(found)
}
