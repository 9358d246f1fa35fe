//! HTTP/JSON under `/v1`: decode, call the gateway, encode.
//!
//! | module | owns |
//! |---|---|
//! | [`body`] | request bodies: limits, strict JSON, timestamps |
//! | [`problem`] | errors as JSON with their status |
//! | [`query`] | query strings |
//! | [`view`] | answers as JSON |
//! | [`data`] | handlers of events, users, items |
//! | [`ask`] | handlers of queries |
//! | [`admin`] | handlers of cluster, models, jobs, health |
//! | [`schedule`], [`study`] | schedules and studies: body, handlers, view |

mod admin;
mod ask;
mod body;
mod data;
mod problem;
mod query;
mod schedule;
mod study;
mod view;

use crate::gateway::Gateway;
use axum::Router;
use axum::extract::Request;
use axum::extract::rejection::PathRejection;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post, put};
use docent_types::{Error, Kind};
use problem::Problem;
use std::sync::Arc;

/// Gives the process's metrics in Prometheus' text form.
pub type RenderMetrics = Arc<dyn Fn() -> String + Send + Sync>;

/// What handlers share.
#[derive(Clone)]
struct App {
    gateway: Gateway,
    render_metrics: RenderMetrics,
}

type Answer<T> = Result<axum::Json<T>, Problem>;
type Segment = Result<axum::extract::Path<String>, PathRejection>;

pub(crate) fn router(gateway: Gateway, render_metrics: RenderMetrics) -> Router {
    Router::new()
        .route("/v1/events", post(data::post_events))
        .route("/v1/users", put(data::put_users).post(data::put_users))
        .route("/v1/users/{id}", put(data::put_user).get(data::get_user).delete(data::delete_user))
        .route("/v1/users/{id}/consent", put(data::put_consent).get(data::get_consent))
        .route("/v1/users/{id}/blocks", put(data::put_blocks).get(data::get_blocks))
        .route("/v1/users/{id}/recommendations", get(ask::recommendations))
        .route("/v1/items", put(data::put_items).post(data::put_items))
        .route(
            "/v1/items/{id}",
            put(data::put_item).get(data::get_item).delete(data::delete_item).post(data::item_action),
        )
        .route("/v1/items/{id}/similar", get(ask::similar))
        .route("/v1/recommend", post(ask::recommend))
        .route("/v1/popular", get(ask::popular))
        .route("/v1/cluster", get(admin::cluster))
        .route("/v1/placement", post(admin::change_placement))
        .route("/v1/models", get(admin::models))
        .route("/v1/models:rollback", post(admin::rollback))
        .route("/v1/models/{version}", post(admin::model_action))
        .route("/v1/jobs", get(admin::jobs).post(admin::start_training))
        .route("/v1/jobs/{job}", post(admin::job_action))
        .route("/v1/schedules", get(schedule::list))
        .route("/v1/schedules/{name}", put(schedule::set).delete(schedule::remove))
        .route("/v1/studies", get(study::list))
        .route("/v1/studies/{name}", put(study::start).delete(study::remove))
        .route("/healthz", get(admin::healthz))
        .route("/readyz", get(admin::readyz))
        .route("/metrics", get(admin::metrics))
        .fallback(not_found)
        .method_not_allowed_fallback(method_not_allowed)
        .with_state(App { gateway, render_metrics })
}

/// A path segment's text, percent-decoded.
fn segment(segment: Segment) -> Result<String, Problem> {
    match segment {
        Ok(axum::extract::Path(text)) => Ok(text),
        Err(_) => Err(Problem::from(Error::invalid("path", "the path is not percent-encoded UTF-8"))),
    }
}

/// Both protocols share the port, and each wants its own kind of no.
async fn not_found(request: Request) -> Response {
    let content_type = request.headers().get(header::CONTENT_TYPE);
    if content_type.is_some_and(|value| value.as_bytes().starts_with(b"application/grpc")) {
        return tonic::Status::unimplemented("docent.v1.Docent has no such method").into_http::<axum::body::Body>();
    }
    Problem::from(Error::new(Kind::NotFound, "there is nothing under this path; see the routes below /v1"))
        .into_response()
}

async fn method_not_allowed() -> Problem {
    let error = Error::invalid("method", "this path does not take this method");
    Problem::with_status(error, StatusCode::METHOD_NOT_ALLOWED)
}
