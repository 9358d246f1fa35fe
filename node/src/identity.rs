//! Who this node is, kept in its data directory: a directory without it is a new node, and gets a new id.

use docent_meta::Meta;
use docent_runtime::entropy;
use docent_types::{ClusterId, Error, Kind, NodeId, Result};
use serde::{Deserialize, Serialize};
use std::sync::Arc;

const KEY: &str = "identity";

/// What is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// Drawn once; makes a repeated join harmless.
    pub nonce: u128,
    /// The cluster and id, once joined.
    pub member: Option<(ClusterId, NodeId)>,
}

/// The identity record and the process-wide identity that it feeds.
#[derive(Debug)]
pub struct Identity {
    /// What is kept.
    pub record: Record,
    meta: Meta,
    process: Arc<docent_rpc::Identity>,
}

impl Identity {
    /// The identity in `meta`; draws the nonce of a new directory.
    pub fn open(meta: &Meta, process: Arc<docent_rpc::Identity>) -> Result<Identity> {
        let internal = |error: &dyn std::fmt::Display| Error::new(Kind::Internal, error.to_string());
        let record = match meta.get(KEY).map_err(|error| internal(&error))? {
            Some(record) => record,
            None => {
                let nonce = entropy::u128().map_err(|error| internal(&error))?;
                let record = Record { nonce, member: None };
                meta.put(KEY, &record).map_err(|error| internal(&error))?;
                record
            }
        };
        if let Some((cluster, node)) = record.member {
            process.set_cluster(cluster)?;
            process.set_node(node)?;
        }
        Ok(Identity { record, meta: meta.clone(), process })
    }

    /// Keeps what a join gave; another cluster's answer is refused.
    pub fn joined(&mut self, cluster: ClusterId, node: NodeId) -> Result<()> {
        self.process.set_cluster(cluster)?;
        self.process.set_node(node)?;
        if self.record.member != Some((cluster, node)) {
            self.record.member = Some((cluster, node));
            let kept = self.meta.put(KEY, &self.record);
            kept.map_err(|error| Error::new(Kind::Internal, error.to_string()))?;
        }
        Ok(())
    }
}
