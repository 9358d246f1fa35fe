//! A cluster of real processes on loopback. One lab at a time on a machine: a lock keeps two apart. Everything started is ended by its
//! own process id, and every file lies in one temporary directory that goes with the lab.

use crate::client::Client;
use anyhow::{Context, Result, bail, ensure};
use nix::fcntl::{Flock, FlockArg};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs::File;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// What a lab starts.
#[derive(Clone, Debug)]
pub struct Options {
    /// Nodes.
    pub nodes: usize,
    /// Coordinators.
    pub coordinators: usize,
    /// Replicas of each shard.
    pub replication: usize,
    /// User shards.
    pub user_shards: usize,
    /// Item shards.
    pub item_shards: usize,
    /// The key of the slot hash, so that labs of different sizes place ids alike.
    pub placement_key: String,
    /// Further lines of every node's settings file.
    pub node_settings: String,
    /// Further lines of every coordinator's settings file.
    pub coordinator_settings: String,
    /// What the members run at first; the binary under test where it is not given.
    pub binary: Option<PathBuf>,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            nodes: 3,
            coordinators: 3,
            replication: 3,
            user_shards: 8,
            item_shards: 4,
            placement_key: "000102030405060708090a0b0c0d0e0f".to_owned(),
            node_settings: String::new(),
            coordinator_settings: String::new(),
            binary: None,
        }
    }
}

/// A process of a lab.
#[derive(Debug)]
pub struct Member {
    /// `coordinator-1`, `node-1`, ...
    pub name: String,
    kind: &'static str,
    config: PathBuf,
    log: PathBuf,
    child: Option<Child>,
    /// What its next start runs.
    pub binary: PathBuf,
    /// Where clients reach it; empty for a coordinator.
    pub query_addr: String,
}

/// A running cluster.
#[derive(Debug)]
pub struct Lab {
    /// Coordinators, from 0.
    pub coordinators: Vec<Member>,
    /// Nodes, from 0.
    pub nodes: Vec<Member>,
    dir: tempfile::TempDir,
    /// The coordinators' internal addresses, as settings files list them.
    list: String,
    node_settings: String,
    /// What a new member runs.
    binary: PathBuf,
    _only_one: Flock<File>,
}

/// The binary under test: beside the test's own.
pub fn docent() -> Result<PathBuf> {
    let own = std::env::current_exe()?;
    let found = own.ancestors().skip(1).take(3).map(|dir| dir.join("docent")).find(|path| path.is_file());
    found.with_context(|| format!("no docent binary beside {}: run `make build` first", own.display()))
}

/// Waits until no other lab runs on this machine, and keeps others away while it is held.
pub fn lock() -> Result<Flock<File>> {
    let file = File::create(std::env::temp_dir().join("docent-lab.lock"))?;
    Ok(Flock::lock(file, FlockArg::LockExclusive).map_err(|(_, error)| error)?)
}

/// Ports that nobody listens on, below those that the kernel gives to outgoing connections: a member that restarts must find its own free.
pub(crate) fn free_ports(count: usize) -> Result<Vec<u16>> {
    let range = 10_000..30_000u16;
    let first = (std::process::id() as usize).wrapping_mul(97) % range.len();
    let mut held = Vec::new();
    for port in range.clone().cycle().skip(first).take(range.len()) {
        if held.len() == count {
            break;
        }
        held.extend(TcpListener::bind(("127.0.0.1", port)));
    }
    ensure!(held.len() == count, "only {} free ports of {count}", held.len());
    held.iter().map(|listener| Ok(listener.local_addr()?.port())).collect()
}

