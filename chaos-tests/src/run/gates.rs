//! Which nodes clients use, and when a gateway itself was in trouble: a query that fails then is no failure of a living node.

use crate::client::Client;
use crate::gateways::{Gateway, Gateways};
use docent_trial::history::{Operation, Outcome};
use docent_trial::{Applied, Fault, Kind, Layer, Member, Role, Scene};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

/// How long a gateway may take to say that it is well.
const PATIENCE: Duration = Duration::from_secs(1);
/// A client's patience: above the deadline of a write (10 s), below what a phase can wait for.
const TIMEOUT: Duration = Duration::from_secs(12);

/// A time in which a gateway's answers are nobody's fault.
#[derive(Clone, Copy, Debug)]
struct Trouble {
    from_us: u64,
    /// When it was well again.
    until_us: Option<u64>,
    /// What made it was undone: it is asked whether it is well.
    is_undone: bool,
}

/// Nodes as clients know them.
#[derive(Debug)]
pub struct Gates {
    gateways: Gateways,
    /// By place in `gateways`.
    members: RwLock<Vec<(Member, String)>>,
    troubles: RwLock<BTreeMap<Member, Vec<Trouble>>>,
    /// Those that the cluster has no more: nobody waits for them.
    gone: RwLock<BTreeSet<Member>>,
}

impl Gates {
    /// All of these.
    pub fn new(gateways: &[(Member, String)]) -> Gates {
        let addrs: Vec<String> = gateways.iter().map(|(_, addr)| addr.clone()).collect();
        let gateways_now = Gateways::with_timeout(&addrs, TIMEOUT);
        let (troubles, gone) = Default::default();
        Gates { gateways: gateways_now, members: RwLock::new(gateways.to_vec()), troubles, gone }
    }

    /// The `number`th that clients may use, counted round.
    ///
    /// # Errors
    /// There is none.
    pub fn pick(&self, number: usize) -> anyhow::Result<(Member, Arc<Gateway>)> {
        let gateway = self.gateways.pick(number)?;
        let member = self.read_members().get(gateway.index).map(|(member, _)| *member);
        Ok((member.unwrap_or_else(|| Member::node(0)), gateway))
    }

    /// Everybody, also who may not be used now.
    pub fn all(&self) -> Vec<(Member, String)> {
        self.read_members().clone()
    }

    /// Those that clients may use now.
    pub fn usable(&self) -> Vec<(Member, Arc<Gateway>)> {
        let members = self.read_members();
        let named = |gateway: Arc<Gateway>| Some((members.get(gateway.index)?.0, gateway));
        self.gateways.living().into_iter().filter_map(named).collect()
    }

    fn read_members(&self) -> std::sync::RwLockReadGuard<'_, Vec<(Member, String)>> {
        self.members.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes in nodes that joined, and new addresses of old ones. Clients use them once they say that they are ready.
    pub fn refresh(&self, now: &[(Member, String)], now_us: u64) {
        let mut troubles = self.troubles.write().unwrap_or_else(PoisonError::into_inner);
        let mut members = self.members.write().unwrap_or_else(PoisonError::into_inner);
        for (member, addr) in now {
            let place = match members.iter().position(|(one, _)| one == member) {
                Some(place) if members[place].1 == *addr => continue,
                Some(place) => {
                    members[place].1.clone_from(addr);
                    place
                }
                None => {
                    members.push((*member, addr.clone()));
                    self.gateways.add(addr);
                    members.len() - 1
                }
            };
            self.gateways.condemn(place);
            let of_member = troubles.entry(*member).or_default();
            match of_member.last_mut().filter(|last| last.until_us.is_none()) {
                Some(open) => open.is_undone = true,
                None => of_member.push(Trouble { from_us: now_us, until_us: None, is_undone: true }),
            }
        }
    }

    /// What the cluster's own list of nodes says: who left it is not waited for and not used, until it is listed again.
    pub fn keep_only(&self, listed: &BTreeSet<String>, now_us: u64) {
        let mut troubles = self.troubles.write().unwrap_or_else(PoisonError::into_inner);
        let mut gone = self.gone.write().unwrap_or_else(PoisonError::into_inner);
        let left: BTreeSet<Member> =
            self.all().into_iter().filter(|(_, addr)| !listed.contains(addr)).map(|(member, _)| member).collect();
        for member in left.difference(&gone) {
            self.condemn(*member);
            let of_member = troubles.entry(*member).or_default();
            if of_member.last().is_none_or(|last| last.until_us.is_some()) {
                of_member.push(Trouble { from_us: now_us, until_us: None, is_undone: true });
            }
        }
        *gone = left;
    }

