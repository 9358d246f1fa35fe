//! One call of the vocabulary as an HTTP request to one node, and the node's answer as an outcome.

use crate::client::{Client, Reply};
use docent_trial::history::{
    Answer, Call, Consent, Coverage, Degraded, EventOutcome, Listing, Missing, Outcome, Refusal, Scored,
};
use docent_trial::{Group, Position};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};

/// Calls a node; a batch of events goes with [`events`].
pub fn make(client: &Client, call: &Call) -> Outcome {
    if let Call::Event { .. } = call {
        return events(client, std::slice::from_ref(call)).pop().unwrap_or_else(|| unreadable("no result"));
    }
    match request(client, call) {
        Ok((200, body)) => match answer(call, &body) {
            Ok(answer) => Outcome::Ok(answer),
            Err(why) => unreadable(&format!("{why}: {body}")),
        },
        Ok((404, _)) if has_absence(call) => Outcome::Ok(Answer::Absent {}),
        Ok((status, body)) => refused(status, &body["error"]),
        Err(error) => unanswered(&error),
    }
}

/// Sends events in one request; an outcome for each, in order.
pub fn events(client: &Client, calls: &[Call]) -> Vec<Outcome> {
    let body = json!({ "events": calls.iter().filter_map(event).collect::<Vec<Value>>() });
    match client.post("/v1/events", &body) {
        Ok((200, body)) => (0..calls.len()).map(|place| of_event(&body["results"][place])).collect(),
        Ok((status, body)) => vec![refused(status, &body["error"]); calls.len()],
        Err(error) => vec![unanswered(&error); calls.len()],
    }
}

/// An event as clients write it.
fn event(call: &Call) -> Option<Value> {
    let Call::Event { event_id, user, item, event_type } = call else { return None };
    Some(json!({ "event_id": event_id, "user_id": user, "item_id": item, "type": event_type }))
}

fn of_event(result: &Value) -> Outcome {
    let word = result["outcome"].as_str().unwrap_or_default();
    match (word, word.parse::<EventOutcome>()) {
        (_, Ok(outcome)) => {
            let position = result["position"].as_str().and_then(|text| text.parse::<Position>().ok());
            Outcome::Ok(Answer::Event { outcome, position })
        }
        ("rejected", _) => Outcome::Rejected(refusal(&result["error"], "rejected")),
        ("unknown", _) => Outcome::Unknown(refusal(&result["error"], "unknown")),
        _ => unreadable(&format!("an event's result cannot be read: {result}")),
    }
}

fn request(client: &Client, call: &Call) -> anyhow::Result<Reply> {
    let none = json!({});
    match call {
        Call::Event { .. } => client.post("/v1/events", &json!({ "events": [event(call)] })),
        Call::SetConsent { user, consent } => {
            client.put(&format!("/v1/users/{user}/consent"), &serde_json::to_value(consent)?)
        }
        Call::ReadConsent { user } => client.get(&format!("/v1/users/{user}/consent")),
        Call::SetBlocks { user, items } => {
            client.put(&format!("/v1/users/{user}/blocks"), &json!({ "item_ids": items }))
        }
        Call::ReadBlocks { user } => client.get(&format!("/v1/users/{user}/blocks")),
        Call::PutUser { user, attributes } => {
            client.put(&format!("/v1/users/{user}"), &json!({ "attributes": attributes }))
        }
        Call::ReadUser { user } => client.get(&format!("/v1/users/{user}")),
        Call::EraseUser { user } => client.delete(&format!("/v1/users/{user}")),
        Call::PutItem { item, title } => client.put(&format!("/v1/items/{item}"), &json!({ "title": title })),
        Call::ReadItem { item } => client.get(&format!("/v1/items/{item}")),
        Call::DeleteItem { item } => client.delete(&format!("/v1/items/{item}")),
        Call::TakeDown { item } => client.post(&format!("/v1/items/{item}:take-down"), &none),
        Call::Restore { item } => client.post(&format!("/v1/items/{item}:restore"), &none),
        Call::Recommend { user, n, exclude, session } => {
            let mut body = json!({ "user_id": user, "n": n, "exclude_ids": exclude });
            if let Some(session) = session {
                body["session"] = json!(session);
            }
            client.post("/v1/recommend", &body)
        }
        Call::Similar { item, n } => client.get(&format!("/v1/items/{item}/similar?n={n}")),
        Call::Popular { n } => client.get(&format!("/v1/popular?n={n}")),
        Call::ReadCatalog {} => client.get("/v1/cluster"),
        Call::Activate { version } => client.post(&format!("/v1/models/{version}:activate"), &none),
        Call::RollBack {} => client.post("/v1/models:rollback", &none),
        Call::Train {} => client.post("/v1/jobs", &none),
    }
}

