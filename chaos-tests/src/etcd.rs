//! Three etcd members on loopback (Debian's `etcd-server`): what our failover is measured beside.

use crate::client::Client;
use crate::lab::free_ports;
use crate::timers::Etcd as Timers;
use anyhow::{Context, Result, ensure};
use serde_json::json;
use std::fs::File;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// One member.
#[derive(Debug)]
struct Member {
    name: String,
    arguments: Vec<String>,
    log: PathBuf,
    client_addr: String,
    child: Option<Child>,
}

/// A running etcd cluster; its files go with it.
#[derive(Debug)]
pub struct Etcd {
    members: Vec<Member>,
    _dir: tempfile::TempDir,
}

/// What `etcd --version` says in its first line.
///
/// # Errors
/// etcd is not installed.
pub fn version() -> Result<String> {
    let output = Command::new("etcd").arg("--version").output();
    let output = output.context("etcd is not installed: `make bench-failover` fetches it, or use --without-etcd")?;
    Ok(String::from_utf8_lossy(&output.stdout).lines().next().unwrap_or_default().to_owned())
}

impl Etcd {
    /// Three members with these timers and real data directories, once they have a leader.
    pub fn start(timers: Timers) -> Result<Etcd> {
        let dir = tempfile::Builder::new().prefix("docent-etcd-").tempdir()?;
        let ports = free_ports(6)?;
        let peers = ports.iter().step_by(2).enumerate();
        let all = peers.map(|(i, port)| format!("m{i}=http://127.0.0.1:{port}")).collect::<Vec<_>>().join(",");
        let members = ports.chunks(2).enumerate().map(|(i, ports)| {
            let name = format!("m{i}");
            let (peer, client) = (format!("http://127.0.0.1:{}", ports[0]), format!("http://127.0.0.1:{}", ports[1]));
            let flags = [
                ("name", name.clone()),
                ("data-dir", dir.path().join(&name).display().to_string()),
                ("listen-peer-urls", peer.clone()),
                ("initial-advertise-peer-urls", peer),
                ("listen-client-urls", client.clone()),
                ("advertise-client-urls", client),
                ("initial-cluster", all.clone()),
                ("initial-cluster-state", "new".to_owned()),
                ("heartbeat-interval", timers.heartbeat.to_string()),
                ("election-timeout", timers.election_ms().to_string()),
            ];
            let arguments = flags.iter().map(|(flag, value)| format!("--{flag}={value}")).collect();
            let log = dir.path().join(format!("{name}.log"));
            Member { name, arguments, log, client_addr: format!("127.0.0.1:{}", ports[1]), child: None }
        });
        let mut etcd = Etcd { members: members.collect(), _dir: dir };
        etcd.members.iter_mut().try_for_each(Member::start)?;
        etcd.wait_ready(Duration::from_secs(60))?;
        Ok(etcd)
    }

    /// Waits until every member acknowledges a write.
    pub fn wait_ready(&self, within: Duration) -> Result<()> {
        let start = Instant::now();
        for member in &self.members {
            while !put(&Client::new(&member.client_addr)) {
                let tail = std::fs::read_to_string(&member.log).unwrap_or_default();
                let tail = &tail[tail.len().saturating_sub(2_000)..];
                ensure!(start.elapsed() < within, "etcd's {} is not ready after {within:?}:\n{tail}", member.name);
                std::thread::sleep(Duration::from_millis(50)); // between polls of another process
            }
        }
        Ok(())
    }

    /// Which member leads.
    ///
    /// # Errors
    /// None says so.
    pub fn leader(&self) -> Result<usize> {
        let leads = |member: &Member| {
            let (_, said) = Client::new(&member.client_addr).post("/v3/maintenance/status", &json!({})).ok()?;
            Some(said["leader"].as_str()? == said["header"]["member_id"].as_str()?)
        };
        self.members.iter().position(|member| leads(member) == Some(true)).context("no etcd member leads")
    }

    /// Client addresses of all but one.
    pub fn survivors(&self, dead: usize) -> Vec<String> {
        let others = self.members.iter().enumerate().filter(|(i, _)| *i != dead);
        others.map(|(_, member)| member.client_addr.clone()).collect()
    }

    /// Client addresses.
    pub fn addresses(&self) -> Vec<String> {
        self.members.iter().map(|member| member.client_addr.clone()).collect()
    }

    /// SIGKILL.
    pub fn kill(&mut self, index: usize) -> Result<()> {
        self.members[index].kill()
    }

    /// The member again, on its data; waits until all are there.
    pub fn restart(&mut self, index: usize) -> Result<()> {
        self.members[index].start()?;
        self.wait_ready(Duration::from_secs(60))
    }
}

/// Writes one key through a member; whether it was acknowledged.
pub fn put(client: &Client) -> bool {
    // "probe" and "v" in base64, as etcd's JSON gateway wants them.
    let body = json!({ "key": "cHJvYmU=", "value": "dg==" });
    client.post("/v3/kv/put", &body).is_ok_and(|(status, said)| status == 200 && said["header"].is_object())
}

impl Member {
    fn start(&mut self) -> Result<()> {
        let log = File::options().create(true).append(true).open(&self.log)?;
        // Like our own members it does not outlive the process that started it, however that one ends.
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "etcd"]).args(&self.arguments).stdin(Stdio::null());
        self.child = Some(command.stdout(log.try_clone()?).stderr(log).spawn().context("setpriv (util-linux)")?);
        Ok(())
    }

    fn kill(&mut self) -> Result<()> {
        if let Some(mut child) = self.child.take() {
            child.kill()?;
            child.wait()?;
        }
        Ok(())
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        // A process that is gone already is what we want.
        let _gone = self.kill();
    }
}
