//! Messages of the interface as JSON. Absent things are left out of lines, so that exports stay small.

use docent_proto::v1;
use docent_types::Error;
use docent_types::training::GivenSettings;
use serde_json::{Map, Value, json};

/// `map[key] = text` unless it is empty.
fn text(map: &mut Map<String, Value>, key: &str, text: &str) {
    if !text.is_empty() {
        map.insert(key.to_owned(), text.into());
    }
}

fn some<T: Into<Value>>(map: &mut Map<String, Value>, key: &str, value: Option<T>) {
    if let Some(value) = value {
        map.insert(key.to_owned(), value.into());
    }
}

/// An `f32` that reads back as the same `f32`: the shortest decimal that no other `f32` is nearer to.
pub fn f32(value: f32) -> Value {
    // Through the decimal text: `Value` keeps an f64, and 0.1f32 as f64 would print as 0.10000000149011612.
    value.to_string().parse::<f64>().ok().and_then(serde_json::Number::from_f64).map_or(Value::Null, Value::Number)
}

/// An event, in the form of `POST /v1/events`; `timestamp` in milliseconds.
pub fn event(event: &v1::Event) -> Value {
    let mut map = Map::new();
    text(&mut map, "event_id", &event.event_id);
    text(&mut map, "user_id", &event.user_id);
    text(&mut map, "item_id", &event.item_id);
    text(&mut map, "type", &event.r#type);
    some(&mut map, "value", event.value.map(f32));
    some(&mut map, "timestamp", event.timestamp_ms);
    text(&mut map, "session_id", &event.session_id);
    text(&mut map, "recommendation_id", &event.recommendation_id);
    some(&mut map, "position", event.position);
    if !event.context.is_empty() {
        map.insert("context".to_owned(), json!(event.context));
    }
    Value::Object(map)
}

/// An item's metadata; with its state where `is_answer`.
pub fn item(item: &v1::Item, is_answer: bool) -> Value {
    let mut map = Map::new();
    text(&mut map, "item_id", &item.item_id);
    text(&mut map, "title", &item.title);
    if !item.categories.is_empty() {
        map.insert("categories".to_owned(), json!(item.categories));
    }
    text(&mut map, "description", &item.description);
    some(&mut map, "published_ms", item.published_ms);
    if !item.attributes.is_empty() {
        map.insert("attributes".to_owned(), json!(item.attributes));
    }
    if is_answer {
        map.insert("is_taken_down".to_owned(), item.is_taken_down.into());
        map.insert("events".to_owned(), item.events.into());
    }
    Value::Object(map)
}

/// A profile.
pub fn profile(profile: &v1::Profile) -> Value {
    json!({ "user_id": profile.user_id, "attributes": profile.attributes })
}

/// A user as an answer.
pub fn user(user: &v1::User) -> Value {
    let consent = user.consent.unwrap_or(v1::Consent { collect: true, recommend: true, train: true });
    json!({
        "user_id": user.user_id, "attributes": user.attributes, "blocks": user.blocks, "events": user.events,
        "consent": { "collect": consent.collect, "recommend": consent.recommend, "train": consent.train },
    })
}

/// An answer with recommendations.
pub fn answer(answer: &v1::RecommendResponse) -> Value {
    let item_of = |one: &v1::RecommendedItem| {
        let reasons: Vec<Value> = one
            .reasons
            .iter()
            .map(|r| json!({ "item_id": r.item_id, "title": r.title, "contribution": f32(r.contribution) }))
            .collect();
        let item = one.item.as_ref().map(|i| item(i, true));
        json!({ "id": one.id, "score": f32(one.score), "source": one.source, "reasons": reasons, "item": item })
    };
    let coverage = answer.coverage.clone().unwrap_or_default();
    let degraded: Vec<Value> =
        coverage.degraded.iter().map(|d| json!({ "what": d.what, "shard": d.shard, "node": d.node })).collect();
    let model = answer.model.clone().unwrap_or_default();
    json!({
        "recommendation_id": answer.recommendation_id,
        "items": answer.items.iter().map(item_of).collect::<Vec<_>>(),
        "model": { "version": model.version, "arm": model.arm },
        "coverage": {
            "asked": coverage.asked, "answered": coverage.answered, "items": coverage.items, "degraded": degraded,
        },
        "session": answer.session, "took_ms": f32(answer.took_ms),
    })
}

/// A replica on its way, or in a plan.
pub fn replica_move(m: &v1::ReplicaMove) -> Value {
    let from = (m.from > 0).then_some(m.from);
    json!({ "shard": m.shard, "from": from, "to": m.to, "cause": m.cause, "is_cancelled": m.is_cancelled })
}

/// The state of the cluster.
pub fn cluster(cluster: &v1::Cluster) -> Value {
    let members = |members: &[v1::Member]| -> Vec<Value> {
        members
            .iter()
            .map(|m| {
                json!({
                    "id": m.id, "internal_addr": m.internal_addr, "query_addr": m.query_addr, "zone": m.zone,
                    "is_alive": m.is_alive, "state": m.state, "format": m.format,
                })
            })
            .collect()
    };
    let shards: Vec<Value> = cluster
        .shards
        .iter()
        .map(|s| {
            json!({
                "id": s.id, "slot_first": s.slot_first, "slot_end": s.slot_end, "nodes": s.nodes, "leader": s.leader,
                "move": s.r#move.as_ref().map(replica_move),
            })
        })
        .collect();
    json!({
        "cluster_id": cluster.cluster_id, "coordinators": members(&cluster.coordinators), "nodes": members(&cluster.nodes),
        "shards": shards, "catalog_index": cluster.catalog_index, "node": cluster.node, "is_ready": cluster.is_ready,
        "live_version": cluster.live_version, "replication": cluster.replication, "format": cluster.format,
    })
}

/// How something was or is to be trained.
pub fn settings(settings: Option<&v1::TrainSettings>) -> Value {
    let given = GivenSettings::from(settings.cloned().unwrap_or_default());
    serde_json::to_value(given).unwrap_or(Value::Null)
}

/// A training job.
pub fn job(job: &v1::Job) -> Value {
    let progress = job.progress.as_ref().map(|p| {
        json!({
            "phase": p.phase, "epoch": p.epoch, "epochs": p.epochs, "loss": p.loss, "seconds": p.seconds, "bytes": p.bytes,
        })
    });
    json!({
        "id": job.id, "state": job.state, "settings": settings(job.settings.as_ref()), "attempt": job.attempt,
        "driver": job.driver, "progress": progress, "error": job.error, "version": job.version,
        "created_ms": job.created_ms,
    })
}

/// A schedule.
pub fn schedule(schedule: &v1::Schedule) -> Value {
    json!({
        "name": schedule.name, "settings": settings(schedule.settings.as_ref()), "every_ms": schedule.every_ms,
        "after_events": schedule.after_events, "runs": schedule.runs, "last_job": schedule.last_job,
        "since_ms": schedule.since_ms,
    })
}

/// A search for settings.
pub fn study(study: &v1::Study) -> Value {
    let space: serde_json::Map<String, Value> = study
        .space
        .iter()
        .map(|d| {
            let values = match d.one_of.is_empty() {
                true => json!({ "low": d.low, "high": d.high, "log": d.log }),
                false => json!({ "one_of": d.one_of }),
            };
            (d.setting.clone(), values)
        })
        .collect();
    let tried: Vec<Value> = study
        .tried
        .iter()
        .map(|t| json!({ "job": t.job, "values": t.values, "score": t.score, "is_over": t.is_over }))
        .collect();
    json!({
        "name": study.name, "settings": settings(study.settings.as_ref()), "space": space, "trials": study.trials,
        "metric": study.metric, "tried": tried, "best_job": study.best_job, "is_over": study.is_over,
        "created_ms": study.created_ms,
    })
}

/// A model version.
pub fn model(model: &v1::Model) -> Value {
    let parts: Vec<Value> = model
        .parts
        .iter()
        .map(|p| {
            json!({
                "keyspace": p.keyspace, "slot_first": p.slot_first, "slot_end": p.slot_end, "hash": p.hash,
                "bytes": p.bytes,
            })
        })
        .collect();
    json!({
        "version": model.version, "state": model.state, "job": model.job, "settings": settings(model.settings.as_ref()),
        "metrics": model.metrics, "created_ms": model.created_ms, "parts": parts, "error": model.error,
        "parent": model.parent, "held_back": model.held_back,
    })
}

/// An error: `{error: {kind, message, field?, retry_after_ms?}}`, as over HTTP.
pub fn error(error: &Error) -> Value {
    let mut map = Map::new();
    map.insert("kind".to_owned(), error.kind.name().into());
    map.insert("message".to_owned(), error.message.as_str().into());
    some(&mut map, "field", error.field.clone());
    some(&mut map, "retry_after_ms", error.retry_after_ms);
    json!({ "error": map })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_finite_f32_survives_its_json(bits in any::<u32>()) {
            let value = f32::from_bits(bits);
            prop_assume!(value.is_finite());
            let text = super::f32(value).to_string();
            let as_double: f64 = serde_json::from_str(&text).unwrap();
            #[allow(clippy::cast_possible_truncation, reason = "that is how a client gets its f32 back")]
            let back = as_double as f32;
            prop_assert_eq!(back.to_bits(), value.to_bits(), "{}", text);
        }
    }
}
