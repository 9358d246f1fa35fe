//! Pure: a host's users, sorted, split and numbered.
use crate::{
    Error, ItemNumbers, Positive, SLOTS, SLOTS_OF_VWORKER, UserHistory, VWORKERS, numbers,
    plan::{Counts, HoldOut, Hosts},
};
use docent_model::{Adjacency, parallel};
use std::{cmp::Reverse, collections::BTreeMap, iter::repeat, ops::Range, sync::Arc};

/// A key of an item in the order of everything: (slot, id bytes).
pub(crate) type ItemKey = (u16, Arc<str>);

/// A host's users. Rows are numbered over its virtual workers in order, touched items in the order of their keys.
pub(crate) struct UserSide {
    /// (virtual worker, its rows).
    pub(crate) vworkers: Vec<(u16, Range<usize>)>,
    /// Rows: users; columns: touched items.
    pub(crate) adjacency: Adjacency,
    /// Rows: touched items; columns: users.
    pub(crate) by_item: Adjacency,
    /// Rows: users; columns: touched items that were held out.
    pub(crate) held_out: Adjacency,
    /// Per user a hash, to draw those that are measured.
    pub(crate) lots: Vec<u64>,
    /// Keys of touched items (trained on or held out), sorted.
    pub(crate) touched: Vec<ItemKey>,
}

/// What one thread read: users of some virtual workers, and the numbers of their items.
pub(crate) struct Read {
    pub(crate) items: ItemNumbers,
    pub(crate) loaded: Vec<Loaded>,
}

/// One virtual worker's users, sorted.
pub(crate) struct Loaded(u16, Vec<UserHistory>);

/// Checks and sorts the users of `vworker`.
pub(crate) fn vworker(vworker: u16, mut users: Vec<UserHistory>) -> Result<Loaded, Error> {
    for user in &users {
        if user.slot / SLOTS_OF_VWORKER != vworker || user.slot >= SLOTS {
            return Err(Error::Input(format!("a user of slot {} came for virtual worker {vworker}", user.slot)));
        }
        let is_valid = |confidence: f32| confidence.is_finite() && confidence > 0.0;
        if !user.positives.iter().all(|positive| is_valid(positive.confidence)) {
            return Err(Error::Input("a positive's confidence is not a finite number above 0".into()));
        }
    }
    users.retain(|user| !user.positives.is_empty());
    users.sort_unstable_by(|a, b| (a.slot, &a.id).cmp(&(b.slot, &b.id)));
    if users.windows(2).any(|pair| pair[0].id == pair[1].id && pair[0].slot == pair[1].slot) {
        return Err(Error::Input(format!("a user came twice for virtual worker {vworker}")));
    }
    Ok(Loaded(vworker, users))
}

/// How users' positives are split.
#[derive(Clone, Copy)]
pub(crate) struct Splitting {
    pub(crate) hold_out: Option<HoldOut>,
    /// Draws among positives of equal time.
    pub(crate) seed: u64,
}

/// The items of some users: keys of all, and the place of each number among them.
struct Items<'a> {
    keys: &'a [ItemKey],
    places: &'a [u32],
}

/// One virtual worker's users after the split.
struct Split {
    train: Adjacency,
    held_out: Adjacency,
    lots: Vec<u64>,
}

impl Split {
    fn of(users: Vec<UserHistory>, items: &Items<'_>, Splitting { hold_out, seed }: Splitting) -> Result<Self, Error> {
        let mut split = Self { train: Adjacency::new(), held_out: Adjacency::new(), lots: Vec::new() };
        let lots = Lots::new(seed);
        for user in users {
            split.push(&user, items, hold_out, &lots)?;
            split.lots.push(lots.of(&[&user.id]));
        }
        Ok(split)
    }

