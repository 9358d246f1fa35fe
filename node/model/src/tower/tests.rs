//! Gradients against differences of the loss in f64, and the same bytes however a job is hosted.
use super::{
    Dense, Mlp, Settings,
    adam::Adam,
    items::{Back, Rows, Tower},
    mlp, user,
};
use crate::{
    Adjacency, Error, Kernel, softmax,
    softmax::{
        VWORKERS,
        adagrad::Table,
        gradients::Gradients,
        negatives::{Negatives, Push},
        plan,
        sample::{Masses, mass},
        step::{Key, Step},
        tests::{ITEMS, batches, drawn, loss, part, parts, push, rows, users_of, world},
    },
    tree,
};
use proptest::prelude::*;

/// Weights of towers that are no longer the identity.
fn stirred(settings: &Settings, features: usize) -> Dense {
    let mut weights = Dense::first(settings, features).unwrap().to_vec();
    let mut noise = vec![0.0; weights.len()];
    crate::init::fill(3, "stirred", 0.2 * (weights.len() as f32).sqrt(), &mut noise);
    weights.iter_mut().zip(noise).for_each(|(weight, noise)| *weight += noise);
    Dense::from_vec(settings, features, &weights).unwrap()
}

/// Two features of each third item, one of the others, none of every fifth.
fn bags(items: usize, features: u32) -> Adjacency {
    let mut bags = Adjacency::new();
    for item in 0..items as u32 {
        let some = [item % features, (item + 1) % features];
        let count = if item.is_multiple_of(5) { 0 } else { 1 + usize::from(item.is_multiple_of(3)) };
        bags.push_row(some[..count].iter().map(|feature| (*feature, 1.0)));
    }
    bags
}

fn direction(mut values: Vec<f64>) -> Vec<f64> {
    let length = values.iter().map(|value| value * value).sum::<f64>().sqrt();
    values.iter_mut().for_each(|value| *value /= length);
    values
}

/// A tower in f64; none leaves its input as it is.
fn climb(dim: usize, weights: &[f64], input: &[f64]) -> Vec<f64> {
    let hidden = weights.len() / (2 * dim + 1);
    if hidden == 0 {
        return input.to_vec();
    }
    let (first, second) = (&weights[..dim * hidden], &weights[(dim + 1) * hidden..]);
    let mut output = input.to_vec();
    for unit in 0..hidden {
        let sum: f64 = (0..dim).map(|k| first[k * hidden + unit] * input[k]).sum();
        let value = (sum + weights[dim * hidden + unit]).max(0.0);
        output.iter_mut().zip(&second[unit * dim..]).for_each(|(output, weight)| *output += weight * value);
    }
    direction(output)
}

/// All that is trained, in f64: rows, the user tower, the item tower, features.
#[derive(Clone)]
struct Exact {
    rows: Vec<f64>,
    dense: [Vec<f64>; 3],
}

impl Exact {
    fn new(rows: &[f32], dense: &Dense) -> Self {
        let exact = |values: &[f32]| values.iter().map(|value| f64::from(*value)).collect();
        Self { rows: exact(rows), dense: [exact(&dense.users), exact(&dense.items), exact(&dense.features)] }
    }

    /// The item tower's outputs.
    fn table(&self, dim: usize, bags: &Adjacency) -> Vec<f64> {
        let output = |(item, row): (usize, &[f64])| {
            let mut input = row.to_vec();
            let features = bags.row(item).0;
            for feature in features {
                let row = &self.dense[2][*feature as usize * dim..][..dim];
                input.iter_mut().zip(row).for_each(|(to, value)| *to += value / features.len() as f64);
            }
            // Rows that differences move are no unit vectors; only a sum with features is made one.
            climb(dim, &self.dense[1], &if features.is_empty() { input } else { direction(input) })
        };
        self.rows.chunks(dim).enumerate().flat_map(output).collect()
    }
}

