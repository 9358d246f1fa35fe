//! `docent secret create`, `docent token create`.

use crate::cli::Shared;
use crate::failure::Result;
use crate::show;
use std::path::PathBuf;

/// The cluster's secret.
#[derive(Debug, clap::Subcommand)]
pub enum Secret {
    /// Draw a secret for a new cluster into a file of mode 0600; every coordinator needs a copy
    Create {
        /// The file; must not exist
        file: PathBuf,
    },
}

/// Join tokens.
#[derive(Debug, clap::Subcommand)]
pub enum Token {
    /// Print a token that admits one node; keep it in a file of mode 0600 (`umask 077; docent token create ... > token`)
    Create {
        /// The cluster's secret
        #[arg(long, value_name = "FILE")]
        secret_file: PathBuf,
    },
}

/// Runs `docent secret`.
pub fn secret(command: &Secret) -> Result<()> {
    let Secret::Create { file } = command;
    docent_coordinator::secret::Secret::create(file)?;
    show::note(format!("wrote {}; copy it to every coordinator and to nobody else", file.display()));
    Ok(())
}

/// Runs `docent token`.
pub fn token(shared: &Shared, command: &Token) -> Result<()> {
    let Token::Create { secret_file } = command;
    let token = docent_coordinator::secret::Secret::read(secret_file)?.token()?.to_string();
    match shared.is_json() {
        true => show::json(&serde_json::json!({ "token": token })),
        false => show::say(token),
    }
    Ok(())
}
