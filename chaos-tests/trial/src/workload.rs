//! What clients do during a run: rates and shares, and the calls that follow from a seed.

use crate::history::{Call, Consent};
use rand_chacha::ChaCha8Rng;
use rand_core::{Rng, SeedableRng};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

/// Rates and shares. Users are `u0`, `u1`, ...; items `i0`, `i1`, ...
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Workload {
    /// Writes a second, of all kinds together.
    pub writes_per_s: f64,
    /// Queries and reads a second, of all kinds together.
    pub reads_per_s: f64,
    /// Users.
    pub users: u32,
    /// Items.
    pub items: u32,
    /// Items of an answer.
    pub n: u32,
    /// Writes that set a user's consent, of 100; half of them opt out.
    pub consent_percent: u8,
    /// Writes that replace a block list, of 100.
    pub blocks_percent: u8,
    /// Writes that take an item down or show it again, of 100.
    pub take_down_percent: u8,
    /// Writes that replace a profile, of 100.
    pub profile_percent: u8,
    /// Writes that erase a user, of 100.
    pub erase_percent: u8,
    /// Reads of consent, block lists, users, items and the catalog, of 100 reads; the rest are queries.
    pub state_percent: u8,
    /// Events that are sent again under their id although they were acked, of 100.
    pub repeat_percent: u8,
    /// Times of a higher rate, open loop.
    pub surges: Vec<Surge>,
}

/// A time of a higher rate.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Surge {
    /// From the beginning of the chaos phase.
    pub at_ms: u64,
    /// How long.
    pub for_ms: u64,
    /// So many times the rates.
    pub factor: f64,
}

impl Default for Workload {
    fn default() -> Workload {
        Workload {
            writes_per_s: 100.0,
            reads_per_s: 50.0,
            users: 100,
            items: 200,
            n: 10,
            consent_percent: 5,
            blocks_percent: 5,
            take_down_percent: 2,
            profile_percent: 3,
            erase_percent: 0,
            state_percent: 30,
            repeat_percent: 5,
            surges: Vec::new(),
        }
    }
}

/// More a second than any machine of ours can send.
const RATE_MAX: f64 = 1_000_000.0;

impl Workload {
    /// Whether it makes sense: else the key and what is wrong with it.
    ///
    /// # Errors
    /// The first key that does not.
    pub fn check(&self) -> Result<(), (&'static str, &'static str)> {
        let is_rate = |rate: f64| rate.is_finite() && (0.0..=RATE_MAX).contains(&rate);
        let sum: u32 = self.shares().into_iter().map(u32::from).sum();
        let rules = [
            (is_rate(self.writes_per_s), "writes_per_s", "must be 0 to 1000000"),
            (is_rate(self.reads_per_s), "reads_per_s", "must be 0 to 1000000"),
            (self.users > 0, "users", "is 0"),
            (self.items > 0, "items", "is 0"),
            ((1..=1_000).contains(&self.n), "n", "must be 1 to 1000"),
            (sum <= 100, "consent_percent", "and the other shares of writes are more than 100 together"),
            (self.state_percent <= 100, "state_percent", "is more than 100"),
            (self.repeat_percent <= 100, "repeat_percent", "is more than 100"),
            (self.surges.iter().all(|surge| is_rate(surge.factor)), "surges", "have a factor that is not 0 to 1000000"),
        ];
        rules.into_iter().find(|(holds, ..)| !holds).map_or(Ok(()), |(_, field, why)| Err((field, why)))
    }

    /// Of 100 writes, those that are no event: consent, blocks, take-downs, profiles, erasures.
    fn shares(&self) -> [u8; 5] {
        [self.consent_percent, self.blocks_percent, self.take_down_percent, self.profile_percent, self.erase_percent]
    }

    /// How many times the rates are sent at a time of the chaos phase.
    pub fn factor_at(&self, at_ms: u64) -> f64 {
        let now =
            self.surges.iter().filter(|surge| (surge.at_ms..surge.at_ms.saturating_add(surge.for_ms)).contains(&at_ms));
        now.map(|surge| surge.factor).fold(1.0, f64::max)
    }

