//! What a command that fails says: a message that names the thing, what to do about it, and the exit code.

use docent_types::{Error, Kind};
use std::fmt;
use std::path::Path;

/// The exit codes, a promise to scripts. 0 is success.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// The command was understood and failed.
    Failed = 1,
    /// The command line or a settings file is wrong (clap uses the same code).
    Usage = 2,
    /// No node of the cluster answers, or the cluster is not ready.
    Unreachable = 3,
    /// More lines were rejected than `--max-errors` allows.
    Rejected = 4,
}

/// Why a command ends without success.
#[derive(Debug)]
pub struct Failure {
    /// The exit code.
    pub exit: Exit,
    /// What went wrong: lower case, names the thing. Boxed to keep results small.
    pub error: Box<Error>,
    /// What to do next.
    pub advice: Option<String>,
}

/// Result of a command.
pub type Result<T, E = Failure> = std::result::Result<T, E>;

impl Failure {
    fn new(exit: Exit, kind: Kind, message: impl Into<String>) -> Failure {
        Failure { exit, error: Box::new(Error::new(kind, message)), advice: None }
    }

    /// The command failed.
    pub fn failed(message: impl Into<String>) -> Failure {
        Failure::new(Exit::Failed, Kind::Conflict, message)
    }

    /// The command line, or a file it names, asks for something impossible.
    pub fn usage(message: impl Into<String>) -> Failure {
        Failure::new(Exit::Usage, Kind::Invalid, message)
    }

    /// No node answers, or the cluster cannot answer yet.
    pub fn unreachable(message: impl Into<String>) -> Failure {
        Failure::new(Exit::Unreachable, Kind::Unavailable, message)
    }

    /// Too many lines were rejected.
    pub fn rejected(message: impl Into<String>) -> Failure {
        Failure::new(Exit::Rejected, Kind::Invalid, message)
    }

    /// The operating system refused: `doing` is a phrase like `read`.
    pub fn io(doing: &str, path: &Path, error: &std::io::Error) -> Failure {
        Failure::failed(format!("cannot {doing} {}: {error}", path.display()))
    }

    /// Adds what to do next.
    #[must_use]
    pub fn advise(mut self, advice: impl Into<String>) -> Failure {
        self.advice = Some(advice.into());
        self
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Failure {
        let (exit, advice) = match error.kind {
            Kind::Unavailable | Kind::NotLeader | Kind::WrongShard => {
                (Exit::Unreachable, Some("wait for the cluster with `docent status --wait`, then try again"))
            }
            Kind::Overloaded => {
                (Exit::Unreachable, Some("the cluster is busy: nothing was done, try again a little later"))
            }
            Kind::DeadlineExceeded => {
                (Exit::Failed, Some("look at `docent status`, or allow more time with --timeout"))
            }
            Kind::Unknown => (Exit::Failed, Some("it may or may not have been done: look before you repeat it")),
            _ => (Exit::Failed, None),
        };
        Failure { exit, error: Box::new(error), advice: advice.map(str::to_owned) }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.error.field {
            Some(field) if !self.error.message.contains(field.as_str()) => {
                write!(f, "{field}: {}", self.error.message)?
            }
            _ => f.write_str(&self.error.message)?,
        }
        match &self.advice {
            Some(advice) => write!(f, "\n  -> {advice}"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for Failure {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_names_the_field_and_the_way_out() {
        let failure = Failure::from(Error::invalid("n", "must be 1 to 1000"));
        assert_eq!((failure.exit, failure.to_string().as_str()), (Exit::Failed, "n: must be 1 to 1000"));
        let failure = Failure::from(Error::new(Kind::Unavailable, "users/3 has no leader"));
        assert_eq!(failure.exit, Exit::Unreachable);
        assert!(failure.to_string().contains("docent status --wait"), "{failure}");
    }
}
