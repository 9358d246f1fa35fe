//! Whom a fault hits: by name, or by the role that somebody plays at the moment when it happens.

use crate::name::{Group, Member, Role};
use crate::text::{ParseError, as_text};
use rand_chacha::ChaCha8Rng;
use rand_core::{Rng, SeedableRng};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

/// Whom a fault hits.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Target {
    /// `node-2`, `coordinator-1`.
    Member(Member),
    /// `leader-of-most-shards`: the running node that leads most groups; the lowest number of several.
    MostLeaders,
    /// `leader-of:users/3`.
    LeaderOf(Group),
    /// `follower-of:users/3`: the lowest running replica that does not lead it.
    FollowerOf(Group),
    /// `follower`: the running node that leads fewest groups.
    Follower,
    /// `coordinator-leader`.
    CoordinatorLeader,
    /// `coordinator-follower`: the lowest running coordinator that does not lead.
    CoordinatorFollower,
    /// `coordinator-majority`: the leader and as many others as a majority takes.
    CoordinatorMajority,
    /// `majority-of:users/3`: its leader and as many other replicas as a majority takes.
    MajorityOf(Group),
    /// `move-source`: where the replica that is on its way leaves.
    MoveSource,
    /// `move-target`: where it goes to.
    MoveTarget,
    /// `training-driver`: who leads the training job that runs.
    TrainingDriver,
    /// `random(2)`: so many running nodes, drawn with the schedule's seed.
    Random(u32),
    /// `all`: every member.
    All,
    /// `all-nodes`.
    AllNodes,
    /// `all-coordinators`.
    AllCoordinators,
    /// `zone:a`: every member of a zone.
    Zone(String),
    /// `rest`: everybody whom the other sides of the fault do not name.
    Rest,
    /// `node-1+node-3`: all of these.
    Many(Vec<Target>),
}

/// A member as it is at the moment when a fault is to happen.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Actor {
    /// Who.
    pub member: Member,
    /// Its failure domain; empty where there are none.
    #[serde(default)]
    pub zone: String,
    /// Its process runs: neither dead nor paused.
    pub is_up: bool,
    /// The groups that it leads.
    #[serde(default)]
    pub leads: BTreeSet<Group>,
    /// The groups of which it has a voting replica.
    #[serde(default)]
    pub holds: BTreeSet<Group>,
}

impl Actor {
    /// One that has no zone, leads nothing and holds nothing.
    pub fn idle(member: Member, is_up: bool) -> Actor {
        Actor { member, zone: String::new(), is_up, leads: BTreeSet::new(), holds: BTreeSet::new() }
    }
}

/// The cluster as it is at the moment when a fault is to happen: what roles are resolved against.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scene {
    /// Every member that the world knows, dead ones too.
    pub actors: Vec<Actor>,
    /// Source and target of a replica on its way.
    #[serde(default)]
    pub moving: Option<(Option<Member>, Option<Member>)>,
    /// Who drives the training job that runs.
    #[serde(default)]
    pub driver: Option<Member>,
}

impl Scene {
    fn up(&self, role: Role) -> impl Iterator<Item = &Actor> {
        let mut up: Vec<&Actor> = self.actors.iter().filter(|actor| actor.is_up && actor.member.role == role).collect();
        up.sort_by_key(|actor| actor.member);
        up.into_iter()
    }

    fn leader(&self, group: Group) -> Option<Member> {
        self.actors.iter().find(|actor| actor.is_up && actor.leads.contains(&group)).map(|actor| actor.member)
    }

    /// The leader first, then other replicas, as many as a majority takes.
    fn majority(&self, group: Group, role: Role) -> BTreeSet<Member> {
        let is_of =
            |actor: &&Actor| actor.member.role == role && (group == Group::Catalog || actor.holds.contains(&group));
        let mut holders: Vec<&Actor> = self.actors.iter().filter(is_of).collect();
        holders.sort_by_key(|actor| (!actor.leads.contains(&group), !actor.is_up, actor.member));
        holders.iter().take(holders.len() / 2 + 1).map(|actor| actor.member).collect()
    }

    fn all(&self, is_wanted: impl Fn(&Actor) -> bool) -> BTreeSet<Member> {
        self.actors.iter().filter(|actor| is_wanted(actor)).map(|actor| actor.member).collect()
    }
}