/// Whether "there is none" is an answer to it.
fn has_absence(call: &Call) -> bool {
    let item =
        matches!(call, Call::ReadItem { .. } | Call::DeleteItem { .. } | Call::TakeDown { .. } | Call::Restore { .. });
    let user = matches!(
        call,
        Call::ReadUser { .. } | Call::ReadConsent { .. } | Call::ReadBlocks { .. } | Call::EraseUser { .. }
    );
    item || user || matches!(call, Call::Similar { .. } | Call::Activate { .. })
}

fn answer(call: &Call, body: &Value) -> Result<Answer, serde_json::Error> {
    Ok(match call {
        Call::ReadConsent { .. } => Answer::Consent(read(body)?),
        Call::ReadBlocks { .. } => Answer::Blocks(read::<Blocks>(body)?.item_ids),
        Call::ReadUser { .. } => {
            let User { attributes, consent, blocks, events } = read(body)?;
            Answer::User { consent, blocks, attributes, events }
        }
        Call::ReadItem { .. } => {
            let Item { title, is_taken_down, events } = read(body)?;
            Answer::Item { title, is_taken_down, events }
        }
        Call::Recommend { .. } | Call::Similar { .. } | Call::Popular { .. } => Answer::Listing(listing(read(body)?)),
        Call::ReadCatalog {} => {
            let Catalog { live_version, catalog_index } = read(body)?;
            Answer::Catalog { live_version, index: catalog_index }
        }
        Call::Activate { .. } | Call::RollBack {} => {
            let Live { version, epoch } = read(body)?;
            Answer::Activated { version, epoch }
        }
        Call::Train {} => Answer::Job { job: read::<Job>(body)?.id },
        _ => Answer::Done {},
    })
}

fn read<T: DeserializeOwned>(body: &Value) -> Result<T, serde_json::Error> {
    T::deserialize(body)
}

#[derive(Deserialize)]
struct Blocks {
    item_ids: BTreeSet<String>,
}

#[derive(Deserialize)]
struct User {
    #[serde(default)]
    attributes: BTreeMap<String, String>,
    consent: Consent,
    blocks: BTreeSet<String>,
    events: u64,
}

#[derive(Deserialize)]
struct Item {
    #[serde(default)]
    title: String,
    is_taken_down: bool,
    events: u64,
}

#[derive(Deserialize)]
struct Catalog {
    live_version: u64,
    catalog_index: u64,
}

#[derive(Deserialize)]
struct Live {
    version: u64,
    #[serde(default)]
    epoch: u64,
}

#[derive(Deserialize)]
struct Job {
    id: u64,
}

#[derive(Deserialize)]
struct Listed {
    items: Vec<Entry>,
    model: Option<Model>,
    coverage: Option<Covered>,
    session: Option<String>,
}

#[derive(Deserialize)]
struct Entry {
    id: String,
    score: f32,
    source: docent_trial::history::Source,
}

#[derive(Deserialize)]
struct Model {
    version: u64,
}

#[derive(Deserialize)]
struct Covered {
    asked: u32,
    answered: u32,
    #[serde(default)]
    items: u64,
    #[serde(default)]
    degraded: Vec<Lack>,
}

/// The answer names the node too, which a history does not.
#[derive(Deserialize)]
struct Lack {
    what: Missing,
    shard: Group,
}

fn listing(listed: Listed) -> Listing {
    let scored = |Entry { id, score, source }| Scored { id, score, source };
    let lack = |Lack { what, shard }| Degraded { what, shard };
    let covered = |Covered { asked, answered, items, degraded }| {
        let degraded = degraded.into_iter().map(lack).collect();
        Coverage { asked, answered, items, degraded }
    };
    Listing {
        items: listed.items.into_iter().map(scored).collect(),
        version: listed.model.map(|model| model.version),
        coverage: listed.coverage.map(covered),
        session: listed.session,
        oracle: None,
    }
}

