//! A step against the formula in f64, and the same bytes however it is hosted.
use super::{
    Loss, Settings, VWORKERS,
    adagrad::Table,
    first_row,
    negatives::{Negatives, Push},
    odds, plan,
    sample::{Draw, Masses, mass},
    step::{Batch, Key, Room, Step},
};
use crate::{Adjacency, Error, Kernel, tree};
use proptest::prelude::*;

pub(crate) fn rows(dim: usize, items: usize) -> Vec<f32> {
    let mut rows = vec![0.0; dim * items];
    rows.chunks_mut(dim).enumerate().for_each(|(item, row)| first_row(Kernel::detect(), 5, &item.to_string(), row));
    rows
}

/// The loss of all parts of one history, in f64; `parts` as places in the history, `climb` the user tower.
pub(crate) fn loss(
    climb: &dyn Fn(Vec<f64>) -> Vec<f64>,
    dim: usize,
    table: &[f64],
    history: &[(u32, f32)],
    parts: &[Vec<usize>],
    negatives: &[(u32, f32)],
    (tau, odds, told): (f64, &dyn Fn(u32) -> f64, Loss),
) -> f64 {
    let row = |item: u32| &table[item as usize * dim..][..dim];
    let mut sum = 0.0;
    for part in parts {
        let mut x = vec![0.0; dim];
        for (_, (item, confidence)) in history.iter().enumerate().filter(|(at, _)| !part.contains(at)) {
            x.iter_mut().zip(row(*item)).for_each(|(x, y)| *x += f64::from(*confidence) * y);
        }
        let length = x.iter().map(|x| x * x).sum::<f64>().sqrt();
        let x = climb(x.into_iter().map(|value| value / length).collect());
        let e = |item: u32| (x.iter().zip(row(item)).map(|(x, y)| x * y).sum::<f64>() / tau).exp() * odds(item);
        let is_other = |item: &u32| history.iter().all(|(own, _)| own != item);
        let others: f64 = negatives
            .iter()
            .filter(|(item, _)| is_other(item))
            .map(|(item, weight)| f64::from(*weight) * e(*item))
            .sum();
        let pairs = || negatives.iter().filter(|(item, _)| is_other(item)).map(|(item, m)| (e(*item), f64::from(*m)));
        let masses: f64 = pairs().map(|(_, m)| m).sum::<f64>().max(f64::MIN_POSITIVE);
        for at in part {
            let (item, weight) = history[*at];
            if told == Loss::Bpr {
                sum += f64::from(weight)
                    * pairs().map(|(other, m)| m / masses * (1.0 + other / e(item)).ln()).sum::<f64>();
                continue;
            }
            sum -= f64::from(weight) * (e(item) / (e(item) + others)).ln();
        }
    }
    sum
}

