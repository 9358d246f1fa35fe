//! A cluster that an engineer named, as a world: processes reached by commands or process ids, everything else by the query ports.
//!
//! | module | owns |
//! |---|---|
//! | [`file`] | the file that names it |
//! | [`process`] | ending, pausing and starting its processes |

pub mod file;
pub mod process;

use crate::client::Client;
use crate::lab;
use crate::logs::{self, Log};
use crate::run::stage::Stage;
use crate::run::view::{self, View};
use crate::workload::call;
use anyhow::{Context, Result, bail, ensure};
use docent_trial::history::{Call, Observed, Outcome, Sight};
use docent_trial::{
    Applied, Fault, Group, Kind, Layer, Member, Role, Scene, Target, Trigger, Workload, World, WorldKind,
};
use file::Cluster;
use process::Process;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::path::PathBuf;

/// A named cluster.
#[derive(Debug)]
pub struct Drill {
    processes: Vec<Process>,
    gateways: Vec<(Member, String)>,
    logs: Vec<(Member, Log)>,
    tool: PathBuf,
    election_timeout_max_ms: u64,
    coordinator_leader: Option<Member>,
    /// Nodes that are being drained by us.
    draining: BTreeSet<Member>,
    restarts: u64,
}

impl Drill {
    /// The cluster of a file, which must be the one that answers at its addresses, whole.
    ///
    /// # Errors
    /// Nobody answers, or it is another cluster, or has members that the file does not list.
    pub fn of(cluster: &Cluster) -> Result<Drill> {
        let tool = match &cluster.tool {
            Some(tool) => tool.clone(),
            None => lab::docent().unwrap_or_else(|_| PathBuf::from("docent")),
        };
        let logs =
            cluster.members.iter().filter_map(|member| Some((member.name, Log::at_end(member.log_file.clone()?))));
        let mut gateways: Vec<(Member, String)> =
            cluster.members.iter().filter_map(|member| Some((member.name, member.query.clone()?))).collect();
        gateways.sort();
        let drill = Drill {
            processes: cluster.members.iter().map(|member| Process::of(cluster, member)).collect(),
            gateways,
            logs: logs.collect(),
            tool,
            election_timeout_max_ms: cluster.election_timeout_max_ms,
            coordinator_leader: None,
            draining: BTreeSet::new(),
            restarts: 0,
        };
        drill.recognise(cluster)?;
        Ok(drill)
    }

    /// A drill reasons about a whole cluster: one that is partly named would be judged by a wrong picture.
    fn recognise(&self, cluster: &Cluster) -> Result<()> {
        let view = self.view()?;
        if let Some(wanted) = &cluster.cluster_id {
            let there = view.cluster_id.as_deref().unwrap_or("none");
            ensure!(there == wanted, "the cluster at these addresses is {there}; the file's `cluster_id` is {wanted}");
        }
        let unnamed =
            view.nodes.iter().find(|node| node.state != "removed" && view.member(node.id, &self.gateways).is_none());
        if let Some(node) = unnamed {
            bail!("the cluster has node {} at {}, which the file does not list", node.id, node.query_addr);
        }
        let stranger = self.gateways.iter().find(|(member, _)| view.id(*member, &self.gateways).is_none());
        match stranger {
            Some((member, addr)) => bail!("{member} at {addr} is no node of this cluster"),
            None => Ok(()),
        }
    }

    /// The cluster as its nodes tell it.
    ///
    /// # Errors
    /// No node answers.
    pub fn view(&self) -> Result<View> {
        view::look_through(self.up().map(|(_, addr)| addr.as_str()))
    }

    fn up(&self) -> impl Iterator<Item = &(Member, String)> {
        self.gateways.iter().filter(|(member, _)| self.is_up(*member))
    }

    fn is_up(&self, member: Member) -> bool {
        self.processes.iter().find(|process| process.member == member).is_none_or(Process::is_up)
    }

    fn on_each(
        &mut self,
        target: &Target,
        scene: &Scene,
        seed: u64,
        act: fn(&mut Process) -> Result<String>,
    ) -> Applied {
        let members = target.resolve(scene, seed);
        if members.is_empty() {
            return Applied::skipped(format!("nobody is {target} now"));
        }
        let (mut told, mut done) = (Vec::new(), BTreeSet::new());
        for process in self.processes.iter_mut().filter(|process| members.contains(&process.member)) {
            match act(process) {
                Ok(what) => {
                    told.push(what);
                    done.insert(process.member);
                }
                // A command that failed may have reached the process all the same.
                Err(error) => return Applied::indeterminate(format!("{}: {error:#}", process.member)),
            }
        }
        Applied::installed(told.join(", "), done)
    }

