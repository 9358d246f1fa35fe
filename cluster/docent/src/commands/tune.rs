//! `docent tune start|list|show|remove`.

use crate::cli::Shared;
use crate::client::{self, Client, Cluster, Repeat};
use crate::commands::train::{self, JobArgs};
use crate::commands::users::done;
use crate::failure::{Failure, Result};
use crate::json;
use crate::show::{self, Progress};
use docent_proto::v1;
use serde_json::json;
use std::time::Duration;
use tokio::time::Instant;

/// How often a waiting command looks.
const POLL: Duration = Duration::from_millis(500);

/// A search for settings, tried on held-out training data.
#[derive(Debug, clap::Subcommand)]
pub enum Tune {
    /// Begin a search; unless --no-activate and --no-refit are both given, it ends with a job of the best settings
    Start(Box<StartArgs>),
    /// List the searches
    List,
    /// What a search has tried, the best first
    Show {
        /// The search's name
        name: String,
    },
    /// Forget a search and end its trial; the job with its best settings goes on
    Remove {
        /// The search's name
        name: String,
    },
}

/// Flags of `docent tune start`.
#[derive(Debug, clap::Args)]
pub struct StartArgs {
    /// Names the search: 1 to 64 of a-z, 0-9, - and _
    name: String,
    /// A setting and where to search it: regularization=0.001..0.1:log, power=0.5..2, dim=32,64,128. Repeat it for more
    #[arg(long = "search", required = true, value_name = "SETTING=VALUES", value_parser = dimension)]
    space: Vec<v1::Dimension>,
    /// How many to try, 1 to 100; the first are the settings as given
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=100))]
    trials: u32,
    /// What is best: ndcg, recall, hr, mrr or map, @10 or @20
    #[arg(long, default_value = "ndcg@20")]
    metric: String,
    /// Wait until everything is tried, with progress
    #[arg(long)]
    wait: bool,
    #[command(flatten)]
    job: JobArgs,
}

/// `setting=low..high`, `setting=low..high:log` or `setting=a,b,c`.
fn dimension(text: &str) -> std::result::Result<v1::Dimension, String> {
    let number = |text: &str| text.trim().parse::<f64>().map_err(|_| format!("{text:?} is no number"));
    let (setting, values) = text.split_once('=').ok_or("write it as setting=low..high or setting=a,b,c")?;
    let setting = setting.replace('-', "_");
    let (range, log) = values.strip_suffix(":log").map_or((values, false), |range| (range, true));
    match range.split_once("..") {
        Some((low, high)) => {
            Ok(v1::Dimension { setting, low: number(low)?, high: number(high)?, log, one_of: Vec::new() })
        }
        None if log => Err("a choice has no logarithm".to_owned()),
        None => {
            let one_of = range.split(',').map(number).collect::<std::result::Result<_, _>>()?;
            Ok(v1::Dimension { setting, one_of, ..v1::Dimension::default() })
        }
    }
}

/// Runs the subcommand.
pub async fn run(shared: &Shared, command: &Tune) -> Result<()> {
    let cluster = shared.cluster()?;
    match command {
        Tune::Start(args) => start(shared, &cluster, args).await?,
        Tune::List => {
            let studies = all(&cluster).await?;
            match shared.is_json() {
                true => show::json(&json!({ "studies": studies.iter().map(json::write::study).collect::<Vec<_>>() })),
                false => list(&studies),
            }
        }
        Tune::Show { name } => tell(shared, &find(&cluster, name).await?),
        Tune::Remove { name } => {
            let call = |mut client: Client| {
                let request = v1::RemoveStudyRequest { name: name.clone() };
                async move { client.remove_study(request).await }
            };
            cluster.call(Repeat::Never, call).await.map_err(client::failure)?;
            done(shared, &format!("study {name} is removed"));
        }
    }
    Ok(())
}

async fn start(shared: &Shared, cluster: &Cluster, args: &StartArgs) -> Result<()> {
    let study = v1::Study {
        name: args.name.clone(),
        settings: Some(args.job.settings()),
        space: args.space.clone(),
        trials: args.trials,
        metric: args.metric.clone(),
        ..v1::Study::default()
    };
    let request = v1::StartStudyRequest { study: Some(study) };
    let call = |mut client: Client| {
        let request = request.clone();
        async move { client.start_study(request).await }
    };
    let begun = cluster.call(Repeat::Safe, call).await.map_err(client::failure)?;
    if !args.wait {
        match shared.is_json() {
            true => show::json(&json::write::study(&begun)),
            false => show::say(format!(
                "study {0} tries {1} settings; follow it with `docent tune show {0}`",
                begun.name, begun.trials
            )),
        }
        return Ok(());
    }
    let ended = follow(cluster, &args.name).await?;
    tell(shared, &ended);
    if ended.best_job != 0 {
        let (job, model) = train::wait(cluster, ended.best_job, args.job.activates()).await?;
        if !shared.is_json() {
            show::say(train::summary(&job, &model));
        }
    }
    Ok(())
}