    /// Puts one user's positives into the order of their items and takes out what is held out.
    fn push(
        &mut self,
        user: &UserHistory,
        items: &Items<'_>,
        hold_out: Option<HoldOut>,
        lots: &Lots,
    ) -> Result<(), Error> {
        let mut positives: Vec<(u32, f32, i64)> = Vec::with_capacity(user.positives.len());
        for Positive { item, confidence, last_ts_ms } in &user.positives {
            let place = items.places.get(*item as usize);
            let place = place.ok_or_else(|| Error::Input("a positive's item has a number of nobody's".into()))?;
            positives.push((*place, *confidence, *last_ts_ms));
        }
        positives.sort_unstable_by_key(|(place, ..)| *place);
        if positives.windows(2).any(|pair| pair[0].0 == pair[1].0) {
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
        let mut newest: Vec<usize> = if count > 0 { (0..positives.len()).collect() } else { Vec::new() };
        newest.sort_by_cached_key(|&at| {
            let (place, _, last_ts_ms) = positives[at];
            // Without times, the lots alone decide.
            let time = if matches!(hold_out, Some(HoldOut::Random(_))) { 0 } else { last_ts_ms };
            Reverse((time, lots.of(&[&user.id, &items.keys[place as usize].1])))
        });
        newest.truncate(count);
        newest.sort_unstable();
        let of = |is_held_out: bool| {
            let newest = &newest;
            let is_wanted = move |at: &usize| newest.binary_search(at).is_ok() == is_held_out;
            positives.iter().enumerate().filter(move |(at, _)| is_wanted(at)).map(|(_, (place, c, _))| (*place, *c))
        };
        self.train.push_row(of(false));
        self.held_out.push_row(of(true));
        Ok(())
    }
}

/// Random numbers from a seed and names, the same everywhere.
struct Lots(blake3::Hasher);

impl Lots {
    fn new(seed: u64) -> Self {
        let mut hasher = blake3::Hasher::new_derive_key("docent 2026 hold-out lot v1");
        hasher.update(&seed.to_le_bytes());
        Self(hasher)
    }

    fn of(&self, names: &[&str]) -> u64 {
        let mut hasher = self.0.clone();
        for name in names {
            hasher.update(&(name.len() as u64).to_le_bytes()).update(name.as_bytes());
        }
        hasher.finalize().as_bytes().first_chunk().map_or(0, |eight| u64::from_le_bytes(*eight))
    }
}

/// Splits and joins a host's virtual workers.
pub(crate) fn join(threads: usize, read: Vec<Read>, splitting: Splitting) -> Result<UserSide, Error> {
    let (numbers, loaded): (Vec<ItemNumbers>, Vec<Vec<Loaded>>) =
        read.into_iter().map(|read| (read.items, read.loaded)).unzip();
    let (touched, places) = numbers::sort(numbers)?;
    let mut tasks: Vec<(Loaded, &[u32])> = loaded
        .into_iter()
        .zip(&places)
        .flat_map(|(loaded, places)| loaded.into_iter().zip(repeat(&**places)))
        .collect();
    tasks.sort_unstable_by_key(|(Loaded(vworker, _), _)| *vworker);
    let split = |(Loaded(vworker, users), places): (Loaded, &[u32])| {
        Ok::<_, Error>((vworker, Split::of(users, &Items { keys: &touched, places }, splitting)?))
    };
    let (mut vworkers, mut lots) = (Vec::new(), Vec::new());
    let (mut train, mut held_out) = (Vec::new(), Vec::new());
    for split in parallel::map(threads, tasks, split) {
        let (vworker, split) = split?;
        let first = lots.len();
        lots.extend(split.lots);
        vworkers.push((vworker, first..lots.len()));
        train.push(split.train);
        held_out.push(split.held_out);
    }
    let (adjacency, held_out) = (Adjacency::stacked(threads, &train), Adjacency::stacked(threads, &held_out));
    if u32::try_from(adjacency.rows()).is_err() {
        return Err(Error::Input("this host has more than 2^32 users".into()));
    }
    let by_item = adjacency.transposed(touched.len());
    Ok(UserSide { vworkers, adjacency, by_item, held_out, lots, touched })
}

impl UserSide {
    /// The same users, with nothing held out.
    pub(crate) fn whole(&self) -> Self {
        let mut adjacency = Adjacency::new();
        for user in 0..self.adjacency.rows() {
            let of = |rows: &Adjacency| -> Vec<(u32, f32)> {
                let (items, confidences) = rows.row(user);
                items.iter().copied().zip(confidences.iter().copied()).collect()
            };
            let mut both = of(&self.adjacency);
            both.extend(of(&self.held_out));
            both.sort_unstable_by_key(|(item, _)| *item);
            adjacency.push_row(both);
        }
        let mut held_out = Adjacency::new();
        (0..adjacency.rows()).for_each(|_| held_out.push_row([]));
        let by_item = adjacency.transposed(self.touched.len());
        let (vworkers, lots, touched) = (self.vworkers.clone(), self.lots.clone(), self.touched.clone());
        Self { vworkers, adjacency, by_item, held_out, lots, touched }
    }

