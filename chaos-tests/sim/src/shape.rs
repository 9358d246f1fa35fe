//! What a simulated cluster is made of, and the settings of its members.

use crate::chance::Chance;
use crate::space::{self, Theme};
use anyhow::{Context, Result};
use docent_coordinator::secret::Secret;
use docent_trial::name::Role;
use docent_trial::{Member, Scenario};
use serde_json::json;
use std::net::IpAddr;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::PathBuf;

/// Milliseconds: the longest time that a replica waits before it wants an election.
pub const ELECTION_TIMEOUT_MAX_MS: u64 = 1_500;
const INTERNAL_PORT: u16 = 7600;
const QUERY_PORT: u16 = 7500;

/// The size of a cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Nodes at the start.
    pub nodes: u32,
    /// Coordinators.
    pub coordinators: u32,
    /// Replicas of a shard.
    pub replication: u32,
    /// User shards.
    pub user_shards: u32,
    /// Item shards.
    pub item_shards: u32,
    /// Zones, given to nodes in turn; empty for one zone.
    pub zones: Vec<String>,
    /// Clients that call at the same time, each about ten times a second.
    pub clients: u32,
}

impl Shape {
    /// The shape that a seed gets: three nodes mostly, which is what most people run; more where replicas need somewhere to go.
    pub fn of(seed: u64) -> Shape {
        let mut chance = Chance::of(seed, "shape");
        let sizes = if space::theme(seed) == Theme::Moves { [4, 4, 4, 5, 5] } else { [3, 3, 3, 4, 5] };
        let nodes = *chance.pick(&sizes);
        let coordinators = *chance.pick(&[3, 3, 3, 1]);
        Shape { nodes, coordinators, replication: 3, user_shards: 2, item_shards: 1, zones: Vec::new(), clients: 4 }
    }

    /// What a scenario asks for: its cluster, and clients for its rates. What they do is the simulation's own mixture.
    pub fn for_scenario(scenario: &Scenario) -> Shape {
        let needs = &scenario.cluster;
        let per_s = scenario.workload.writes_per_s + scenario.workload.reads_per_s;
        Shape {
            nodes: needs.nodes,
            coordinators: needs.coordinators,
            replication: needs.replication,
            user_shards: needs.user_shards.into(),
            item_shards: needs.item_shards.into(),
            zones: needs.zones.clone(),
            clients: (per_s / 10.0).clamp(4.0, 40.0) as u32,
        }
    }

    /// The zone of a member; empty where there are none.
    pub fn zone(&self, member: Member) -> &str {
        match member.role {
            Role::Node if !self.zones.is_empty() => &self.zones[(member.number as usize - 1) % self.zones.len()],
            _ => "",
        }
    }

    /// Every member, coordinators first.
    pub fn members(&self) -> Vec<Member> {
        let coordinators = (1..=self.coordinators).map(Member::coordinator);
        coordinators.chain((1..=self.nodes).map(Member::node)).collect()
    }
}

/// The secret and the join tokens: real files, because whoever reads them does so before there is a cluster. Gone when dropped.
#[derive(Debug)]
pub struct Papers {
    dir: PathBuf,
}

impl Papers {
    /// Draws a secret and a token for each node of `shape`.
    ///
    /// # Errors
    /// Where the files cannot be written.
    pub fn issue(shape: &Shape) -> Result<Papers> {
        // Of one length whatever the process id: nothing of a run may depend on it.
        let dir = std::env::temp_dir().join(format!("docent-sim-{:010}", std::process::id()));
        std::fs::DirBuilder::new().mode(0o700).create(&dir).with_context(|| format!("create {}", dir.display()))?;
        let papers = Papers { dir };
        let secret = Secret::create(&papers.secret())?;
        for number in 1..=shape.nodes {
            let path = papers.token(Member::node(number));
            let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path)?;
            std::io::Write::write_all(&mut file, secret.token()?.to_string().as_bytes())?;
        }
        Ok(papers)
    }

    fn secret(&self) -> PathBuf {
        self.dir.join("secret")
    }

    fn token(&self, node: Member) -> PathBuf {
        self.dir.join(format!("{node}.token"))
    }
}

impl Drop for Papers {
    fn drop(&mut self) {
        // What stays is a few bytes in the temporary directory.
        let _kept = std::fs::remove_dir_all(&self.dir);
    }
}

/// Where a member listens for members.
pub fn internal_addr(host: IpAddr) -> String {
    format!("{host}:{INTERNAL_PORT}")
}

/// Where a node listens for clients.
pub fn query_addr(host: IpAddr) -> String {
    format!("{host}:{QUERY_PORT}")
}

/// Raft as it is in production, but with logs so short that snapshots and purges happen in a run of seconds.
fn raft() -> serde_json::Value {
    json!({
        "election_timeout_max_ms": ELECTION_TIMEOUT_MAX_MS,
        "snapshot_entries": 40,
        "purge_margin_entries": 10,
        "compaction_interval_ms": 500,
        "chunk_bytes": 4096,
    })
}

/// A coordinator's settings.
///
/// # Errors
/// Where the settings have changed and this has not.
pub fn coordinator(
    shape: &Shape,
    number: u32,
    all: &[String],
    papers: &Papers,
) -> Result<docent_coordinator::Settings> {
    let settings = json!({
        "data_dir": format!("/sim/coordinator-{number}"),
        "listen": all[number as usize - 1],
        "insecure": true,
        "id": number,
        "coordinators": all,
        "secret_file": papers.secret(),
        "expect_nodes": shape.nodes,
        "replication": shape.replication,
        "user_shards": shape.user_shards,
        "item_shards": shape.item_shards,
        "placement_key": "000102030405060708090a0b0c0d0e0f",
        "journal": { "segment_bytes_max": 64 << 10, "cache_bytes_max": 1 << 20 },
        "raft": raft(),
    });
    serde_json::from_value(settings).context("the settings of a coordinator")
}

/// A node's settings.
///
/// # Errors
/// Where the settings have changed and this has not.
pub fn node(
    shape: &Shape,
    number: u32,
    host: IpAddr,
    coordinators: &[String],
    papers: &Papers,
) -> Result<docent_node::Settings> {
    let member = Member { role: Role::Node, number };
    let zone = Some(shape.zone(member)).filter(|zone| !zone.is_empty()).unwrap_or("default");
    let settings = json!({
        "data_dir": format!("/sim/{member}"),
        "zone": zone,
        "internal_listen": internal_addr(host),
        "query_listen": query_addr(host),
        "insecure": true,
        "coordinators": coordinators,
        "token_file": papers.token(member),
        "disk_reserve_bytes": 64 << 10,
        "verify_interval_s": 0,
        "journal": { "segment_bytes_max": 128 << 10, "cache_bytes_max": 1 << 20 },
        "serving": { "engine": "exact", "vector_cache_users": 1_000 },
        "train": { "threads": 1 },
        "raft": raft(),
    });
    serde_json::from_value(settings).context("the settings of a node")
}
