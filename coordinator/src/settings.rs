//! A coordinator's settings, units in the keys.

use crate::catalog::LAST_COORDINATOR;
use crate::plan::Policy;
use crate::secret::unhex;
use docent_placement::initial::VIRTUAL_WORKERS;
use docent_runtime::telemetry;
use docent_types::catalog::Cluster;
use docent_types::{ClusterId, Error, NodeId, Result, codec};
use serde::{Deserialize, Serialize};
use std::net::{IpAddr, ToSocketAddrs};
use std::path::PathBuf;
use std::time::Duration;

/// More would only slow every change down.
const COORDINATORS_MAX: usize = 9;

/// One coordinator's settings. `id`, `coordinators`, `secret_file` and what a new cluster gets must agree on all of them; the latter
/// (`expect_nodes` to `placement_key`) only count until the cluster is born.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// Journal, catalog and identity; created with mode 0700. Never shared, never given to another coordinator.
    pub data_dir: PathBuf,
    /// Where this coordinator listens for members, `host:port`.
    pub listen: String,
    /// Allows `listen` to be reachable from other machines: there is no access control yet.
    pub insecure: bool,
    /// The position of this coordinator in `coordinators`, from 1.
    pub id: u64,
    /// The internal addresses of all coordinators, in the order of their ids; the same on each of them.
    pub coordinators: Vec<String>,
    /// The cluster's secret, mode 0600; the same on each coordinator.
    pub secret_file: PathBuf,
    /// Shards are placed once this many nodes have joined.
    pub expect_nodes: u16,
    /// Replicas of each shard; fewer nodes make it fewer.
    pub replication: u8,
    /// User shards, 1 to 64.
    pub user_shards: u16,
    /// Item shards, 1 to 64.
    pub item_shards: u16,
    /// The key of the slot hash, 32 hexadecimal digits; drawn when the cluster is born if it is not given.
    pub placement_key: Option<String>,
    /// Silence after which a member counts as dead.
    pub node_timeout_ms: u64,
    /// A staged version leaves replicas behind that are slower than this.
    pub stage_timeout_ms: u64,
    /// Pause before a failed job's next attempt.
    pub job_retry_ms: u64,
    /// An attempt without progress for this long has failed.
    pub job_stall_ms: u64,
    /// How often the leader looks whether something is due.
    pub reconcile_interval_ms: u64,
    /// Staged versions that stay beside the live one; older ones are retired.
    pub staged_models_max: u32,
    /// Records of retired and failed versions that stay.
    pub model_records_max: u32,
    /// Shards whose replicas change at the same time, at least 1: the budget of drains, repairs and balancing.
    pub moves_at_once: usize,
    /// A node that is dead for so long is given up: its replicas are made anew on others.
    pub repair_after_ms: u64,
    /// Whether replicas move only to even the load, as after a join. Off, they move for drains and repairs alone.
    pub auto_balance: bool,
    /// Whether the cluster takes to a newer format by itself once every member understands it. Off, members can still go back to the
    /// older docent.
    pub auto_finalize: bool,
    /// The coordinators' raft group.
    pub raft: docent_raft::Options,
    /// The coordinator's journal.
    pub journal: Journal,
    /// Logs and metrics.
    pub telemetry: telemetry::Settings,
}

/// See `docent_journal::Options`; a coordinator writes little.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Journal {
    /// Length of a segment, 4 KiB to 512 MiB.
    pub segment_bytes_max: u64,
    /// Recent entries kept in memory.
    pub cache_bytes_max: u64,
}

impl Default for Journal {
    fn default() -> Self {
        Journal { segment_bytes_max: 8 << 20, cache_bytes_max: 8 << 20 }
    }
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            data_dir: PathBuf::new(),
            listen: String::new(),
            insecure: false,
            id: 0,
            coordinators: Vec::new(),
            secret_file: PathBuf::new(),
            expect_nodes: 3,
            replication: 3,
            user_shards: 8,
            item_shards: 4,
            placement_key: None,
            node_timeout_ms: 3_000,
            stage_timeout_ms: 60_000,
            job_retry_ms: 2_000,
            job_stall_ms: 600_000,
            reconcile_interval_ms: 500,
            staged_models_max: 2,
            model_records_max: 50,
            moves_at_once: 2,
            repair_after_ms: 300_000,
            auto_balance: true,
            auto_finalize: true,
            raft: docent_raft::Options::default(),
            journal: Journal::default(),
            telemetry: telemetry::Settings::default(),
        }
    }
}

