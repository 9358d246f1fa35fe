//! Pure: a host's users, sorted, split and numbered.
use crate::{
    Error, ID_BYTES_MAX, SLOTS, SLOTS_OF_VWORKER, UserHistory, VWORKERS,
    plan::{Counts, HoldOut, Hosts},
};
use docent_model::Adjacency;
use std::{collections::BTreeMap, ops::Range, sync::Arc};

/// A key of an item in the order of everything: (slot, id bytes).
pub(crate) type ItemKey = (u16, Arc<str>);

/// One user after the split.
struct User {
    slot: u16,
    id: Arc<str>,
    train: Vec<(ItemKey, f32)>,
    held_out: Vec<ItemKey>,
}

/// A host's users. Rows are numbered over its virtual workers in order, touched items in the order of their keys.
pub(crate) struct UserSide {
    /// (virtual worker, its rows).
    pub(crate) vworkers: Vec<(u16, Range<usize>)>,
    /// Rows: users; columns: touched items.
    pub(crate) adjacency: Adjacency,
    /// Rows: touched items; columns: users.
    pub(crate) by_item: Adjacency,
    /// Per user, sorted touched items that were held out.
    pub(crate) held_out: Vec<Vec<u32>>,
    /// Per user a hash, to draw those that are measured.
    pub(crate) lots: Vec<u64>,
    /// Keys of touched items (trained on or held out), sorted.
    pub(crate) touched: Vec<ItemKey>,
}

/// One virtual worker's users, sorted and split. `seed` draws among positives of equal time.
pub(crate) struct Loaded(u16, Vec<User>);

/// Sorts and splits the users of `vworker`.
pub(crate) fn vworker(
    vworker: u16,
    users: Vec<UserHistory>,
    hold_out: Option<HoldOut>,
    seed: u64,
) -> Result<Loaded, Error> {
    let mut loaded = Vec::with_capacity(users.len());
    for user in users {
        if user.slot / SLOTS_OF_VWORKER != vworker || user.slot >= SLOTS {
            return Err(Error::Input(format!("a user of slot {} came for virtual worker {vworker}", user.slot)));
        }
        let user = split(user, hold_out, seed)?;
        if !user.train.is_empty() {
            loaded.push(user);
        }
    }
    loaded.sort_unstable_by(|a, b| (a.slot, &a.id).cmp(&(b.slot, &b.id)));
    if loaded.windows(2).any(|pair| pair[0].id == pair[1].id && pair[0].slot == pair[1].slot) {
        return Err(Error::Input(format!("a user came twice for virtual worker {vworker}")));
    }
    Ok(Loaded(vworker, loaded))
}

/// Sorts one user's positives by key and takes out what is held out.
fn split(user: UserHistory, hold_out: Option<HoldOut>, seed: u64) -> Result<User, Error> {
    let UserHistory { slot, id, mut positives } = user;
    for positive in &positives {
        if positive.slot >= SLOTS || positive.item.is_empty() || positive.item.len() > ID_BYTES_MAX {
            return Err(Error::Input("a positive's item has a slot or id out of range".into()));
        }
        if !(positive.confidence.is_finite() && positive.confidence > 0.0) {
            return Err(Error::Input("a positive's confidence is not a finite number above 0".into()));
        }
    }
    positives.sort_by(|a, b| (a.slot, &a.item).cmp(&(b.slot, &b.item)));
    if positives.windows(2).any(|pair| pair[0].item == pair[1].item && pair[0].slot == pair[1].slot) {
        return Err(Error::Input("a user has two positives of one item".into()));
    }
    let count = match hold_out {
        None => 0,
        Some(HoldOut::LastOne) => 1,
        Some(HoldOut::Newest(fraction) | HoldOut::Random(fraction)) => {
            (positives.len() as f64 * f64::from(fraction)).round() as usize
        }
    };
    let count = count.min(positives.len().saturating_sub(1));
    let mut newest: Vec<usize> = (0..positives.len()).collect();
    if count > 0 {
        // Without times, the lots alone decide.
        let time = |at: usize| if matches!(hold_out, Some(HoldOut::Random(_))) { 0 } else { positives[at].last_ts_ms };
        newest.sort_by_cached_key(|&at| std::cmp::Reverse((time(at), lot(seed, &[&*id, &*positives[at].item]))));
    }
    newest.truncate(count);
    newest.sort_unstable();
    let (mut train, mut held_out) = (Vec::with_capacity(positives.len() - count), Vec::with_capacity(count));
    for (at, positive) in positives.into_iter().enumerate() {
        let key = (positive.slot, positive.item);
        if newest.binary_search(&at).is_ok() {
            held_out.push(key);
        } else {
            train.push((key, positive.confidence));
        }
    }
    Ok(User { slot, id, train, held_out })
}

