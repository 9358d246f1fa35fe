//! Being a member: join or return, hear every catalog, be heard.

use crate::identity::{Identity, Record};
use crate::settings::Settings;
use crate::shards::Shards;
use bytes::Bytes;
use docent_meta::Meta;
use docent_proto::internal::Service;
use docent_proto::internal::coordinator::{Heartbeat, Join, Request, Response, Watch};
use docent_rpc::Peers;
use docent_runtime::Deadline;
use docent_types::catalog::Catalog;
use docent_types::sabotage::{Bug, is};
use docent_types::schedule::Scheduled;
use docent_types::{Error, Kind, NodeId, ReplicaId, Result, ShardId, codec};
use futures::StreamExt;
use futures::future::BoxFuture;
use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::watch;

/// Pause between rounds over the coordinators.
const ROUND: Duration = Duration::from_millis(250);
/// How long one attempt at one coordinator may take.
const ATTEMPT: Duration = Duration::from_secs(2);

/// The coordinator as a node sees it: asks any, follows the hint to its leader.
#[derive(Clone, Debug)]
pub struct Coordinators {
    peers: Peers,
    addresses: Arc<Vec<String>>,
    last_good: Arc<Mutex<Option<String>>>,
    /// The highest catalog index that a leader told.
    newest: Arc<watch::Sender<u64>>,
}

impl Coordinators {
    /// The coordinators at these internal addresses.
    pub fn new(peers: Peers, addresses: Vec<String>) -> Coordinators {
        Coordinators {
            peers,
            addresses: Arc::new(addresses),
            last_good: Arc::default(),
            newest: Arc::new(watch::channel(0).0),
        }
    }

    /// Asks until the leader answers or the deadline is over. Most requests may be repeated: each carries what makes a repeat harmless (a
    /// nonce, an epoch) or replaces one value by another. One that may not ends `Unknown` where its outcome is.
    pub async fn call(&self, request: &Request, deadline: Deadline) -> Result<Response> {
        let body = codec::encode_in(request.format(), request);
        let mut last = Error::new(Kind::Unavailable, "no coordinator answered");
        while !deadline.is_over() {
            let candidates = self.candidates();
            for (i, addr) in candidates.iter().enumerate() {
                // One that hangs must leave time for the others.
                let share = deadline.remaining() / u32::try_from(candidates.len() - i).unwrap_or(1);
                match self.attempt(addr, body.clone(), deadline.at_most(share)).await {
                    Ok(response) => return Ok(response),
                    Err(error) if is_final(error.kind) => return Err(error),
                    Err(error) if is_unknown(error.kind) && !is_repeatable(request) => {
                        let message =
                            format!("whether the coordinator did it is unknown; look before you ask again: {error}");
                        return Err(Error::new(Kind::Unknown, message));
                    }
                    Err(error) => last = error,
                }
                if deadline.is_over() {
                    break;
                }
            }
            tokio::time::sleep(ROUND.min(deadline.remaining())).await; // a pause between rounds
        }
        Err(Error::new(Kind::Unavailable, format!("the coordinator has no leader that answers: {last}")))
    }

    /// One attempt, following at most one hint.
    async fn attempt(&self, addr: &str, body: Bytes, deadline: Deadline) -> Result<Response> {
        let first = self.ask(addr, body.clone(), deadline).await;
        let hinted = match &first {
            Err(error) if error.kind == Kind::NotLeader => {
                error.hint.and_then(|node| self.peers.identity().address(node))
            }
            _ => None,
        };
        match hinted {
            Some(leader) if leader != addr => self.ask(&leader, body, deadline).await,
            _ => first,
        }
    }

    async fn ask(&self, addr: &str, body: Bytes, deadline: Deadline) -> Result<Response> {
        let reply = self.peers.call_address(addr, Service::Coordinator, body, deadline.at_most(ATTEMPT)).await;
        let is_good = reply.is_ok();
        let mut last_good = self.last_good.lock().unwrap_or_else(PoisonError::into_inner);
        match is_good {
            true => *last_good = Some(addr.to_owned()),
            false if last_good.as_deref() == Some(addr) => *last_good = None,
            false => {}
        }
        drop(last_good);
        codec::decode("the coordinator's answer", &reply?)
    }

    /// All addresses, the one that answered last first.
    fn candidates(&self) -> Vec<String> {
        let good = self.last_good.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let rest = self.addresses.iter().filter(|addr| Some(*addr) != good.as_ref()).cloned();
        good.clone().into_iter().chain(rest).collect()
    }

