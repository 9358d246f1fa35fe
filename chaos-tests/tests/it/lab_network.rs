//! The lab's network does what it says: cuts are one-way where they are asked to be, losses are as many as asked, late packets are late,
//! and nothing of it is left on the machine.

use docent_chaos::lab::net::{self, Home, Network};
use docent_chaos::lab::rules::{Lag, Rules};
use docent_chaos::lab::tool::run;
use docent_chaos::lab::world::LabWorld;
use docent_chaos::lab::{self, Abilities, Options, cage, disk};
use docent_trial::history::{Observed, Sight};
use docent_trial::{Applied, Fault, Group, Member, World};
use serde_json::json;
use std::io::{BufRead, BufReader, Read};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(60);

/// Says why a test proves nothing here.
fn is_skipped(ability: &Result<(), String>) -> bool {
    if let Err(why) = ability {
        println!("SKIPPED: {why}");
    }
    ability.is_err()
}

/// Counts what arrives until its input ends and nothing came for a while: a line a packet, its number and its microseconds on the way.
const LISTEN: &str = "
import select, socket, sys, time
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)
s.bind(('', 9000))
print('ready', flush=True)
is_over = False
while True:
    ready = select.select([s] if is_over else [s, sys.stdin], [], [], 0.3 if is_over else None)[0]
    if s in ready:
        number, sent = s.recv(2000).split()[:2]
        print(int(number), int((time.monotonic() - float(sent)) * 1e6))
    elif is_over:
        break
    else:
        is_over = True
";
const SEND: &str = "
import socket, sys, time
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
for number in range(int(sys.argv[2])):
    try: s.sendto(b'%d %f ' % (number, time.monotonic()) + b'x' * 900, (sys.argv[1], 9000))
    except PermissionError: pass # what a bounded sender is told of a packet that is dropped
    if number % 50 == 49: time.sleep(0.002)
";
/// Waits on a connection, and says how it ended.
const ACCEPT: &str = "
import socket
s = socket.socket()
s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
s.bind(('', 9001)); s.listen()
print('ready', flush=True)
c, _ = s.accept()
try: print('end' if c.recv(1) == b'' else 'data')
except ConnectionError: print('reset')
";
const CONNECT: &str = "
import socket, sys
s = socket.create_connection((sys.argv[1], 9001))
print('ready', flush=True)
try: print('end' if s.recv(1) == b'' else 'data')
except ConnectionError: print('reset')
";

/// Starts a script inside, and waits until it is ready.
fn start(home: &Home, script: &str, argument: &str) -> (std::process::Child, BufReader<std::process::ChildStdout>) {
    let mut child = Command::new("nsenter")
        .arg(format!("--net={}", home.file().display()))
        .args(["python3", "-c", script, argument])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut output = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    output.read_line(&mut line).unwrap();
    assert_eq!(line, "ready\n", "{script}");
    (child, output)
}

fn rest(started: (std::process::Child, BufReader<std::process::ChildStdout>)) -> String {
    let (mut child, mut output) = started;
    drop(child.stdin.take());
    let mut text = String::new();
    output.read_to_string(&mut text).unwrap();
    assert!(child.wait().unwrap().success());
    text
}

/// What arrives of `count` packets: number and microseconds on the way.
fn arrivals(from: &Home, to: &Home, count: usize) -> Vec<(usize, u64)> {
    let listener = start(to, LISTEN, "");
    from.run(&["python3", "-c", SEND, &to.address.to_string(), &count.to_string()], "").unwrap();
    let pair = |line: &str| {
        let (number, took) = line.split_once(' ').unwrap();
        (number.parse().unwrap(), took.parse().unwrap())
    };
    rest(listener).lines().map(pair).collect()
}

fn network(count: usize) -> (tempfile::TempDir, Network, Vec<Home>) {
    let dir = tempfile::tempdir().unwrap();
    let mut network = Network::build(dir.path()).unwrap();
    (0..count).for_each(|_| drop(network.add().unwrap()));
    let homes = network.homes().to_vec();
    (dir, network, homes)
}

