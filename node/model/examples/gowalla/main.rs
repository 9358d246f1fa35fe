//! Chooses settings on gowalla and measures the kernels, in one process without the trainer.
//!
//! `cargo run --release -p docent-model --example gowalla -- [family=ials|graph|softmax|tower|blend] [on=held-out|test] [data=../shared/data/gowalla]
//! [threads=2] [split=99] [tenths=1]`, for iALS with `[dim=64] [alpha0=0.01] [reg=0.003] [epochs=10] [seeds=1] [deviation=0.1] [every=0]
//! [exact=false] [warm=1,2] [new=1]` (passes from a model without so many tenths of the pairs, then from that), for the graph filter with `[a=0.7] [b=0.6] [c=0.3] [s=1.2] [e=0] [f=0] [neighbours=200]`, for sampled softmax with `[dim=64]
//! [batch=65536] [negatives=16384] [folds=2] [tau=0.08] [rate=2] [beta=1] [uniform=0.5] [bias=0]`, each of which may be a list (`b=0.6,0.7`): all
//! combinations are tried; and `[loss=softmax|bpr] [epochs=10] [every=5] [seed=1]`; for two towers those and `[user_hidden=16]
//! [item_hidden=64] [dense_rate=0.00002] [features=FILE]` (line i: the features of item i). A blend trains its models by the settings that were best for gowalla;
//! `[blends=graph+popularity,graph+softmax:128+popularity] [also=softmax:256] [depth=100] [cache=FOLDER]`: models of `also` are measured alone, the
//! folder keeps trained rows.
//!
//! `on=held-out` (the default, the only one to choose settings by) keeps some tenths of each user's training items out, at random;
//! `on=test` trains on all of `train.txt` and measures on `test.txt`.
#![allow(clippy::disallowed_methods, reason = "an example measures wall-clock time")]
mod blend;
mod graph;
mod ials;
mod models;
mod softmax;
mod tower;

use docent_model::{
    Adjacency,
    evaluation::{Catalogue, Judged, Report, Sums, weights},
    init,
};
use std::{collections::BTreeMap, str::FromStr};

type Failure = Box<dyn std::error::Error>;
type Lists = Vec<Vec<u32>>;

/// The binary's: what is measured here has its page faults, not glibc's.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// The cut-off of the protocol.
const K: usize = 20;

/// What was given on the command line.
struct Given(BTreeMap<String, String>);

impl Given {
    /// One value.
    fn one<T: FromStr<Err: Into<Failure>>>(&self, key: &str, default: &str) -> Result<T, Failure> {
        self.0.get(key).map_or(default, String::as_str).parse().map_err(Into::into)
    }

    /// Values separated by commas.
    fn list(&self, key: &str, default: &str) -> Result<Vec<f32>, Failure> {
        let text = self.0.get(key).map_or(default, String::as_str);
        text.split(',').map(|value| value.parse().map_err(Into::into)).collect()
    }
}

/// A training part, and what the models are measured with.
struct Data {
    /// Of the split.
    name: String,
    /// Rows: users.
    users: Adjacency,
    /// Items of each user.
    train: Lists,
    truth: Lists,
    items: usize,
    threads: usize,
}

impl Data {
    fn new(given: &Given, on: &str) -> Result<Data, Failure> {
        let folder: String = given.one("data", "../shared/data/gowalla")?;
        let train = read(&format!("{folder}/train.txt"))?;
        let (split, tenths) = (given.one("split", "99")?, given.one("tenths", "1")?);
        let (train, truth, name) = match on {
            "test" => (train, read(&format!("{folder}/test.txt"))?, "test".to_owned()),
            _ => {
                let (train, truth) = hold_out(&train, split, tenths);
                (train, truth, format!("held-out-{split}-{tenths}"))
            }
        };
        let items = train.iter().chain(&truth).flatten().max().map_or(0, |&item| item as usize + 1);
        let mut users = Adjacency::new();
        train.iter().for_each(|items| users.push_row(items.iter().map(|&item| (item, 1.0))));
        Ok(Data { name, users, train, truth, items, threads: given.one("threads", "2")? })
    }

