//! The item-item graph filter: what was liked together, normalised, a few neighbours of each item.
//!
//! The weight of item i (a *source*, in somebody's history) for item j (a *target*) is
//!
//! `w_ij = (d_i^-b d_j^-c sum_{u has both} d_u^-a)^s`
//!
//! with the positives d of users and items, and a user's score of j is the sum of w_ij over its history. That is one step over the normalised
//! graph of users and items (Shen et al., *How powerful is graph convolution for recommendation?*, CIKM 2021); b and c beside 1/2 are the
//! asymmetric cosine and s the locality of Aiolli (*Efficient top-N recommendation for very large scale binary rated datasets*, RecSys
//! 2013). Item-kNN by cosine is a = 0, b = c = 1/2, s = 1.
//!
//! **Inverse frequencies.** In the words of information retrieval an item is a document and its users are terms: those who like little tell
//! more (Robertson and Zaragoza, *The probabilistic relevance framework: BM25 and beyond*, 2009, section 3). So a user may count
//! `d_u^-a idf_u^g` with `idf_u = 1 - ln(1 + d_u) / ln(items)`, and the exponents b and c may be of something else than d ([`ItemNorm`]).
//! Item-kNN by TF-IDF is a = 0, g = 2, b = c = 1/2 of weights; by BM25, a = 0, g = 2, b = c = 1 of lengths; both with s = 1.
//!
//! **Masses.** The power takes the normalisation away again: the weights of an item add up to whatever they do. So, after the strongest n
//! targets of each source were chosen, they can be divided by what they add up to, first over the targets of a source, then over the
//! sources of a target:
//!
//! `w'_ij = w_ij (sum_k w_ik)^-e`, then `w''_ij = w'_ij (sum_k w'_kj)^-f`
//!
//! (the anisotropic kernels of Coifman and Lafon, *Diffusion maps*, 2006, with an exponent for each side, one side after the other). The
//! first is done where a source's list is made ([`Weights::neighbours`]), the second by whoever has all entries of a target
//! ([`Settings::target_factor`]): its owner, who scores it, or an evaluation that has all lists ([`balance`]).
//!
//! The sums over users are whole numbers of 2^-32, so they add up to the same bits in any order, over any hosts.
use crate::{
    Adjacency, Error,
    arithmetic::{ln, power},
};
use serde::{Deserialize, Serialize};

/// Most neighbours of an item; bounds what an item costs.
pub const NEIGHBOURS_MAX: u32 = 10_000;

/// A share of one in the units of sums.
const ONE: f64 = (1u64 << 32) as f64;

/// Exponents and sizes of a graph filter.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// Exponent a of a user's positives, [0, 2].
    pub user_exponent: f32,
    /// Exponent b of a source's positives, [0, 2].
    pub source_exponent: f32,
    /// Exponent c of a target's positives, [0, 2].
    pub target_exponent: f32,
    /// Power s of a weight, (0, 4].
    pub power: f32,
    /// Targets kept of each source, the strongest ones: 1..=10,000.
    pub neighbours: u32,
    /// Exponent e of what a source's weights add up to, [0, 2]; 0 leaves them as they are.
    pub source_mass_exponent: f32,
    /// Exponent f of what a target's weights add up to, [0, 2].
    pub target_mass_exponent: f32,
    /// Power g of a user's inverse frequency, [0, 8]; 0 leaves it out.
    pub idf_power: f32,
    /// What b and c are exponents of.
    pub item_norm: ItemNorm,
}

/// How much of an item there is, which its exponents damp.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ItemNorm {
    /// Its positives.
    #[default]
    Positives,
    /// What its users add to a pair: the squared length of its column when pairs are products of columns, so that exponents of 1/2 are a cosine.
    Weights,
    /// `1 - share + share d / mean(d)`: BM25's damping of long documents. A user likes an item or not, so its two constants are one,
    /// `share = k1 b / (k1 + 1)`.
    Length {
        /// How far the length counts, [0, 1].
        share: f32,
    },
}

impl Default for Settings {
    /// Chosen on held-out training data of gowalla (`examples/gowalla`, decision 0015).
    fn default() -> Self {
        Self {
            user_exponent: 0.7,
            source_exponent: 0.6,
            target_exponent: 0.3,
            power: 1.2,
            neighbours: 200,
            source_mass_exponent: 0.0,
            target_mass_exponent: 0.0,
            idf_power: 0.0,
            item_norm: ItemNorm::Positives,
        }
    }
}

