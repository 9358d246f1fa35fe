//! The catalogue and the users of a generated data set.

use crate::failure::{Failure, Result};
use crate::generate::draw::{Draw, Purpose};
use crate::generate::words;
use docent_proto::v1::{Item, Profile};

/// What to generate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Users, 1 to 1,000,000,000.
    pub users: u64,
    /// Items, 1 to 20,000,000 (28 bytes of memory each).
    pub items: u64,
    /// Events, 1 to 100,000,000,000.
    pub events: u64,
    /// Another seed is another data set.
    pub seed: u64,
}

/// Rises with every change of what the same settings generate; part of each event id.
pub const GENERATOR_VERSION: u8 = 1;

/// The shift of the Zipf-Mandelbrot law: flattens the head, as in real catalogues.
const HEAD_SHIFT: u64 = 5;
/// The scale of integer weights: the tail of 20 million ranks still has 16 bits.
const WEIGHT_SCALE: u64 = 1 << 40;
/// Users are between once and this many times as active as the least active.
const ACTIVITY_MAX: u64 = 100;

/// 1 January 2024, the first possible event, in milliseconds since 1970.
pub const FIRST_MS: i64 = 1_704_067_200_000;
/// 18 months of events.
pub const SPAN_MS: i64 = 547 * 86_400_000;

/// Ranks to draw from, by cumulative weight.
pub struct Table {
    ranks: Vec<u32>,
    cumulative: Vec<u64>,
}

impl Table {
    fn new(ranks: Vec<u32>) -> Table {
        let mut sum = 0;
        let weigh = |rank: &u32| {
            sum += WEIGHT_SCALE / (u64::from(*rank) + 1 + HEAD_SHIFT);
            sum
        };
        let cumulative = ranks.iter().map(weigh).collect();
        Table { ranks, cumulative }
    }

    /// A rank by its weight; none from an empty table.
    fn draw(&self, draw: &mut Draw) -> Option<u32> {
        let at = draw.below(*self.cumulative.last()?);
        Some(self.ranks[self.cumulative.partition_point(|&sum| sum <= at)])
    }
}

/// A user's favourite clusters, the first more than the second more than the third.
pub type Tastes = [usize; 3];

/// Everything that events are drawn from.
pub struct World {
    settings: Settings,
    popular: Table,
    clusters: Vec<Table>,
    cluster_of: Vec<u16>,
    /// The number of the item of rank r is `(a r + b) mod items`, with `a` coprime to `items`.
    shuffle: (u64, u64),
    activity: u128,
}

impl World {
    /// Builds the catalogue: O(items) memory; one pass over the users.
    pub fn new(settings: Settings) -> Result<World> {
        let ranges = [
            ("--users", settings.users, 1_000_000_000),
            ("--items", settings.items, 20_000_000),
            ("--events", settings.events, 100_000_000_000),
        ];
        for (flag, value, max) in ranges {
            if !(1..=max).contains(&value) {
                return Err(Failure::usage(format!("{flag} {value}: must be 1 to {max}")));
            }
        }
        let clusters = (settings.items / 120).clamp(2, 64);
        let items = u32::try_from(settings.items).expect("at most 20 million");
        let mut members = vec![Vec::new(); usize::try_from(clusters).expect("at most 64")];
        let mut cluster_of = Vec::new();
        for rank in 0..items {
            let cluster = Draw::new(settings.seed, Purpose::Cluster, u64::from(rank)).below(clusters);
            members[usize::try_from(cluster).expect("at most 64")].push(rank);
            cluster_of.push(u16::try_from(cluster).expect("at most 64"));
        }
        let mut draw = Draw::new(settings.seed, Purpose::Shuffle, 0);
        let mut a = draw.below(settings.items).max(1);
        while gcd(a, settings.items) != 1 {
            a += 1;
        }
        let shuffle = (a, draw.below(settings.items));
        let activity = (0..settings.users).map(|user| u128::from(activity(settings.seed, user))).sum();
        Ok(World {
            settings,
            popular: Table::new((0..items).collect()),
            clusters: members.into_iter().map(Table::new).collect(),
            cluster_of,
            shuffle,
            activity,
        })
    }

    /// What it was built from.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Events of a user, so that all users together have exactly as many as asked for; `before`: the activity of the users before.
    /// Returns the number and the activity up to and including this user.
    pub fn events_of(&self, user: u64, before: u128) -> (u64, u128) {
        let after = before + u128::from(activity(self.settings.seed, user));
        let share = |upto: u128| u128::from(self.settings.events) * upto / self.activity;
        (u64::try_from(share(after) - share(before)).expect("at most all events"), after)
    }

