//! The stream of events: user by user, session by session, in the order of time within a user.

use crate::generate::draw::{Draw, Purpose};
use crate::generate::words;
use crate::generate::world::{FIRST_MS, GENERATOR_VERSION, SPAN_MS, Tastes, World};
use docent_proto::v1::Event;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

/// The longest session.
const SESSION_EVENTS_MAX: u64 = 12;
/// A user seldom returns to one of this many last items.
const RECENT_MAX: usize = 64;

/// All events of a world. Holds one session.
pub struct Events {
    world: Arc<World>,
    /// The start of every event id: the settings' digest.
    prefix: String,
    next: u64,
    next_user: u64,
    activity: u128,
    user: Option<User>,
    session: VecDeque<Event>,
}

struct User {
    number: u64,
    draw: Draw,
    tastes: Tastes,
    events: u64,
    done: u64,
    joined_ms: i64,
    last_ms: i64,
    sessions: u64,
    recent: VecDeque<u32>,
}

impl Events {
    /// The stream from its start.
    pub fn new(world: Arc<World>) -> Events {
        let s = world.settings();
        let name = format!("docent generator {GENERATOR_VERSION}: {} {} {} {}", s.users, s.items, s.events, s.seed);
        let prefix = format!("g{}", &blake3::hash(name.as_bytes()).to_hex()[..15]);
        Events { world, prefix, next: 0, next_user: 0, activity: 0, user: None, session: VecDeque::new() }
    }

    /// Events made so far.
    pub fn position(&self) -> u64 {
        self.next
    }

    fn next_user(&mut self) -> Option<User> {
        while self.next_user < self.world.settings().users {
            let number = self.next_user;
            self.next_user += 1;
            let (events, activity) = self.world.events_of(number, self.activity);
            self.activity = activity;
            if events == 0 {
                continue;
            }
            let mut draw = Draw::new(self.world.settings().seed, Purpose::Events, number);
            // Everybody joins within the first 80 % of the time and stays.
            let joined_ms = FIRST_MS + ms(draw.below(SPAN_MS.unsigned_abs() / 5 * 4));
            let tastes = self.world.tastes(number);
            let recent = VecDeque::new();
            return Some(User { number, draw, tastes, events, done: 0, joined_ms, last_ms: 0, sessions: 0, recent });
        }
        None
    }

    fn next_session(&mut self) -> bool {
        if self.user.as_ref().is_none_or(|user| user.done == user.events) {
            self.user = self.next_user();
        }
        let Some(user) = &mut self.user else { return false };
        let events = (1 + user.draw.below(SESSION_EVENTS_MAX)).min(user.events - user.done);
        let favourite = match user.draw.below(100) {
            0..60 => user.tastes[0],
            60..85 => user.tastes[1],
            _ => user.tastes[2],
        };
        let remaining = u128::from((FIRST_MS + SPAN_MS - user.joined_ms).unsigned_abs());
        let offset = remaining * u128::from(user.done) / u128::from(user.events);
        let start = user.joined_ms + i64::try_from(offset).unwrap_or(SPAN_MS) + ms(user.draw.below(3_600_000));
        user.last_ms = start.max(user.last_ms + 1_000);
        user.sessions += 1;
        let session_id = format!("{}-{}", user.number + 1, user.sessions);
        let device = *user.draw.one_of(&words::DEVICES);
        for _ in 0..events {
            let event_id = format!("{}.{}", self.prefix, self.next);
            self.next += 1;
            user.done += 1;
            let mut event = user.event(&self.world, favourite);
            event.event_id = event_id;
            event.session_id.clone_from(&session_id);
            event.context = BTreeMap::from([("device".to_owned(), device.to_owned())]);
            self.session.push_back(event);
        }
        true
    }
}

