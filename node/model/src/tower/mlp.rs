//! One hidden layer beside a residual connection: `y = direction of v + W2 relu(W1 v + b)`, and its gradients, many rows at a time.
//!
//! Layers are products of the kernels that sampled softmax has: the rows of the first matrix are by *input*, so that each output is a sum over
//! inputs in order. Gradients are derived by hand: with `p = v + W2 h`, `h = relu(W1 v + b)` and G the gradient by y,
//! `dp = (G - (G.y) y) / |p|`, `dW2 = h dp`, `dz = (W2 dp) where h > 0`, `dW1 = v dz`, `db = dz`, `dv = dp + W1 dz`.
use crate::{
    Error, Kernel, init,
    kernel::{ROWS_UNIT, stride},
    shape,
    softmax::normalise,
};

/// Weights of a tower, laid out for the kernels.
#[derive(Debug, Clone, PartialEq)]
pub struct Mlp {
    dim: usize,
    hidden: usize,
    stride: usize,
    /// By input: what it gives each hidden unit, `[stride][hidden]`; and transposed, `[hidden][stride]`.
    first: Vec<f32>,
    first_back: Vec<f32>,
    bias: Vec<f32>,
    /// By hidden unit: what it gives each output, `[hidden][stride]`; and transposed, `[stride][hidden]`.
    second: Vec<f32>,
    second_back: Vec<f32>,
}

/// What a tower makes of rows, and what its gradients need of how.
#[derive(Debug, Clone, Default)]
pub(crate) struct Pass {
    /// `[n][stride]`.
    pub(crate) inputs: Vec<f32>,
    /// After the ReLU, `[n][hidden]`.
    hidden: Vec<f32>,
    /// Unit vectors, `[n][stride]`.
    pub(crate) outputs: Vec<f32>,
    /// What made them unit vectors.
    inverses: Vec<f32>,
}

/// Number of weights of a tower.
pub(super) const fn len(dim: usize, hidden: usize) -> usize {
    hidden * (2 * dim + 1)
}

/// First weights: those of the first layer at random with deviation `sqrt(2 / dim)` (He et al., ICCV 2015), all others zero, so that a tower begins
/// as the identity.
pub(super) fn first(dim: usize, hidden: usize, seed: u64, name: &str) -> Vec<f32> {
    let mut weights = vec![0.0; len(dim, hidden)];
    let deviation = (2.0 * hidden as f32).sqrt();
    init::fill(seed, name, deviation, &mut weights[..dim * hidden]);
    weights
}

impl Mlp {
    /// Takes weights: `[dim][hidden]` of the first layer, `hidden` of its bias, `[hidden][dim]` of the second layer. `hidden` is a multiple of 16.
    ///
    /// # Errors
    /// [`Error::Shape`].
    pub fn new(dim: usize, hidden: usize, weights: &[f32]) -> Result<Self, Error> {
        shape("hidden units, a multiple of 16", hidden.next_multiple_of(16), hidden)?;
        shape("weights of a tower", len(dim, hidden), weights.len())?;
        let stride = stride(dim);
        let (first, rest) = weights.split_at(dim * hidden);
        let (bias, second) = rest.split_at(hidden);
        let mut mlp = Self {
            dim,
            hidden,
            stride,
            first: vec![0.0; stride * hidden],
            first_back: vec![0.0; stride * hidden],
            bias: bias.to_vec(),
            second: vec![0.0; stride * hidden],
            second_back: vec![0.0; stride * hidden],
        };
        for unit in 0..hidden {
            for k in 0..dim {
                mlp.first[k * hidden + unit] = first[k * hidden + unit];
                mlp.first_back[unit * stride + k] = first[k * hidden + unit];
                mlp.second[unit * stride + k] = second[unit * dim + k];
                mlp.second_back[k * hidden + unit] = second[unit * dim + k];
            }
        }
        Ok(mlp)
    }

    /// Values of an input.
    #[must_use]
    pub fn dim(&self) -> usize {
        self.dim
    }

    /// Number of weights.
    #[must_use]
    #[allow(clippy::len_without_is_empty, reason = "it counts weights, of which a tower has some")]
    pub fn len(&self) -> usize {
        len(self.dim, self.hidden)
    }

    /// `[n][stride]` inputs, n a multiple of [`ROWS_UNIT`], padding zero. A row's outcome does not depend on the others.
    pub(crate) fn forward(&self, kernel: Kernel, inputs: Vec<f32>) -> Pass {
        let n = inputs.len() / self.stride;
        let mut hidden = vec![0.0; n * self.hidden];
        kernel.pull(self.hidden, self.stride, &inputs, &self.first, &mut hidden);
        for row in hidden.chunks_exact_mut(self.hidden) {
            for (value, bias) in row.iter_mut().zip(&self.bias) {
                let sum = *value + bias;
                // Not `max`, which may give a zero of either sign.
                *value = if sum > 0.0 { sum } else { 0.0 };
            }
        }
        let mut outputs = vec![0.0; inputs.len()];
        kernel.pull(self.stride, self.hidden, &hidden, &self.second, &mut outputs);
        outputs.iter_mut().zip(&inputs).for_each(|(output, input)| *output += input);
        let inverses = outputs.chunks_exact_mut(self.stride).map(|row| normalise(kernel, &mut row[..self.dim]));
        Pass { inverses: inverses.collect(), inputs, hidden, outputs }
    }