/// Whether most of the gradients are those of the formula: a difference across the corner of a ReLU is not.
fn agree(pairs: &[(f64, f64)]) -> Result<(), TestCaseError> {
    let largest = pairs.iter().fold(1.0f64, |most, (value, _)| most.max(value.abs()));
    let off: Vec<_> = pairs.iter().filter(|(value, exact)| (value - exact).abs() > 2e-3 * largest).collect();
    prop_assert!(off.len() * 100 <= pairs.len(), "{} of {}: {:?}", off.len(), pairs.len(), off.first());
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]
    #[test]
    fn gradients_are_the_differences_of_the_loss(
        dim in 2u16..24, folds in 2u16..4, towers in 0u8..4,
        history in prop::collection::btree_map(0u32..30, 0.5f32..2.0, 2..7),
        negatives in prop::collection::btree_map(0u32..30, 0.1f32..4.0, 1..15),
    ) {
        let base = softmax::Settings { dim, folds, temperature: 0.3, ..softmax::Settings::default() };
        let hidden = |bit: u8| if towers & bit == 0 { 0 } else { 16 };
        let settings = Settings { base, user_hidden: hidden(1), item_hidden: hidden(2), ..Settings::default() };
        let (d, kernel, bags) = (usize::from(dim), Kernel::detect(), bags(30, 4));
        let (rows, dense) = (rows(d, 30), stirred(&settings, 4));
        let (users, items) = (dense.user_tower(&settings).unwrap(), dense.item_tower(&settings).unwrap());
        let of = Rows { rows: &rows, bags: &bags };
        let table = items.outputs(kernel, 2, of, &(0..30).collect::<Vec<_>>()).unwrap();

        let (history, drawn): (Vec<_>, Vec<_>) = (history.into_iter().collect(), negatives.into_iter().collect());
        let mut histories = Adjacency::new();
        histories.push_row(history.clone());
        let negatives = Negatives::new(d, &drawn, &table).unwrap();
        let step = Step::new(&base, kernel, &table, &negatives).unwrap().with_tower(users.as_ref()).unwrap();
        let key = Key { epoch: 3, step: 4, vworker: 5 };
        let push = push(&step, key, &histories, &[0]);
        let parts = parts(&base, key, history.len());
        let at = |exact: &Exact| {
            let user = |x: Vec<f64>| climb(d, &exact.dense[0], &x);
            loss(&user, d, &exact.table(d, &bags), &history, &parts, &drawn, (0.3, &|_| 1.0, softmax::Loss::Softmax))
        };
        let exact = Exact::new(&rows, &dense);
        prop_assert!((push.loss[0] - at(&exact)).abs() < 1e-4 * at(&exact).abs().max(1.0), "{} {}", push.loss[0], at(&exact));

        let difference = |of: &dyn Fn(&mut Exact) -> &mut f64| {
            let moved = |by: f64| {
                let mut moved = exact.clone();
                *of(&mut moved) += by;
                at(&moved)
            };
            (moved(1e-6) - moved(-1e-6)) / 2e-6
        };
        let of_users = push.dense.clone();
        let Back { rows: of_rows, dense: of_items } = items.gradients(kernel, of, &negatives.gradients(push).unwrap()).unwrap();
        let pairs: Vec<_> = of_users.iter().enumerate().map(|(k, value)| (*value, difference(&|e| &mut e.dense[0][k]))).collect();
        agree(&pairs)?;
        let (of_mlp, of_features) = of_items.split_at(dense.items.len());
        for (which, values) in [(1, of_mlp), (2, of_features)] {
            let pairs: Vec<_> =
                values.iter().enumerate().map(|(k, value)| (*value, difference(&|e| &mut e.dense[which][k]))).collect();
            agree(&pairs)?;
        }
        let of_row = |(item, row): (&u32, &[f32])| -> Vec<_> {
            let first = *item as usize * d;
            row.iter().enumerate().map(|(k, value)| (f64::from(*value), difference(&|e| &mut e.rows[first + k]))).collect()
        };
        let pairs: Vec<_> = of_rows.items().iter().zip(of_rows.rows().chunks(d)).flat_map(of_row).collect();
        agree(&pairs)?;
    }
}

fn settings() -> Settings {
    let base = softmax::Settings {
        dim: 20,
        epochs: 2,
        batch: 300,
        negatives: 70,
        temperature: 0.1,
        folds: 3,
        learning_rate: 1.0,
        popularity_exponent: 0.7,
        uniform_share: 0.5,
        seed: 6,
    };
    Settings { base, user_hidden: 32, item_hidden: 16, dense_rate: 0.01 }
}

