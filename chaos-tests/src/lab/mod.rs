//! A cluster of real processes. One lab at a time on a machine: a lock keeps two apart. Everything started is ended by its own process
//! id, and every file lies in one temporary directory that goes with the lab.
//!
//! By itself a lab runs on loopback, with a directory a member, and needs nothing of the machine. On a better [`Ground`] every member has
//! a network namespace, a disk, a clock of its own, and faults can be done to them: [`world::LabWorld`].
//!
//! | module | owns |
//! |---|---|
//! | [`member`] | one process, and what it stands on |
//! | [`probe`] | what the machine allows, and why not |
//! | [`net`], [`rules`], [`lag`] | namespaces on a bridge; what is wrong between them; packets that come late |
//! | [`disk`] | a file system that can lose power, run full, fall back to read-only |
//! | [`shim`] | a clock that jumps and drifts, syncs that are slow or fail |
//! | [`cage`] | processor and memory |
//! | [`repeater`] | calls that arrive twice |
//! | [`world`] | all of it as a `docent_trial::World` |
//! | [`tool`] | the machine's tools, and our C |

pub mod cage;
pub mod disk;
pub mod lag;
pub mod member;
pub mod net;
pub mod probe;
pub mod repeater;
pub mod rules;
pub mod shim;
pub mod tool;
pub mod world;

pub use member::{Member, Site};
pub use probe::{Abilities, Ground};

use crate::client::Client;
use anyhow::{Context, Result, bail, ensure};
use disk::Shelf;
use net::Network;
use nix::fcntl::{Flock, FlockArg};
use repeater::Repeater;
use shim::Shim;
use std::fs::File;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Ports of members that have an address of their own.
const INTERNAL_PORT: u16 = 7_400;
const QUERY_PORT: u16 = 7_501;

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
    /// What lies under the members; it must be there ([`Abilities::ground`]).
    pub ground: Ground,
    /// Zones, given to nodes in turn; one for all where there are none.
    pub zones: Vec<String>,
    /// Whether a [`repeater`] stands before every node; on loopback alone.
    pub repeats: bool,
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
            ground: Ground::default(),
            zones: Vec::new(),
            repeats: false,
        }
    }
}

