//! Who is who now, and what is under way: from the nodes' own gauges, the cluster's state, and the coordinators' logs.

use super::LabWorld;
use crate::client::Client;
use crate::leaders::{self, Replicas};
use docent_trial::schedule::MovePhase;
use docent_trial::target::Actor;
use docent_trial::{Group, Member, Role, Scene, Trigger};
use serde_json::Value;
use std::collections::BTreeMap;
use std::time::Duration;

/// A member that takes longer plays no role now.
const PATIENCE: Duration = Duration::from_millis(1_500);

impl LabWorld {
    /// The members alone, without their roles.
    pub(super) fn actors(&self) -> Scene {
        let actor = |member: Member| Actor { zone: self.zone(member), ..Actor::idle(member, self.is_up(member)) };
        Scene { actors: self.members().into_iter().map(actor).collect(), moving: None, driver: None }
    }

    fn zone(&self, name: Member) -> String {
        let zones = &self.lab.options.zones;
        match name.role {
            Role::Node if !zones.is_empty() => zones[(name.number as usize - 1) % zones.len()].clone(),
            _ => String::new(),
        }
    }

    /// Everything.
    pub(super) fn look(&mut self) -> Scene {
        self.watch.read(&self.lab);
        let mut scene = self.actors();
        let gauges = self.gauges();
        let leading = self.watch.leading_coordinator();
        for actor in &mut scene.actors {
            if actor.member.role == Role::Coordinator {
                actor.holds.insert(Group::Catalog);
                if actor.is_up && Some(actor.member) == leading {
                    actor.leads.insert(Group::Catalog);
                }
            } else if let Some(replicas) = gauges.get(&actor.member) {
                actor.holds = replicas.keys().filter_map(|group| group_of(*group)).collect();
                actor.leads = leaders::led(replicas).into_iter().filter_map(group_of).collect();
            }
        }
        // A leader that was cut off believes in itself for a while: the higher term is right.
        keep_newest(&mut scene, &gauges);
        if let Some(state) = self.cluster() {
            let ids = self.ids(&state);
            let name = |id: &Value| ids.iter().find(|(_, known)| id.as_u64() == Some(**known)).map(|(name, _)| *name);
            let shards = state["shards"].as_array().map(Vec::as_slice).unwrap_or_default();
            let moving = shards.iter().map(|shard| &shard["move"]).find(|change| !change.is_null());
            // A replica that leaves is still on its way, though the catalog has done with its move.
            let moving = moving.map(|change| (name(&change["from"]), name(&change["to"])));
            scene.moving = self.watch.moving(moving);
            scene.driver = self.running_job().and_then(|job| name(&job["driver"]));
        }
        scene
    }

    /// What every node that is up says of its replicas.
    pub(super) fn gauges(&self) -> BTreeMap<Member, Replicas> {
        let nodes = self.members().into_iter().filter(|name| name.role == Role::Node && self.is_up(*name));
        let ask = |name: Member| {
            let client = Client::with_timeout(&self.member(name).ok()?.query_addr, PATIENCE);
            Some((name, leaders::replicas(&client).ok()?))
        };
        let asked = |names: Vec<Member>| {
            std::thread::scope(|scope| {
                let asking: Vec<_> = names.into_iter().map(|name| scope.spawn(move || ask(name))).collect();
                asking.into_iter().filter_map(|one| one.join().ok().flatten()).collect()
            })
        };
        asked(nodes.collect())
    }

    /// A page of the first node that gives it.
    fn page(&self, path: &str) -> Option<Value> {
        let nodes = self.members().into_iter().filter(|name| name.role == Role::Node && self.is_up(*name));
        let mut answers = nodes.filter_map(|name| {
            let client = Client::with_timeout(&self.member(name).ok()?.query_addr, PATIENCE);
            client.get(path).ok().filter(|(status, _)| *status == 200)
        });
        answers.next().map(|(_, body)| body)
    }

    /// The cluster as some node sees it.
    pub(super) fn cluster(&self) -> Option<Value> {
        self.page("/v1/cluster")
    }

    /// The cluster's ids of the nodes, by name; a wiped one's newest.
    pub(super) fn ids(&self, cluster: &Value) -> BTreeMap<Member, u64> {
        let nodes = cluster["nodes"].as_array().map(Vec::as_slice).unwrap_or_default();
        let id_of = |addr: &str| {
            nodes.iter().filter(|node| node["query_addr"] == addr).filter_map(|node| node["id"].as_u64()).max()
        };
        let named = self.lab.nodes.iter().enumerate();
        named.filter_map(|(place, node)| Some((Member::node(place as u32 + 1), id_of(&node.query_addr)?))).collect()
    }