/// What a job trains.
struct Job {
    tables: Vec<Table>,
    users: Adam,
    items: Adam,
}

impl Job {
    /// Of all items, owner after owner.
    fn outputs(&self, kernel: Kernel, threads: usize, tower: &Tower, bags: &[Adjacency]) -> Result<Vec<f32>, Error> {
        let mut all = Vec::new();
        for (table, bags) in self.tables.iter().zip(bags) {
            let places: Vec<u32> = (0..bags.rows() as u32).collect();
            all.extend(tower.outputs(kernel, threads, Rows { rows: table.rows(), bags }, &places)?);
        }
        Ok(all)
    }

    fn hash(&self) -> String {
        let tables = self.tables.iter().flat_map(Table::rows).chain(self.tables.iter().flat_map(Table::squares));
        let dense = self.users.weights().iter().chain(self.items.weights());
        let bytes: Vec<u8> = tables.chain(dense).flat_map(|value| value.to_le_bytes()).collect();
        blake3::hash(&bytes).to_hex()[..16].to_owned()
    }
}

const FEATURES: usize = 7;

/// Two epochs, where virtual worker w of users is on host `hosts[w]` and the items are on `owners` hosts.
fn train(kernel: Kernel, threads: usize, hosts: &[usize], owners: usize) -> Result<Job, Error> {
    let settings = settings();
    let dim = usize::from(settings.base.dim);
    let (workers, positives) = world();
    let masses: Vec<_> = positives.iter().map(|counts| mass(&settings.base, counts)).collect();
    let masses = Masses::new(&settings.base, &masses)?;
    // Whole virtual workers of items to each owner.
    let (of_vworker, of_owner) = (positives[0].len(), positives.len().div_ceil(owners));
    let length = of_owner * of_vworker;
    let first = rows(dim, ITEMS);
    let tables = first.chunks(length * dim).map(|rows| Table::new(dim, rows.to_vec()));
    let bags: Vec<Adjacency> = bags_of(length);
    let Dense { users, items, features } = Dense::first(&settings, FEATURES)?;
    let mut job = Job {
        tables: tables.collect::<Result<_, _>>()?,
        users: Adam::new(users),
        items: Adam::new([items, features].concat()),
    };
    let steps = plan::steps(&settings.base, workers.iter().map(|histories| histories.entries() as u64).sum());
    for (epoch, step) in (0..2).flat_map(|epoch| (0..steps).map(move |step| (epoch, step))) {
        let dense = [job.users.weights(), job.items.weights()].concat();
        let dense = Dense::from_vec(&settings, FEATURES, &dense)?;
        let (user_tower, item_tower) = (dense.user_tower(&settings)?, dense.item_tower(&settings)?);
        let all = job.outputs(kernel, threads, &item_tower, &bags)?;
        let drawn = drawn(&masses, &positives, epoch, step)?;
        let negatives = Negatives::new(dim, &drawn, &all)?;
        let mut roots = Vec::new();
        for host in 0..4 {
            let own: Vec<u16> = (0..VWORKERS).filter(|vworker| hosts[usize::from(*vworker)] == host).collect();
            let users = users_of(&settings.base, &workers, &own, (epoch, step, steps));
            let of = Step::new(&settings.base, kernel, &all, &negatives)?.with_tower(user_tower.as_ref())?;
            roots.extend(of.pushes(threads, (epoch, step), &batches(&workers, &own, &users))?);
        }
        let dense_of = |root: &tree::Node<Push>| tree::Node {
            level: root.level,
            index: root.index,
            value: root.value.dense.clone(),
        };
        let of_users = tree::finish(VWORKERS, roots.iter().map(dense_of).collect())?;
        let mut leaves = Vec::new();
        for (owner, (table, bags)) in job.tables.iter_mut().zip(&bags).enumerate() {
            let first = (owner * length) as u32;
            let items = first..first + length as u32;
            let number = |item: u32| items.contains(&item).then(|| item - first);
            let part_of =
                |root: &tree::Node<Push>| tree::Node { value: part(&negatives, &root.value, number), ..*root };
            let own: Vec<u32> = drawn.iter().filter_map(|(item, _)| number(*item)).collect();
            let sum = tree::finish(VWORKERS, roots.iter().map(part_of).collect())?;
            let gradients = sum.gradients(dim, &own)?;
            let rate = settings.base.rate(steps, epoch, step);
            let backs = back(kernel, &item_tower, (table, bags), &gradients, (of_vworker, rate))?;
            let backs = backs.into_iter().chain(std::iter::repeat(Vec::new()));
            let own = (0..of_owner).zip(backs).map(|(at, value)| ((owner * of_owner + at) as u16, value));
            let own = own.map(|(index, value)| tree::Node { level: 0, index, value });
            leaves.extend(tree::fold(own.collect()));
        }
        let rest = (owners * of_owner) as u16..VWORKERS;
        leaves.extend(rest.map(|index| tree::Node { level: 0, index, value: Vec::new() }));
        let rate = settings.dense_rate(steps, epoch, step);
        job.users.apply(rate, &of_users)?;
        job.items.apply(rate, &tree::finish(VWORKERS, leaves)?)?;
    }
    Ok(job)
}

