//! Digests of this node's replicas: taken when asked for, and compared by themselves once in a while.

use crate::shards::{Hosted, Shards};
use docent_gateway::Gateway;
use docent_proto::internal::shard::StateDigest;
use docent_runtime::{Clock, Deadline, Supervisor, Threads};
use docent_types::{Error, Kind, Result, ShardId};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Semaphore;

/// How long the comparison of one shard may take.
const ROUND: Duration = Duration::from_secs(60);
/// How often the task looks whether a shard is due.
const LOOK: Duration = Duration::from_secs(1);

/// Takes digests, one at a time: each reads all of a shard.
#[derive(Clone, Debug)]
pub struct Taker {
    one: Arc<Semaphore>,
    threads: Threads,
}

impl Taker {
    /// Reads on these threads.
    pub fn new(threads: Threads) -> Taker {
        Taker { one: Arc::new(Semaphore::new(1)), threads }
    }

    /// The digest of a replica's state at the `Digest` command of log index `index`, once it is applied here.
    ///
    /// # Errors
    /// `NotFound` where this replica got past the index by a snapshot or a restart; `DeadlineExceeded`; the store's.
    pub async fn take(&self, hosted: &Hosted, index: u64, deadline: Deadline) -> Result<StateDigest> {
        let shard = hosted.id;
        deadline.bound("reaching the log index of a digest", hosted.reached(index)).await?;
        let turn = async { self.one.clone().acquire_owned().await.map_err(|_| ended(shard)) };
        let turn = deadline.bound("the digests before this one", turn).await?;
        let store = hosted.store.clone();
        let work = self.threads.blocking(move || {
            let _turn = turn;
            store.digests().take(index, &|| deadline.is_over())
        });
        match work.await.map_err(|_| ended(shard))?.map_err(Error::from)? {
            Some(digest) => Ok(StateDigest { records: digest.records, content: digest.content, state: digest.state }),
            None if deadline.is_over() => {
                Err(Error::new(Kind::DeadlineExceeded, format!("reading all of shard {shard} took too long")))
            }
            None => Err(Error::new(
                Kind::NotFound,
                format!("this replica of shard {shard} passed index {index} by a snapshot or a restart; verify again"),
            )),
        }
    }
}

fn ended(shard: ShardId) -> Error {
    Error::new(Kind::Unavailable, format!("shard {shard} is closing on this node"))
}

/// When each shard that this node leads is compared next. The first time lies somewhere in the interval, by the shard's number: shards
/// of a cluster that started at once are not all read at once.
#[derive(Debug, Default)]
struct Rhythm {
    due: BTreeMap<ShardId, Duration>,
}

impl Rhythm {
    fn is_due(&mut self, shard: ShardId, now: Duration, every: Duration) -> bool {
        let at = *self.due.entry(shard).or_insert_with(|| now + every.mul_f64(phase(shard)));
        let is_due = at <= now;
        if is_due {
            self.due.insert(shard, now + every);
        }
        is_due
    }
}

/// A share of the interval, 0 to 1: golden-ratio steps spread any few numbers evenly.
fn phase(shard: ShardId) -> f64 {
    (shard.group() as f64 * 0.618_033_988_749_894_9).fract()
}

/// Compares the replicas of every shard that this node leads, once in `every`. The gateway logs and counts what disagrees.
pub async fn verify(
    shards: Arc<Shards>,
    gateway: Gateway,
    every: Duration,
    clock: Arc<dyn Clock>,
    supervisor: Supervisor,
) -> Result<()> {
    let mut rhythm = Rhythm::default();
    while !supervisor.is_cancelled() {
        for hosted in shards.all() {
            if !hosted.group.status().is_leader() {
                rhythm.due.remove(&hosted.id);
            } else if rhythm.is_due(hosted.id, clock.monotonic(), every)
                && let Err(error) = gateway.verify_shard(hosted.id, Deadline::after(ROUND)).await
            {
                tracing::debug!(shard = %hosted.id, %error, "the replicas were not compared; at the next interval");
            }
        }
        tokio::select! {
            () = tokio::time::sleep(LOOK) => {} // between looks at the clock
            () = supervisor.cancelled() => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use docent_types::Keyspace;

    #[test]
    fn shards_are_spread_over_the_interval_and_each_has_its_turn_once() {
        let every = Duration::from_secs(3_600);
        let shard = |keyspace, index| ShardId { keyspace, index };
        let shards: Vec<ShardId> = (0..8)
            .map(|index| shard(Keyspace::Users, index))
            .chain((0..4).map(|index| shard(Keyspace::Items, index)))
            .collect();
        let mut rhythm = Rhythm::default();
        let mut turns: Vec<u64> = Vec::new();
        for second in 0..7_200 {
            let now = Duration::from_secs(second);
            shards.iter().filter(|shard| rhythm.is_due(**shard, now, every)).for_each(|_| turns.push(second));
        }
        assert_eq!(turns.len(), 24, "{turns:?}");
        turns.truncate(12);
        let gaps: Vec<u64> = turns.windows(2).map(|pair| pair[1] - pair[0]).collect();
        assert!(gaps.iter().all(|gap| *gap < 1_500), "{turns:?}");
    }
}