fn run(arguments: &[&str]) -> Result<String> {
    let output = Command::new(docent()?).args(arguments).output()?;
    ensure!(output.status.success(), "docent {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8(output.stdout)?)
}

impl Lab {
    /// Starts a cluster and waits until every shard has a leader.
    pub fn start(options: &Options) -> Result<Lab> {
        let only_one = lock()?;
        let dir = tempfile::Builder::new().prefix("docent-lab-").tempdir()?;
        let mut lab = Lab {
            coordinators: Vec::new(),
            nodes: Vec::new(),
            dir,
            list: String::new(),
            node_settings: options.node_settings.clone(),
            binary: options.binary.clone().map_or_else(docent, Ok)?,
            _only_one: only_one,
        };
        lab.prepare(options)?;
        for member in lab.coordinators.iter_mut().chain(&mut lab.nodes) {
            member.start()?;
        }
        lab.wait_ready(Duration::from_secs(90))?;
        Ok(lab)
    }

    fn prepare(&mut self, options: &Options) -> Result<()> {
        let dir = self.dir.path().to_owned();
        let secret = dir.join("secret");
        run(&["secret", "create", path(&secret)?])?;
        let ports = free_ports(options.coordinators + 2 * options.nodes)?;
        let (coordinators, rest) = ports.split_at(options.coordinators);
        let list = coordinators.iter().map(|port| format!("\"127.0.0.1:{port}\"")).collect::<Vec<_>>().join(", ");
        for (i, port) in coordinators.iter().enumerate() {
            let name = format!("coordinator-{}", i + 1);
            let text = format!(
                "id = {}\ndata_dir = {:?}\nlisten = \"127.0.0.1:{port}\"\ncoordinators = [{list}]\nsecret_file = {secret:?}\nexpect_nodes = {}\nreplication = {}\nuser_shards = {}\nitem_shards = {}\nplacement_key = \"{}\"\n{}\n",
                i + 1,
                dir.join(&name),
                options.nodes,
                options.replication,
                options.user_shards,
                options.item_shards,
                options.placement_key,
                options.coordinator_settings,
            );
            let binary = self.binary.clone();
            self.coordinators.push(Member::write(&dir, name, "coordinator", &text, binary, String::new())?);
        }
        self.list = list;
        rest.chunks(2).try_for_each(|ports| self.write_node(ports))
    }

    /// The settings of one more node, with a token of its own.
    fn write_node(&mut self, ports: &[u16]) -> Result<()> {
        let dir = self.dir.path().to_owned();
        let name = format!("node-{}", self.nodes.len() + 1);
        let token = dir.join(format!("{name}.token"));
        std::fs::write(&token, run(&["token", "create", "--secret-file", path(&dir.join("secret"))?])?)?;
        std::fs::set_permissions(&token, std::os::unix::fs::PermissionsExt::from_mode(0o600))?;
        let text = format!(
            "data_dir = {:?}\ninternal_listen = \"127.0.0.1:{}\"\nquery_listen = \"127.0.0.1:{}\"\ncoordinators = [{}]\ntoken_file = {token:?}\n{}\n",
            dir.join(&name),
            ports[0],
            ports[1],
            self.list,
            self.node_settings,
        );
        let binary = self.binary.clone();
        self.nodes.push(Member::write(&dir, name, "node", &text, binary, format!("127.0.0.1:{}", ports[1]))?);
        Ok(())
    }

    /// Starts one more node, which joins the cluster, and waits until all are ready.
    pub fn add_node(&mut self) -> Result<()> {
        let ports = free_ports(2)?;
        self.write_node(&ports)?;
        self.nodes.iter_mut().last().context("no node was added")?.start()?;
        self.wait_ready(Duration::from_secs(90))
    }

    /// The lab's directory.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// A client of node `index`.
    pub fn client(&self, index: usize) -> Client {
        Client::new(&self.nodes[index].query_addr)
    }

    /// Query addresses of all nodes, as `--node` takes them.
    pub fn addresses(&self) -> Vec<String> {
        self.nodes.iter().map(|node| node.query_addr.clone()).collect()
    }

    /// Waits until every living node says that it is ready; on a time-out, with the tails of the logs.
    pub fn wait_ready(&mut self, within: Duration) -> Result<()> {
        let start = Instant::now();
        loop {
            self.notice_deaths()?;
            let living = self.nodes.iter().filter(|node| node.child.is_some());
            if living.clone().all(|node| Client::new(&node.query_addr).is_ready()) {
                return Ok(());
            }
            if start.elapsed() > within {
                bail!("the cluster is not ready after {within:?}\n{}", self.logs(30));
            }
            std::thread::sleep(Duration::from_millis(50)); // between polls of another process
        }
    }

    fn notice_deaths(&mut self) -> Result<()> {
        for member in self.coordinators.iter_mut().chain(&mut self.nodes) {
            if let Some(child) = &mut member.child
                && let Some(status) = child.try_wait()?
            {
                bail!("{} ended by itself ({status}):\n{}", member.name, member.tail(30));
            }
        }
        Ok(())
    }

    /// Every member.
    pub fn members(&mut self) -> impl Iterator<Item = &mut Member> {
        self.coordinators.iter_mut().chain(&mut self.nodes)
    }

    /// SIGKILL to every process at once, then all of them again.
    pub fn kill_all_and_restart(&mut self) -> Result<()> {
        self.members().try_for_each(Member::kill)?;
        self.members().try_for_each(Member::start)?;
        self.wait_ready(Duration::from_secs(90))
    }

    /// The last lines of every log.
    pub fn logs(&self, lines: usize) -> String {
        let members = self.coordinators.iter().chain(&self.nodes);
        members.map(|member| format!("--- {}\n{}\n", member.name, member.tail(lines))).collect()
    }

    /// Runs the tool against this cluster; returns what it printed.
    pub fn docent(&self, arguments: &[&str]) -> Result<String> {
        let output = self.docent_output(arguments)?;
        ensure!(
            output.status.success(),
            "docent {arguments:?} ended with {}:\n{}{}",
            output.status,
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(String::from_utf8(output.stdout)?)
    }

    /// As [`Lab::docent`], whatever the exit status.
    pub fn docent_output(&self, arguments: &[&str]) -> Result<std::process::Output> {
        let nodes = self.addresses().join(",");
        Ok(Command::new(docent()?).args(arguments).env("DOCENT_NODES", nodes).output()?)
    }

    /// Starts the tool against this cluster and does not wait.
    pub fn docent_spawn(&self, arguments: &[&str]) -> Result<Child> {
        let nodes = self.addresses().join(",");
        let mut command = Command::new(docent()?);
        command.args(arguments).env("DOCENT_NODES", nodes).stdout(Stdio::piped()).stderr(Stdio::piped());
        Ok(command.spawn()?)
    }

    /// User plus system time of all processes, in seconds.
    pub fn cpu_seconds(&self) -> Result<f64> {
        let pids = self.coordinators.iter().chain(&self.nodes).filter_map(Member::pid);
        pids.map(cpu_seconds).sum()
    }

    /// Lines of WARN, ERROR or panic in any log.
    pub fn complaints(&self) -> Vec<String> {
        let mut found = Vec::new();
        for member in self.coordinators.iter().chain(&self.nodes) {
            let text = std::fs::read_to_string(&member.log).unwrap_or_default();
            let is_complaint =
                |line: &&str| line.contains(" WARN ") || line.contains(" ERROR ") || line.contains("panicked");
            found.extend(text.lines().filter(is_complaint).map(|line| format!("{}: {line}", member.name)));
        }
        found
    }
}

/// CPU seconds of a process, from `/proc/PID/stat` (fields 14 and 15, in clock ticks of 1/100 s).
pub fn cpu_seconds(pid: i32) -> Result<f64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let after_name = stat.rsplit(')').next().context("malformed stat")?;
    let ticks: u64 = after_name.split_whitespace().skip(11).take(2).map(|t| t.parse::<u64>().unwrap_or(0)).sum();
    Ok(ticks as f64 / 100.0)
}

fn path(path: &Path) -> Result<&str> {
    path.to_str().context("path is not UTF-8")
}

impl Member {
    fn write(
        dir: &Path,
        name: String,
        kind: &'static str,
        text: &str,
        binary: PathBuf,
        query_addr: String,
    ) -> Result<Member> {
        let config = dir.join(format!("{name}.toml"));
        std::fs::write(&config, text)?;
        let log = dir.join(format!("{name}.log"));
        Ok(Member { name, kind, config, log, child: None, binary, query_addr })
    }

    /// Starts the process.
    pub fn start(&mut self) -> Result<()> {
        let log = File::options().create(true).append(true).open(&self.log)?;
        let mut command = Command::new(&self.binary);
        command.arg(self.kind).arg("--config").arg(&self.config).stdin(Stdio::null());
        command.stdout(log.try_clone()?).stderr(log).env("DOCENT_PARENT_PID", std::process::id().to_string());
        self.child = Some(command.spawn()?);
        Ok(())
    }

    /// Its process id while it runs.
    pub fn pid(&self) -> Option<i32> {
        self.child.as_ref().and_then(|child| i32::try_from(child.id()).ok())
    }

    /// SIGKILL.
    pub fn kill(&mut self) -> Result<()> {
        if let Some(mut child) = self.child.take() {
            child.kill()?;
            child.wait()?;
        }
        Ok(())
    }

    /// SIGTERM; waits for the end.
    pub fn terminate(&mut self) -> Result<std::process::ExitStatus> {
        let mut child = self.child.take().context("not running")?;
        kill(Pid::from_raw(i32::try_from(child.id())?), Signal::SIGTERM)?;
        Ok(child.wait()?)
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        let pid = self.pid().context("not running")?;
        Ok(kill(Pid::from_raw(pid), signal)?)
    }

    /// The last lines of its log.
    pub fn tail(&self, lines: usize) -> String {
        let text = std::fs::read_to_string(&self.log).unwrap_or_default();
        let all: Vec<&str> = text.lines().collect();
        all[all.len().saturating_sub(lines)..].join("\n")
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        // A process that is gone already is what we want.
        let _gone = self.kill();
    }
}