impl Settings {
    /// Checks everything that can be checked without touching the disk; the error names the key.
    pub fn validate(&self) -> Result<()> {
        for (key, path) in [("data_dir", &self.data_dir), ("secret_file", &self.secret_file)] {
            if path.as_os_str().is_empty() {
                return refuse(key, "must be given");
            }
        }
        self.validate_members()?;
        self.validate_birth()?;
        let times = [
            ("node_timeout_ms", self.node_timeout_ms),
            ("stage_timeout_ms", self.stage_timeout_ms),
            ("job_stall_ms", self.job_stall_ms),
            ("reconcile_interval_ms", self.reconcile_interval_ms),
        ];
        if let Some((key, _)) = times.iter().find(|(_, ms)| *ms == 0) {
            return refuse(key, "must be above 0");
        }
        if self.moves_at_once == 0 {
            return refuse("moves_at_once", "must be above 0");
        }
        if self.repair_after_ms < self.node_timeout_ms {
            return refuse("repair_after_ms", "must be at least node_timeout_ms");
        }
        if self.node_timeout_ms < 2 * self.reconcile_interval_ms {
            return refuse("node_timeout_ms", "must be at least twice reconcile_interval_ms");
        }
        if !(4 << 10..=512 << 20).contains(&self.journal.segment_bytes_max) {
            return refuse("journal.segment_bytes_max", "must be 4 KiB to 512 MiB");
        }
        self.raft.validate().map_err(|error| Error::invalid("raft", error.to_string()))
    }

    fn validate_members(&self) -> Result<()> {
        if !(1..=COORDINATORS_MAX).contains(&self.coordinators.len()) {
            return refuse("coordinators", &format!("must list 1 to {COORDINATORS_MAX} addresses"));
        }
        for (index, addr) in self.coordinators.iter().enumerate() {
            address(addr)
                .ok_or_else(|| invalid(&format!("coordinators[{index}]"), "must be host:port with a port above 0"))?;
            if self.coordinators[..index].contains(addr) {
                return refuse(&format!("coordinators[{index}]"), "is listed twice");
            }
        }
        let last = self.coordinators.len() as u64;
        if !(1..=last.min(LAST_COORDINATOR)).contains(&self.id) {
            return refuse("id", &format!("must be 1 to {last}, the position in coordinators"));
        }
        let host = address(&self.listen).ok_or_else(|| invalid("listen", "must be host:port with a port above 0"))?;
        if !self.insecure && !is_loopback(host, &self.listen) {
            let message = "is reachable from other machines and there is no access control yet; \
                           use a loopback address, or set insecure = true on a network that you trust";
            return refuse("listen", message);
        }
        Ok(())
    }

    fn validate_birth(&self) -> Result<()> {
        for (key, shards) in [("user_shards", self.user_shards), ("item_shards", self.item_shards)] {
            if !(1..=VIRTUAL_WORKERS).contains(&shards) {
                return refuse(key, &format!("must be 1 to {VIRTUAL_WORKERS}"));
            }
        }
        if self.expect_nodes == 0 || self.replication == 0 {
            return refuse(if self.expect_nodes == 0 { "expect_nodes" } else { "replication" }, "must be at least 1");
        }
        self.given_key().map(drop)
    }

    fn given_key(&self) -> Result<Option<[u8; 16]>> {
        let key = self.placement_key.as_deref().map(|text| unhex(text).ok_or(text));
        key.transpose().map_err(|_| invalid("placement_key", "must be 32 hexadecimal digits"))
    }

    /// This coordinator's id as a member.
    pub fn node(&self) -> NodeId {
        NodeId(self.id)
    }

    /// All coordinators with their addresses.
    pub fn members(&self) -> Vec<(NodeId, String)> {
        (1..).map(NodeId).zip(self.coordinators.iter().cloned()).collect()
    }

    /// The planner's numbers. `drawn_key` is the placement key of a new cluster if none is given.
    pub(crate) fn policy(&self, cluster: ClusterId, drawn_key: [u8; 16]) -> Result<Policy> {
        Ok(Policy {
            me: self.node(),
            birth: Cluster {
                id: cluster,
                placement_key: self.given_key()?.unwrap_or(drawn_key),
                user_shards: self.user_shards,
                item_shards: self.item_shards,
                replication: self.replication,
                expect_nodes: self.expect_nodes,
                format: codec::OLDEST.into(),
            },
            coordinators: self.members(),
            format: u32::from(codec::VERSION),
            node_timeout: Duration::from_millis(self.node_timeout_ms),
            stage_timeout: Duration::from_millis(self.stage_timeout_ms),
            job_retry: Duration::from_millis(self.job_retry_ms),
            job_stall: Duration::from_millis(self.job_stall_ms),
            staged_models_max: self.staged_models_max,
            model_records_max: self.model_records_max,
            moves_at_once: self.moves_at_once,
            repair_after: Duration::from_millis(self.repair_after_ms),
            auto_balance: self.auto_balance,
            auto_finalize: self.auto_finalize,
        })
    }
}