#[test]
fn a_cut_is_one_way_unless_both_are_asked_and_ends_with_its_rule() {
    let abilities = Abilities::here();
    if is_skipped(&abilities.network) {
        return;
    }
    let _only_one = lab::lock().unwrap();
    let (_dir, mut network, homes) = network(3);
    let [a, b, c] = &homes[..] else { panic!("three were asked for") };
    let count = |from: &Home, to: &Home| arrivals(from, to, 20).len();
    assert_eq!((count(a, b), count(b, a)), (20, 20));
    network.set(Rules { cut: [(a.address, b.address)].into(), ..Rules::default() }).unwrap();
    assert_eq!((count(a, b), count(b, a), count(a, c), count(c, b)), (0, 20, 20, 20));
    assert_eq!(network.lost().unwrap(), 20);
    let both = [(a.address, b.address), (b.address, a.address)].into();
    network.set(Rules { cut: both, ..Rules::default() }).unwrap();
    assert_eq!((count(a, b), count(b, a)), (0, 0));
    network.set(Rules::default()).unwrap();
    assert_eq!((count(a, b), count(b, a)), (20, 20));
    assert_eq!(network.lost().unwrap(), 60, "what rules dropped is counted also when they are gone");
}

#[test]
fn as_many_packets_are_lost_as_was_asked_and_a_bounded_sender_sends_no_more() {
    if is_skipped(&Abilities::here().network) {
        return;
    }
    let _only_one = lab::lock().unwrap();
    let (_dir, mut network, homes) = network(2);
    let [a, b] = &homes[..] else { panic!("two were asked for") };
    network.set(Rules { loss: [((a.address, b.address), 30)].into(), ..Rules::default() }).unwrap();
    let lost = 3_000 - arrivals(a, b, 3_000).len();
    // Six standard deviations of a binomial distribution: 6 * sqrt(3000 * 0.3 * 0.7) = 151.
    assert!((749..=1_051).contains(&lost), "{lost} of 3000 were lost at 30 %");
    network.set(Rules { rate: [(a.address, 50)].into(), ..Rules::default() }).unwrap();
    let arrived = arrivals(a, b, 3_000).len();
    assert!((5..1_500).contains(&arrived), "{arrived} of 3000 kB arrived at 50 kB/s");
    assert_eq!(arrivals(b, a, 100).len(), 100, "the other one is not bounded");
}

#[test]
fn late_packets_are_no_earlier_than_asked_come_in_order_and_overtake_and_repeat_only_where_asked() {
    if is_skipped(&Abilities::here().lag) {
        return;
    }
    let _only_one = lab::lock().unwrap();
    let (_dir, mut network, homes) = network(2);
    let [a, b] = &homes[..] else { panic!("two were asked for") };
    let mut with =
        |lag: Lag| network.set(Rules { lag: [((a.address, b.address), lag)].into(), ..Rules::default() }).unwrap();
    with(Lag { delay_ms: 40, jitter_ms: 10, ..Lag::default() });
    let late = arrivals(a, b, 300);
    assert_eq!(late.len(), 300);
    assert!(late.iter().all(|(_, us)| *us >= 30_000), "{late:?}");
    assert!(late.is_sorted_by_key(|(number, _)| *number), "jitter alone keeps the order");
    assert!(arrivals(b, a, 20).len() == 20);
    with(Lag { delay_ms: 40, reorder_percent: 25, duplicate_percent: 25, ..Lag::default() });
    let mixed = arrivals(a, b, 400);
    // Six standard deviations: 6 * sqrt(400 * 0.25 * 0.75) = 52.
    assert!((448..=552).contains(&mixed.len()), "{} of 400 with a quarter twice", mixed.len());
    let early = mixed.iter().filter(|(_, us)| *us < 40_000).count();
    assert!(early > 0 && !mixed.is_sorted_by_key(|(number, _)| *number), "{early} overtook");
    network.set(Rules::default()).unwrap();
    let (repeated, reordered) = network.repeated_and_reordered();
    assert_eq!(repeated as usize, mixed.len() - 400);
    assert!(reordered > 0);
    assert_eq!(arrivals(a, b, 50).len(), 50, "the way without a forwarder is open again");
}

#[test]
fn a_reset_ends_a_connection_at_both_of_its_ends() {
    if is_skipped(&Abilities::here().network) {
        return;
    }
    let _only_one = lab::lock().unwrap();
    let (_dir, network, homes) = network(2);
    let [a, b] = &homes[..] else { panic!("two were asked for") };
    let server = start(b, ACCEPT, "");
    let client = start(a, CONNECT, &b.address.to_string());
    network.reset(a).unwrap();
    assert_eq!((rest(client).trim(), rest(server).trim()), ("reset", "reset"));
}