    /// Does something to the cluster. Nobody is blamed before it is known who was hit: what fails meanwhile waits for that.
    pub fn disturb<T>(&self, at_us: u64, scene: &Scene, work: impl FnOnce() -> (T, Vec<(Fault, Applied)>)) -> T {
        let mut troubles = self.troubles.write().unwrap_or_else(PoisonError::into_inner);
        let (done, faults) = work();
        for (fault, applied) in &faults {
            let hit = match applied {
                Applied::Installed { on, .. } => on.clone(),
                Applied::Indeterminate { .. } => {
                    fault.target().map(|target| target.resolve(scene, 0)).unwrap_or_default()
                }
                Applied::Skipped { .. } => continue,
            };
            self.take_note(&mut troubles, fault, &hit, scene, at_us);
        }
        done
    }

    fn take_note(
        &self,
        troubles: &mut BTreeMap<Member, Vec<Trouble>>,
        fault: &Fault,
        hit: &BTreeSet<Member>,
        scene: &Scene,
        at_us: u64,
    ) {
        if fault.kind().takes_down() {
            for member in smaller_side(fault, hit, scene).into_iter().filter(|member| member.role == Role::Node) {
                let of_member = troubles.entry(member).or_default();
                if of_member.last().is_none_or(|last| last.until_us.is_some()) {
                    of_member.push(Trouble { from_us: at_us, until_us: None, is_undone: false });
                }
                if ends_process(fault.kind()) {
                    self.condemn(member);
                }
            }
        }
        if undoes(fault.kind()) {
            let open =
                troubles.iter_mut().filter(|(member, _)| hit.contains(member)).filter_map(|(_, all)| all.last_mut());
            open.for_each(|trouble| trouble.is_undone = true);
        }
    }

    /// No request goes to it until it is ready again.
    fn condemn(&self, member: Member) {
        let place = self.read_members().iter().position(|(one, _)| *one == member);
        place.into_iter().for_each(|place| self.gateways.condemn(place));
    }

    /// Asks a gateway in trouble, once that was undone, whether it is well; then clients may use it again.
    pub fn ask(&self, member: Member, addr: &str, now_us: impl Fn() -> u64) {
        let is_open = |trouble: &Trouble| trouble.until_us.is_none() && trouble.is_undone;
        let is_asked = {
            let troubles = self.troubles.read().unwrap_or_else(PoisonError::into_inner);
            let gone = self.gone.read().unwrap_or_else(PoisonError::into_inner);
            !gone.contains(&member) && troubles.get(&member).and_then(|all| all.last()).is_some_and(is_open)
        };
        if !is_asked || !Client::with_timeout(addr, PATIENCE).is_ready() {
            return;
        }
        let mut troubles = self.troubles.write().unwrap_or_else(PoisonError::into_inner);
        let last = troubles.get_mut(&member).and_then(|all| all.last_mut()).filter(|trouble| is_open(trouble));
        if let Some(trouble) = last {
            trouble.until_us = Some(now_us());
            let place = self.read_members().iter().position(|(one, _)| *one == member);
            if let Some(place) = place.filter(|place| self.gateways.living().iter().all(|one| one.index != *place)) {
                self.gateways.revive(place, addr);
            }
        }
    }

    /// Whether nobody is in trouble any more.
    pub fn are_all_well(&self) -> bool {
        let troubles = self.troubles.read().unwrap_or_else(PoisonError::into_inner);
        let gone = self.gone.read().unwrap_or_else(PoisonError::into_inner);
        let of_those_there = troubles.iter().filter(|(member, _)| !gone.contains(member));
        of_those_there.flat_map(|(_, all)| all).all(|trouble| trouble.until_us.is_some())
    }

    /// Notes in a failed call whether its gateway was in trouble meanwhile.
    pub fn blame(&self, operation: &mut Operation) {
        let (called, returned) = (operation.called_us, operation.returned_us.unwrap_or(u64::MAX));
        let (Outcome::Rejected(refusal) | Outcome::Unknown(refusal)) = &mut operation.outcome else { return };
        let troubles = self.troubles.read().unwrap_or_else(PoisonError::into_inner);
        let meets =
            |trouble: &Trouble| trouble.from_us <= returned && trouble.until_us.is_none_or(|until| called <= until);
        refusal.is_of_gateway = troubles.get(&operation.gateway).is_some_and(|all| all.iter().any(meets));
    }
}