    fn restart(&mut self, target: &Target, scene: &Scene, seed: u64) -> Applied {
        let applied = self.on_each(target, scene, seed, Process::restart);
        if let Applied::Installed { on, .. } = &applied {
            self.restarts += on.len() as u64;
        }
        applied
    }

    /// An order to the cluster's placement; refused orders have changed nothing.
    fn order(&self, body: &Value) -> Result<Value> {
        let (_, addr) = self.up().next().context("no node is up")?;
        let (status, answer) = Client::new(addr).post("/v1/placement", body)?;
        ensure!(status == 200, "the cluster answered {status}: {}", answer["error"]["message"]);
        Ok(answer)
    }

    fn node_order(&mut self, action: &str, target: &Target, scene: &Scene, seed: u64) -> Applied {
        let nodes: Vec<Member> = target.resolve(scene, seed).into_iter().filter(|one| one.role == Role::Node).collect();
        if nodes.is_empty() {
            return Applied::skipped(format!("no node is {target} now"));
        }
        for node in &nodes {
            let id = self.view().ok().and_then(|view| view.id(*node, &self.gateways));
            let Some(id) = id else { return Applied::skipped(format!("{node} is no node of the cluster")) };
            if let Err(error) = self.order(&json!({ "action": action, "node": id })) {
                return Applied::indeterminate(format!("{action} {node}: {error:#}"));
            }
            match action {
                "drain" => drop(self.draining.insert(*node)),
                _ => drop(self.draining.remove(node)),
            }
        }
        let names: Vec<String> = nodes.iter().map(Member::to_string).collect();
        Applied::installed(format!("{action} of {} ordered", names.join(", ")), nodes)
    }

    fn move_shard(&self, shard: Group, from: &Target, to: &Target, scene: &Scene, seed: u64) -> Applied {
        let one = |target: &Target| target.resolve(scene, seed).into_iter().next();
        let (Some(from), Some(to)) = (one(from), one(to)) else {
            return Applied::skipped(format!("nobody is {from} or {to} now"));
        };
        let ids =
            self.view().ok().and_then(|view| Some((view.id(from, &self.gateways)?, view.id(to, &self.gateways)?)));
        let Some((from_id, to_id)) = ids else {
            return Applied::skipped(format!("{from} or {to} is no node of the cluster"));
        };
        match self.order(&json!({ "action": "move", "shard": shard.to_string(), "from": from_id, "to": to_id })) {
            Ok(_) => Applied::installed(format!("{shard} moves from {from} to {to}"), [from, to]),
            Err(error) => Applied::indeterminate(format!("{error:#}")),
        }
    }

    fn heal(&mut self, target: &Target, layer: Layer, scene: &Scene, seed: u64) -> Applied {
        let members = target.resolve(scene, seed);
        let (mut told, mut failed) = (Vec::new(), Vec::new());
        let is_all = layer == Layer::Everything;
        for process in self.processes.iter_mut().filter(|process| members.contains(&process.member)) {
            if is_all || layer == Layer::Process {
                match process.heal() {
                    Ok(Some(what)) => told.push(what),
                    Ok(None) => {}
                    Err(error) => failed.push(format!("{}: {error:#}", process.member)),
                }
            }
        }
        if is_all || layer == Layer::Operator {
            let draining: Target = self.draining.intersection(&members).copied().collect();
            if !matches!(&draining, Target::Many(none) if none.is_empty()) {
                let applied = self.node_order("resume", &draining, scene, seed);
                if applied.is_installed() { told.push(applied.to_string()) } else { failed.push(applied.to_string()) }
            }
        }
        match failed.is_empty() {
            true if told.is_empty() => Applied::installed("nothing was broken", members),
            true => Applied::installed(told.join(", "), members),
            false => Applied::indeterminate(failed.join("; ")),
        }
    }
}

impl World for Drill {
    fn kind(&self) -> WorldKind {
        WorldKind::Drill
    }

