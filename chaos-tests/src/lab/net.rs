//! A network of a lab's own: one namespace a member, joined by a bridge; what is wrong in it follows [`Rules`]. Everything carries the
//! lab's tag (`dl`, its process id and a letter), is taken down when it is dropped, and, where a run was killed, by the next lab's [`sweep`].

use crate::lab::lag::Forwarder;
use crate::lab::rules::{Rules, Way};
use crate::lab::tool::{self, lives, run, run_with};
use anyhow::{Context, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

/// Before the process id in every name.
const PREFIX: &str = "dl";
/// The first member's last byte; the bridge, where clients are, has 1.
const FIRST: u8 = 11;

/// Where one member lives.
#[derive(Clone, Debug)]
pub struct Home {
    /// Its namespace's name.
    pub namespace: String,
    /// Its address.
    pub address: Ipv4Addr,
}

/// A bridge and the namespaces on it.
#[derive(Debug)]
pub struct Network {
    tag: String,
    subnet: u8,
    homes: Vec<Home>,
    rules: Rules,
    /// Packets lost by rules that are gone.
    lost: u64,
    forwarder: Option<Forwarder>,
    /// Where the forwarder is built.
    workshop: PathBuf,
}

impl Home {
    /// The file that stands for its namespace.
    pub fn file(&self) -> PathBuf {
        Path::new("/run/netns").join(&self.namespace)
    }

    /// Starts a command inside: `nsenter` becomes it, so the process id stays.
    pub fn wrap(&self) -> Vec<String> {
        vec!["nsenter".to_owned(), format!("--net={}", self.file().display())]
    }

    /// Runs a tool inside.
    pub fn run(&self, arguments: &[&str], input: &str) -> Result<String> {
        let net = format!("--net={}", self.file().display());
        let all: Vec<&str> = std::iter::once(net.as_str()).chain(arguments.iter().copied()).collect();
        run_with("nsenter", &all, input)
    }
}

/// Why there can be no network of our own here; `None` where there can.
pub fn why_not() -> Option<String> {
    if !tool::is_root() {
        return Some("network namespaces need root".to_owned());
    }
    let tried = tempfile::tempdir().map_err(anyhow::Error::from).and_then(|dir| {
        let mut network = Network::build(dir.path())?;
        let home = network.add()?;
        network.set(Rules { cut: [(Ipv4Addr::LOCALHOST, home.address)].into(), ..Rules::default() })
    });
    tried.err().map(|error| format!("{error:#}"))
}

impl Network {
    /// An empty one, on the first free `10.77.x.0/24`. `workshop` is a directory for what it compiles.
    pub fn build(workshop: &Path) -> Result<Network> {
        sweep()?;
        let letter = char::from(b'a' + (tool::serial() % 26) as u8);
        let tag = format!("{PREFIX}{}{letter}", std::process::id());
        run("ip", &["link", "add", &tag, "type", "bridge"])?;
        let mut network = Network {
            tag,
            subnet: 0,
            homes: Vec::new(),
            rules: Rules::default(),
            lost: 0,
            forwarder: None,
            workshop: workshop.to_owned(),
        };
        network.take_subnet()?;
        run("ip", &["link", "set", &network.tag, "up"])?;
        Ok(network)
    }

    /// The bridge's own address is the claim; where two labs claimed at once, the later sees two and goes on.
    fn take_subnet(&mut self) -> Result<()> {
        for subnet in 0..=255 {
            let address = format!("10.77.{subnet}.1/24");
            let claims = || Ok::<_, anyhow::Error>(run("ip", &["-4", "-o", "addr"])?.matches(&address).count());
            if claims()? == 0 {
                run("ip", &["addr", "add", &address, "dev", &self.tag])?;
                if claims()? == 1 {
                    self.subnet = subnet;
                    return Ok(());
                }
                run("ip", &["addr", "del", &address, "dev", &self.tag])?;
            }
        }
        anyhow::bail!("no 10.77.x.0/24 is free: other labs left theirs (`ip addr`)")
    }

    /// One more namespace with an address of its own.
    pub fn add(&mut self) -> Result<Home> {
        let number = u8::try_from(self.homes.len())?;
        let last = FIRST.checked_add(number).context("a network holds at most 244 members")?;
        let home =
            Home { namespace: format!("{}n{number}", self.tag), address: Ipv4Addr::new(10, 77, self.subnet, last) };
        let (space, outer) = (home.namespace.as_str(), home.namespace.as_str());
        run("ip", &["netns", "add", space])?;
        self.homes.push(home.clone());
        run("ip", &["link", "add", outer, "type", "veth", "peer", "name", "eth0", "netns", space])?;
        run("ip", &["link", "set", outer, "master", &self.tag, "up"])?;
        let address = format!("{}/24", home.address);
        // Packets of a forwarder come by another device than answers leave by.
        let batch = format!("link set lo up\naddr add {address} dev eth0\nlink set eth0 up\n");
        run_with("ip", &["-n", space, "-batch", "-"], &batch)?;
        home.run(&["sh", "-c", "echo 0 > /proc/sys/net/ipv4/conf/all/rp_filter"], "")?;
        if self.forwarder.is_some() {
            // It knows its members from its start.
            self.forwarder = None;
            let rules = self.rules.clone();
            self.lag(&rules)?;
        }
        Ok(home)
    }

    /// Its members, in the order of [`Network::add`].
    pub fn homes(&self) -> &[Home] {
        &self.homes
    }

    /// What is wrong now.
    pub fn rules(&self) -> &Rules {
        &self.rules
    }

    /// From now on this is wrong, and nothing else.
    pub fn set(&mut self, rules: Rules) -> Result<()> {
        for home in &self.homes {
            let table = rules.table(home.address);
            if table != self.rules.table(home.address) {
                self.lost += lost_at(home)?;
                home.run(&["nft", "-f", "-"], &table).with_context(|| format!("nftables refuse {table}"))?;
            }
        }
        if rules.lag != self.rules.lag {
            self.lag(&rules)?;
        }
        self.rules = rules;
        Ok(())
    }

    /// Packets that rules dropped since the beginning.
    pub fn lost(&self) -> Result<u64> {
        self.homes.iter().try_fold(self.lost, |sum, home| Ok(sum + lost_at(home)?))
    }

    /// Packets that came twice, and that overtook others, since the last start of the forwarder.
    pub fn repeated_and_reordered(&self) -> (u64, u64) {
        self.forwarder.as_ref().map_or((0, 0), |forwarder| forwarder.counts)
    }

    /// Resets every open connection of a member, once.
    pub fn reset(&self, home: &Home) -> Result<()> {
        let net = format!("10.77.{}.0/24", self.subnet);
        home.run(&["ss", "-K", "dst", &net], "").map(drop)
    }

    fn lag(&mut self, rules: &Rules) -> Result<()> {
        let forwarder = match &mut self.forwarder {
            Some(running) => running,
            none => none.insert(Forwarder::start(&self.homes, &self.workshop)?),
        };
        forwarder.set(&rules.lags())?;
        let routed: BTreeSet<Way> = forwarder.routed.clone();
        let wanted: BTreeSet<Way> = rules.lag.keys().copied().collect();
        for home in &self.homes {
            let of = |way: &&Way| way.0 == home.address;
            let add = wanted.difference(&routed).filter(of);
            let add = add.map(|(from, to)| format!("route replace {to}/32 dev lag src {from}\n"));
            let del = routed.difference(&wanted).filter(of).map(|(_, to)| format!("route del {to}/32 dev lag\n"));
            let batch: String = add.chain(del).collect();
            if !batch.is_empty() {
                run_with("ip", &["-n", &home.namespace, "-batch", "-"], &batch)?;
            }
        }
        forwarder.routed = wanted;
        Ok(())
    }
}

/// Packets that the rules of one receiver dropped.
fn lost_at(home: &Home) -> Result<u64> {
    let ruleset = home.run(&["nft", "list", "ruleset"], "")?;
    let counts = ruleset.split("counter packets ").skip(1);
    Ok(counts.filter_map(|rest| rest.split(' ').next()?.parse::<u64>().ok()).sum())
}

impl Drop for Network {
    fn drop(&mut self) {
        self.forwarder = None;
        take_down(&self.tag);
    }
}

/// Removes the namespaces and links of a tag. What is gone already is what we want.
fn take_down(tag: &str) {
    let own = format!("{tag}n");
    for name in namespaces().unwrap_or_default().iter().filter(|name| name.starts_with(&own)) {
        // A paused member of a killed run does not notice that its lab is gone.
        let inside = run("ip", &["netns", "pids", name]).unwrap_or_default();
        for pid in inside.lines().filter_map(|pid| pid.trim().parse().ok()) {
            let _gone = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
        let _gone = run("ip", &["netns", "del", name]);
    }
    for name in links().unwrap_or_default().iter().filter(|name| *name == tag || name.starts_with(&own)) {
        // A namespace's end takes its cable with it, a moment later.
        let _gone = run("ip", &["link", "del", name]);
    }
}

fn namespaces() -> Result<Vec<String>> {
    let listed = run("ip", &["netns", "list"])?;
    Ok(listed.lines().filter_map(|line| line.split_whitespace().next()).map(str::to_owned).collect())
}

fn links() -> Result<Vec<String>> {
    let listed = run("ip", &["-o", "link"])?;
    let name = |line: &str| Some(line.split(": ").nth(1)?.split('@').next()?.to_owned());
    Ok(listed.lines().filter_map(name).collect())
}

/// Everything on this machine that carries the tag of process `pid`: namespaces and links.
pub fn left_by(pid: u32) -> Result<Vec<String>> {
    let mut all = namespaces()?;
    all.extend(links()?);
    all.retain(|name| owner(name) == Some(pid));
    Ok(all)
}

/// The process id in a name of ours.
fn owner(name: &str) -> Option<u32> {
    let rest = name.strip_prefix(PREFIX)?;
    let (pid, letter) = rest.split_at(rest.find(|c: char| !c.is_ascii_digit())?);
    let mut letter = letter.chars();
    let is_tag = letter.next().is_some_and(|c| c.is_ascii_lowercase());
    let number = letter.as_str();
    let is_ours = is_tag && (number.is_empty() || number.strip_prefix('n').is_some_and(|n| n.parse::<u8>().is_ok()));
    pid.parse().ok().filter(|_| is_ours)
}

/// A name without the number of its member.
fn tag_of(name: &str) -> String {
    name.split_once('n').map_or(name, |(tag, _)| tag).to_owned()
}

/// Takes down what labs left whose process is gone.
pub fn sweep() -> Result<()> {
    let mut names = namespaces()?;
    names.extend(links()?);
    let dead: BTreeSet<u32> = names.iter().filter_map(|name| owner(name)).filter(|pid| !lives(*pid)).collect();
    for pid in dead {
        let tags: BTreeSet<String> =
            names.iter().filter(|name| owner(name) == Some(pid)).map(|name| tag_of(name)).collect();
        tags.iter().for_each(|tag| take_down(tag));
        let left = left_by(pid)?;
        ensure!(left.is_empty(), "a killed lab left {left:?}, which cannot be removed");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_ours_tell_whose_they_are_and_others_do_not() {
        assert_eq!((owner("dl4711b"), owner("dl4711bn12")), (Some(4711), Some(4711)));
        assert_eq!(tag_of("dl4711bn12"), "dl4711b");
        let strangers = ["dlna", "eth0", "dl12x3", "dl", "dl1", "dl1an999", "docker0"];
        assert!(strangers.iter().all(|name| owner(name).is_none()));
    }
}
