//! Schedules from a seed, within what a world can do and a cluster may be expected to survive.

use super::{Schedule, Step};
use crate::fault::{Fault, Kind};
use crate::name::{Group, Member};
use crate::target::Target;
use rand_chacha::ChaCha8Rng;
use rand_core::{Rng, SeedableRng};
use serde::{Deserialize, Serialize};

/// From what schedules are drawn.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Space {
    /// Which faults; one that is there twice comes twice as often.
    pub kinds: Vec<Kind>,
    /// Steps of a schedule, at least.
    pub steps_min: u32,
    /// Steps of a schedule, at most.
    pub steps_max: u32,
    /// Faults that last at the same time, at most.
    pub at_once: u32,
    /// How long a fault lasts, at least.
    pub fault_ms_min: u64,
    /// How long a fault lasts, at most.
    pub fault_ms_max: u64,
    /// The time in which everything begins and ends.
    pub length_ms: u64,
    /// Nodes of the cluster.
    pub nodes: u32,
    /// Coordinators of the cluster.
    pub coordinators: u32,
    /// More nodes, or coordinators, than a minority may be down at a time.
    pub may_lose_majority: bool,
    /// User shards, for faults that name one.
    pub user_shards: u16,
    /// Item shards.
    pub item_shards: u16,
}

impl Default for Space {
    fn default() -> Space {
        Space {
            kinds: vec![Kind::Kill, Kind::Pause, Kind::Partition, Kind::OneWay, Kind::Restart],
            steps_min: 1,
            steps_max: 6,
            at_once: 2,
            fault_ms_min: 500,
            fault_ms_max: 5_000,
            length_ms: 20_000,
            nodes: 3,
            coordinators: 3,
            may_lose_majority: false,
            user_shards: 8,
            item_shards: 4,
        }
    }
}

/// Why no schedule can be drawn.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("space.{field} {why}")]
pub struct SpaceError {
    /// The key.
    pub field: &'static str,
    /// What is wrong with it.
    pub why: String,
}

impl Space {
    /// Whether it makes sense.
    ///
    /// # Errors
    /// The first field that does not, with what it should be.
    pub fn check(&self) -> Result<(), SpaceError> {
        let rules = [
            (self.kinds.is_empty(), "kinds", "is empty: name at least one fault"),
            (self.steps_min > self.steps_max, "steps_min", "is above steps_max"),
            (self.steps_max > 1_000, "steps_max", "is above 1000"),
            (self.at_once == 0, "at_once", "is 0: no fault could last"),
            (self.fault_ms_min == 0, "fault_ms_min", "is 0"),
            (self.fault_ms_min > self.fault_ms_max, "fault_ms_min", "is above fault_ms_max"),
            (self.fault_ms_max > self.length_ms, "fault_ms_max", "is above length_ms"),
            (self.nodes == 0, "nodes", "is 0"),
            (self.user_shards == 0, "user_shards", "is 0"),
            (self.item_shards == 0, "item_shards", "is 0"),
        ];
        match rules.into_iter().find(|(is_broken, ..)| *is_broken) {
            Some((_, field, why)) => Err(SpaceError { field, why: why.to_owned() }),
            None => Ok(()),
        }
    }

    /// The schedule of a seed: always the same.
    ///
    /// Fewer steps than drawn are taken where no more fit in beside each other.
    ///
    /// # Errors
    /// As [`Space::check`].
    pub fn generate(&self, seed: u64) -> Result<Schedule, SpaceError> {
        self.check()?;
        let mut dice = Dice(ChaCha8Rng::seed_from_u64(seed));
        let wanted = dice.between(u64::from(self.steps_min), u64::from(self.steps_max)) as usize;
        let mut schedule = Schedule { seed, steps: Vec::new() };
        // A draw that does not fit is thrown away; so many tries find a place where there is one.
        for _ in 0..wanted * 20 {
            if schedule.steps.len() == wanted {
                break;
            }
            let mut larger = schedule.clone();
            larger.steps.push(self.step(&mut dice));
            if self.allows(&larger) {
                schedule = larger;
            }
        }
        Ok(Schedule::new(seed, schedule.steps))
    }

