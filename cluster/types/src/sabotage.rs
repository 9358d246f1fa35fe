//! Known bugs, to prove that the checkers find them: one build carries all of them, one is chosen when it starts.
//!
//! Without the cargo feature `sabotage` (which is nobody's default) [`is`] is a constant `false`, so that the planted branches vanish from
//! the code, and [`choose`] refuses. With it the build has to say `DOCENT_SABOTAGE_BUILD=yes` as well: see
//! `docs/decisions/0014-sabotage.md` and `make sabotage`.

use std::fmt;

#[cfg(feature = "sabotage")]
const _: () = assert!(
    matches!(option_env!("DOCENT_SABOTAGE_BUILD"), Some(word) if matches!(word.as_bytes(), b"yes")),
    "the feature `sabotage` builds a docent that breaks its promises on purpose: it is for `make sabotage` alone, which sets DOCENT_SABOTAGE_BUILD=yes"
);

macro_rules! bugs {
    ($($bug:ident $name:literal $what:literal)*) => {
        /// A bug that can be chosen.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Bug {
            $(#[doc = $what] $bug,)*
        }

        impl Bug {
            /// All of them.
            pub const ALL: &[Bug] = &[$(Bug::$bug,)*];

            /// How it is chosen.
            pub const fn name(self) -> &'static str {
                match self { $(Bug::$bug => $name,)* }
            }

            /// What it does.
            pub const fn what(self) -> &'static str {
                match self { $(Bug::$bug => $what,)* }
            }
        }
    };
}

bugs! {
    AckBeforeQuorum "ack-before-quorum" "events are acknowledged by the leader 200 ms before it proposes them"
    SkippedFsync "skipped-fsync" "the journal answers without a sync"
    VoteNotSaved "vote-not-saved" "a vote is kept in memory alone"
    TruncateForgotten "truncate-forgotten" "a truncation of the log is answered and not done"
    PurgeBeforeDurable "purge-before-durable" "the log is purged before the snapshot and the state that stand for it are synced"
    DedupeLostInSnapshot "dedupe-lost-in-snapshot" "snapshots leave out user records without attributes, by which events are deduplicated"
    SnapshotSkipsBlocks "snapshot-skips-blocks" "snapshots leave out block lists"
    ApplySeesBatch "apply-sees-batch" "events are stamped with the last entry of the batch that applied them, which differs from replica to replica"
    LeaseNotRechecked "lease-not-rechecked" "a leader reads by a lease that is long over"
    ReplicaIdReused "replica-id-reused" "a replica that takes another's place takes its id too"
    EraseKeepsHistory "erase-keeps-history" "erasing a user leaves the events"
    OptOutOnlyInCache "opt-out-only-in-cache" "consent is acknowledged from the leader's memory and never proposed"
    MixedVersions "mixed-versions" "a user's cached vector is used for every model version"
    StaleUserVector "stale-user-vector" "a user's cached vector outlives new events"
    StaleItemsNotRefused "stale-items-not-refused" "a replica shows items however long it has not heard from its leader"
    TakeDownAckedEarly "take-down-acked-early" "a take-down is acknowledged when it is committed, applied or not"
    BlocksNotFiltered "blocks-not-filtered" "a gateway beside the user's leader filters blocks, others do not"
    MergeIgnoresMissingShard "merge-ignores-missing-shard" "coverage counts shards that did not answer as answered"
    UnknownRetriedWithNewId "unknown-retried-with-new-id" "a gateway repeats events of unknown outcome under new ids"
    ActivationBeforeReady "activation-before-ready" "a version goes live with its registration, before any replica has it"
    CatalogGoesBack "catalog-goes-back" "a node takes an older catalog from a coordinator that lags"
    ShardReturnsTooFew "shard-returns-too-few" "each item shard is asked for a quarter of what the answer is to have"
}

