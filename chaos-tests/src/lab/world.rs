//! The lab as a [`World`]: every fault that this machine allows, done to real processes; what it does not allow is skipped, with its
//! reason, never silently.
//!
//! Faults of the network are between members. Clients stay in reach of everybody: what a member that is cut off tells them is part of
//! what is judged. Members end with the thread that starts them, so a world stays on the thread on which it was started.
//!
//! | module | owns |
//! |---|---|
//! | [`scene`] | who is who now |
//! | [`process`], [`wires`], [`storage`], [`means`] | faults of processes, network, disks, and of clocks and resources |
//! | [`operator`] | what an operator does, by the `docent` tool |
//! | [`watch`] | logs and counts, for the history |

/// Whom a fault hits, or the end of it.
macro_rules! whom {
    ($hit:expr) => {
        match $hit {
            Ok(on) => on,
            Err(nobody) => return Ok(nobody),
        }
    };
}

mod means;
mod operator;
mod process;
mod scene;
mod storage;
mod watch;
mod wires;

use crate::lab::{self, Abilities, Lab, Options};
use anyhow::{Context, Result};
use docent_trial::scenario::Needs;
use docent_trial::{Applied, Fault, Kind, Layer, Member, Role, Scene, Target, Trigger, World, WorldKind};
use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use watch::Watch;

/// A lab to which faults can be done.
#[derive(Debug)]
pub struct LabWorld {
    lab: Lab,
    abilities: Abilities,
    /// Stopped where they stand.
    paused: BTreeSet<Member>,
    /// Those whose next end without order takes what they had not synced.
    forgetful: BTreeSet<Member>,
    /// Those whose next end without order leaves a write half done.
    tearing: BTreeSet<Member>,
    watch: Watch,
}

/// Whom a fault hits, or why it hits nobody.
type Hit = std::result::Result<BTreeSet<Member>, Applied>;

impl LabWorld {
    /// Starts a cluster on the best ground that the machine has, and waits until every shard has a leader.
    pub fn start(options: &Options) -> Result<LabWorld> {
        let abilities = Abilities::here().clone();
        let lab = Lab::start(&Options { ground: abilities.ground(), ..options.clone() })?;
        let (paused, forgetful, tearing) = Default::default();
        Ok(LabWorld { lab, abilities, paused, forgetful, tearing, watch: Watch::default() })
    }

    /// Starts what a scenario needs.
    pub fn for_needs(needs: &Needs) -> Result<LabWorld> {
        LabWorld::start(&Options {
            nodes: needs.nodes as usize,
            coordinators: needs.coordinators as usize,
            replication: needs.replication as usize,
            user_shards: needs.user_shards.into(),
            item_shards: needs.item_shards.into(),
            zones: needs.zones.clone(),
            ..Options::default()
        })
    }

    /// The cluster itself.
    pub fn lab(&self) -> &Lab {
        &self.lab
    }

    /// The cluster itself, for what is no fault.
    pub fn lab_mut(&mut self) -> &mut Lab {
        &mut self.lab
    }

    /// What this machine allows.
    pub fn abilities(&self) -> &Abilities {
        &self.abilities
    }

    /// Every member that ever was.
    pub fn members(&self) -> Vec<Member> {
        let coordinators = (1..=self.lab.coordinators.len()).map(|number| Member::coordinator(number as u32));
        coordinators.chain((1..=self.lab.nodes.len()).map(|number| Member::node(number as u32))).collect()
    }

    fn member(&self, name: Member) -> Result<&lab::Member> {
        let all = if name.role == Role::Node { &self.lab.nodes } else { &self.lab.coordinators };
        all.get(name.number as usize - 1).with_context(|| format!("the lab has no {name}"))
    }

    fn member_mut(&mut self, name: Member) -> Result<&mut lab::Member> {
        let all = if name.role == Role::Node { &mut self.lab.nodes } else { &mut self.lab.coordinators };
        all.get_mut(name.number as usize - 1).with_context(|| format!("the lab has no {name}"))
    }

    /// Its process runs: neither dead nor paused.
    fn is_up(&self, name: Member) -> bool {
        self.member(name).is_ok_and(|member| member.pid().is_some()) && !self.paused.contains(&name)
    }

