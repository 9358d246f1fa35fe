//! Every fault is written as a line and read back; everything else is refused by name.

use super::*;
use crate::schedule::{MovePhase, Schedule, Step, Trigger};
use proptest::prelude::*;

fn group() -> impl Strategy<Value = Group> {
    prop_oneof![any::<u16>().prop_map(Group::Users), any::<u16>().prop_map(Group::Items), Just(Group::Catalog)]
}

fn member() -> impl Strategy<Value = Member> {
    (any::<bool>(), 1..100u32)
        .prop_map(|(is_node, number)| if is_node { Member::node(number) } else { Member::coordinator(number) })
}

fn target() -> impl Strategy<Value = Target> {
    let one = prop_oneof![
        member().prop_map(Target::Member),
        group().prop_map(Target::LeaderOf),
        group().prop_map(Target::FollowerOf),
        group().prop_map(Target::MajorityOf),
        any::<u32>().prop_map(Target::Random),
        "[a-zA-Z0-9_-]{1,20}".prop_map(Target::Zone),
        Just(Target::MostLeaders),
        Just(Target::Follower),
        Just(Target::CoordinatorLeader),
        Just(Target::CoordinatorFollower),
        Just(Target::CoordinatorMajority),
        Just(Target::MoveSource),
        Just(Target::MoveTarget),
        Just(Target::TrainingDriver),
        Just(Target::All),
        Just(Target::AllNodes),
        Just(Target::AllCoordinators),
        Just(Target::Rest),
    ];
    let sum = prop::collection::vec(one.clone(), 2..4).prop_map(Target::Many);
    prop_oneof![4 => one, 1 => sum, 1 => Just(Target::Many(Vec::new()))]
}

/// A fault of each kind, from the same draws.
fn of_kind(kind: Kind, on: Target, other: Target, group: Group, number: u32, percent: u8) -> Fault {
    let signed = i64::from(number) - i64::from(u32::MAX / 2);
    match kind {
        Kind::Kill => Fault::Kill(on),
        Kind::Pause => Fault::Pause(on),
        Kind::Continue => Fault::Continue(on),
        Kind::Restart => Fault::Restart(on),
        Kind::Wipe => Fault::Wipe(on),
        Kind::PowerLoss => Fault::PowerLoss(on),
        Kind::Partition => Fault::Partition { side: on, from: other },
        Kind::OneWay => Fault::OneWay { from: on, to: other },
        Kind::Bridge => Fault::Bridge { side: on.clone(), from: other, through: on },
        Kind::Loss => Fault::Loss { on, percent },
        Kind::Delay => Fault::Delay { on, ms: number },
        Kind::Jitter => Fault::Jitter { on, ms: number },
        Kind::Reorder => Fault::Reorder { on, percent },
        Kind::Duplicate => Fault::Duplicate { on, percent },
        Kind::Reset => Fault::Reset(on),
        Kind::Bandwidth => Fault::Bandwidth { on, kbit: number },
        Kind::DiskFull => Fault::DiskFull(on),
        Kind::DiskReadOnly => Fault::DiskReadOnly(on),
        Kind::SyncError => Fault::SyncError(on),
        Kind::SlowSync => Fault::SlowSync { on, ms: number },
        Kind::TornWrite => Fault::TornWrite(on),
        Kind::LostWrites => Fault::LostWrites(on),
        Kind::BitRot => Fault::BitRot { on, bits: number },
        Kind::ClockJump => Fault::ClockJump { on, ms: signed },
        Kind::ClockDrift => Fault::ClockDrift { on, ppm: signed as i32 },
        Kind::Cpu => Fault::Cpu { on, percent },
        Kind::Memory => Fault::Memory { on, mib: number },
        Kind::Join => Fault::Join { zone: (percent > 50).then(|| "zone-1".to_owned()) },
        Kind::Drain => Fault::Drain(on),
        Kind::Resume => Fault::Resume(on),
        Kind::Remove => Fault::Remove(on),
        Kind::Replace => Fault::Replace(on),
        Kind::LoseForGood => Fault::LoseForGood(on),
        Kind::MoveShard => Fault::MoveShard { shard: group, from: on, to: other },
        Kind::TransferLeader => Fault::TransferLeader { group, to: on },
        Kind::Train => Fault::Train,
        Kind::Activate => Fault::Activate { version: (percent > 50).then_some(u64::from(number)) },
        Kind::RollBack => Fault::RollBack,
        Kind::RestartWith => Fault::RestartWith { on, version: "previous".to_owned() },
        Kind::Heal => Fault::Heal { on, layer: Layer::ALL[usize::from(percent) % Layer::ALL.len()] },
    }
}