impl User {
    fn event(&mut self, world: &World, favourite: usize) -> Event {
        let mut rank = 0;
        // A few tries for an item that is not among the last ones; tiny catalogues repeat.
        for _ in 0..8 {
            let cluster = self.draw.chance(75).then_some(favourite);
            rank = world.draw_rank(&mut self.draw, cluster);
            if !self.recent.contains(&rank) || self.draw.chance(3) {
                break;
            }
        }
        if self.recent.len() == RECENT_MAX {
            self.recent.pop_front();
        }
        self.recent.push_back(rank);
        let (event_type, value) = match self.draw.below(100) {
            0..60 => ("view", None),
            60..82 => ("click", None),
            82..90 => ("purchase", None),
            _ => {
                let likes = self.tastes.contains(&world.cluster_of(rank));
                // Half stars: 3 to 5 for a favourite, 1 to 4 otherwise.
                let halves = if likes { 6 + self.draw.below(5) } else { 2 + self.draw.below(7) };
                #[allow(clippy::cast_precision_loss, reason = "at most 10")]
                let stars = halves as f32 / 2.0;
                ("rating", Some(stars))
            }
        };
        let timestamp_ms = Some(self.last_ms);
        self.last_ms += 5_000 + ms(self.draw.below(120_000));
        Event {
            user_id: World::user_id(self.number),
            item_id: world.item_id(rank),
            r#type: event_type.to_owned(),
            value,
            timestamp_ms,
            ..Event::default()
        }
    }
}

fn ms(n: u64) -> i64 {
    i64::try_from(n).expect("milliseconds of a few years")
}

impl Iterator for Events {
    type Item = Event;

    fn next(&mut self) -> Option<Event> {
        if self.session.is_empty() && !self.next_session() {
            return None;
        }
        self.session.pop_front()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::generate::world::Settings;
    use crate::import::row::check_event;

    fn events(users: u64, items: u64, events: u64, seed: u64) -> Vec<Event> {
        Events::new(Arc::new(World::new(Settings { users, items, events, seed }).unwrap())).collect()
    }

    #[test]
    fn events_are_exactly_as_many_as_asked_valid_and_in_time_order_within_a_user() {
        let all = events(50, 300, 5_000, 3);
        assert_eq!(all.len(), 5_000);
        for event in &all {
            check_event(event, FIRST_MS + 2 * SPAN_MS).unwrap();
        }
        for pair in all.windows(2) {
            assert!(pair[0].user_id != pair[1].user_id || pair[0].timestamp_ms < pair[1].timestamp_ms);
        }
        let ids: std::collections::BTreeSet<&str> = all.iter().map(|event| event.event_id.as_str()).collect();
        assert_eq!(ids.len(), all.len());
    }

    #[test]
    fn another_seed_is_another_data_set_under_other_ids() {
        let (a, b) = (events(10, 100, 200, 1), events(10, 100, 200, 2));
        assert_ne!(a[0].event_id, b[0].event_id);
        let items = |events: &[Event]| events.iter().map(|event| event.item_id.clone()).collect::<Vec<_>>();
        assert_ne!(items(&a), items(&b));
    }

    #[test]
    fn a_few_items_have_most_of_the_events_and_users_differ() {
        let all = events(500, 2_000, 40_000, 7);
        let counts = |key: fn(&Event) -> &str| {
            let mut by: BTreeMap<&str, u64> = BTreeMap::new();
            all.iter().for_each(|event| *by.entry(key(event)).or_default() += 1);
            let mut counts: Vec<u64> = by.into_values().collect();
            counts.sort_unstable_by(|a, b| b.cmp(a));
            counts
        };
        let items = counts(|event| &event.item_id);
        let head: u64 = items[..items.len() / 10].iter().sum();
        assert!(head > 40_000 * 4 / 10, "the top tenth has {head} of 40,000");
        assert!(items.len() > 1_800, "{} of 2,000 items occur", items.len());
        let users = counts(|event| &event.user_id);
        assert!(users[0] > 5 * users[users.len() / 2], "{} against a median of {}", users[0], users[users.len() / 2]);
    }

    #[test]
    fn users_prefer_their_clusters() {
        let world = Arc::new(World::new(Settings { users: 100, items: 1_200, events: 10_000, seed: 5 }).unwrap());
        let cluster: BTreeMap<String, usize> =
            (0..1_200).map(|rank| (world.item_id(rank), world.cluster_of(rank))).collect();
        let users: BTreeMap<String, Tastes> = (0..100).map(|user| (World::user_id(user), world.tastes(user))).collect();
        let mut inside = 0;
        for event in Events::new(Arc::clone(&world)) {
            inside += u32::from(users[&event.user_id].contains(&cluster[&event.item_id]));
        }
        assert!(inside > 6_500, "{inside} of 10,000 in one of three of 10 clusters");
    }
}
