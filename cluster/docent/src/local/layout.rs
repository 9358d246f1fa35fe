//! The directory of a local cluster.
//!
//! ```text
//! D/cluster.toml            what the cluster is made of; marks the directory as ours
//! D/secret                  0600, signs the join tokens
//! D/.lock                   held by the running `docent up`
//! D/coordinator-1/config.toml, D/coordinator-1/data/
//! D/node-1/config.toml, D/node-1/token (0600), D/node-1/data/
//! D/coordinator-1.log, D/node-1.log
//! ```
//! Settings files are written once and then the operator's to change.

use crate::failure::{Failure, Result};
use docent_coordinator::secret::Secret;
use serde::{Deserialize, Serialize};
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use toml::{Table, Value};

const MARKER: &str = "cluster.toml";
const FORMAT: u32 = 1;
/// Query ports are `base + i`, the nodes' internal ports `base + 100 + i`, the coordinators' `base - 100 + i`.
const PORT_STEP: u16 = 100;
/// Nodes: their ports must not run into the next kind's.
const NODES_MAX: u16 = 99;
/// Coordinators: more only slow every change down.
const COORDINATORS_MAX: u16 = 9;

/// What a local cluster is made of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Shape {
    /// The version of this file.
    pub format: u32,
    /// Nodes, 1 to 99.
    pub nodes: u16,
    /// Coordinators, 1 to 9; odd numbers make sense.
    pub coordinators: u16,
    /// See the ports above.
    pub base_port: u16,
    /// Replicas of each shard.
    pub replication: u16,
    /// The key of the slot hash, hexadecimal; drawn when the cluster is born if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub placement_key: Option<String>,
    /// User shards, where it is not the coordinator's default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user_shards: Option<u16>,
    /// Item shards, where it is not the coordinator's default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub item_shards: Option<u16>,
}

/// What the command line asks for; absent means whatever the directory has, else the default.
#[derive(Clone, Debug, Default)]
pub struct Wanted {
    /// Nodes, default 3.
    pub nodes: Option<u16>,
    /// Coordinators, default 3.
    pub coordinators: Option<u16>,
    /// Default 7500.
    pub base_port: Option<u16>,
    /// Default 3, at most the number of nodes.
    pub replication: Option<u16>,
    /// 32 hexadecimal digits.
    pub placement_key: Option<String>,
    /// User shards of a new cluster, the coordinator's default.
    pub user_shards: Option<u16>,
    /// Item shards of a new cluster, the coordinator's default.
    pub item_shards: Option<u16>,
}

impl Wanted {
    fn shape(&self) -> Result<Shape> {
        let nodes = self.nodes.unwrap_or(3);
        let coordinators = self.coordinators.unwrap_or(3);
        let base_port = self.base_port.unwrap_or(7_500);
        let replication = self.replication.unwrap_or(3.min(nodes));
        for (flag, n, max) in [("--nodes", nodes, NODES_MAX), ("--coordinators", coordinators, COORDINATORS_MAX)] {
            if !(1..=max).contains(&n) {
                return Err(Failure::usage(format!("{flag} {n}: must be 1 to {max}")));
            }
        }
        if !(1..=nodes).contains(&replication) {
            return Err(Failure::usage(format!(
                "--replication {replication}: must be 1 to the number of nodes, {nodes}"
            )));
        }
        if !(1_024 + PORT_STEP..=u16::MAX - 2 * PORT_STEP).contains(&base_port) {
            return Err(Failure::usage(format!("--base-port {base_port}: must be 1124 to 65335")));
        }
        if let Some(key) = &self.placement_key
            && (key.len() != 32 || !key.bytes().all(|b| b.is_ascii_hexdigit()))
        {
            return Err(Failure::usage(format!("--placement-key {key:?}: must be 32 hexadecimal digits")));
        }
        Ok(Shape {
            format: FORMAT,
            nodes,
            coordinators,
            base_port,
            replication,
            placement_key: self.placement_key.clone(),
            user_shards: self.user_shards,
            item_shards: self.item_shards,
        })
    }

