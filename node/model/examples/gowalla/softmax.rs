//! Sampled softmax, one combination of settings after another, with the steps as a cluster takes them: 64 virtual workers of users and of items.
use crate::{Data, Failure, Given, K};
use docent_model::{
    Adjacency, Kernel,
    rank::Items,
    softmax::{
        Loss, Settings, VWORKERS,
        adagrad::Table,
        biased, first_row,
        negatives::{Negatives, Push},
        odds, plan,
        sample::{self, Draw, Masses},
        step::{Batch, Room, Step},
        user,
    },
};
use std::time::Instant;

/// Sets one of the settings.
type Set = fn(&mut Settings, f32);

pub(crate) fn run(given: &Given, data: &Data) -> Result<(), Failure> {
    for settings in settings(given, &Settings::default())? {
        settings.validate()?;
        for exponent in given.list("bias", "0")? {
            println!("{settings:?}, bias {exponent}");
            train(&settings, (loss(given)?, exponent), data, given.one("every", "5")?)?;
        }
    }
    Ok(())
}

pub(crate) fn loss(given: &Given) -> Result<Loss, Failure> {
    match given.one::<String>("loss", "softmax")?.as_str() {
        "bpr" => Ok(Loss::Bpr),
        _ => Ok(Loss::Softmax),
    }
}

/// All combinations of what is given.
pub(crate) fn settings(given: &Given, base: &Settings) -> Result<Vec<Settings>, Failure> {
    let epochs = given.one("epochs", &base.epochs.to_string())?;
    let mut all = vec![Settings { epochs, seed: given.one("seed", "1")?, ..*base }];
    let lists: [(&str, f32, Set); 8] = [
        ("dim", f32::from(base.dim), |settings, value| settings.dim = value as u16),
        ("batch", base.batch as f32, |settings, value| settings.batch = value as u32),
        ("negatives", base.negatives as f32, |settings, value| settings.negatives = value as u32),
        ("folds", f32::from(base.folds), |settings, value| settings.folds = value as u16),
        ("tau", base.temperature, |settings, value| settings.temperature = value),
        ("rate", base.learning_rate, |settings, value| settings.learning_rate = value),
        ("beta", base.popularity_exponent, |settings, value| settings.popularity_exponent = value),
        ("uniform", base.uniform_share, |settings, value| settings.uniform_share = value),
    ];
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

/// The users of one virtual worker of 64.
pub(crate) struct Worker {
    pub(crate) histories: Adjacency,
    pub(crate) sizes: Vec<u32>,
}

impl Worker {
    pub(crate) fn all(data: &Data) -> Vec<Worker> {
        let of = |vworker: usize| {
            let users: Vec<u32> =
                (vworker..data.train.len()).step_by(usize::from(VWORKERS)).map(|user| user as u32).collect();
            let mut histories = Adjacency::new();
            users
                .iter()
                .for_each(|user| histories.push_row(data.train[*user as usize].iter().map(|item| (*item, 1.0))));
            let sizes = users.iter().map(|user| data.train[*user as usize].len() as u32).collect();
            Worker { histories, sizes }
        };
        (0..usize::from(VWORKERS)).map(of).collect()
    }

    /// What all of them have of a step.
    pub(crate) fn batches<'a>(workers: &'a [Worker], users: &'a [Vec<Vec<u32>>], step: u32) -> Vec<Batch<'a>> {
        let of = |((worker, users), vworker): ((&'a Worker, &'a Vec<Vec<u32>>), u16)| Batch {
            vworker,
            histories: &worker.histories,
            users: &users[step as usize],
        };
        workers.iter().zip(users).zip(0..).map(of).collect()
    }
}

/// The items of all virtual workers: runs of equal length, as slots are.
pub(crate) struct Catalogue {
    masses: Masses,
    /// First item of each worker, and its draws.
    draws: Vec<(u32, Draw)>,
}

impl Catalogue {
    pub(crate) fn new(settings: &Settings, data: &Data) -> Result<Catalogue, Failure> {
        let by_item = data.users.transposed(data.items);
        let positives: Vec<u32> = (0..data.items).map(|item| by_item.row(item).0.len() as u32).collect();
        let length = data.items.div_ceil(usize::from(VWORKERS));
        let masses: Vec<_> = positives.chunks(length).map(|counts| sample::mass(settings, counts)).collect();
        let masses = Masses::new(settings, &masses)?;
        let draws = (0u16..).zip(positives.chunks(length)).map(|(vworker, counts)| {
            Ok::<_, Failure>((u32::from(vworker) * length as u32, Draw::new(&masses, vworker, counts)?))
        });
        Ok(Catalogue { draws: draws.collect::<Result<_, _>>()?, masses })
    }

    pub(crate) fn draw(&self, epoch: u32, step: u32) -> Vec<(u32, f32)> {
        let counts = self.masses.counts(epoch, step);
        let of = |(count, (first, draw)): (u32, &(u32, Draw))| {
            draw.draw(epoch, step, count).into_iter().map(|(item, weight)| (first + item, weight)).collect::<Vec<_>>()
        };
        counts.into_iter().zip(&self.draws).flat_map(of).collect()
    }
}

/// What a host with all virtual workers does, and how long it took.
#[derive(Default)]
struct Spent {
    room: Room,
    all_s: f64,
    push_s: f64,
    /// Of the three products in the pushes: a multiplication and an addition for each row, negative and value.
    flop: f64,
    /// Distinct items pulled in the steps, and steps.
    items: usize,
    steps: usize,
}

/// The settings that were best on held-out items of gowalla (decision 0018).
pub(crate) fn best(dim: u16) -> Settings {
    Settings {
        dim,
        temperature: 0.07,
        learning_rate: 1.0,
        epochs: 20,
        batch: 16_384,
        negatives: 4_096,
        ..Settings::default()
    }
}

/// Rows of the items, each with its bias behind its values; `exponent` of their odds.
pub(crate) fn train(
    settings: &Settings,
    (told, exponent): (Loss, f32),
    data: &Data,
    every: u32,
) -> Result<Vec<f32>, Failure> {
    let (kernel, dim) = (Kernel::detect(), usize::from(settings.dim));
    let mut rows = vec![0.0; data.items * dim];
    for (item, row) in rows.chunks_mut(dim).enumerate() {
        first_row(kernel, settings.seed, &item.to_string(), row);
    }
    let mut table = Table::new(dim, rows)?;
    let odds: Vec<f32> = data.positives().into_iter().map(|positives| odds(exponent, positives)).collect();
    let (workers, catalogue) = (Worker::all(data), Catalogue::new(settings, data)?);
    let steps = plan::steps(settings, data.users.entries() as u64);
    let mut spent = Spent::default();
    for epoch in 0..u32::from(settings.epochs) {
        let plan = |(worker, vworker): (&Worker, u16)| plan::batches(settings, epoch, vworker, &worker.sizes, steps);
        let batches: Vec<Vec<Vec<u32>>> = workers.iter().zip(0..).map(plan).collect();
        let mut loss = [0.0; 2];
        for step in 0..steps {
            let at = Instant::now();
            let negatives = Negatives::new(dim, &catalogue.draw(epoch, step), table.rows())?;
            let sum = push(
                settings,
                data.threads,
                &workers,
                (&table, &negatives, &odds, told),
                (epoch, step, &batches),
                &mut spent,
            )?;
            loss = [loss[0] + sum.loss[0], loss[1] + sum.loss[1]];
            let gradients = negatives.gradients(sum)?;
            spent.items += gradients.items().len();
            spent.steps += 1;
            table.apply(kernel, settings.rate(steps, epoch, step), &gradients)?;
            spent.all_s += at.elapsed().as_secs_f64();
        }
        if (epoch + 1) % every == 0 || epoch + 1 == u32::from(settings.epochs) {
            report(
                settings,
                data,
                &biased(settings, table.rows(), odds.iter().copied()),
                &format!("epoch {} loss {:.4}", epoch + 1, loss[0] / loss[1]),
                &spent,
            )?;
        }
    }
    Ok(biased(settings, table.rows(), odds))
}

/// One step of all virtual workers.
fn push(
    settings: &Settings,
    threads: usize,
    workers: &[Worker],
    (table, negatives, odds, told): (&Table, &Negatives, &[f32], Loss),
    (epoch, step, batches): (u32, u32, &[Vec<Vec<u32>>]),
    spent: &mut Spent,
) -> Result<Push, Failure> {
    let at = Instant::now();
    let of = Step::new(settings, Kernel::detect(), table.rows(), negatives)?.with_loss(told).with_odds(odds)?;
    let of = of.in_room(&spent.room);
    let batches = Worker::batches(workers, batches, step);
    let roots = of.pushes(threads, (epoch, step), &batches)?;
    spent.push_s += at.elapsed().as_secs_f64();
    let parts = |batch: &Batch<'_>| -> usize {
        let lengths = batch.users.iter().map(|user| batch.histories.row(*user as usize).0.len());
        lengths.filter(|length| *length > 1).map(|length| length.min(settings.folds.into())).sum()
    };
    let rows: usize = batches.iter().map(parts).sum();
    spent.flop += 6.0 * rows as f64 * f64::from(settings.dim) * negatives.len() as f64;
    Ok(Push::finish(settings.dim.into(), roots)?)
}