impl fmt::Display for Bug {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The bug of a name.
///
/// # Errors
/// A message with the names that there are.
pub fn named(name: &str) -> Result<Bug, String> {
    Bug::ALL.iter().copied().find(|bug| bug.name() == name).ok_or_else(|| {
        let names: Vec<&str> = Bug::ALL.iter().map(|bug| bug.name()).collect();
        format!("there is no planted bug {name:?}; there are: {}", names.join(", "))
    })
}

#[cfg(feature = "sabotage")]
mod planted {
    //! What there is in a build with the feature.

    use super::{Bug, named};
    use std::collections::BTreeMap;
    use std::sync::{Mutex, OnceLock, PoisonError};

    static CHOSEN: OnceLock<Bug> = OnceLock::new();

    /// Whether this build carries the bugs.
    pub const IS_BUILT_IN: bool = true;

    /// Chooses the bug of this process, once.
    ///
    /// # Errors
    /// An unknown name; a second choice of another bug; a build without the feature.
    pub fn choose(name: &str) -> Result<Bug, String> {
        let bug = named(name)?;
        let chosen = *CHOSEN.get_or_init(|| bug);
        if chosen == bug { Ok(bug) } else { Err(format!("this process has the bug {chosen} already")) }
    }

    /// Whether this process has the bug.
    pub fn is(bug: Bug) -> bool {
        CHOSEN.get() == Some(&bug)
    }

    /// What a bug remembers where it must not.
    #[derive(Debug)]
    pub struct Memory<K, V>(Mutex<BTreeMap<K, V>>);

    impl<K, V> Default for Memory<K, V> {
        fn default() -> Self {
            Memory(Mutex::new(BTreeMap::new()))
        }
    }

    impl<K: Ord, V: Clone> Memory<K, V> {
        /// Remembers.
        pub fn put(&self, key: K, value: V) {
            self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(key, value);
        }

        /// What is remembered.
        pub fn get(&self, key: &K) -> Option<V> {
            self.0.lock().unwrap_or_else(PoisonError::into_inner).get(key).cloned()
        }
    }
}

#[cfg(not(feature = "sabotage"))]
mod planted {
    //! What there is in every other build: nothing.

    use super::Bug;
    use std::marker::PhantomData;

    /// Whether this build carries the bugs.
    pub const IS_BUILT_IN: bool = false;

    /// Chooses the bug of this process, once.
    ///
    /// # Errors
    /// An unknown name; a second choice of another bug; a build without the feature.
    pub fn choose(name: &str) -> Result<Bug, String> {
        super::named(name)?;
        Err("this docent has no bugs planted: build it with `make sabotage`".to_owned())
    }

    /// Whether this process has the bug.
    pub const fn is(_: Bug) -> bool {
        false
    }

    /// What a bug remembers where it must not.
    #[derive(Debug)]
    pub struct Memory<K, V>(PhantomData<fn(K) -> V>);

    impl<K, V> Default for Memory<K, V> {
        fn default() -> Self {
            Memory(PhantomData)
        }
    }

    impl<K, V> Memory<K, V> {
        /// Remembers.
        pub fn put(&self, _: K, _: V) {}

        /// What is remembered.
        pub fn get(&self, _: &K) -> Option<V> {
            None
        }
    }
}

pub use planted::{IS_BUILT_IN, Memory, choose, is};

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn every_bug_has_its_own_name_and_is_found_by_it() {
        let names: BTreeSet<&str> = Bug::ALL.iter().map(|bug| bug.name()).collect();
        assert_eq!(names.len(), Bug::ALL.len());
        for bug in Bug::ALL {
            assert_eq!(named(bug.name()), Ok(*bug));
        }
        assert!(named("no-such-bug").unwrap_err().contains("skipped-fsync"));
    }

    #[cfg(not(feature = "sabotage"))]
    #[test]
    fn without_the_feature_no_bug_can_be_chosen() {
        const { assert!(!IS_BUILT_IN) };
        assert!(choose("skipped-fsync").unwrap_err().contains("make sabotage"));
        assert!(Bug::ALL.iter().all(|bug| !is(*bug)));
    }
}