    /// Refuses a directory whose cluster differs from what is explicitly asked for.
    fn check(&self, dir: &Path, has: &Shape) -> Result<()> {
        let differs = |flag: &str, wanted: Option<u16>, has: u16| match wanted {
            Some(wanted) if wanted != has => Some((format!("{flag} {wanted}"), format!("{flag} {has}"))),
            _ => None,
        };
        let numbers = [
            differs("--nodes", self.nodes, has.nodes),
            differs("--coordinators", self.coordinators, has.coordinators),
            differs("--base-port", self.base_port, has.base_port),
            differs("--replication", self.replication, has.replication),
        ];
        let key = match (&self.placement_key, &has.placement_key) {
            (Some(wanted), Some(has)) if wanted == has => None,
            (Some(_), _) => Some(("another --placement-key".to_owned(), "its own placement key".to_owned())),
            (None, _) => None,
        };
        match numbers.into_iter().flatten().chain(key).next() {
            None => Ok(()),
            Some((wanted, has)) => {
                let message = format!("{} holds a cluster made with {has}, not {wanted}", dir.display());
                Err(Failure::usage(message)
                    .advise("leave the flag out to start that cluster, or use another --data-dir"))
            }
        }
    }
}

/// Which kind of process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// Holds the catalog.
    Coordinator,
    /// Holds shards, answers queries.
    Node,
}

impl Kind {
    /// The subcommand that runs it.
    pub fn command(self) -> &'static str {
        match self {
            Kind::Coordinator => "coordinator",
            Kind::Node => "node",
        }
    }
}

/// One process of the cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Member {
    /// Which kind.
    pub kind: Kind,
    /// Its number, from 1.
    pub number: u16,
}

impl Member {
    /// `node-1`.
    pub fn name(self) -> String {
        format!("{}-{}", self.kind.command(), self.number)
    }
}

/// A directory that holds a local cluster, locked by us.
pub struct Layout {
    /// The absolute path.
    pub dir: PathBuf,
    /// What is in it.
    pub shape: Shape,
    /// Whether it was made just now.
    pub is_new: bool,
    /// Held as long as we run.
    _lock: File,
}

impl Layout {
    /// Makes the directory, or takes one that holds the cluster asked for; refuses every other.
    pub fn prepare(dir: &Path, wanted: &Wanted) -> Result<Layout> {
        let io = |error: std::io::Error| Failure::io("use", dir, &error);
        DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(io)?;
        let dir = dir.canonicalize().map_err(io)?;
        let marker = dir.join(MARKER);
        let has = match std::fs::read_to_string(&marker) {
            Ok(text) => Some(parse(&marker, &text)?),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
            Err(error) => return Err(Failure::io("read", &marker, &error)),
        };
        if has.is_none()
            && std::fs::read_dir(&dir).map_err(io)?.any(|entry| entry.is_ok_and(|e| e.file_name() != ".lock"))
        {
            let message = format!("{} is not empty and holds no cluster of `docent up` (no {MARKER})", dir.display());
            return Err(Failure::usage(message).advise("choose an empty or a new directory with --data-dir"));
        }
        let lock = lock(&dir)?;
        let (shape, is_new) = match has {
            Some(shape) => {
                wanted.check(&dir, &shape)?;
                (shape, false)
            }
            None => (wanted.shape()?, true),
        };
        let layout = Layout { dir, shape, is_new, _lock: lock };
        layout.complete()?;
        Ok(layout)
    }

    /// Writes what is missing: all of it in a new directory, the rest after an interrupted first start.
    fn complete(&self) -> Result<()> {
        let text = toml::to_string(&self.shape).map_err(|error| Failure::failed(error.to_string()))?;
        let head = "# Made by `docent up`, which starts this cluster again from here.\n";
        create(&self.dir.join(MARKER), &format!("{head}{text}"))?;
        let path = self.secret_file();
        let secret = if path.exists() { Secret::read(&path) } else { Secret::create(&path) }?;
        for member in self.members() {
            let dir = self.member_dir(member);
            DirBuilder::new().recursive(true).mode(0o700).create(&dir).map_err(|e| Failure::io("create", &dir, &e))?;
            let settings = match member.kind {
                Kind::Coordinator => self.coordinator(member.number),
                Kind::Node => {
                    let token = dir.join("token");
                    if !token.exists() {
                        create(&token, &format!("{}\n", secret.token()?))?;
                    }
                    self.node(member.number)
                }
            };
            create(&self.config(member), &settings.to_string())?;
        }
        Ok(())
    }

