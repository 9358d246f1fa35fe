//! What an operator does, by the `docent` tool against the nodes that are up.

use super::{Hit, LabWorld, list};
use crate::client::Client;
use crate::lab::docent;
use anyhow::{Context, Result, bail, ensure};
use docent_trial::history::Observed;
use docent_trial::{Applied, Fault, Group, Member, Role, Scene, Target};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

/// What one call of the tool may take, in seconds.
const CALL_S: &str = "10";
/// Until the coordinators count a killed node as dead: their `node_timeout_ms`, and room.
const DEATH: Duration = Duration::from_secs(15);

/// Longer no newcomer is waited for: what is done to the cluster may keep it out.
const NEWCOMER: Duration = Duration::from_secs(6);

/// A small model, over epochs enough to be met in the middle of.
const TRAIN: [&str; 5] = ["train", "--dim", "32", "--epochs", "120"];

impl LabWorld {
    pub(super) fn apply_operator(
        &mut self,
        fault: &Fault,
        scene: &Scene,
        hit: impl Fn(&Target) -> Hit,
    ) -> Result<Applied> {
        match fault {
            Fault::Join { zone } => {
                let (name, is_ready) = self.join(zone.as_deref())?;
                let told = if is_ready { "joined" } else { "starts, to join" };
                Ok(Applied::installed(format!("{name} {told}"), [name]))
            }
            Fault::Drain(on) => self.each_node("drain", whom!(hit(on))),
            Fault::Resume(on) => self.each_node("resume", whom!(hit(on))),
            Fault::Remove(on) => self.remove(whom!(hit(on))),
            Fault::Replace(on) => self.replace(whom!(hit(on))),
            Fault::LoseForGood(on) => self.lose_for_good(whom!(hit(on))),
            Fault::MoveShard { shard, from, to } => self.move_shard(*shard, scene, &whom!(hit(from)), &whom!(hit(to))),
            Fault::Train => self.call(&TRAIN, BTreeSet::new()),
            Fault::RollBack => self.call(&["models", "rollback"], BTreeSet::new()),
            Fault::Activate { version } => self.activate(*version),
            Fault::RestartWith { on, version } => self.restart_with(whom!(hit(on)), version),
            other => bail!("{other} is nothing that an operator does"),
        }
    }

    /// Of several sources the newest replica goes, so that the same order twice moves it there and back; of several targets the first that
    /// has none gets it.
    fn move_shard(
        &mut self,
        shard: Group,
        scene: &Scene,
        from: &BTreeSet<Member>,
        to: &BTreeSet<Member>,
    ) -> Result<Applied> {
        let state = self.cluster().context("no node tells the state of the cluster")?;
        let ids = self.ids(&state);
        let shards = state["shards"].as_array().map(Vec::as_slice).unwrap_or_default();
        let replicas =
            shards.iter().find(|one| one["id"] == shard.to_string().as_str()).map(|one| one["replicas"].clone());
        let replicas = replicas.as_ref().and_then(|all| all.as_array()).map(Vec::as_slice).unwrap_or_default();
        let replica = |name: &Member| {
            let own = replicas.iter().find(|replica| ids.get(name).is_some_and(|id| replica["node"] == *id));
            own.and_then(|own| own["id"].as_u64())
        };
        let is_up = |name: &&Member| scene.actors.iter().any(|actor| actor.member == **name && actor.is_up);
        let source = from.iter().filter(|name| replica(name).is_some()).max_by_key(|name| replica(name));
        let target = to.iter().filter(is_up).find(|name| replica(name).is_none());
        let (Some(source), Some(target)) = (source, target) else {
            return Ok(Applied::skipped(format!(
                "nobody of {} has {shard}, or everybody of {} does",
                list(from),
                list(to)
            )));
        };
        let [old, new] = [source, target].map(|name| ids.get(name).map(u64::to_string).unwrap_or_default());
        let called = ["shards", "move", &shard.to_string(), "--from", &old, "--to", &new];
        self.call(&called, [*source, *target].into())
    }

