//! The forwarder that carries packets late: one process with a device in each namespace (`shim/lag.c`), because many kernels come
//! without netem. It ends with this value, or with the lab's process, whose pipe it listens to.

use crate::lab::net::Home;
use crate::lab::rules::Way;
use crate::lab::tool::{self, run};
use anyhow::{Context, Result, ensure};
use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

/// A running forwarder.
#[derive(Debug)]
pub struct Forwarder {
    child: Child,
    orders: ChildStdin,
    answers: BufReader<ChildStdout>,
    /// Directions whose route leads into it.
    pub(super) routed: BTreeSet<Way>,
    /// Packets that came twice, and that overtook others, as of its last answer.
    pub(super) counts: (u64, u64),
}

impl Forwarder {
    /// Starts it with a device in each of these namespaces; no packet goes its way yet.
    pub fn start(homes: &[Home], workshop: &Path) -> Result<Forwarder> {
        let mut command = Command::new(tool::LAG.build(workshop)?);
        for home in homes {
            command.arg(home.file()).arg(home.address.to_string());
        }
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let orders = child.stdin.take().context("the forwarder has no input")?;
        let answers = BufReader::new(child.stdout.take().context("the forwarder has no output")?);
        let mut forwarder = Forwarder { child, orders, answers, routed: BTreeSet::new(), counts: (0, 0) };
        forwarder.hear_ok()?;
        for home in homes {
            run("ip", &["-n", &home.namespace, "link", "set", "lag", "up"])?;
            home.run(&["sh", "-c", "echo 0 > /proc/sys/net/ipv4/conf/lag/rp_filter"], "")?;
        }
        Ok(forwarder)
    }

    /// Gives it a whole set of rules, as [`super::rules::Rules::lags`] writes them.
    pub fn set(&mut self, lags: &str) -> Result<()> {
        self.orders.write_all(lags.as_bytes())?;
        self.orders.write_all(b".\n")?;
        self.hear_ok()
    }

    fn hear_ok(&mut self) -> Result<()> {
        let mut line = String::new();
        self.answers.read_line(&mut line)?;
        let mut words = line.split_whitespace();
        ensure!(words.next() == Some("ok"), "the forwarder of late packets ended, see above (it needs /dev/net/tun)");
        let mut count = || words.next().and_then(|word| word.parse().ok()).unwrap_or(0);
        self.counts = (count(), count());
        Ok(())
    }
}

impl Drop for Forwarder {
    fn drop(&mut self) {
        // One that is gone already is what we want.
        let _gone = self.child.kill().and_then(|()| self.child.wait());
    }
}
