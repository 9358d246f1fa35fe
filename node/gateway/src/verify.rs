//! Comparing the replicas of a shard: one `Digest` command through its log, then the digest that each replica took at that index.

use crate::gateway::Gateway;
use crate::route::Repeat;
use docent_proto::internal::Service;
use docent_proto::internal::shard::{Request, Response, StateDigest};
use docent_runtime::Deadline;
use docent_types::catalog::Replica;
use docent_types::command::{ItemCommand, UserCommand};
use docent_types::{Error, Keyspace, Kind, Result, ShardId, codec};
use futures::future::join_all;
use futures::stream::BoxStream;
use futures::{FutureExt, StreamExt};
use std::time::Duration;

/// How long one shard may take where the caller does not say.
const WITHIN: Duration = Duration::from_secs(60);
/// Shards compared at once: each replica reads one at a time anyway.
const AT_ONCE: usize = 2;

/// What the replicas of a shard said of their state at one log index.
#[derive(Clone, Debug, PartialEq)]
pub struct Verdict {
    /// Which shard.
    pub shard: ShardId,
    /// The log index.
    pub index: u64,
    /// Every replica of the catalog, each with its digest or why there is none.
    pub replicas: Vec<(Replica, Result<StateDigest>)>,
}

/// Replicas that have another state than most: what is to be quarantined.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Disagreement {
    /// Which shard.
    pub shard: ShardId,
    /// At which log index.
    pub index: u64,
    /// What most replicas of the catalog have; `None` where no digest has a majority, and then nobody can say who is right.
    pub majority: Option<StateDigest>,
    /// Who has another.
    pub replicas: Vec<Replica>,
}

impl Verdict {
    /// The digest that more than half of the catalog's replicas have.
    pub fn majority(&self) -> Option<StateDigest> {
        let taken: Vec<StateDigest> =
            self.replicas.iter().filter_map(|(_, digest)| digest.as_ref().ok().copied()).collect();
        let votes = |digest: &StateDigest| taken.iter().filter(|other| *other == digest).count();
        taken.iter().find(|digest| votes(digest) * 2 > self.replicas.len()).copied()
    }

    /// Whether every replica answered, and all the same.
    pub fn agrees(&self) -> bool {
        let mut digests = self.replicas.iter().map(|(_, digest)| digest.as_ref().ok());
        let first = digests.next().flatten();
        first.is_some() && digests.all(|digest| digest == first)
    }

    /// Who disagrees; `None` while those who answered agree.
    pub fn disagreement(&self) -> Option<Disagreement> {
        let majority = self.majority();
        let mut answered = self.replicas.iter().filter_map(|(_, digest)| digest.as_ref().ok());
        let first = answered.next()?;
        if answered.all(|digest| digest == first) {
            return None;
        }
        let differs = |digest: &StateDigest| majority.is_none_or(|majority| majority != *digest);
        let replicas = self.replicas.iter().filter(|(_, digest)| digest.as_ref().is_ok_and(differs));
        let replicas = replicas.map(|(replica, _)| *replica).collect();
        Some(Disagreement { shard: self.shard, index: self.index, majority, replicas })
    }

    /// Whether some replica gave no digest.
    pub fn lacks_some(&self) -> bool {
        self.replicas.iter().any(|(_, digest)| digest.is_err())
    }
}

