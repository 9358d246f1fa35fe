//! The ground of a deterministic run: the process runs again with randomness seeded, clocks standing still and addresses that are always
//! the same.
//!
//! A C library, compiled with `cc` on first use and preloaded, answers for the operating system (`shim/still.c`). It switches the
//! randomisation of addresses off too, because some hashers draw their seed from them.

use anyhow::{Context, Result, bail};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};

const SHIM: &str = include_str!("../shim/still.c");
/// Set in a process that stands on the ground, to its seed.
const SEED: &str = "DOCENT_SIM_SEED";

/// Whether this process runs on the ground of `seed`.
pub fn is_laid(seed: u64) -> bool {
    std::env::var(SEED).is_ok_and(|given| given == seed.to_string()) && std::env::var_os("LD_PRELOAD").is_some()
}

/// A command that runs `program` on the ground of `seed`.
///
/// # Errors
/// Without a C compiler, or where the shim cannot be written.
pub fn command(program: &Path, seed: u64) -> Result<Command> {
    let mut command = Command::new(program);
    // Everything else of the environment could reach the run: what it sees is the same on every machine and in every shell.
    command.env_clear();
    for kept in ["PATH", "HOME", "TMPDIR", "DOCENT_SABOTAGE", "RUST_BACKTRACE"] {
        if let Some(value) = std::env::var_os(kept) {
            command.env(kept, value);
        }
    }
    command.env("LD_PRELOAD", library()?).env(SEED, seed.to_string());
    Ok(command)
}

/// Runs this program again, with the same arguments, on the ground of `seed`. Returns only if that fails.
///
/// # Errors
/// As [`command`], and what `exec` says.
pub fn stand_on(seed: u64) -> Result<()> {
    let program = std::env::current_exe().context("where is this program")?;
    let error = command(&program, seed)?.args(std::env::args_os().skip(1)).exec();
    Err(error).context("run again on a deterministic ground")
}

/// The compiled shim; compiled once for each text of it.
fn library() -> Result<PathBuf> {
    let name = blake3::hash(SHIM.as_bytes()).to_hex();
    let dir = std::env::temp_dir();
    let library = dir.join(format!("docent-sim-{}.so", &name[..16]));
    if library.exists() {
        return Ok(library);
    }
    let unique = format!("docent-sim-{}-{}", &name[..16], std::process::id());
    let (source, built) = (dir.join(format!("{unique}.c")), dir.join(format!("{unique}.so")));
    std::fs::write(&source, SHIM).with_context(|| format!("write {}", source.display()))?;
    let compiled: Result<ExitStatus> = Command::new("cc")
        .args(["-shared", "-fPIC", "-O1", "-w", "-o"])
        .args([&built, &source])
        .arg("-ldl")
        .status()
        .context("run cc: the simulation needs a C compiler");
    let _gone = std::fs::remove_file(&source);
    if !compiled?.success() {
        bail!("cc could not compile the shim of the simulation");
    }
    std::fs::rename(&built, &library).with_context(|| format!("write {}", library.display()))?;
    Ok(library)
}
