//! What clients called, and what they were told.

use crate::name::{Group, Member, Position};
use crate::text::named;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// One call of one client.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Operation {
    /// Unique in a history.
    pub id: u64,
    /// Who called. A client waits for an answer before it calls again; the events of one batch are operations with the same times.
    pub client: u32,
    /// Through whom.
    pub gateway: Member,
    /// What.
    pub call: Call,
    /// When it was called.
    pub called_us: u64,
    /// When the answer came, or the client gave up; `None` where the run ended before.
    #[serde(default)]
    pub returned_us: Option<u64>,
    /// What came of it.
    pub outcome: Outcome,
}

impl Operation {
    /// From when on its effect is there for certain: its return, if it was acked.
    pub fn acked_us(&self) -> Option<u64> {
        matches!(self.outcome, Outcome::Ok(_)).then_some(self.returned_us).flatten()
    }

    /// The answer, if there is one.
    pub fn answer(&self) -> Option<&Answer> {
        match &self.outcome {
            Outcome::Ok(answer) => Some(answer),
            _ => None,
        }
    }

    /// The recommended items, where it is an answer with some.
    pub fn listing(&self) -> Option<&Listing> {
        match self.answer() {
            Some(Answer::Listing(listing)) => Some(listing),
            _ => None,
        }
    }

    /// How long the client waited.
    pub fn took_us(&self) -> Option<u64> {
        self.returned_us.map(|returned| returned.saturating_sub(self.called_us))
    }
}

/// What a user allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Consent {
    /// Events are kept.
    pub collect: bool,
    /// Answers may be personal.
    pub recommend: bool,
    /// Models may be trained on the events.
    pub train: bool,
}

impl Default for Consent {
    /// Everything is allowed until somebody says otherwise.
    fn default() -> Consent {
        Consent { collect: true, recommend: true, train: true }
    }
}

/// What a client asks for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "snake_case", deny_unknown_fields)]
pub enum Call {
    /// One event. Sent again under the same id it is another operation.
    Event {
        /// Unique among all that the run sends.
        event_id: String,
        /// Whose.
        user: String,
        /// Of what.
        item: String,
        /// `click`, `view`, ...
        #[serde(rename = "type")]
        event_type: String,
    },
    /// Sets all three of a user's consent.
    SetConsent {
        /// Whose.
        user: String,
        /// To what.
        consent: Consent,
    },
    /// Reads them.
    ReadConsent {
        /// Whose.
        user: String,
    },
    /// Replaces the block list.
    SetBlocks {
        /// Whose.
        user: String,
        /// With these.
        items: BTreeSet<String>,
    },
    /// Reads it.
    ReadBlocks {
        /// Whose.
        user: String,
    },
    /// Replaces the attributes of a user.
    PutUser {
        /// Whose.
        user: String,
        /// With these.
        attributes: BTreeMap<String, String>,
    },
    /// Reads everything kept about a user in one.
    ReadUser {
        /// Whose.
        user: String,
    },
    /// Erases everything kept about a user.
    EraseUser {
        /// Whose.
        user: String,
    },
    /// Replaces an item's metadata.
    PutItem {
        /// Which.
        item: String,
        /// With this.
        title: String,
    },
    /// Reads an item.
    ReadItem {
        /// Which.
        item: String,
    },
    /// Removes an item.
    DeleteItem {
        /// Which.
        item: String,
    },
    /// Takes an item down.
    TakeDown {
        /// Which.
        item: String,
    },
    /// Shows it again.
    Restore {
        /// Which.
        item: String,
    },
    /// The best items for a user.
    Recommend {
        /// For whom.
        user: String,
        /// How many.
        n: u32,
        /// Not these.
        #[serde(default)]
        exclude: BTreeSet<String>,
        /// The token of an earlier answer, if one was sent.
        #[serde(default)]
        session: Option<String>,
    },
    /// Items like another.
    Similar {
        /// Like which.
        item: String,
        /// How many.
        n: u32,
    },
    /// What everybody likes.
    Popular {
        /// How many.
        n: u32,
    },
    /// Reads the state of the cluster: answered with [`Answer::Catalog`].
    ReadCatalog {},
    /// Makes a version live: answered with [`Answer::Activated`].
    Activate {
        /// Which.
        version: u64,
    },
    /// Makes the version before live: answered with [`Answer::Activated`].
    RollBack {},
    /// Begins a training job.
    Train {},
}

impl Call {
    /// Its name in JSON.
    pub fn name(&self) -> &'static str {
        match self {
            Call::Event { .. } => "event",
            Call::SetConsent { .. } => "set_consent",
            Call::ReadConsent { .. } => "read_consent",
            Call::SetBlocks { .. } => "set_blocks",
            Call::ReadBlocks { .. } => "read_blocks",
            Call::PutUser { .. } => "put_user",
            Call::ReadUser { .. } => "read_user",
            Call::EraseUser { .. } => "erase_user",
            Call::PutItem { .. } => "put_item",
            Call::ReadItem { .. } => "read_item",
            Call::DeleteItem { .. } => "delete_item",
            Call::TakeDown { .. } => "take_down",
            Call::Restore { .. } => "restore",
            Call::Recommend { .. } => "recommend",
            Call::Similar { .. } => "similar",
            Call::Popular { .. } => "popular",
            Call::ReadCatalog {} => "read_catalog",
            Call::Activate { .. } => "activate",
            Call::RollBack {} => "roll_back",
            Call::Train {} => "train",
        }
    }

    /// Whether it asks for recommendations.
    pub fn is_query(&self) -> bool {
        matches!(self, Call::Recommend { .. } | Call::Similar { .. } | Call::Popular { .. })
    }

    /// Whether it changes nothing.
    pub fn is_read(&self) -> bool {
        let reads = matches!(
            self,
            Call::ReadConsent { .. }
                | Call::ReadBlocks { .. }
                | Call::ReadUser { .. }
                | Call::ReadItem { .. }
                | Call::ReadCatalog {}
        );
        reads || self.is_query()
    }

    /// Whose user it is about.
    pub fn user(&self) -> Option<&str> {
        match self {
            Call::Event { user, .. } | Call::SetConsent { user, .. } | Call::ReadConsent { user } => Some(user),
            Call::SetBlocks { user, .. } | Call::ReadBlocks { user } | Call::PutUser { user, .. } => Some(user),
            Call::ReadUser { user } | Call::EraseUser { user } | Call::Recommend { user, .. } => Some(user),
            _ => None,
        }
    }
}

