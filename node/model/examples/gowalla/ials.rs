//! iALS, by the pass.
use crate::{Data, Failure, Given, K};
use docent_model::{Kernel, Settings, gramian, init, rank::Items, rows::HalfPass, tree};
use std::{sync::atomic::AtomicBool, time::Instant};

pub(crate) fn run(given: &Given, data: &Data) -> Result<(), Failure> {
    let settings = Settings {
        dim: given.one("dim", "64")?,
        alpha0: given.one("alpha0", "0.01")?,
        regularization: given.one("reg", "0.003")?,
        epochs: given.one("epochs", "10")?,
        init_deviation: given.one("deviation", "0.1")?,
        ..Settings::default()
    };
    for seed in 1..=given.one("seeds", "1")? {
        let (every, exact) = (given.one("every", "0")?, given.one("exact", "false")?);
        let settings = Settings { seed, ..settings };
        let y = train(&settings, data, every, exact, None)?;
        report(&settings, data, &y, settings.epochs)?;
        let passes: Vec<u16> = given.list("warm", "0")?.into_iter().map(|passes| passes as u16).collect();
        if passes != [0] {
            warm(&settings, data, given.one("new", "1")?, &passes)?;
        }
    }
    Ok(())
}

/// Goes on from a model of the same pairs without `new` tenths of them, `passes` at a time and each time from the last: as jobs do that start from
/// the live version, with all that is new in the first of them.
fn warm(settings: &Settings, data: &Data, new: u32, passes: &[u16]) -> Result<(), Failure> {
    let mut y = train(settings, &data.before(new), 0, false, None)?;
    print!("the version before, on all pairs as they are now: ");
    report(settings, data, &y, 0)?;
    for &epochs in passes {
        let settings = Settings { epochs, ..*settings };
        y = train(&settings, data, 0, false, Some(&y))?;
        print!("from the last version: ");
        report(&settings, data, &y, epochs)?;
    }
    Ok(())
}

/// The settings that were best on held-out items of gowalla (decision 0017).
pub(crate) fn best(dim: u16) -> Settings {
    let epochs = match dim {
        ..128 => 4,
        128..256 => 6,
        256.. => 8,
    };
    Settings { dim, epochs, ..Settings::default() }
}

/// The item rows; from those of an earlier version, as a job goes on from them (decision 0025).
pub(crate) fn train(
    settings: &Settings,
    data: &Data,
    every: u16,
    exact: bool,
    from: Option<&[f32]>,
) -> Result<Vec<f32>, Failure> {
    let (dim, users) = (usize::from(settings.dim), data.users.rows());
    let items = data.users.transposed(data.items);
    let (mut x, mut y) = (vec![0.0; users * dim], vec![0.0; data.items * dim]);
    match from {
        Some(rows) => y.copy_from_slice(rows),
        None => y.chunks_mut(dim).enumerate().for_each(|(item, row)| {
            init::fill(settings.seed, &item.to_string(), settings.init_deviation, row);
        }),
    }
    let (kernel, stop, threads) = (Kernel::detect(), AtomicBool::new(false), data.threads);
    let started = Instant::now();
    for epoch in 1..=settings.epochs {
        let at = Instant::now();
        let gram = whole_gramian(kernel, threads, dim, &y)?;
        let pass = HalfPass::new(settings, kernel, threads, &gram, &y, data.items as u64, &stop)?;
        if exact {
            pass.solve(&data.users, &mut x)?
        } else {
            pass.refine(&data.users, &mut x)?;
            if from.is_some() && epoch == 1 {
                pass.refine(&data.users, &mut x)?;
            }
        }
        let gram = whole_gramian(kernel, threads, dim, &x)?;
        let pass = HalfPass::new(settings, kernel, threads, &gram, &x, users as u64, &stop)?;
        if exact {
            pass.solve(&items, &mut y)?
        } else {
            pass.refine(&items, &mut y)?
        }
        if epoch == 1 {
            println!("first epoch {:.2} s ({} on {threads} threads)", at.elapsed().as_secs_f64(), kernel.name());
        }
        if every > 0 && epoch % every == 0 && epoch != settings.epochs {
            report(settings, data, &y, epoch)?;
        }
    }
    println!("trained in {:.2} s", started.elapsed().as_secs_f64());
    Ok(y)
}

/// As a job adds it up: 64 virtual workers, here of equally many rows, over a tree.
fn whole_gramian(kernel: Kernel, threads: usize, dim: usize, rows: &[f32]) -> Result<Vec<f64>, Failure> {
    const VWORKERS: u16 = 64;
    let total = rows.len() / dim;
    let at = |vworker: u16| usize::from(vworker) * total / usize::from(VWORKERS);
    let ranges: Vec<_> = (0..VWORKERS).map(|vworker| at(vworker)..at(vworker + 1)).collect();
    Ok(tree::finish(VWORKERS, tree::leaves(0, gramian::of_ranges(kernel, threads, dim, rows, &ranges)))?)
}

/// Users as they are read from a published version: solved against its items.
pub(crate) fn users(settings: &Settings, data: &Data, y: &[f32]) -> Result<Vec<f32>, Failure> {
    let dim = usize::from(settings.dim);
    let (mut x, kernel, stop) = (vec![0.0; data.users.rows() * dim], Kernel::detect(), AtomicBool::new(false));
    let gram = gramian::packed(kernel, dim, y);
    HalfPass::new(settings, kernel, data.threads, &gram, y, data.items as u64, &stop)?.solve(&data.users, &mut x)?;
    Ok(x)
}

fn report(settings: &Settings, data: &Data, y: &[f32], epoch: u16) -> Result<(), Failure> {
    let x = users(settings, data, y)?;
    let seen: Vec<&[u32]> = data.train.iter().map(|items| &items[..]).collect();
    let lists = Items::new(usize::from(settings.dim), y)?.rank(Kernel::detect(), data.threads, &x, &seen, K)?;
    let Settings { alpha0, regularization, seed, .. } = settings;
    println!(
        "dim {} alpha0 {alpha0} reg {regularization} seed {seed} epoch {epoch}: {}",
        settings.dim,
        data.measure(&lists)
    );
    Ok(())
}
