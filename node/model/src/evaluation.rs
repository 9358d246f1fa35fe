//! What a measurement says beside the means: intervals, strata, and what is used of the catalogue.
//!
//! [`Sums`] of users add up field by field, so that a tree of virtual workers gives the same bits on any hosts. What is counted per item is
//! whole numbers, which add up in any order. [`Report`] reads both.
//!
//! **Intervals** are percentiles of a Poisson bootstrap over users (Chamandy, Muralidharan, Najmi, Naidu 2012, *Estimating uncertainty for
//! massive data streams*): in each of [`RESAMPLES`] resamples a user counts Poisson(1) times. The counts are a function of the user's lot and
//! the resample's number alone, so no host needs to know how many users there are.
use crate::metrics::{FIELDS, Metrics};
use serde::{Deserialize, Serialize};

/// Resamples of the bootstrap.
pub const RESAMPLES: usize = 200;
/// Classes of users and of items: by their positives in the training part, from this many on.
pub const CLASSES: [(u32, &str); 4] = [(1, "1-4"), (5, "5-19"), (20, "20-99"), (100, "100+")];

/// Share of the resamples below the lower end of an interval, and above its upper one: 95 % lie between.
const TAIL: f64 = 0.025;
/// Numbers of one stratum of items: users with truth in it, and the sum of their recalls.
const STRATUM: usize = 2;

/// Which of [`CLASSES`] has `positives`.
#[must_use]
pub fn class_of(positives: u32) -> usize {
    CLASSES.iter().rposition(|(first, _)| *first <= positives).unwrap_or(0)
}

/// One user's list beside what was held out.
#[derive(Clone, Copy, Debug)]
pub struct Judged<'a> {
    /// Items, best first.
    pub list: &'a [u32],
    /// Held out items that the list could hold, sorted.
    pub truth: &'a [u32],
    /// Held out items in all.
    pub truths: usize,
    /// Positives of the user in the training part.
    pub positives: u32,
    /// How often the user counts in each resample, see [`weights`].
    pub weights: &'a [u8; RESAMPLES],
}

/// The items that are ranked.
#[derive(Clone, Copy, Debug)]
pub struct Catalogue<'a> {
    /// Positives of each item in the training part.
    pub positives: &'a [u32],
    /// Users of the training part.
    pub users: u64,
}

/// How often a user counts in each resample: Poisson(1), drawn from the user's lot.
#[must_use]
pub fn weights(lot: u64) -> [u8; RESAMPLES] {
    std::array::from_fn(|resample| poisson(mix(lot.wrapping_add((resample as u64 + 1).wrapping_mul(GOLDEN)))))
}

const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;