/// Whom a fault keeps from its cluster: of two sides of a network the smaller one.
fn smaller_side(fault: &Fault, hit: &BTreeSet<Member>, scene: &Scene) -> BTreeSet<Member> {
    let (side, other) = match fault {
        Fault::Partition { side, from } | Fault::Bridge { side, from, .. } => (side, from),
        Fault::OneWay { from, to } => (from, to),
        _ => return hit.clone(),
    };
    let nodes = |members: BTreeSet<Member>| members.into_iter().filter(|member| member.role == Role::Node);
    let side: BTreeSet<Member> = nodes(side.resolve(scene, 0)).collect();
    let other: BTreeSet<Member> = nodes(other.resolve(scene, 0)).filter(|member| !side.contains(member)).collect();
    // A side whose target plays another role by now is found among those that were hit.
    match side.is_empty() {
        true => nodes(hit.clone()).filter(|member| !other.contains(member)).collect(),
        false if side.len() <= other.len() => side,
        false => other,
    }
}

/// Whether clients cannot even connect while it lasts.
fn ends_process(kind: Kind) -> bool {
    kind.layer() == Layer::Process
        || matches!(kind, Kind::RestartWith | Kind::Replace | Kind::LoseForGood | Kind::SyncError)
}

/// Whether it may end what another fault began.
fn undoes(kind: Kind) -> bool {
    matches!(
        kind,
        Kind::Restart | Kind::Continue | Kind::Heal | Kind::Wipe | Kind::Replace | Kind::RestartWith | Kind::Resume
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use docent_trial::history::{Call, Refusal};
    use docent_trial::target::Actor;

    fn scene() -> Scene {
        let actor = |number| Actor::idle(Member::node(number), true);
        Scene { actors: (1..=3).map(actor).collect(), ..Scene::default() }
    }

    fn failed(gateway: u32, called_us: u64) -> Operation {
        Operation {
            id: 1,
            client: 1,
            gateway: Member::node(gateway),
            call: Call::Popular { n: 1 },
            called_us,
            returned_us: Some(called_us + 10),
            outcome: Outcome::Unknown(Refusal::new("reset", "")),
        }
    }

    fn is_blamed(gates: &Gates, gateway: u32, called_us: u64) -> bool {
        let mut operation = failed(gateway, called_us);
        gates.blame(&mut operation);
        matches!(operation.outcome, Outcome::Unknown(refusal) if refusal.is_of_gateway)
    }

    fn gates() -> Gates {
        let addr = |number: u32| (Member::node(number), format!("127.0.0.1:{number}"));
        Gates::new(&[addr(1), addr(2), addr(3)])
    }

    fn apply(gates: &Gates, at_us: u64, fault: &str, hit: u32) {
        let fault: Fault = fault.parse().unwrap();
        gates.disturb(at_us, &scene(), || ((), vec![(fault, Applied::installed("", [Member::node(hit)]))]));
    }

    #[test]
    fn what_fails_through_a_dead_node_is_its_death_and_clients_turn_away() {
        let gates = gates();
        apply(&gates, 100, "kill node-2", 2);
        assert!(is_blamed(&gates, 2, 95) && is_blamed(&gates, 2, 5_000) && !is_blamed(&gates, 2, 50));
        assert!(!is_blamed(&gates, 1, 200) && !gates.are_all_well());
        assert!((0..9).all(|number| gates.pick(number).unwrap().0 != Member::node(2)));
    }

    #[test]
    fn a_node_that_joins_is_used_once_it_is_ready_and_one_that_left_is_not_waited_for() {
        let gates = gates();
        let mut now = gates.all();
        now.push((Member::node(4), "127.0.0.1:4".to_owned()));
        gates.refresh(&now, 100);
        assert!((0..9).all(|number| gates.pick(number).unwrap().0 != Member::node(4)) && !gates.are_all_well());
        gates.keep_only(&now.iter().take(3).map(|(_, addr)| addr.clone()).collect(), 200);
        assert!(gates.are_all_well());
    }

    #[test]
    fn the_smaller_side_of_a_partition_is_in_trouble_and_is_used_all_the_same() {
        let gates = gates();
        apply(&gates, 100, "partition node-1+node-2 from rest", 1);
        assert!(is_blamed(&gates, 3, 200) && !is_blamed(&gates, 1, 200) && !is_blamed(&gates, 2, 200));
        assert_eq!(gates.usable().len(), 3);
    }
}
