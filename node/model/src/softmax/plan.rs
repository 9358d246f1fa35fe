//! Which users are in which step.
use super::{
    Settings,
    random::{Purpose, Random},
};

/// Steps of an epoch, at least. Few positives in one large batch would make a model of as many steps as epochs (decision 0018).
pub const STEPS_MIN: u64 = 12;

/// Steps of an epoch for so many positives over all virtual workers: as many as the batch asks for, 12 at least.
#[must_use]
pub fn steps(settings: &Settings, positives: u64) -> u32 {
    u32::try_from(positives.div_ceil(u64::from(settings.batch.max(1))).max(STEPS_MIN)).unwrap_or(u32::MAX)
}

/// A virtual worker's users of each step of an epoch, in their order: random, and cut where a step's share of the worker's
/// positives is reached. `sizes` are the positives of its users; users without any are in no step.
#[must_use]
pub fn batches(settings: &Settings, epoch: u32, vworker: u16, sizes: &[u32], steps: u32) -> Vec<Vec<u32>> {
    let mut users: Vec<u32> = (0..sizes.len() as u32).filter(|user| sizes[*user as usize] > 0).collect();
    Random::new(settings.seed, Purpose::Order, epoch, 0, vworker).shuffle(&mut users);
    let total: u64 = sizes.iter().map(|size| u64::from(*size)).sum();
    let mut batches = vec![Vec::new(); steps as usize];
    let mut before = 0;
    for user in users {
        // Below `steps`, as `before` is below `total`.
        let step = u128::from(before) * u128::from(steps) / u128::from(total.max(1));
        batches[step as usize].push(user);
        before += u64::from(sizes[user as usize]);
    }
    batches
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn every_user_with_positives_is_in_one_step(sizes in prop::collection::vec(0u32..50, 0..60), steps in 1u32..20, epoch in 0u32..3) {
            let batches = batches(&Settings::default(), epoch, 5, &sizes, steps);
            prop_assert_eq!(batches.len(), steps as usize);
            let mut users: Vec<u32> = batches.concat();
            users.sort_unstable();
            let expected: Vec<u32> = (0..sizes.len() as u32).filter(|user| sizes[*user as usize] > 0).collect();
            prop_assert_eq!(users, expected);
            // No step has more than its share and one user more.
            let (total, largest) = (sizes.iter().sum::<u32>(), sizes.iter().max().copied().unwrap_or(0));
            for users in &batches {
                let positives: u32 = users.iter().map(|user| sizes[*user as usize]).sum();
                prop_assert!(positives <= total.div_ceil(steps) + largest);
            }
        }
    }

    #[test]
    fn epochs_and_workers_have_orders_of_their_own() {
        let order = |epoch, vworker| batches(&Settings::default(), epoch, vworker, &[1; 30], 1).concat();
        assert_eq!(order(0, 0), order(0, 0));
        assert_ne!(order(0, 0), order(1, 0));
        assert_ne!(order(0, 0), order(0, 1));
        assert_eq!(steps(&Settings { batch: 100, ..Settings::default() }, 1301), 14);
        assert_eq!(steps(&Settings::default(), 0), 12);
    }
}