    /// Streams catalogs newer than `after` from whichever coordinator answers; another one first with each `attempt`.
    async fn catalogs(&self, after: u64, attempt: usize) -> Result<docent_rpc::caller::Chunks> {
        let body = codec::encode(&Watch { after });
        let mut last = Error::new(Kind::Unavailable, "no coordinator answered");
        let mut candidates = self.candidates();
        let first = attempt % candidates.len().max(1);
        candidates.rotate_left(first);
        for addr in candidates {
            let deadline = Deadline::after(ATTEMPT);
            match self.peers.fetch_address(&addr, Service::Catalog, body.clone(), deadline).await {
                Ok(chunks) => return Ok(chunks),
                Err(error) => last = error,
            }
        }
        Err(last)
    }
}

/// Whether asking again would get the same answer.
fn is_final(kind: Kind) -> bool {
    !kind.is_retryable() && !is_unknown(kind)
}

/// Whether the request may have been carried out.
fn is_unknown(kind: Kind) -> bool {
    matches!(kind, Kind::DeadlineExceeded | Kind::Unknown)
}

/// Whether carrying a request out twice is the same as once.
fn is_repeatable(request: &Request) -> bool {
    !matches!(
        request,
        Request::StartTraining(_) | Request::Rollback | Request::RemoveSchedule(_) | Request::RemoveStudy(_)
    )
}

impl docent_gateway::Coordinator for Coordinators {
    fn call(&self, request: Request, deadline: Deadline) -> BoxFuture<'static, Result<Response>> {
        let coordinators = self.clone();
        Box::pin(async move { Coordinators::call(&coordinators, &request, deadline).await })
    }
}

/// Joins the cluster for the first time, or tells it the addresses of a known node. A known node goes on without an answer: it serves
/// with the catalog that it has kept.
pub async fn join(
    settings: &Settings,
    coordinators: &Coordinators,
    identity: &mut Identity,
    wait: Duration,
) -> Result<NodeId> {
    let request = Request::Join(join_request(settings, &identity.record)?);
    match coordinators.call(&request, Deadline::after(wait)).await {
        Ok(Response::Joined { cluster, node }) => {
            identity.joined(cluster, node)?;
            Ok(node)
        }
        Ok(other) => Err(Error::new(Kind::Internal, format!("the coordinator answered a join with {other:?}"))),
        Err(error) => match (identity.record.member, is_final(error.kind)) {
            (Some((_, node)), false) => {
                tracing::warn!(%error, "the coordinator does not answer; serving with the catalog of the last run");
                Ok(node)
            }
            _ => Err(error),
        },
    }
}

fn join_request(settings: &Settings, record: &Record) -> Result<Join> {
    let token = match (&settings.token_file, record.member) {
        (_, Some(_)) => String::new(),
        (Some(path), None) => read_token(path)?,
        (None, None) => {
            let message =
                "this data directory is new and no token_file is set: create a token with `docent token create`";
            return Err(Error::invalid("token_file", message));
        }
    };
    Ok(Join {
        token,
        nonce: record.nonce,
        previous: record.member,
        internal_addr: settings.advertise_internal.clone().unwrap_or_else(|| settings.internal_listen.clone()),
        query_addr: settings.advertise_query.clone().unwrap_or_else(|| settings.query_listen.clone()),
        zone: settings.zone.clone(),
        format: u32::from(codec::VERSION),
    })
}

fn read_token(path: &std::path::Path) -> Result<String> {
    let failed = |error: std::io::Error| {
        Error::invalid("token_file", format!("cannot read token file {}: {error}", path.display()))
    };
    let mode = std::fs::metadata(path).map_err(failed)?.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        let message =
            format!("token file {} can be read by others (mode {mode:04o}); run `chmod 600` on it", path.display());
        return Err(Error::invalid("token_file", message));
    }
    Ok(std::fs::read_to_string(path).map_err(failed)?.trim().to_owned())
}

/// Follows the catalog for the life of the process: each newer one is kept on disk, entered into the address book, and given to
/// whoever watches.
pub async fn follow(coordinators: Coordinators, meta: Meta, catalog: watch::Sender<Arc<Catalog>>) -> Result<()> {
    for attempt in 0.. {
        let followed = async {
            let after = if is(Bug::CatalogGoesBack) { 0 } else { catalog.borrow().index };
            let mut chunks = coordinators.catalogs(after, attempt).await?;
            while let Some(chunk) = chunks.next().await {
                accept(&coordinators, &meta, &catalog, &chunk?)?;
            }
            Ok(())
        };
        let ended: Result<()> = tokio::select! {
            ended = followed => ended,
            () = fell_behind(&coordinators, &catalog) => Err(Error::new(Kind::Unavailable, "that coordinator is cut off")),
        };
        match ended {
            Err(error) if error.kind == Kind::Unsupported => tracing::warn!(%error, "the catalog cannot be read"),
            Err(error) => tracing::debug!(%error, "catalog watch ended; asking another coordinator"),
            Ok(()) => {}
        }
        tokio::time::sleep(ROUND).await; // a pause between attempts
    }
    Ok(())
}

