//! iALS, by the pass.
use crate::{Data, Failure, Given, K};
use docent_model::{Kernel, Settings, gramian, init, rank::Items, rows::HalfPass};
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
        train(&Settings { seed, ..settings }, data, given.one("every", "0")?)?;
    }
    Ok(())
}

fn train(settings: &Settings, data: &Data, every: u16) -> Result<(), Failure> {
    let (dim, users) = (usize::from(settings.dim), data.users.rows());
    let items = data.users.transposed(data.items);
    let (mut x, mut y) = (vec![0.0; users * dim], vec![0.0; data.items * dim]);
    for (item, row) in y.chunks_mut(dim).enumerate() {
        init::fill(settings.seed, &item.to_string(), settings.init_deviation, row);
    }
    let (kernel, stop, threads) = (Kernel::detect(), AtomicBool::new(false), data.threads);
    let started = Instant::now();
    for epoch in 1..=settings.epochs {
        let at = Instant::now();
        let gram = gramian::packed(kernel, dim, &y);
        HalfPass::new(settings, kernel, threads, &gram, &y, data.items as u64, &stop)?.solve(&data.users, &mut x)?;
        let gram = gramian::packed(kernel, dim, &x);
        HalfPass::new(settings, kernel, threads, &gram, &x, users as u64, &stop)?.solve(&items, &mut y)?;
        if epoch == 1 {
            println!("first epoch {:.2} s ({} on {threads} threads)", at.elapsed().as_secs_f64(), kernel.name());
        }
        if every > 0 && epoch % every == 0 && epoch != settings.epochs {
            report(settings, data, &y, epoch)?;
        }
    }
    println!("trained in {:.2} s", started.elapsed().as_secs_f64());
    report(settings, data, &y, settings.epochs)
}

fn report(settings: &Settings, data: &Data, y: &[f32], epoch: u16) -> Result<(), Failure> {
    let dim = usize::from(settings.dim);
    // Users as they are read from a published version: solved against its items.
    let (mut x, kernel, stop) = (vec![0.0; data.users.rows() * dim], Kernel::detect(), AtomicBool::new(false));
    let gram = gramian::packed(kernel, dim, y);
    HalfPass::new(settings, kernel, data.threads, &gram, y, data.items as u64, &stop)?.solve(&data.users, &mut x)?;
    let seen: Vec<&[u32]> = data.train.iter().map(|items| &items[..]).collect();
    let lists = Items::new(dim, y)?.rank(kernel, data.threads, &x, &seen, K)?;
    let Settings { alpha0, regularization, seed, .. } = settings;
    println!("dim {dim} alpha0 {alpha0} reg {regularization} seed {seed} epoch {epoch}: {}", data.measure(&lists));
    Ok(())
}