    fn running_job(&self) -> Option<Value> {
        let jobs = self.page("/v1/jobs")?;
        jobs["jobs"].as_array()?.iter().find(|job| job["state"] == "running").cloned()
    }

    pub(super) fn is_case(&mut self, trigger: &Trigger) -> Result<bool, String> {
        let nobody = || "no node answers".to_owned();
        match trigger {
            Trigger::Training { percent } => Ok(self.running_job().is_some_and(|job| has_trained(&job, *percent))),
            Trigger::Staged => {
                let models = self.page("/v1/models").ok_or_else(nobody)?;
                let models = models["models"].as_array().map(Vec::as_slice).unwrap_or_default();
                Ok(models.iter().any(|model| model["state"] == "staged"))
            }
            Trigger::Move(phase) => self.is_moving(*phase).ok_or_else(nobody),
        }
    }

    /// Whether some move is in this phase. That a membership is joint nobody tells: the swap follows at once when the new replica has what
    /// its leader has, so that is taken for it.
    fn is_moving(&mut self, phase: MovePhase) -> Option<bool> {
        let state = self.cluster()?;
        let ids = self.ids(&state);
        let shards = state["shards"].as_array().map(Vec::as_slice).unwrap_or_default();
        let moving: Vec<&Value> =
            shards.iter().map(|shard| &shard["move"]).filter(|change| !change.is_null()).collect();
        let name = |id: &Value| ids.iter().find(|(_, known)| id.as_u64() == Some(**known)).map(|(name, _)| *name);
        if let Some(change) = moving.first() {
            self.watch.moving(Some((name(&change["from"]), name(&change["to"]))));
        }
        self.watch.read(&self.lab);
        let is_learning =
            |change: &&Value| self.watch.last_step(change["shard"].as_str().unwrap_or_default()) == Some("Add");
        Some(match phase {
            MovePhase::Begun => !moving.is_empty(),
            MovePhase::Learner => moving.iter().any(is_learning),
            MovePhase::Leaving => self.watch.has_swapped(),
            MovePhase::Joint => {
                let gauges = self.gauges();
                moving.iter().filter(|change| is_learning(change)).any(|change| {
                    let learner = name(&change["to"]).and_then(|to| gauges.get(&to));
                    learner.is_some_and(|learner| {
                        has_what_others_have(change["shard"].as_str().unwrap_or_default(), learner, &gauges)
                    })
                })
            }
        })
    }
}

/// Whether a replica has applied what every other one of its shard had.
fn has_what_others_have(shard: &str, own: &Replicas, all: &BTreeMap<Member, Replicas>) -> bool {
    let of = |replicas: &Replicas| {
        replicas.iter().find(|(group, _)| leaders::shard(**group) == shard).map(|(_, replica)| replica.applied)
    };
    of(own).is_some_and(|own| own > 0 && all.values().filter_map(of).all(|other| own >= other))
}

/// Whether a job has done so much of its epochs.
fn has_trained(job: &Value, percent: u8) -> bool {
    let count = |key: &str| job["progress"][key].as_f64().unwrap_or(0.0);
    count("epochs") > 0.0 && count("epoch") * 100.0 >= count("epochs") * f64::from(percent)
}

/// A raft group's name by its number in gauges.
pub(super) fn group_of(number: u64) -> Option<Group> {
    leaders::shard(number).parse().ok()
}

/// Of several that believe to lead a group, the one of the highest term stays.
fn keep_newest(scene: &mut Scene, gauges: &BTreeMap<Member, Replicas>) {
    let mut newest: BTreeMap<Group, (u64, Member)> = BTreeMap::new();
    for (member, replicas) in gauges {
        for (number, replica) in replicas.iter().filter(|(_, replica)| replica.is_leader) {
            if let Some(group) = group_of(*number) {
                let best = newest.entry(group).or_insert((replica.term, *member));
                *best = (*best).max((replica.term, *member));
            }
        }
    }
    for actor in scene.actors.iter_mut().filter(|actor| actor.member.role == Role::Node) {
        actor.leads.retain(|group| newest.get(group).is_none_or(|(_, member)| *member == actor.member));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn groups_of_gauges_have_names() {
        assert_eq!(
            (group_of(65539), group_of(131072), group_of(7)),
            (Some(Group::Users(3)), Some(Group::Items(0)), None)
        );
    }

    #[test]
    fn a_job_that_has_not_begun_has_done_nothing() {
        assert!(!has_trained(&json!({ "state": "running" }), 0));
        let job = json!({ "progress": { "epoch": 9, "epochs": 10 } });
        assert!(has_trained(&job, 90) && !has_trained(&job, 91));
    }
}