/// The output function of SplitMix64 (Steele, Lea, Flood 2014).
fn mix(state: u64) -> u64 {
    let state = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let state = (state ^ (state >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    state ^ (state >> 31)
}

/// A Poisson(1) number from 64 random bits, by inversion: how many values of the distribution function lie at or below them.
fn poisson(bits: u64) -> u8 {
    /// `e^-1 (1/0! + ... + 1/k!)` for k = 0, 1, ...; beyond the last lies a ten-millionth.
    const BELOW: [f64; 10] = [
        0.367_879_441_171_442_33,
        0.735_758_882_342_884_7,
        0.919_698_602_928_605_8,
        0.981_011_843_123_846_2,
        0.996_340_153_172_656_3,
        0.999_405_815_182_418_3,
        0.999_916_758_850_711_9,
        0.999_989_750_803_325_3,
        0.999_998_874_797_402,
        0.999_999_888_574_521_6,
    ];
    let uniform = (bits >> 11) as f64 / (1u64 << 53) as f64;
    BELOW.iter().filter(|below| uniform >= **below).count() as u8
}

/// Sums over users for one cut-off.
#[derive(Clone, Debug, PartialEq)]
pub struct Sums {
    all: Metrics,
    by_user: [Metrics; CLASSES.len()],
    by_item: [[f64; STRATUM]; CLASSES.len()],
    surprisal: f64,
    resampled: Vec<Metrics>,
}

impl Default for Sums {
    fn default() -> Self {
        Self {
            all: Metrics::default(),
            by_user: Default::default(),
            by_item: Default::default(),
            surprisal: 0.0,
            resampled: vec![Metrics::default(); RESAMPLES],
        }
    }
}

impl Sums {
    /// Numbers in [`Self::to_vec`].
    pub const LEN: usize = FIELDS * (1 + CLASSES.len() + RESAMPLES) + STRATUM * CLASSES.len() + 1;

    /// Adds a user, judged by the first `k` of the list. One without held out items is not counted.
    pub fn add(&mut self, judged: &Judged<'_>, catalogue: &Catalogue<'_>, k: usize) {
        if judged.truths == 0 || k == 0 {
            return;
        }
        let list = &judged.list[..k.min(judged.list.len())];
        let is_hit = |item: &u32| judged.truth.binary_search(item).is_ok();
        let figures = Metrics::of_hits(list.iter().map(is_hit), judged.truths, k);
        self.all = self.all.plus(figures);
        let class = &mut self.by_user[class_of(judged.positives)];
        *class = class.plus(figures);
        let positives = |item: u32| catalogue.positives.get(item as usize).copied().unwrap_or(0);
        let (mut hits, mut truths) = ([0u32; CLASSES.len()], [0u32; CLASSES.len()]);
        judged.truth.iter().for_each(|item| truths[class_of(positives(*item))] += 1);
        list.iter().filter(|item| is_hit(item)).for_each(|item| hits[class_of(positives(*item))] += 1);
        for (sums, (hits, truths)) in self.by_item.iter_mut().zip(hits.into_iter().zip(truths)) {
            if truths > 0 {
                sums[0] += 1.0;
                sums[1] += f64::from(hits) / f64::from(truths);
            }
        }
        let surprisal = |item: &u32| (catalogue.users.max(1) as f64 / f64::from(positives(*item).max(1))).log2();
        self.surprisal += list.iter().map(surprisal).sum::<f64>() / list.len().max(1) as f64;
        for (sums, times) in self.resampled.iter_mut().zip(judged.weights).filter(|(_, times)| **times > 0) {
            *sums = sums.plus_times(f64::from(*times), figures);
        }
    }

    /// The sums as numbers, to be added up with others'.
    #[must_use]
    pub fn to_vec(&self) -> Vec<f64> {
        let metrics = std::iter::once(&self.all).chain(&self.by_user).chain(&self.resampled);
        let mut numbers: Vec<f64> = metrics.flat_map(|metrics| metrics.to_array()).collect();
        numbers.extend(self.by_item.as_flattened());
        numbers.push(self.surprisal);
        numbers
    }

    /// Inverse of [`Self::to_vec`]; `None` for another number of numbers.
    #[must_use]
    pub fn from_slice(numbers: &[f64]) -> Option<Self> {
        if numbers.len() != Self::LEN {
            return None;
        }
        let (metrics, rest) = numbers.split_at(FIELDS * (1 + CLASSES.len() + RESAMPLES));
        let mut metrics = metrics.as_chunks().0.iter().map(|fields| Metrics::from_array(*fields));
        let mut sums = Self { all: metrics.next()?, ..Self::default() };
        sums.by_user.iter_mut().zip(&mut metrics).for_each(|(sum, metrics)| *sum = metrics);
        sums.resampled.iter_mut().zip(&mut metrics).for_each(|(sum, metrics)| *sum = metrics);
        let (by_item, surprisal) = rest.split_at(STRATUM * CLASSES.len());
        sums.by_item.as_flattened_mut().copy_from_slice(by_item);
        sums.surprisal = *surprisal.first()?;
        Some(sums)
    }

    /// The 95 % interval of every mean, both ends; `users` is the resample's.
    fn interval(&self) -> (Metrics, Metrics) {
        let resampled: Vec<[f64; FIELDS]> =
            self.resampled.iter().map(|sums| sums.means().to_array()).filter(|means| means[0] > 0.0).collect();
        let (mut low, mut high) = ([0.0; FIELDS], [0.0; FIELDS]);
        for field in 0..FIELDS {
            let mut values: Vec<f64> = resampled.iter().map(|means| means[field]).collect();
            values.sort_unstable_by(f64::total_cmp);
            let tail = (values.len() as f64 * TAIL) as usize;
            low[field] = values.get(tail).copied().unwrap_or(0.0);
            high[field] = values.iter().rev().nth(tail).copied().unwrap_or(0.0);
        }
        (Metrics::from_array(low), Metrics::from_array(high))
    }
}

/// A measurement at one cut-off.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// How many of each list count.
    pub cutoff: u16,
    /// Means over users with something held out.
    pub means: Metrics,
    /// Lower ends of their 95 % intervals.
    pub low: Metrics,
    /// Upper ends.
    pub high: Metrics,
    /// Means over the users of each of [`CLASSES`], by their positives.
    pub by_user: [Metrics; CLASSES.len()],
    /// Recall of held out items of each of [`CLASSES`], by the items' positives: users with such an item, and their mean recall.
    pub by_item: [(f64, f64); CLASSES.len()],
    /// Share of the items that are in a list at all.
    pub coverage: f64,
    /// Gini coefficient of how often each item is in a list: 0 all alike, 1 one item only.
    pub gini: f64,
    /// Mean over users of the mean of `log2(users / positives of the item)` over the list, in bits (the self-information of Zhou et al. 2010).
    pub novelty: f64,
}

impl Report {
    /// Reads the sums over all users and how many lists hold each item.
    #[must_use]
    pub fn new(cutoff: u16, sums: &Sums, shown: &[u32]) -> Self {
        let (low, high) = sums.interval();
        Self {
            cutoff,
            means: sums.all.means(),
            low,
            high,
            by_user: sums.by_user.map(Metrics::means),
            by_item: sums.by_item.map(|[users, recall]| (users, recall / users.max(1.0))),
            coverage: shown.iter().filter(|lists| **lists > 0).count() as f64 / shown.len().max(1) as f64,
            gini: gini(shown),
            novelty: sums.surprisal / sums.all.users.max(1.0),
        }
    }

    /// Every figure under its name: `recall@20`, `recall@20.low`, `recall@20.users.5-19`, `recall@20.items.100+`, `gini@20`. A class that nobody
    /// is in has none.
    pub fn figures(&self) -> impl Iterator<Item = (String, f64)> + '_ {
        let k = self.cutoff;
        let named = |metrics: Metrics, suffix: &str| {
            let suffix = suffix.to_owned();
            metrics.named().into_iter().map(move |(name, value)| (format!("{name}@{k}{suffix}"), value))
        };
        let all = named(self.means, "").chain(named(self.low, ".low")).chain(named(self.high, ".high"));
        let whole = [("coverage", self.coverage), ("gini", self.gini), ("novelty", self.novelty)];
        let whole = whole.into_iter().map(move |(name, value)| (format!("{name}@{k}"), value));
        let by_user = self.by_user.iter().zip(CLASSES).filter(|(metrics, _)| metrics.users > 0.0);
        let by_user = by_user.flat_map(move |(metrics, (_, class))| {
            let users = (format!("users@{k}.users.{class}"), metrics.users);
            let of_class = move |name: &str, value| (format!("{name}@{k}.users.{class}"), value);
            [users, of_class("recall", metrics.recall), of_class("ndcg", metrics.ndcg)]
        });
        let by_item = self.by_item.iter().zip(CLASSES).filter(|((users, _), _)| *users > 0.0);
        let by_item = by_item.flat_map(move |((users, recall), (_, class))| {
            [(format!("users@{k}.items.{class}"), *users), (format!("recall@{k}.items.{class}"), *recall)]
        });
        all.chain(whole).chain(by_user).chain(by_item)
    }
}