    fn address(&self, name: Member) -> Result<Ipv4Addr> {
        let home = self.member(name)?.site.home.as_ref();
        Ok(home.with_context(|| format!("{name} has no network of its own"))?.address)
    }

    fn done(&mut self, fault: &Fault, seed: u64) -> Result<Applied> {
        let scene = match fault_targets(fault).iter().all(|target| target.is_fixed() || **target == Target::Rest) {
            true => self.actors(),
            false => self.scene(),
        };
        let hit = |target: &Target| match target.resolve(&scene, seed) {
            nobody if nobody.is_empty() => Err(Applied::skipped(format!("nobody is {target} now"))),
            somebody => Ok(somebody),
        };
        match fault.kind().layer() {
            Layer::Process => self.apply_process(fault, hit),
            Layer::Network => self.apply_network(fault, hit),
            Layer::Disk => self.apply_disk(fault, seed, hit),
            Layer::Clock | Layer::Resource => self.apply_means(fault, hit),
            Layer::Operator => self.apply_operator(fault, &scene, hit),
            Layer::Everything => self.apply_heal(fault, hit),
        }
    }

    fn apply_heal(&mut self, fault: &Fault, hit: impl Fn(&Target) -> Hit) -> Result<Applied> {
        let Fault::Heal { on, layer } = fault else { anyhow::bail!("{fault} heals nothing") };
        let on = match hit(on) {
            Ok(on) => on,
            Err(nobody) => return Ok(nobody),
        };
        let is_meant = |one: Layer| *layer == one || *layer == Layer::Everything;
        if is_meant(Layer::Network) {
            self.heal_network(&on)?;
        }
        if is_meant(Layer::Disk) {
            self.heal_disks(&on)?;
        }
        if is_meant(Layer::Clock) || is_meant(Layer::Resource) {
            self.heal_means(&on, is_meant(Layer::Clock), is_meant(Layer::Resource))?;
        }
        if is_meant(Layer::Process) {
            self.heal_processes(&on)?;
        }
        if is_meant(Layer::Operator) {
            self.take_back(&on)?;
        }
        Ok(Applied::installed(format!("healed {layer} of {}", list(&on)), on))
    }
}

/// `node-1, node-2`.
fn list(members: &BTreeSet<Member>) -> String {
    members.iter().map(Member::to_string).collect::<Vec<_>>().join(", ")
}

/// Everybody whom a fault names.
fn fault_targets(fault: &Fault) -> Vec<&Target> {
    let mut all: Vec<&Target> = fault.target().into_iter().collect();
    match fault {
        Fault::Partition { from, .. } => all.push(from),
        Fault::OneWay { to, .. } | Fault::MoveShard { to, .. } => all.push(to),
        Fault::Bridge { from, through, .. } => all.extend([from, through]),
        _ => {}
    }
    all
}

impl World for LabWorld {
    fn kind(&self) -> WorldKind {
        WorldKind::Lab
    }

    fn can(&self, kind: Kind) -> std::result::Result<(), String> {
        let Abilities { network, lag, disks, shim, cages } = &self.abilities;
        match kind {
            Kind::Partition | Kind::OneWay | Kind::Bridge | Kind::Loss | Kind::Reset | Kind::Bandwidth => {
                network.clone()
            }
            Kind::Delay | Kind::Jitter | Kind::Reorder | Kind::Duplicate => lag.clone(),
            Kind::PowerLoss | Kind::LostWrites | Kind::TornWrite | Kind::DiskFull | Kind::DiskReadOnly => disks.clone(),
            Kind::SyncError | Kind::SlowSync | Kind::ClockJump | Kind::ClockDrift => shim.clone(),
            Kind::Cpu | Kind::Memory => cages.clone(),
            Kind::TransferLeader => {
                Err("docent has no command that hands a shard to a leader of one's choice".to_owned())
            }
            _ => Ok(()),
        }
    }

    fn scene(&mut self) -> Scene {
        self.look()
    }

    fn holds(&mut self, trigger: &Trigger) -> std::result::Result<bool, String> {
        self.is_case(trigger)
    }

    fn apply(&mut self, fault: &Fault, seed: u64) -> Applied {
        if let Err(why) = self.can(fault.kind()) {
            return Applied::skipped(why);
        }
        self.done(fault, seed).unwrap_or_else(|error| Applied::indeterminate(format!("{fault}: {error:#}")))
    }
}