    /// The tastes of a user.
    pub fn tastes(&self, user: u64) -> Tastes {
        let mut draw = Draw::new(self.settings.seed, Purpose::User, user);
        [(); 3].map(|()| usize::try_from(draw.below(self.clusters.len() as u64)).expect("at most 64"))
    }

    /// An item's rank, drawn from a cluster; from the whole catalogue where there is none.
    pub fn draw_rank(&self, draw: &mut Draw, cluster: Option<usize>) -> u32 {
        let of_cluster = cluster.and_then(|cluster| self.clusters[cluster].draw(draw));
        of_cluster.or_else(|| self.popular.draw(draw)).expect("a catalogue has an item")
    }

    /// The cluster of the item of a rank.
    pub fn cluster_of(&self, rank: u32) -> usize {
        usize::from(self.cluster_of[rank as usize])
    }

    /// The id of the item of a rank: ids say nothing about popularity.
    pub fn item_id(&self, rank: u32) -> String {
        format!("i{}", self.number(rank) + 1)
    }

    fn number(&self, rank: u32) -> u64 {
        let (a, b) = self.shuffle;
        (a * u64::from(rank) + b) % self.settings.items
    }

    /// The id of a user.
    pub fn user_id(user: u64) -> String {
        format!("u{}", user + 1)
    }

    /// The item of a rank with its metadata.
    pub fn item(&self, rank: u32) -> Item {
        let mut draw = Draw::new(self.settings.seed, Purpose::Item, u64::from(rank));
        let mut categories = vec![words::category(self.cluster_of(rank))];
        if draw.chance(30) {
            let other = words::category(usize::try_from(draw.below(self.clusters.len() as u64)).expect("at most 64"));
            if other != categories[0] {
                categories.push(other);
            }
        }
        let days = i64::try_from(draw.below(20 * 365)).expect("a few thousand");
        Item {
            item_id: self.item_id(rank),
            title: words::title(&mut draw),
            categories,
            published_ms: Some(FIRST_MS - days * 86_400_000),
            ..Item::default()
        }
    }

    /// The profile of a user.
    pub fn profile(&self, user: u64) -> Profile {
        let mut draw = Draw::new(self.settings.seed, Purpose::User, user);
        // The first three numbers of the stream are the tastes.
        for _ in 0..3 {
            draw.bits();
        }
        let pairs = [("country", *draw.one_of(&words::COUNTRIES)), ("age", *draw.one_of(&words::AGES))];
        let attributes = pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
        Profile { user_id: World::user_id(user), attributes }
    }
}

/// Pareto with exponent 2 (`1 / sqrt(u)`), in thousandths, cut at [`ACTIVITY_MAX`].
fn activity(seed: u64, user: u64) -> u64 {
    #[allow(clippy::cast_precision_loss, reason = "53 bits of the draw are meant")]
    let uniform = ((Draw::new(seed, Purpose::Activity, user).bits() >> 11) + 1) as f64 / (1u64 << 53) as f64;
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "1,000 to about 1e11")]
    let thousandths = (1_000.0 / uniform.sqrt()) as u64;
    thousandths.min(1_000 * ACTIVITY_MAX)
}

fn gcd(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { gcd(b, a % b) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    fn world(users: u64, items: u64, events: u64) -> World {
        World::new(Settings { users, items, events, seed: 1 }).unwrap()
    }

    #[test]
    fn every_item_has_its_own_number() {
        for items in [1, 2, 97, 100, 1_024] {
            let world = world(1, items, 1);
            let ids: BTreeSet<String> = (0..items as u32).map(|rank| world.item_id(rank)).collect();
            assert_eq!(ids.len() as u64, items);
        }
    }

    #[test]
    fn the_users_together_have_exactly_the_events_asked_for() {
        for (users, events) in [(1, 1), (7, 3), (100, 12_345)] {
            let world = world(users, 10, events);
            let mut before = 0;
            let mut sum = 0;
            for user in 0..users {
                let (n, after) = world.events_of(user, before);
                (sum, before) = (sum + n, after);
            }
            assert_eq!(sum, events);
        }
    }

    #[test]
    fn a_size_outside_its_range_is_a_usage_error() {
        let failure = World::new(Settings { users: 0, items: 1, events: 1, seed: 0 }).err().unwrap();
        assert!(failure.to_string().contains("--users 0"), "{failure}");
    }
}
