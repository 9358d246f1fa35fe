//! `docent models list|activate|rollback`.

use crate::cli::Shared;
use crate::client::{self, Client, Cluster, Repeat};
use crate::commands::train;
use crate::failure::Result;
use crate::json;
use crate::show;
use docent_proto::v1;
use serde_json::json;

/// Model versions.
#[derive(Debug, clap::Subcommand)]
pub enum Models {
    /// List the versions
    List,
    /// Make a staged or retired version live everywhere
    Activate {
        /// The version's number
        version: u64,
        /// Also where it is worse than the live version
        #[arg(long)]
        force: bool,
    },
    /// Make the version live that was live before
    Rollback,
}

/// Runs the subcommand.
pub async fn run(shared: &Shared, command: &Models) -> Result<()> {
    let cluster = shared.cluster()?;
    let activated = match command {
        Models::List => return list(shared, &train::all_models(&cluster).await.map_err(client::failure)?),
        Models::Activate { version, force } => activate(&cluster, *version, *force).await,
        Models::Rollback => {
            let call = |mut client: Client| async move { client.rollback_model(v1::RollbackModelRequest {}).await };
            cluster.call(Repeat::Never, call).await
        }
    };
    let live = activated.map_err(client::failure)?;
    match shared.is_json() {
        true => show::json(&json!({ "version": live.version, "epoch": live.epoch })),
        false => show::say(format!("version {} is live (epoch {})", live.version, live.epoch)),
    }
    Ok(())
}

/// Makes a version live.
pub async fn activate(cluster: &Cluster, version: u64, force: bool) -> docent_types::Result<v1::ActivateModelResponse> {
    let request = v1::ActivateModelRequest { version, force };
    let call = |mut client: Client| async move { client.activate_model(request).await };
    cluster.call(Repeat::Safe, call).await
}

fn list(shared: &Shared, models: &[v1::Model]) -> Result<()> {
    if shared.is_json() {
        show::json(&json!({ "models": models.iter().map(json::write::model).collect::<Vec<_>>() }));
        return Ok(());
    }
    let rows = models.iter().map(|model| {
        let s = model.settings.clone().unwrap_or_default();
        let bytes = model.parts.iter().map(|part| part.bytes).sum();
        vec![
            model.version.to_string(),
            if model.held_back.is_empty() { model.state.clone() } else { format!("{}, held back", model.state) },
            s.algorithm.unwrap_or_default(),
            s.dim.map(|dim| dim.to_string()).unwrap_or_default(),
            train::quality(model).join("\n"),
            show::bytes(bytes),
            model.job.to_string(),
            show::time(model.created_ms),
            if model.error.is_empty() { model.held_back.clone() } else { model.error.clone() },
        ]
    });
    let header = ["version", "state", "algorithm", "dim", "metrics", "size", "job", "created", "why"];
    show::say(show::table(&header, &["version", "dim", "job"], rows).to_string());
    Ok(())
}
