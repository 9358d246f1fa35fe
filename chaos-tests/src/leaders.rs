//! Who leads which shard, from the gauges that every node shows of its own replicas.

use crate::client::Client;
use anyhow::{Result, ensure};
use std::collections::BTreeMap;

/// One replica as its node's gauges have it.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Replica {
    /// Whether it believes that it leads.
    pub is_leader: bool,
    /// Its term.
    pub term: u64,
    /// What it has applied.
    pub applied: u64,
}

/// Replicas of a node by raft group.
pub type Replicas = BTreeMap<u64, Replica>;

/// What the node of `client` says of its replicas.
pub fn replicas(client: &Client) -> Result<Replicas> {
    let (status, body) = client.get("/metrics")?;
    ensure!(status == 200, "/metrics answered {status}");
    Ok(parse(body.as_str().unwrap_or_default()))
}

fn parse(text: &str) -> Replicas {
    let mut replicas = Replicas::new();
    for line in text.lines() {
        let Some((name, rest)) = line.split_once("{group=\"") else { continue };
        let Some((group, value)) = rest.split_once("\"} ") else { continue };
        let (Ok(group), Ok(value)) = (group.parse(), value.parse::<f64>()) else { continue };
        let replica: &mut Replica = replicas.entry(group).or_default();
        match name {
            "docent_raft_is_leader" => replica.is_leader = value > 0.0,
            "docent_raft_term" => replica.term = value as u64,
            "docent_raft_applied_index" => replica.applied = value as u64,
            _ => {}
        }
    }
    replicas
}

/// `users/3` or `items/0` of a raft group, as positions have it.
pub fn shard(group: u64) -> String {
    let space = match group >> 16 {
        1 => "users",
        2 => "items",
        _ => "other",
    };
    format!("{space}/{}", group & 0xffff)
}

/// The groups that a node leads.
pub fn led(replicas: &Replicas) -> Vec<u64> {
    replicas.iter().filter(|(_, replica)| replica.is_leader).map(|(group, _)| *group).collect()
}

/// Whether a replica of each group has applied what another had.
pub fn has_caught_up(replicas: &Replicas, others: &[Replicas]) -> bool {
    let has = |group: &u64, other: &Replica| replicas.get(group).is_some_and(|own| own.applied >= other.applied);
    others.iter().all(|other| other.iter().all(|(group, other)| has(group, other)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gauges_of_replicas_are_read_and_others_are_not() {
        let text = "# TYPE docent_raft_term gauge\ndocent_raft_term{group=\"65539\"} 4\ndocent_raft_is_leader{group=\"65539\"} 1\n\
                    docent_raft_applied_index{group=\"131072\"} 70\ndocent_raft_snapshots_total{group=\"65539\",what=\"built\"} 3\n";
        let replicas = parse(text);
        assert_eq!(replicas[&65539], Replica { is_leader: true, term: 4, applied: 0 });
        assert_eq!((led(&replicas), shard(65539), shard(131072)), (vec![65539], "users/3".into(), "items/0".into()));
        assert!(has_caught_up(&replicas, std::slice::from_ref(&replicas)));
        assert!(!has_caught_up(&Replicas::new(), &[replicas]));
    }
}
