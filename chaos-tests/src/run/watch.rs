//! Looks at every node all the time: who leads in which term, which replicas are on their way, who is well again.

use crate::client::Client;
use crate::leaders;
use crate::run::gates::Gates;
use crate::run::tape::Tape;
use crate::run::view::{self, Move};
use docent_trial::history::Observed;
use docent_trial::{Group, Member};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::Scope;
use std::time::Duration;

/// Between two looks at the gauges of a node: what is told of leaders is late by at most this and an answer.
const LOOK: Duration = Duration::from_millis(50);
/// Between two looks at the catalog.
const CATALOG: Duration = Duration::from_millis(250);
/// How long a look may take.
const PATIENCE: Duration = Duration::from_secs(1);

/// Everybody who looks.
#[derive(Debug)]
pub struct Watch<'a> {
    /// Where it is written down.
    pub tape: &'a Tape,
    /// Who is looked at.
    pub gates: &'a Gates,
    /// The end.
    pub is_over: &'a AtomicBool,
}

impl<'a> Watch<'a> {
    fn goes_on(&self) -> bool {
        !self.is_over.load(Ordering::SeqCst)
    }

    /// Looks at every node that there is and that joins, a thread each, until it is over.
    pub fn spawn<'scope>(&'scope self, scope: &'scope Scope<'scope, '_>) {
        scope.spawn(move || {
            let mut watched = BTreeSet::new();
            let mut seen = Seen::default();
            while self.goes_on() {
                for (member, addr) in self.gates.all() {
                    if watched.insert((member, addr.clone())) {
                        scope.spawn(move || self.node(member, &addr));
                    }
                }
                self.catalog(&mut seen);
                std::thread::sleep(CATALOG); // between looks at another process
            }
        });
    }

    /// Leaders as one node's gauges have them, each told when it begins to lead.
    fn node(&self, member: Member, addr: &str) {
        let client = Client::with_timeout(addr, PATIENCE);
        let mut led: BTreeMap<Group, u64> = BTreeMap::new();
        while self.goes_on() {
            self.gates.ask(member, addr, || self.tape.now_us());
            for (number, replica) in leaders::replicas(&client).unwrap_or_default() {
                let Some(group) = view::group(number).filter(|_| replica.is_leader) else { continue };
                if led.insert(group, replica.term) != Some(replica.term) {
                    self.tape.see(Observed::Leader { group, term: replica.term, member });
                }
            }
            std::thread::sleep(LOOK); // between looks at another process
        }
    }

    /// Replicas that set out and those that arrived or were given up, changes of groups, nodes that left.
    fn catalog(&self, seen: &mut Seen) {
        let gateways = self.gates.all();
        let usable = self.gates.usable();
        let Ok(view) = view::look_through(usable.iter().map(|(_, gateway)| gateway.addr.as_str())) else { return };
        let known = &mut seen.moves;
        let now = view.moves();
        let ended =
            known.iter().filter(|(shard, one)| now.get(shard) != Some(one)).map(|(shard, one)| (*shard, one, true));
        let begun =
            now.iter().filter(|(shard, one)| known.get(shard) != Some(one)).map(|(shard, one)| (*shard, one, false));
        for (shard, one, is_over) in ended.chain(begun) {
            let Some(to) = view.member(one.to, &gateways) else { continue };
            let from = one.from.and_then(|from| view.member(from, &gateways));
            self.tape.see(Observed::Move { shard, from, to, is_over });
        }
        *known = now;
        for shard in &view.shards {
            let voters: BTreeSet<Member> =
                shard.replicas.iter().filter_map(|one| view.member(one.node, &gateways)).collect();
            // The catalog does not tell the entry that made a membership; the newest replica's id was the index of the order for it.
            let index = shard.replicas.iter().map(|replica| replica.id).max().unwrap_or(0);
            if seen.voters.insert(shard.id, voters.clone()).as_ref() != Some(&voters) {
                let (group, learners) = (shard.id, BTreeSet::new());
                self.tape.see(Observed::Membership { group, index, voters, learners, is_joint: false });
            }
        }
        let listed = view.nodes.iter().filter(|node| node.state != "removed").map(|node| node.query_addr.clone());
        self.gates.keep_only(&listed.collect(), self.tape.now_us());
    }
}

/// What was told of the catalog.
#[derive(Debug, Default)]
struct Seen {
    moves: BTreeMap<Group, Move>,
    voters: BTreeMap<Group, BTreeSet<Member>>,
}