/// A running cluster.
#[derive(Debug)]
pub struct Lab {
    /// Coordinators, from 0.
    pub coordinators: Vec<Member>,
    /// Nodes, from 0.
    pub nodes: Vec<Member>,
    // What members stand on goes after them, and before the directory: fields are dropped in their order.
    shelf: Option<Shelf>,
    network: Option<Network>,
    repeater: Option<Repeater>,
    dir: tempfile::TempDir,
    /// The coordinators' internal addresses, as settings files list them.
    list: String,
    /// What it was started with; further members are made alike.
    options: Options,
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
        let dir = disk::workshop()?;
        let mut lab = Lab {
            coordinators: Vec::new(),
            nodes: Vec::new(),
            shelf: options.ground.disks.then(|| Shelf::build(&dir.path().join("images"))).transpose()?,
            network: options.ground.network.then(|| Network::build(dir.path())).transpose()?,
            repeater: options.repeats.then(Repeater::build).transpose()?,
            dir,
            list: String::new(),
            options: options.clone(),
            binary: options.binary.clone().map_or_else(docent, Ok)?,
            _only_one: only_one,
        };
        lab.prepare()?;
        for member in lab.coordinators.iter_mut().chain(&mut lab.nodes) {
            member.start()?;
        }
        lab.wait_ready(Duration::from_secs(90))?;
        // A build of before formats would never tell one.
        if options.binary.is_none() {
            lab.wait_format(Duration::from_secs(90))?;
        }
        Ok(lab)
    }

    fn prepare(&mut self) -> Result<()> {
        let secret = self.dir.path().join("secret");
        run(&["secret", "create", path(&secret)?])?;
        let count = self.options.coordinators;
        let ports = match self.network {
            Some(_) => vec![INTERNAL_PORT, QUERY_PORT],
            None => free_ports(count + 2 * self.options.nodes)?,
        };
        let sites =
            (0..count).map(|place| self.site(&format!("coordinator-{}", place + 1))).collect::<Result<Vec<_>>>()?;
        let port = |place: usize| if self.network.is_some() { INTERNAL_PORT } else { ports[place] };
        let addrs: Vec<String> =
            sites.iter().enumerate().map(|(at, (host, ..))| format!("{host}:{}", port(at))).collect();
        self.list = addrs.iter().map(|addr| format!("\"{addr}\"")).collect::<Vec<_>>().join(", ");
        for (place, ((_, data, site), addr)) in sites.into_iter().zip(addrs).enumerate() {
            self.write_coordinator(place + 1, &addr, data, site)?;
        }
        for place in 0..self.options.nodes {
            let own = if self.network.is_some() {
                [INTERNAL_PORT, QUERY_PORT]
            } else {
                [0, 1].map(|i| ports[count + 2 * place + i])
            };
            self.write_node(own, None)?;
        }
        Ok(())
    }

    /// Where a new member lives: its host, its data directory, what it stands on.
    fn site(&mut self, name: &str) -> Result<(String, PathBuf, Site)> {
        let dir = self.dir.path().to_owned();
        let home = self.network.as_mut().map(Network::add).transpose()?;
        let disk = self.shelf.as_ref().map(|shelf| shelf.disk(&dir, name)).transpose()?;
        let shim = self.options.ground.shim.then(|| Shim::build(&dir, name)).transpose()?;
        let host = home.as_ref().map_or_else(|| "127.0.0.1".to_owned(), |home| home.address.to_string());
        let data = disk.as_ref().map_or_else(|| dir.join(name), |disk| disk.root().join("data"));
        Ok((host, data, Site { home, disk, shim, cage: None }))
    }

    fn write_coordinator(&mut self, number: usize, addr: &str, data: PathBuf, site: Site) -> Result<()> {
        let (dir, options) = (self.dir.path(), &self.options);
        let text = format!(
            "id = {number}\ndata_dir = {data:?}\nlisten = \"{addr}\"\ncoordinators = [{}]\nsecret_file = {:?}\nexpect_nodes = {}\nreplication = {}\nuser_shards = {}\nitem_shards = {}\nplacement_key = \"{}\"\n{}{}\n",
            self.list,
            dir.join("secret"),
            options.nodes,
            options.replication,
            options.user_shards,
            options.item_shards,
            options.placement_key,
            self.trust(),
            options.coordinator_settings,
        );
        let name = (format!("coordinator-{number}"), "coordinator");
        self.coordinators.push(Member::write(dir, name, &text, self.binary.clone(), (String::new(), data, site))?);
        Ok(())
    }

    /// Nobody but this machine reaches the lab's own network.
    fn trust(&self) -> &'static str {
        if self.network.is_some() { "insecure = true\n" } else { "" }
    }

    /// A join token of its own for a node.
    fn write_token(&self, name: &str) -> Result<PathBuf> {
        let token = self.dir.path().join(format!("{name}.token"));
        std::fs::write(&token, run(&["token", "create", "--secret-file", path(&self.dir.path().join("secret"))?])?)?;
        std::fs::set_permissions(&token, std::os::unix::fs::PermissionsExt::from_mode(0o600))?;
        Ok(token)
    }

    /// The settings of one more node.
    fn write_node(&mut self, [internal, query]: [u16; 2], zone: Option<&str>) -> Result<()> {
        let place = self.nodes.len();
        let name = format!("node-{}", place + 1);
        let (host, data, site) = self.site(&name)?;
        let token = self.write_token(&name)?;
        let zones = &self.options.zones;
        let zone = zone.or_else(|| zones.get(place % zones.len().max(1)).map(String::as_str));
        let zone = zone.map(|zone| format!("zone = \"{zone}\"\n")).unwrap_or_default();
        let query_addr = format!("{host}:{query}");
        let internal = format!("{host}:{internal}");
        let advertised = match &self.repeater {
            Some(repeater) => format!("advertise_internal = \"{}\"\n", repeater.before(&internal)?),
            None => String::new(),
        };
        let text = format!(
            "data_dir = {data:?}\ninternal_listen = \"{internal}\"\n{advertised}query_listen = \"{query_addr}\"\ncoordinators = [{}]\ntoken_file = {token:?}\n{}{zone}{}\n",
            self.list,
            self.trust(),
            self.options.node_settings,
        );
        let binary = self.binary.clone();
        self.nodes.push(Member::write(self.dir.path(), (name, "node"), &text, binary, (query_addr, data, site))?);
        Ok(())
    }

    /// Starts one more node, which joins the cluster, and waits until all are ready.
    pub fn add_node(&mut self) -> Result<()> {
        self.launch_node(None)?;
        self.wait_ready(Duration::from_secs(90))
    }

    /// Starts one more node, in a zone; the next one in turn where none is named.
    pub fn launch_node(&mut self, zone: Option<&str>) -> Result<()> {
        let ports = match self.network {
            Some(_) => [INTERNAL_PORT, QUERY_PORT],
            None => free_ports(2)?.try_into().map_err(|_| anyhow::anyhow!("no two free ports"))?,
        };
        self.write_node(ports, zone)?;
        self.nodes.iter_mut().last().context("no node was added")?.start()
    }

    /// A dead node loses all of its data, and is a new one when it starts again.
    pub fn wipe_node(&mut self, place: usize) -> Result<()> {
        self.write_token(&format!("node-{}", place + 1))?;
        let node = &self.nodes[place];
        ensure!(node.child.is_none(), "{} runs: its data cannot go", node.name);
        match &node.site.disk {
            Some(disk) => disk.replace(),
            None => Ok(std::fs::remove_dir_all(&node.data)?),
        }
    }

    /// The network, where the lab has one of its own.
    pub fn network(&mut self) -> Option<&mut Network> {
        self.network.as_mut()
    }

    /// What stands before the nodes, where something does.
    pub fn repeater(&self) -> Option<&Repeater> {
        self.repeater.as_ref()
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

    /// Waits until the cluster uses the format that every member understands, and gives it: until then newer kinds of jobs are refused.
    pub fn wait_format(&self, within: Duration) -> Result<u64> {
        let start = Instant::now();
        loop {
            let (_, state) = self.client(0).get("/v1/cluster")?;
            let members = ["coordinators", "nodes"].map(|kind| state[kind].as_array().cloned().unwrap_or_default());
            let lowest = members.concat().iter().map(|member| member["format"].as_u64().unwrap_or(1)).min();
            match lowest {
                Some(lowest) if lowest > 1 && state["format"] == lowest => return Ok(lowest),
                _ => ensure!(start.elapsed() < within, "the format did not rise: {state:#}\n{}", self.logs(10)),
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