impl Gateway {
    /// Compares the replicas of `shards`, of all where none is named; a verdict a shard as it comes.
    ///
    /// # Errors
    /// `Invalid` for a shard that is not there; `Overloaded`. In the stream: as [`Gateway::verify_shard`].
    pub async fn verify(
        &self,
        shards: Vec<ShardId>,
        deadline_ms: u32,
    ) -> Result<BoxStream<'static, (ShardId, Result<Verdict>)>> {
        let within = if deadline_ms == 0 { WITHIN } else { Duration::from_millis(deadline_ms.into()) };
        let open = async {
            let view = self.view()?;
            if let Some(unknown) = shards.iter().find(|shard| !view.catalog.shards.contains_key(*shard)) {
                return Err(Error::invalid("shards", format!("there is no shard {unknown}")));
            }
            Ok(if shards.is_empty() { view.catalog.shards.keys().copied().collect() } else { shards })
        };
        let (shards, permit) = self.admit_export("verify_shards", open).await?;
        let gateway = self.clone();
        let verdicts = futures::stream::iter(shards).map(move |shard| {
            let gateway = gateway.clone();
            async move { (shard, gateway.verify_shard(shard, Deadline::after(within)).await) }.boxed()
        });
        let held = verdicts.buffered(AT_ONCE).map(move |verdict| {
            let _held = &permit;
            verdict
        });
        Ok(held.boxed())
    }

    /// Compares the replicas of one shard. What disagrees is logged and counted, whoever asks.
    ///
    /// # Errors
    /// `Unavailable` where the shard has no leader.
    pub async fn verify_shard(&self, shard: ShardId, deadline: Deadline) -> Result<Verdict> {
        let mut verdict = self.compare(shard, deadline).await?;
        if verdict.lacks_some() && verdict.disagreement().is_none() && !deadline.is_over() {
            // A replica that passed the index by a snapshot has the next one.
            verdict = self.compare(shard, deadline).await?;
        }
        let outcome = match (verdict.disagreement(), verdict.agrees()) {
            (Some(_), _) => "disagrees",
            (None, true) => "agrees",
            (None, false) => "incomplete",
        };
        metrics::counter!("docent_digest_comparisons_total", "outcome" => outcome).increment(1);
        if let Some(found) = verdict.disagreement() {
            let nodes: Vec<u64> = found.replicas.iter().map(|replica| replica.node.0).collect();
            tracing::error!(
                shard = %shard, index = found.index, ?nodes, has_majority = found.majority.is_some(),
                "replicas have different states at the same log index: drain the named nodes' replicas of this shard and let them \
                 be rebuilt"
            );
        }
        Ok(verdict)
    }

    async fn compare(&self, shard: ShardId, deadline: Deadline) -> Result<Verdict> {
        let request = match shard.keyspace {
            Keyspace::Users => Request::WriteUsers { shard, command: UserCommand::Digest },
            Keyspace::Items => Request::WriteItems { shard, command: ItemCommand::Digest },
        };
        let finding = deadline.at_most(Duration::from_millis(self.settings().write_deadline_ms));
        let index = match self.shared.route.leader(shard, &request, Repeat::Read, finding).await? {
            Response::WroteUsers { position, .. } | Response::WroteItems { position, .. } => position.index,
            _ => return Err(unfitting(shard)),
        };
        let replicas = self.view()?.catalog.shards.get(&shard).map(|shard| shard.replicas.clone()).unwrap_or_default();
        let asks = replicas.into_iter().map(|replica| async move {
            let digest = self.digest(shard, replica, index, deadline).await;
            (replica, digest)
        });
        Ok(Verdict { shard, index, replicas: join_all(asks).await })
    }

    async fn digest(&self, shard: ShardId, replica: Replica, index: u64, deadline: Deadline) -> Result<StateDigest> {
        let body = codec::encode(&Request::Digest { shard, index });
        let call = self.shared.route.caller.call(replica.node, Service::Shard, body, deadline);
        let answer = deadline.bound("the digest of a replica", call).await?;
        match codec::decode::<Response>("the shard's answer", &answer)? {
            Response::Digest(digest) => Ok(digest),
            _ => Err(unfitting(shard)),
        }
    }
}

pub(crate) fn unfitting(shard: ShardId) -> Error {
    Error::new(Kind::Internal, format!("shard {shard} answered another question than was asked"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use docent_types::{NodeId, ReplicaId};

    fn digest(of: u8) -> Result<StateDigest> {
        Ok(StateDigest { records: 1, content: [of; 32], state: [of; 32] })
    }

    fn verdict(digests: Vec<Result<StateDigest>>) -> Verdict {
        let replica = |node| Replica { id: ReplicaId(node + 10), node: NodeId(node) };
        let replicas = (1..).map(replica).zip(digests).collect();
        Verdict { shard: ShardId { keyspace: Keyspace::Users, index: 0 }, index: 7, replicas }
    }

    fn silent() -> Result<StateDigest> {
        Err(Error::new(Kind::Unavailable, "down"))
    }

    #[test]
    fn a_replica_that_differs_from_the_majority_is_named() {
        let nodes = |verdict: &Verdict| {
            let found = verdict.disagreement()?;
            Some((found.majority.is_some(), found.replicas.iter().map(|replica| replica.node.0).collect::<Vec<_>>()))
        };
        let agreed = verdict(vec![digest(1), digest(1), digest(1)]);
        assert_eq!((agreed.agrees(), nodes(&agreed)), (true, None));
        let one = verdict(vec![digest(1), digest(2), digest(1)]);
        assert_eq!((one.agrees(), nodes(&one)), (false, Some((true, vec![2]))));
        let missing = verdict(vec![digest(1), silent(), digest(1)]);
        assert_eq!((missing.agrees(), missing.lacks_some(), nodes(&missing)), (false, true, None));
        let tie = verdict(vec![digest(1), silent(), digest(2)]);
        assert_eq!(nodes(&tie), Some((false, vec![1, 3])), "nobody can say who is right");
        let nobody = verdict(vec![silent(), silent()]);
        assert_eq!((nobody.agrees(), nodes(&nobody)), (false, None));
        // The state as it is stored counts, not the content alone.
        let mut state_only = verdict(vec![digest(1), digest(1), digest(1)]);
        if let (_, Ok(third)) = &mut state_only.replicas[2] {
            third.state = [9; 32];
        }
        assert_eq!(nodes(&state_only), Some((true, vec![3])));
    }
}