    /// The cluster's id of a node.
    fn id(&self, name: Member) -> Result<u64> {
        let state = self.cluster().context("no node tells the state of the cluster")?;
        self.ids(&state).get(&name).copied().with_context(|| format!("{name} is no member of the cluster"))
    }

    fn run_tool(&self, arguments: &[&str]) -> Result<Output> {
        let up = self.members().into_iter().filter(|name| name.role == Role::Node && self.is_up(*name));
        let nodes: Vec<&str> = up.filter_map(|name| Some(self.member(name).ok()?.query_addr.as_str())).collect();
        let mut command = Command::new(docent()?);
        Ok(command.args(["--timeout", CALL_S]).args(arguments).env("DOCENT_NODES", nodes.join(",")).output()?)
    }

    /// Runs the tool: done, refused, or nobody knows.
    fn call(&self, arguments: &[&str], on: BTreeSet<Member>) -> Result<Applied> {
        let output = self.run_tool(arguments)?;
        let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        let told = format!("docent {}", arguments.join(" "));
        let is_unknown =
            ["unknown", "deadline", "timed out", "time-out", "reset", "closed"].iter().any(|word| said.contains(word));
        Ok(match output.status.success() {
            true => Applied::installed(told, on),
            false if is_unknown => Applied::indeterminate(format!("{told}: {said}")),
            false => Applied::skipped(format!("{told} was refused: {said}")),
        })
    }

    fn each_node(&mut self, verb: &str, on: BTreeSet<Member>) -> Result<Applied> {
        let mut applied = Applied::skipped("nobody was named");
        for name in &on {
            let id = self.id(*name)?.to_string();
            applied = self.call(&["nodes", verb, &id], on.clone())?;
            if !applied.is_installed() {
                return Ok(applied);
            }
        }
        Ok(applied)
    }

    fn remove(&mut self, on: BTreeSet<Member>) -> Result<Applied> {
        let applied = self.each_node("remove", on.clone())?;
        if applied.is_installed() {
            for name in on {
                self.watch.removed(name);
                self.member_mut(name)?.kill()?;
            }
        }
        Ok(applied)
    }

    /// Dead, given up, removed, and another one in its place.
    fn replace(&mut self, on: BTreeSet<Member>) -> Result<Applied> {
        let mut came = BTreeSet::new();
        for name in on {
            let id = self.id(name)?;
            self.member_mut(name)?.kill()?;
            self.paused.remove(&name);
            self.wait_for_death(id)?;
            let applied = self.remove([name].into())?;
            if !applied.is_installed() {
                return Ok(applied);
            }
            let zone = self.actors().actors.iter().find(|actor| actor.member == name).map(|actor| actor.zone.clone());
            came.extend([name, self.join(zone.as_deref().filter(|zone| !zone.is_empty()))?.0]);
        }
        Ok(Applied::installed(format!("replaced: {}", list(&came)), came))
    }

    /// Dead with their disks, given up, their shards ordered to go on from what is left, and removed.
    fn lose_for_good(&mut self, on: BTreeSet<Member>) -> Result<Applied> {
        let ids = on.iter().map(|name| self.id(*name)).collect::<Result<Vec<_>>>()?;
        self.end(&on, false)?;
        for name in &on {
            self.watch.removed(*name);
            self.lab.wipe_node(name.number as usize - 1)?;
        }
        ids.into_iter().try_for_each(|id| self.wait_for_death(id))?;
        let recovered = self.recover_all()?;
        let applied = self.remove(on.clone())?;
        match applied.is_installed() {
            true => Ok(Applied::installed(format!("lost for good: {}; went on: {recovered}", list(&on)), on)),
            false => Ok(applied),
        }
    }