    /// Whether a schedule keeps to the limits of this space: as many faults at once, a majority of nodes and of coordinators up.
    pub fn allows(&self, schedule: &Schedule) -> bool {
        let end = |step: &Step| step.until_ms().unwrap_or(u64::MAX);
        schedule.steps.iter().all(|step| {
            // Overlaps begin where some step begins, so it is enough to look there.
            let lasting = || schedule.steps.iter().filter(|other| other.at_ms <= step.at_ms && step.at_ms < end(other));
            let is_down = |other: &&Step| other.fault.kind().takes_down();
            let (nodes, coordinators) = lasting().filter(is_down).fold((0, 0), |(nodes, coordinators), other| {
                let (more_nodes, more_coordinators) = self.hits(&other.fault);
                (nodes + more_nodes, coordinators + more_coordinators)
            });
            let keeps_majority =
                nodes <= (self.nodes.max(1) - 1) / 2 && coordinators <= (self.coordinators.max(1) - 1) / 2;
            lasting().count() <= self.at_once as usize && (self.may_lose_majority || keeps_majority)
        })
    }

    /// How many nodes and coordinators a fault takes down, at most.
    fn hits(&self, fault: &Fault) -> (u32, u32) {
        fault.target().map_or((0, 0), |target| self.counted(target))
    }

    fn counted(&self, target: &Target) -> (u32, u32) {
        match target {
            Target::Member(member) if member.role == crate::name::Role::Node => (1, 0),
            Target::Member(_) | Target::CoordinatorLeader | Target::CoordinatorFollower => (0, 1),
            Target::LeaderOf(Group::Catalog) | Target::FollowerOf(Group::Catalog) => (0, 1),
            Target::CoordinatorMajority | Target::MajorityOf(Group::Catalog) => (0, self.coordinators / 2 + 1),
            Target::MajorityOf(_) => (self.nodes / 2 + 1, 0),
            Target::Random(count) => (*count, 0),
            Target::AllNodes => (self.nodes, 0),
            Target::AllCoordinators => (0, self.coordinators),
            // A zone may be anything; a scenario that means one says that it may lose the majority.
            Target::All | Target::Rest | Target::Zone(_) => (self.nodes, self.coordinators),
            Target::Many(targets) => {
                targets.iter().map(|target| self.counted(target)).fold((0, 0), |a, b| (a.0 + b.0, a.1 + b.1))
            }
            _ => (1, 0),
        }
    }

    fn step(&self, dice: &mut Dice) -> Step {
        let fault = self.fault(dice);
        let length = dice.between(self.fault_ms_min, self.fault_ms_max);
        let at_ms = dice.between(0, self.length_ms - length);
        Step { at_ms, for_ms: Some(length), when: None, fault }
    }