fn invalid(key: &str, message: &str) -> Error {
    Error::invalid(key, format!("setting {key} {message}"))
}

fn refuse(key: &str, message: &str) -> Result<()> {
    Err(invalid(key, message))
}

/// The host of `host:port`.
fn address(text: &str) -> Option<&str> {
    let (host, port) = text.rsplit_once(':')?;
    let is_port = port.parse::<u16>().is_ok_and(|port| port > 0);
    (!host.is_empty() && is_port).then_some(host)
}

/// A name is looked up: `localhost` is what the machine says it is.
fn is_loopback(host: &str, addr: &str) -> bool {
    match host.trim_matches(['[', ']']).parse::<IpAddr>() {
        Ok(ip) => ip.is_loopback(),
        Err(_) => addr.to_socket_addrs().is_ok_and(|mut found| found.all(|addr| addr.ip().is_loopback())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings() -> Settings {
        Settings {
            data_dir: "/d".into(),
            secret_file: "/s".into(),
            listen: "127.0.0.1:7000".into(),
            id: 1,
            coordinators: vec!["127.0.0.1:7000".into(), "127.0.0.1:7001".into()],
            ..Settings::default()
        }
    }

    #[test]
    fn settings_that_cannot_work_are_refused_by_key() {
        assert!(settings().validate().is_ok());
        type Change = fn(&mut Settings);
        let bad: [(&str, Change); 15] = [
            ("data_dir", |s| s.data_dir = PathBuf::new()),
            ("secret_file", |s| s.secret_file = PathBuf::new()),
            ("listen", |s| s.listen = "7000".into()),
            ("listen", |s| s.listen = "0.0.0.0:7000".into()),
            ("id", |s| s.id = 3),
            ("id", |s| s.id = 0),
            ("coordinators", |s| s.coordinators.clear()),
            ("coordinators[1]", |s| s.coordinators[1] = "127.0.0.1:7000".into()),
            ("coordinators[0]", |s| s.coordinators[0] = "host:0".into()),
            ("user_shards", |s| s.user_shards = 65),
            ("expect_nodes", |s| s.expect_nodes = 0),
            ("replication", |s| s.replication = 0),
            ("placement_key", |s| s.placement_key = Some("00".into())),
            ("node_timeout_ms", |s| s.node_timeout_ms = 900),
            ("raft", |s| s.raft.heartbeat_interval_ms = 0),
        ];
        for (key, change) in bad {
            let mut changed = settings();
            change(&mut changed);
            let error = changed.validate().unwrap_err();
            assert_eq!(error.field.as_deref(), Some(key), "{error}");
            assert!(error.message.contains(key), "{error}");
        }
    }

    #[test]
    fn another_address_needs_the_word_insecure() {
        let open = Settings { listen: "0.0.0.0:7000".into(), ..settings() };
        assert!(open.validate().unwrap_err().message.contains("insecure = true"));
        assert!(Settings { insecure: true, ..open }.validate().is_ok());
        assert!(Settings { listen: "[::1]:7000".into(), ..settings() }.validate().is_ok());
    }

    #[test]
    fn a_given_key_is_the_clusters_key() {
        let key = Settings { placement_key: Some("0102030405060708090a0b0c0d0e0f10".into()), ..settings() };
        let policy = key.policy(ClusterId(1), [9; 16]).unwrap();
        assert_eq!(policy.birth.placement_key[..3], [1, 2, 3]);
        assert_eq!(settings().policy(ClusterId(1), [9; 16]).unwrap().birth.placement_key, [9; 16]);
    }

    #[test]
    fn a_settings_file_needs_only_what_has_no_default() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("coordinator.toml");
        let text = "data_dir = '/d'\nsecret_file = '/s'\nlisten = '127.0.0.1:7000'\nid = 1\n\
                    coordinators = ['127.0.0.1:7000', '127.0.0.1:7001']\n[raft]\nheartbeat_interval_ms = 200\n";
        std::fs::write(&path, text).unwrap();
        let read: Settings = docent_runtime::settings::load(&path).unwrap();
        assert_eq!(read.raft.heartbeat_interval_ms, 200);
        assert_eq!(Settings { raft: Default::default(), ..read }, settings());
        std::fs::write(&path, "expect_node = 3").unwrap();
        let error = docent_runtime::settings::load::<Settings>(&path).unwrap_err();
        assert!(error.to_string().contains("expect_node"), "{error}");
    }
}
