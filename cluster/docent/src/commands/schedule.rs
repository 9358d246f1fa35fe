//! `docent schedule list|set|remove`.

use crate::cli::Shared;
use crate::client::{self, Client, Repeat};
use crate::commands::train::JobArgs;
use crate::commands::users::done;
use crate::failure::Result;
use crate::json;
use crate::show;
use docent_proto::v1;
use jiff::SignedDuration;
use serde_json::json;

/// Training that begins by itself.
#[derive(Debug, clap::Subcommand)]
pub enum Schedule {
    /// List the schedules
    List,
    /// Set a schedule, or replace what it does: needs --every, --after-events or both, and then goes by whichever comes first
    Set(Box<SetArgs>),
    /// Remove a schedule; jobs that it has queued go on
    Remove {
        /// The schedule's name
        name: String,
    },
}

/// Flags of `docent schedule set`.
#[derive(Debug, clap::Args)]
#[group(id = "due", required = true, multiple = true, args = ["every", "after_events"])]
pub struct SetArgs {
    /// Names the schedule: 1 to 64 of a-z, 0-9, - and _
    name: String,
    /// Time from one job to the next: 6h, 90m, 36h30m. The next one waits for the end of the last
    #[arg(long, value_parser = milliseconds)]
    every: Option<u64>,
    /// Events that came since the last job was queued
    #[arg(long)]
    after_events: Option<u64>,
    #[command(flatten)]
    job: JobArgs,
}

/// Milliseconds of a time such as `6h`.
fn milliseconds(text: &str) -> std::result::Result<u64, String> {
    let time: SignedDuration = text.parse().map_err(|error| format!("{error}; write it as 6h, 90m or 36h30m"))?;
    u64::try_from(time.as_millis()).map_err(|_| "a time is not negative".to_owned())
}

/// Runs the subcommand.
pub async fn run(shared: &Shared, command: &Schedule) -> Result<()> {
    let cluster = shared.cluster()?;
    match command {
        Schedule::List => {
            let call = |mut client: Client| async move { client.list_schedules(v1::ListSchedulesRequest {}).await };
            list(shared, &cluster.call(Repeat::Safe, call).await.map_err(client::failure)?.schedules);
        }
        Schedule::Set(args) => {
            let schedule = v1::Schedule {
                name: args.name.clone(),
                settings: Some(args.job.settings()),
                every_ms: args.every,
                after_events: args.after_events,
                ..v1::Schedule::default()
            };
            let request = v1::SetScheduleRequest { schedule: Some(schedule) };
            let call = |mut client: Client| {
                let request = request.clone();
                async move { client.set_schedule(request).await }
            };
            let set = cluster.call(Repeat::Safe, call).await.map_err(client::failure)?;
            match shared.is_json() {
                true => show::json(&json::write::schedule(&set)),
                false => show::say(format!("schedule {} trains {} {}", set.name, family(&set), due(&set))),
            }
        }
        Schedule::Remove { name } => {
            let call = |mut client: Client| {
                let request = v1::RemoveScheduleRequest { name: name.clone() };
                async move { client.remove_schedule(request).await }
            };
            cluster.call(Repeat::Never, call).await.map_err(client::failure)?;
            done(shared, &format!("schedule {name} is removed"));
        }
    }
    Ok(())
}

fn family(schedule: &v1::Schedule) -> String {
    schedule.settings.clone().unwrap_or_default().algorithm.unwrap_or_default()
}

/// When the next job comes, in words.
fn due(schedule: &v1::Schedule) -> String {
    let every = schedule.every_ms.and_then(|ms| i64::try_from(ms).ok()).map(SignedDuration::from_millis);
    let every = every.map(|time| format!("every {time:#}"));
    let events = schedule.after_events.map(|events| format!("after {} new events", show::count(events)));
    [every, events].into_iter().flatten().collect::<Vec<_>>().join(" or ")
}

fn list(shared: &Shared, schedules: &[v1::Schedule]) {
    if shared.is_json() {
        show::json(&json!({ "schedules": schedules.iter().map(json::write::schedule).collect::<Vec<_>>() }));
        return;
    }
    let rows = schedules.iter().map(|schedule| {
        let last = if schedule.last_job == 0 { "none yet".to_owned() } else { schedule.last_job.to_string() };
        vec![
            schedule.name.clone(),
            family(schedule),
            due(schedule),
            show::count(schedule.runs),
            last,
            show::time(schedule.since_ms),
        ]
    });
    let header = ["schedule", "algorithm", "due", "jobs", "last job", "since"];
    show::say(show::table(&header, &["jobs"], rows).to_string());
}