/// The parts that a step cuts a lone user's history into.
pub(crate) fn parts(settings: &Settings, key: Key, length: usize) -> Vec<Vec<usize>> {
    let mut order: Vec<usize> = (0..length).collect();
    super::random::Random::new(settings.seed, super::random::Purpose::Folds, key.epoch, key.step, key.vworker)
        .shuffle(&mut order);
    let folds = usize::from(settings.folds).min(length);
    (0..folds).map(|fold| order.iter().skip(fold).step_by(folds).copied().collect()).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]
    #[test]
    fn gradients_are_the_differences_of_the_loss(
        dim in 2u16..40, folds in 2u16..6,
        history in prop::collection::btree_map(0u32..30, 0.5f32..2.0, 2..9),
        negatives in prop::collection::btree_map(0u32..30, 0.1f32..4.0, 1..25), exponent in prop::sample::select(vec![0.0f32, 0.5]),
        told in prop::sample::select(vec![Loss::Softmax, Loss::Bpr]),
    ) {
        let settings = Settings { dim, folds, temperature: 0.3, ..Settings::default() };
        let d = usize::from(dim);
        let table = rows(d, 30);
        let (history, drawn): (Vec<_>, Vec<_>) = (history.into_iter().collect(), negatives.into_iter().collect());
        let mut histories = Adjacency::new();
        histories.push_row(history.clone());
        let negatives = Negatives::new(d, &drawn, &table).unwrap();
        let odds: Vec<f32> = (0..30).map(|item| odds(exponent, item * item)).collect();
        let step = Step::new(&settings, Kernel::detect(), &table, &negatives).unwrap().with_odds(&odds).unwrap();
        let step = step.with_loss(told);
        let key = Key { epoch: 3, step: 4, vworker: 5 };
        let push = push(&step, key, &histories, &[0]);

        let parts = parts(&settings, key, history.len());
        let exact: Vec<f64> = table.iter().map(|value| f64::from(*value)).collect();
        let of = |item: u32| f64::from(item * item + 1).powf(f64::from(exponent));
        let of_parts = |table: &[f64], parts: &[Vec<usize>]| loss(&|x| x, d, table, &history, parts, &drawn, (0.3, &of, told));
        let at = |table: &[f64]| of_parts(table, &parts);
        // By BPR the first row's is told.
        let parts_told = if told == Loss::Bpr { &parts[..1] } else { &parts[..] };
        let exactly = of_parts(&exact, parts_told);
        prop_assert!((push.loss[0] - exactly).abs() < 1e-4 * exactly.abs().max(1.0), "{} {exactly}", push.loss[0]);
        let weights: f64 = parts_told.iter().flatten().map(|at| f64::from(history[*at].1)).sum();
        prop_assert!((push.loss[1] - weights).abs() < 1e-5);

        let gradients = negatives.gradients(push).unwrap();
        let largest = gradients.rows().iter().fold(0.0f32, |most, value| most.max(value.abs()));
        for (item, row) in gradients.items().iter().zip(gradients.rows().chunks(d)) {
            for (k, value) in row.iter().enumerate() {
                let moved = |by: f64| {
                    let mut table = exact.clone();
                    table[*item as usize * d + k] += by;
                    at(&table)
                };
                let difference = (moved(1e-5) - moved(-1e-5)) / 2e-5;
                prop_assert!((f64::from(*value) - difference).abs() < 1e-3 * f64::from(largest).max(1.0), "{} {}", value, difference);
            }
        }
    }
}

pub(crate) const ITEMS: usize = 200;

/// Users of 64 virtual workers, some of them without any.
pub(crate) fn world() -> (Vec<Adjacency>, Vec<Vec<u32>>) {
    let worker = |vworker: u32| {
        let mut histories = Adjacency::new();
        for user in 0..vworker % 5 {
            let items = (0..ITEMS as u32).filter(|item| (item * 7 + user * 13 + vworker * 5).is_multiple_of(17 + user));
            histories.push_row(items.map(|item| (item, 1.0)));
        }
        histories
    };
    let workers: Vec<Adjacency> = (0..u32::from(VWORKERS)).map(worker).collect();
    let mut positives = vec![0u32; ITEMS];
    for histories in &workers {
        (0..histories.rows())
            .for_each(|user| histories.row(user).0.iter().for_each(|item| positives[*item as usize] += 1));
    }
    (workers, positives.chunks(ITEMS.div_ceil(usize::from(VWORKERS))).map(<[u32]>::to_vec).collect())
}

