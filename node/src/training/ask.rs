//! Asks the nodes for a job's input: a cut that somebody still holds, or a new one; and who computes what on it.

use docent_placement::initial::{VIRTUAL_WORKERS, WORKER_SLOTS};
use docent_proto::internal::Service;
use docent_proto::internal::shard::{Request, Response};
use docent_rpc::Caller;
use docent_runtime::Deadline;
use docent_train::Hosts;
use docent_types::catalog::{Catalog, Job};
use docent_types::{Error, Keyspace, Kind, NodeId, Position, Result, ShardId, Slot, codec};
use futures::future::join_all;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// How long the leaders may take to mark a cut; spans an election.
const CUT: Duration = Duration::from_secs(20);
/// How long a replica may lag behind a mark and still take part.
const LAG: Duration = Duration::from_secs(1);
/// Pause before leaders that are missing are asked again.
const AGAIN: Duration = Duration::from_millis(200);
/// The format from which on all members know of pins on other replicas, and of checkpoints.
const FORMAT: u32 = 4;

/// What an attempt trains on, and where.
pub(super) struct Input {
    /// Who computes what: always where the events are, so that none crosses the network.
    pub(super) hosts: Hosts,
    /// Who else holds the same input, or the host itself where nobody does; none while older members are in the cluster.
    pub(super) keepers: Option<Hosts>,
    /// Everybody who may know of checkpoints.
    pub(super) nodes: Vec<u64>,
    /// The cut.
    pub(super) positions: Vec<Position>,
    /// Of the cut.
    pub(super) identity: [u8; 32],
}

/// Who holds the state of each shard at a position.
type Holders = BTreeMap<ShardId, (Position, Vec<NodeId>)>;

/// A driver's questions about one attempt.
pub(super) struct Asking<'a> {
    pub(super) caller: &'a dyn Caller,
    pub(super) job: &'a Job,
    pub(super) catalog: &'a watch::Receiver<Arc<Catalog>>,
}

impl Asking<'_> {
    /// The input of this attempt: the cut of an earlier one if every shard of it is still held, so that what that one had done counts.
    pub(super) async fn input(&self) -> Result<Input> {
        let keeps = self.catalog().require(FORMAT).is_ok();
        let held = if keeps && self.job.epoch > 1 { self.held().await } else { None };
        let (leaders, holders) = match held {
            Some(holders) => (Holders::new(), holders),
            None => {
                let leaders = self.mark().await?;
                let holders = if keeps { self.pin(&leaders).await } else { leaders.clone() };
                (leaders, holders)
            }
        };
        let (hosts, keepers) = assign(&self.catalog(), &leaders, &holders)?;
        let positions: Vec<Position> = holders.into_values().map(|(position, _)| position).collect();
        let identity = *blake3::hash(&codec::encode(&positions)).as_bytes();
        let nodes = self.nodes().into_iter().map(|node| node.0).collect();
        Ok(Input { hosts, keepers: keeps.then_some(keepers), nodes, positions, identity })
    }

    fn catalog(&self) -> Arc<Catalog> {
        self.catalog.borrow().clone()
    }

    fn nodes(&self) -> Vec<NodeId> {
        self.catalog().nodes.values().filter(|node| node.is_alive).map(|node| node.id).collect()
    }

    /// The cut that most of an earlier attempt's pins are of, taken over by this one; `None` where a shard has nobody left.
    async fn held(&self) -> Option<Holders> {
        let mut known: BTreeMap<ShardId, BTreeMap<u64, usize>> = BTreeMap::new();
        for (_, positions) in self.ask_all(&Request::Pinned { job: self.job.id }, LAG).await {
            for position in positions {
                *known.entry(position.shard).or_default().entry(position.index).or_default() += 1;
            }
        }
        let most = known.into_iter().filter_map(|(shard, indexes)| {
            let (index, _) = indexes.into_iter().max_by_key(|(index, holders)| (*holders, *index))?;
            Some((shard, (Position { shard, index }, Vec::new())))
        });
        let holders = self.pin(&most.collect()).await;
        let is_whole =
            self.catalog().shards.keys().all(|shard| holders.get(shard).is_some_and(|(_, on)| !on.is_empty()));
        is_whole.then_some(holders)
    }

    /// Asks every living node to mark the shards that it leads, until every shard is marked once.
    async fn mark(&self) -> Result<Holders> {
        let deadline = Deadline::after(CUT);
        loop {
            let mut marked = Holders::new();
            let request = Request::Cut { job: self.job.id, epoch: self.job.epoch };
            for (node, positions) in self.ask_all(&request, deadline.remaining().min(CUT / 4)).await {
                marked.extend(positions.into_iter().map(|position| (position.shard, (position, vec![node]))));
            }
            let current = self.catalog();
            let missing = current.shards.keys().find(|shard| !marked.contains_key(shard));
            match missing {
                None if !current.shards.is_empty() => return Ok(marked),
                _ if deadline.is_over() => {
                    let shard = missing.map(ToString::to_string).unwrap_or_default();
                    return Err(Error::new(
                        Kind::Unavailable,
                        format!("no leader of shard {shard} gave its training input"),
                    ));
                }
                _ => tokio::time::sleep(AGAIN).await, // a pause between rounds over leaders
            }
        }
    }

    /// Asks every living node to hold the replicas that it has at a cut; adds those that do.
    async fn pin(&self, cut: &Holders) -> Holders {
        let positions: Vec<Position> = cut.values().map(|(position, _)| *position).collect();
        let mut holders = cut.clone();
        let request = Request::Pin { job: self.job.id, epoch: self.job.epoch, positions };
        for (node, positions) in self.ask_all(&request, 2 * LAG).await {
            for position in positions {
                let of_cut = holders.get_mut(&position.shard).filter(|(of_cut, _)| *of_cut == position);
                if let Some((_, nodes)) = of_cut.filter(|(_, nodes)| !nodes.contains(&node)) {
                    nodes.push(node);
                }
            }
        }
        holders
    }

    /// What each living node has pinned, by its answer to `request`; nothing for one that does not answer.
    async fn ask_all(&self, request: &Request, within: Duration) -> Vec<(NodeId, Vec<Position>)> {
        let body = codec::encode_in(request.format(), request);
        let asked = self.nodes().into_iter().map(|node| {
            let called = self.caller.call(node, Service::Shard, body.clone(), Deadline::after(within));
            async move { (node, called.await.and_then(|bytes| codec::decode("a cut", &bytes))) }
        });
        let positions = |(node, answer): (NodeId, Result<Response>)| match answer {
            Ok(Response::Cut(positions)) => (node, positions),
            Ok(_) => (node, Vec::new()),
            Err(error) => {
                tracing::debug!(%node, %error, "a node pinned nothing");
                (node, Vec::new())
            }
        };
        join_all(asked).await.into_iter().map(positions).collect()
    }
}

