//! Errors as `{error:{kind, message, field?, retry_after_ms?}}` under the status of their kind.

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use docent_types::{Error, Kind};
use serde::Serialize;

/// An error on its way to a client.
#[derive(Debug)]
pub(crate) struct Problem {
    error: Error,
    status: StatusCode,
}

#[derive(Serialize)]
struct Body {
    error: View,
}

/// An error in JSON; also inside results of batches.
#[derive(Serialize)]
pub(crate) struct View {
    kind: &'static str,
    message: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    field: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    retry_after_ms: Option<u32>,
}

impl From<Error> for View {
    fn from(error: Error) -> View {
        View {
            kind: error.kind.name(),
            message: error.message,
            field: error.field,
            retry_after_ms: error.retry_after_ms,
        }
    }
}

/// The HTTP status of a kind.
pub(crate) fn status(kind: Kind) -> StatusCode {
    match kind {
        Kind::Invalid => StatusCode::BAD_REQUEST,
        Kind::NotFound => StatusCode::NOT_FOUND,
        Kind::Conflict => StatusCode::CONFLICT,
        Kind::Unauthenticated => StatusCode::UNAUTHORIZED,
        Kind::NotLeader | Kind::WrongShard | Kind::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        Kind::Overloaded => StatusCode::TOO_MANY_REQUESTS,
        Kind::DeadlineExceeded | Kind::Unknown => StatusCode::GATEWAY_TIMEOUT,
        Kind::Unsupported => StatusCode::NOT_IMPLEMENTED,
        _ => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

impl Problem {
    /// An error whose status HTTP knows better than its kind.
    pub(crate) fn with_status(error: Error, status: StatusCode) -> Problem {
        Problem { error, status }
    }
}

impl From<Error> for Problem {
    fn from(error: Error) -> Problem {
        Problem { status: status(error.kind), error }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let retry_after_ms = self.error.retry_after_ms;
        let mut response = (self.status, axum::Json(Body { error: self.error.into() })).into_response();
        if let Some(ms) = retry_after_ms {
            // The header counts whole seconds.
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(ms.div_ceil(1_000)));
        }
        response
    }
}
