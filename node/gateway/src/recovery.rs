//! What an operator can know and do about shards that lost their majority.

use crate::gateway::Gateway;
use docent_proto::internal::Service;
use docent_proto::internal::shard::{ReplicaLog, Request, Response};
use docent_runtime::Deadline;
use docent_types::{Error, Kind, NodeId, Result, ShardId, codec};
use futures::future::join_all;
use std::time::Duration;

/// How long one replica may take to say where its log ends.
const LOOK: Duration = Duration::from_secs(2);

/// A replica of the catalog, with what it says of its log.
#[derive(Clone, Debug)]
pub struct SurveyedReplica {
    /// Of which shard.
    pub shard: ShardId,
    /// On which node.
    pub node: NodeId,
    /// Its log, or why it is not known.
    pub log: Result<ReplicaLog>,
}

impl Gateway {
    /// Asks every replica of the catalog where its log ends.
    ///
    /// # Errors
    /// `Unavailable` while there are no shards.
    pub async fn survey(&self) -> Result<Vec<SurveyedReplica>> {
        let view = self.view()?;
        let replicas = view
            .catalog
            .shards
            .values()
            .flat_map(|shard| shard.replicas.iter().map(|replica| (shard.id, replica.node)));
        let looks = replicas.map(|(shard, node)| async move {
            let log = match self.ask(node, &Request::ReplicaLog { shard }, Deadline::after(LOOK)).await {
                Ok(Response::ReplicaLog(log)) => Ok(log),
                Ok(_) => Err(unfitting()),
                Err(error) => Err(error),
            };
            SurveyedReplica { shard, node, log }
        });
        Ok(join_all(looks).await)
    }

    /// Makes the replica of `shard` on `node`, whose log must end at `last`, the shard's only one. Gives the log index from which on it
    /// is alone: what the others had committed beyond `last` is gone.
    ///
    /// # Errors
    /// `Conflict` where the shard has a living majority or the log ends elsewhere; the node's.
    pub async fn recover_shard(&self, shard: ShardId, node: NodeId, last: u64) -> Result<u64> {
        let deadline = self.write_deadline();
        let log = match self.ask(node, &Request::ReplicaLog { shard }, deadline).await? {
            Response::ReplicaLog(log) => log,
            _ => return Err(unfitting()),
        };
        match self.ask(node, &Request::Recover { shard, replica: log.replica, last }, deadline).await? {
            Response::Recovered(index) => Ok(index),
            _ => Err(unfitting()),
        }
    }

    async fn ask(&self, node: NodeId, request: &Request, deadline: Deadline) -> Result<Response> {
        let call = self.shared.route.caller.call(node, Service::Shard, codec::encode(request), deadline);
        codec::decode("the shard's answer", &deadline.bound("the replica", call).await?)
    }
}

fn unfitting() -> Error {
    Error::new(Kind::Internal, "the node answered another question than was asked")
}
