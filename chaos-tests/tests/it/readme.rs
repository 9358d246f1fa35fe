//! A stranger can follow the README: every shell command of it is run here, or stands on a list with the reason why not.
//!
//! A block that is run is named by a comment before it: `<!-- test: NAME -->`. The journey's blocks run in order in one directory,
//! against the `docent up` of the README; the chapter about several machines runs on loopback addresses of its own, one a machine.
#![allow(clippy::disallowed_methods, reason = "drives real processes in real time")]

use anyhow::{Context, Result, bail, ensure};
use docent_chaos::docs::{self, Block, root};
use docent_chaos::lab;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs::File;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

/// The journey's blocks after `up`, in order, and what each must print; runs of white space count as one space.
const JOURNEY: &[(&str, &[&str])] = &[
    ("data", &[]),
    (
        "import",
        &["(ready)", "books.csv ┆ items ┆ 7 ┆ 0", "reads.csv ┆ events ┆ 16 ┆ 0", "reads.csv ┆ events ┆ 0 ┆ 16 ┆ 0 ┆ 0"],
    ),
    (
        "train",
        &[
            "version 1 is live",
            "1 ┆ foundation ┆ Foundation ┆ science fiction",
            "┆ model ┆ Dune; Solaris",
            "4 of 4 item shards",
        ],
    ),
    (
        "tool",
        &[
            "┆ similar",
            "┆ popular",
            "┆ live ┆ ials ┆ 8",
            "┆ succeeded",
            "wrote 16 lines to events.jsonl",
            "wrote 6 lines to top3.tsv",
            "events.jsonl ┆ events ┆ 0 ┆ 16",
        ],
    ),
    (
        "curl",
        &[
            "\"outcome\":\"accepted\"",
            "\"items\":[{\"id\":\"neuromancer\"",
            "\"title\":\"Solaris\"",
            "\"source\":\"similar\"",
        ],
    ),
    ("python", &["['accepted', 'accepted']", "foundation 0.", "'Solaris'"]),
    (
        "protect",
        &[
            "blocks ┆ middlemarch",
            "recommend ┆ no",
            "train ┆ no",
            "item dune is taken down",
            "item dune may be shown again",
            "everything kept about user cleo is erased",
        ],
    ),
];

/// Blocks of the chapter about several machines.
const MACHINES: &[&str] = &["secret", "coordinator.toml", "node.toml", "machines"];

/// Commands of `skip` blocks, and why they are not run.
const SKIPPED: &[(&str, &str)] = &[
    ("make demo", "installs packages and builds; `docent demo` is what it runs"),
    ("make test", "would run this test"),
    ("make proof", "minutes of a whole machine; its short form is run by proof.rs"),
    ("SABOTAGE=ack-before-quorum make proof", "builds a docent that breaks its promises"),
    ("make build", "the binary under test is its outcome"),
    ("export PATH=\"$PWD/target/release:$PATH\"", "the test puts the binary under test on the path"),
    (
        "docent-chaos run --scenario leader-loss --cluster cluster.toml --yes-break-this-cluster --report report.html",
        "breaks a cluster; drills.rs runs it on one of its own",
    ),
    ("make chaos", "half an hour of a whole machine; `make chaos-smoke` is a part of `make test`"),
    ("make quality", "minutes of a whole machine"),
    ("make bench", "minutes of a whole machine"),
    ("make bench-training", "minutes of CPU, and packages from PyPI"),
    ("make bench-training ARGS=--live", "minutes of CPU"),
    ("make bench-training ARGS=--scaling", "minutes of CPU"),
    ("make bench-training ARGS=--kills", "half an hour"),
    ("make bench-training ARGS='--size --dims 64'", "half an hour, and gigabytes of disk"),
    ("make bench-failover", "minutes of a whole machine"),
    ("make bench-drain", "minutes of a whole machine"),
    (
        "make test-upgrade PREV=HEAD~1",
        "builds another commit; a_rolling_upgrade_under_load in upgrade.rs is what it runs",
    ),
    (
        "DOCENT_OUTAGE_S=60 cargo test --release -p docent-chaos --test it quorum::",
        "a part of this suite at full length",
    ),
    ("DOCENT_ROUNDS=20 cargo test --release -p docent-chaos --test it rounds::", "a part of this suite at full length"),
    ("DOCENT_MOVES=200 cargo test --release -p docent-chaos --test it moves::", "a part of this suite at full length"),
];

fn blocks() -> Result<Vec<Block>> {
    docs::blocks("README.md")
}

fn block(name: &str) -> Result<String> {
    docs::block("README.md", name)
}

/// A child that does not outlive the test.
struct Running(Child);

impl Running {
    fn pid(&self) -> Result<Pid> {
        Ok(Pid::from_raw(i32::try_from(self.0.id())?))
    }