/// A user's vector, and the 1 that items' biases are multiplied by.
pub(crate) fn users(dim: usize, data: &Data, rows: &[f32]) -> Result<Vec<f32>, Failure> {
    let (mut users, width) = (Vec::with_capacity(data.train.len() * (dim + 1)), dim + 1);
    for history in &data.train {
        let history: Vec<(&[f32], f32)> =
            history.iter().map(|item| (&rows[*item as usize * width..][..dim], 1.0)).collect();
        users.extend(user::vector(Kernel::detect(), dim, &history)?);
        users.push(1.0);
    }
    Ok(users)
}

fn report(settings: &Settings, data: &Data, rows: &[f32], what: &str, spent: &Spent) -> Result<(), Failure> {
    let (kernel, dim) = (Kernel::detect(), usize::from(settings.dim));
    let users = users(dim, data, rows)?;
    let seen: Vec<&[u32]> = data.train.iter().map(|items| &items[..]).collect();
    let lists = Items::new(dim + 1, rows)?.rank(kernel, data.threads, &users, &seen, K)?;
    let Spent { all_s, push_s, flop, items, steps, .. } = spent;
    println!(
        "{what} in {all_s:.1} s ({push_s:.1} s in pushes at {:.1} GFLOP/s, {} items a step): {}",
        flop / push_s / 1e9,
        items / steps,
        data.measure(&lists)
    );
    Ok(())
}
