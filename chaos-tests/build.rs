//! Puts every scenario file into the program, so that it needs no source tree where it runs.

use std::fmt::Write;
use std::path::{Path, PathBuf};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let dir = Path::new(&std::env::var("CARGO_MANIFEST_DIR")?).join("scenarios");
    println!("cargo::rerun-if-changed={}", dir.display());
    let mut files: Vec<PathBuf> = match std::fs::read_dir(&dir) {
        Ok(entries) => entries.map(|entry| Ok(entry?.path())).collect::<std::io::Result<_>>()?,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Vec::new(),
        Err(error) => return Err(error.into()),
    };
    files.retain(|path| path.extension().is_some_and(|extension| extension == "toml"));
    files.sort();
    let mut text = String::from("&[\n");
    for file in files {
        writeln!(text, "    include_str!({:?}),", file.display().to_string())?;
    }
    text += "]\n";
    std::fs::write(Path::new(&std::env::var("OUT_DIR")?).join("scenarios.rs"), text)?;
    Ok(())
}
