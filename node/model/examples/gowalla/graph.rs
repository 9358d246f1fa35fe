//! The graph filter, one combination of settings after another.
use crate::{Data, Failure, Given, K};
use docent_model::{
    Adjacency,
    graph::{Counter, Scorer, Settings, Weights},
    parallel,
};
use std::time::Instant;

pub(crate) fn run(given: &Given, data: &Data) -> Result<(), Failure> {
    let (b, c, s) = (given.list("b", "0.6")?, given.list("c", "0.3")?, given.list("s", "1.2")?);
    let neighbours = given.list("neighbours", "200")?;
    for user_exponent in given.list("a", "0.7")? {
        let settings = Settings { user_exponent, ..Settings::default() };
        let at = Instant::now();
        let (sums, positives) = count(&settings, data);
        let pairs: usize = sums.iter().map(Vec::len).sum();
        println!("a {user_exponent}: {pairs} pairs counted in {:.2} s", at.elapsed().as_secs_f64());
        for (&source_exponent, &target_exponent) in b.iter().flat_map(|b| c.iter().map(move |c| (b, c))) {
            for (&power, &neighbours) in s.iter().flat_map(|s| neighbours.iter().map(move |n| (s, n))) {
                let neighbours = neighbours as u32;
                let settings = Settings { source_exponent, target_exponent, power, neighbours, ..settings };
                settings.validate()?;
                score(&settings, data, &sums, &positives);
            }
        }
    }
    Ok(())
}

/// The sums of every item, and the items' positives.
fn count(settings: &Settings, data: &Data) -> (Vec<Vec<(u32, u64)>>, Vec<u32>) {
    let by_item = data.users.transposed(data.items);
    let units: Vec<u64> = data.train.iter().map(|items| settings.unit(items.len())).collect();
    let mut sums = vec![Vec::new(); data.items];
    parallel::for_each(
        data.threads,
        sums.iter_mut().enumerate().collect(),
        || Counter::new(data.items),
        |counter, (item, sums): (usize, &mut Vec<(u32, u64)>)| {
            *sums = counter.count(item as u32, by_item.row(item).0, &data.users, &units);
        },
    );
    (sums, (0..data.items).map(|item| by_item.row(item).0.len() as u32).collect())
}

fn score(settings: &Settings, data: &Data, sums: &[Vec<(u32, u64)>], positives: &[u32]) {
    let at = Instant::now();
    let weights = Weights::new(settings, positives);
    let mut by_source = Adjacency::new();
    sums.iter().zip(0..).for_each(|(sums, source)| by_source.push_row(weights.neighbours(source, sums)));
    let (kept, at) = (at.elapsed().as_secs_f64(), Instant::now());
    let mut lists = vec![Vec::new(); data.train.len()];
    parallel::for_each(
        data.threads,
        lists.iter_mut().zip(&data.train).collect(),
        || Scorer::new(&by_source, data.items),
        |scorer, (list, history): (&mut Vec<u32>, &Vec<u32>)| {
            *list = scorer.top(history, K).into_iter().map(|(item, _)| item).collect();
        },
    );
    let Settings { user_exponent: a, source_exponent: b, target_exponent: c, power: s, neighbours } = settings;
    println!(
        "a {a} b {b} c {c} s {s} neighbours {neighbours} ({} in all, {kept:.1} s, ranked in {:.1} s): {}",
        by_source.entries(),
        at.elapsed().as_secs_f64(),
        data.measure(&lists)
    );
}
