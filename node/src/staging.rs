//! Brings model versions to this node: parts pulled and verified, indexes built and probed, then told with the heartbeat.

use crate::membership::StagedModels;
use crate::parts::{Parts, name};
use crate::serving::index::Parts as PartFiles;
use crate::serving::models::{Models, Version};
use crate::shards::{Hosted, ItemsRole, Role, Shards};
use docent_rpc::Caller;
use docent_runtime::Threads;
use docent_types::catalog::{Catalog, Model, ModelPart, ModelState};
use docent_types::{Error, Kind, NodeId, Result, ShardId};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// Pause before a failed staging is tried again.
const RETRY: Duration = Duration::from_millis(500);
/// How often a complete staging is looked at again: a snapshot drops a shard's indexes, and changes make them want a rebuild.
const LOOK: Duration = Duration::from_secs(2);
/// How long a part that no model names is kept.
const GRACE: Duration = Duration::from_secs(600);
/// Attempts before a version that is damaged is refused on this node.
const ATTEMPTS_MAX: u32 = 3;

/// Keeps this node's versions as the catalog wants them.
pub struct Staging {
    /// The node's replicas.
    pub shards: Arc<Shards>,
    /// Loaded versions.
    pub models: Arc<Models>,
    /// Parts on disk.
    pub parts: Arc<Parts>,
    /// Other nodes.
    pub caller: Arc<dyn Caller>,
    /// What the heartbeat tells.
    pub staged: watch::Sender<StagedModels>,
    /// This node.
    pub node: NodeId,
    /// Where parts are read and indexes built.
    pub threads: Threads,
}

impl Staging {
    /// Follows the catalog for the life of the process.
    pub async fn follow(self, mut catalog: watch::Receiver<Arc<Catalog>>) -> Result<()> {
        let mut failures: BTreeMap<u64, u32> = BTreeMap::new();
        loop {
            let current = catalog.borrow_and_update().clone();
            let wanted = wanted(&current);
            for version in &wanted {
                let Some(model) = current.models.get(version) else { continue };
                if let Err(error) = self.stage(&current, model).await {
                    tracing::debug!(version, %error, "model version is not staged yet");
                    self.failed(*version, error, failures.entry(*version).or_default());
                }
            }
            // Staging took a while: what came up meanwhile must not be collected.
            let newest = catalog.borrow().clone();
            self.collect(&newest)?;
            let is_complete = wanted.iter().all(|version| self.is_staged(&current, *version));
            metrics::gauge!("docent_models_staged").set(self.models.all().len() as f64);
            tokio::select! {
                changed = catalog.changed() => if changed.is_err() { return Ok(()) },
                () = tokio::time::sleep(if is_complete { LOOK } else { RETRY }) => {} // the next look
            }
        }
    }

    /// Notes a failure. Only a version that is itself damaged is refused: a holder that is away comes back.
    fn failed(&self, version: u64, error: Error, damaged: &mut u32) {
        if matches!(error.kind, Kind::Corrupt | Kind::Invalid | Kind::Unsupported) {
            *damaged += 1;
            if *damaged == ATTEMPTS_MAX {
                tracing::warn!(version, %error, "model version cannot be staged on this node");
                self.staged.send_modify(|staged| drop(staged.refused.insert(version, error.message)));
            }
        }
    }

    /// Whether every replica that the catalog places here is open and can answer with the version.
    fn is_staged(&self, catalog: &Catalog, version: u64) -> bool {
        let placed = catalog.shards.values().filter(|shard| shard.is_on(self.node)).count();
        let refused = self.staged.borrow().refused.contains_key(&version);
        refused || self.models.has(version) && self.ready(version).len() == placed
    }

    /// The hosted shards that can answer with a version. User shards need the global part alone.
    fn ready(&self, version: u64) -> BTreeSet<ShardId> {
        let can_answer = |hosted: &Hosted| match &hosted.role {
            Role::Users(_) => self.models.has(version),
            Role::Items(items) => items.serving.has_index(version),
        };
        self.shards.all().iter().filter(|hosted| can_answer(hosted)).map(|hosted| hosted.id).collect()
    }

