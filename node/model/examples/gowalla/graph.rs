//! The graph filter, one combination of settings after another.
use crate::{Data, Failure, Given, K};
use docent_model::{
    Adjacency,
    graph::{Counter, ItemNorm, Scorer, Settings, Weights, balance},
    parallel,
};
use std::time::Instant;

/// Sets one of the settings.
type Set = fn(&mut Settings, f32);

pub(crate) fn run(given: &Given, data: &Data) -> Result<(), Failure> {
    let (users, powers, item_norm) = (given.list("a", "0.7")?, given.list("g", "0")?, norm(given)?);
    for (user_exponent, idf_power) in users.iter().flat_map(|a| powers.iter().map(move |g| (*a, *g))) {
        let settings = Settings { user_exponent, idf_power, item_norm, ..Settings::default() };
        settings.validate()?;
        let at = Instant::now();
        let counted = count(&settings, data);
        let pairs: usize = counted.sums.iter().map(Vec::len).sum();
        println!("a {user_exponent} g {idf_power}: {pairs} pairs counted in {:.2} s", at.elapsed().as_secs_f64());
        for settings in combinations(given, &settings)? {
            settings.validate()?;
            score(&settings, data, &counted);
        }
    }
    Ok(())
}

/// What the exponents of items are of: `norm=weights`, or `norm=length` with `share=0.75`.
fn norm(given: &Given) -> Result<ItemNorm, Failure> {
    match given.one::<String>("norm", "positives")?.as_str() {
        "positives" => Ok(ItemNorm::Positives),
        "weights" => Ok(ItemNorm::Weights),
        "length" => Ok(ItemNorm::Length { share: given.one("share", "0.75")? }),
        other => Err(format!("norm={other}: positives, weights or length").into()),
    }
}

/// Settings with every combination of what was given.
fn combinations(given: &Given, base: &Settings) -> Result<Vec<Settings>, Failure> {
    let lists: [(&str, f32, Set); 6] = [
        ("b", base.source_exponent, |settings, value| settings.source_exponent = value),
        ("c", base.target_exponent, |settings, value| settings.target_exponent = value),
        ("s", base.power, |settings, value| settings.power = value),
        ("e", base.source_mass_exponent, |settings, value| settings.source_mass_exponent = value),
        ("f", base.target_mass_exponent, |settings, value| settings.target_mass_exponent = value),
        ("neighbours", base.neighbours as f32, |settings, value| settings.neighbours = value as u32),
    ];
    let mut all = vec![*base];
    for (key, default, set) in lists {
        let values = given.list(key, &default.to_string())?;
        let with = |settings: &Settings| -> Vec<Settings> {
            let one = |value: &f32| {
                let mut settings = *settings;
                set(&mut settings, *value);
                settings
            };
            values.iter().map(one).collect()
        };
        all = all.iter().flat_map(with).collect();
    }
    Ok(all)
}

/// The settings that were best on held-out items of gowalla (decision 0020), where nothing else is given.
pub(crate) fn best(given: &Given) -> Result<Settings, Failure> {
    let settings = Settings {
        user_exponent: given.one("a", "0.3")?,
        source_exponent: given.one("b", "0.6")?,
        target_exponent: given.one("c", "0")?,
        power: given.one("s", "2.5")?,
        neighbours: given.one("neighbours", "200")?,
        source_mass_exponent: given.one("e", "0.7")?,
        target_mass_exponent: given.one("f", "0.4")?,
        idf_power: given.one("g", "0")?,
        item_norm: norm(given)?,
    };
    settings.validate()?;
    Ok(settings)
}

/// What is liked together, by item.
pub(crate) struct Counted {
    sums: Vec<Vec<(u32, u64)>>,
    positives: Vec<u32>,
    /// What those who like it add to a pair.
    units: Vec<u64>,
}

pub(crate) fn count(settings: &Settings, data: &Data) -> Counted {
    let by_item = data.users.transposed(data.items);
    let units: Vec<u64> = data.train.iter().map(|items| settings.unit(items.len(), data.items)).collect();
    let mut sums = vec![Vec::new(); data.items];
    parallel::for_each(
        data.threads,
        sums.iter_mut().enumerate().collect(),
        || Counter::new(data.items),
        |counter, (item, sums): (usize, &mut Vec<(u32, u64)>)| {
            *sums = counter.count(item as u32, by_item.row(item).0, &data.users, &units);
        },
    );
    let users = |item: usize| by_item.row(item).0;
    let positives = (0..data.items).map(|item| users(item).len() as u32).collect();
    let units = (0..data.items).map(|item| users(item).iter().map(|user| units[*user as usize]).sum()).collect();
    Counted { sums, positives, units }
}

/// The neighbours of every item.
pub(crate) fn neighbours(settings: &Settings, counted: &Counted) -> Adjacency {
    let Counted { sums, positives, units } = counted;
    let weights = Weights::new(settings, positives, units);
    let mut by_source = Adjacency::new();
    sums.iter().zip(0..).for_each(|(sums, source)| by_source.push_row(weights.neighbours(source, sums)));
    balance(settings, &by_source, sums.len())
}

fn score(settings: &Settings, data: &Data, counted: &Counted) {
    let at = Instant::now();
    let by_source = neighbours(settings, counted);
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
    let Settings { user_exponent: a, source_exponent: b, target_exponent: c, power: s, neighbours, .. } = settings;
    let Settings { source_mass_exponent: e, target_mass_exponent: f, idf_power: g, .. } = settings;
    println!(
        "a {a} b {b} c {c} s {s} e {e} f {f} g {g} neighbours {neighbours} ({} in all, {kept:.1} s, ranked in {:.1} s): {}",
        by_source.entries(),
        at.elapsed().as_secs_f64(),
        data.measure(&lists)
    );
}
