//! A node's settings: one TOML file, units in the keys, unknown keys refused.

use docent_runtime::threads::NICENESS_IDLE;
use docent_types::{Error, Result};
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// The settings of one node.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// Where everything of this node is kept; created with mode 0700.
    pub data_dir: PathBuf,
    /// Where other members connect, `host:port`.
    pub internal_listen: String,
    /// Where clients connect, gRPC and HTTP, `host:port`.
    pub query_listen: String,
    /// What other members are told instead of `internal_listen`.
    pub advertise_internal: Option<String>,
    /// What clients are told instead of `query_listen`.
    pub advertise_query: Option<String>,
    /// The failure zone; replicas of a shard spread over zones.
    pub zone: String,
    /// Internal addresses of the coordinators.
    pub coordinators: Vec<String>,
    /// A join token (`docent token create`), mode 0600; needed for the first start only.
    pub token_file: Option<PathBuf>,
    /// Allows listening on other than loopback addresses although there is no access control yet.
    pub insecure: bool,
    /// How often the coordinator hears of this node.
    pub heartbeat_interval_ms: u64,
    /// How long a shutdown may take.
    pub shutdown_ms: u64,
    /// Room kept back on the disk of `data_dir`, an eighth of the disk at most: with less this node takes no writes and goes on reading.
    pub disk_reserve_bytes: u64,
    /// How often the replicas of each shard are compared by digest, which reads all of it; 0 for never.
    pub verify_interval_s: u64,
    /// Raft's timers and limits.
    pub raft: docent_raft::Options,
    /// The journal; its directory is always `data_dir/journal`.
    pub journal: Journal,
    /// Materialised state.
    pub store: docent_store::StoreOptions,
    /// The query port.
    pub gateway: docent_gateway::GatewaySettings,
    /// Vector search.
    pub index: docent_index::Settings,
    /// Shard serving.
    pub serving: Serving,
    /// Training.
    pub train: Train,
    /// Logs.
    pub telemetry: docent_runtime::telemetry::Settings,
}

/// Limits of the journal.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Journal {
    /// Bytes of one segment file.
    pub segment_bytes_max: u64,
    /// Records that wait for the writer; beyond, proposals wait.
    pub queue_records_max: usize,
    /// Recent entries kept in memory, all groups together.
    pub cache_bytes_max: u64,
}

impl Default for Journal {
    fn default() -> Self {
        Journal { segment_bytes_max: 64 << 20, queue_records_max: 16_384, cache_bytes_max: 64 << 20 }
    }
}

/// How shards answer.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Serving {
    /// Newest positives of a user that make the user's vector.
    pub history_max: usize,
    /// Solved user vectors kept of each user shard.
    pub vector_cache_users: usize,
    /// A replica that heard of its leader longer ago flags its part of an answer as stale.
    pub stale_after_ms: u64,
    /// A replica that heard of its leader longer ago refuses to answer.
    pub refuse_after_ms: u64,
    /// `auto`, `exact` or `hnsw`: what scans the items.
    pub engine: docent_index::EngineChoice,
    /// How often item counts are published to the item shards.
    pub counts_interval_ms: u64,
}

impl Default for Serving {
    fn default() -> Self {
        Serving {
            history_max: 2_000,
            vector_cache_users: 100_000,
            stale_after_ms: 1_000,
            refuse_after_ms: 6_000,
            engine: docent_index::EngineChoice::Auto,
            counts_interval_ms: 2_000,
        }
    }
}

/// How a node trains.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Train {
    /// Compute threads; 0 means one a core.
    pub threads: usize,
    /// How far they step back behind serving, 0 (not at all) to 19, see nice(2); 20: they run while nothing else wants a processor.
    pub niceness: u8,
    /// Least milliseconds between two checkpoints of a job; 0: one wherever there can be one.
    pub checkpoint_interval_ms: u64,
}

impl Default for Train {
    fn default() -> Self {
        Train { threads: 0, niceness: NICENESS_IDLE, checkpoint_interval_ms: 15_000 }
    }
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            data_dir: PathBuf::from("docent-data"),
            internal_listen: "127.0.0.1:7601".to_owned(),
            query_listen: "127.0.0.1:7501".to_owned(),
            advertise_internal: None,
            advertise_query: None,
            zone: "default".to_owned(),
            coordinators: vec!["127.0.0.1:7401".to_owned()],
            token_file: None,
            insecure: false,
            heartbeat_interval_ms: 500,
            shutdown_ms: 10_000,
            disk_reserve_bytes: 256 << 20,
            verify_interval_s: 3_600,
            raft: docent_raft::Options::default(),
            journal: Journal::default(),
            store: docent_store::StoreOptions::default(),
            gateway: docent_gateway::GatewaySettings::default(),
            index: docent_index::Settings::default(),
            serving: Serving::default(),
            train: Train::default(),
            telemetry: docent_runtime::telemetry::Settings::default(),
        }
    }
}

impl Settings {
    /// Checks what serde cannot; the error names the key.
    pub fn validate(&self) -> Result<()> {
        if self.coordinators.is_empty() {
            return Err(Error::invalid("coordinators", "coordinators is empty: name at least one internal address"));
        }
        if self.zone.is_empty() || self.zone.len() > 64 {
            return Err(Error::invalid("zone", "zone must have 1 to 64 bytes"));
        }
        for (key, addr) in [("internal_listen", &self.internal_listen), ("query_listen", &self.query_listen)] {
            check_listen(key, addr, self.insecure)?;
        }
        if self.train.niceness > NICENESS_IDLE {
            return Err(Error::invalid("train.niceness", "train.niceness must be 0 to 20"));
        }
        self.gateway.validate(self.serving.refuse_after_ms)?;
        self.raft.validate().map_err(|error| Error::invalid("raft", error.to_string()))
    }
}

/// An address to listen on is loopback unless `insecure` says that the network is trusted.
fn check_listen(key: &str, addr: &str, insecure: bool) -> Result<()> {
    let parsed: std::net::SocketAddr =
        addr.parse().map_err(|_| Error::invalid(key, format!("{key} {addr:?} must be an IP address and a port")))?;
    if parsed.ip().is_loopback() || insecure {
        return Ok(());
    }
    Err(Error::invalid(
        key,
        format!(
            "{key} {addr} is not a loopback address and there is no access control yet: set `insecure = true` on a trusted network"
        ),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_open_port_needs_an_explicit_word() {
        let open = Settings { query_listen: "0.0.0.0:7501".to_owned(), ..Settings::default() };
        assert_eq!(open.validate().unwrap_err().field.as_deref(), Some("query_listen"));
        assert!(Settings { insecure: true, ..open }.validate().is_ok());
        let eager = Settings { train: Train { niceness: 21, ..Train::default() }, ..Settings::default() };
        assert_eq!(eager.validate().unwrap_err().field.as_deref(), Some("train.niceness"));
        assert!(Settings::default().validate().is_ok());
    }
}