impl Settings {
    /// Checks every range.
    ///
    /// # Errors
    /// [`Error::Setting`] with the first setting that is out of range.
    pub fn validate(&self) -> Result<(), Error> {
        let exponents = [
            ("user_exponent", self.user_exponent),
            ("source_exponent", self.source_exponent),
            ("target_exponent", self.target_exponent),
            ("source_mass_exponent", self.source_mass_exponent),
            ("target_mass_exponent", self.target_mass_exponent),
        ];
        if let Some((name, _)) = exponents.into_iter().find(|(_, value)| !(0.0..=2.0).contains(value)) {
            return Err(Error::Setting { name, reason: "0 to 2" });
        }
        if !(self.power > 0.0 && self.power <= 4.0) {
            return Err(Error::Setting { name: "power", reason: "above 0, at most 4" });
        }
        if !(1..=NEIGHBOURS_MAX).contains(&self.neighbours) {
            return Err(Error::Setting { name: "neighbours", reason: "1 to 10,000" });
        }
        if !(0.0..=8.0).contains(&self.idf_power) {
            return Err(Error::Setting { name: "idf_power", reason: "0 to 8" });
        }
        if matches!(self.item_norm, ItemNorm::Length { share } if !(0.0..=1.0).contains(&share)) {
            return Err(Error::Setting { name: "length_share", reason: "0 to 1" });
        }
        Ok(())
    }

    /// What the weights of a target are multiplied by, given all of them in the order of their sources: `(sum_k w_kj)^-f`.
    #[must_use]
    pub fn target_factor(&self, weights: impl IntoIterator<Item = f32>) -> f64 {
        factor(weights.into_iter().fold(0.0, |sum, weight| sum + f64::from(weight)), self.target_mass_exponent)
    }

    /// Divides the weights of a target, with their sources ascending, by what they add up to; those that are no longer numbers above 0 go.
    pub fn balance_target(&self, entries: &mut Vec<(u32, f32)>) {
        let factor = self.target_factor(entries.iter().map(|(_, weight)| *weight));
        entries.iter_mut().for_each(|(_, weight)| *weight = (f64::from(*weight) * factor) as f32);
        entries.retain(|(_, weight)| is_usable(*weight));
    }

    /// What a user with so many positives of `items` adds to each of its pairs: `d^-a idf^g` in units of 2^-32, at least one unit.
    #[must_use]
    pub fn unit(&self, positives: usize, items: usize) -> u64 {
        let mut share = 1.0 / power(positives.max(1) as f64, f64::from(self.user_exponent));
        if self.idf_power > 0.0 {
            let idf = 1.0 - ln(1.0 + positives as f64) / ln(items.max(2) as f64);
            share *= power(idf.max(0.0), f64::from(self.idf_power));
        }
        ((share * ONE).round() as u64).max(1)
    }
}

/// Adds up what is liked together with one item after another.
#[derive(Debug)]
pub struct Counter {
    sums: Vec<u64>,
    touched: Vec<u32>,
}

impl Counter {
    /// For items `0..items`.
    #[must_use]
    pub fn new(items: usize) -> Self {
        Self { sums: vec![0; items], touched: Vec::new() }
    }

    /// The sums over `users` (rows of `histories`, whose columns are items) of what each adds (`units`, by row): every other item that they
    /// have, ascending.
    pub fn count(&mut self, item: u32, users: &[u32], histories: &Adjacency, units: &[u64]) -> Vec<(u32, u64)> {
        for user in users {
            let unit = units[*user as usize];
            for other in histories.row(*user as usize).0.iter().filter(|other| **other != item) {
                let sum = &mut self.sums[*other as usize];
                if *sum == 0 {
                    self.touched.push(*other);
                }
                // 2^32 users of one unit each fit; more than that are not on one host.
                *sum = sum.saturating_add(unit);
            }
        }
        self.touched.sort_unstable();
        self.touched.drain(..).map(|other| (other, std::mem::take(&mut self.sums[other as usize]))).collect()
    }
}

/// Adds up lists of ascending items from several hosts.
#[must_use]
pub fn merge(lists: &[Vec<(u32, u64)>]) -> Vec<(u32, u64)> {
    let mut all: Vec<(u32, u64)> = lists.iter().flatten().copied().collect();
    all.sort_unstable_by_key(|(item, _)| *item);
    all.dedup_by(|(item, sum), (kept, total)| {
        let is_same = item == kept;
        if is_same {
            *total = total.saturating_add(*sum);
        }
        is_same
    });
    all
}

