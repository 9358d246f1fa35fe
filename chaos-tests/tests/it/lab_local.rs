//! Faults of one member's machine: each does what it says to a real node, and is gone after healing.

use docent_chaos::faults::end_of;
use docent_chaos::lab::disk::{self, Shelf};
use docent_chaos::lab::world::LabWorld;
use docent_chaos::lab::{self, Abilities, Options};
use docent_trial::history::{Observed, Sight};
use docent_trial::{Applied, Kind, World};
use std::fs;
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(60);

fn install(world: &mut LabWorld, fault: &str) {
    let applied = world.apply(&fault.parse().unwrap(), 7);
    assert!(matches!(applied, Applied::Installed { .. }), "{fault}: {applied}");
}

/// Whether every kind of fault can be done here; tells those that cannot.
fn is_skipped(world: &LabWorld, kinds: &[Kind]) -> bool {
    let skipped: Vec<String> =
        kinds.iter().filter_map(|kind| world.can(*kind).err().map(|why| format!("{kind}: {why}"))).collect();
    skipped.iter().for_each(|why| println!("SKIPPED: {why}"));
    !skipped.is_empty()
}

#[test]
fn a_disk_runs_full_and_falls_back_to_read_only_and_both_are_mended() {
    if let Err(why) = &Abilities::here().disks {
        println!("SKIPPED: {why}");
        return;
    }
    let _only_one = lab::lock().unwrap();
    let dir = disk::workshop().unwrap();
    let shelf = Shelf::build(&dir.path().join("images")).unwrap();
    let disk = shelf.disk(dir.path(), "full").unwrap();
    let file = disk.root().join("x");
    disk.fill().unwrap();
    let full = fs::write(&file, vec![1; 1 << 16]).unwrap_err();
    assert_eq!(full.kind(), std::io::ErrorKind::StorageFull);
    disk.clear().unwrap();
    fs::write(&file, vec![1; 1 << 16]).unwrap();
    assert!(!disk.is_read_only());
    disk.fail_read_only().unwrap();
    assert!(disk.is_read_only());
    assert_eq!(fs::write(&file, [2]).unwrap_err().kind(), std::io::ErrorKind::ReadOnlyFilesystem);
    disk.repair().unwrap();
    fs::write(&file, [2]).unwrap();
    drop((disk, shelf));
    assert_eq!(disk::left_by(std::process::id()), Vec::<String>::new());
}

/// One cluster, one fault after another; after each it is well again.
#[test]
fn a_node_with_a_wrong_clock_a_slow_disk_and_little_processor_serves_and_one_whose_sync_fails_ends() {
    let mut world = LabWorld::start(&Options { coordinators: 1, ..Options::default() }).unwrap();
    if is_skipped(&world, &[Kind::ClockJump, Kind::SlowSync, Kind::SyncError, Kind::Cpu, Kind::DiskReadOnly]) {
        return;
    }
    install(&mut world, "clock-jump node-3 -86400000ms");
    install(&mut world, "slow-sync node-3 20ms");
    install(&mut world, "cpu node-3 30%");
    let client = world.lab().client(2);
    let event = |id: &str, user: usize| serde_json::json!({ "event_id": id, "user_id": format!("u{user}"), "item_id": "i1", "type": "click" });
    let events: Vec<_> = (0..50).map(|n| event(&format!("local-{n}"), n)).collect();
    let outcomes = client.ingest(&events).unwrap();
    assert!(outcomes.iter().all(|outcome| outcome == "accepted"), "{outcomes:?}");
    // The gateway reads the clock where an event has no time of its own.
    let exported = world.lab().docent(&["export", "events"]).unwrap();
    let times = exported
        .lines()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap()["timestamp"].as_u64().unwrap());
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_millis() as u64;
    assert!(
        times.clone().count() == 50 && times.clone().all(|time| time + 86_000_000 < now),
        "a day ago: {:?}",
        times.max()
    );
    install(&mut world, "heal node-3 everything");
    assert_eq!(client.ingest(&[event("healed", 1)]).unwrap(), ["accepted"]);

    install(&mut world, "sync-error node-3");
    let _refused = client.ingest(&events[..1]);
    let status = end_of(&mut world.lab_mut().nodes[2], PATIENCE).unwrap();
    assert_eq!(status.code(), Some(1), "a failed sync ends the process");
    let seen = world.observe();
    assert!(seen.iter().any(|one| matches!(one, Observed::Seen { what: Sight::SyncErrors, .. })), "{seen:?}");
    install(&mut world, "heal all everything");
    world.lab_mut().wait_ready(PATIENCE).unwrap();

    install(&mut world, "disk-read-only node-3");
    let others = world.lab().client(0);
    let more: Vec<_> = (0..50).map(|n| event(&format!("after-{n}"), n)).collect();
    while !others.ingest(&more).is_ok_and(|outcomes| outcomes.iter().all(|o| o == "accepted" || o == "duplicate")) {}
    install(&mut world, "heal all everything");
    world.lab_mut().wait_ready(PATIENCE).unwrap();
    world.lab().docent(&["verify"]).unwrap();
}
