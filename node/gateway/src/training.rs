//! Training: jobs, what queues them by itself, and searches for settings. Read from the catalog, changed through the coordinator.

use crate::admin::{SEEN, unfitting};
use crate::gateway::Gateway;
use docent_proto::internal::coordinator::{Request as Ask, Response as Told};
use docent_types::catalog::{Job, JobState, Step};
use docent_types::schedule::{Schedule, Scheduled, check_name};
use docent_types::study::{Studied, Study};
use docent_types::training::TrainSettings;
use docent_types::{Error, Kind, Result};

impl Gateway {
    /// All jobs, by id, the latest with their course.
    ///
    /// # Errors
    /// `Overloaded` when too many requests are at work.
    pub async fn jobs(&self) -> Result<Vec<(Job, Vec<Step>)>> {
        let work = async {
            let catalog = self.shared.route.catalog.borrow().clone();
            let course = |job: &Job| catalog.courses.get(&job.id).cloned().unwrap_or_default();
            Ok(catalog.jobs.values().map(|job| (job.clone(), course(job))).collect())
        };
        self.admit("list_jobs", work).await
    }

    /// Queues a training job.
    ///
    /// # Errors
    /// `Invalid` naming the setting; `Unsupported` for what the cluster's format does not have yet; the coordinator's.
    pub async fn start_training(&self, settings: TrainSettings) -> Result<Job> {
        let work = async {
            settings.validate()?;
            self.view()?.catalog.require(settings.format())?;
            self.change_job(Ask::StartTraining(settings)).await
        };
        self.admit_write("start_training", work).await
    }

    /// Ends a job.
    ///
    /// # Errors
    /// The coordinator's: `NotFound`, `Conflict` when it has ended already.
    pub async fn cancel_job(&self, job: u64) -> Result<Job> {
        self.admit_write("cancel_job", self.change_job(Ask::CancelJob(job))).await
    }

    async fn change_job(&self, ask: Ask) -> Result<Job> {
        match self.shared.coordinators.call(ask, self.write_deadline()).await? {
            Told::Job(job) => {
                // A queued job may run already when it is seen; an ended one stays as it is.
                let is_seen = |seen: &Job| job.state == JobState::Queued || seen.state == job.state;
                self.wait_catalog(SEEN, |catalog| catalog.jobs.get(&job.id).is_some_and(is_seen)).await;
                Ok(*job)
            }
            _ => Err(unfitting()),
        }
    }

    /// All schedules, by name.
    ///
    /// # Errors
    /// `Overloaded` when too many requests are at work.
    pub async fn schedules(&self) -> Result<Vec<Scheduled>> {
        let work = async { Ok(self.shared.route.catalog.borrow().schedules.values().cloned().collect()) };
        self.admit("list_schedules", work).await
    }

    /// Lets training begin by itself from now on. A schedule of the same name is replaced and goes on counting from its last job.
    ///
    /// # Errors
    /// `Invalid` naming the field; `Unsupported` for what the cluster's format does not have yet; the coordinator's: `Conflict` where
    /// there are too many.
    pub async fn set_schedule(&self, schedule: Schedule) -> Result<Scheduled> {
        let work = async {
            schedule.validate()?;
            self.view()?.catalog.require(schedule.format())?;
            let name = schedule.name.clone();
            self.change(Ask::SetSchedule(schedule)).await?;
            let set = self.shared.route.catalog.borrow().schedules.get(&name).cloned();
            set.ok_or_else(|| Error::new(Kind::Unavailable, "the schedule is set, and this node has not seen it yet"))
        };
        self.admit_write("set_schedule", work).await
    }

    /// Ends a schedule; jobs that it has queued go on.
    ///
    /// # Errors
    /// `NotFound`; `Unsupported` in a cluster whose format has no schedules yet.
    pub async fn remove_schedule(&self, name: String) -> Result<()> {
        let work = async {
            check_name(&name)?;
            let ask = Ask::RemoveSchedule(name);
            self.view()?.catalog.require(ask.format())?;
            self.change(ask).await
        };
        self.admit_write("remove_schedule", work).await
    }

    /// All studies, by name.
    ///
    /// # Errors
    /// `Overloaded` when too many requests are at work.
    pub async fn studies(&self) -> Result<Vec<Studied>> {
        let work = async { Ok(self.shared.route.catalog.borrow().studies.values().cloned().collect()) };
        self.admit("list_studies", work).await
    }

    /// Begins a search for settings.
    ///
    /// # Errors
    /// `Invalid` naming the field; `Unsupported` for what the cluster's format does not have yet; the coordinator's: `Conflict` where
    /// there is another one of that name, or too many.
    pub async fn start_study(&self, study: Study) -> Result<Studied> {
        let work = async {
            study.validate()?;
            self.view()?.catalog.require(study.format())?;
            let name = study.name.clone();
            self.change(Ask::SetStudy(study)).await?;
            let set = self.shared.route.catalog.borrow().studies.get(&name).cloned();
            set.ok_or_else(|| Error::new(Kind::Unavailable, "the study has begun, and this node has not seen it yet"))
        };
        self.admit_write("start_study", work).await
    }

    /// Forgets a study and ends its trial; the job with its best settings goes on.
    ///
    /// # Errors
    /// `NotFound`; `Unsupported` in a cluster whose format has no studies yet.
    pub async fn remove_study(&self, name: String) -> Result<()> {
        let work = async {
            check_name(&name)?;
            let ask = Ask::RemoveStudy(name);
            self.view()?.catalog.require(ask.format())?;
            self.change(ask).await
        };
        self.admit_write("remove_study", work).await
    }

    async fn change(&self, ask: Ask) -> Result<()> {
        match self.shared.coordinators.call(ask, self.write_deadline()).await? {
            Told::Index(index) => {
                self.wait_catalog(SEEN, |catalog| catalog.index >= index).await;
                Ok(())
            }
            _ => Err(unfitting()),
        }
    }
}
