//! The rows of an owner: at the step that was applied last, and at those shortly before it for hosts that are behind.
use crate::Error;
use docent_model::{
    Kernel,
    softmax::{adagrad::Table, gradients::Gradients},
};
use std::collections::VecDeque;

/// What others read in place of rows, and at which step.
pub(super) type Outputs = (u32, Vec<f32>);

/// Rows with the steps that were applied to them.
pub(super) struct Versioned {
    /// Steps that were applied.
    version: u32,
    pub(super) table: Table,
    /// With towers: what others read in place of rows, and at which step.
    pub(super) outputs: Option<Outputs>,
    /// What the latest steps changed, the oldest first.
    past: VecDeque<Past>,
}

/// Rows as they were before a step changed them.
struct Past {
    /// Ascending.
    places: Vec<u32>,
    rows: Vec<f32>,
}

/// All rows at a step.
pub(super) struct At<'a> {
    dim: usize,
    rows: &'a [f32],
    past: &'a VecDeque<Past>,
    /// How many of the past steps are not to be seen, from the newest on.
    hidden: usize,
}

impl Versioned {
    pub(super) fn new(version: u32, table: Table, outputs: Option<Outputs>) -> Self {
        Self { version, table, outputs, past: VecDeque::new() }
    }

    pub(super) fn check(&self, version: u32) -> Result<(), Error> {
        if self.version == version {
            return Ok(());
        }
        Err(Error::out_of_turn("for a step", &format!("rows are at step {}, not {version}", self.version)))
    }

    /// What others read at a step, rows of `dim` values: the last one, or one that is remembered.
    pub(super) fn at(&self, dim: usize, version: u32) -> Result<At<'_>, Error> {
        let hidden = self.version.checked_sub(version).map(|hidden| hidden as usize);
        let Some(hidden) = hidden.filter(|hidden| *hidden <= self.past.len()) else {
            self.check(version)?;
            return Err(Error::Internal("rows are at no step".into()));
        };
        let rows = match &self.outputs {
            None => self.table.rows(),
            Some((of, outputs)) if *of == version => outputs,
            Some(_) => return Err(Error::out_of_turn("for vectors", "the step's dense weights come first")),
        };
        Ok(At { dim, rows, past: &self.past, hidden })
    }

    /// What others read after the last step.
    pub(super) fn latest(&self) -> Result<&[f32], Error> {
        Ok(self.at(1, self.version)?.rows)
    }

    /// Applies a step's gradients to the rows, of `dim` values. What the last `staleness` steps changed is remembered.
    pub(super) fn apply(
        &mut self,
        (kernel, dim): (Kernel, usize),
        rate: f32,
        gradients: &Gradients,
        staleness: u32,
    ) -> Result<(), Error> {
        let before = (staleness > 0).then(|| self.before(dim, gradients));
        self.table.apply(kernel, rate, gradients)?;
        self.past.extend(before);
        self.end_step(staleness);
        Ok(())
    }

    /// Counts a step whose rows are changed.
    pub(super) fn end_step(&mut self, staleness: u32) {
        self.version += 1;
        while self.past.len() > staleness as usize {
            self.past.pop_front();
        }
    }

    fn before(&self, dim: usize, gradients: &Gradients) -> Past {
        let rows = self.table.rows();
        let of_place = |place: &u32| rows.get(*place as usize * dim..).and_then(|rest| rest.get(..dim));
        let places: Vec<u32> = gradients.items().iter().copied().filter(|place| of_place(place).is_some()).collect();
        Past { rows: places.iter().filter_map(of_place).flatten().copied().collect(), places }
    }
}

impl<'a> At<'a> {
    /// The row at a place, if there is one.
    pub(super) fn row(&self, place: u32) -> Option<&'a [f32]> {
        let dim = self.dim;
        // The first step that is not to be seen and changed the row has it as it was.
        let unseen = self.past.iter().skip(self.past.len() - self.hidden);
        let was = unseen.filter_map(|past| {
            let at = past.places.binary_search(&place).ok()?;
            past.rows.get(at * dim..(at + 1) * dim)
        });
        was.into_iter().next().or_else(|| self.rows.get(place as usize * dim..).and_then(|rest| rest.get(..dim)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn rows_of_the_last_steps_are_as_they_were(
            steps in prop::collection::vec(prop::collection::btree_map(0u32..6, -1.0f32..1.0, 0..6), 1..8), staleness in 0u32..4,
        ) {
            let kernel = Kernel::detect();
            let first: Vec<f32> = (0u8..6).flat_map(|_| [1.0, 0.0]).collect();
            let mut versioned = Versioned::new(3, Table::new(2, first.clone()).unwrap(), None);
            let mut all = vec![first];
            for step in steps {
                let rows = step.values().flat_map(|value| [0.5, *value]).collect();
                let gradients = Gradients::from_parts(2, step.into_keys().collect(), rows).unwrap();
                versioned.apply((kernel, 2), 0.1, &gradients, staleness).unwrap();
                all.push(versioned.table.rows().to_vec());
            }
            let last = 3 + all.len() as u32 - 1;
            prop_assert!(versioned.check(last).is_ok());
            for (version, rows) in (3..).zip(&all) {
                if last - version > staleness {
                    prop_assert!(versioned.at(2, version).is_err(), "a step that is forgotten");
                    continue;
                }
                let at = versioned.at(2, version).unwrap();
                for (place, row) in (0..).zip(rows.chunks_exact(2)) {
                    prop_assert_eq!(at.row(place), Some(row), "place {} at {}", place, version);
                }
                prop_assert_eq!(at.row(6), None);
            }
            prop_assert!(versioned.at(2, last + 1).is_err(), "a step to come");
        }
    }
}