/// See [`Report::gini`]; 0 where nothing is shown.
fn gini(shown: &[u32]) -> f64 {
    let mut counts = shown.to_vec();
    counts.sort_unstable();
    let (items, total) = (counts.len() as f64, counts.iter().map(|count| f64::from(*count)).sum::<f64>());
    if total == 0.0 {
        return 0.0;
    }
    let ranked: f64 = counts.iter().zip(1u32..).map(|(count, rank)| f64::from(*count) * f64::from(rank)).sum();
    2.0 * ranked / (items * total) - (items + 1.0) / items
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn measure(users: &[(Vec<u32>, Vec<u32>)], positives: &[u32], k: usize) -> Sums {
        let mut sums = Sums::default();
        for (user, (list, truth)) in users.iter().enumerate() {
            let weights = weights(mix(user as u64));
            let judged =
                Judged { list, truth, truths: truth.len(), positives: 1 + user as u32 % 30, weights: &weights };
            sums.add(&judged, &Catalogue { positives, users: 1_000 }, k);
        }
        sums
    }

    #[test]
    fn the_bootstraps_weights_are_poisson_of_mean_one() {
        let drawn: Vec<u8> = (0..500u64).flat_map(|user| weights(mix(user))).collect();
        let share = |wanted: u8| drawn.iter().filter(|drawn| **drawn == wanted).count() as f64 / drawn.len() as f64;
        for (value, expected) in [(0, 0.3679), (1, 0.3679), (2, 0.1839), (3, 0.0613)] {
            assert!((share(value) - expected).abs() < 0.01, "{value}: {}", share(value));
        }
        let mean = drawn.iter().map(|drawn| f64::from(*drawn)).sum::<f64>() / drawn.len() as f64;
        assert!((mean - 1.0).abs() < 0.01, "{mean}");
    }

    #[test]
    fn the_interval_is_as_wide_as_theory_says() {
        // Half of 2,000 users have their one truth found: the standard error is sqrt(.25 / 2000) = .0112, the interval 3.92 of them wide.
        let users: Vec<_> = (0..2_000).map(|user| (vec![1], vec![1 + user % 2])).collect();
        let report = Report::new(1, &measure(&users, &[9; 3], 1), &[0, 2_000, 0]);
        assert_eq!(report.means.recall, 0.5);
        let width = report.high.recall - report.low.recall;
        assert!((0.030..0.060).contains(&width), "{width}");
        assert!((report.low.recall..report.high.recall).contains(&0.5));
    }

    #[test]
    fn strata_and_the_use_of_the_catalogue() {
        let positives = [1, 10, 50, 500];
        // The first user (1 positive) finds one of two; the second (2 positives) nothing.
        let users = [(vec![3, 2], vec![0, 3]), (vec![3, 2], vec![1])];
        let report = Report::new(2, &measure(&users, &positives, 2), &[0, 0, 2, 2]);
        assert_eq!((report.by_user[0].users, report.by_user[0].recall), (2.0, 0.25));
        assert_eq!(report.by_item, [(1.0, 0.0), (1.0, 0.0), (0.0, 0.0), (1.0, 1.0)]);
        assert_eq!((report.coverage, report.gini), (0.5, 0.5));
        assert!((report.novelty - (1f64 + (20f64).log2()) / 2.0).abs() < 1e-12);
        let figures: Vec<String> = report.figures().map(|(name, _)| name).collect();
        for name in ["recall@2", "map@2.high", "users@2.users.1-4", "recall@2.items.100+", "novelty@2"] {
            assert!(figures.iter().any(|figure| figure == name), "{name} is not in {figures:?}");
        }
        assert!(!figures.iter().any(|name| name.contains("items.20-99")), "nobody had such an item held out");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(16))]
        #[test]
        fn sums_come_back_as_they_were(lists in prop::collection::vec(prop::collection::btree_set(0u32..50, 1..9), 0..20)) {
            let users: Vec<_> = lists.iter().map(|list| (vec![3, 9, 1], list.iter().copied().collect())).collect();
            let sums = measure(&users, &[7; 50], 2);
            let numbers = sums.to_vec();
            prop_assert_eq!(numbers.len(), Sums::LEN);
            prop_assert_eq!(Sums::from_slice(&numbers), Some(sums));
            prop_assert_eq!(Sums::from_slice(&numbers[1..]), None);
        }
    }
}
