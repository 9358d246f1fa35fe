//! One TOML file per member into one serde tree; the binary alone reads it.

use serde::de::DeserializeOwned;
use std::path::{Path, PathBuf};

/// Why settings could not be read; the message names file, line and key.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file cannot be read.
    #[error("cannot read settings file {}: {source}", path.display())]
    Read {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file is not what it should be.
    #[error("settings file {}: {message}", path.display())]
    Parse {
        /// Which file.
        path: PathBuf,
        /// Where and why, over several lines.
        message: String,
    },
}

/// The settings in `path`. Keys are strict: an unknown one is an error that names it.
pub fn load<T: DeserializeOwned>(path: &Path) -> Result<T, Error> {
    let text = std::fs::read_to_string(path).map_err(|source| Error::Read { path: path.to_owned(), source })?;
    toml::from_str(&text).map_err(|error| Error::Parse { path: path.to_owned(), message: error.to_string() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, serde::Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Settings {
        #[allow(dead_code, reason = "only parsed")]
        port: u16,
    }

    #[test]
    fn a_bad_key_is_named_with_its_file() {
        let path = std::env::temp_dir().join(format!("docent-settings-{}.toml", std::process::id()));
        std::fs::write(&path, "port = 1\nprot = 2\n").unwrap();
        let message = load::<Settings>(&path).unwrap_err().to_string();
        std::fs::remove_file(&path).unwrap();
        assert!(message.contains("prot") && message.contains("docent-settings"), "{message}");
        assert!(load::<Settings>(&path).unwrap_err().to_string().contains("cannot read"));
    }
}
