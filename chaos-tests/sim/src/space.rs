//! Which faults a seed draws from. Each seed has a theme, because a run in which everything happens at once shows little of any one thing.

use crate::chance::Chance;
use crate::run::CHAOS_MS;
use crate::shape::Shape;
use docent_trial::fault::{Fault, Kind};
use docent_trial::schedule::{Space, SpaceError};
use docent_trial::target::Target;
use docent_trial::{Schedule, schedule::Step};

/// What a seed is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Theme {
    /// Processes die and come back.
    Deaths,
    /// Machines lose power, and what was not synced with it.
    Power,
    /// Everything loses power at once, again and again.
    Blackout,
    /// The network is cut in two, in one direction, around a bridge.
    Cuts,
    /// The network is bad.
    Weather,
    /// Disks are slow, full, or fail.
    Disks,
    /// Replicas move.
    Moves,
    /// Anything.
    Mixture,
}

const THEMES: &[Theme] = &[
    Theme::Deaths,
    Theme::Power,
    Theme::Blackout,
    Theme::Cuts,
    Theme::Weather,
    Theme::Disks,
    Theme::Moves,
    Theme::Mixture,
];

/// The theme of a seed: they take turns, so that any few seeds in a row see most of them.
pub fn theme(seed: u64) -> Theme {
    THEMES[(seed % THEMES.len() as u64) as usize]
}

/// The schedule of a seed.
///
/// # Errors
/// Where the space makes no sense, which is a mistake here.
pub fn schedule(seed: u64, shape: &Shape) -> Result<Schedule, SpaceError> {
    let theme = theme(seed);
    if theme == Theme::Blackout {
        return Ok(blackout(seed));
    }
    let kinds = match theme {
        Theme::Deaths => vec![Kind::Kill, Kind::Kill, Kind::Restart, Kind::Pause],
        Theme::Power => vec![Kind::PowerLoss, Kind::PowerLoss, Kind::LostWrites, Kind::TornWrite, Kind::Kill],
        Theme::Blackout => Vec::new(),
        Theme::Cuts => vec![Kind::Partition, Kind::OneWay, Kind::Bridge, Kind::Pause, Kind::Reset],
        Theme::Weather => vec![Kind::Loss, Kind::Delay, Kind::Jitter, Kind::Reset, Kind::ClockJump, Kind::Kill],
        Theme::Disks => vec![Kind::SlowSync, Kind::DiskFull, Kind::SyncError, Kind::Kill],
        Theme::Moves => vec![Kind::MoveShard, Kind::MoveShard, Kind::Drain, Kind::Kill, Kind::Partition],
        Theme::Mixture => vec![
            Kind::Kill,
            Kind::Pause,
            Kind::Restart,
            Kind::PowerLoss,
            Kind::Partition,
            Kind::OneWay,
            Kind::Bridge,
            Kind::Loss,
            Kind::Delay,
            Kind::Reset,
            Kind::SlowSync,
            Kind::SyncError,
            Kind::ClockJump,
            Kind::MoveShard,
            Kind::Train,
            Kind::RollBack,
        ],
    };
    let space = Space {
        kinds,
        steps_min: 3,
        steps_max: 7,
        at_once: 2,
        fault_ms_min: 400,
        fault_ms_max: 4_000,
        length_ms: CHAOS_MS,
        nodes: shape.nodes,
        coordinators: shape.coordinators,
        may_lose_majority: seed.is_multiple_of(3),
        user_shards: shape.user_shards as u16,
        item_shards: shape.item_shards as u16,
    };
    space.generate(seed)
}

/// The power fails everywhere at the same moment, a few times.
fn blackout(seed: u64) -> Schedule {
    let mut chance = Chance::of(seed, "blackout");
    let rounds = 2 + chance.below(2);
    let share = CHAOS_MS / rounds;
    let steps = (0..rounds).map(|round| {
        let at = round * share + 500 + chance.below(share / 3);
        Step::during(at, 100 + chance.below(600), Fault::PowerLoss(Target::All))
    });
    Schedule::new(seed, steps.collect())
}
