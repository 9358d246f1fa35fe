//! The cluster as its nodes tell it to anybody: members, shards, leaders, moves, jobs.

use crate::client::Client;
use crate::leaders::{self, Replicas};
use anyhow::{Context, Result, ensure};
use docent_trial::schedule::MovePhase;
use docent_trial::target::Actor;
use docent_trial::{Group, Member, Scene, Trigger};
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// How long a look at a node may take.
const PATIENCE: Duration = Duration::from_secs(1);

/// `GET /v1/cluster`.
#[derive(Clone, Debug, Deserialize)]
pub struct View {
    /// Which cluster.
    pub cluster_id: Option<String>,
    /// The live model; 0 for none.
    pub live_version: u64,
    /// Replicas that a shard should have.
    pub replication: u32,
    /// Coordinators that there are.
    pub coordinators: Vec<Coordinator>,
    /// Nodes that there are.
    pub nodes: Vec<Node>,
    /// Shards.
    pub shards: Vec<Shard>,
}

/// A coordinator.
#[derive(Clone, Debug, Deserialize)]
pub struct Coordinator {
    /// Its id: the number in its name.
    pub id: u64,
    /// Heard of lately.
    pub is_alive: bool,
}

/// A node.
#[derive(Clone, Debug, Deserialize)]
pub struct Node {
    /// The cluster's id of it.
    pub id: u64,
    /// Where clients reach it.
    pub query_addr: String,
    /// Its failure domain.
    pub zone: String,
    /// Heard of lately.
    pub is_alive: bool,
    /// `active`, `draining`, `removed`.
    pub state: String,
}

/// A shard.
#[derive(Clone, Debug, Deserialize)]
pub struct Shard {
    /// Which.
    pub id: Group,
    /// Who leads it, as far as the node that was asked knows.
    pub leader: Option<u64>,
    /// Its replicas.
    pub replicas: Vec<Replica>,
    /// A replica on its way.
    #[serde(rename = "move", default)]
    pub under_way: Option<Move>,
}

/// A replica.
#[derive(Clone, Debug, Deserialize)]
pub struct Replica {
    /// Never reused.
    pub id: u64,
    /// The node that holds it.
    pub node: u64,
}

/// A replica on its way.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
pub struct Move {
    /// Who gives; `None` where the shard only grows.
    pub from: Option<u64>,
    /// Who gets.
    pub to: u64,
}

#[derive(Deserialize)]
struct Jobs {
    jobs: Vec<Job>,
}

#[derive(Deserialize)]
struct Job {
    state: String,
    driver: Option<u64>,
    progress: Option<Progress>,
}

#[derive(Deserialize)]
struct Progress {
    epoch: u64,
    epochs: u64,
}

/// Asks a node.
///
/// # Errors
/// It does not answer, or with something else.
pub fn look(client: &Client) -> Result<View> {
    read(client, "/v1/cluster")
}

/// Asks one after the other of these addresses until one answers.
///
/// # Errors
/// None does.
pub fn look_through<'a>(addrs: impl Iterator<Item = &'a str>) -> Result<View> {
    let mut last = anyhow::anyhow!("no node is known");
    for addr in addrs {
        match look(&Client::with_timeout(addr, PATIENCE)) {
            Ok(view) => return Ok(view),
            Err(error) => last = error.context(format!("{addr} does not tell its cluster")),
        }
    }
    Err(last)
}

fn read<T: serde::de::DeserializeOwned>(client: &Client, path: &str) -> Result<T> {
    let (status, body) = client.get(path)?;
    ensure!(status == 200, "{path} answered {status}: {body}");
    serde_json::from_value(body).with_context(|| format!("{path} answered something else"))
}

impl View {
    /// The member of a node's id, by the address where clients reach it.
    pub fn member(&self, id: u64, gateways: &[(Member, String)]) -> Option<Member> {
        let node = self.nodes.iter().find(|node| node.id == id)?;
        gateways.iter().find(|(_, addr)| *addr == node.query_addr).map(|(member, _)| *member)
    }

    /// The cluster's id of a node.
    pub fn id(&self, member: Member, gateways: &[(Member, String)]) -> Option<u64> {
        let (_, addr) = gateways.iter().find(|(one, _)| *one == member)?;
        self.nodes.iter().find(|node| node.query_addr == *addr).map(|node| node.id)
    }

    /// Source and target of every replica on its way.
    pub fn moves(&self) -> BTreeMap<Group, Move> {
        self.shards.iter().filter_map(|shard| Some((shard.id, shard.under_way.clone()?))).collect()
    }

