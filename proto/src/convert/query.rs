//! Requests for recommendations and their answers.

use super::{absent_if_empty, item_ids};
use crate::v1;
use docent_types::query::{Answer, Coverage, Degraded, ModelRef, Reason, Recommend, RecommendedItem, Source};
use docent_types::{Error, ItemId, Kind, NodeId, Result, UserId, limits};

/// Items of an answer when the client does not say.
pub const ANSWER_ITEMS_DEFAULT: u32 = 10;
/// The longest deadline a client can ask for.
pub const DEADLINE_MS_MAX: u32 = 60_000;

/// Checks how many items are wanted: 1 to 1,000.
pub fn count(n: u32) -> Result<u32> {
    match n {
        1..=limits::ANSWER_ITEMS_MAX => Ok(n),
        _ => Err(Error::invalid("n", format!("n is {n}; it must be 1 to {}", limits::ANSWER_ITEMS_MAX))),
    }
}

/// Like [`count`], where 0 means [`ANSWER_ITEMS_DEFAULT`]: proto3 cannot tell 0 from absent.
pub fn count_or_default(n: u32) -> Result<u32> {
    if n == 0 { Ok(ANSWER_ITEMS_DEFAULT) } else { count(n) }
}

/// Checks a client's deadline; 0 means the node's default.
pub fn deadline_ms(deadline_ms: u32) -> Result<u32> {
    match deadline_ms {
        0..=DEADLINE_MS_MAX => Ok(deadline_ms),
        _ => Err(Error::invalid("deadline_ms", format!("deadline_ms is {deadline_ms}; at most {DEADLINE_MS_MAX}"))),
    }
}

/// Checks the excluded ids of a query.
pub fn exclude_ids(ids: Vec<String>) -> Result<Vec<ItemId>> {
    if ids.len() > limits::EXCLUDE_MAX {
        return Err(Error::invalid(
            "exclude_ids",
            format!("{} excluded ids; at most {}", ids.len(), limits::EXCLUDE_MAX),
        ));
    }
    item_ids("exclude_ids", ids)
}

/// The error for a reserved field that is set.
pub fn reserved(field: &str) -> Error {
    Error {
        field: Some(field.to_owned()),
        ..Error::new(Kind::Unsupported, format!("{field} is reserved and does not work yet; leave it out"))
    }
}

impl TryFrom<v1::RecommendRequest> for Recommend {
    type Error = Error;

    /// Checks every field; reserved ones are refused as unsupported.
    fn try_from(request: v1::RecommendRequest) -> Result<Recommend> {
        let set = [
            ("cursor", !request.cursor.is_empty()),
            ("scenario", !request.scenario.is_empty()),
            ("filter", !request.filter.is_empty()),
            ("context", !request.context.is_empty()),
            ("diversity", request.diversity.is_some()),
            ("exploration", request.exploration.is_some()),
            ("min_coverage", request.min_coverage.is_some()),
        ];
        if let Some((field, _)) = set.into_iter().find(|(_, is_set)| *is_set) {
            return Err(reserved(field));
        }
        Ok(Recommend {
            user_id: UserId::new(request.user_id)?,
            n: count_or_default(request.n)?,
            exclude_ids: exclude_ids(request.exclude_ids)?,
            explain: request.explain,
            deadline_ms: deadline_ms(request.deadline_ms)?,
            session: absent_if_empty(request.session),
        })
    }
}

/// The wire's name of a source.
pub fn source_name(source: Source) -> &'static str {
    match source {
        Source::Model => "model",
        Source::Popular => "popular",
        Source::Similar => "similar",
    }
}

impl From<RecommendedItem> for v1::RecommendedItem {
    fn from(item: RecommendedItem) -> v1::RecommendedItem {
        v1::RecommendedItem {
            id: item.item_id.into(),
            score: item.score,
            source: source_name(item.source).to_owned(),
            reasons: item.reasons.into_iter().map(Into::into).collect(),
            item: item.item.map(Into::into),
        }
    }
}

impl From<Reason> for v1::Reason {
    fn from(reason: Reason) -> v1::Reason {
        let Reason { item_id, title, contribution } = reason;
        v1::Reason { item_id: item_id.into(), title: title.unwrap_or_default(), contribution }
    }
}

impl From<ModelRef> for v1::ModelRef {
    fn from(model: ModelRef) -> v1::ModelRef {
        v1::ModelRef { version: model.version, arm: String::new() }
    }
}