    /// The same users without their positives of items that are not admitted (by touched item). What was held out of those stays to be measured.
    pub(crate) fn admitted(&self, is_admitted: &[bool]) -> Self {
        let is_held_out = self.held_out.transposed(self.touched.len());
        let mut touched = Vec::new();
        let mut number = |(at, key): (usize, &ItemKey)| {
            let is_known = is_admitted.get(at) == Some(&true) || !is_held_out.row(at).0.is_empty();
            is_known.then(|| {
                touched.push(key.clone());
                touched.len() as u32 - 1
            })
        };
        let numbers: Vec<Option<u32>> = self.touched.iter().enumerate().map(&mut number).collect();
        let numbered = |rows: &Adjacency, is_wanted: &dyn Fn(usize) -> bool| {
            let mut numbered = Adjacency::new();
            for user in 0..rows.rows() {
                let (items, confidences) = rows.row(user);
                let wanted = items.iter().zip(confidences).filter(|(item, _)| is_wanted(**item as usize));
                numbered.push_row(wanted.filter_map(|(item, c)| Some((numbers[*item as usize]?, *c))));
            }
            numbered
        };
        let adjacency = numbered(&self.adjacency, &|item| is_admitted.get(item) == Some(&true));
        let held_out = numbered(&self.held_out, &|_| true);
        let by_item = adjacency.transposed(touched.len());
        let (vworkers, lots) = (self.vworkers.clone(), self.lots.clone());
        Self { vworkers, adjacency, by_item, held_out, lots, touched }
    }