    /// What a trial's targets are resolved against. `is_up` is the world's knowledge of its processes; who leads is asked of every node
    /// that is up, and of the world for the coordinators.
    pub fn scene(
        &self,
        gateways: &[(Member, String)],
        is_up: impl Fn(Member) -> bool,
        coordinator_leader: Option<Member>,
    ) -> Scene {
        let mut actors: Vec<Actor> =
            gateways.iter().map(|(member, addr)| self.node_actor(*member, addr, is_up(*member))).collect();
        for coordinator in &self.coordinators {
            let member = Member::coordinator(u32::try_from(coordinator.id).unwrap_or(u32::MAX));
            let leads = if coordinator_leader == Some(member) { [Group::Catalog].into() } else { BTreeSet::new() };
            let holds = [Group::Catalog].into();
            actors.push(Actor { member, zone: String::new(), is_up: is_up(member), leads, holds });
        }
        let moving =
            self.moves().into_values().next().map(|Move { from, to }| {
                (from.and_then(|from| self.member(from, gateways)), self.member(to, gateways))
            });
        let addrs = gateways.iter().filter(|(member, _)| is_up(*member)).map(|(_, addr)| addr.as_str());
        let driver = running_job(addrs).and_then(|job| self.member(job.driver?, gateways));
        Scene { actors, moving, driver }
    }

    fn node_actor(&self, member: Member, addr: &str, is_up: bool) -> Actor {
        let node = self.nodes.iter().find(|node| node.query_addr == addr);
        let holds =
            |shard: &&Shard| shard.replicas.iter().any(|replica| Some(replica.node) == node.map(|node| node.id));
        let gauges = if is_up { gauges(addr) } else { Replicas::new() };
        Actor {
            member,
            zone: node.map(|node| node.zone.clone()).unwrap_or_default(),
            is_up,
            leads: leaders::led(&gauges).into_iter().filter_map(group).collect(),
            holds: self.shards.iter().filter(holds).map(|shard| shard.id).collect(),
        }
    }
}

fn gauges(addr: &str) -> Replicas {
    leaders::replicas(&Client::with_timeout(addr, PATIENCE)).unwrap_or_default()
}

/// The raft group of a number in the gauges.
pub fn group(number: u64) -> Option<Group> {
    leaders::shard(number).parse().ok()
}

fn running_job<'a>(addrs: impl Iterator<Item = &'a str>) -> Option<Job> {
    let jobs = |addr: &str| read::<Jobs>(&Client::with_timeout(addr, PATIENCE), "/v1/jobs").ok();
    addrs.filter_map(jobs).next()?.jobs.into_iter().find(|job| job.state == "running")
}

/// Whether what a step waits for is the case, as far as nodes tell it to anybody.
///
/// # Errors
/// Why it cannot be told.
pub fn holds(trigger: &Trigger, addrs: &[String]) -> Result<bool, String> {
    let each = || addrs.iter().map(String::as_str);
    match trigger {
        Trigger::Training { percent } => {
            let progress = running_job(each()).and_then(|job| job.progress);
            Ok(progress.is_some_and(|done| done.epoch * 100 >= done.epochs.max(1) * u64::from(*percent)))
        }
        Trigger::Move(MovePhase::Begun) => {
            let view = look_through(each()).map_err(|error| format!("{error:#}"))?;
            Ok(!view.moves().is_empty())
        }
        Trigger::Move(phase) => {
            Err(format!("nodes do not tell when a move is {phase}; `move begun` can be waited for"))
        }
        Trigger::Staged => {
            let models: serde_json::Value = each()
                .find_map(|addr| read(&Client::with_timeout(addr, PATIENCE), "/v1/models").ok())
                .ok_or("no node answers")?;
            let states = models["models"].as_array().map(Vec::as_slice).unwrap_or_default();
            Ok(states.iter().any(|model| model["state"] == "staged"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn view() -> View {
        let node = |id: u64| json!({ "id": id, "query_addr": format!("h{id}:1"), "zone": "a", "is_alive": true, "state": "active" });
        let body = json!({
            "cluster_id": "c", "live_version": 2, "replication": 3, "coordinators": [{ "id": 1, "is_alive": true }],
            "nodes": [node(101), node(102)],
            "shards": [{ "id": "users/3", "leader": 102, "replicas": [{ "id": 7, "node": 101 }], "move": { "from": 101, "to": 102, "cause": "drain" } }],
        });
        serde_json::from_value(body).unwrap()
    }

    #[test]
    fn members_are_found_by_their_addresses_and_roles_are_told() {
        let gateways = [(Member::node(1), "h102:1".to_owned()), (Member::node(2), "h101:1".to_owned())];
        let view = view();
        assert_eq!(
            (view.member(101, &gateways), view.id(Member::node(1), &gateways)),
            (Some(Member::node(2)), Some(102))
        );
        let scene = view.scene(&gateways, |_| false, Some(Member::coordinator(1)));
        assert_eq!(scene.moving, Some((Some(Member::node(2)), Some(Member::node(1)))));
        assert_eq!(scene.actors[1].holds, [Group::Users(3)].into());
        assert_eq!(scene.actors[2].leads, [Group::Catalog].into());
    }
}
