//! Handlers of cluster, models, jobs, health and metrics.

use super::body::Json;
use super::problem::Problem;
use super::{Answer, App, Segment, segment, view};
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::http::StatusCode;
use docent_types::catalog::Activation;
use docent_types::placement::PlacementChange;
use docent_types::training::GivenSettings;
use docent_types::{Error, NodeId};
use serde::Deserialize;

pub(super) async fn cluster(State(app): State<App>) -> Answer<view::Cluster> {
    Ok(axum::Json(app.gateway.cluster().await?.into()))
}

/// `POST /v1/placement`.
#[derive(Deserialize)]
#[serde(tag = "action", rename_all = "snake_case")]
enum Action {
    Drain { node: NodeId },
    Resume { node: NodeId },
    Remove { node: NodeId },
    Move { shard: String, from: NodeId, to: NodeId },
    Cancel { shard: String },
}

#[derive(Deserialize)]
pub(super) struct Placement {
    #[serde(flatten)]
    action: Action,
    #[serde(default)]
    dry_run: bool,
}

pub(super) async fn change_placement(State(app): State<App>, Json(body): Json<Placement>) -> Answer<view::Moves> {
    let change = match body.action {
        Action::Drain { node } => PlacementChange::Drain(node),
        Action::Resume { node } => PlacementChange::Resume(node),
        Action::Remove { node } => PlacementChange::Remove(node),
        Action::Move { shard, from, to } => PlacementChange::Move { shard: shard.parse()?, from, to },
        Action::Cancel { shard } => PlacementChange::Cancel(shard.parse()?),
    };
    let moves = app.gateway.change_placement(change, body.dry_run).await?;
    Ok(axum::Json(view::Moves { moves: moves.into_iter().map(Into::into).collect(), dry_run: body.dry_run }))
}

pub(super) async fn models(State(app): State<App>) -> Answer<view::Models> {
    let models = app.gateway.models().await?;
    Ok(axum::Json(view::Models { models: models.into_iter().map(Into::into).collect() }))
}

pub(super) async fn jobs(State(app): State<App>) -> Answer<view::Jobs> {
    Ok(axum::Json(view::Jobs { jobs: app.gateway.jobs().await?.into_iter().map(Into::into).collect() }))
}

/// The number before `action` in a path segment.
fn number(path: Segment, field: &str, action: &str) -> Result<u64, Problem> {
    let text = segment(path)?;
    let number = text.strip_suffix(action).and_then(|number| number.parse().ok());
    number.ok_or_else(|| Problem::from(Error::invalid(field, format!("the path must end with a number and {action}"))))
}

/// The query of `POST /v1/models/{version}:activate`.
#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Activate {
    /// Also where the version is worse than the live one.
    force: bool,
}

/// `POST /v1/models/{version}:activate`.
pub(super) async fn model_action(
    State(app): State<App>,
    path: Segment,
    query: Result<Query<Activate>, QueryRejection>,
) -> Answer<Activation> {
    let Query(Activate { force }) =
        query.map_err(|_| Error::invalid("query", "the only parameter is force, true or false"))?;
    Ok(axum::Json(app.gateway.activate(number(path, "version", ":activate")?, force).await?))
}

pub(super) async fn rollback(State(app): State<App>) -> Answer<Activation> {
    Ok(axum::Json(app.gateway.rollback().await?))
}

pub(super) async fn start_training(State(app): State<App>, Json(given): Json<GivenSettings>) -> Answer<view::Job> {
    Ok(axum::Json(app.gateway.start_training(given.settings()?).await?.into()))
}

/// `POST /v1/jobs/{job}:cancel`.
pub(super) async fn job_action(State(app): State<App>, path: Segment) -> Answer<view::Job> {
    Ok(axum::Json(app.gateway.cancel_job(number(path, "job", ":cancel")?).await?.into()))
}

/// The process runs.
pub(super) async fn healthz() -> &'static str {
    "ok\n"
}

/// The node can answer everything, and the next one may be stopped.
pub(super) async fn readyz(State(app): State<App>) -> (StatusCode, String) {
    match app.gateway.unready().await {
        None => (StatusCode::OK, "ready\n".to_owned()),
        Some(why) => (StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n")),
    }
}

pub(super) async fn metrics(State(app): State<App>) -> String {
    (app.render_metrics)()
}