/// Applies an owner's gradients, virtual worker by virtual worker of `length` items, and gives the dense ones of each.
fn back(
    kernel: Kernel,
    tower: &Tower,
    (table, bags): (&mut Table, &Adjacency),
    gradients: &Gradients,
    (length, rate): (usize, f32),
) -> Result<Vec<Vec<f64>>, Error> {
    let vworkers = bags.rows().div_ceil(length) as u32;
    let mut dense = Vec::new();
    for own in (0..vworkers).map(|vworker| vworker * length as u32..(vworker + 1) * length as u32) {
        let part = gradients.part(|item| own.contains(&item).then_some(item));
        let back = tower.gradients(kernel, Rows { rows: table.rows(), bags }, &part)?;
        table.apply(kernel, rate, &back.rows)?;
        dense.push(back.dense);
    }
    Ok(dense)
}

/// Bags of all items, for owners of `length` items each.
fn bags_of(length: usize) -> Vec<Adjacency> {
    let all = bags(ITEMS, FEATURES as u32);
    let of_owner = |first: usize| {
        let mut own = Adjacency::new();
        (first..ITEMS.min(first + length)).for_each(|item| own.push_row(all.row(item).0.iter().map(|f| (*f, 1.0))));
        own
    };
    (0..ITEMS).step_by(length).map(of_owner).collect()
}

#[test]
fn the_bytes_are_the_same_on_any_hosts_threads_and_instruction_sets() {
    let one_host = train(Kernel::detect(), 1, &[0; 64], 1).unwrap();
    assert!(one_host.tables[0].rows().iter().chain(one_host.items.weights()).all(|value| value.is_finite()));
    let first = Dense::first(&settings(), FEATURES).unwrap();
    assert_ne!(one_host.users.weights(), first.users, "the user tower learns");
    assert_ne!(one_host.items.weights()[..first.items.len()], first.items, "the item tower learns");
    assert!(one_host.items.weights()[first.items.len()..].iter().any(|value| *value != 0.0), "features learn");
    assert_eq!(one_host.hash(), FROZEN);
    let halves: Vec<usize> = (0..64).map(|vworker| vworker / 32).collect();
    let thirds: Vec<usize> = (0..64).map(|vworker| vworker / 22).collect();
    let scattered: Vec<usize> = (0..64).map(|vworker| vworker * 7 % 4).collect();
    for (threads, hosts) in [(3, [0; 64].to_vec()), (1, halves), (2, thirds), (2, scattered)] {
        assert_eq!(train(Kernel::detect(), threads, &hosts, threads + 1).unwrap().hash(), FROZEN, "{hosts:?}");
    }
    for kernel in Kernel::available() {
        assert_eq!(train(kernel, 2, &[0; 64], 1).unwrap().hash(), FROZEN, "{}", kernel.name());
    }
}

const FROZEN: &str = "d4da9434e5d99dcd";