/// Shows the progress until everything is tried.
async fn follow(cluster: &Cluster, name: &str) -> Result<v1::Study> {
    let mut progress = Progress::new("trials", 0);
    let mut heard = Instant::now();
    let mut said = 0;
    loop {
        match list_all(cluster).await {
            Ok(studies) => {
                heard = Instant::now();
                let study = studies.into_iter().find(|study| study.name == name);
                let study = study.ok_or_else(|| Failure::failed(format!("study {name} was removed")))?;
                for trial in study.tried.iter().filter(|trial| trial.is_over).skip(said) {
                    progress.note(format!("  {} {}  {}", study.metric, score(trial), values(trial)));
                    said += 1;
                }
                if study.is_over {
                    return Ok(study);
                }
                progress.at(0, format!("{said} of {} tried", study.trials));
            }
            Err(error) => train::bear(error, heard)?,
        }
        tokio::time::sleep(POLL).await; // between polls of another process
    }
}

async fn list_all(cluster: &Cluster) -> docent_types::Result<Vec<v1::Study>> {
    let call = |mut client: Client| async move { client.list_studies(v1::ListStudiesRequest {}).await };
    Ok(cluster.call(Repeat::Safe, call).await?.studies)
}

async fn all(cluster: &Cluster) -> Result<Vec<v1::Study>> {
    list_all(cluster).await.map_err(client::failure)
}

async fn find(cluster: &Cluster, name: &str) -> Result<v1::Study> {
    let found = all(cluster).await?.into_iter().find(|study| study.name == name);
    found.ok_or_else(|| Failure::failed(format!("there is no study {name:?}; see `docent tune list`")))
}

fn score(trial: &v1::Trial) -> String {
    match (trial.score, trial.is_over) {
        (Some(score), _) => format!("{score:.5}"),
        (None, true) => "failed".to_owned(),
        (None, false) => "under way".to_owned(),
    }
}

fn values(trial: &v1::Trial) -> String {
    if trial.values.is_empty() {
        return "as given".to_owned();
    }
    trial.values.iter().map(|(name, value)| format!("{name} {value:.6}")).collect::<Vec<_>>().join(", ")
}

fn list(studies: &[v1::Study]) {
    let rows = studies.iter().map(|study| {
        let best = study.tried.iter().filter_map(|trial| trial.score).reduce(f64::max);
        vec![
            study.name.clone(),
            study.settings.clone().unwrap_or_default().algorithm.unwrap_or_default(),
            format!("{} of {}", study.tried.iter().filter(|trial| trial.is_over).count(), study.trials),
            best.map(|best| format!("{} {best:.5}", study.metric)).unwrap_or_default(),
            if study.best_job == 0 { String::new() } else { study.best_job.to_string() },
            show::time(study.created_ms),
        ]
    });
    show::say(show::table(&["study", "algorithm", "tried", "best", "its job", "created"], &[], rows).to_string());
}

fn tell(shared: &Shared, study: &v1::Study) {
    if shared.is_json() {
        show::json(&json::write::study(study));
        return;
    }
    let mut trials: Vec<(usize, &v1::Trial)> = study.tried.iter().enumerate().collect();
    let order = |trial: &v1::Trial| trial.score.unwrap_or(f64::NEG_INFINITY);
    trials.sort_by(|(_, a), (_, b)| order(b).total_cmp(&order(a)));
    let rows = trials
        .into_iter()
        .map(|(number, trial)| vec![(number + 1).to_string(), score(trial), values(trial), trial.job.to_string()]);
    show::say(show::table(&["trial", &study.metric, "settings", "job"], &["trial", "job"], rows).to_string());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spaces_are_read_as_people_write_them() {
        let range = dimension("regularization=0.001..0.1:log").unwrap();
        assert_eq!((range.setting.as_str(), range.low, range.high, range.log), ("regularization", 0.001, 0.1, true));
        assert_eq!(dimension("popularity-bias=0..1").unwrap().setting, "popularity_bias");
        assert_eq!(dimension("dim=32,64").unwrap().one_of, [32.0, 64.0]);
        for wrong in ["dim", "dim=", "dim=a..b", "dim=1,x", "dim=1,2:log"] {
            assert!(dimension(wrong).is_err(), "{wrong}");
        }
    }
}
