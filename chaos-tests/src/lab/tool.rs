//! Tools of the machine that a lab calls: run one, say what it said when it failed; and the C of `shim/`, compiled where it is needed.

use anyhow::{Context, Result, ensure};
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

/// Runs a tool to its end; what it printed. An error names the tool, its arguments and its complaint.
pub fn run(name: &str, arguments: &[&str]) -> Result<String> {
    run_with(name, arguments, "")
}

/// As [`run`], with `input` on its standard input.
pub fn run_with(name: &str, arguments: &[&str], input: &str) -> Result<String> {
    let mut command = Command::new(name);
    command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().with_context(|| format!("{name} does not start: install it"))?;
    if let Some(mut stdin) = child.stdin.take() {
        // A tool that ends without reading says why in its status.
        let _closed = stdin.write_all(input.as_bytes());
    }
    let output = child.wait_with_output()?;
    let complaint = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{name} {}: {}", arguments.join(" "), complaint.trim());
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// A path as an argument.
pub fn text(path: &Path) -> Result<&str> {
    path.to_str().with_context(|| format!("{} is not UTF-8", path.display()))
}

/// A C source of `shim/` that is built with the machine's `cc` (Rust's linker, so it is there).
#[derive(Clone, Copy, Debug)]
pub struct Source {
    name: &'static str,
    text: &'static str,
    flags: &'static [&'static str],
}

/// Shifts a process's wall clock and makes its syncs slow or fail.
pub const SHIM: Source =
    Source { name: "shim.so", text: include_str!("../../shim/shim.c"), flags: &["-shared", "-fPIC", "-ldl"] };
/// Carries packets late, twice or out of turn.
pub const LAG: Source = Source { name: "lag", text: include_str!("../../shim/lag.c"), flags: &[] };
/// Ends a file system as a power cut does.
pub const CUT: Source = Source { name: "cut", text: include_str!("../../shim/cut.c"), flags: &[] };

impl Source {
    /// Compiles it into `dir`, once.
    pub fn build(&self, dir: &Path) -> Result<PathBuf> {
        let built = dir.join(self.name);
        if !built.exists() {
            let mut arguments = vec!["-O2", "-Wall", "-Werror", "-x", "c", "-", "-o", text(&built)?];
            arguments.extend(self.flags);
            run_with("cc", &arguments, self.text)?;
        }
        Ok(built)
    }
}

/// A number that no other caller in this process gets: names of things that labs of one process make.
pub fn serial() -> u32 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

/// Whether we may do what root may.
pub fn is_root() -> bool {
    std::fs::metadata("/proc/self").is_ok_and(|own| own.uid() == 0)
}

/// Whether a process of this id lives: what a killed run left behind belongs to one that does not.
pub fn lives(pid: u32) -> bool {
    Path::new("/proc").join(pid.to_string()).exists()
}