#[test]
fn what_a_killed_lab_left_is_removed_by_the_next_one_and_what_lives_is_not() {
    if is_skipped(&Abilities::here().network) {
        return;
    }
    let _only_one = lab::lock().unwrap();
    let mut gone = Command::new("true").spawn().unwrap();
    gone.wait().unwrap();
    let (dead, space) = (gone.id(), format!("dl{}an0", gone.id()));
    run("ip", &["netns", "add", &space]).unwrap();
    run("ip", &["link", "add", &format!("dl{dead}a"), "type", "bridge"]).unwrap();
    let net = format!("--net=/run/netns/{space}");
    let mut member = Command::new("nsenter").args([&net, "sleep", "1000"]).spawn().unwrap();
    let (_dir, living, _) = network(1);
    assert_eq!(net::left_by(dead).unwrap(), Vec::<String>::new());
    assert!(!member.wait().unwrap().success(), "a member of a killed lab is ended");
    assert_eq!(net::left_by(std::process::id()).unwrap().len(), 3, "a namespace, its cable, a bridge");
    drop(living);
    assert_eq!(net::left_by(std::process::id()).unwrap(), Vec::<String>::new());
}

fn until<T>(what: &str, world: &mut LabWorld, mut look: impl FnMut(&mut LabWorld) -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(found) = look(world) {
            return found;
        }
        assert!(start.elapsed() < PATIENCE, "{what} did not happen\n{}", world.lab().logs(15));
        std::thread::sleep(Duration::from_millis(100)); // between polls of other processes
    }
}

fn leader(world: &mut LabWorld, group: Group) -> Option<Member> {
    world.scene().actors.iter().find(|actor| actor.leads.contains(&group)).map(|actor| actor.member)
}

/// The words of a fault, done; whom it hit.
fn install(world: &mut LabWorld, fault: &str) -> Vec<Member> {
    match world.apply(&fault.parse::<Fault>().unwrap(), 7) {
        Applied::Installed { on, .. } => on.into_iter().collect(),
        other => panic!("{fault}: {other}"),
    }
}

#[test]
fn a_leader_that_is_cut_off_acks_nothing_is_replaced_and_follows_after_healing() {
    if is_skipped(&Abilities::here().network) {
        return;
    }
    let mut world = LabWorld::start(&Options::default()).unwrap();
    println!("{}", world.abilities());
    let group = Group::Users(0);
    let old = until("a leader", &mut world, |world| leader(world, group));
    install(&mut world, "partition leader-of:users/0 from rest");
    let new = until("another leader", &mut world, |world| leader(world, group).filter(|now| *now != old));
    // Its majority is elsewhere, and it is in reach of its clients: none of what they send may be acked.
    let client = world.lab().client(old.number as usize - 1);
    let event = |user: usize| json!({ "event_id": format!("cut-{user}"), "user_id": format!("u{user}"), "item_id": "i1", "type": "click" });
    let events: Vec<_> = (0..40).map(event).collect();
    let (status, body) = client.post("/v1/events", &json!({ "events": events })).unwrap();
    let results = body["results"].as_array().cloned().unwrap_or_default();
    assert!(status != 200 || results.iter().all(|result| result["outcome"] != "accepted"), "{status} {body}");
    let seen = world.observe();
    assert!(
        seen.iter().any(|one| matches!(one, Observed::Seen { what: Sight::MessagesLost, count } if *count > 0)),
        "{seen:?}"
    );
    install(&mut world, "heal all network");
    world.lab_mut().wait_ready(PATIENCE).unwrap();
    until("its return", &mut world, |world| {
        let gauges = world.scene();
        let is_back = gauges.actors.iter().any(|actor| actor.member == old && actor.holds.contains(&group));
        (is_back && leader(world, group).is_some()).then_some(())
    });
    world.lab().docent(&["verify"]).unwrap();
    println!("{old} was cut off, {new} led after it");
    install(&mut world, "cpu node-1 50%");
    drop(world);
    let pid = std::process::id();
    assert_eq!(net::left_by(pid).unwrap(), Vec::<String>::new());
    assert!(cage::left_by(pid).is_empty() && disk::left_by(pid).is_empty());
}
