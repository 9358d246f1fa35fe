//! The item tower, from an owner's rows and their features to the vectors that are scored, and back.
use super::mlp::{Mlp, Pass, padded, toward_sphere, unpadded};
use crate::{
    Adjacency, Error, Kernel, parallel, shape,
    softmax::{
        gradients::{Accumulator, Gradients},
        normalise,
    },
};

/// Items taken at a time. Part of the result where gradients are summed: within it in f32, beyond in f64.
const ITEMS_AT_ONCE: usize = 1024;

/// The item tower with the rows of features.
#[derive(Debug, Clone, PartialEq)]
pub struct Tower {
    dim: usize,
    mlp: Option<Mlp>,
    features: Vec<f32>,
}

/// What the tower is given: rows of items (`dim` values each) and, by item, the features that it has.
#[derive(Debug, Clone, Copy)]
pub struct Rows<'a> {
    /// Unit vectors.
    pub rows: &'a [f32],
    /// Columns are features, each once; confidences are not read.
    pub bags: &'a Adjacency,
}

/// Gradients of what an item tower was made of.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Back {
    /// By item.
    pub rows: Gradients,
    /// By the tower's weights, then by the features' rows.
    pub dense: Vec<f64>,
}

impl Tower {
    /// A tower over rows of `dim` values; none leaves them as they are. `features`: a row of `dim` values each.
    ///
    /// # Errors
    /// [`Error::Shape`].
    pub fn new(dim: usize, mlp: Option<Mlp>, features: Vec<f32>) -> Result<Self, Error> {
        shape("rows of features", features.len() / dim.max(1) * dim, features.len())?;
        shape("inputs of the items' tower", dim, mlp.as_ref().map_or(dim, Mlp::dim))?;
        Ok(Self { dim, mlp, features })
    }

    /// Number of dense weights of the item side.
    #[must_use]
    #[allow(clippy::len_without_is_empty, reason = "it counts weights")]
    pub fn len(&self) -> usize {
        self.mlp.as_ref().map_or(0, Mlp::len) + self.features.len()
    }

    /// Unit vectors of these items, `dim` values each. None depends on what is asked for beside it.
    ///
    /// # Errors
    /// [`Error::Value`] for items and features that are not there.
    pub fn outputs(&self, kernel: Kernel, threads: usize, of: Rows<'_>, items: &[u32]) -> Result<Vec<f32>, Error> {
        self.check(of, items)?;
        let mut outputs = vec![0.0; items.len() * self.dim];
        let chunks = outputs.chunks_mut(ITEMS_AT_ONCE * self.dim).zip(items.chunks(ITEMS_AT_ONCE));
        parallel::for_each(
            threads,
            chunks.collect(),
            || (),
            |(), (outputs, items): (&mut [f32], &[u32])| {
                let (inputs, _) = self.inputs(kernel, of, items);
                outputs.copy_from_slice(&self.climb(kernel, inputs));
            },
        );
        Ok(outputs)
    }

    /// Takes the gradients by the outputs of one virtual worker's items back to what they were made of.
    ///
    /// # Errors
    /// [`Error::Shape`], [`Error::Value`] for items and features that are not there.
    pub fn gradients(&self, kernel: Kernel, of: Rows<'_>, gradients: &Gradients) -> Result<Back, Error> {
        let (dim, items) = (self.dim, gradients.items());
        shape("gradients", items.len() * dim, gradients.rows().len())?;
        self.check(of, items)?;
        let mut back = Back { dense: vec![0.0; self.len()], ..Back::default() };
        let (of_mlp, of_features) = back.dense.split_at_mut(self.mlp.as_ref().map_or(0, Mlp::len));
        let mut rows = Vec::with_capacity(gradients.rows().len());
        let mut sums = Accumulator::new(dim, self.features.len() / dim);
        for (items, gradients) in items.chunks(ITEMS_AT_ONCE).zip(gradients.rows().chunks(ITEMS_AT_ONCE * dim)) {
            let (inputs, inverses) = self.inputs(kernel, of, items);
            let mut by_inputs = match &self.mlp {
                Some(mlp) => {
                    let pass: Pass = mlp.forward(kernel, padded(dim, &inputs));
                    let mut back = padded(dim, gradients);
                    mlp.backward(kernel, &pass, 0, &mut back, of_mlp);
                    unpadded(dim, items.len(), &back)
                }
                None => gradients.to_vec(),
            };
            let each = by_inputs.chunks_exact_mut(dim).zip(inputs.chunks_exact(dim)).zip(items.iter().zip(inverses));
            for ((gradient, input), (item, inverse)) in each {
                let features = of.bags.row(*item as usize).0;
                if let Some(inverse) = inverse {
                    toward_sphere(kernel, gradient, input, inverse);
                }
                let share = share(features);
                features.iter().for_each(|feature| kernel.add_scaled(sums.row(*feature), share, gradient));
            }
            rows.extend(by_inputs);
            let sums = sums.take();
            for (feature, row) in sums.items().iter().zip(sums.rows().chunks_exact(dim)) {
                let to = &mut of_features[*feature as usize * dim..][..dim];
                to.iter_mut().zip(row).for_each(|(sum, value)| *sum += f64::from(*value));
            }
        }
        back.rows = Gradients::from_parts(dim, items.to_vec(), rows)?;
        Ok(back)
    }

    /// What the layers make of inputs.
    fn climb(&self, kernel: Kernel, inputs: Vec<f32>) -> Vec<f32> {
        match &self.mlp {
            Some(mlp) => mlp.apply(kernel, &inputs),
            None => inputs,
        }
    }

    /// What goes into the layers, `dim` values for each item; and what made it a unit vector, where it was not one before.
    fn inputs(&self, kernel: Kernel, of: Rows<'_>, items: &[u32]) -> (Vec<f32>, Vec<Option<f32>>) {
        let (mut inputs, mut inverses) = (Vec::with_capacity(items.len() * self.dim), Vec::with_capacity(items.len()));
        for item in items {
            inputs.extend_from_slice(&of.rows[*item as usize * self.dim..][..self.dim]);
            let features = of.bags.row(*item as usize).0;
            let first = inputs.len() - self.dim;
            let input = &mut inputs[first..];
            for feature in features {
                kernel.add_scaled(input, share(features), &self.features[*feature as usize * self.dim..][..self.dim]);
            }
            inverses.push((!features.is_empty()).then(|| normalise(kernel, input)));
        }
        (inputs, inverses)
    }

    fn check(&self, of: Rows<'_>, items: &[u32]) -> Result<(), Error> {
        let (rows, features) = (of.rows.len() / self.dim, self.features.len() / self.dim);
        shape("bags of features", rows, of.bags.rows())?;
        if items.iter().any(|item| *item as usize >= rows) {
            return Err(Error::Value { what: "items of a tower" });
        }
        if of.bags.column_max().is_some_and(|feature| feature as usize >= features) {
            return Err(Error::Value { what: "features of items" });
        }
        Ok(())
    }
}

/// What each of these features counts.
fn share(features: &[u32]) -> f32 {
    1.0 / features.len().max(1) as f32
}
