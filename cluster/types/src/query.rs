//! Queries and answers as the domain knows them; the wire forms are converted at the edge.

use crate::id::{ItemId, NodeId, UserId};
use crate::item::Item;
use crate::shard::ShardId;
use serde::{Deserialize, Serialize};

/// A request for recommendations.
#[derive(Clone, Debug, PartialEq)]
pub struct Recommend {
    /// For whom. Unknown users get what is popular.
    pub user_id: UserId,
    /// How many, 1 to 1,000. Exactly as many come back unless fewer items are allowed.
    pub n: u32,
    /// Items not to return, at most 10,000.
    pub exclude_ids: Vec<ItemId>,
    /// Whether to say which history items contributed most.
    pub explain: bool,
    /// Milliseconds until the caller gives up.
    pub deadline_ms: u32,
    /// A client's session token from an earlier answer: the answer is at least as fresh as that one.
    pub session: Option<String>,
}

/// Where a recommended item comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Source {
    /// Scored by the live model for this user.
    Model,
    /// The most popular items: the user is unknown, has no usable history, opted out, or no model is live.
    Popular,
    /// Nearest to another item.
    Similar,
}

/// One history item's part in a recommendation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Reason {
    /// The history item.
    pub item_id: ItemId,
    /// Its title, where known.
    pub title: Option<String>,
    /// Its share of the score, in the score's unit.
    pub contribution: f32,
}

/// A scored item before hydration.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ScoredItem {
    /// The item.
    pub item_id: ItemId,
    /// The score; f32 sum in the index's documented lane order.
    pub score: f32,
}

/// The total order of answers: score descending, then id bytes ascending.
pub fn rank(a: &ScoredItem, b: &ScoredItem) -> std::cmp::Ordering {
    b.score.total_cmp(&a.score).then_with(|| a.item_id.cmp(&b.item_id))
}

/// One item of an answer.
#[derive(Clone, Debug, PartialEq)]
pub struct RecommendedItem {
    /// The item.
    pub item_id: ItemId,
    /// The score.
    pub score: f32,
    /// Where it comes from.
    pub source: Source,
    /// Its metadata, where the shard answered.
    pub item: Option<Item>,
    /// Why, strongest first, when asked for.
    pub reasons: Vec<Reason>,
}

/// Why an answer is less than it could be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "what")]
pub enum Degraded {
    /// An item shard gave no answer in time.
    MissingShard {
        /// Which.
        shard: ShardId,
    },
    /// The user's shard had no leader in time, or could not solve the user's vector: the answer is not personal.
    UserState {
        /// Which.
        shard: ShardId,
    },
    /// A part was answered by a replica more than a second behind.
    StaleItems {
        /// Which.
        shard: ShardId,
        /// Who answered.
        node: NodeId,
    },
}

/// How much of the catalogue an answer saw.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Coverage {
    /// Item shards asked.
    pub asked: u32,
    /// Item shards that answered.
    pub answered: u32,
    /// Items that the answering shards hold for this query (before exclusions).
    pub items: u64,
    /// What is missing or weaker.
    pub degraded: Vec<Degraded>,
}

/// The model an answer was made with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModelRef {
    /// The version; 0 while no model is live.
    pub version: u64,
}

/// An answer.
#[derive(Clone, Debug, PartialEq)]
pub struct Answer {
    /// Names this answer in later events.
    pub recommendation_id: String,
    /// Best first.
    pub items: Vec<RecommendedItem>,
    /// Which model.
    pub model: ModelRef,
    /// How much was seen.
    pub coverage: Coverage,
    /// The session token to send with the next request.
    pub session: String,
    /// Milliseconds this took on the gateway.
    pub took_ms: f32,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_scores_are_ranked_by_id_bytes() {
        let item = |id: &str, score| ScoredItem { item_id: ItemId::new(id).unwrap(), score };
        let mut items = [item("b", 1.0), item("c", 2.0), item("a", 1.0)];
        items.sort_by(rank);
        let ids: Vec<&str> = items.iter().map(|i| i.item_id.as_str()).collect();
        assert_eq!(ids, ["c", "a", "b"]);
    }
}
