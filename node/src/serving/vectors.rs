//! Solved user vectors, kept until the user or the version changes. Derived: never replicated, never in a snapshot.

use docent_types::UserId;
use docent_types::sabotage::{Bug, is};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

/// A bounded cache: when it is full it starts anew, because a vector is cheap to solve again.
#[derive(Debug)]
pub struct Vectors {
    users_max: usize,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    /// Rises with each change of any user: a vector that was solved from an older read of its user is not entered.
    changes: u64,
    /// When users changed last, since `floor`.
    changed: BTreeMap<UserId, u64>,
    /// Reads that began before it are not entered, whoever they are of.
    floor: u64,
    solved: BTreeMap<(UserId, u64), Option<Arc<[f32]>>>,
}

/// Proof of when a read began; see [`Vectors::begin`].
#[derive(Clone, Copy, Debug)]
pub struct Begun(u64);

impl Vectors {
    /// A cache of at most `users_max` vectors.
    pub fn new(users_max: usize) -> Vectors {
        Vectors { users_max, inner: Mutex::default() }
    }

    fn inner(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Call before reading the user's history.
    pub fn begin(&self) -> Begun {
        Begun(self.inner().changes)
    }

    /// The vector of a user in a version, `Some(None)` where it is known that there is none.
    pub fn get(&self, user: &UserId, version: u64) -> Option<Option<Arc<[f32]>>> {
        if is(Bug::MixedVersions) {
            let of_user = (user.clone(), 0)..=(user.clone(), u64::MAX);
            return self.inner().solved.range(of_user).next().map(|(_, vector)| vector.clone());
        }
        self.inner().solved.get(&(user.clone(), version)).cloned()
    }

    /// Keeps a vector, unless its user changed since the read that it was solved from began.
    pub fn put(&self, begun: Begun, user: UserId, version: u64, vector: Option<Arc<[f32]>>) {
        let mut inner = self.inner();
        if begun.0 < inner.floor || inner.changed.get(&user).is_some_and(|change| *change > begun.0) {
            return;
        }
        if inner.solved.len() >= self.users_max {
            inner.solved.clear();
        }
        inner.solved.insert((user, version), vector);
    }

    /// Forgets what was solved for these users.
    pub fn forget(&self, users: &[UserId]) {
        if users.is_empty() {
            return;
        }
        let mut inner = self.inner();
        inner.changes += 1;
        let change = inner.changes;
        if inner.changed.len() + users.len() > self.users_max {
            inner.changed.clear();
            inner.floor = change;
        }
        for user in users {
            inner.changed.insert(user.clone(), change);
            let versions: Vec<u64> = inner
                .solved
                .range((user.clone(), 0)..=(user.clone(), u64::MAX))
                .map(|((_, version), _)| *version)
                .collect();
            for version in versions {
                inner.solved.remove(&(user.clone(), version));
            }
        }
    }

    /// Forgets everything: a snapshot was installed, or item rows changed.
    pub fn clear(&self) {
        let mut inner = self.inner();
        inner.changes += 1;
        inner.floor = inner.changes;
        inner.changed.clear();
        inner.solved.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_vector_solved_before_a_change_is_not_kept() {
        let vectors = Vectors::new(10);
        let user = UserId::new("u").unwrap();
        let begun = vectors.begin();
        vectors.put(begun, user.clone(), 1, Some(vec![1.0].into()));
        assert!(vectors.get(&user, 1).is_some());
        vectors.forget(std::slice::from_ref(&user));
        assert!(vectors.get(&user, 1).is_none());
        vectors.put(begun, user.clone(), 1, Some(vec![1.0].into()));
        assert!(vectors.get(&user, 1).is_none(), "the read began before the change");
    }

    #[test]
    fn a_full_cache_starts_anew() {
        let vectors = Vectors::new(2);
        for name in ["a", "b", "c"] {
            vectors.put(vectors.begin(), UserId::new(name).unwrap(), 1, None);
        }
        assert!(vectors.get(&UserId::new("a").unwrap(), 1).is_none());
        assert!(vectors.get(&UserId::new("c").unwrap(), 1).is_some());
    }
}
