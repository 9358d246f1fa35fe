//! Settings for gowalla, chosen on a tenth of its *training* pairs that was held out at random; the test part was never used for it.

/// Docent's iALS: `cargo run --release -p docent-model --example gowalla -- dim=64 epochs=4 reg=0.004 alpha0=0.01 on=held-out` and its neighbours.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Ials {
    /// Passes over both sides.
    pub epochs: u32,
    /// Regularisation.
    pub regularization: f64,
    /// Weight of an unobserved pair.
    pub unobserved_weight: f64,
}

/// implicit's ALS, whose unobserved pairs weigh 1: `baselines/implicit_als.py --hold-out 7` over a grid.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Implicit {
    /// What an observed pair weighs more than an unobserved one.
    pub alpha: f64,
    /// Regularisation.
    pub regularization: f64,
}

impl Ials {
    /// By dimensions.
    pub fn of(dim: u32) -> Ials {
        let epochs = match dim {
            0..128 => 4,
            128..256 => 6,
            _ => 8,
        };
        Ials { epochs, regularization: 0.004, unobserved_weight: 0.01 }
    }

    /// As flags of `docent train`.
    pub fn flags(&self, dim: u32, seed: u64) -> Vec<String> {
        let flags = [
            ("--dim", dim.to_string()),
            ("--epochs", self.epochs.to_string()),
            ("--regularization", self.regularization.to_string()),
            ("--unobserved-weight", self.unobserved_weight.to_string()),
            ("--frequency-scaling", "1".to_owned()),
            ("--seed", seed.to_string()),
        ];
        flags.into_iter().flat_map(|(name, value)| [name.to_owned(), value]).collect()
    }
}

impl Implicit {
    /// By dimensions.
    pub fn of(dim: u32) -> Implicit {
        let regularization = match dim {
            0..128 => 1.0,
            128..256 => 50.0,
            _ => 30.0,
        };
        Implicit { alpha: 60.0, regularization }
    }
}