impl Target {
    /// Who it is now. Empty where nobody plays the role; [`Target::Rest`] alone is everybody.
    ///
    /// `seed` decides what `random(n)` draws: give the schedule's seed and the step's place, so that a replay draws the same.
    pub fn resolve(&self, scene: &Scene, seed: u64) -> BTreeSet<Member> {
        let one = |member: Option<Member>| member.into_iter().collect();
        match self {
            Target::Member(member) => scene.all(|actor| actor.member == *member),
            Target::MostLeaders => {
                let nodes = scene.up(Role::Node);
                one(nodes.min_by_key(|actor| std::cmp::Reverse(actor.leads.len())).map(|actor| actor.member))
            }
            Target::Follower => one(scene.up(Role::Node).min_by_key(|actor| actor.leads.len()).map(|a| a.member)),
            Target::LeaderOf(group) => one(scene.leader(*group)),
            Target::FollowerOf(group) => {
                let is_follower = |actor: &&Actor| actor.holds.contains(group) && !actor.leads.contains(group);
                let role = if *group == Group::Catalog { Role::Coordinator } else { Role::Node };
                one(scene.up(role).find(is_follower).map(|actor| actor.member))
            }
            Target::CoordinatorLeader => one(scene.leader(Group::Catalog)),
            Target::CoordinatorFollower => {
                let mut coordinators = scene.up(Role::Coordinator);
                one(coordinators.find(|actor| !actor.leads.contains(&Group::Catalog)).map(|actor| actor.member))
            }
            Target::CoordinatorMajority => scene.majority(Group::Catalog, Role::Coordinator),
            Target::MajorityOf(Group::Catalog) => scene.majority(Group::Catalog, Role::Coordinator),
            Target::MajorityOf(group) => scene.majority(*group, Role::Node),
            Target::MoveSource => one(scene.moving.and_then(|(source, _)| source)),
            Target::MoveTarget => one(scene.moving.and_then(|(_, target)| target)),
            Target::TrainingDriver => one(scene.driver),
            Target::Random(count) => draw(scene.up(Role::Node).map(|actor| actor.member).collect(), *count, seed),
            Target::All | Target::Rest => scene.all(|_| true),
            Target::AllNodes => scene.all(|actor| actor.member.role == Role::Node),
            Target::AllCoordinators => scene.all(|actor| actor.member.role == Role::Coordinator),
            Target::Zone(zone) => scene.all(|actor| actor.zone == *zone),
            Target::Many(targets) => targets.iter().flat_map(|target| target.resolve(scene, seed)).collect(),
        }
    }

    /// Whether it names members for good, so that it means the same in every run.
    pub fn is_fixed(&self) -> bool {
        match self {
            Target::Member(_) | Target::All | Target::AllNodes | Target::AllCoordinators | Target::Zone(_) => true,
            Target::Many(targets) => targets.iter().all(Target::is_fixed),
            _ => false,
        }
    }
}

/// `count` of `from`, drawn with `seed`.
fn draw(mut from: Vec<Member>, count: u32, seed: u64) -> BTreeSet<Member> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut drawn = BTreeSet::new();
    while drawn.len() < count as usize && !from.is_empty() {
        drawn.insert(from.swap_remove((rng.next_u64() % from.len() as u64) as usize));
    }
    drawn
}

impl From<Member> for Target {
    fn from(member: Member) -> Target {
        Target::Member(member)
    }
}

impl FromIterator<Member> for Target {
    /// All of these members.
    fn from_iter<I: IntoIterator<Item = Member>>(members: I) -> Target {
        let mut targets: Vec<Target> = members.into_iter().map(Target::Member).collect();
        if targets.len() == 1 { targets.remove(0) } else { Target::Many(targets) }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Target::Member(member) => write!(to, "{member}"),
            Target::LeaderOf(group) => write!(to, "leader-of:{group}"),
            Target::FollowerOf(group) => write!(to, "follower-of:{group}"),
            Target::MajorityOf(group) => write!(to, "majority-of:{group}"),
            Target::Random(count) => write!(to, "random({count})"),
            Target::Zone(zone) => write!(to, "zone:{zone}"),
            Target::Many(targets) if targets.is_empty() => to.write_str("nobody"),
            Target::Many(targets) => {
                for (place, target) in targets.iter().enumerate() {
                    let plus = if place == 0 { "" } else { "+" };
                    write!(to, "{plus}{target}")?;
                }
                Ok(())
            }
            plain => to.write_str(PLAIN.iter().find(|(_, one)| one == plain).map_or("nobody", |(name, _)| name)),
        }
    }
}

/// Targets that are one word.
const PLAIN: &[(&str, Target)] = &[
    ("leader-of-most-shards", Target::MostLeaders),
    ("follower", Target::Follower),
    ("coordinator-leader", Target::CoordinatorLeader),
    ("coordinator-follower", Target::CoordinatorFollower),
    ("coordinator-majority", Target::CoordinatorMajority),
    ("move-source", Target::MoveSource),
    ("move-target", Target::MoveTarget),
    ("training-driver", Target::TrainingDriver),
    ("all", Target::All),
    ("all-nodes", Target::AllNodes),
    ("all-coordinators", Target::AllCoordinators),
    ("rest", Target::Rest),
    ("nobody", Target::Many(Vec::new())),
];