fn refusal(error: &Value, otherwise: &str) -> Refusal {
    Refusal::new(error["kind"].as_str().unwrap_or(otherwise), error["message"].as_str().unwrap_or_default())
}

/// An error status: where the node does not know the outcome, or broke on the way, the write may have happened.
fn refused(status: u16, error: &Value) -> Outcome {
    let refusal = refusal(error, &format!("http_{status}"));
    match refusal.kind.as_str() {
        "unknown" | "deadline_exceeded" | "internal" | "corrupt" => Outcome::Unknown(refusal),
        _ => Outcome::Rejected(refusal),
    }
}

/// No answer at all: only a connection that nobody took is a request that surely nobody read.
fn unanswered(error: &anyhow::Error) -> Outcome {
    let kind = match error.downcast_ref::<ureq::Error>() {
        Some(ureq::Error::Timeout(_)) => "timeout",
        Some(ureq::Error::Io(io)) if io.kind() == std::io::ErrorKind::ConnectionRefused => "refused",
        Some(ureq::Error::ConnectionFailed | ureq::Error::HostNotFound) => "refused",
        _ => "reset",
    };
    let refusal = Refusal::new(kind, format!("{error:#}"));
    if kind == "refused" { Outcome::Rejected(refusal) } else { Outcome::Unknown(refusal) }
}

/// An answer that says nothing we know: whatever was asked for may have happened, and the checkers are told.
fn unreadable(why: &str) -> Outcome {
    let told: String = why.chars().take(200).collect();
    Outcome::Unknown(Refusal::new("unreadable", told))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_events_result_is_an_outcome() {
        let accepted = of_event(&json!({ "outcome": "accepted", "position": "users/5@4" }));
        let position = "users/5@4".parse().ok();
        assert_eq!(accepted, Outcome::Ok(Answer::Event { outcome: EventOutcome::Accepted, position }));
        let unknown = of_event(&json!({ "outcome": "unknown", "error": { "kind": "unknown", "message": "m" } }));
        assert_eq!(unknown, Outcome::Unknown(Refusal::new("unknown", "m")));
        let rejected = of_event(&json!({ "outcome": "rejected", "error": { "kind": "invalid" } }));
        assert!(matches!(rejected, Outcome::Rejected(refusal) if refusal.kind == "invalid"));
        assert!(matches!(of_event(&Value::Null), Outcome::Unknown(_)), "what nobody said is not known");
    }

    #[test]
    fn what_may_have_happened_is_unknown() {
        let of = |status, kind: &str| refused(status, &json!({ "kind": kind, "message": "m" }));
        assert!(matches!(of(504, "deadline_exceeded"), Outcome::Unknown(_)));
        assert!(matches!(of(503, "unavailable"), Outcome::Rejected(_)));
        assert!(matches!(of(500, "internal"), Outcome::Unknown(_)));
        assert!(matches!(refused(502, &Value::Null), Outcome::Rejected(refusal) if refusal.kind == "http_502"));
    }

    #[test]
    fn only_a_connection_that_nobody_took_is_a_write_that_did_not_happen() {
        let error = |io: std::io::ErrorKind| anyhow::Error::from(ureq::Error::Io(io.into()));
        assert!(matches!(unanswered(&error(std::io::ErrorKind::ConnectionRefused)), Outcome::Rejected(_)));
        assert!(matches!(unanswered(&error(std::io::ErrorKind::ConnectionReset)), Outcome::Unknown(_)));
    }

    #[test]
    fn a_listing_keeps_what_was_said_of_it() {
        let body = json!({
            "items": [{ "id": "i1", "score": 0.5, "source": "model", "reasons": [] }], "model": { "version": 3 },
            "coverage": { "asked": 4, "answered": 3, "items": 9, "degraded": [{ "what": "missing_shard", "shard": "items/2", "node": 103 }] },
            "session": "01", "took_ms": 1.5, "recommendation_id": "x",
        });
        let recommend = Call::Recommend { user: "u1".into(), n: 1, exclude: BTreeSet::new(), session: None };
        let Ok(Answer::Listing(listing)) = answer(&recommend, &body) else { panic!("no listing") };
        assert_eq!((listing.version, listing.items.len(), listing.is_full()), (Some(3), 1, false));
        assert!(listing.misses(Missing::MissingShard) && listing.is_personal());
    }
}