    pub(crate) fn counts(&self) -> Counts {
        Counts {
            users: self.adjacency.rows() as u64,
            items: 0,
            positives: self.adjacency.entries() as u64,
            held_out: self.held_out.entries() as u64,
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
        let nodes: Vec<u64> = hosts.item_nodes().into_iter().collect();
        let mut lists: Vec<Vec<u32>> = vec![Vec::new(); nodes.len()];
        // The place of each touched item's owner among the nodes.
        let owners: Vec<Option<usize>> = self
            .touched
            .iter()
            .map(|(slot, _)| nodes.binary_search(&hosts.items[usize::from(slot / SLOTS_OF_VWORKER)]).ok())
            .collect();
        for row in 0..self.adjacency.rows() {
            for item in self.adjacency.row(row).0 {
                if let Some(owner) = owners[*item as usize]
                    && lists[owner].last() != Some(&(row as u32))
                {
                    lists[owner].push(row as u32);
                }
            }
        }
        nodes.into_iter().zip(lists).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A user of virtual worker 0 with an item for each time.
    fn user(items: &mut ItemNumbers, times: &[i64]) -> UserHistory {
        let mut number = |at: usize| items.number(&format!("i{at}"), || at as u16).unwrap();
        let positive = |(at, time): (usize, &i64)| Positive { item: number(at), confidence: 1.0, last_ts_ms: *time };
        UserHistory { slot: 3, id: "u".into(), positives: times.iter().enumerate().map(positive).collect() }
    }

    fn side(times: &[i64], hold_out: HoldOut, seed: u64) -> UserSide {
        let mut items = ItemNumbers::default();
        let loaded = vec![vworker(0, vec![user(&mut items, times)]).unwrap()];
        join(2, vec![Read { items, loaded }], Splitting { hold_out: Some(hold_out), seed }).unwrap()
    }

    fn held_out(times: &[i64], hold_out: HoldOut, seed: u64) -> Vec<Arc<str>> {
        let side = side(times, hold_out, seed);
        side.held_out.row(0).0.iter().map(|item| side.touched[*item as usize].1.clone()).collect()
    }

    #[test]
    fn the_newest_are_held_out_and_one_positive_always_stays() {
        let counts = |times: &[i64], hold_out| {
            let counts = side(times, hold_out, 1).counts();
            (counts.positives, counts.held_out)
        };
        assert_eq!(held_out(&[5, 9, 7, 1], HoldOut::LastOne, 1), ["i1".into()]);
        assert_eq!(counts(&[5, 9, 7, 1], HoldOut::LastOne), (3, 1));
        assert_eq!(counts(&[5, 9, 7, 1], HoldOut::Newest(0.5)), (2, 2));
        assert_eq!(counts(&[5], HoldOut::LastOne), (1, 0));
        assert_eq!(counts(&[5, 6], HoldOut::Newest(0.99)), (1, 1));
    }

    #[test]
    fn a_random_split_takes_as_many_whatever_their_times() {
        let drawn = held_out(&[1, 2, 3, 4, 5], HoldOut::Random(0.4), 1);
        assert_eq!(drawn.len(), 2);
        assert_eq!(drawn, held_out(&[5, 4, 3, 2, 1], HoldOut::Random(0.4), 1));
        let seeds: std::collections::BTreeSet<_> =
            (0..20).map(|seed| held_out(&[1; 5], HoldOut::Random(0.4), seed)).collect();
        assert!(seeds.len() > 3, "{seeds:?}");
    }

    #[test]
    fn what_was_held_out_can_be_put_back() {
        let mut items = ItemNumbers::default();
        let loaded = vec![vworker(0, vec![user(&mut items, &[4, 2, 8, 1])]).unwrap()];
        let whole = join(1, vec![Read { items, loaded }], Splitting { hold_out: None, seed: 1 }).unwrap();
        let put_back = side(&[4, 2, 8, 1], HoldOut::Newest(0.5), 1).whole();
        assert_eq!((&put_back.adjacency, &put_back.by_item), (&whole.adjacency, &whole.by_item));
        assert_eq!((&put_back.held_out, &put_back.lots), (&whole.held_out, &whole.lots));
        assert_eq!((&put_back.touched, &put_back.vworkers), (&whole.touched, &whole.vworkers));
    }

    #[test]
    fn input_that_breaks_the_contract_is_refused() {
        let user = user(&mut ItemNumbers::default(), &[1]);
        assert!(vworker(1, vec![user.clone()]).is_err(), "slot of another virtual worker");
        assert!(vworker(0, vec![user.clone(), user.clone()]).is_err(), "the same user twice");
        let mut bad = user.clone();
        bad.positives[0].confidence = f32::NAN;
        assert!(vworker(0, vec![bad]).is_err());
        let join_of = |positives: Vec<Positive>| {
            let mut items = ItemNumbers::default();
            items.number("i0", || 0).unwrap();
            let loaded = vec![vworker(0, vec![UserHistory { positives, ..user.clone() }]).unwrap()];
            join(1, vec![Read { items, loaded }], Splitting { hold_out: None, seed: 1 })
        };
        assert!(join_of(vec![user.positives[0]]).is_ok());
        assert!(join_of(vec![user.positives[0]; 2]).is_err(), "an item twice");
        assert!(join_of(vec![Positive { item: 1, ..user.positives[0] }]).is_err(), "a number of nobody's");
    }
}
