//! The file in which an engineer names a cluster: its members, where clients reach them, and how each process is reached.
//!
//! ```toml
//! cluster_id = "8cab85a6c80ab35f79b2a4deccced3a2"      # optional: another cluster at these addresses is refused
//!
//! [commands]                                           # for every member without one of its own; {name} and {host} are put in
//! kill = "ssh {host} systemctl kill -s KILL docent-{name}"
//! pause = "ssh {host} systemctl kill -s STOP docent-{name}"
//! resume = "ssh {host} systemctl kill -s CONT docent-{name}"
//! stop = "ssh {host} systemctl stop docent-{name}"
//! start = "ssh {host} systemctl start docent-{name}"
//!
//! [[members]]
//! name = "node-1"
//! host = "10.0.0.11"
//! query = "10.0.0.11:7501"
//! ```

use anyhow::{Context, Result, bail, ensure};
use docent_trial::{Member, Role};
use serde::Deserialize;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// A named cluster.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cluster {
    /// The cluster that must be there, from `GET /v1/cluster`.
    pub cluster_id: Option<String>,
    /// The `docent` tool; beside this program, or on the path, where it is not given.
    pub tool: Option<PathBuf>,
    /// The members' `raft.election_timeout_max_ms`.
    #[serde(default = "default_election_timeout")]
    pub election_timeout_max_ms: u64,
    /// How long a command may take.
    #[serde(default = "default_command_timeout")]
    pub command_timeout_ms: u64,
    /// For every member that has none of its own.
    #[serde(default)]
    pub commands: Commands,
    /// Everybody.
    pub members: Vec<Named>,
}

/// Shell commands by what they do; `{name}`, `{host}` and `{pid}` are put in.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Commands {
    /// SIGKILL.
    pub kill: Option<String>,
    /// SIGSTOP.
    pub pause: Option<String>,
    /// SIGCONT.
    pub resume: Option<String>,
    /// SIGTERM; returns when the process has ended.
    pub stop: Option<String>,
    /// Starts the process and returns.
    pub start: Option<String>,
    /// Ends with 0 while the process runs.
    pub is_running: Option<String>,
}

/// A member.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Named {
    /// `node-1`, `coordinator-2`; the number of a coordinator is its id.
    pub name: Member,
    /// A node's query address.
    pub query: Option<String>,
    /// What `{host}` stands for.
    #[serde(default)]
    pub host: String,
    /// A file with the id of its process on this machine: then kill, pause, resume and stop need no command.
    pub pid_file: Option<PathBuf>,
    /// Its log on this machine, if it can be read.
    pub log_file: Option<PathBuf>,
    /// Its own commands.
    #[serde(default)]
    pub commands: Commands,
}

fn default_election_timeout() -> u64 {
    1_500
}

fn default_command_timeout() -> u64 {
    30_000
}

impl Cluster {
    /// Reads a file.
    ///
    /// # Errors
    /// It cannot be read, or the first key that is wrong, by its name.
    pub fn read(path: &Path) -> Result<Cluster> {
        let text = std::fs::read_to_string(path)
            .with_context(|| format!("cannot read the cluster file {}", path.display()))?;
        Cluster::parse(&text).with_context(|| format!("the cluster file {}", path.display()))
    }

    /// Reads its text.
    ///
    /// # Errors
    /// The first key that is wrong, by its name.
    pub fn parse(text: &str) -> Result<Cluster> {
        let cluster: Cluster = toml::from_str(text)?;
        ensure!(!cluster.members.is_empty(), "`members` is empty: list every member of the cluster");
        let mut names = BTreeSet::new();
        for (place, member) in cluster.members.iter().enumerate() {
            ensure!(names.insert(member.name), "`members[{place}].name`: {} is there twice", member.name);
            match (member.name.role, &member.query) {
                (Role::Node, None) => bail!("`members[{place}].query` is missing: where clients reach {}", member.name),
                (Role::Coordinator, Some(_)) => bail!("`members[{place}].query`: a coordinator has no query address"),
                _ => {}
            }
        }
        ensure!(names.iter().any(|name| name.role == Role::Node), "`members` has no node");
        Ok(cluster)
    }

    /// What runs for a member: its own command, or that of all.
    pub fn command(&self, member: &Named, pick: fn(&Commands) -> &Option<String>) -> Option<String> {
        let text = pick(&member.commands).as_ref().or(pick(&self.commands).as_ref())?;
        let pid = member.pid().map_or_else(|_| String::new(), |pid| pid.to_string());
        Some(text.replace("{name}", &member.name.to_string()).replace("{host}", &member.host).replace("{pid}", &pid))
    }
}

impl Named {
    /// What its pid file says.
    ///
    /// # Errors
    /// There is none, or it holds no process id.
    pub fn pid(&self) -> Result<i32> {
        let path = self.pid_file.as_ref().with_context(|| format!("{} has no `pid_file`", self.name))?;
        let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
        let pid: i32 = text.trim().parse().with_context(|| format!("{} holds no process id", path.display()))?;
        // 0 and below are groups of processes, 1 is the machine's.
        ensure!(pid > 1, "{} holds {pid}, which is no member's process", path.display());
        Ok(pid)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_a_members_own_or_those_of_all() {
        let text = "[commands]\nkill = \"ssh {host} kill {name}\"\nstart = \"run {name}\"\n\
                    [[members]]\nname = \"node-1\"\nhost = \"h1\"\nquery = \"h1:7501\"\ncommands = { start = \"mine\" }\n";
        let cluster = Cluster::parse(text).unwrap();
        let of = |pick| cluster.command(&cluster.members[0], pick);
        assert_eq!(of(|commands| &commands.kill).as_deref(), Some("ssh h1 kill node-1"));
        assert_eq!((of(|commands| &commands.start).as_deref(), of(|commands| &commands.pause)), (Some("mine"), None));
    }

    #[test]
    fn what_is_wrong_is_named() {
        let error = |text: &str| format!("{:#}", Cluster::parse(text).unwrap_err());
        assert!(error("members = []").contains("`members` is empty"));
        assert!(error("[[members]]\nname = \"node-1\"\n").contains("`members[0].query` is missing"));
        assert!(error("[[members]]\nname = \"node-1\"\nquerry = \"h:1\"\n").contains("unknown field `querry`"));
        assert!(error("[[members]]\nname = \"server-1\"\n").contains("node-2 or coordinator-1 was expected"));
    }
}