    /// Takes gradients by the outputs of a pass's rows from `first` on (`[n][stride]`, n a multiple of [`ROWS_UNIT`]) back to those by the inputs, in
    /// place, and adds those by the weights to `sums`.
    pub(crate) fn backward(&self, kernel: Kernel, pass: &Pass, first: usize, gradients: &mut [f32], sums: &mut [f64]) {
        let (dim, hidden, stride) = (self.dim, self.hidden, self.stride);
        let n = gradients.len() / stride;
        let of_pass = &pass.hidden[first * hidden..][..n * hidden];
        let inputs = &pass.inputs[first * stride..][..n * stride];
        let rows = gradients.chunks_exact_mut(stride).zip(pass.outputs[first * stride..].chunks_exact(stride));
        for ((gradient, output), inverse) in rows.zip(&pass.inverses[first..]) {
            toward_sphere(kernel, &mut gradient[..dim], &output[..dim], *inverse);
        }
        let mut second = vec![0.0; hidden * stride];
        kernel.push(stride, hidden, of_pass, gradients, &[n], &mut second);
        let mut back = vec![0.0; of_pass.len()];
        kernel.pull(hidden, stride, gradients, &self.second_back, &mut back);
        back.iter_mut().zip(of_pass).filter(|(_, value)| **value <= 0.0).for_each(|(back, _)| *back = 0.0);
        let mut first = vec![0.0; stride * hidden];
        kernel.push(hidden, stride, inputs, &back, &[n], &mut first);
        let mut bias = vec![0.0; hidden];
        back.chunks_exact(hidden).for_each(|row| kernel.add_scaled(&mut bias, 1.0, row));
        let mut through = vec![0.0; gradients.len()];
        kernel.pull(stride, hidden, &back, &self.first_back, &mut through);
        gradients.iter_mut().zip(&through).for_each(|(gradient, through)| *gradient += through);
        let second = second.chunks_exact(stride).flat_map(|row| &row[..dim]);
        let all = first[..dim * hidden].iter().chain(&bias).chain(second);
        sums.iter_mut().zip(all).for_each(|(sum, value)| *sum += f64::from(*value));
    }

    /// What the tower makes of rows of `dim` values each, one after another.
    #[must_use]
    pub fn apply(&self, kernel: Kernel, rows: &[f32]) -> Vec<f32> {
        unpadded(self.dim, rows.len() / self.dim, &self.forward(kernel, padded(self.dim, rows)).outputs)
    }

    /// The direction z for which `z.v` is what the input v adds to `p.item`, p the output before it is made a unit vector (the rest is the bias's): a
    /// ReLU's layers are linear as long as the same units are at work. And `1 / |p|`.
    pub(crate) fn linear(&self, kernel: Kernel, input: &[f32], item: &[f32]) -> (Vec<f32>, f32) {
        let pass = self.forward(kernel, padded(self.dim, input));
        let mut direction = item.to_vec();
        for (unit, _) in pass.hidden[..self.hidden].iter().enumerate().filter(|(_, value)| **value > 0.0) {
            let at = unit * self.stride;
            let slope = kernel.dot(&self.second[at..at + self.dim], item);
            kernel.add_scaled(&mut direction, slope, &self.first_back[at..at + self.dim]);
        }
        (direction, pass.inverses[0])
    }
}

/// Takes a gradient by a unit vector back to one by what was made it by a factor of `inverse`.
pub(super) fn toward_sphere(kernel: Kernel, gradient: &mut [f32], output: &[f32], inverse: f32) {
    let along = kernel.dot(gradient, output);
    gradient.iter_mut().zip(output).for_each(|(g, y)| *g = (*g - along * y) * inverse);
}

/// Rows of `dim` values as the kernels take them: `[n][stride]`, n a multiple of [`ROWS_UNIT`].
pub(super) fn padded(dim: usize, rows: &[f32]) -> Vec<f32> {
    let stride = stride(dim);
    let mut out = vec![0.0; (rows.len() / dim).next_multiple_of(ROWS_UNIT) * stride];
    out.chunks_exact_mut(stride).zip(rows.chunks_exact(dim)).for_each(|(to, row)| to[..dim].copy_from_slice(row));
    out
}

/// The first `n` rows again.
pub(super) fn unpadded(dim: usize, n: usize, rows: &[f32]) -> Vec<f32> {
    rows.chunks_exact(stride(dim)).take(n).flat_map(|row| &row[..dim]).copied().collect()
}