fn fault() -> impl Strategy<Value = Fault> {
    (0..Kind::ALL.len(), target(), target(), group(), any::<u32>(), 0..=100u8).prop_map(
        |(kind, on, other, group, number, percent)| of_kind(Kind::ALL[kind], on, other, group, number, percent),
    )
}

fn step() -> impl Strategy<Value = Step> {
    let trigger = prop_oneof![
        (0..=100u8).prop_map(|percent| Trigger::Training { percent }),
        (0..MovePhase::ALL.len()).prop_map(|phase| Trigger::Move(MovePhase::ALL[phase])),
        Just(Trigger::Staged),
    ];
    (0..1u64 << 40, prop::option::of(0..1u64 << 40), prop::option::of(trigger), fault())
        .prop_map(|(at_ms, for_ms, when, fault)| Step { at_ms, for_ms, when, fault })
}

proptest! {
    #[test]
    fn a_fault_is_read_as_it_was_written(fault in fault()) {
        prop_assert_eq!(fault.to_string().parse::<Fault>(), Ok(fault.clone()));
        let json = serde_json::to_string(&fault).unwrap();
        prop_assert_eq!(serde_json::from_str::<Fault>(&json).unwrap(), fault);
    }

    #[test]
    fn a_schedule_is_read_as_it_was_written(seed in any::<u64>(), steps in prop::collection::vec(step(), 0..6)) {
        let schedule = Schedule::new(seed, steps);
        prop_assert_eq!(schedule.to_string().parse::<Schedule>(), Ok(schedule.clone()));
        let json = serde_json::to_string(&schedule).unwrap();
        prop_assert_eq!(serde_json::from_str::<Schedule>(&json).unwrap(), schedule);
    }

    #[test]
    fn any_other_line_is_refused_with_its_words(line in "\\PC{0,60}") {
        if let Err(error) = line.parse::<Fault>() {
            prop_assert!(!error.why.is_empty());
        }
        // Neither of them may panic.
        let _step = line.parse::<Step>();
        let _schedule = format!("seed 1\n{line}").parse::<Schedule>();
    }
}

#[test]
fn the_kind_target_and_text_of_every_fault_fit() {
    for kind in Kind::ALL {
        let on = Target::Member(Member::node(1));
        let fault = of_kind(*kind, on.clone(), Target::Rest, Group::Users(0), 7, 9);
        assert_eq!(fault.kind(), *kind);
        assert!(fault.to_string().starts_with(kind.name()));
        let other = Target::Member(Member::node(2));
        assert_eq!(fault.with_target(other.clone()).target(), fault.target().map(|_| &other), "{fault}");
    }
}

#[test]
fn errors_say_what_was_wanted() {
    let why = |line: &str| line.parse::<Fault>().unwrap_err().to_string();
    assert!(why("explode node-1").contains("known are kill, pause"));
    assert!(why("kill").contains("target"));
    assert!(why("kill node-x").contains("leader-of-most-shards"));
    assert!(why("loss node-1 101%").contains("more than 100%"));
    assert!(why("delay node-1 5s").contains("ms"));
    assert!(why("kill node-1 now").contains("`now`"));
    assert!(why("partition node-1 node-2").contains("`from`"));
}

#[test]
fn what_undoes_a_fault_names_whom_it_hit() {
    let hit: BTreeSet<Member> = [Member::node(2)].into();
    let undone = |line: &str| line.parse::<Fault>().unwrap().undone(&hit).map(|fault| fault.to_string());
    assert_eq!(undone("kill leader-of-most-shards").as_deref(), Some("restart node-2"));
    assert_eq!(undone("power-loss random(1)").as_deref(), Some("restart node-2"));
    assert_eq!(undone("pause follower").as_deref(), Some("continue node-2"));
    assert_eq!(undone("partition follower from rest").as_deref(), Some("heal node-2 network"));
    assert_eq!(undone("disk-full follower").as_deref(), Some("heal node-2 disk"));
    assert_eq!(undone("drain follower").as_deref(), Some("resume node-2"));
    assert_eq!(undone("restart-with follower previous").as_deref(), Some("restart-with node-2 current"));
    assert_eq!(undone("bit-rot follower 1bits"), None);
    assert_eq!(undone("train"), None);
}
