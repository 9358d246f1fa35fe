//! Replicas move while clients go on, while those who move them die, and while operators change their minds: nothing acked is lost, no
//! query fails, no replica id returns.

use crate::membership::{
    cluster, id_of, is_at_rest, is_dead, options, seed_and_train, shards, under_calm_load, under_load, wait_for,
};
use docent_chaos::gateways::Gateways;
use docent_chaos::lab::{Lab, Options};
use nix::sys::signal::Signal;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::process::Output;
use std::time::Duration;

/// Every replica that was ever seen: an id stands for one replica of one shard on one node, and one that is gone stays gone.
#[derive(Debug, Default)]
struct History {
    homes: BTreeMap<u64, (String, u64)>,
    now: BTreeSet<u64>,
    gone: BTreeSet<u64>,
}

impl History {
    /// Takes in a state that is newer than all before.
    fn note(&mut self, state: &Value) {
        let mut now = BTreeSet::new();
        for shard in shards(state) {
            for replica in shard["replicas"].as_array().unwrap() {
                let (id, node) = (replica["id"].as_u64().unwrap(), replica["node"].as_u64().unwrap());
                let home = (shard["id"].as_str().unwrap().to_owned(), node);
                let known = self.homes.entry(id).or_insert_with(|| home.clone());
                assert_eq!(*known, home, "replica {id} was another one before");
                assert!(now.insert(id), "replica {id} is there twice");
            }
        }
        self.gone.extend(self.now.difference(&now));
        let back: Vec<&u64> = now.intersection(&self.gone).collect();
        assert!(back.is_empty(), "replicas {back:?} came back");
        self.now = now;
    }
}

/// `DOCENT_MOVES`, where it is given.
fn moves(usually: usize) -> usize {
    let given = std::env::var("DOCENT_MOVES").ok().map(|text| text.parse().expect("DOCENT_MOVES: a number"));
    given.unwrap_or(usually)
}

fn shard<'a>(state: &'a Value, id: &str) -> &'a Value {
    shards(state).find(|shard| shard["id"] == id).unwrap_or_else(|| panic!("no shard {id} in {state:#}"))
}

fn nodes(shard: &Value) -> Vec<u64> {
    shard["nodes"].as_array().unwrap().iter().map(|node| node.as_u64().unwrap()).collect()
}

/// A node of `all` that has no replica of the shard.
fn elsewhere(shard: &Value, mut all: std::ops::RangeInclusive<u64>) -> u64 {
    let taken = nodes(shard);
    all.find(|node| !taken.contains(node)).unwrap_or_else(|| panic!("{shard} is everywhere"))
}

fn start_move(lab: &Lab, id: &str, from: u64, to: u64) {
    lab.docent(&["shards", "move", id, "--from", &from.to_string(), "--to", &to.to_string()]).unwrap();
}

/// Every second move goes back where it came from. Two hundred, as the acceptance has it: `DOCENT_MOVES=200`.
#[test]
fn random_moves_under_load_lose_nothing_and_reuse_no_replica_id() {
    let settings = "auto_balance = false\nmoves_at_once = 4";
    let mut lab = Lab::start(&Options { nodes: 4, ..options(settings) }).unwrap();
    seed_and_train(&lab);
    let (mut history, wanted) = (History::default(), moves(12).div_ceil(2));
    history.note(&cluster(&lab));
    under_calm_load(&mut lab, "moves", |lab| {
        for number in 0..wanted {
            let state = cluster(lab);
            let all: Vec<&Value> = shards(&state).collect();
            let chosen = all[number * 7 % all.len()];
            let (from, to) = (nodes(chosen)[number % 3], elsewhere(chosen, 101..=104));
            let id = chosen["id"].as_str().unwrap();
            for (from, to) in [(from, to), (to, from)] {
                start_move(lab, id, from, to);
                let state = wait_for(lab, "the move", |state| {
                    let now = nodes(shard(state, id));
                    is_at_rest(state) && now.contains(&to) && !now.contains(&from)
                });
                let known = history.now.clone();
                history.note(&state);
                assert_eq!(history.now.difference(&known).count(), 1, "one replica is new after one move");
            }
        }
    });
    assert_eq!(history.gone.len(), wanted * 2);
    lab.docent(&["verify"]).unwrap();
}

/// Who dies in the middle of a move.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Victim {
    Coordinator,
    Source,
    Target,
    Leader,
}

const VICTIMS: [Victim; 4] = [Victim::Coordinator, Victim::Source, Victim::Target, Victim::Leader];

/// The coordinator that said last, in the highest term, that it leads.
fn leading_coordinator(lab: &Lab) -> usize {
    let term = |text: String| -> Option<u64> {
        let line = text.lines().rfind(|line| line.contains("this coordinator leads"))?.to_owned();
        let term = line.split("term").nth(1)?;
        term.trim_matches(|c: char| !c.is_ascii_digit()).split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
    };
    let terms = lab.coordinators.iter().enumerate().map(|(index, member)| (term(member.tail(100_000)), index));
    terms.max().expect("a coordinator leads").1
}