    async fn stage(&self, catalog: &Catalog, model: &Model) -> Result<()> {
        let version = model.version;
        if !self.models.has(version) {
            let bytes = self.bytes(catalog, &model.global).await?;
            let loaded = self.blocking(move || Version::load(version, &bytes)).await?;
            self.models.insert(Arc::new(loaded));
        }
        let loaded = self.models.get(version)?;
        for hosted in self.shards.all() {
            if let Role::Items(items) = &hosted.role
                && items.serving.wants_index(version)
            {
                self.index(catalog, model, &hosted, items, &loaded).await?;
            }
        }
        let ready = self.ready(version);
        self.staged.send_if_modified(|staged| {
            let before = staged.ready.insert(version, ready.clone());
            before != Some(ready)
        });
        Ok(())
    }

    async fn index(
        &self,
        catalog: &Catalog,
        model: &Model,
        hosted: &Arc<Hosted>,
        items: &Arc<ItemsRole>,
        version: &Arc<Version>,
    ) -> Result<()> {
        let mut parts = PartFiles::of(version);
        for part in model.parts.iter().filter(|part| part.slots.overlaps(hosted.slots)) {
            let bytes = self.bytes(catalog, part).await?;
            parts.push(&bytes).map_err(|error| {
                Error::new(
                    Kind::Corrupt,
                    format!("part {} of model {} is damaged: {error}", name(&part.hash), model.version),
                )
            })?;
        }
        let (hosted, items, version) = (hosted.clone(), items.clone(), version.clone());
        self.blocking(move || {
            items.serving.stage(&version, &parts, || hosted.view())?;
            items.serving.index(version.version)?.probe(&version)
        })
        .await
    }

    /// The verified bytes of a part, pulled first where they are not here.
    async fn bytes(&self, catalog: &Catalog, part: &ModelPart) -> Result<Vec<u8>> {
        let others = catalog.nodes.values().filter(|member| member.is_alive).map(|member| member.id);
        let from: Vec<NodeId> = part.holders.iter().copied().chain(others).collect();
        self.parts.fetch(&part.hash, part.bytes, &from, &*self.caller).await
    }

    async fn blocking<T: Send + 'static>(&self, work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
        self.threads.blocking(work).await.map_err(|error| Error::new(Kind::Internal, error.to_string()))?
    }

    /// Drops what no wanted version needs.
    fn collect(&self, catalog: &Catalog) -> Result<()> {
        let wanted = &wanted(catalog);
        self.models.retain(|version| wanted.contains(&version));
        for hosted in self.shards.all() {
            if let Role::Items(items) = &hosted.role {
                items.serving.retain(|version| wanted.contains(&version));
            }
        }
        self.staged.send_if_modified(|staged| {
            let before = staged.ready.len() + staged.refused.len();
            staged.ready.retain(|version, _| wanted.contains(version));
            staged.refused.retain(|version, _| wanted.contains(version));
            before != staged.ready.len() + staged.refused.len()
        });
        // A running job's parts are on this disk before its model is in the catalog.
        let is_training = catalog.jobs.values().any(|job| job.state == docent_types::catalog::JobState::Running);
        if is_training {
            return Ok(());
        }
        let kept: BTreeSet<String> = catalog
            .models
            .values()
            .filter(|model| wanted.contains(&model.version))
            .flat_map(|model| model.parts.iter().chain([&model.global]).map(|part| name(&part.hash)))
            .collect();
        self.parts.retain(|name| kept.contains(name), GRACE)
    }
}

/// Versions that a node must be able to answer with: the live one, the one to roll back to, and those on their way.
fn wanted(catalog: &Catalog) -> BTreeSet<u64> {
    let on_the_way =
        |model: &&Model| matches!(model.state, ModelState::Validated | ModelState::Staged | ModelState::Live);
    let mut wanted: BTreeSet<u64> = catalog.models.values().filter(on_the_way).map(|model| model.version).collect();
    if let Some(live) = catalog.live {
        wanted.insert(live.version);
        wanted.extend(live.previous);
    }
    wanted
}