/// A random number from a seed and names, the same everywhere.
fn lot(seed: u64, names: &[&str]) -> u64 {
    let mut hasher = blake3::Hasher::new_derive_key("docent 2026 hold-out lot v1");
    hasher.update(&seed.to_le_bytes());
    for name in names {
        hasher.update(&(name.len() as u64).to_le_bytes()).update(name.as_bytes());
    }
    hasher.finalize().as_bytes().first_chunk().map_or(0, |eight| u64::from_le_bytes(*eight))
}

/// Joins a host's virtual workers (in order) and numbers what their users touched.
pub(crate) fn join(loaded: Vec<Loaded>, seed: u64) -> Result<UserSide, Error> {
    // By slot first: equal ids stand close together, and a search looks at the few of one slot.
    let mut by_slot: Vec<Vec<&Arc<str>>> = vec![Vec::new(); usize::from(SLOTS)];
    for user in loaded.iter().flat_map(|Loaded(_, users)| users) {
        user.train
            .iter()
            .map(|(key, _)| key)
            .chain(&user.held_out)
            .for_each(|(slot, id)| by_slot[usize::from(*slot)].push(id));
    }
    let (mut touched, mut starts) = (Vec::new(), vec![0]);
    for (slot, mut ids) in (0u16..).zip(by_slot) {
        ids.sort_unstable();
        ids.dedup();
        touched.extend(ids.into_iter().map(|id| (slot, id.clone())));
        starts.push(touched.len());
    }
    if u32::try_from(touched.len()).is_err() {
        return Err(Error::Input("this host's users touch more than 2^32 items".into()));
    }
    let place = |(slot, id): &ItemKey| {
        let (start, end) = (starts[usize::from(*slot)], starts[usize::from(*slot) + 1]);
        (start + touched[start..end].partition_point(|(_, other)| other < id)) as u32
    };
    let (mut vworkers, mut adjacency) = (Vec::new(), Adjacency::new());
    let (mut held_out, mut lots) = (Vec::new(), Vec::new());
    for Loaded(vworker, users) in loaded {
        let first = adjacency.rows();
        for user in users {
            adjacency.push_row(user.train.iter().map(|(key, confidence)| (place(key), *confidence)));
            held_out.push(user.held_out.iter().map(place).collect());
            lots.push(lot(seed, &[&user.id]));
        }
        vworkers.push((vworker, first..adjacency.rows()));
    }
    if u32::try_from(adjacency.rows()).is_err() {
        return Err(Error::Input("this host has more than 2^32 users".into()));
    }
    let by_item = adjacency.transposed(touched.len());
    Ok(UserSide { vworkers, adjacency, by_item, held_out, lots, touched })
}

impl UserSide {
    pub(crate) fn counts(&self) -> Counts {
        Counts {
            users: self.adjacency.rows() as u64,
            items: 0,
            positives: self.adjacency.entries() as u64,
            held_out: self.held_out.iter().map(|items| items.len() as u64).sum(),
        }
    }

    /// Touched items of an item virtual worker.
    pub(crate) fn touched_of(&self, vworker: u16) -> Range<usize> {
        let from = |vworker: u16| self.touched.partition_point(|(slot, _)| slot / SLOTS_OF_VWORKER < vworker);
        from(vworker)..from(vworker + 1)
    }

