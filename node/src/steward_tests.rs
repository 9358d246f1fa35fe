//! One case a rule of [`super::next`].

use super::*;
use docent_raft::{MemberStatus, Role};
use docent_types::placement::{Cause, Change};
use docent_types::{Keyspace, ReplicaId, SlotRange};

const SHARD: ShardId = ShardId { keyspace: Keyspace::Users, index: 0 };

/// Replica `r` lives on node `r + 100`.
fn replica(id: u64) -> Replica {
    Replica { id: ReplicaId(id), node: NodeId(id + 100) }
}

fn shard(replicas: &[u64], change: Option<(u64, Option<u64>)>) -> Shard {
    Shard {
        id: SHARD,
        slots: SlotRange { first: 0, end: 4_096 },
        replicas: replicas.iter().map(|&id| replica(id)).collect(),
        membership: 0,
        change: change.map(|(new, old)| Change {
            new: replica(new),
            old: old.map(ReplicaId),
            cause: Cause::Command,
            is_cancelled: false,
        }),
    }
}

/// Replica 1 leads `voters`; `learners` have no vote; everybody has the whole log.
fn led(voters: &[u64], learners: &[u64]) -> Status {
    let member = |&id: &u64| Member { replica: id, node: id + 100, addr: String::new() };
    let members = voters.iter().chain(learners);
    Status {
        replica: 1,
        role: Role::Leader,
        leader: Some(member(&1)),
        last_log: Some(100),
        committed: Some(100),
        membership_index: Some(10),
        matched: members.clone().filter(|id| **id != 1).map(|&id| (id, Some(100))).collect(),
        members: members.map(|id| MemberStatus { member: member(id), is_voter: voters.contains(id) }).collect(),
        voters: voters.into(),
        ..Status::default()
    }
}

fn step(status: &Status, shard: &Shard) -> Step {
    next(status, shard, true, None, false, |_| true)
}

#[test]
fn a_move_is_a_learner_then_one_swap() {
    let moving = shard(&[1, 2, 3], Some((4, Some(3))));
    assert_eq!(step(&led(&[1, 2, 3], &[]), &moving), Step::Add(replica(4)));
    let mut status = led(&[1, 2, 3], &[4]);
    assert_eq!(step(&status, &moving), Step::Swap([1, 2, 4].into()));
    assert_eq!(
        next(&status, &moving, false, None, false, |_| true),
        Step::Wait,
        "it cannot answer with the live model yet"
    );
    status.matched.insert(4, Some(10));
    assert_eq!(step(&status, &moving), Step::Wait, "it has not caught up");
    status.matched.insert(4, None);
    assert_eq!(step(&status, &moving), Step::Wait);
    assert_eq!(step(&led(&[1, 2, 4], &[]), &moving), Step::Wait, "done; the coordinator will hear of it");
}

#[test]
fn a_leader_that_goes_hands_over_first() {
    let moving = shard(&[1, 2, 3], Some((4, Some(1))));
    assert!(matches!(step(&led(&[1, 2, 3], &[4]), &moving), Step::HandOver(2 | 3)));
    let alive = |alive: u64| next(&led(&[1, 2, 3], &[4]), &moving, true, None, false, move |node| node.0 == alive);
    assert_eq!(alive(103), Step::HandOver(3));
    assert_eq!(alive(104), Step::Wait, "to none that hangs");
}

#[test]
fn a_shard_grows_by_a_change_that_replaces_none() {
    assert_eq!(step(&led(&[1], &[2]), &shard(&[1], Some((2, None)))), Step::Swap([1, 2].into()));
}

#[test]
fn what_is_half_done_is_finished_whatever_the_catalog_says() {
    let half = Status { is_joint: true, voters: [1, 2, 4].into(), ..led(&[1, 2, 3, 4], &[]) };
    assert_eq!(step(&half, &shard(&[1, 2, 3], None)), Step::Finish([1, 2, 4].into()));
    let unsettled = Status { membership_index: Some(101), ..half };
    assert_eq!(step(&unsettled, &shard(&[1, 2, 3], None)), Step::Wait, "openraft is still at it");
}

#[test]
fn an_old_catalog_swaps_nothing_back() {
    // This leader still sees the move of 3 to 4; meanwhile 2 has moved to 5.
    let old = shard(&[1, 2, 3], Some((4, Some(3))));
    assert_eq!(step(&led(&[1, 4, 5], &[]), &old), Step::Wait);
}

#[test]
fn a_cancelled_newcomer_is_forgotten() {
    let mut given_up = shard(&[1, 2, 3], Some((4, Some(3))));
    given_up.change = given_up.change.map(|change| Change { is_cancelled: true, ..change });
    assert_eq!(step(&led(&[1, 2, 3], &[4]), &given_up), Step::Drop(4));
    assert_eq!(step(&led(&[1, 2, 3], &[4]), &shard(&[1, 2, 3], None)), Step::Drop(4));
}

#[test]
fn leadership_goes_where_it_is_wished_if_that_replica_is_up_to_date() {
    let rest = shard(&[1, 2, 3], None);
    let mut status = led(&[1, 2, 3], &[]);
    assert_eq!(next(&status, &rest, true, Some(NodeId(102)), false, |_| true), Step::Balance(2));
    assert_eq!(
        next(&status, &rest, true, Some(NodeId(102)), true, |_| true),
        Step::HandOver(2),
        "a draining node does not wait"
    );
    assert_eq!(next(&status, &rest, true, Some(NodeId(101)), false, |_| true), Step::Wait);
    status.matched.insert(2, Some(1));
    assert_eq!(next(&status, &rest, true, Some(NodeId(102)), false, |_| true), Step::Wait);
    let follower = Status { role: Role::Follower, ..status };
    assert_eq!(next(&follower, &rest, true, Some(NodeId(102)), false, |_| true), Step::Wait);
}