    /// Sends a signal and waits for the end, at most half a minute.
    fn end(&mut self, signal: Signal) -> Result<std::process::ExitStatus> {
        kill(self.pid()?, signal)?;
        let start = Instant::now();
        while start.elapsed() < Duration::from_secs(30) {
            if let Some(status) = self.0.try_wait()? {
                return Ok(status);
            }
            std::thread::sleep(Duration::from_millis(20)); // between looks at another process
        }
        bail!("process {} did not end on {signal}", self.0.id())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // `docent up` takes its members along when it is asked to stop; what does not stop is killed. Members ask the kernel for
        // their end when their parent dies.
        if !matches!(self.0.try_wait(), Ok(Some(_))) && self.end(Signal::SIGTERM).is_err() {
            let _gone = self.0.kill();
            let _gone = self.0.wait();
        }
    }
}

/// A directory in which commands run as in a reader's shell.
struct Shell {
    dir: tempfile::TempDir,
    path: String,
    /// What `DOCENT_NODES` says; only where the README's ports are taken.
    nodes: Option<String>,
}

impl Shell {
    fn new(nodes: Option<String>) -> Result<Shell> {
        for tool in ["bash", "timeout", "curl", "python3"] {
            let is_there = Command::new(tool).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
            ensure!(is_there.is_ok_and(|status| status.success()), "the README's commands need {tool}: install it");
        }
        let bin = lab::docent()?;
        let bin = bin.parent().context("the binary has no directory")?.display();
        let path = format!("{bin}:{}", std::env::var("PATH")?);
        Ok(Shell { dir: tempfile::Builder::new().prefix("docent-readme-").tempdir()?, path, nodes })
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.current_dir(self.dir.path()).env("PATH", &self.path).env_remove("DOCENT_NODES").stdin(Stdio::null());
        if let Some(nodes) = &self.nodes {
            command.env("DOCENT_NODES", nodes);
        }
        command
    }

    /// Runs a text in a program; fails unless it ends with 0. Gives what it printed, white space made even.
    fn run(&self, program: &[&str], text: &str) -> Result<String> {
        let output = self.command("timeout").args(["180"]).args(program).arg(text).output()?;
        let printed = printed(&output);
        ensure!(output.status.success(), "ended with {}:\n{text}\n{printed}", output.status);
        Ok(printed.split_whitespace().collect::<Vec<_>>().join(" "))
    }

    /// Starts a command line and does not wait; its output goes to a file.
    fn start(&self, line: &str, log: &str) -> Result<Running> {
        let log = File::create(self.dir.path().join(log))?;
        let mut words = line.split_whitespace();
        let mut command = self.command(words.next().context("an empty command line")?);
        command.args(words).env("DOCENT_PARENT_PID", std::process::id().to_string());
        Ok(Running(command.stdout(log.try_clone()?).stderr(log).spawn()?))
    }
}

