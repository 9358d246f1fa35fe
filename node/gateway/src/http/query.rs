//! Query strings: every parameter is known and given once, except `exclude_ids`, which repeats.

use super::problem::Problem;
use axum::extract::{FromRequestParts, Query};
use axum::http::request::Parts;
use docent_proto::convert::query;
use docent_types::{Error, ItemId, Result};

/// The parameters of a query.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Params {
    pub(crate) n: Option<u32>,
    pub(crate) exclude_ids: Vec<String>,
    pub(crate) deadline_ms: Option<u32>,
    pub(crate) explain: Option<bool>,
    pub(crate) session: Option<String>,
}

impl<S: Send + Sync> FromRequestParts<S> for Params {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Params, Problem> {
        let bad = |_| Problem::from(Error::invalid("query", "the query string cannot be decoded"));
        let Query(pairs) = Query::<Vec<(String, String)>>::from_request_parts(parts, state).await.map_err(bad)?;
        Ok(Params::parse(pairs)?)
    }
}

fn once<T: std::str::FromStr>(slot: &mut Option<T>, name: &str, text: &str) -> Result<()> {
    if slot.is_some() {
        return Err(Error::invalid(name, format!("{name} is given twice")));
    }
    let value = text.parse().map_err(|_| Error::invalid(name, format!("{name} has a value of the wrong kind")))?;
    *slot = Some(value);
    Ok(())
}

impl Params {
    fn parse(pairs: Vec<(String, String)>) -> Result<Params> {
        let mut params = Params::default();
        for (name, value) in pairs {
            // The decoder puts this where the bytes were not UTF-8; better refused than taken for another id.
            if value.contains('\u{fffd}') {
                return Err(Error::invalid(name, "the value is not UTF-8"));
            }
            match name.as_str() {
                "n" => once(&mut params.n, &name, &value)?,
                "deadline_ms" => once(&mut params.deadline_ms, &name, &value)?,
                "explain" => once(&mut params.explain, &name, &value)?,
                "session" => once(&mut params.session, &name, &value)?,
                "exclude_ids" => params.exclude_ids.push(value),
                "cursor" | "scenario" | "filter" | "context" | "diversity" | "exploration" | "min_coverage" => {
                    return Err(query::reserved(&name));
                }
                _ => {
                    return Err(Error::invalid(
                        name,
                        "unknown parameter; known: n, exclude_ids, explain, deadline_ms, session",
                    ));
                }
            }
        }
        Ok(params)
    }

    /// How many items, 10 when not said.
    pub(crate) fn n(&self) -> Result<u32> {
        query::count(self.n.unwrap_or(query::ANSWER_ITEMS_DEFAULT))
    }

    /// The excluded ids.
    pub(crate) fn excluded(&self) -> Result<Vec<ItemId>> {
        query::exclude_ids(self.exclude_ids.clone())
    }

    /// The deadline, 0 for the default.
    pub(crate) fn deadline_ms(&self) -> Result<u32> {
        query::deadline_ms(self.deadline_ms.unwrap_or(0))
    }

    /// Refuses what only recommendations take.
    pub(crate) fn not_personal(&self) -> Result<()> {
        match (self.explain, &self.session) {
            (None, None) => Ok(()),
            (Some(_), _) => Err(Error::invalid("explain", "explain is for recommendations to a user")),
            (_, Some(_)) => Err(Error::invalid("session", "session is for recommendations to a user")),
        }
    }
}