    /// Per owner, the touched items that it owns, in order: the rows that it sends.
    pub(crate) fn touched_by_owner(&self, hosts: &Hosts) -> BTreeMap<u64, Vec<u32>> {
        let mut lists: BTreeMap<u64, Vec<u32>> =
            hosts.item_nodes().into_iter().map(|node| (node, Vec::new())).collect();
        for vworker in 0..VWORKERS {
            if let Some(list) = lists.get_mut(&hosts.items[usize::from(vworker)]) {
                list.extend(self.touched_of(vworker).map(|at| at as u32));
            }
        }
        lists
    }

    /// Per owner, the rows of users that trained on an item that it owns, sorted: the rows that it asks for.
    pub(crate) fn readers(&self, hosts: &Hosts) -> BTreeMap<u64, Vec<u32>> {
        let owner_of = |item: u32| hosts.items[usize::from(self.touched[item as usize].0 / SLOTS_OF_VWORKER)];
        let mut lists: BTreeMap<u64, Vec<u32>> =
            hosts.item_nodes().into_iter().map(|node| (node, Vec::new())).collect();
        for row in 0..self.adjacency.rows() {
            for item in self.adjacency.row(row).0 {
                if let Some(list) = lists.get_mut(&owner_of(*item))
                    && list.last() != Some(&(row as u32))
                {
                    list.push(row as u32);
                }
            }
        }
        lists
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Positive;

    fn user(times: &[i64]) -> UserHistory {
        let positive = |(at, time): (usize, &i64)| Positive {
            item: format!("i{at}").into(),
            slot: at as u16,
            confidence: 1.0,
            last_ts_ms: *time,
        };
        UserHistory { slot: 3, id: "u".into(), positives: times.iter().enumerate().map(positive).collect() }
    }

    #[test]
    fn the_newest_are_held_out_and_one_positive_always_stays() {
        let split_of = |times: &[i64], hold_out| split(user(times), Some(hold_out), 1).unwrap();
        let user = split_of(&[5, 9, 7, 1], HoldOut::LastOne);
        assert_eq!(user.held_out, [(1, Arc::from("i1"))]);
        assert_eq!(user.train.len(), 3);
        assert_eq!(split_of(&[5, 9, 7, 1], HoldOut::Newest(0.5)).held_out.len(), 2);
        assert_eq!(split_of(&[5], HoldOut::LastOne).train.len(), 1);
        assert_eq!(split_of(&[5, 6], HoldOut::Newest(0.99)).train.len(), 1);
    }

    #[test]
    fn a_random_split_takes_as_many_whatever_their_times() {
        let held_out = |times: &[i64]| split(user(times), Some(HoldOut::Random(0.4)), 1).unwrap().held_out;
        let drawn = held_out(&[1, 2, 3, 4, 5]);
        assert_eq!(drawn.len(), 2);
        assert_eq!(drawn, held_out(&[5, 4, 3, 2, 1]));
        let seeds: std::collections::BTreeSet<_> =
            (0..20).map(|seed| split(user(&[1; 5]), Some(HoldOut::Random(0.4)), seed).unwrap().held_out).collect();
        assert!(seeds.len() > 3, "{seeds:?}");
    }

    #[test]
    fn input_that_breaks_the_contract_is_refused() {
        assert!(vworker(1, vec![user(&[1])], None, 1).is_err(), "slot of another virtual worker");
        assert!(vworker(0, vec![user(&[1]), user(&[1])], None, 1).is_err(), "the same user twice");
        let mut bad = user(&[1]);
        bad.positives[0].confidence = f32::NAN;
        assert!(vworker(0, vec![bad], None, 1).is_err());
        let mut bad = user(&[1]);
        bad.positives.push(bad.positives[0].clone());
        assert!(vworker(0, vec![bad], None, 1).is_err());
    }
}
