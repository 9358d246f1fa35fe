//! One batch over the wire, and what became of each of its records.

use crate::client::{Cluster, Repeat};
use crate::import::row::Reason;
use docent_proto::v1;
use docent_types::{Error, Kind};
use futures::FutureExt;
use futures::future::BoxFuture;
use std::time::Duration;

/// What became of one record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Durable.
    Accepted,
    /// There before.
    Duplicate,
    /// The user does not allow collection.
    NotCollected,
    /// Can never succeed.
    Rejected(Reason),
    /// Nobody knows, or nothing was done: send it again, safely, under the same id.
    Again {
        /// When the cluster says so.
        after: Option<Duration>,
        /// Why, for the message when patience ends.
        why: String,
    },
}

/// Sends batches of one kind of record.
pub trait Deliver<T>: Send + Sync {
    /// An outcome for each record of `batch`, in its order. `node`: which node to ask first. An error concerns the whole batch.
    fn deliver<'a>(&'a self, node: usize, batch: &'a [T]) -> BoxFuture<'a, Result<Vec<Outcome>, Error>>;

    /// The record's size on the wire, roughly.
    fn bytes(&self, record: &T) -> usize;
}

fn map_bytes(map: &std::collections::BTreeMap<String, String>) -> usize {
    map.iter().map(|(key, value)| key.len() + value.len() + 8).sum()
}

impl Deliver<v1::Event> for Cluster {
    fn deliver<'a>(&'a self, node: usize, batch: &'a [v1::Event]) -> BoxFuture<'a, Result<Vec<Outcome>, Error>> {
        async move {
            let send = |mut client: crate::client::Client| {
                let request = v1::IngestEventsRequest { events: batch.to_vec() };
                async move { client.ingest_events(request).await }
            };
            let response = self.call_from(node, Repeat::Safe, send).await?;
            if response.results.len() != batch.len() {
                let message = format!("{} results for {} events", response.results.len(), batch.len());
                return Err(Error::new(Kind::Internal, message));
            }
            Ok(response.results.into_iter().map(outcome).collect())
        }
        .boxed()
    }

    fn bytes(&self, event: &v1::Event) -> usize {
        let ids = event.event_id.len() + event.user_id.len() + event.item_id.len();
        let texts = event.r#type.len() + event.session_id.len() + event.recommendation_id.len();
        40 + ids + texts + map_bytes(&event.context)
    }
}

fn outcome(result: v1::EventResult) -> Outcome {
    let error = result.error.unwrap_or_default();
    let kind = Kind::from_name(&error.kind);
    let again = |kind: Kind| kind.is_retryable() || matches!(kind, Kind::Unknown | Kind::DeadlineExceeded);
    match result.outcome.as_str() {
        "accepted" => Outcome::Accepted,
        "duplicate" => Outcome::Duplicate,
        "not_collected" => Outcome::NotCollected,
        "rejected" if !again(kind) => {
            let field = (!error.field.is_empty()).then_some(error.field);
            Outcome::Rejected(Reason { field, message: error.message })
        }
        // `unknown`, a refusal that may pass, and outcomes of a newer cluster: the same id makes another attempt safe.
        _ => {
            let after = error.retry_after_ms.map(|ms| Duration::from_millis(u64::from(ms)));
            Outcome::Again { after, why: error.message }
        }
    }
}

/// Puts are all or nothing: where the cluster refuses one record (`items[3].title`), that one is taken out and the rest is sent again.
fn all_or_one(result: Result<(), Error>, list: &str, records: usize) -> Result<Vec<Outcome>, Error> {
    let error = match result {
        Ok(()) => return Ok(vec![Outcome::Accepted; records]),
        Err(error) => error,
    };
    let culprit =
        (error.kind == Kind::Invalid).then(|| error.field.as_deref().and_then(|field| place(field, list))).flatten();
    let Some((at, field)) = culprit.filter(|(at, _)| *at < records) else { return Err(error) };
    let mut outcomes = vec![Outcome::Again { after: Some(Duration::ZERO), why: error.message.clone() }; records];
    outcomes[at] = Outcome::Rejected(Reason { field, message: error.message });
    Ok(outcomes)
}

/// `items[3].title` is record 3 and field `title`.
fn place(path: &str, list: &str) -> Option<(usize, Option<String>)> {
    let (at, rest) = path.strip_prefix(list)?.strip_prefix('[')?.split_once(']')?;
    Some((at.parse().ok()?, rest.strip_prefix('.').map(str::to_owned)))
}

impl Deliver<v1::Item> for Cluster {
    fn deliver<'a>(&'a self, node: usize, batch: &'a [v1::Item]) -> BoxFuture<'a, Result<Vec<Outcome>, Error>> {
        async move {
            let send = |mut client: crate::client::Client| {
                let request = v1::PutItemsRequest { items: batch.to_vec() };
                async move { client.put_items(request).await }
            };
            let result = self.call_from(node, Repeat::Safe, send).await.map(|_| ());
            all_or_one(result, "items", batch.len())
        }
        .boxed()
    }

    fn bytes(&self, item: &v1::Item) -> usize {
        let categories: usize = item.categories.iter().map(|name| name.len() + 2).sum();
        40 + item.item_id.len() + item.title.len() + item.description.len() + categories + map_bytes(&item.attributes)
    }
}

impl Deliver<v1::Profile> for Cluster {
    fn deliver<'a>(&'a self, node: usize, batch: &'a [v1::Profile]) -> BoxFuture<'a, Result<Vec<Outcome>, Error>> {
        async move {
            let send = |mut client: crate::client::Client| {
                let request = v1::PutUsersRequest { users: batch.to_vec() };
                async move { client.put_users(request).await }
            };
            let result = self.call_from(node, Repeat::Safe, send).await.map(|_| ());
            all_or_one(result, "users", batch.len())
        }
        .boxed()
    }

    fn bytes(&self, profile: &v1::Profile) -> usize {
        20 + profile.user_id.len() + map_bytes(&profile.attributes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_bad_record_of_a_put_is_taken_out() {
        let error = Error::invalid("items[1].title", "title has 9000 bytes");
        let outcomes = all_or_one(Err(error), "items", 3).unwrap();
        assert!(matches!(&outcomes[1], Outcome::Rejected(reason) if reason.field.as_deref() == Some("title")));
        assert!(matches!(&outcomes[0], Outcome::Again { .. }));
        for field in ["items[9].title", "items", "users[1].x"] {
            assert!(all_or_one(Err(Error::invalid(field, "x")), "items", 3).is_err(), "{field}");
        }
        assert_eq!(all_or_one(Ok(()), "items", 2).unwrap(), vec![Outcome::Accepted; 2]);
    }

    #[test]
    fn only_what_can_never_succeed_is_rejected() {
        let result = |outcome: &str, kind: &str| v1::EventResult {
            outcome: outcome.to_owned(),
            position: String::new(),
            error: Some(v1::ErrorDetail {
                kind: kind.to_owned(),
                retry_after_ms: Some(5),
                ..v1::ErrorDetail::default()
            }),
        };
        assert!(matches!(outcome(result("rejected", "invalid")), Outcome::Rejected(_)));
        for (name, kind) in
            [("unknown", "unknown"), ("rejected", "overloaded"), ("rejected", "unavailable"), ("new", "")]
        {
            let after = Some(Duration::from_millis(5));
            assert_eq!(outcome(result(name, kind)), Outcome::Again { after, why: String::new() }, "{name} {kind}");
        }
    }
}