    fn coordinator(&self, number: u16) -> Table {
        let s = &self.shape;
        let mut table = Table::from_iter([
            ("data_dir".to_owned(), path(&self.member_dir(Member { kind: Kind::Coordinator, number }).join("data"))),
            ("id".to_owned(), Value::from(i64::from(number))),
            ("listen".to_owned(), Value::from(self.coordinator_addr(number))),
            ("coordinators".to_owned(), self.coordinator_addrs()),
            ("secret_file".to_owned(), path(&self.secret_file())),
            ("expect_nodes".to_owned(), Value::from(i64::from(s.nodes))),
            ("replication".to_owned(), Value::from(i64::from(s.replication))),
        ]);
        if let Some(key) = &s.placement_key {
            table.insert("placement_key".to_owned(), Value::from(key.as_str()));
        }
        for (name, shards) in [("user_shards", s.user_shards), ("item_shards", s.item_shards)] {
            if let Some(shards) = shards {
                table.insert(name.to_owned(), Value::from(i64::from(shards)));
            }
        }
        table
    }

    fn node(&self, number: u16) -> Table {
        let dir = self.member_dir(Member { kind: Kind::Node, number });
        Table::from_iter([
            ("data_dir".to_owned(), path(&dir.join("data"))),
            ("internal_listen".to_owned(), Value::from(address(self.shape.base_port + PORT_STEP + number))),
            ("query_listen".to_owned(), Value::from(self.query_addr(number))),
            ("coordinators".to_owned(), self.coordinator_addrs()),
            ("token_file".to_owned(), path(&dir.join("token"))),
        ])
    }

    fn coordinator_addrs(&self) -> Value {
        Value::Array((1..=self.shape.coordinators).map(|n| Value::from(self.coordinator_addr(n))).collect())
    }

    fn coordinator_addr(&self, number: u16) -> String {
        address(self.shape.base_port - PORT_STEP + number)
    }

    fn secret_file(&self) -> PathBuf {
        self.dir.join("secret")
    }

    fn member_dir(&self, member: Member) -> PathBuf {
        self.dir.join(member.name())
    }

    /// Every process, coordinators first.
    pub fn members(&self) -> Vec<Member> {
        let coordinators = (1..=self.shape.coordinators).map(|number| Member { kind: Kind::Coordinator, number });
        coordinators.chain((1..=self.shape.nodes).map(|number| Member { kind: Kind::Node, number })).collect()
    }

    /// A member's settings file.
    pub fn config(&self, member: Member) -> PathBuf {
        self.member_dir(member).join("config.toml")
    }

    /// A member's log.
    pub fn log(&self, member: Member) -> PathBuf {
        self.dir.join(format!("{}.log", member.name()))
    }

    /// Where clients reach node `number`.
    pub fn query_addr(&self, number: u16) -> String {
        address(self.shape.base_port + number)
    }

    /// Where clients reach the nodes.
    pub fn query_addrs(&self) -> Vec<String> {
        (1..=self.shape.nodes).map(|number| self.query_addr(number)).collect()
    }

    /// The addresses of a member: internal, and for clients.
    pub fn addrs(&self, member: Member) -> (String, String) {
        match member.kind {
            Kind::Coordinator => (self.coordinator_addr(member.number), String::new()),
            Kind::Node => (address(self.shape.base_port + PORT_STEP + member.number), self.query_addr(member.number)),
        }
    }
}

fn address(port: u16) -> String {
    format!("127.0.0.1:{port}")
}

fn path(path: &Path) -> Value {
    Value::from(path.display().to_string())
}

fn parse(marker: &Path, text: &str) -> Result<Shape> {
    let shape: Shape =
        toml::from_str(text).map_err(|error| Failure::usage(format!("{} is damaged: {error}", marker.display())))?;
    match shape.format {
        FORMAT => Ok(shape),
        newer => Err(Failure::usage(format!("{} has format {newer}; this docent reads {FORMAT}", marker.display()))
            .advise("run a newer docent")),
    }
}