    fn can(&self, kind: Kind) -> Result<(), String> {
        let every = |what: &str, can: fn(&Process) -> bool| match self.processes.iter().find(|process| !can(process)) {
            Some(process) => Err(format!("the file has no way to {what} {}: give it a command", process.member)),
            None => Ok(()),
        };
        match kind {
            Kind::Kill => every("kill", Process::can_kill).and(every("start", Process::can_start)),
            Kind::Restart => every("stop", Process::can_stop).and(every("start", Process::can_start)),
            Kind::Pause | Kind::Continue => every("pause and resume", Process::can_pause),
            Kind::Drain | Kind::Resume | Kind::MoveShard | Kind::Heal => Ok(()),
            Kind::TransferLeader => Err("the cluster has no order for it; `drain` hands leaderships over".to_owned()),
            Kind::Train | Kind::Activate | Kind::RollBack => {
                Err("a drill does not change which model is live".to_owned())
            }
            _ => Err("a drill can kill, pause, restart, drain and move; the lab can do this".to_owned()),
        }
    }

    fn scene(&mut self) -> Scene {
        match self.view() {
            Ok(view) => view.scene(&self.gateways, |member| self.is_up(member), self.coordinator_leader),
            Err(_) => Scene::default(), // nobody tells: nobody plays a role
        }
    }

    fn holds(&mut self, trigger: &Trigger) -> Result<bool, String> {
        let addrs: Vec<String> = self.up().map(|(_, addr)| addr.clone()).collect();
        view::holds(trigger, &addrs)
    }

    fn apply(&mut self, fault: &Fault, seed: u64) -> Applied {
        if let Err(why) = self.can(fault.kind()) {
            return Applied::skipped(why);
        }
        let scene = self.scene();
        match fault {
            Fault::Kill(on) => self.on_each(on, &scene, seed, Process::kill),
            Fault::Pause(on) => self.on_each(on, &scene, seed, Process::pause),
            Fault::Continue(on) => self.on_each(on, &scene, seed, Process::resume),
            Fault::Restart(on) => self.restart(on, &scene, seed),
            Fault::Drain(on) => self.node_order("drain", on, &scene, seed),
            Fault::Resume(on) => self.node_order("resume", on, &scene, seed),
            Fault::MoveShard { shard, from, to } => self.move_shard(*shard, from, to, &scene, seed),
            Fault::Heal { on, layer } => {
                // Everybody of the file, also where nobody tells the roles any more.
                let everybody = self.processes.iter().map(|process| process.member).collect();
                let on = if *on == Target::All { &everybody } else { on };
                let scene = if scene.actors.is_empty() { self.bare_scene() } else { scene };
                self.heal(on, *layer, &scene, seed)
            }
            other => Applied::skipped(format!("a drill has no {}", other.kind())),
        }
    }
}

impl Drill {
    fn bare_scene(&self) -> Scene {
        let actor = |process: &Process| docent_trial::target::Actor::idle(process.member, process.is_up());
        Scene { actors: self.processes.iter().map(actor).collect(), ..Scene::default() }
    }
}

impl Stage for Drill {
    fn gateways(&self) -> Vec<(Member, String)> {
        self.gateways.clone()
    }

    fn observe(&mut self) -> Vec<Observed> {
        let mut seen = Vec::new();
        for (member, log) in &mut self.logs {
            for line in log.new_lines() {
                if logs::tells_leader_of_coordinators(&line) {
                    self.coordinator_leader = Some(*member);
                }
                seen.extend(logs::observed(*member, line));
            }
        }
        if self.restarts > 0 {
            seen.push(Observed::Seen { what: Sight::Restarts, count: std::mem::take(&mut self.restarts) });
        }
        seen
    }

    fn tool(&self) -> PathBuf {
        self.tool.clone()
    }

    fn election_timeout_max_ms(&self) -> u64 {
        self.election_timeout_max_ms
    }

    fn logs(&self) -> Vec<(Member, PathBuf)> {
        self.logs.iter().map(|(member, log)| (*member, log.path().to_owned())).collect()
    }
}

/// Erases the users and removes the items of a drill; what came of it, in words.
pub fn sweep(gateways: &[(Member, String)], workload: &Workload, prefix: &str) -> String {
    let users = (0..workload.users).map(|user| Call::EraseUser { user: format!("{prefix}u{user}") });
    let items = (0..workload.items).map(|item| Call::DeleteItem { item: format!("{prefix}i{item}") });
    let clients: Vec<Client> = gateways.iter().map(|(_, addr)| Client::new(addr)).collect();
    let is_gone = |call: &Call| clients.iter().any(|client| matches!(call::make(client, call), Outcome::Ok(_)));
    let left = users.chain(items).filter(|call| !is_gone(call)).count();
    match left {
        0 => format!("the users and items of the drill ({prefix}...) are removed from the cluster"),
        left => format!(
            "{left} users and items of the drill ({prefix}...) could not be removed: try again with the docent tool"
        ),
    }
}
