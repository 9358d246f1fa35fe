//! Keeping what is done at a barrier, and finding it again in another attempt.
use super::{CLOSE_TIMEOUT, FINAL, Job, Linked, unexpected};
use crate::{
    Checkpoints, Error, Hosts, Progress, TrainRequest, TrainResponse, VWORKERS,
    message::{Barrier, Checkpoint, Side},
};
use docent_model::{evaluation::Report, tower::adam::Adam, tree::Node};
use futures::future::join_all;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// What the driver itself needs to go on.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(super) struct Notes {
    /// The objective after each pass or epoch.
    pub(super) losses: Vec<f64>,
    /// Sums of loss and weight in the epoch that is under way.
    pub(super) loss: [f64; 2],
    /// Of the model that was measured.
    pub(super) reports: Vec<Report>,
    pub(super) bytes_pulled: u64,
    /// Of two towers: the dense weights of users and of items.
    pub(super) dense: Option<[Adam; 2]>,
}

/// What an earlier attempt left.
pub(super) struct Saved {
    pub(super) barrier: Barrier,
    notes: Notes,
    /// Who has the state of each virtual worker.
    holders: Hosts,
}

/// Where a family begins.
pub(super) struct Start {
    /// Steps that are done.
    pub(super) step: u32,
    /// Of the items' rows as they are.
    pub(super) sums: Vec<Node<Vec<f64>>>,
    pub(super) notes: Notes,
}

impl<P: FnMut(Progress) + Send> Job<'_, P> {
    /// The latest barrier of an earlier attempt on this input of which everything is still on some node.
    pub(super) async fn saved(&self) -> Option<Saved> {
        let checkpoints = self.plan.checkpoints.as_ref()?;
        let request = TrainRequest::Kept { job: self.plan.job };
        let asked = checkpoints.nodes.iter().map(|node| {
            let answer = self.peers.call(*node, request.clone(), CLOSE_TIMEOUT);
            async move { (*node, answer.await) }
        });
        let mut found: BTreeMap<Barrier, Vec<(u64, Checkpoint)>> = BTreeMap::new();
        for (node, answer) in join_all(asked).await {
            let Ok(TrainResponse::Kept(kept)) = answer else { continue };
            for checkpoint in kept.into_iter().filter(|kept| kept.barrier.input == checkpoints.input) {
                found.entry(checkpoint.barrier).or_default().push((node, checkpoint));
            }
        }
        found.into_iter().rev().find_map(|(barrier, copies)| self.whole(barrier, &copies))
    }

    /// Who has what of a barrier; none where something is missing.
    fn whole(&self, barrier: Barrier, copies: &[(u64, Checkpoint)]) -> Option<Saved> {
        let sides = if barrier.step == 0 { &[][..] } else { self.plan.settings.algorithm.sides() };
        let mut holders = self.plan.hosts.clone();
        for side in sides {
            for vworker in 0..VWORKERS {
                let has = |copy: &Checkpoint| match side {
                    Side::Users => copy.users.contains(&vworker),
                    Side::Items => copy.items.contains(&vworker),
                };
                let host = self.plan.hosts.of(*side, vworker)?;
                let who: Vec<u64> = copies.iter().filter(|(_, copy)| has(copy)).map(|(node, _)| *node).collect();
                // Best where it is needed.
                let holder = if who.contains(&host) { host } else { *who.first()? };
                holders.set(*side, vworker, holder);
            }
        }
        let (_, copy) = copies.first()?;
        Some(Saved { barrier, notes: postcard::from_bytes(&copy.memo).ok()?, holders })
    }

    /// Takes up what an earlier attempt left; without it, or where it cannot be read, a run starts from `sums`, those of the first rows.
    pub(super) async fn start(
        &mut self,
        linked: &Linked,
        sums: Vec<Node<Vec<f64>>>,
        saved: Option<Saved>,
    ) -> Result<Start, Error> {
        if let Some(saved) = saved {
            let step = saved.barrier.step;
            // What was measured does not hang on the states: without it the model would go live unmeasured.
            self.reports.clone_from(&saved.notes.reports);
            match self.restore(linked, sums, saved).await {
                Ok(start) => {
                    tracing::info!(job = self.plan.job, step, "training goes on from a checkpoint");
                    return Ok(start);
                }
                Err(error @ (Error::Input(_) | Error::Sink(_) | Error::OutOfTurn { .. } | Error::Malformed { .. })) => {
                    tracing::warn!(job = self.plan.job, step, %error, "a checkpoint is of no use; training starts anew");
                }
                Err(error) => return Err(error),
            }
            let (_, sums) = self.linked(TrainRequest::Link(linked.key)).await?;
            return Ok(Start { step: 0, sums, notes: Notes::default() });
        }
        if linked.key.run == FINAL && !self.reports.is_empty() {
            // What was measured need not be measured again.
            self.keep(linked, 0, Notes::default()).await;
        }
        Ok(Start { step: 0, sums, notes: Notes::default() })
    }

    async fn restore(&mut self, linked: &Linked, mut sums: Vec<Node<Vec<f64>>>, saved: Saved) -> Result<Start, Error> {
        let Saved { barrier, notes, holders } = saved;
        if barrier.step > 0 {
            sums.clear();
            let (key, items) = (linked.key, linked.items.clone());
            let request = TrainRequest::Restore { key, barrier, holders, items };
            for (node, response) in self.all(&self.plan.hosts.nodes(), &request).await? {
                let TrainResponse::Stepped { sums: partial, bytes_pulled } = response else {
                    return Err(unexpected(node));
                };
                sums.extend(partial);
                self.bytes_pulled += bytes_pulled;
            }
        }
        self.bytes_pulled += notes.bytes_pulled;
        Ok(Start { step: barrier.step, sums, notes })
    }

    /// Keeps what is done if the last time is long enough ago.
    pub(super) async fn keep_if_due(&mut self, linked: &Linked, step: u32, notes: Notes) {
        let every = self.plan.checkpoints.as_ref().map(|checkpoints| checkpoints.every);
        if every.is_some_and(|every| (self.clock)().saturating_sub(self.kept) >= every) {
            self.keep(linked, step, notes).await;
        }
    }

    /// Keeps what is done. A job goes on without: a host that is lost is met again in the next step.
    async fn keep(&mut self, linked: &Linked, step: u32, notes: Notes) {
        let Some(Checkpoints { input, keepers, .. }) = &self.plan.checkpoints else { return };
        let notes = Notes { reports: self.reports.clone(), bytes_pulled: self.bytes_pulled, ..notes };
        let kept = match postcard::to_stdvec(&notes) {
            Err(error) => Err(Error::Internal(error.to_string())),
            Ok(memo) => {
                let barrier = Barrier { run: linked.key.run, step, input: *input };
                let (key, keepers) = (linked.key, keepers.clone());
                let request = TrainRequest::Keep { key, barrier, keepers, memo: memo.into() };
                self.exchange(&self.plan.nodes(), &request).await
            }
        };
        if let Err(error) = kept {
            tracing::warn!(job = self.plan.job, step, %error, "a checkpoint was not made");
        }
        self.kept = (self.clock)();
    }
}