/// What came of a call.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// It was answered; a write is acked.
    Ok(Answer),
    /// It surely did not happen.
    Rejected(Refusal),
    /// It may have happened, may yet happen, or neither: a time-out, a broken connection, the kinds `unknown` and `deadline_exceeded`.
    Unknown(Refusal),
}

/// Why there is no answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Refusal {
    /// The kind of Docent's error, or `timeout`, `reset`, `refused` where there was no answer at all.
    pub kind: String,
    /// For a person.
    #[serde(default)]
    pub message: String,
    /// Whether the gateway itself was dead, paused or cut off: then it is no failure of a living node.
    #[serde(default)]
    pub is_of_gateway: bool,
}

impl Refusal {
    /// Of this kind.
    pub fn new(kind: impl Into<String>, message: impl Into<String>) -> Refusal {
        Refusal { kind: kind.into(), message: message.into(), is_of_gateway: false }
    }
}

named! {
    /// What was said of an event.
    "outcome of an event" EventOutcome {
        /// It is kept.
        Accepted = "accepted",
        /// It was kept before.
        Duplicate = "duplicate",
        /// The user does not allow it.
        NotCollected = "not_collected",
    }
}

/// What a client was told.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// A write is done.
    Done {},
    /// An event.
    Event {
        /// What became of it.
        outcome: EventOutcome,
        /// Where it is.
        #[serde(default)]
        position: Option<Position>,
    },
    /// There is no such user, item or version: an answer, not a failure.
    Absent {},
    /// [`Call::ReadConsent`].
    Consent(Consent),
    /// [`Call::ReadBlocks`].
    Blocks(BTreeSet<String>),
    /// [`Call::ReadUser`].
    User {
        /// As it is.
        consent: Consent,
        /// As they are.
        blocks: BTreeSet<String>,
        /// As they are.
        #[serde(default)]
        attributes: BTreeMap<String, String>,
        /// Events that are kept.
        events: u64,
    },
    /// [`Call::ReadItem`].
    Item {
        /// As it is.
        #[serde(default)]
        title: String,
        /// As it is.
        is_taken_down: bool,
        /// Events that are counted.
        events: u64,
    },
    /// Recommended items.
    Listing(Listing),
    /// [`Call::ReadCatalog`].
    Catalog {
        /// What is live; 0 for none.
        live_version: u64,
        /// How much of the catalog the node has heard.
        index: u64,
    },
    /// [`Call::Activate`], [`Call::RollBack`].
    Activated {
        /// What is live.
        version: u64,
        /// Of the activation.
        epoch: u64,
    },
    /// [`Call::Train`].
    Job {
        /// Its id.
        job: u64,
    },
}

named! {
    /// Why an item is in an answer.
    "source" Source {
        /// The user's own vector: the only personal one.
        Model = "model",
        /// Everybody likes it.
        Popular = "popular",
        /// It is like the item that was asked about.
        Similar = "similar",
    }
}

/// An item of an answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scored {
    /// Which.
    pub id: String,
    /// Higher is better.
    pub score: f32,
    /// Why.
    pub source: Source,
}

named! {
    /// What an answer is missing.
    "degradation" Missing {
        /// A shard did not answer.
        MissingShard = "missing_shard",
        /// The user's own state: the answer is not personal.
        UserState = "user_state",
        /// A replica that is behind answered.
        StaleItems = "stale_items",
    }
}

/// One thing that an answer is missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Degraded {
    /// What.
    pub what: Missing,
    /// Of which shard.
    pub shard: Group,
}

/// How much an answer saw.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Coverage {
    /// Shards that were asked.
    pub asked: u32,
    /// Shards that answered.
    pub answered: u32,
    /// Items that they hold.
    #[serde(default)]
    pub items: u64,
    /// What was missing.
    #[serde(default)]
    pub degraded: Vec<Degraded>,
}

/// Recommended items with everything that was said of them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Listing {
    /// Best first.
    pub items: Vec<Scored>,
    /// The model's; 0 while none is live, `None` where the answer did not say.
    pub version: Option<u64>,
    /// `None` where the answer did not say.
    pub coverage: Option<Coverage>,
    /// Token for the next query.
    #[serde(default)]
    pub session: Option<String>,
    /// The true answer, where the world knows it: the best items by brute force, over what was there when it was asked.
    #[serde(default)]
    pub oracle: Option<Vec<Scored>>,
}

impl Listing {
    /// Whether something in it came from the user's own vector.
    pub fn is_personal(&self) -> bool {
        self.items.iter().any(|item| item.source == Source::Model)
    }

    /// Whether it says that this was missing.
    pub fn misses(&self, what: Missing) -> bool {
        self.coverage.iter().flat_map(|coverage| &coverage.degraded).any(|degraded| degraded.what == what)
    }

    /// Whether it saw everything.
    pub fn is_full(&self) -> bool {
        self.coverage
            .as_ref()
            .is_some_and(|coverage| coverage.asked == coverage.answered && coverage.degraded.is_empty())
    }
}