#[test]
fn towers_begin_as_the_identity() {
    let (settings, kernel, dim) = (settings(), Kernel::detect(), 20);
    let (dense, rows, bags) = (Dense::first(&settings, 4).unwrap(), rows(dim, 30), bags(30, 4));
    let of = Rows { rows: &rows, bags: &bags };
    let outputs = dense.item_tower(&settings).unwrap().outputs(kernel, 1, of, &[7, 3]).unwrap();
    let expected = [&rows[7 * dim..8 * dim], &rows[3 * dim..4 * dim]].concat();
    assert!(outputs.iter().zip(&expected).all(|(ours, row)| (ours - row).abs() < 1e-6));
    let none = Settings { item_hidden: 0, user_hidden: 0, ..settings };
    let dense = Dense::first(&none, 0).unwrap();
    let featureless = bags_without(30);
    let of = Rows { rows: &rows, bags: &featureless };
    let outputs = dense.item_tower(&none).unwrap().outputs(kernel, 1, of, &[7, 3]).unwrap();
    assert_eq!(outputs, expected, "without layers and features, to the bit");
    assert_eq!(dense.user_tower(&none).unwrap(), None);
}

fn bags_without(items: usize) -> Adjacency {
    let mut bags = Adjacency::new();
    (0..items).for_each(|_| bags.push_row([]));
    bags
}

#[test]
fn reasons_sum_to_the_score_less_what_the_biases_give() {
    let settings = settings();
    let (kernel, dim, rows) = (Kernel::detect(), 20, rows(20, 6));
    let mut dense = stirred(&settings, 0);
    let (first, hidden) = (dim * 32, 32);
    dense.users[first..first + hidden].fill(0.0);
    let tower = dense.user_tower(&settings).unwrap();
    let history: Vec<(&[f32], f32)> = rows.chunks(dim).take(4).zip([1.0, 0.5, 2.0, 1.0]).collect();
    let user = user::vector(kernel, tower.as_ref(), dim, &history).unwrap();
    let item = &rows[5 * dim..];
    let score = kernel.dot(&user, item);
    let reasons = user::contributions(kernel, tower.as_ref(), item, &history).unwrap();
    assert!((reasons.iter().sum::<f32>() - score).abs() < 1e-5, "{reasons:?} {score}");
    let plain = softmax::user::contributions(kernel, item, &history).unwrap();
    assert!(reasons.iter().zip(&plain).any(|(ours, plain)| (ours - plain).abs() > 1e-3), "the tower counts");
    assert_eq!(user::vector(kernel, tower.as_ref(), dim, &[]).unwrap(), vec![0.0; dim]);
}

#[test]
fn input_that_does_not_fit_is_refused() {
    let settings = settings();
    let dense = stirred(&settings, 3);
    assert!(Dense::from_vec(&settings, 2, &dense.to_vec()).is_err());
    assert!(Dense::from_vec(&settings, usize::MAX, &dense.to_vec()).is_err());
    assert!(Dense::from_vec(&settings, 0, &vec![f32::NAN; mlp::len(20, 32) + mlp::len(20, 16)]).is_err());
    assert!(Dense::first(&settings, super::FEATURES_MAX + 1).is_err());
    assert!(Mlp::new(20, 5, &vec![0.0; mlp::len(20, 5)]).is_err());
    let (tower, rows) = (dense.item_tower(&settings).unwrap(), rows(20, 4));
    let kernel = Kernel::detect();
    let outputs = |bags: &Adjacency, item| tower.outputs(kernel, 1, Rows { rows: &rows, bags }, &[item]);
    assert!(outputs(&bags(4, 3), 1).is_ok());
    assert!(outputs(&bags_without(4), 4).is_err());
    assert!(outputs(&bags_without(3), 1).is_err());
    let mut unknown = bags_without(3);
    unknown.push_row([(3, 1.0)]);
    assert!(outputs(&unknown, 1).is_err());
    let gradients = Gradients::from_parts(20, vec![4], vec![0.0; 20]).unwrap();
    assert!(tower.gradients(kernel, Rows { rows: &rows, bags: &bags_without(4) }, &gradients).is_err());
    for (name, bad) in [
        ("user_hidden", Settings { user_hidden: 8, ..settings }),
        ("item_hidden", Settings { item_hidden: 528, ..settings }),
        ("dense_rate", Settings { dense_rate: f32::NAN, ..settings }),
    ] {
        assert!(matches!(bad.validate(), Err(Error::Setting { name: found, .. }) if found == name), "{name}");
    }
    assert_eq!(Settings::default().validate(), Ok(()));
}
