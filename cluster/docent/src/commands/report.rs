//! `docent report`.

use crate::cli::Shared;
use crate::client;
use crate::commands::train;
use crate::failure::{Failure, Result};
use crate::report;
use crate::show;
use crate::target::Target;
use std::path::PathBuf;

/// Flags of `docent report`.
#[derive(Debug, clap::Args)]
pub struct ReportArgs {
    /// The job's number, from `docent jobs`
    job: u64,
    /// Where the page goes; stdout without it
    #[arg(long)]
    out: Option<PathBuf>,
}

/// Writes the page of a job.
pub async fn run(shared: &Shared, args: &ReportArgs) -> Result<()> {
    let cluster = shared.cluster()?;
    let jobs = train::all_jobs(&cluster).await.map_err(client::failure)?;
    let job = jobs.into_iter().find(|job| job.id == args.job);
    let job = job.ok_or_else(|| Failure::failed(format!("the cluster does not know job {}", args.job)))?;
    let models = train::all_models(&cluster).await.map_err(client::failure)?;
    // 0 is no version's number.
    let model = models.into_iter().find(|model| model.version == job.version);
    let page = report::page(&job, model.as_ref()).map_err(Failure::failed)?;
    let mut target = Target::open(args.out.as_deref())?;
    target.write(|out| out.write_all(page.as_bytes()))?;
    target.finish()?;
    if let Some(path) = &args.out {
        show::note(format!("job {}: {}", job.id, path.display()));
    }
    Ok(())
}
