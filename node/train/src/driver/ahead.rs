//! An epoch of sampled softmax whose hosts wait for one another no longer than they must.
//!
//! With a staleness k a step reads rows as they were k steps before it ([`At::reads`]), so a user host may compute step t as soon as every owner has
//! applied step t - k - 1, and an owner applies step t as soon as every user host has computed it. Hosts are k steps apart at most: a bounded
//! staleness as in Ho et al., *More effective distributed ML via a stale synchronous parallel parameter server* (NIPS 2013). But what a step
//! reads does not depend on who is how far, so the bytes of the model do not either.
use super::{Job, unexpected};
use crate::{
    Error, TrainRequest, TrainResponse, blob,
    message::{At, Key},
};
use docent_model::tree::Node;
use futures::future::{try_join, try_join_all};
use std::time::Duration;
use tokio::sync::watch;

/// What an epoch leaves.
pub(super) struct Done {
    /// Of each step, what user hosts lost.
    pub(super) sums: Vec<Vec<Node<Vec<f64>>>>,
    pub(super) bytes_pulled: u64,
    /// What user hosts waited for owners, added up.
    pub(super) waited: Duration,
}

/// How many steps each host has done.
struct Board {
    computed: Vec<u32>,
    applied: Vec<u32>,
}

/// Of one user host: what each step lost, bytes pulled, and what it waited.
type OfUsers = (Vec<Vec<Node<Vec<f64>>>>, u64, Duration);

/// Runs the `steps` steps of an epoch.
pub(super) async fn epoch<P>(job: &Job<'_, P>, key: Key, (epoch, steps): (u32, u32)) -> Result<Done, Error> {
    let (users, owners) = (job.plan.hosts.user_nodes(), job.plan.hosts.item_nodes());
    let board = Board { computed: vec![0; users.len()], applied: vec![0; owners.len()] };
    let board = &watch::Sender::new(board);
    let all = (0..steps).map(|step| At { epoch, step, steps });
    let users = users.iter().enumerate().map(|(host, node)| compute(job, key, all.clone(), (host, *node), board));
    let owners = owners.iter().enumerate().map(|(host, node)| apply(job, key, all.clone(), (host, *node), board));
    let (of_users, of_owners) = try_join(try_join_all(users), try_join_all(owners)).await?;
    let mut done =
        Done { sums: vec![Vec::new(); steps as usize], bytes_pulled: of_owners.iter().sum(), waited: Duration::ZERO };
    for (sums, bytes_pulled, waited) in of_users {
        done.sums.iter_mut().zip(sums).for_each(|(all, of_host)| all.extend(of_host));
        done.bytes_pulled += bytes_pulled;
        done.waited += waited;
    }
    Ok(done)
}

/// A user host's steps.
async fn compute<P>(
    job: &Job<'_, P>,
    key: Key,
    steps: impl Iterator<Item = At>,
    (host, node): (usize, u64),
    board: &watch::Sender<Board>,
) -> Result<OfUsers, Error> {
    let (mut all, mut bytes, mut waited) = (Vec::new(), 0, Duration::ZERO);
    for at in steps {
        let begin = (job.clock)();
        let needed = at.step.saturating_sub(job.plan.settings.staleness);
        until(board, |board| board.applied.iter().all(|applied| *applied >= needed)).await?;
        waited += (job.clock)().saturating_sub(begin);
        let TrainResponse::Stepped { sums, bytes_pulled } = ask(job, node, TrainRequest::Gradients { key, at }).await?
        else {
            return Err(unexpected(node));
        };
        all.push(sums);
        bytes += bytes_pulled;
        board.send_modify(|board| board.computed[host] += 1);
    }
    Ok((all, bytes, waited))
}

/// An owner's steps; gives the bytes that it pulled.
async fn apply<P>(
    job: &Job<'_, P>,
    key: Key,
    steps: impl Iterator<Item = At>,
    (host, node): (usize, u64),
    board: &watch::Sender<Board>,
) -> Result<u64, Error> {
    let mut bytes = 0;
    for at in steps {
        until(board, |board| board.computed.iter().all(|computed| *computed > at.step)).await?;
        let TrainResponse::Exchanged { bytes_pulled } = ask(job, node, TrainRequest::Apply { key, at }).await? else {
            return Err(unexpected(node));
        };
        bytes += bytes_pulled;
        board.send_modify(|board| board.applied[host] += 1);
    }
    Ok(bytes)
}

async fn until(board: &watch::Sender<Board>, is_met: impl FnMut(&Board) -> bool) -> Result<(), Error> {
    let met = board.subscribe().wait_for(is_met).await.map(drop);
    met.map_err(|_| Error::Internal("nobody counts steps any more".into()))
}

async fn ask<P>(job: &Job<'_, P>, node: u64, request: TrainRequest) -> Result<TrainResponse, Error> {
    blob::retry(|| job.peers.call(node, request.clone(), job.plan.phase_timeout)).await
}