/// `mass^-exponent`, 1 for a mass of nothing.
fn factor(mass: f64, exponent: f32) -> f64 {
    if mass > 0.0 { 1.0 / power(mass, f64::from(exponent)) } else { 1.0 }
}

/// Multiplies every target's weights (columns below `targets`) by [`Settings::target_factor`]; `by_source` has one row a source. Weights that are
/// no longer numbers above 0 go.
#[must_use]
pub fn balance(settings: &Settings, by_source: &Adjacency, targets: usize) -> Adjacency {
    let by_target = by_source.transposed(targets);
    let factors: Vec<f64> =
        (0..targets).map(|target| settings.target_factor(by_target.row(target).1.iter().copied())).collect();
    let mut balanced = Adjacency::new();
    for source in 0..by_source.rows() {
        let (columns, weights) = by_source.row(source);
        let entries = columns
            .iter()
            .zip(weights)
            .map(|(target, weight)| (*target, (f64::from(*weight) * factors[*target as usize]) as f32));
        balanced.push_row(entries.filter(|(_, weight)| is_usable(*weight)));
    }
    balanced
}

/// What is no number above 0 in 32 bits would tell nothing.
fn is_usable(weight: f32) -> bool {
    weight > 0.0 && weight.is_finite()
}

/// Turns sums into weights.
#[derive(Debug)]
pub struct Weights<'a> {
    settings: &'a Settings,
    /// By item: its norm to the exponent of a source, and of a target.
    damping: Vec<[f64; 2]>,
}

impl<'a> Weights<'a> {
    /// For items with so many positives, whose users add so many units to a pair; no one asks for units unless the norm is
    /// [`ItemNorm::Weights`].
    #[must_use]
    pub fn new(settings: &'a Settings, positives: &[u32], units: &[u64]) -> Self {
        let counts = positives.iter().map(|count| f64::from((*count).max(1)));
        let norms: Vec<f64> = match settings.item_norm {
            ItemNorm::Positives => counts.collect(),
            ItemNorm::Weights => units.iter().map(|units| (*units).max(1) as f64 / ONE).collect(),
            ItemNorm::Length { share } => {
                let all: u64 = positives.iter().map(|count| u64::from((*count).max(1))).sum();
                let (mean, share) = (all as f64 / positives.len() as f64, f64::from(share));
                counts.map(|count| 1.0 - share + share * count / mean).collect()
            }
        };
        let exponents = [settings.source_exponent, settings.target_exponent].map(f64::from);
        let damping = |norm: f64| exponents.map(|exponent| power(norm, exponent));
        Self { settings, damping: norms.into_iter().map(damping).collect() }
    }

    /// The neighbours of a source: its strongest targets with their weights, ascending by item; of equal ones the smaller items stay. Items
    /// beyond those that there are positives of have no weight. Masses of targets are still to come ([`balance`]).
    #[must_use]
    pub fn neighbours(&self, source: u32, sums: &[(u32, u64)]) -> Vec<(u32, f32)> {
        let Some([of_source, _]) = self.damping.get(source as usize) else { return Vec::new() };
        let weight = |(target, sum): &(u32, u64)| {
            let [_, of_target] = self.damping.get(*target as usize)?;
            let together = *sum as f64 / ONE;
            let weight = power(together / (of_source * of_target), f64::from(self.settings.power)) as f32;
            (weight > 0.0).then_some((*target, weight))
        };
        let mut kept: Vec<(u32, f32)> = sums.iter().filter_map(weight).collect();
        let most = self.settings.neighbours as usize;
        if kept.len() > most {
            kept.select_nth_unstable_by(most, |a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
            kept.truncate(most);
        }
        kept.sort_unstable_by_key(|(target, _)| *target);
        let exponent = self.settings.source_mass_exponent;
        if exponent > 0.0 {
            let factor = factor(kept.iter().map(|(_, weight)| f64::from(*weight)).sum(), exponent);
            kept.iter_mut().for_each(|(_, weight)| *weight = (f64::from(*weight) * factor) as f32);
            kept.retain(|(_, weight)| is_usable(*weight));
        }
        kept
    }
}

/// Scores users by their histories, one after another.
#[derive(Debug)]
pub struct Scorer<'a> {
    /// Rows: sources; entries: targets with weights.
    by_source: &'a Adjacency,
    scores: Vec<f32>,
    touched: Vec<u32>,
}

