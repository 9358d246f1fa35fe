//! Who this process is, and where the others are.

use docent_types::catalog::Catalog;
use docent_types::{ClusterId, Error, Kind, NodeId, Result};
use std::collections::BTreeMap;
use std::sync::{OnceLock, PoisonError, RwLock};

/// This process's cluster and node id, each set once (a new node learns them when it joins), and the address book.
#[derive(Debug, Default)]
pub struct Identity {
    cluster: OnceLock<ClusterId>,
    node: OnceLock<NodeId>,
    book: RwLock<BTreeMap<NodeId, String>>,
}

impl Identity {
    /// Sets the cluster; a second, different one is refused.
    pub fn set_cluster(&self, cluster: ClusterId) -> Result<()> {
        match *self.cluster.get_or_init(|| cluster) {
            known if known == cluster => Ok(()),
            known => {
                Err(Error::new(Kind::Conflict, format!("this process belongs to cluster {known}, not to {cluster}")))
            }
        }
    }

    /// Sets the node id; a second, different one is refused.
    pub fn set_node(&self, node: NodeId) -> Result<()> {
        match *self.node.get_or_init(|| node) {
            known if known == node => Ok(()),
            known => Err(Error::new(Kind::Conflict, format!("this process is node {known}, not {node}"))),
        }
    }

    /// The cluster, once known.
    pub fn cluster(&self) -> Option<ClusterId> {
        self.cluster.get().copied()
    }

    /// The node, once known.
    pub fn node(&self) -> Option<NodeId> {
        self.node.get().copied()
    }

    /// Enters one address.
    pub fn learn(&self, node: NodeId, addr: &str) {
        self.book.write().unwrap_or_else(PoisonError::into_inner).insert(node, addr.to_owned());
    }

    /// Enters every member of a catalog.
    pub fn learn_all(&self, catalog: &Catalog) {
        catalog.nodes.values().chain(catalog.coordinators.values()).for_each(|m| self.learn(m.id, &m.internal_addr));
    }

    /// The internal address of a member.
    pub fn address(&self, node: NodeId) -> Option<String> {
        self.book.read().unwrap_or_else(PoisonError::into_inner).get(&node).cloned()
    }

    /// Checks an envelope's cluster: empty only where `may_be_new`.
    pub(crate) fn fence(&self, cluster_id: &[u8], may_be_new: bool) -> Result<()> {
        if cluster_id.is_empty() && may_be_new {
            return Ok(());
        }
        let bytes: [u8; 16] = cluster_id
            .try_into()
            .map_err(|_| Error::invalid("cluster_id", "an envelope's cluster id must have 16 bytes"))?;
        let theirs = ClusterId(u128::from_be_bytes(bytes));
        match self.cluster() {
            Some(ours) if ours == theirs => Ok(()),
            Some(ours) => Err(Error::new(
                Kind::Conflict,
                format!(
                    "the caller belongs to cluster {theirs}, this process to {ours}: check its settings and data directory"
                ),
            )),
            None => Err(Error::new(Kind::Unavailable, "this process has not joined its cluster yet")),
        }
    }

    pub(crate) fn cluster_bytes(&self) -> bytes::Bytes {
        self.cluster().map(|id| bytes::Bytes::copy_from_slice(&id.0.to_be_bytes())).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_caller_of_another_cluster_is_refused_by_name() {
        let identity = Identity::default();
        assert_eq!(identity.fence(&[1; 16], false).unwrap_err().kind, Kind::Unavailable);
        identity.set_cluster(ClusterId(7)).unwrap();
        assert!(identity.set_cluster(ClusterId(8)).is_err());
        assert!(identity.fence(&7u128.to_be_bytes(), false).is_ok());
        let error = identity.fence(&8u128.to_be_bytes(), false).unwrap_err();
        assert!(error.message.contains(&ClusterId(8).to_string()), "{error}");
        assert!(identity.fence(&[], true).is_ok());
        assert_eq!(identity.fence(&[], false).unwrap_err().kind, Kind::Invalid);
    }
}
