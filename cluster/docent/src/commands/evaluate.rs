//! `docent evaluate`: what was measured of a version, or of settings that are tried for it.

use crate::cli::Shared;
use crate::client::{self, Cluster};
use crate::commands::train::{self, ModelArgs};
use crate::failure::{Failure, Result};
use crate::json;
use crate::show;
use docent_proto::v1;

/// Flags of `docent evaluate`.
#[derive(Debug, clap::Args)]
pub struct EvaluateArgs {
    /// A version, as it was measured when it was trained; without one, a model is trained with the settings below, measured and not made live
    #[arg(conflicts_with = "ModelArgs")]
    version: Option<u64>,
    #[command(flatten)]
    model: ModelArgs,
}

/// Figures of every cut-off, in the order of the table; the first five have intervals.
const FIGURES: [&str; 8] = ["recall", "ndcg", "hr", "mrr", "map", "coverage", "gini", "novelty"];

/// Shows the figures.
pub async fn run(shared: &Shared, args: &EvaluateArgs) -> Result<()> {
    let cluster = shared.cluster()?;
    let model = match args.version {
        Some(version) => find(&cluster, version).await?,
        None => {
            let settings = v1::TrainSettings { refit: Some(false), activate: Some(false), ..args.model.settings() };
            if settings.holdout == Some(0.0) {
                return Err(Failure::usage("--holdout 0: there would be nothing to measure with"));
            }
            let job = train::start(&cluster, settings).await?;
            train::wait(&cluster, job.id, false).await?.1
        }
    };
    let (version, cutoffs) = (model.version, cutoffs(&model));
    if cutoffs.is_empty() {
        return Err(Failure::failed(format!(
            "version {version} was not measured: it was trained without anything held out"
        )));
    }
    if shared.is_json() {
        show::json(&json::write::model(&model));
        return Ok(());
    }
    show::say(format!("version {version}, {}", what(&model)));
    show::say(whole(&model, &cutoffs));
    for (of, stratum) in [("users by their positives", "users"), ("held out items by their positives", "items")] {
        show::say(strata(&model, &cutoffs, of, stratum));
    }
    if let Some(channels) = channels(&model) {
        show::say(channels);
    }
    Ok(())
}

async fn find(cluster: &Cluster, version: u64) -> Result<v1::Model> {
    let models = train::all_models(cluster).await.map_err(client::failure)?;
    let found = models.into_iter().find(|model| model.version == version);
    found.ok_or_else(|| Failure::failed(format!("there is no model version {version}; see `docent models list`")))
}

/// The settings in a line.
fn what(model: &v1::Model) -> String {
    let settings = json::write::settings(model.settings.as_ref());
    let pairs = settings.as_object().into_iter().flatten();
    let shown = pairs.filter(|(name, _)| !["activate", "refit"].contains(&name.as_str()));
    shown.map(|(name, value)| format!("{name} {}", value.to_string().trim_matches('"'))).collect::<Vec<_>>().join(", ")
}

/// The cut-offs that the figures are of, rising.
fn cutoffs(model: &v1::Model) -> Vec<u16> {
    let mut cutoffs: Vec<u16> =
        model.metrics.keys().filter_map(|name| name.strip_prefix("recall@")?.parse().ok()).collect();
    cutoffs.sort_unstable();
    cutoffs
}

fn whole(model: &v1::Model, cutoffs: &[u16]) -> String {
    let header: Vec<String> =
        std::iter::once("figure (95 % interval)".to_owned()).chain(cutoffs.iter().map(|k| format!("@{k}"))).collect();
    let header: Vec<&str> = header.iter().map(String::as_str).collect();
    let rows = FIGURES.iter().map(|figure| {
        let cell = |k: &u16| {
            let name = format!("{figure}@{k}");
            let value = model.metrics.get(&name).map(|value| format!("{value:.4}{}", train::interval(model, &name)));
            value.unwrap_or_default()
        };
        std::iter::once((*figure).to_owned()).chain(cutoffs.iter().map(cell)).collect()
    });
    show::table(&header, &[], rows).to_string()
}

/// What each channel of a blend counts; none for another family.
fn channels(model: &v1::Model) -> Option<String> {
    let row = |channel: &&str| {
        let figure = |name: &str| model.metrics.get(&format!("blend_{channel}_{name}")).map(f64::to_string);
        Some(vec![(*channel).to_owned(), figure("weight")?, figure("slope")?, figure("unit")?])
    };
    let rows: Vec<Vec<String>> = ["graph", "with", "popularity"].iter().filter_map(row).collect();
    let header = ["channel of the blend", "weight", "more by ln(history / 20)", "unit"];
    (!rows.is_empty()).then(|| show::table(&header, &header[1..], rows).to_string())
}

/// One row a class, by the largest cut-off.
fn strata(model: &v1::Model, cutoffs: &[u16], of: &str, stratum: &str) -> String {
    let k = cutoffs.last().copied().unwrap_or_default();
    let start = format!("users@{k}.{stratum}.");
    let mut classes: Vec<&str> = model.metrics.keys().filter_map(|name| name.strip_prefix(&start)).collect();
    // `1-4` before `20-99`: by the number that a class begins with.
    classes.sort_by_key(|class| class.split(['-', '+']).next().and_then(|first| first.parse::<u32>().ok()));
    let figure = |name: &str, class: &str| model.metrics.get(&format!("{name}@{k}.{stratum}.{class}")).copied();
    let rows = classes.into_iter().map(|class| {
        let users = figure("users", class).unwrap_or_default();
        let mut row = vec![class.to_owned(), format!("{users:.0}")];
        row.extend(["recall", "ndcg"].iter().filter_map(|name| Some(format!("{:.4}", figure(name, class)?))));
        row
    });
    let (recall, ndcg) = (format!("recall@{k}"), format!("ndcg@{k}"));
    let header = [of, "users", &recall, &ndcg];
    // Of items there is recall alone: a list has one NDCG.
    let columns = if stratum == "items" { 3 } else { 4 };
    show::table(&header[..columns], &header[1..columns], rows).to_string()
}