    fn fault(&self, dice: &mut Dice) -> Fault {
        let on = self.victim(dice);
        match dice.pick(&self.kinds).copied().unwrap_or(Kind::Kill) {
            Kind::Kill => Fault::Kill(on),
            Kind::Pause => Fault::Pause(on),
            Kind::Continue => Fault::Continue(on),
            Kind::Restart => Fault::Restart(on),
            Kind::Wipe => Fault::Wipe(on),
            Kind::PowerLoss => Fault::PowerLoss(on),
            Kind::Partition => Fault::Partition { side: on, from: Target::Rest },
            Kind::OneWay if dice.between(0, 1) == 0 => Fault::OneWay { from: on, to: Target::Rest },
            Kind::OneWay => Fault::OneWay { from: Target::Rest, to: on },
            Kind::Bridge => self.bridge(dice),
            Kind::Loss => Fault::Loss { on, percent: dice.between(1, 40) as u8 },
            Kind::Delay => Fault::Delay { on, ms: dice.between(1, 300) as u32 },
            Kind::Jitter => Fault::Jitter { on, ms: dice.between(1, 200) as u32 },
            Kind::Reorder => Fault::Reorder { on, percent: dice.between(1, 50) as u8 },
            Kind::Duplicate => Fault::Duplicate { on, percent: dice.between(1, 50) as u8 },
            Kind::Reset => Fault::Reset(on),
            Kind::Bandwidth => Fault::Bandwidth { on, kbit: dice.between(100, 10_000) as u32 },
            Kind::DiskFull => Fault::DiskFull(on),
            Kind::DiskReadOnly => Fault::DiskReadOnly(on),
            Kind::SyncError => Fault::SyncError(on),
            Kind::SlowSync => Fault::SlowSync { on, ms: dice.between(5, 500) as u32 },
            Kind::TornWrite => Fault::TornWrite(on),
            Kind::LostWrites => Fault::LostWrites(on),
            Kind::BitRot => Fault::BitRot { on, bits: dice.between(1, 4) as u32 },
            Kind::ClockJump => Fault::ClockJump { on, ms: dice.between(0, 7_200_000) as i64 - 3_600_000 },
            Kind::ClockDrift => Fault::ClockDrift { on, ppm: dice.between(0, 100_000) as i32 - 50_000 },
            Kind::Cpu => Fault::Cpu { on, percent: dice.between(5, 50) as u8 },
            Kind::Memory => Fault::Memory { on, mib: dice.between(128, 512) as u32 },
            Kind::Join => Fault::Join { zone: None },
            Kind::Drain => Fault::Drain(self.node(dice)),
            Kind::Resume => Fault::Resume(self.node(dice)),
            Kind::Remove => Fault::Remove(self.node(dice)),
            Kind::Replace => Fault::Replace(self.node(dice)),
            Kind::LoseForGood => Fault::LoseForGood(self.node(dice)),
            Kind::MoveShard => Fault::MoveShard { shard: self.shard(dice), from: self.node(dice), to: self.node(dice) },
            Kind::TransferLeader => Fault::TransferLeader { group: self.shard(dice), to: self.node(dice) },
            Kind::Train => Fault::Train,
            Kind::Activate => Fault::Activate { version: None },
            Kind::RollBack => Fault::RollBack,
            Kind::RestartWith => Fault::RestartWith { on, version: "previous".to_owned() },
            Kind::Heal => Fault::Heal { on, layer: crate::fault::Layer::Everything },
        }
    }

    /// Two nodes with all others between them.
    fn bridge(&self, dice: &mut Dice) -> Fault {
        let first = dice.between(1, u64::from(self.nodes)) as u32;
        let second = first % self.nodes + 1;
        Fault::Bridge { side: Member::node(first).into(), from: Member::node(second).into(), through: Target::Rest }
    }

    fn node(&self, dice: &mut Dice) -> Target {
        Member::node(dice.between(1, u64::from(self.nodes)) as u32).into()
    }

    fn shard(&self, dice: &mut Dice) -> Group {
        let place = dice.between(0, u64::from(self.user_shards) + u64::from(self.item_shards) - 1) as u16;
        if place < self.user_shards { Group::Users(place) } else { Group::Items(place - self.user_shards) }
    }

    /// Mostly a node by name, often a leader, sometimes a coordinator.
    fn victim(&self, dice: &mut Dice) -> Target {
        match dice.between(0, 9) {
            0 | 1 => Target::MostLeaders,
            2 => Target::LeaderOf(self.shard(dice)),
            3 if self.coordinators > 0 => Target::CoordinatorLeader,
            4 if self.coordinators > 0 => {
                Member::coordinator(dice.between(1, u64::from(self.coordinators)) as u32).into()
            }
            5 => Target::Random(1),
            _ => self.node(dice),
        }
    }
}

/// Draws.
struct Dice(ChaCha8Rng);

impl Dice {
    /// From `min` to `max`, both included. The bias of the remainder is far below what matters here.
    fn between(&mut self, min: u64, max: u64) -> u64 {
        min + self.0.next_u64() % (max - min + 1)
    }

    fn pick<'a, T>(&mut self, from: &'a [T]) -> Option<&'a T> {
        if from.is_empty() { None } else { from.get(self.between(0, from.len() as u64 - 1) as usize) }
    }
}