    /// What was there before `new` tenths of the training pairs came; the truth and the number of items are those of now.
    fn before(&self, new: u32) -> Data {
        let (train, _) = hold_out(&self.train, 7, new);
        let mut users = Adjacency::new();
        train.iter().for_each(|items| users.push_row(items.iter().map(|&item| (item, 1.0))));
        Data { name: format!("{}-before", self.name), users, train, truth: self.truth.clone(), ..*self }
    }

    /// Of each item, in the training part.
    fn positives(&self) -> Vec<u32> {
        let by_item = self.users.transposed(self.items);
        (0..self.items).map(|item| by_item.row(item).0.len() as u32).collect()
    }

    /// The figures of everybody's lists, with intervals.
    fn measure(&self, lists: &[Vec<u32>]) -> String {
        let positives = self.positives();
        let catalogue = Catalogue { positives: &positives, users: self.train.len() as u64 };
        let (mut sums, mut shown, empty) = (Sums::default(), vec![0; self.items], Vec::new());
        for (user, list) in lists.iter().enumerate() {
            let truth = self.truth.get(user).unwrap_or(&empty);
            let judged = Judged {
                list,
                truth,
                truths: truth.len(),
                positives: self.train[user].len() as u32,
                weights: &weights(user as u64),
            };
            sums.add(&judged, &catalogue, K);
            list.iter().take(K).for_each(|item| shown[*item as usize] += 1);
        }
        let Report { means, low, high, coverage, .. } = Report::new(K as u16, &sums, &shown);
        format!(
            "Recall@{K} {:.6} ({:.4} to {:.4}) NDCG@{K} {:.6} ({:.4} to {:.4}) coverage {coverage:.3} over {} users",
            means.recall, low.recall, high.recall, means.ndcg, low.ndcg, high.ndcg, means.users
        )
    }
}

fn main() -> Result<(), Failure> {
    let pairs = std::env::args().skip(1).filter_map(|arg| arg.split_once('=').map(|(k, v)| (k.into(), v.into())));
    let given = Given(pairs.collect());
    let family = given.one::<String>("family", "ials")?;
    if family == "blend" {
        return blend::run(&given);
    }
    let data = Data::new(&given, &given.one::<String>("on", "held-out")?)?;
    match family.as_str() {
        "graph" => graph::run(&given, &data),
        "softmax" => softmax::run(&given, &data),
        "tower" => tower::run(&given, &data),
        _ => ials::run(&given, &data),
    }
}

/// Line by line `user item item ...`, items sorted.
fn read(path: &str) -> Result<Lists, Failure> {
    let mut lists = Lists::new();
    for line in std::fs::read_to_string(path)?.lines() {
        let mut numbers = line.split_whitespace().map(str::parse::<u32>);
        let Some(user) = numbers.next().transpose()? else { continue };
        let mut items: Vec<u32> = numbers.collect::<Result<_, _>>()?;
        items.sort_unstable();
        items.dedup();
        lists.resize(lists.len().max(user as usize + 1), Vec::new());
        lists[user as usize] = items;
    }
    Ok(lists)
}

/// Parts each user's items by a hash: some tenths of them are held out.
fn hold_out(train: &Lists, split: u64, tenths: u32) -> (Lists, Lists) {
    let part = |keep: bool| {
        let kept = |user: usize, item: &u32| {
            let mut random = [0.0];
            init::fill(split, &format!("{user} {item}"), 1.0, &mut random);
            (random[0].to_bits() >> 3) % 10 >= tenths
        };
        train
            .iter()
            .enumerate()
            .map(|(u, items)| items.iter().copied().filter(|i| kept(u, i) == keep).collect())
            .collect()
    };
    (part(true), part(false))
}
