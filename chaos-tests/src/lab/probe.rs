//! What this machine lets a lab do, and why not where it does not. Asked once a process.

use crate::lab::{cage, disk, net, shim};
use std::fmt;
use std::sync::OnceLock;

/// Each ability, or the reason why it is not there.
#[derive(Clone, Debug)]
pub struct Abilities {
    /// Network namespaces with a bridge and nftables: partitions, loss, bandwidth, resets.
    pub network: Result<(), String>,
    /// TUN devices: delay, jitter, reordering, duplicates.
    pub lag: Result<(), String>,
    /// File systems of a member's own: power loss, full and read-only disks.
    pub disks: Result<(), String>,
    /// A preloaded library: clocks, slow and failing syncs.
    pub shim: Result<(), String>,
    /// Control groups: processor and memory.
    pub cages: Result<(), String>,
}

/// What lies under a lab's members beside a directory each.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ground {
    /// A network namespace a member instead of loopback.
    pub network: bool,
    /// A file system a member.
    pub disks: bool,
    /// A library in each process that its clock and its syncs obey.
    pub shim: bool,
}

impl Abilities {
    /// Of this machine.
    pub fn here() -> &'static Abilities {
        static HERE: OnceLock<Abilities> = OnceLock::new();
        HERE.get_or_init(Abilities::probe)
    }

    fn probe() -> Abilities {
        let asked = |why: Option<String>| why.map_or(Ok(()), Err);
        let network = asked(net::why_not());
        let tun = std::path::Path::new("/dev/net/tun");
        let lag = network.clone().and_then(|()| match tun.exists() {
            true => Ok(()),
            false => Err("there is no /dev/net/tun to carry packets late with".to_owned()),
        });
        Abilities {
            network,
            lag,
            disks: asked(disk::why_not()),
            shim: asked(shim::why_not()),
            cages: asked(cage::why_not()),
        }
    }

    /// Everything that is there.
    pub fn ground(&self) -> Ground {
        Ground { network: self.network.is_ok(), disks: self.disks.is_ok(), shim: self.shim.is_ok() }
    }
}

impl fmt::Display for Abilities {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        let abilities = [
            ("partitions, loss, bandwidth, resets", &self.network),
            ("delay, jitter, reordering, duplicates", &self.lag),
            ("power loss, full and read-only disks", &self.disks),
            ("clocks, slow and failing syncs", &self.shim),
            ("processor and memory", &self.cages),
        ];
        for (what, ability) in abilities {
            match ability {
                Ok(()) => writeln!(to, "{what}: yes")?,
                Err(why) => writeln!(to, "{what}: no, {why}")?,
            }
        }
        Ok(())
    }
}
