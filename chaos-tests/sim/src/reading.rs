//! Answers of the query port as the history has them.

use crate::http;
use docent_trial::Position;
use docent_trial::history::{
    Answer, Call, Consent, Coverage, Degraded, EventOutcome, Listing, Outcome, Refusal, Scored, Source,
};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

/// What came of a call that was answered. An answer that is not understood is a refusal of the kind `unreadable`, which no promise allows.
pub fn outcome(call: &Call, answer: &http::Answer) -> Outcome {
    if answer.status == 404 && error_kind(&answer.body) == Some("not_found") {
        return Outcome::Ok(Answer::Absent {});
    }
    if answer.status != 200 {
        return refusal(&answer.body);
    }
    let read = match call {
        Call::Event { .. } => return event_outcomes(1, answer).remove(0),
        Call::ReadConsent { .. } => consent(&answer.body).map(Answer::Consent),
        Call::ReadBlocks { .. } => texts(&answer.body["item_ids"]).map(Answer::Blocks),
        Call::ReadUser { .. } => user(&answer.body),
        Call::ReadItem { .. } => item(&answer.body),
        Call::Recommend { .. } | Call::Similar { .. } | Call::Popular { .. } => {
            listing(&answer.body).map(Answer::Listing)
        }
        Call::ReadCatalog {} => catalog(&answer.body),
        Call::Activate { .. } | Call::RollBack {} => activated(&answer.body),
        Call::Train {} => answer.body["id"].as_u64().map(|job| Answer::Job { job }),
        _ => Some(Answer::Done {}),
    };
    read.map_or_else(|| unreadable(&answer.body), Outcome::Ok)
}

/// What came of each event of a batch.
pub fn event_outcomes(events: usize, answer: &http::Answer) -> Vec<Outcome> {
    if answer.status != 200 {
        return vec![refusal(&answer.body); events];
    }
    let results = answer.body["results"].as_array().filter(|results| results.len() == events);
    let Some(results) = results else { return vec![unreadable(&answer.body); events] };
    results.iter().map(event).collect()
}

fn event(result: &Value) -> Outcome {
    let name = result["outcome"].as_str().unwrap_or_default();
    match name.parse::<EventOutcome>() {
        Ok(outcome) => {
            let position = result["position"].as_str().and_then(|text| text.parse::<Position>().ok());
            Outcome::Ok(Answer::Event { outcome, position })
        }
        Err(_) if name == "unknown" => Outcome::Unknown(of_error(result)),
        Err(_) if name == "rejected" => Outcome::Rejected(of_error(result)),
        Err(_) => unreadable(result),
    }
}

fn error_kind(body: &Value) -> Option<&str> {
    body["error"]["kind"].as_str()
}

fn of_error(body: &Value) -> Refusal {
    let message = body["error"]["message"].as_str().unwrap_or_default();
    Refusal::new(error_kind(body).unwrap_or("unreadable"), message)
}

fn refusal(body: &Value) -> Outcome {
    match error_kind(body) {
        Some("unknown" | "deadline_exceeded") => Outcome::Unknown(of_error(body)),
        Some(_) => Outcome::Rejected(of_error(body)),
        None => unreadable(body),
    }
}

fn unreadable(body: &Value) -> Outcome {
    Outcome::Unknown(Refusal::new("unreadable", body.to_string().chars().take(300).collect::<String>()))
}

fn texts(value: &Value) -> Option<BTreeSet<String>> {
    value.as_array()?.iter().map(|text| text.as_str().map(str::to_owned)).collect()
}

fn consent(body: &Value) -> Option<Consent> {
    let flag = |name: &str| body[name].as_bool();
    Some(Consent { collect: flag("collect")?, recommend: flag("recommend")?, train: flag("train")? })
}

fn user(body: &Value) -> Option<Answer> {
    let pairs = body["attributes"].as_object()?.iter();
    let attributes: Option<BTreeMap<String, String>> =
        pairs.map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned()))).collect();
    Some(Answer::User {
        consent: consent(&body["consent"])?,
        blocks: texts(&body["blocks"])?,
        attributes: attributes?,
        events: body["events"].as_u64()?,
    })
}

fn item(body: &Value) -> Option<Answer> {
    Some(Answer::Item {
        title: body["title"].as_str().unwrap_or_default().to_owned(),
        is_taken_down: body["is_taken_down"].as_bool()?,
        events: body["events"].as_u64()?,
    })
}

fn listing(body: &Value) -> Option<Listing> {
    let scored = |item: &Value| {
        Some(Scored {
            id: item["id"].as_str()?.to_owned(),
            score: item["score"].as_f64()? as f32,
            source: item["source"].as_str()?.parse::<Source>().ok()?,
        })
    };
    let items: Option<Vec<Scored>> = body["items"].as_array()?.iter().map(scored).collect();
    Some(Listing {
        items: items?,
        version: body["model"]["version"].as_u64(),
        coverage: coverage(&body["coverage"]),
        session: body["session"].as_str().filter(|token| !token.is_empty()).map(str::to_owned),
        oracle: None,
    })
}

fn coverage(body: &Value) -> Option<Coverage> {
    let degraded = body["degraded"].as_array()?.iter().map(|degraded| {
        let (what, shard) = (degraded["what"].as_str()?.parse().ok()?, degraded["shard"].as_str()?.parse().ok()?);
        Some(Degraded { what, shard })
    });
    Some(Coverage {
        asked: u32::try_from(body["asked"].as_u64()?).ok()?,
        answered: u32::try_from(body["answered"].as_u64()?).ok()?,
        items: body["items"].as_u64()?,
        degraded: degraded.collect::<Option<_>>()?,
    })
}

fn catalog(body: &Value) -> Option<Answer> {
    Some(Answer::Catalog { live_version: body["live_version"].as_u64()?, index: body["catalog_index"].as_u64()? })
}

fn activated(body: &Value) -> Option<Answer> {
    Some(Answer::Activated { version: body["version"].as_u64()?, epoch: body["epoch"].as_u64()? })
}