    /// Every shard without a majority goes on from the survivor whose log is the longest.
    fn recover_all(&mut self) -> Result<String> {
        let looked = self.run_tool(&["recover", "--output", "json"])?;
        let looked: Value = serde_json::from_slice(&looked.stdout).context("docent recover")?;
        let mut survivors: BTreeMap<&str, (u64, u64)> = BTreeMap::new();
        for replica in looked["lost"].as_array().map(Vec::as_slice).unwrap_or_default() {
            let (Some(shard), Some(node), Some(last)) =
                (replica["shard"].as_str(), replica["node"].as_u64(), replica["last"].as_u64())
            else {
                bail!("docent recover says {replica}");
            };
            if replica["error"] == "" {
                let best = survivors.entry(shard).or_insert((last, node));
                *best = (*best).max((last, node));
            }
        }
        let mut told = Vec::new();
        for (shard, (last, node)) in survivors {
            let [node, end] = [node, last].map(|number| number.to_string());
            let order = ["recover", "--shard", shard, "--from", &node, "--last", &end, "--accept-loss"];
            let applied = self.call(&order, BTreeSet::new())?;
            ensure!(applied.is_installed(), "{applied}");
            self.watch.tell(Observed::Recovered { shard: shard.parse()?, last });
            told.push(format!("{shard}@{last}"));
        }
        ensure!(!told.is_empty(), "no shard lost its majority");
        Ok(told.join(", "))
    }

    /// One more node, and whether it serves by now: clients are told of it when it does, or after a while.
    fn join(&mut self, zone: Option<&str>) -> Result<(Member, bool)> {
        self.lab.launch_node(zone)?;
        let name = Member::node(self.lab.nodes.len() as u32);
        let client = Client::with_timeout(&self.member(name)?.query_addr, Duration::from_secs(1));
        let start = Instant::now();
        while !client.is_ready() && start.elapsed() < NEWCOMER {
            std::thread::sleep(Duration::from_millis(50)); // between polls of another process
        }
        Ok((name, client.is_ready()))
    }

    fn wait_for_death(&self, id: u64) -> Result<()> {
        let start = Instant::now();
        let is_dead = || {
            let state = self.cluster()?;
            Some(state["nodes"].as_array()?.iter().any(|node| node["id"] == id && node["is_alive"] == false))
        };
        while is_dead() != Some(true) {
            ensure!(start.elapsed() < DEATH, "the coordinators do not count node {id} as dead after {DEATH:?}");
            std::thread::sleep(Duration::from_millis(100)); // between polls of another process
        }
        Ok(())
    }

    fn activate(&self, version: Option<u64>) -> Result<Applied> {
        let listed = self.run_tool(&["models", "list", "--output", "json"])?;
        let listed: Value = serde_json::from_slice(&listed.stdout).context("docent models list")?;
        let models = listed["models"].as_array().map(Vec::as_slice).unwrap_or_default();
        let can_go_live = |model: &&Value| model["state"] == "staged" || model["state"] == "retired";
        let newest = models.iter().filter(can_go_live).filter_map(|model| model["version"].as_u64()).max();
        match version.or(newest) {
            Some(version) => self.call(&["models", "activate", &version.to_string()], BTreeSet::new()),
            None => Ok(Applied::skipped("no version waits to go live")),
        }
    }

    fn restart_with(&mut self, on: BTreeSet<Member>, version: &str) -> Result<Applied> {
        let binary = match version {
            "current" => self.lab.binary.clone(),
            "previous" => match std::env::var_os("DOCENT_PREVIOUS") {
                Some(path) => PathBuf::from(path),
                None => return Ok(Applied::skipped("DOCENT_PREVIOUS names no docent of another version")),
            },
            path => PathBuf::from(path),
        };
        if !binary.is_file() {
            return Ok(Applied::skipped(format!("there is no {}", binary.display())));
        }
        for name in &on {
            self.member_mut(*name)?.binary = binary.clone();
            self.restart(*name)?;
        }
        Ok(Applied::installed(format!("restarted {} with {}", list(&on), binary.display()), on))
    }

    /// Draining nodes are wanted again.
    pub(super) fn take_back(&mut self, on: &BTreeSet<Member>) -> Result<()> {
        let Some(state) = self.cluster() else { return Ok(()) };
        let ids = self.ids(&state);
        for node in state["nodes"].as_array().map(Vec::as_slice).unwrap_or_default() {
            let is_meant = ids.iter().any(|(name, id)| on.contains(name) && node["id"] == *id);
            if is_meant && node["state"] == "draining" {
                self.call(&["nodes", "resume", &node["id"].to_string()], BTreeSet::new())?;
            }
        }
        Ok(())
    }
}