fn printed(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

fn is_free(base: u16) -> bool {
    let ports = [base - 100, base, base + 100].into_iter().flat_map(|first| (1..=3).map(move |n| first + n));
    ports.into_iter().all(|port| TcpListener::bind(("127.0.0.1", port)).is_ok())
}

#[test]
fn every_command_of_the_readme_is_run_or_skipped_for_a_reason() {
    let blocks = blocks().unwrap();
    let run: Vec<&str> = blocks.iter().map(|block| block.name.as_str()).filter(|name| *name != "skip").collect();
    let wanted: Vec<&str> =
        ["up"].into_iter().chain(JOURNEY.iter().map(|(name, _)| *name)).chain(MACHINES.iter().copied()).collect();
    assert_eq!(run, wanted, "the blocks of README.md that are run, in order");
    let skipped: Vec<&str> =
        blocks.iter().filter(|block| block.name == "skip").flat_map(|block| block.text.lines()).collect();
    let listed: Vec<&str> = SKIPPED.iter().map(|(command, _)| *command).collect();
    assert_eq!(skipped, listed, "the commands of README.md that are not run");
    let makefile = std::fs::read_to_string(root().join("Makefile")).unwrap();
    for target in skipped.iter().filter_map(|command| command.strip_prefix("make ")?.split(' ').next()) {
        assert!(
            makefile.lines().any(|line| line.starts_with(&format!("{target}:"))),
            "the Makefile has no target {target}"
        );
    }
}

#[test]
fn a_stranger_gets_from_nothing_to_recommendations_from_their_own_csv() {
    let _only_one = lab::lock().unwrap();
    // The README's ports where they are free; somebody's own cluster must not fail this test.
    let base = [7_500, 17_500, 27_500].into_iter().find(|base| is_free(*base)).expect("no free ports for `docent up`");
    let at = |text: &str| text.replace("127.0.0.1:75", &format!("127.0.0.1:{}", base / 100));
    let shell = Shell::new((base != 7_500).then(|| format!("127.0.0.1:{}", base + 1))).unwrap();
    let up = block("up").unwrap().trim().to_owned();
    let up = if base == 7_500 { up } else { format!("{up} --base-port {base}") };
    let mut cluster = shell.start(&up, "up.log").unwrap();
    for (name, expected) in JOURNEY {
        let program: &[&str] = if *name == "python" { &["python3", "-c"] } else { &["bash", "-euo", "pipefail", "-c"] };
        let printed = shell.run(program, &at(&block(name).unwrap())).unwrap_or_else(|error| {
            let log = std::fs::read_to_string(shell.dir.path().join("up.log")).unwrap_or_default();
            panic!("README.md, block {name}: {error}\ndocent up:\n{log}");
        });
        for part in *expected {
            assert!(printed.contains(part), "README.md, block {name}: {part:?} is not in\n{printed}");
        }
    }
    let status = cluster.end(Signal::SIGINT).unwrap();
    assert!(status.success(), "docent up ended with {status}");
}

/// One machine's copy of a text: its address on loopback and its own files. The first machine's own address is `10.0.0.11`.
fn of_machine(text: &str, machine: u16, dir: &Path) -> String {
    let own = ["listen", "internal_listen", "query_listen"];
    let line = |line: &str| match line.split_once(" = ") {
        Some((key, _)) if own.contains(&key) => line.replace("10.0.0.11:", &format!("10.0.0.1{machine}:")),
        Some(("id", _)) => format!("id = {machine}"),
        Some(("zone", _)) => format!("zone = \"rack-{machine}\""),
        _ => line.to_owned(),
    };
    let text: String = text.lines().map(|each| line(each) + "\n").collect();
    let root = dir.join(format!("machine-{machine}")).display().to_string();
    text.replace("10.0.0.", "127.0.0.")
        .replace("/etc/docent", &format!("{root}/etc"))
        .replace("/var/lib/docent", &format!("{root}/var"))
}

/// Copies a secret or a token, which must be private.
fn hand_over(from: &Path, to: &Path) -> Result<()> {
    let mode = std::fs::metadata(from)?.permissions().mode() & 0o777;
    ensure!(mode == 0o600, "{} has mode {mode:04o}", from.display());
    std::fs::copy(from, to)?;
    Ok(())
}

#[test]
fn settings_for_several_machines_need_the_word_insecure() {
    let shell = Shell::new(None).unwrap();
    for kind in ["coordinator", "node"] {
        let text: String = block(&format!("{kind}.toml"))
            .unwrap()
            .lines()
            .filter(|line| !line.starts_with("insecure"))
            .map(|line| format!("{line}\n"))
            .collect();
        let file = shell.dir.path().join("settings.toml");
        std::fs::write(&file, text).unwrap();
        let output = shell.command("docent").arg(kind).arg("--config").arg(&file).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{kind}: {}", printed(&output));
        assert!(printed(&output).contains("insecure = true"), "{kind}: {}", printed(&output));
    }
}

#[test]
fn a_cluster_on_several_machines_starts_from_the_readmes_files() {
    let _only_one = lab::lock().unwrap();
    let shell = Shell::new(None).unwrap();
    let dir = shell.dir.path();
    shell.run(&["bash", "-euo", "pipefail", "-c"], &block("secret").unwrap()).unwrap();
    let commands = block("machines").unwrap();
    let [coordinator, node, status] = commands.lines().collect::<Vec<_>>()[..] else {
        panic!("three commands: {commands}")
    };
    let (mut nodes, mut coordinators) = (Vec::new(), Vec::new());
    for machine in 1..=3 {
        let etc = dir.join(format!("machine-{machine}/etc"));
        std::fs::create_dir_all(&etc).unwrap();
        for file in ["coordinator.toml", "node.toml"] {
            std::fs::write(etc.join(file), of_machine(&block(file).unwrap(), machine, dir)).unwrap();
        }
        hand_over(&dir.join("secret"), &etc.join("secret")).unwrap();
        hand_over(&dir.join(format!("token-{machine}")), &etc.join("token")).unwrap();
        nodes.push(shell.start(&of_machine(node, machine, dir), &format!("node-{machine}.log")).unwrap());
        coordinators
            .push(shell.start(&of_machine(coordinator, machine, dir), &format!("coordinator-{machine}.log")).unwrap());
    }
    let printed = shell.run(&["bash", "-euo", "pipefail", "-c"], &of_machine(status, 1, dir)).unwrap();
    for part in ["(ready)", "127.0.0.11:7501", "127.0.0.12:7501", "127.0.0.13:7501", "rack-3 ┆ alive"] {
        assert!(printed.contains(part), "{part:?} is not in\n{printed}");
    }
    for mut member in nodes.into_iter().chain(coordinators) {
        let status = member.end(Signal::SIGTERM).unwrap();
        assert!(status.success(), "a member ended with {status} on SIGTERM");
    }
}