/// Eight moves, each cut by a `kill -9`: every second victim is back at once, the others after they were given up. More: `DOCENT_MOVES`.
#[test]
fn a_move_cut_by_the_death_of_any_of_its_parties_ends_by_itself_and_loses_nothing() {
    let mut lab = Lab::start(&Options { nodes: 4, ..options("auto_balance = false") }).unwrap();
    seed_and_train(&lab);
    let mut history = History::default();
    under_load(&mut lab, "cut", 4, |lab, gateways| {
        let cut = (0..moves(8)).filter(|number| cut_move(lab, gateways, &mut history, *number)).count();
        assert!(cut > 0, "every move had ended before somebody died");
        println!("{cut} of {} moves were under way when somebody died", moves(8));
    });
    lab.docent(&["verify"]).unwrap();
}

/// Whether the move was under way when its party died.
fn cut_move(lab: &mut Lab, gateways: &Gateways, history: &mut History, number: usize) -> bool {
    let (victim, is_given_up) = (VICTIMS[number % 4], (number + number / 4) % 2 == 1);
    let state = wait_for(lab, "rest", |state| is_at_rest(state) && shards(state).all(|shard| shard["leader"] != 0));
    history.note(&state);
    let all: Vec<&Value> = shards(&state).collect();
    let chosen = all[number * 7 % all.len()];
    let (id, leader) = (chosen["id"].as_str().unwrap(), chosen["leader"].as_u64().unwrap());
    let mut sources = nodes(chosen);
    sources.retain(|node| victim != Victim::Leader || *node != leader);
    let (from, to) = (sources[number / 4 % sources.len()], elsewhere(chosen, 101..=104));
    start_move(lab, id, from, to);
    let has_begun = |state: &Value| !shard(state, id)["move"].is_null() || nodes(shard(state, id)).contains(&to);
    let begun = wait_for(lab, "the move's begin", has_begun)["catalog_index"].as_u64().unwrap();
    std::thread::sleep(Duration::from_millis(number as u64 * 67 % 400)); // to some moment of the move
    let is_cut = !shard(&cluster(lab), id)["move"].is_null();
    match victim {
        Victim::Coordinator => {
            let index = leading_coordinator(lab);
            lab.coordinators[index].kill().unwrap();
            if is_given_up {
                wait_for(lab, "the end without it", |state| has_ended(state, begun));
            }
            lab.coordinators[index].start().unwrap();
        }
        Victim::Source => cut_node(lab, gateways, from, is_given_up),
        Victim::Target => cut_node(lab, gateways, to, is_given_up),
        Victim::Leader => cut_node(lab, gateways, leader, is_given_up),
    }
    let state = wait_for(lab, "the move's end", |state| has_ended(state, begun));
    let now = nodes(shard(&state, id));
    let (is_there, is_gone) = (now.contains(&to), !now.contains(&from));
    let is_undone = victim == Victim::Target && !is_there && !is_gone;
    assert!(is_there && is_gone || is_undone, "{victim:?} died when {id} moved from {from} to {to}: {now:?}");
    assert_eq!(now.iter().collect::<BTreeSet<_>>().len(), 3, "{state:#}");
    history.note(&state);
    is_cut
}

fn has_ended(state: &Value, begun: u64) -> bool {
    state["catalog_index"].as_u64().unwrap() >= begun && is_at_rest(state)
}

/// SIGKILL of a node, and its return, before or after the coordinators count it as dead.
fn cut_node(lab: &mut Lab, gateways: &Gateways, node: u64, is_given_up: bool) {
    let index = (0..lab.nodes.len()).find(|index| id_of(lab, *index) == node).expect("a node of the lab");
    gateways.condemn(index);
    lab.nodes[index].kill().unwrap();
    if is_given_up {
        wait_for(lab, "the node's death", |state| is_dead(state, node));
    }
    lab.nodes[index].start().unwrap();
    lab.wait_ready(Duration::from_secs(90)).unwrap();
    gateways.revive(index, &lab.nodes[index].query_addr);
}

/// What a refused change says.
fn refusal(output: &Output) -> String {
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success(), "it was not refused: {}{text}", String::from_utf8_lossy(&output.stdout));
    text
}

#[track_caller]
fn assert_refused(lab: &Lab, arguments: &[&str], why: &str) {
    let text = refusal(&lab.docent_output(arguments).unwrap());
    assert!(text.contains(why), "docent {arguments:?} is refused with: {text}");
}

