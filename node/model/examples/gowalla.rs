//! Chooses iALS settings on gowalla and measures the kernels, in one process without the trainer.
//!
//! `cargo run --release -p docent-model --example gowalla -- [dim=64] [alpha0=0.01] [reg=0.003] [epochs=10] [seeds=1]
//! [threads=2] [on=held-out|test] [data=../shared/data/gowalla] [deviation=0.1] [every=0]`
//!
//! `on=held-out` (the default, the only one to choose settings by) keeps a random 10 % of each user's training items out;
//! `on=test` trains on all of `train.txt` and measures on `test.txt`.
#![allow(clippy::disallowed_methods, reason = "an example measures wall-clock time")]
use docent_model::{Adjacency, Kernel, Settings, gramian, init, metrics::Metrics, rank::Items, rows::HalfPass};
use std::{collections::BTreeMap, sync::atomic::AtomicBool, time::Instant};

type Failure = Box<dyn std::error::Error>;
type Lists = Vec<Vec<u32>>;

fn main() -> Result<(), Failure> {
    let given: BTreeMap<String, String> =
        std::env::args().skip(1).filter_map(|arg| arg.split_once('=').map(|(k, v)| (k.into(), v.into()))).collect();
    let text = |key: &str, default: &str| given.get(key).cloned().unwrap_or_else(|| default.to_owned());
    let settings = Settings {
        dim: text("dim", "64").parse()?,
        alpha0: text("alpha0", "0.01").parse()?,
        regularization: text("reg", "0.003").parse()?,
        epochs: text("epochs", "10").parse()?,
        init_deviation: text("deviation", "0.1").parse()?,
        ..Settings::default()
    };
    let folder = text("data", "../shared/data/gowalla");
    let train = read(&format!("{folder}/train.txt"))?;
    let (train, truth) =
        if text("on", "held-out") == "test" { (train, read(&format!("{folder}/test.txt"))?) } else { hold_out(&train) };
    let threads = text("threads", "2").parse()?;
    let every = text("every", "0").parse()?;
    for seed in 1..=text("seeds", "1").parse()? {
        run(&Settings { seed, ..settings }, &train, &truth, threads, every)?;
    }
    Ok(())
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

/// Parts each user's items by a hash into nine tenths and one tenth.
fn hold_out(train: &Lists) -> (Lists, Lists) {
    let part = |keep: bool| {
        let kept = |user: usize, item: &u32| {
            let mut random = [0.0];
            init::fill(99, &format!("{user} {item}"), 1.0, &mut random);
            (random[0].to_bits() >> 3) % 10 != 0
        };
        train
            .iter()
            .enumerate()
            .map(|(u, items)| items.iter().copied().filter(|i| kept(u, i) == keep).collect())
            .collect()
    };
    (part(true), part(false))
}

fn run(settings: &Settings, train: &Lists, truth: &Lists, threads: usize, every: u16) -> Result<(), Failure> {
    let dim = usize::from(settings.dim);
    let items_total = train.iter().chain(truth).flatten().max().map_or(0, |&item| item as usize + 1);
    let mut users = Adjacency::new();
    train.iter().for_each(|items| users.push_row(items.iter().map(|&item| (item, 1.0))));
    let items = users.transposed(items_total);
    let (mut x, mut y) = (vec![0.0; train.len() * dim], vec![0.0; items_total * dim]);
    for (item, row) in y.chunks_mut(dim).enumerate() {
        init::fill(settings.seed, &item.to_string(), settings.init_deviation, row);
    }
    let (kernel, stop) = (Kernel::detect(), AtomicBool::new(false));
    let started = Instant::now();
    for epoch in 1..=settings.epochs {
        let at = Instant::now();
        let gram = gramian::packed(kernel, dim, &y);
        HalfPass::new(settings, kernel, threads, &gram, &y, items_total as u64, &stop)?.solve(&users, &mut x)?;
        let gram = gramian::packed(kernel, dim, &x);
        HalfPass::new(settings, kernel, threads, &gram, &x, train.len() as u64, &stop)?.solve(&items, &mut y)?;
        if epoch == 1 {
            println!("first epoch {:.2} s ({} on {threads} threads)", at.elapsed().as_secs_f64(), kernel.name());
        }
        if every > 0 && epoch % every == 0 && epoch != settings.epochs {
            report(settings, train, truth, threads, &y, epoch)?;
        }
    }
    println!("trained in {:.2} s", started.elapsed().as_secs_f64());
    report(settings, train, truth, threads, &y, settings.epochs)
}

fn report(
    settings: &Settings,
    train: &Lists,
    truth: &Lists,
    threads: usize,
    y: &[f32],
    epoch: u16,
) -> Result<(), Failure> {
    let dim = usize::from(settings.dim);
    // Users as they are read from a published version: solved against its items.
    let mut users = Adjacency::new();
    train.iter().for_each(|items| users.push_row(items.iter().map(|&item| (item, 1.0))));
    let (mut x, kernel, stop) = (vec![0.0; train.len() * dim], Kernel::detect(), AtomicBool::new(false));
    let gram = gramian::packed(kernel, dim, y);
    HalfPass::new(settings, kernel, threads, &gram, y, (y.len() / dim) as u64, &stop)?.solve(&users, &mut x)?;
    let empty = Vec::new();
    let seen: Vec<&[u32]> = train.iter().map(|items| &items[..]).collect();
    let at = Instant::now();
    let lists = Items::new(dim, y)?.rank(kernel, threads, &x, &seen, 20)?;
    let sums = lists.iter().enumerate().fold(Metrics::default(), |sums, (user, list)| {
        sums.plus(Metrics::of_list(list, truth.get(user).unwrap_or(&empty), 20))
    });
    let means = sums.means();
    println!(
        "dim {dim} alpha0 {} reg {} seed {} epoch {epoch}: Recall@20 {:.6} NDCG@20 {:.6} over {} users (ranked in {:.2} s)",
        settings.alpha0,
        settings.regularization,
        settings.seed,
        means.recall,
        means.ndcg,
        means.users,
        at.elapsed().as_secs_f64()
    );
    Ok(())
}