/// Two epochs, where virtual worker w of users is on host `hosts[w]` and the items are on `owners` hosts.
fn train(kernel: Kernel, threads: usize, hosts: &[usize], owners: usize, loss: Loss) -> Result<Table, Error> {
    let settings = Settings {
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
    let dim = usize::from(settings.dim);
    let (workers, positives) = world();
    let masses: Vec<_> = positives.iter().map(|counts| mass(&settings, counts)).collect();
    let masses = Masses::new(&settings, &masses)?;
    let length = ITEMS.div_ceil(owners);
    let tables = rows(dim, ITEMS);
    let mut tables: Vec<Table> =
        tables.chunks(length * dim).map(|rows| Table::new(dim, rows.to_vec())).collect::<Result<_, _>>()?;
    let steps = plan::steps(&settings, workers.iter().map(|histories| histories.entries() as u64).sum());
    assert!(steps > 3);
    let room = Room::default();
    for (epoch, at) in (0..2).flat_map(|epoch| (0..steps).map(move |step| (epoch, step))) {
        let all: Vec<f32> = tables.iter().flat_map(|table| table.rows()).copied().collect();
        let drawn = drawn(&masses, &positives, epoch, at)?;
        let negatives = Negatives::new(dim, &drawn, &all)?;
        let mut roots = Vec::new();
        for host in 0..4 {
            let own: Vec<u16> = (0..VWORKERS).filter(|vworker| hosts[usize::from(*vworker)] == host).collect();
            let users = users_of(&settings, &workers, &own, (epoch, at, steps));
            let step = Step::new(&settings, kernel, &all, &negatives)?.with_loss(loss).in_room(&room);
            roots.extend(step.pushes(threads, (epoch, at), &batches(&workers, &own, &users))?);
        }
        for (table, first) in tables.iter_mut().zip((0..).step_by(length)) {
            let items = first..first + length as u32;
            let part_of = |root: &tree::Node<Push>| tree::Node {
                value: part(&negatives, &root.value, |item| items.contains(&item).then(|| item - first)),
                ..*root
            };
            let own = drawn.iter().map(|(item, _)| *item).filter(|item| items.contains(item));
            let own: Vec<u32> = own.map(|item| item - first).collect();
            let sum = Push::finish(dim, roots.iter().map(part_of).collect())?;
            let gradients = sum.gradients(dim, &own)?;
            table.apply(kernel, settings.rate(steps, epoch, at), &gradients)?;
        }
    }
    let whole = |of: fn(&Table) -> &[f32]| tables.iter().flat_map(of).copied().collect();
    Table::from_parts(dim, whole(Table::rows), whole(Table::squares))
}

/// The users of a step of these virtual workers.
pub(crate) fn users_of(
    settings: &Settings,
    workers: &[Adjacency],
    own: &[u16],
    (epoch, step, steps): (u32, u32, u32),
) -> Vec<Vec<u32>> {
    let of = |vworker: &u16| {
        let histories = &workers[usize::from(*vworker)];
        let sizes: Vec<u32> = (0..histories.rows()).map(|user| histories.row(user).0.len() as u32).collect();
        plan::batches(settings, epoch, *vworker, &sizes, steps).swap_remove(step as usize)
    };
    own.iter().map(of).collect()
}

pub(crate) fn batches<'a>(workers: &'a [Adjacency], own: &[u16], users: &'a [Vec<u32>]) -> Vec<Batch<'a>> {
    let of = |(vworker, users): (&u16, &'a Vec<u32>)| Batch {
        vworker: *vworker,
        histories: &workers[usize::from(*vworker)],
        users,
    };
    own.iter().zip(users).map(of).collect()
}

/// What one virtual worker pushes.
pub(crate) fn push(step: &Step<'_>, key: Key, histories: &Adjacency, users: &[u32]) -> Push {
    let batch = Batch { vworker: key.vworker, histories, users };
    step.pushes(1, (key.epoch, key.step), &[batch]).unwrap().pop().unwrap().value
}

/// An owner's part of a push: that of the items that it calls `number(item)`.
pub(crate) fn part(negatives: &Negatives, push: &Push, number: impl Fn(u32) -> Option<u32>) -> Push {
    let own = negatives.each(push).filter(|(item, _)| number(*item).is_some());
    let rows: Vec<&[f32]> = own.map(|(_, row)| row).collect();
    Push { targets: push.targets.part(number), negatives: rows.concat(), loss: push.loss, ..Push::default() }
}

/// The negatives of a step over all virtual workers of items.
pub(crate) fn drawn(masses: &Masses, positives: &[Vec<u32>], epoch: u32, step: u32) -> Result<Vec<(u32, f32)>, Error> {
    let (mut drawn, mut first) = (Vec::new(), 0);
    for ((vworker, positives), count) in (0u16..).zip(positives).zip(masses.counts(epoch, step)) {
        let own = Draw::new(masses, vworker, positives)?.draw(epoch, step, count);
        drawn.extend(own.into_iter().map(|(item, weight)| (first + item, weight)));
        first += positives.len() as u32;
    }
    Ok(drawn)
}

fn hash(table: &Table) -> String {
    let bytes: Vec<u8> = table.rows().iter().chain(table.squares()).flat_map(|value| value.to_le_bytes()).collect();
    blake3::hash(&bytes).to_hex()[..16].to_owned()
}

#[test]
fn the_bytes_are_the_same_on_any_hosts_threads_and_instruction_sets() {
    for (loss, frozen) in FROZEN {
        equal_everywhere(loss, frozen);
    }
}

fn equal_everywhere(loss: Loss, frozen: &str) {
    let one_host = train(Kernel::detect(), 1, &[0; 64], 1, loss).unwrap();
    assert!(one_host.rows().iter().all(|value| value.is_finite()));
    assert_eq!(hash(&one_host), frozen);
    let halves: Vec<usize> = (0..64).map(|vworker| vworker / 32).collect();
    let thirds: Vec<usize> = (0..64).map(|vworker| vworker / 22).collect();
    let scattered: Vec<usize> = (0..64).map(|vworker| vworker * 7 % 4).collect();
    for (threads, hosts) in [(3, [0; 64].to_vec()), (1, halves), (2, thirds), (2, scattered)] {
        assert_eq!(hash(&train(Kernel::detect(), threads, &hosts, threads + 1, loss).unwrap()), frozen, "{hosts:?}");
    }
    for kernel in Kernel::available() {
        assert_eq!(hash(&train(kernel, 2, &[0; 64], 1, loss).unwrap()), frozen, "{}", kernel.name());
    }
}

const FROZEN: [(Loss, &str); 2] = [(Loss::Softmax, "d1c69d2aa737b9cc"), (Loss::Bpr, "2876fec7b24adda1")];

#[test]
fn training_lowers_the_loss_and_histories_find_what_goes_with_them() {
    // Two worlds of items; every user has items of one.
    let settings = Settings { dim: 16, epochs: 8, negatives: 32, learning_rate: 0.5, ..Settings::default() };
    let mut histories = Adjacency::new();
    for user in 0..60u32 {
        histories.push_row((0..20).filter(|item| (item * 3 + user) % 4 != 0).map(|item| (item + user % 2 * 20, 1.0)));
    }
    let mut table = Table::new(16, rows(16, 40)).unwrap();
    let masses = Masses::new(&settings, &[mass(&settings, &[22; 40])]).unwrap();
    let draw = Draw::new(&masses, 0, &[22; 40]).unwrap();
    let users: Vec<u32> = (0..60).collect();
    let mut losses = Vec::new();
    for epoch in 0..8 {
        let negatives = Negatives::new(16, &draw.draw(epoch, 0, 32), table.rows()).unwrap();
        let step = Step::new(&settings, Kernel::detect(), table.rows(), &negatives).unwrap();
        let push = push(&step, Key { epoch, step: 0, vworker: 0 }, &histories, &users);
        losses.push(push.loss[0] / push.loss[1]);
        let gradients = negatives.gradients(push).unwrap();
        table.apply(Kernel::detect(), settings.rate(1, epoch, 0), &gradients).unwrap();
    }
    assert!(losses[7] < losses[0] - 1.0, "{losses:?}");
    let row = |item: usize| &table.rows()[item * 16..][..16];
    let cosine = |left, right| Kernel::detect().dot(row(left), row(right));
    assert!(cosine(1, 2) > cosine(1, 22) + 0.5, "{} {}", cosine(1, 2), cosine(1, 22));
}

#[test]
fn users_with_one_item_or_none_push_nothing() {
    let mut histories = Adjacency::new();
    histories.push_row([(1, 1.0)]);
    histories.push_row([]);
    let (settings, table) = (Settings { dim: 3, ..Settings::default() }, rows(3, 4));
    let negatives = Negatives::new(3, &[(0, 1.0)], &table).unwrap();
    let step = Step::new(&settings, Kernel::detect(), &table, &negatives).unwrap();
    let push = push(&step, Key { epoch: 0, step: 0, vworker: 0 }, &histories, &[0, 1]);
    assert_eq!(push, Push::default());
    assert_eq!(negatives.gradients(push).unwrap().items(), [0u32; 0]);
}

#[test]
fn a_user_with_every_negative_pushes_nothing_that_is_no_number() {
    let mut histories = Adjacency::new();
    histories.push_row([(0, 2.0), (2, 2.0), (3, 2.0)]);
    let (settings, table) = (Settings { dim: 3, ..Settings::default() }, rows(3, 4));
    let negatives = Negatives::new(3, &[(0, 0.1), (3, 0.1)], &table).unwrap();
    for loss in [Loss::Softmax, Loss::Bpr] {
        let step = Step::new(&settings, Kernel::detect(), &table, &negatives).unwrap().with_loss(loss);
        let push = push(&step, Key { epoch: 0, step: 0, vworker: 0 }, &histories, &[0]);
        assert!(push.loss[0].is_finite(), "{loss:?}");
        let gradients = negatives.gradients(push).unwrap();
        assert!(gradients.rows().iter().all(|value| *value == 0.0), "{loss:?}: {gradients:?}");
    }
}

#[test]
fn input_that_does_not_fit_is_refused() {
    let (settings, table) = (Settings { dim: 3, ..Settings::default() }, rows(3, 4));
    for drawn in [[(1, 1.0), (1, 1.0)], [(2, 1.0), (1, 1.0)], [(1, 1.0), (4, 1.0)], [(1, 1.0), (2, f32::NAN)]] {
        assert!(Negatives::new(3, &drawn, &table).is_err(), "{drawn:?}");
    }
    let mut histories = Adjacency::new();
    histories.push_row([(1, 1.0), (4, 1.0)]);
    let negatives = Negatives::new(3, &[(0, 1.0)], &table).unwrap();
    let step = Step::new(&settings, Kernel::detect(), &table, &negatives).unwrap();
    let batch = |vworker| Batch { vworker, histories: &histories, users: &[] };
    assert!(matches!(step.pushes(1, (0, 0), &[batch(0)]), Err(Error::Value { what: "columns" })));
    for wrong in [&[batch(1), batch(1)][..], &[batch(64)]] {
        assert!(matches!(step.pushes(1, (0, 0), wrong), Err(Error::Value { what: "virtual workers" })));
    }
    for odds in [&[1.0; 3][..], &[1.0, 1.0, 0.0, 1.0], &[1.0, f32::NAN, 1.0, 1.0]] {
        let step = Step::new(&settings, Kernel::detect(), &table, &negatives).unwrap();
        assert!(step.with_odds(odds).is_err(), "{odds:?}");
    }
    let bad = Settings { temperature: f32::NAN, ..settings };
    assert!(matches!(bad.validate(), Err(Error::Setting { name: "temperature", .. })));
    let bad = Settings { folds: 1, ..settings };
    assert!(matches!(bad.validate(), Err(Error::Setting { name: "folds", .. })));
    assert_eq!(Settings::default().validate(), Ok(()));
}
