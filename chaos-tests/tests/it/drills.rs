//! The runner, the tool, and a drill on a named cluster: what they promise to whoever breaks a cluster on purpose.

use anyhow::{Context, Result};
use docent_chaos::client::Client;
use docent_chaos::docs::{block, blocks};
use docent_chaos::drill::file::Cluster;
use docent_chaos::lab::world::LabWorld;
use docent_chaos::lab::{self, Lab, Options};
use docent_chaos::run::{self, Trial};
use docent_chaos::scenarios;
use docent_trial::check::Checker;
use docent_trial::{History, Scenario};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use std::fmt::Write;
use std::path::Path;
use std::process::{Command, Output};
use std::sync::atomic::AtomicBool;

const DOCUMENT: &str = "docs/drills.md";

fn chaos(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_docent-chaos")).args(arguments).output().unwrap()
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

/// The whole way: load, a dead leader, healing, audit, ten judges of which each judged something; and the same again from the file.
#[test]
fn the_death_of_a_leader_costs_nothing_that_was_acked_and_every_judge_says_so() {
    let scenario = scenarios::find("leader-loss").unwrap();
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("history.jsonl");
    let mut world = LabWorld::for_needs(&scenario.cluster).unwrap();
    let is_cancelled = AtomicBool::new(false);
    let options =
        run::Options { seed: 1, history: Some(&file), prefix: "", is_cancelled: &is_cancelled, is_loud: false };
    let trial = run::run(&mut world, &scenario, &options).unwrap();
    for checker in Checker::ALL {
        let verdict = trial.judgement.of(*checker).unwrap();
        assert!(verdict.is_pass(), "{checker}: {verdict}\n{}", world.lab().logs(10));
    }
    let Trial { figures, history, judgement, .. } = trial;
    assert_eq!((figures.events_lost, figures.queries_failed), (Some(0), 0));
    let death = &figures.faults[0];
    assert!(death.led > 0 && death.detected_s.is_some() && death.recovered_s >= death.detected_s, "{death:?}");
    let again = History::read(std::io::BufReader::new(std::fs::File::open(&file).unwrap())).unwrap();
    assert_eq!(again.operations.len(), history.operations.len());
    assert_eq!(run::judged(&scenario, again).judgement, judgement, "the file is judged as the run was");
    let checked = chaos(&["check", "--history", file.to_str().unwrap()]);
    assert!(checked.status.success(), "{}", said(&checked));
}

#[test]
fn a_run_that_loses_an_acked_event_is_told_from_its_file() {
    let header = r#"{"record":"header","format":1,"world":"lab","scenario":"mine","seed":1,"nodes":3,"coordinators":3,"replication":3,"user_shards":8,"item_shards":4,"election_timeout_max_ms":1500}"#;
    let acked = r#"{"record":"operation","id":1,"client":1,"gateway":"node-1","call":{"do":"event","event_id":"e1","user":"u1","item":"i1","type":"click"},"called_us":1,"returned_us":2,"outcome":{"ok":{"event":{"outcome":"accepted","position":"users/1@4"}}}}"#;
    let end = r#"{"record":"observed","at_us":9,"seen":"export_end","events":0}"#;
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("h.jsonl");
    std::fs::write(&file, [header, acked, end].join("\n")).unwrap();
    let checked = chaos(&["check", "--history", file.to_str().unwrap(), "--output", "json"]);
    assert_eq!(checked.status.code(), Some(1), "{}", said(&checked));
    let trial: Value = serde_json::from_slice(&checked.stdout).unwrap();
    assert_eq!((&trial["is_passed"], &trial["figures"]["events_lost"]), (&Value::Bool(false), &Value::from(1)));
}

#[test]
fn the_tool_refuses_what_it_cannot_mean_and_names_what_is_wrong() {
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| {
        let path = dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let unknown = write("unknown.toml", "name = \"a\"\nshows = \"b\"\nstepz = []\n");
    let late = write("late.toml", "name = \"a\"\nshows = \"b\"\nsteps = [\"90s kill node-1\"]\n");
    let fault = write("fault.toml", "name = \"a\"\nshows = \"b\"\nsteps = [\"1s explode node-1\"]\n");
    let nameless = write("cluster.toml", "[[members]]\nname = \"node-1\"\n");
    let cases: &[(&[&str], &str)] = &[
        (&["run", "--scenario", "no-such-thing"], "there is no scenario `no-such-thing`"),
        (&["run", "--scenario", "training-duplicate-push"], "is missing (no scenario"),
        (&["run", "--scenario", &unknown], "unknown field `stepz`"),
        (&["run", "--scenario", &late], "`steps[0]` of the scenario is not before the end"),
        (&["run", "--scenario", &fault], "explode"),
        (&["run", "--scenario", "leader-loss", "--world", "cluster"], "needs --cluster FILE"),
        (&["run", "--scenario", "leader-loss", "--cluster", &nameless], "`members[0].query` is missing"),
        (&["run", "--scenario", "leader-loss", "--world", "lab", "--cluster", &nameless], "choose"),
        (&["check", "--history", &nameless], "line 1 of the history is no record"),
    ];
    for (arguments, expected) in cases {
        let output = chaos(arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {}", said(&output));
        assert!(said(&output).contains(expected), "{arguments:?}: {expected:?} is not in {}", said(&output));
    }
}

#[test]
fn the_list_counts_what_is_missing_as_missing() {
    let output = chaos(&["list", "--output", "json"]);
    let list: Value = serde_json::from_slice(&output.stdout).unwrap();
    let rows = list["rows"].as_array().unwrap();
    let state = |name: &str, world: &str| {
        rows.iter()
            .find(|row| row["scenario"] == name && row["world"] == world)
            .map(|row| row["state"].clone())
            .unwrap()
    };
    assert_eq!(state("leader-loss", "lab"), "built");
    assert_eq!(state("training-duplicate-push", "lab"), "missing: feature");
    let missing = rows.iter().filter(|row| row["state"] != "built").count();
    assert_eq!(list["missing"], missing);
    assert!(rows.iter().all(|row| (row["state"] == "built") == (row["why"] == "")), "what is missing says why");
}

#[test]
fn the_files_of_the_guide_are_files_and_its_commands_are_commands() {
    let names: Vec<String> = blocks(DOCUMENT).unwrap().into_iter().map(|block| block.name).collect();
    assert_eq!(names, ["cluster.toml", "dry", "drill", "check", "scenario.toml", "skip"]);
    let cluster = Cluster::parse(&block(DOCUMENT, "cluster.toml").unwrap()).unwrap();
    assert_eq!(cluster.members.len(), 4);
    let scenario = Scenario::from_toml(&block(DOCUMENT, "scenario.toml").unwrap()).unwrap();
    assert_eq!(scenario.steps.len(), 2);
    // Every verb that the guide tells of can be read, and none is forgotten.
    let guide = std::fs::read_to_string(docent_chaos::docs::root().join(DOCUMENT)).unwrap();
    for kind in docent_trial::Kind::ALL {
        assert!(guide.contains(&format!("`{kind}")), "{DOCUMENT} does not tell of {kind}");
    }
}

/// A lab's processes as an engineer would name them: process ids in files, and a command that starts each again.
fn name_cluster(lab: &Lab, dir: &Path) -> Result<String> {
    let id = lab.client(0).get("/v1/cluster")?.1["cluster_id"].clone();
    let mut text = format!("cluster_id = {id}\ntool = {:?}\n", lab::docent()?);
    for member in lab.coordinators.iter().chain(&lab.nodes) {
        let name = &member.name;
        let pid_file = dir.join(format!("{name}.pid"));
        std::fs::write(&pid_file, member.pid().context("not running")?.to_string())?;
        let kind = name.split('-').next().unwrap_or_default();
        let log = member.log().display();
        let start = format!(
            "{} {kind} --config {} >> {log} 2>&1 & echo $! > {}",
            lab::docent()?.display(),
            lab.dir().join(format!("{name}.toml")).display(),
            pid_file.display()
        );
        write!(
            text,
            "\n[[members]]\nname = {name:?}\npid_file = {pid_file:?}\nlog_file = \"{log}\"\ncommands = {{ start = {start:?} }}\n"
        )?;
        if kind == "node" {
            writeln!(text, "query = {:?}", member.query_addr)?;
        }
    }
    Ok(text)
}

/// Processes that a drill has started are ended here: they are nobody's children any more.
struct Ended<'a>(&'a Path);

impl Drop for Ended<'_> {
    fn drop(&mut self) {
        for entry in std::fs::read_dir(self.0)
            .into_iter()
            .flatten()
            .flatten()
            .filter(|one| one.path().extension().is_some_and(|e| e == "pid"))
        {
            let pid = std::fs::read_to_string(entry.path()).ok().and_then(|text| text.trim().parse().ok());
            // One that is gone already is what we want.
            let _gone = pid.map(|pid| kill(Pid::from_raw(pid), Signal::SIGKILL));
        }
    }
}

#[test]
fn a_drill_breaks_the_named_cluster_only_when_told_to_heals_it_and_leaves_nothing_behind() {
    let lab = Lab::start(&Options::default()).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let _ended = Ended(dir.path());
    let (cluster, scenario, report) =
        (dir.path().join("cluster.toml"), dir.path().join("scenario.toml"), dir.path().join("report.json"));
    let text = name_cluster(&lab, dir.path()).unwrap();
    std::fs::write(&cluster, &text).unwrap();
    std::fs::write(&scenario, block(DOCUMENT, "scenario.toml").unwrap()).unwrap();
    let (file, plan) = (cluster.to_str().unwrap(), scenario.to_str().unwrap());
    let run = |more: &[&str]| chaos(&[&["run", "--scenario", plan, "--cluster", file], more].concat());

    let refused = run(&[]);
    assert_eq!(refused.status.code(), Some(2), "{}", said(&refused));
    assert!(said(&refused).contains("--yes-break-this-cluster"), "{}", said(&refused));
    let dry = run(&["--dry-run"]);
    assert!(dry.status.success() && said(&dry).contains("leader-of-most-shards is now node-"), "{}", said(&dry));
    std::fs::write(&cluster, text.replace("cluster_id = \"", "cluster_id = \"another-")).unwrap();
    let stranger = run(&["--yes-break-this-cluster"]);
    assert!(!stranger.status.success() && said(&stranger).contains("`cluster_id` is another-"), "{}", said(&stranger));
    std::fs::write(&cluster, text.replace("commands = {", "other = {")).unwrap();
    assert!(said(&run(&["--yes-break-this-cluster"])).contains("unknown field `other`"));
    std::fs::write(&cluster, &text).unwrap();
    let unable = chaos(&["run", "--scenario", "partition-symmetric", "--cluster", file, "--yes-break-this-cluster"]);
    assert_eq!(unable.status.code(), Some(2), "{}", said(&unable));
    assert!(
        lab.coordinators.iter().chain(&lab.nodes).all(|member| is_alive(member.pid().unwrap())),
        "nobody was touched"
    );

    let done = run(&["--yes-break-this-cluster", "--report", report.to_str().unwrap()]);
    assert!(done.status.success(), "{}\n{}", said(&done), lab.logs(10));
    let trial: Value = serde_json::from_str(&std::fs::read_to_string(&report).unwrap()).unwrap();
    assert_eq!((&trial["world"], &trial["is_passed"]), (&Value::from("drill"), &Value::Bool(true)), "{trial:#}");
    assert_eq!(trial["figures"]["events_lost"], 0);
    let clients: Vec<Client> = (0..3).map(|i| lab.client(i)).collect();
    assert!(clients.iter().all(Client::is_ready), "everybody is back");
    assert_eq!(lab.docent(&["export", "events"]).unwrap().lines().count(), 0, "the drill's users are erased");
}

fn is_alive(pid: i32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z"))
}
