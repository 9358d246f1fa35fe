//! Errors on the wire: as a detail in an answer, and as a gRPC status whose metadata keeps what the status code loses.

use crate::v1;
use docent_types::{Error, Kind};
use tonic::metadata::MetadataValue;
use tonic::{Code, Status};

/// Metadata key of [`Kind::name`].
pub const KIND_KEY: &str = "docent-error-kind";
/// Metadata key of the field at fault, escaped where it is not plain ASCII.
pub const FIELD_KEY: &str = "docent-error-field";
/// Metadata key of how long to wait.
pub const RETRY_KEY: &str = "docent-retry-after-ms";

impl From<Error> for v1::ErrorDetail {
    fn from(error: Error) -> v1::ErrorDetail {
        v1::ErrorDetail {
            kind: error.kind.name().to_owned(),
            message: error.message,
            field: error.field.unwrap_or_default(),
            retry_after_ms: error.retry_after_ms,
        }
    }
}

impl From<v1::ErrorDetail> for Error {
    fn from(detail: v1::ErrorDetail) -> Error {
        Error {
            kind: Kind::from_name(&detail.kind),
            message: detail.message,
            field: super::absent_if_empty(detail.field),
            retry_after_ms: detail.retry_after_ms,
            hint: None,
        }
    }
}

/// The gRPC code of a kind.
pub fn code(kind: Kind) -> Code {
    match kind {
        Kind::Invalid => Code::InvalidArgument,
        Kind::NotFound => Code::NotFound,
        Kind::Conflict => Code::FailedPrecondition,
        Kind::Unauthenticated => Code::Unauthenticated,
        Kind::NotLeader | Kind::WrongShard | Kind::Unavailable => Code::Unavailable,
        Kind::Overloaded => Code::ResourceExhausted,
        Kind::DeadlineExceeded | Kind::Unknown => Code::DeadlineExceeded,
        Kind::Unsupported => Code::Unimplemented,
        Kind::Corrupt => Code::DataLoss,
        _ => Code::Internal,
    }
}

/// The status of an error.
pub fn status(error: Error) -> Status {
    let mut status = Status::new(code(error.kind), error.message);
    let metadata = status.metadata_mut();
    metadata.insert(KIND_KEY, MetadataValue::from_static(error.kind.name()));
    if let Some(field) = error.field.and_then(|field| field.escape_default().to_string().parse().ok()) {
        metadata.insert(FIELD_KEY, field);
    }
    if let Some(retry_after_ms) = error.retry_after_ms {
        metadata.insert(RETRY_KEY, retry_after_ms.into());
    }
    status
}

/// The error of a status, from Docent or from the transport below it.
pub fn from_status(status: &Status) -> Error {
    let text = |key: &str| status.metadata().get(key).and_then(|value| value.to_str().ok());
    let kind = text(KIND_KEY).map_or_else(|| kind_of(status.code()), Kind::from_name);
    Error {
        kind,
        message: status.message().to_owned(),
        field: text(FIELD_KEY).map(str::to_owned),
        retry_after_ms: text(RETRY_KEY).and_then(|value| value.parse().ok()),
        hint: None,
    }
}

/// What a status without our metadata means.
fn kind_of(code: Code) -> Kind {
    match code {
        Code::InvalidArgument | Code::OutOfRange => Kind::Invalid,
        Code::NotFound => Kind::NotFound,
        Code::FailedPrecondition | Code::AlreadyExists | Code::Aborted => Kind::Conflict,
        Code::Unauthenticated | Code::PermissionDenied => Kind::Unauthenticated,
        Code::Unavailable => Kind::Unavailable,
        Code::ResourceExhausted => Kind::Overloaded,
        Code::DeadlineExceeded | Code::Cancelled => Kind::DeadlineExceeded,
        Code::Unimplemented => Kind::Unsupported,
        Code::DataLoss => Kind::Corrupt,
        _ => Kind::Internal,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_survives_its_status_and_its_detail() {
        let errors = [
            Error::invalid("events[3].user_id", "user id is empty"),
            Error::overloaded("too many requests", 250),
            Error::new(Kind::Unknown, "no answer in time"),
            Error::new(Kind::DeadlineExceeded, "no answer in time"),
            Error::new(Kind::Corrupt, "bad bytes"),
        ];
        for error in errors {
            assert_eq!(from_status(&status(error.clone())), error);
            assert_eq!(Error::from(v1::ErrorDetail::from(error.clone())), error);
        }
    }

    #[test]
    fn a_field_that_is_no_header_text_does_not_lose_the_error() {
        let back = from_status(&status(Error::invalid("context.\u{e9}\n", "too long")));
        assert_eq!(back.kind, Kind::Invalid);
        assert_eq!(back.field.as_deref(), Some("context.\\u{e9}\\n"));
    }

    #[test]
    fn a_status_of_the_transport_gets_a_kind() {
        assert_eq!(from_status(&Status::unavailable("connection refused")).kind, Kind::Unavailable);
        assert_eq!(from_status(&Status::out_of_range("too large")).kind, Kind::Invalid);
    }
}