fn lock(dir: &Path) -> Result<File> {
    let path = dir.join(".lock");
    let open = OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(&path);
    let file = open.map_err(|error| Failure::io("open", &path, &error))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(std::fs::TryLockError::WouldBlock) => {
            let message = format!("another `docent up` runs the cluster in {}", dir.display());
            Err(Failure::failed(message).advise("stop it first, or use another --data-dir and --base-port"))
        }
        Err(std::fs::TryLockError::Error(error)) => Err(Failure::io("lock", &path, &error)),
    }
}

/// Writes a file of mode 0600 unless it is there.
fn create(path: &Path, text: &str) -> Result<()> {
    let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    let written = match file {
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => return Ok(()),
        Err(error) => Err(error),
        Ok(mut file) => file.write_all(text.as_bytes()),
    };
    written.map_err(|error| Failure::io("create", path, &error))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn refused(dir: &Path, wanted: &Wanted) -> String {
        Layout::prepare(dir, wanted).err().expect("refused").to_string()
    }

    #[test]
    fn a_directory_is_made_reused_and_locked() {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join("a/b");
        let layout = Layout::prepare(&dir, &Wanted { nodes: Some(2), ..Wanted::default() }).unwrap();
        assert!(layout.is_new);
        assert_eq!((layout.shape.replication, layout.members().len()), (2, 5));
        assert!(refused(&dir, &Wanted::default()).contains("another `docent up`"));
        let token = std::fs::read_to_string(dir.join("node-2/token")).unwrap();
        drop(layout);
        let again = Layout::prepare(&dir, &Wanted { nodes: Some(2), ..Wanted::default() }).unwrap();
        assert!(!again.is_new);
        assert_eq!(std::fs::read_to_string(dir.join("node-2/token")).unwrap(), token);
        for file in ["secret", "node-1/token", "node-1/config.toml", "coordinator-3/config.toml"] {
            assert_eq!(std::fs::metadata(dir.join(file)).unwrap().permissions().mode() & 0o077, 0, "{file}");
        }
    }

    #[test]
    fn a_directory_with_another_cluster_or_other_content_is_refused_with_what_to_do() {
        let root = tempfile::tempdir().unwrap();
        drop(Layout::prepare(root.path(), &Wanted::default()).unwrap());
        for wanted in [
            Wanted { nodes: Some(4), ..Wanted::default() },
            Wanted { coordinators: Some(1), ..Wanted::default() },
            Wanted { base_port: Some(9_000), ..Wanted::default() },
            Wanted { placement_key: Some("0".repeat(32)), ..Wanted::default() },
        ] {
            assert!(refused(root.path(), &wanted).contains("--data-dir"), "{wanted:?}");
        }
        let other = tempfile::tempdir().unwrap();
        std::fs::write(other.path().join("thesis.tex"), "").unwrap();
        assert!(refused(other.path(), &Wanted::default()).contains("not empty"));
        assert_eq!(std::fs::read_dir(other.path()).unwrap().count(), 1, "nothing is written into a foreign directory");
    }

    #[test]
    fn impossible_shapes_are_usage_errors_and_leave_no_marker() {
        let root = tempfile::tempdir().unwrap();
        for (wanted, flag) in [
            (Wanted { nodes: Some(0), ..Wanted::default() }, "--nodes 0"),
            (Wanted { coordinators: Some(10), ..Wanted::default() }, "--coordinators 10"),
            (Wanted { replication: Some(4), ..Wanted::default() }, "--replication 4"),
            (Wanted { base_port: Some(80), ..Wanted::default() }, "--base-port 80"),
            (Wanted { placement_key: Some("xyz".to_owned()), ..Wanted::default() }, "--placement-key"),
        ] {
            assert!(refused(root.path(), &wanted).contains(flag), "{flag}");
        }
        assert!(!root.path().join(MARKER).exists());
        assert!(Layout::prepare(root.path(), &Wanted::default()).is_ok());
    }
}
