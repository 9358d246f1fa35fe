//! Hand-made histories for tests: what a few lines of telling make of a run.

use super::{Verdict, Violation};
use crate::history::{
    Answer, Call, Consent, Coverage, Degraded, EventOutcome, FaultMark, Header, History, Listing, Missing, Observed,
    Operation, Outcome, PhaseMark, Refusal, Scored, Source,
};
use crate::name::{Group, Member};
use crate::world::{Applied, Phase, WorldKind};
use std::collections::BTreeSet;

/// A history in the making. Times are microseconds; a call goes through node 1 unless it says otherwise.
pub(crate) struct Story {
    pub(crate) history: History,
    pub(crate) client: u32,
    pub(crate) gateway: Member,
}

pub(crate) fn header() -> Header {
    Header {
        format: crate::history::FORMAT,
        world: WorldKind::Sim,
        scenario: "a-story".to_owned(),
        seed: 1,
        schedule: String::new(),
        nodes: 3,
        coordinators: 3,
        replication: 3,
        user_shards: 2,
        item_shards: 2,
        election_timeout_max_ms: 1_000,
    }
}

impl Story {
    pub(crate) fn new() -> Story {
        Story { history: History::new(header()), client: 1, gateway: Member::node(1) }
    }

    pub(crate) fn by(&mut self, client: u32, node: u32) -> &mut Story {
        (self.client, self.gateway) = (client, Member::node(node));
        self
    }

    pub(crate) fn call(&mut self, times: (u64, u64), call: Call, outcome: Outcome) -> &mut Story {
        let id = self.history.operations.len() as u64;
        let (client, gateway) = (self.client, self.gateway);
        let operation =
            Operation { id, client, gateway, call, called_us: times.0, returned_us: Some(times.1), outcome };
        self.history.operations.push(operation);
        self
    }

    pub(crate) fn done(&mut self, times: (u64, u64), call: Call) -> &mut Story {
        self.call(times, call, Outcome::Ok(Answer::Done {}))
    }

    pub(crate) fn unknown(&mut self, times: (u64, u64), call: Call) -> &mut Story {
        self.call(times, call, Outcome::Unknown(Refusal::new("timeout", "")))
    }

    pub(crate) fn rejected(&mut self, times: (u64, u64), call: Call) -> &mut Story {
        self.call(times, call, Outcome::Rejected(Refusal::new("unavailable", "")))
    }

    /// An event that was answered, with its position.
    pub(crate) fn event(&mut self, times: (u64, u64), id: &str, outcome: EventOutcome, position: &str) -> &mut Story {
        let position = position.parse().ok();
        self.call(times, event(id), Outcome::Ok(Answer::Event { outcome, position }))
    }

    pub(crate) fn listing(&mut self, times: (u64, u64), user: &str, listing: Listing) -> &mut Story {
        self.call(times, recommend(user), Outcome::Ok(Answer::Listing(listing)))
    }

    pub(crate) fn see(&mut self, at_us: u64, what: Observed) -> &mut Story {
        self.history.see(at_us, what);
        self
    }

    /// The audit: everything that the cluster has.
    pub(crate) fn export(&mut self, ids: &[&str]) -> &mut Story {
        for id in ids {
            let (user, item) = ("u1".to_owned(), item_of(id));
            self.see(900, Observed::Exported { event_id: (*id).to_owned(), user, item });
        }
        self.see(901, Observed::ExportEnd { events: ids.len() as u64 })
    }

    pub(crate) fn phase(&mut self, at_us: u64, phase: Phase) -> &mut Story {
        self.history.phases.push(PhaseMark { at_us, phase });
        self
    }

    pub(crate) fn fault(&mut self, at_us: u64, fault: &str, on: &[Member]) -> &mut Story {
        let applied = Applied::installed(fault, on.iter().copied());
        let fault = fault.parse().unwrap();
        self.history.faults.push(FaultMark { from_us: at_us, at_us, step: None, fault, is_end: false, applied });
        self
    }
}

/// An event of user `u1` and an item of its own.
pub(crate) fn event(id: &str) -> Call {
    Call::Event { event_id: id.to_owned(), user: "u1".to_owned(), item: item_of(id), event_type: "click".to_owned() }
}

pub(crate) fn item_of(event: &str) -> String {
    format!("item-of-{event}")
}

pub(crate) fn recommend(user: &str) -> Call {
    Call::Recommend { user: user.to_owned(), n: 3, exclude: BTreeSet::new(), session: None }
}

pub(crate) fn consent(recommend: bool) -> Call {
    Call::SetConsent { user: "u1".to_owned(), consent: Consent { recommend, ..Consent::default() } }
}

pub(crate) fn blocks(items: &[&str]) -> Call {
    Call::SetBlocks { user: "u1".to_owned(), items: items.iter().map(|item| (*item).to_owned()).collect() }
}

/// A full answer of version 1; items in their order, personal from the model.
pub(crate) fn answer(source: Source, ids: &[&str]) -> Listing {
    let scored = |(place, id): (usize, &&str)| Scored { id: (*id).to_owned(), score: 10.0 - place as f32, source };
    Listing {
        items: ids.iter().enumerate().map(scored).collect(),
        version: Some(1),
        coverage: Some(Coverage { asked: 2, answered: 2, items: 0, degraded: Vec::new() }),
        session: None,
        oracle: None,
    }
}

/// The same without a shard, or without the user's state.
pub(crate) fn degraded(listing: Listing, what: Missing, shard: &str) -> Listing {
    let shard: Group = shard.parse().unwrap();
    let answered = if what == Missing::MissingShard { 1 } else { 2 };
    let coverage = Coverage { asked: 2, answered, items: 0, degraded: vec![Degraded { what, shard }] };
    Listing { coverage: Some(coverage), ..listing }
}

/// The kinds of what is wrong, in order, each once.
pub(crate) fn kinds(verdict: &Verdict) -> Vec<String> {
    let mut kinds: Vec<String> = match verdict {
        Verdict::Fail { evidence, .. } => evidence.iter().map(|one| one.kind.clone()).collect(),
        other => return vec![format!("{other}")],
    };
    kinds.dedup();
    kinds
}

/// The first thing that is wrong.
pub(crate) fn first(verdict: &Verdict) -> Violation {
    match verdict {
        Verdict::Fail { evidence, .. } => evidence[0].clone(),
        other => panic!("nothing is wrong: {other}"),
    }
}

/// The end of a telling, where a closure must return nothing.
pub(crate) fn end(_: &mut Story) {}