/// The target hangs, so that the move can neither end nor take back what it began.
#[test]
fn a_move_to_a_hanging_node_is_cancelled_and_ends_and_can_begin_again() {
    let mut lab =
        Lab::start(&Options { nodes: 4, ..options("auto_balance = false\nnode_timeout_ms = 30000") }).unwrap();
    seed_and_train(&lab);
    let (before, mut history) = (cluster(&lab), History::default());
    history.note(&before);
    assert_refused(&lab, &["shards", "cancel", "users/2"], "nothing to cancel");
    let target = id_of(&lab, 3);
    let id = shards(&before).find(|shard| !nodes(shard).contains(&target)).unwrap()["id"].as_str().unwrap();
    let from = nodes(shard(&before, id))[0];
    // The tool must not ask the node that hangs.
    let living = lab.addresses()[..3].join(",");
    let docent = |lab: &Lab, arguments: &[&str]| {
        let all: Vec<&str> = ["--node", &living].iter().chain(arguments).copied().collect();
        lab.docent_output(&all).unwrap()
    };
    let (source, goal) = (from.to_string(), target.to_string());
    let begin = ["shards", "move", id, "--from", &source, "--to", &goal];
    under_load(&mut lab, "cancel", 3, |lab, _| {
        lab.nodes[3].signal(Signal::SIGSTOP).unwrap();
        assert!(docent(lab, &begin).status.success());
        let begun = wait_for(lab, "the move's begin", |state| !shard(state, id)["move"].is_null());
        assert_eq!(shard(&begun, id)["move"]["to"], target);
        let again = refusal(&docent(lab, &begin));
        assert!(again.contains("on its way") && again.contains("cancel it"), "{again}");
        assert!(docent(lab, &["shards", "cancel", id]).status.success());
        assert!(docent(lab, &["shards", "cancel", id]).status.success(), "a second operator wants the same");
        lab.nodes[3].signal(Signal::SIGCONT).unwrap();
        let ended = wait_for(lab, "the end of the cancelled move", |state| {
            state["catalog_index"].as_u64() > begun["catalog_index"].as_u64() && is_at_rest(state)
        });
        history.note(&ended);
        assert_eq!(nodes(shard(&ended, id)), nodes(shard(&before, id)), "it is as it was");
    });
    assert!(history.gone.is_empty(), "{history:?}");
    lab.docent(&[&begin[..], &["--wait", "--wait-timeout", "60"]].concat()).unwrap();
    history.note(&cluster(&lab));
    lab.docent(&["verify"]).unwrap();
}

/// Both at once: one is served, the other is told why not.
fn assert_one_of_two(lab: &Lab, commands: [&[&str]; 2], why: &str) -> usize {
    let spawned = commands.map(|command| lab.docent_spawn(command).unwrap());
    let outputs = spawned.map(|child| child.wait_with_output().unwrap());
    let served: Vec<usize> = (0..2).filter(|place| outputs[*place].status.success()).collect();
    assert_eq!(served.len(), 1, "{commands:?}: {outputs:?}");
    let refused = refusal(&outputs[1 - served[0]]);
    assert!(refused.contains(why), "{commands:?}: {refused}");
    served[0]
}

#[test]
fn what_would_leave_shards_short_is_refused_and_so_is_the_second_of_two_operators() {
    let mut lab = Lab::start(&Options { nodes: 4, ..options("auto_balance = false") }).unwrap();
    let state = cluster(&lab);
    let ids: Vec<u64> = (0..4).map(|index| id_of(&lab, index)).collect();
    let names: Vec<String> = ids.iter().map(u64::to_string).collect();
    assert_refused(&lab, &["nodes", "remove", &names[0]], "is alive and has replicas of");
    let chosen = shards(&state).next().unwrap();
    let (id, to) = (chosen["id"].as_str().unwrap(), elsewhere(chosen, 101..=104).to_string());
    let froms = nodes(chosen).iter().map(u64::to_string).collect::<Vec<_>>();
    assert_refused(&lab, &["shards", "move", id, "--from", &froms[0], "--to", &froms[1]], "has a replica of shard");

    let commands = [0, 1].map(|place| ["shards", "move", id, "--from", froms[place].as_str(), "--to", to.as_str()]);
    assert_one_of_two(&lab, [&commands[0], &commands[1]], "shard");
    wait_for(&lab, "the move of the first", |state| {
        is_at_rest(state) && nodes(shard(state, id)).contains(&to.parse().unwrap())
    });
    // Three of four must stay.
    let drains = [["nodes", "drain", &names[2]], ["nodes", "drain", &names[3]]];
    let served = assert_one_of_two(&lab, [&drains[0], &drains[1]], "add a node first");
    lab.docent(&["nodes", "resume", &names[2 + served]]).unwrap();
    wait_for(&lab, "rest", is_at_rest);

    // Two nodes are lost: the first is given up, but with the second some shards would lose their majority for good.
    for index in [0, 1] {
        lab.nodes[index].kill().unwrap();
    }
    wait_for(&lab, "their death", |state| is_dead(state, ids[0]) && is_dead(state, ids[1]));
    assert_refused(&lab, &["nodes", "drain", &names[2]], "add a node first");
    lab.docent(&["nodes", "remove", &names[0]]).unwrap();
    assert_refused(&lab, &["nodes", "remove", &names[1]], "no majority left");
}