impl<'a> Scorer<'a> {
    /// Over the neighbours of every source; columns are below `targets`.
    #[must_use]
    pub fn new(by_source: &'a Adjacency, targets: usize) -> Self {
        Self { by_source, scores: vec![0.0; targets], touched: Vec::new() }
    }

    /// The `n` targets with the highest sums over `history` (ascending), best first, ties by lower item; the history itself is left out, and
    /// what none of it is a neighbour of.
    pub fn top(&mut self, history: &[u32], n: usize) -> Vec<(u32, f32)> {
        self.add_up(history);
        let mut scored: Vec<(u32, f32)> =
            self.touched.drain(..).map(|target| (target, std::mem::take(&mut self.scores[target as usize]))).collect();
        scored.retain(|(target, _)| history.binary_search(target).is_err());
        let best = |a: &(u32, f32), b: &(u32, f32)| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0));
        if scored.len() > n {
            scored.select_nth_unstable_by(n, best);
            scored.truncate(n);
        }
        scored.sort_unstable_by(best);
        scored
    }

    /// The sums over `history` for `targets`, in their order; 0 for one that none of it is a neighbour of.
    pub fn scores(&mut self, history: &[u32], targets: &[u32]) -> Vec<f32> {
        self.add_up(history);
        let scores = targets.iter().map(|target| self.scores.get(*target as usize).copied().unwrap_or(0.0)).collect();
        self.touched.drain(..).for_each(|target| self.scores[target as usize] = 0.0);
        scores
    }

    fn add_up(&mut self, history: &[u32]) {
        for source in history.iter().filter(|source| (**source as usize) < self.by_source.rows()) {
            let (targets, weights) = self.by_source.row(*source as usize);
            for (target, weight) in targets.iter().zip(weights) {
                let score = &mut self.scores[*target as usize];
                if *score == 0.0 {
                    self.touched.push(*target);
                }
                *score += weight;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    type Histories = Vec<BTreeSet<u32>>;

    const ITEMS: u32 = 12;

    fn adjacency(histories: &[BTreeSet<u32>]) -> Adjacency {
        let mut rows = Adjacency::new();
        histories.iter().for_each(|items| rows.push_row(items.iter().map(|item| (*item, 1.0))));
        rows
    }

    fn units_of(settings: &Settings, histories: &[BTreeSet<u32>]) -> Vec<u64> {
        histories.iter().map(|items| settings.unit(items.len(), ITEMS as usize)).collect()
    }

    /// What the users of each item add to a pair.
    fn item_units(settings: &Settings, histories: &[BTreeSet<u32>]) -> Vec<u64> {
        let units = units_of(settings, histories);
        let of =
            |item| histories.iter().zip(&units).filter(|(items, _)| items.contains(&item)).map(|(_, unit)| unit).sum();
        (0..ITEMS).map(of).collect()
    }

    /// The sums of every item over some of the users.
    fn sums(settings: &Settings, histories: &[BTreeSet<u32>]) -> Vec<Vec<(u32, u64)>> {
        let users = adjacency(histories);
        let by_item = users.transposed(ITEMS as usize);
        let units: Vec<u64> = units_of(settings, histories);
        let mut counter = Counter::new(ITEMS as usize);
        (0..ITEMS).map(|item| counter.count(item, by_item.row(item as usize).0, &users, &units)).collect()
    }

    fn positives(histories: &[BTreeSet<u32>]) -> Vec<u32> {
        (0..ITEMS).map(|item| histories.iter().filter(|items| items.contains(&item)).count() as u32).collect()
    }

    fn histories() -> impl Strategy<Value = Histories> {
        prop::collection::vec(prop::collection::btree_set(0..ITEMS, 1..7), 1..15)
    }

    proptest! {
        #[test]
        fn any_split_over_hosts_gives_the_same_sums(histories in histories(), owners in prop::collection::vec(0usize..3, 15)) {
            let settings = Settings::default();
            let whole = sums(&settings, &histories);
            let of_host = |host: usize| -> Histories {
                let own = histories.iter().zip(&owners).filter(|(_, owner)| **owner == host);
                own.map(|(items, _)| items.clone()).collect()
            };
            let hosts: Vec<_> = [2, 0, 1].map(|host| sums(&settings, &of_host(host))).into();
            for item in 0..ITEMS as usize {
                let lists: Vec<_> = hosts.iter().map(|host| host[item].clone()).collect();
                prop_assert_eq!(&merge(&lists), &whole[item]);
            }
        }

        #[test]
        fn scores_are_those_of_the_formula(histories in histories(), a in 0u8..3, b in 0u8..3, c in 0u8..3) {
            let half = |x: u8| f32::from(x) / 2.0;
            let settings = Settings {
                user_exponent: half(a), source_exponent: half(b), target_exponent: half(c), power: 1.0, neighbours: ITEMS, ..Settings::default()
            };
            let (sums, degrees) = (sums(&settings, &histories), positives(&histories));
            let mut by_source = Adjacency::new();
            let weights = Weights::new(&settings, &degrees, &[]);
            (0..ITEMS).for_each(|item| by_source.push_row(weights.neighbours(item, &sums[item as usize])));
            let mut scorer = Scorer::new(&by_source, ITEMS as usize);
            for history in &histories {
                let expected = |j: u32| -> f64 {
                    let weight = |i: &u32| {
                        let both = histories.iter().filter(|items| items.contains(i) && items.contains(&j));
                        let sum: f64 = both.map(|items| (items.len() as f64).powf(-f64::from(half(a)))).sum();
                        sum * f64::from(degrees[*i as usize]).powf(-f64::from(half(b))) * f64::from(degrees[j as usize]).powf(-f64::from(half(c)))
                    };
                    history.iter().filter(|i| **i != j).map(weight).sum()
                };
                let list: Vec<u32> = history.iter().copied().collect();
                let top = scorer.top(&list, ITEMS as usize);
                let reachable = (0..ITEMS).filter(|j| !history.contains(j) && expected(*j) > 0.0).count();
                prop_assert_eq!(top.len(), reachable);
                for (j, score) in &top {
                    prop_assert!((f64::from(*score) - expected(*j)).abs() < 1e-5 * expected(*j), "{} {}", score, expected(*j));
                }
                prop_assert!(top.windows(2).all(|pair| pair[0].1 > pair[1].1 || (pair[0].1 == pair[1].1 && pair[0].0 < pair[1].0)));
                prop_assert_eq!(&scorer.top(&list, 2)[..], &top[..top.len().min(2)]);
                let (targets, scores): (Vec<u32>, Vec<f32>) = top.iter().copied().unzip();
                prop_assert_eq!(scorer.scores(&list, &targets), scores);
                prop_assert_eq!(scorer.scores(&[], &[0, ITEMS + 9]), [0.0, 0.0], "nothing is left from before");
            }
        }
    }

    proptest! {
        #[test]
        fn masses_are_those_of_the_lists(histories in histories(), e in 0u8..3, f in 0u8..3, neighbours in 2..ITEMS) {
            let plain = Settings { neighbours, ..Settings::default() };
            let half = |x: u8| f32::from(x) / 2.0;
            let settings = Settings { source_mass_exponent: half(e), target_mass_exponent: half(f), ..plain };
            let (sums, degrees) = (sums(&settings, &histories), positives(&histories));
            let rows = |settings: &Settings| {
                let (weights, mut rows) = (Weights::new(settings, &degrees, &[]), Adjacency::new());
                (0..ITEMS).for_each(|item| rows.push_row(weights.neighbours(item, &sums[item as usize])));
                balance(settings, &rows, ITEMS as usize)
            };
            let mut expected = vec![[0.0; ITEMS as usize]; ITEMS as usize];
            let before = rows(&plain);
            for (i, row) in expected.iter_mut().enumerate() {
                let (targets, weights) = before.row(i);
                let mass: f64 = weights.iter().map(|w| f64::from(*w)).sum();
                targets.iter().zip(weights).for_each(|(j, w)| row[*j as usize] = f64::from(*w) * mass.powf(-f64::from(half(e))));
            }
            let columns: Vec<f64> = (0..ITEMS as usize).map(|j| expected.iter().map(|row| row[j]).sum()).collect();
            let after = rows(&settings);
            for (i, row) in expected.iter().enumerate() {
                let (targets, weights) = after.row(i);
                prop_assert_eq!(targets, before.row(i).0, "masses choose no neighbours");
                for (j, weight) in targets.iter().zip(weights) {
                    let expected = row[*j as usize] * columns[*j as usize].powf(-f64::from(half(f)));
                    prop_assert!((f64::from(*weight) - expected).abs() < 1e-4 * expected, "{} {}", weight, expected);
                }
            }
            if e + f == 0 {
                prop_assert_eq!(after, before, "no exponent, no other bit");
            }
        }
    }

    proptest! {
        /// Against vectors of the items, an entry a user: TF-IDF is the cosine of two, BM25 their product.
        #[test]
        fn inverse_frequencies_make_tf_idf_and_bm25(histories in histories(), share in 0.0f32..=1.0) {
            let idf = |items: &BTreeSet<u32>| (1.0 - (1.0 + items.len() as f64).ln() / f64::from(ITEMS).ln()).max(0.0);
            let degrees = positives(&histories);
            let mean = degrees.iter().map(|d| f64::from((*d).max(1))).sum::<f64>() / f64::from(ITEMS);
            let vector = |item: u32| -> Vec<f64> {
                histories.iter().map(|items| if items.contains(&item) { idf(items) } else { 0.0 }).collect()
            };
            let dot = |a: &[f64], b: &[f64]| -> f64 { a.iter().zip(b).map(|(x, y)| x * y).sum() };
            let knn = Settings { user_exponent: 0.0, idf_power: 2.0, power: 1.0, neighbours: ITEMS, ..Settings::default() };
            let tf_idf = Settings { source_exponent: 0.5, target_exponent: 0.5, item_norm: ItemNorm::Weights, ..knn };
            let bm25 = Settings { source_exponent: 1.0, target_exponent: 1.0, item_norm: ItemNorm::Length { share }, ..knn };
            for settings in [tf_idf, bm25] {
                let (sums, units) = (sums(&settings, &histories), item_units(&settings, &histories));
                let weights = Weights::new(&settings, &degrees, &units);
                for i in 0..ITEMS {
                    for (j, weight) in weights.neighbours(i, &sums[i as usize]) {
                        let norm = |item: u32| match settings.item_norm {
                            ItemNorm::Length { share } => {
                                1.0 + f64::from(share) * (f64::from(degrees[item as usize].max(1)) / mean - 1.0)
                            }
                            _ => dot(&vector(item), &vector(item)).sqrt(),
                        };
                        let expected = dot(&vector(i), &vector(j)) / (norm(i) * norm(j));
                        // A user who has nearly all items adds one unit, not nothing.
                        let is_told = dot(&vector(i), &vector(j)) > 1e-4;
                        prop_assert!(!is_told || (f64::from(weight) - expected).abs() < 1e-4 * expected, "{weight} {expected}");
                    }
                }
            }
        }
    }

    #[test]
    fn the_default_weights_keep_their_bits() {
        let settings = Settings::default();
        let sums = [(1, 5 << 30), (2, 77), (3, (9 << 32) + 12_345)];
        let weights = Weights::new(&settings, &[7, 3, 100, 12], &[]);
        let bits: Vec<u32> = weights.neighbours(0, &sums).into_iter().map(|(_, weight)| weight.to_bits()).collect();
        assert_eq!(bits, [1_046_347_922, 768_668_932, 1_068_762_505]);
    }

    #[test]
    fn only_the_strongest_targets_stay() {
        let settings =
            Settings { source_exponent: 0.0, target_exponent: 0.0, power: 1.0, neighbours: 2, ..Settings::default() };
        let sums = [(1, 5 << 32), (4, 9 << 32), (5, 5 << 32), (7, 1 << 32)];
        let weights = Weights::new(&settings, &[1; 8], &[]);
        assert_eq!(weights.neighbours(0, &sums), [(1, 5.0), (4, 9.0)]);
        assert_eq!(weights.neighbours(0, &[]), []);
        assert_eq!(weights.neighbours(8, &sums), [], "an item that there is not");
    }

    #[test]
    fn settings_out_of_range_are_named() {
        let bad = Settings { target_exponent: f32::NAN, ..Settings::default() };
        assert!(matches!(bad.validate(), Err(Error::Setting { name: "target_exponent", .. })));
        let bad = Settings { power: 0.0, ..Settings::default() };
        assert!(matches!(bad.validate(), Err(Error::Setting { name: "power", .. })));
        let bad = Settings { target_mass_exponent: 2.5, ..Settings::default() };
        assert!(matches!(bad.validate(), Err(Error::Setting { name: "target_mass_exponent", .. })));
        let bad = Settings { neighbours: 0, ..Settings::default() };
        assert!(matches!(bad.validate(), Err(Error::Setting { name: "neighbours", .. })));
        let bad = Settings { idf_power: -1.0, ..Settings::default() };
        assert!(matches!(bad.validate(), Err(Error::Setting { name: "idf_power", .. })));
        let bad = Settings { item_norm: ItemNorm::Length { share: f32::NAN }, ..Settings::default() };
        assert!(matches!(bad.validate(), Err(Error::Setting { name: "length_share", .. })));
        assert_eq!(Settings::default().validate(), Ok(()));
    }
}