impl From<Degraded> for v1::Degraded {
    fn from(degraded: Degraded) -> v1::Degraded {
        let (what, shard, node) = match degraded {
            Degraded::MissingShard { shard } => ("missing_shard", shard, NodeId(0)),
            Degraded::UserState { shard } => ("user_state", shard, NodeId(0)),
            Degraded::StaleItems { shard, node } => ("stale_items", shard, node),
        };
        v1::Degraded { what: what.to_owned(), shard: shard.to_string(), node: node.0 }
    }
}

impl TryFrom<v1::Degraded> for Degraded {
    type Error = Error;

    /// Refuses names that this binary does not know.
    fn try_from(degraded: v1::Degraded) -> Result<Degraded> {
        let shard = super::shard_id(&degraded.shard)?;
        match degraded.what.as_str() {
            "missing_shard" => Ok(Degraded::MissingShard { shard }),
            "user_state" => Ok(Degraded::UserState { shard }),
            "stale_items" => Ok(Degraded::StaleItems { shard, node: NodeId(degraded.node) }),
            other => Err(Error::invalid("what", format!("unknown degradation {other:?}"))),
        }
    }
}

impl From<Coverage> for v1::Coverage {
    fn from(coverage: Coverage) -> v1::Coverage {
        v1::Coverage {
            asked: coverage.asked,
            answered: coverage.answered,
            items: coverage.items,
            degraded: coverage.degraded.into_iter().map(Into::into).collect(),
        }
    }
}

impl TryFrom<v1::Coverage> for Coverage {
    type Error = Error;

    /// Checks the degradations' names.
    fn try_from(coverage: v1::Coverage) -> Result<Coverage> {
        Ok(Coverage {
            asked: coverage.asked,
            answered: coverage.answered,
            items: coverage.items,
            degraded: coverage.degraded.into_iter().map(TryInto::try_into).collect::<Result<_>>()?,
        })
    }
}

impl From<Answer> for v1::RecommendResponse {
    fn from(answer: Answer) -> v1::RecommendResponse {
        v1::RecommendResponse {
            recommendation_id: answer.recommendation_id,
            items: answer.items.into_iter().map(Into::into).collect(),
            model: Some(answer.model.into()),
            coverage: Some(answer.coverage.into()),
            session: answer.session,
            took_ms: answer.took_ms,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use docent_types::{Keyspace, ShardId};

    fn request() -> v1::RecommendRequest {
        v1::RecommendRequest { user_id: "u".into(), ..Default::default() }
    }

    #[test]
    fn n_of_zero_means_ten_and_other_values_are_checked() {
        assert_eq!(Recommend::try_from(request()).unwrap().n, 10);
        assert_eq!(Recommend::try_from(v1::RecommendRequest { n: 1_000, ..request() }).unwrap().n, 1_000);
        let error = Recommend::try_from(v1::RecommendRequest { n: 1_001, ..request() }).unwrap_err();
        assert_eq!(error.field.as_deref(), Some("n"));
    }

    #[test]
    fn a_reserved_field_is_refused_as_unsupported_by_name() {
        for (field, request) in [
            ("cursor", v1::RecommendRequest { cursor: "c".into(), ..request() }),
            ("scenario", v1::RecommendRequest { scenario: "c".into(), ..request() }),
            ("filter", v1::RecommendRequest { filter: "c".into(), ..request() }),
            ("context", v1::RecommendRequest { context: [("k".into(), "v".into())].into(), ..request() }),
            ("diversity", v1::RecommendRequest { diversity: Some(0.0), ..request() }),
            ("exploration", v1::RecommendRequest { exploration: Some(0.1), ..request() }),
            ("min_coverage", v1::RecommendRequest { min_coverage: Some(1.0), ..request() }),
        ] {
            let error = Recommend::try_from(request).unwrap_err();
            assert_eq!((error.kind, error.field.as_deref()), (Kind::Unsupported, Some(field)));
        }
    }

    #[test]
    fn coverage_survives_the_wire() {
        let shard = ShardId { keyspace: Keyspace::Items, index: 2 };
        let coverage = Coverage {
            asked: 4,
            answered: 3,
            items: 99,
            degraded: vec![
                Degraded::MissingShard { shard },
                Degraded::UserState { shard: ShardId { keyspace: Keyspace::Users, index: 1 } },
                Degraded::StaleItems { shard, node: NodeId(5) },
            ],
        };
        assert_eq!(Coverage::try_from(v1::Coverage::from(coverage.clone())).unwrap(), coverage);
    }
}