    /// The write of a number: always the same for a seed. Event ids are `{name}-{number}`; give a name of its own to every source of
    /// numbers in a run.
    pub fn write(&self, seed: u64, name: &str, number: u64) -> Call {
        let mut draw = Draw::of(seed, number, 1);
        let user = format!("u{}", draw.below(self.users));
        let item = format!("i{}", draw.below(self.items));
        match draw.share(&self.shares()) {
            Some(0) => {
                let recommend = draw.below(2) == 0;
                Call::SetConsent { user, consent: Consent { collect: true, recommend, train: draw.below(4) != 0 } }
            }
            Some(1) => {
                let count = draw.below(4);
                let items: BTreeSet<String> = (0..count).map(|_| format!("i{}", draw.below(self.items))).collect();
                Call::SetBlocks { user, items }
            }
            Some(2) if draw.below(2) == 0 => Call::TakeDown { item },
            Some(2) => Call::Restore { item },
            Some(3) => Call::PutUser { user, attributes: [("version".to_owned(), format!("{name}-{number}"))].into() },
            Some(4) => Call::EraseUser { user },
            _ => Call::Event { event_id: format!("{name}-{number}"), user, item, event_type: "click".to_owned() },
        }
    }

    /// The read or query of a number: always the same for a seed.
    pub fn read(&self, seed: u64, number: u64) -> Call {
        let mut draw = Draw::of(seed, number, 2);
        let user = format!("u{}", draw.below(self.users));
        let item = format!("i{}", draw.below(self.items));
        if draw.share(&[self.state_percent]).is_some() {
            return match draw.below(5) {
                0 => Call::ReadConsent { user },
                1 => Call::ReadBlocks { user },
                2 => Call::ReadUser { user },
                3 => Call::ReadItem { item },
                _ => Call::ReadCatalog {},
            };
        }
        match draw.below(10) {
            0 => Call::Popular { n: self.n },
            1 => Call::Similar { item, n: self.n },
            _ => Call::Recommend { user, n: self.n, exclude: BTreeSet::new(), session: None },
        }
    }

    /// Whether the acked event of a number is sent once more.
    pub fn repeats(&self, seed: u64, number: u64) -> bool {
        Draw::of(seed, number, 3).share(&[self.repeat_percent]).is_some()
    }
}

/// Draws of one call, independent of all others.
struct Draw(ChaCha8Rng);

impl Draw {
    fn of(seed: u64, number: u64, purpose: u64) -> Draw {
        let mut rng = ChaCha8Rng::seed_from_u64(seed ^ purpose.rotate_left(56));
        rng.set_stream(number);
        Draw(rng)
    }

    fn below(&mut self, end: u32) -> u32 {
        (self.0.next_u64() % u64::from(end.max(1))) as u32
    }

    /// In which of these shares of 100 the draw falls, if in one.
    fn share(&mut self, shares: &[u8]) -> Option<usize> {
        let mut drawn = self.below(100);
        for (place, share) in shares.iter().enumerate() {
            match drawn.checked_sub(u32::from(*share)) {
                Some(rest) => drawn = rest,
                None => return Some(place),
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    #[test]
    fn a_seed_gives_the_same_calls_and_every_kind_of_them() {
        let workload = Workload { erase_percent: 1, ..Workload::default() };
        let calls = |seed| -> Vec<Call> {
            (0..3_000).flat_map(|number| [workload.write(seed, "w", number), workload.read(seed, number)]).collect()
        };
        assert_eq!(calls(5), calls(5));
        assert_ne!(calls(5), calls(6));
        let mut kinds: BTreeMap<&str, usize> = BTreeMap::new();
        calls(5).iter().for_each(|call| *kinds.entry(call.name()).or_default() += 1);
        let wanted = [
            "event",
            "set_consent",
            "set_blocks",
            "take_down",
            "restore",
            "put_user",
            "erase_user",
            "read_consent",
            "read_blocks",
            "read_user",
            "read_item",
            "read_catalog",
            "recommend",
            "similar",
            "popular",
        ];
        assert!(wanted.iter().all(|kind| kinds.get(kind).is_some_and(|count| *count > 5)), "{kinds:?}");
        assert!((2_300..2_700).contains(&kinds["event"]), "84 of 100 writes: {kinds:?}");
    }

    #[test]
    fn event_ids_are_unique_and_some_events_are_repeated() {
        let workload = Workload::default();
        let ids: BTreeSet<String> = (0..1_000)
            .filter_map(|number| match workload.write(1, "w", number) {
                Call::Event { event_id, .. } => Some(event_id),
                _ => None,
            })
            .collect();
        assert!(ids.len() > 700);
        let repeats = (0..1_000).filter(|number| workload.repeats(1, *number)).count();
        assert!((20..90).contains(&repeats), "5 of 100: {repeats}");
    }

    #[test]
    fn shares_that_are_more_than_all_are_refused() {
        let wrong = Workload { consent_percent: 60, blocks_percent: 60, ..Workload::default() };
        assert_eq!(wrong.check().unwrap_err().0, "consent_percent");
        assert_eq!(Workload { reads_per_s: f64::NAN, ..Workload::default() }.check().unwrap_err().0, "reads_per_s");
        assert!(Workload::default().check().is_ok());
    }
}