/// How long a watch may lag behind what the leader told before another coordinator is watched.
const LAG: Duration = Duration::from_secs(2);

/// Ends when the leader has told of a newer catalog and the watch has not brought it within [`LAG`].
async fn fell_behind(coordinators: &Coordinators, catalog: &watch::Sender<Arc<Catalog>>) {
    let (mut told, mut here) = (coordinators.newest.subscribe(), catalog.subscribe());
    loop {
        let newest = *told.borrow_and_update();
        let caught_up = async {
            // The sender is borrowed by the caller: it cannot be gone.
            let _caught_up = here.wait_for(|catalog| catalog.index >= newest).await;
        };
        if tokio::time::timeout(LAG, caught_up).await.is_err() {
            return;
        }
        if told.changed().await.is_err() {
            return std::future::pending().await;
        }
    }
}

fn accept(coordinators: &Coordinators, meta: &Meta, catalog: &watch::Sender<Arc<Catalog>>, bytes: &[u8]) -> Result<()> {
    let newer: Catalog = codec::decode("the catalog", bytes)?;
    let current = catalog.borrow().clone();
    if newer.index <= current.index && !is(Bug::CatalogGoesBack) {
        return Ok(());
    }
    coordinators.peers.identity().learn_all(&newer);
    if !same_placement(&newer, &current) {
        meta.put(CATALOG, &newer).map_err(|error| Error::new(Kind::Internal, error.to_string()))?;
    }
    catalog.send_replace(Arc::new(newer));
    Ok(())
}

/// The key of the kept catalog.
pub const CATALOG: &str = "catalog";

/// Whether a restart could do with the older catalog: jobs change often and do not matter to it.
fn same_placement(a: &Catalog, b: &Catalog) -> bool {
    a.cluster == b.cluster
        && a.nodes == b.nodes
        && a.coordinators == b.coordinators
        && a.shards == b.shards
        && a.live == b.live
        && a.models == b.models
}

/// What this node has staged, as heartbeats tell it.
pub type Staged = watch::Receiver<StagedModels>;

/// Versions that this node's replicas hold, and versions that they cannot.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct StagedModels {
    /// By version, the shards that are ready.
    pub ready: std::collections::BTreeMap<u64, BTreeSet<ShardId>>,
    /// By version, why not.
    pub refused: std::collections::BTreeMap<u64, String>,
}

/// Tells the coordinator that this node lives and how its replicas are, at an interval and whenever there are news.
pub(crate) async fn beat(
    node: NodeId,
    every: Duration,
    coordinators: Coordinators,
    mut staged: Staged,
    shards: Arc<Shards>,
    buried: watch::Receiver<BTreeSet<ReplicaId>>,
    catalog: watch::Receiver<Arc<Catalog>>,
) -> Result<()> {
    let mut pulse = shards.pulse();
    loop {
        let models = staged.borrow_and_update().clone();
        pulse.mark_unchanged();
        let heartbeat = Heartbeat {
            node,
            staged: models.ready.into_iter().map(|(version, shards)| (version, shards.into_iter().collect())).collect(),
            refused: models.refused.into_iter().collect(),
            replicas: shards.report(),
            buried: buried.borrow().iter().copied().collect(),
        };
        match coordinators.call(&Request::Heartbeat(heartbeat), Deadline::after(ATTEMPT)).await {
            Ok(Response::Index(index)) => coordinators.newest.send_if_modified(|newest| {
                let is_news = index > *newest;
                *newest = index.max(*newest);
                is_news
            }),
            Ok(_) => false,
            Err(error) => {
                tracing::debug!(%error, "heartbeat was not heard");
                false
            }
        };
        // Who asks for it knows the request.
        let waits = |scheduled: &Scheduled| scheduled.schedule.after_events.is_some();
        let is_asked = catalog.borrow().schedules.values().any(waits);
        let events = if is_asked { shards.events() } else { Vec::new() };
        if !events.is_empty() {
            let told = Request::TellEvents { node, events };
            if let Err(error) = coordinators.call(&told, Deadline::after(ATTEMPT)).await {
                tracing::debug!(%error, "the number of events was not heard");
            }
        }
        tokio::select! {
            () = tokio::time::sleep(every) => {} // the interval
            changed = staged.changed() => if changed.is_err() { return Ok(()) },
            changed = pulse.changed() => if changed.is_err() { return Ok(()) },
        }
    }
}