/// Gives each shard's virtual workers to its leader, or to the holder that has the fewest, and their copies to the next such holder.
fn assign(catalog: &Catalog, leaders: &Holders, holders: &Holders) -> Result<(Hosts, Hosts)> {
    let (mut hosts, mut keepers) = (Shares::default(), Shares::default());
    let mut of = |keyspace: Keyspace| -> Result<(Vec<u64>, Vec<u64>)> {
        let mut chosen: BTreeMap<ShardId, (u64, u64)> = BTreeMap::new();
        let all = (0..VIRTUAL_WORKERS).map(|vworker| {
            let none =
                || Error::new(Kind::Unavailable, format!("virtual worker {vworker} of {keyspace:?} has no host"));
            let shard = catalog.shard_of(keyspace, Slot(vworker * WORKER_SLOTS)).ok_or_else(none)?.id;
            let (_, nodes) = holders.get(&shard).ok_or_else(none)?;
            let leader = leaders.get(&shard).and_then(|(_, nodes)| nodes.first());
            let (host, keeper) = match chosen.get(&shard) {
                Some(both) => *both,
                None => {
                    let leader = leader.filter(|leader| nodes.contains(leader)).copied();
                    let host = leader.or_else(|| hosts.least(nodes)).ok_or_else(none)?;
                    let others: Vec<NodeId> = nodes.iter().copied().filter(|node| *node != host).collect();
                    (host.0, keepers.least(&others).unwrap_or(host).0)
                }
            };
            chosen.insert(shard, (host, keeper));
            hosts.add(host);
            keepers.add(keeper);
            Ok((host, keeper))
        });
        all.collect()
    };
    let (users, kept_users) = of(Keyspace::Users)?;
    let (items, kept_items) = of(Keyspace::Items)?;
    Ok((Hosts { users, items }, Hosts { users: kept_users, items: kept_items }))
}

/// How many virtual workers each node has.
#[derive(Default)]
struct Shares(BTreeMap<u64, usize>);

impl Shares {
    fn add(&mut self, node: u64) {
        *self.0.entry(node).or_default() += 1;
    }

    fn least(&self, nodes: &[NodeId]) -> Option<NodeId> {
        nodes.iter().copied().min_by_key(|node| (self.0.get(&node.0).copied().unwrap_or(0), *node))
    }
}