/// Names of zones: what stands in one word without meaning something else.
pub(crate) fn is_zone(zone: &str) -> bool {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    (1..=64).contains(&zone.len()) && zone.bytes().all(is_plain)
}

impl FromStr for Target {
    type Err = ParseError;
    fn from_str(text: &str) -> Result<Target, ParseError> {
        if text.contains('+') {
            return Ok(Target::Many(text.split('+').map(str::parse).collect::<Result<_, _>>()?));
        }
        if let Some((_, target)) = PLAIN.iter().find(|(name, _)| *name == text) {
            return Ok(target.clone());
        }
        let bad = || {
            let names: Vec<&str> = PLAIN.iter().map(|(name, _)| *name).collect();
            let why = format!(
                "known are node-2, coordinator-1, leader-of:users/3, follower-of:users/3, majority-of:users/3, random(2), zone:a, {}, and sums of them such as node-1+node-3",
                names.join(", ")
            );
            ParseError::new("target", text, why)
        };
        match text.split_once(':') {
            Some(("leader-of", group)) => return Ok(Target::LeaderOf(group.parse()?)),
            Some(("follower-of", group)) => return Ok(Target::FollowerOf(group.parse()?)),
            Some(("majority-of", group)) => return Ok(Target::MajorityOf(group.parse()?)),
            Some(("zone", zone)) if is_zone(zone) => return Ok(Target::Zone(zone.to_owned())),
            _ => {}
        }
        if let Some(count) = text.strip_prefix("random(").and_then(|rest| rest.strip_suffix(')')) {
            return count.parse().map(Target::Random).map_err(|_| bad());
        }
        text.parse().map(Target::Member).map_err(|_| bad())
    }
}

as_text!(Target);

#[cfg(test)]
mod tests {
    use super::*;

    fn actor(member: Member, zone: &str, is_up: bool, leads: &[Group]) -> Actor {
        let holds = [Group::Users(0)].into();
        Actor { member, zone: zone.to_owned(), is_up, leads: leads.iter().copied().collect(), holds }
    }

    fn scene() -> Scene {
        let actors = vec![
            actor(Member::node(1), "a", true, &[Group::Users(0)]),
            actor(Member::node(2), "a", true, &[Group::Items(0), Group::Items(1)]),
            actor(Member::node(3), "b", false, &[]),
            actor(Member::coordinator(1), "a", true, &[]),
            actor(Member::coordinator(2), "b", true, &[Group::Catalog]),
            actor(Member::coordinator(3), "b", true, &[]),
        ];
        Scene { actors, moving: Some((Some(Member::node(1)), None)), driver: Some(Member::node(2)) }
    }

    fn who(target: &str) -> Vec<String> {
        let target: Target = target.parse().unwrap();
        target.resolve(&scene(), 7).iter().map(Member::to_string).collect()
    }

    #[test]
    fn roles_are_resolved_when_it_happens() {
        let wanted: [(&str, &[&str]); 19] = [
            ("node-2", &["node-2"]),
            ("node-9", &[]),
            ("leader-of-most-shards", &["node-2"]),
            ("follower", &["node-1"]),
            ("leader-of:users/0", &["node-1"]),
            ("leader-of:users/1", &[]),
            ("follower-of:users/0", &["node-2"]),
            ("coordinator-leader", &["coordinator-2"]),
            ("coordinator-follower", &["coordinator-1"]),
            ("coordinator-majority", &["coordinator-1", "coordinator-2"]),
            ("majority-of:users/0", &["node-1", "node-2"]),
            ("move-source", &["node-1"]),
            ("move-target", &[]),
            ("training-driver", &["node-2"]),
            ("all-nodes", &["node-1", "node-2", "node-3"]),
            ("zone:b", &["node-3", "coordinator-2", "coordinator-3"]),
            ("node-3+coordinator-leader", &["node-3", "coordinator-2"]),
            ("nobody", &[]),
            ("random(5)", &["node-1", "node-2"]),
        ];
        for (target, members) in wanted {
            assert_eq!(who(target), members, "{target}");
        }
    }

    #[test]
    fn a_draw_is_the_same_for_a_seed_and_not_for_all() {
        let drawn = |seed| Target::Random(1).resolve(&scene(), seed);
        assert!((0..20).all(|seed| drawn(seed) == drawn(seed) && drawn(seed).len() == 1));
        assert!((0..20).any(|seed| drawn(seed) != drawn(0)));
    }
}
