//! Two towers, one combination of settings after another, with the steps as a cluster takes them.
use crate::{
    Data, Failure, Given, K,
    softmax::{self, Catalogue, Worker},
};
use docent_model::{
    Adjacency, Kernel, parallel,
    rank::Items,
    softmax::{
        VWORKERS,
        adagrad::Table,
        first_row,
        gradients::Gradients,
        negatives::{Negatives, Push},
        plan,
        step::Step,
    },
    tower::{
        Dense, FEATURES_MAX, Mlp, Settings,
        adam::Adam,
        items::{Back, Rows, Tower},
        user,
    },
    tree,
};
use std::{collections::BTreeMap, time::Instant};

/// Sets one of the settings.
type Set = fn(&mut Settings, f32);

pub(crate) fn run(given: &Given, data: &Data) -> Result<(), Failure> {
    let base = Settings::default();
    let mut all: Vec<Settings> =
        softmax::settings(given, &base.base)?.into_iter().map(|shared| Settings { base: shared, ..base }).collect();
    let lists: [(&str, f32, Set); 3] = [
        ("user_hidden", f32::from(base.user_hidden), |settings, value| settings.user_hidden = value as u16),
        ("item_hidden", f32::from(base.item_hidden), |settings, value| settings.item_hidden = value as u16),
        ("dense_rate", base.dense_rate, |settings, value| settings.dense_rate = value),
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
    let (bags, features) = bags(&given.one::<String>("features", "")?, data.items)?;
    println!("{features} features");
    for settings in all {
        settings.validate()?;
        println!("{settings:?}");
        Model::new(settings, data, bags.clone(), features)?.train(data, given.one("every", "5")?)?;
    }
    Ok(())
}

/// The features of each item: those of [`FEATURES_MAX`] that most items have.
fn bags(path: &str, items: usize) -> Result<(Adjacency, usize), Failure> {
    let text = if path.is_empty() { String::new() } else { std::fs::read_to_string(path)? };
    let mut counts = BTreeMap::<&str, usize>::new();
    text.split_whitespace().for_each(|name| *counts.entry(name).or_default() += 1);
    let mut names: Vec<(usize, &str)> = counts.into_iter().map(|(name, count)| (count, name)).collect();
    names.sort_by(|a, b| b.0.cmp(&a.0).then(a.1.cmp(b.1)));
    names.truncate(FEATURES_MAX);
    let numbers: BTreeMap<&str, u32> = names.iter().map(|(_, name)| *name).zip(0..).collect();
    let (mut bags, mut lines) = (Adjacency::new(), text.lines());
    for _ in 0..items {
        let line = lines.next().unwrap_or_default();
        let mut own: Vec<u32> = line.split_whitespace().filter_map(|name| numbers.get(name).copied()).collect();
        own.sort_unstable();
        own.dedup();
        bags.push_row(own.into_iter().map(|feature| (feature, 1.0)));
    }
    Ok((bags, numbers.len()))
}

struct Model {
    settings: Settings,
    bags: Adjacency,
    features: usize,
    table: Table,
    users: Adam,
    items: Adam,
    workers: Vec<Worker>,
    catalogue: Catalogue,
}

impl Model {
    fn new(settings: Settings, data: &Data, bags: Adjacency, features: usize) -> Result<Model, Failure> {
        let dim = usize::from(settings.base.dim);
        let mut rows = vec![0.0; data.items * dim];
        for (item, row) in rows.chunks_mut(dim).enumerate() {
            first_row(Kernel::detect(), settings.base.seed, &item.to_string(), row);
        }
        let dense = Dense::first(&settings, features)?;
        Ok(Model {
            bags,
            features,
            table: Table::new(dim, rows)?,
            users: Adam::new(dense.users),
            items: Adam::new([dense.items, dense.features].concat()),
            workers: Worker::all(data),
            catalogue: Catalogue::new(&settings.base, data)?,
            settings,
        })
    }

    /// The towers as they are.
    fn towers(&self) -> Result<(Option<Mlp>, Tower), Failure> {
        let weights = [self.users.weights(), self.items.weights()].concat();
        let dense = Dense::from_vec(&self.settings, self.features, &weights)?;
        Ok((dense.user_tower(&self.settings)?, dense.item_tower(&self.settings)?))
    }

    fn outputs(&self, tower: &Tower, threads: usize) -> Result<Vec<f32>, Failure> {
        let items: Vec<u32> = (0..self.bags.rows() as u32).collect();
        let of = Rows { rows: self.table.rows(), bags: &self.bags };
        Ok(tower.outputs(Kernel::detect(), threads, of, &items)?)
    }

    fn train(mut self, data: &Data, every: u32) -> Result<(), Failure> {
        let base = self.settings.base;
        let steps = plan::steps(&base, data.users.entries() as u64);
        let mut spent = 0.0;
        for epoch in 0..u32::from(base.epochs) {
            let plan = |(worker, vworker): (&Worker, u16)| plan::batches(&base, epoch, vworker, &worker.sizes, steps);
            let batches: Vec<Vec<Vec<u32>>> = self.workers.iter().zip(0..).map(plan).collect();
            let mut loss = [0.0; 2];
            for step in 0..steps {
                let at = Instant::now();
                let of_step = self.step(data.threads, (epoch, step, steps), &batches)?;
                loss = [loss[0] + of_step[0], loss[1] + of_step[1]];
                spent += at.elapsed().as_secs_f64();
            }
            if (epoch + 1) % every == 0 || epoch + 1 == u32::from(base.epochs) {
                self.report(data, &format!("epoch {} loss {:.4} in {spent:.1} s", epoch + 1, loss[0] / loss[1]))?;
            }
        }
        Ok(())
    }

    fn step(
        &mut self,
        threads: usize,
        (epoch, step, steps): (u32, u32, u32),
        batches: &[Vec<Vec<u32>>],
    ) -> Result<[f64; 2], Failure> {
        let (kernel, base) = (Kernel::detect(), self.settings.base);
        let (user_tower, item_tower) = self.towers()?;
        let outputs = self.outputs(&item_tower, threads)?;
        let negatives = Negatives::new(usize::from(base.dim), &self.catalogue.draw(epoch, step), &outputs)?;
        let of = Step::new(&base, kernel, &outputs, &negatives)?.with_tower(user_tower.as_ref())?;
        let roots = of.pushes(threads, (epoch, step), &Worker::batches(&self.workers, batches, step))?;
        let mut sum = Push::finish(base.dim.into(), roots)?;
        let (loss, of_users) = (sum.loss, std::mem::take(&mut sum.dense));
        let mut of_items = Vec::new();
        for back in self.back(threads, &item_tower, &negatives.gradients(sum)?) {
            let Back { rows, dense } = back?;
            self.table.apply(kernel, base.rate(steps, epoch, step), &rows)?;
            of_items.push(dense);
        }
        let of_items = tree::finish(VWORKERS, tree::leaves(0, of_items))?;
        let rate = self.settings.dense_rate(steps, epoch, step);
        self.users.apply(rate, &of_users)?;
        self.items.apply(rate, &of_items)?;
        Ok(loss)
    }

    /// Through the item tower, virtual worker by virtual worker.
    fn back(&self, threads: usize, tower: &Tower, sums: &Gradients) -> Vec<Result<Back, docent_model::Error>> {
        let length = self.bags.rows().div_ceil(usize::from(VWORKERS)) as u32;
        let mut backs = vec![Ok(Back::default()); usize::from(VWORKERS)];
        let of = Rows { rows: self.table.rows(), bags: &self.bags };
        parallel::for_each(
            threads,
            backs.iter_mut().zip(0..).collect(),
            || (),
            |(), (back, vworker): (&mut Result<Back, docent_model::Error>, u32)| {
                let part = sums.part(|item| (item / length == vworker).then_some(item));
                *back = tower.gradients(Kernel::detect(), of, &part);
            },
        );
        backs
    }

    fn report(&self, data: &Data, what: &str) -> Result<(), Failure> {
        let (kernel, dim) = (Kernel::detect(), usize::from(self.settings.base.dim));
        let (user_tower, item_tower) = self.towers()?;
        let outputs = self.outputs(&item_tower, data.threads)?;
        // Users as they are read from a published version: from their histories, its items and the user tower.
        let mut users = Vec::with_capacity(data.train.len() * dim);
        for history in &data.train {
            let history: Vec<(&[f32], f32)> =
                history.iter().map(|item| (&outputs[*item as usize * dim..][..dim], 1.0)).collect();
            users.extend(user::vector(kernel, user_tower.as_ref(), dim, &history)?);
        }
        let seen: Vec<&[u32]> = data.train.iter().map(|items| &items[..]).collect();
        let lists = Items::new(dim, &outputs)?.rank(kernel, data.threads, &users, &seen, K)?;
        println!("{what}: {}", data.measure(&lists));
        Ok(())
    }
}
