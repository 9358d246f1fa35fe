//! The nodes that clients may use now: what a load balancer in front of a cluster knows.

use crate::client::Client;
use anyhow::{Context, Result};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

/// Longer than any deadline of a node.
const TIMEOUT: Duration = Duration::from_secs(30);

/// One life of one node as its clients see it.
#[derive(Debug)]
pub struct Gateway {
    /// Which node, from 0.
    pub index: usize,
    /// Its query address.
    pub addr: String,
    /// Connections of this life only.
    pub client: Client,
    is_condemned: AtomicBool,
}

impl Gateway {
    /// Whether its end has begun: what fails through it from then on is no failure of a living node.
    pub fn is_condemned(&self) -> bool {
        self.is_condemned.load(Ordering::SeqCst)
    }
}

/// Nodes in use.
#[derive(Debug)]
pub struct Gateways {
    nodes: RwLock<Vec<Option<Arc<Gateway>>>>,
    timeout: Duration,
}

impl Gateways {
    /// All of these addresses.
    pub fn new(addrs: &[String]) -> Gateways {
        Gateways::with_timeout(addrs, TIMEOUT)
    }

    /// All of these addresses, through clients that give up after `timeout`.
    pub fn with_timeout(addrs: &[String], timeout: Duration) -> Gateways {
        let nodes = addrs.iter().enumerate().map(|(index, addr)| Some(gateway(index, addr, timeout)));
        Gateways { nodes: RwLock::new(nodes.collect()), timeout }
    }

    /// The `number`th living one, counted round.
    ///
    /// # Errors
    /// None lives.
    pub fn pick(&self, number: usize) -> Result<Arc<Gateway>> {
        let living = self.living();
        living.get(number % living.len().max(1)).cloned().context("no node is alive")
    }

    /// Every living one.
    pub fn living(&self) -> Vec<Arc<Gateway>> {
        self.nodes.read().unwrap_or_else(PoisonError::into_inner).iter().flatten().cloned().collect()
    }

    /// No request leaves for this node any more; those under way may fail.
    pub fn condemn(&self, index: usize) {
        let mut nodes = self.nodes.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(gateway) = nodes.get_mut(index).and_then(Option::take) {
            gateway.is_condemned.store(true, Ordering::SeqCst);
        }
    }

    /// One more node.
    pub fn add(&self, addr: &str) {
        let mut nodes = self.nodes.write().unwrap_or_else(PoisonError::into_inner);
        let index = nodes.len();
        nodes.push(Some(gateway(index, addr, self.timeout)));
    }

    /// The node is back, with new connections.
    pub fn revive(&self, index: usize, addr: &str) {
        let mut nodes = self.nodes.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(node) = nodes.get_mut(index) {
            *node = Some(gateway(index, addr, self.timeout));
        }
    }
}

fn gateway(index: usize, addr: &str, timeout: Duration) -> Arc<Gateway> {
    let client = Client::with_timeout(addr, timeout);
    Arc::new(Gateway { index, addr: addr.to_owned(), client, is_condemned: AtomicBool::new(false) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_condemned_node_gets_no_requests_and_comes_back_as_another() {
        let addrs: Vec<String> = (0..3).map(|i| format!("127.0.0.1:{i}")).collect();
        let gateways = Gateways::new(&addrs);
        let before = gateways.pick(1).unwrap();
        gateways.condemn(1);
        assert!(before.is_condemned());
        assert!((0..10).all(|number| gateways.pick(number).unwrap().index != 1));
        gateways.revive(1, &addrs[1]);
        let after = gateways.pick(1).unwrap();
        assert_eq!((after.index, after.is_condemned()), (1, false));
        (0..3).for_each(|index| gateways.condemn(index));
        assert!(gateways.pick(0).is_err());
    }
}
