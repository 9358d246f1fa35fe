//! What each family asks of its settings, and how clients give and read them.
use super::{
    Blend, GivenSettings, Graph, IALS, Ials, ItemNorm, Loss, Partner, Precision, SOFTMAX, Softmax, TOWER, Tower, Warm,
};
use crate::error::{Error, Result};

impl Ials {
    pub(super) fn validate(&self) -> Result<()> {
        within("dim", self.dim, 1..=512, "must be 1 to 512")?;
        within("epochs", self.epochs, 1..=1_000, "must be 1 to 1000")?;
        above_zero("unobserved_weight", self.unobserved_weight, 1.0, "must be above 0 and at most 1")?;
        above_zero("regularization", self.regularization, f64::MAX, "must be a positive number")?;
        within("frequency_scaling", self.frequency_scaling, 0.0..=1.0, "must be 0 to 1")?;
        self.warm.map_or(Ok(()), |warm| within("warm_epochs", warm.epochs, 1..=1_000, "must be 1 to 1000"))
    }

    /// All of a model by itself: a blend's has no version of its own to go on from.
    pub(super) fn take_alone(given: &mut GivenSettings) -> Result<Ials> {
        let (from, ials) = (given.warm_from.take(), Ials::take(given)?);
        let warm = given.warm_epochs.take().filter(|epochs| *epochs > 0).map(|epochs| Warm { epochs, from });
        if warm.is_none() && from.is_some() {
            return Err(Error::invalid("warm_from", "warm_from needs warm_epochs: the passes from that version"));
        }
        Ok(Ials { warm, ..ials })
    }

    pub(super) fn take(given: &mut GivenSettings) -> Result<Ials> {
        let default = Ials::default();
        Ok(Ials {
            dim: given.dim.take().unwrap_or(default.dim),
            epochs: given.epochs.take().unwrap_or(default.epochs),
            unobserved_weight: given.unobserved_weight.take().unwrap_or(default.unobserved_weight),
            regularization: given.regularization.take().unwrap_or(default.regularization),
            frequency_scaling: given.frequency_scaling.take().unwrap_or(default.frequency_scaling),
            row_precision: given.row_precision.take().as_deref().map_or(Ok(default.row_precision), Precision::named)?,
            warm: None,
        })
    }

    pub(super) fn give(&self, shared: GivenSettings) -> GivenSettings {
        GivenSettings {
            dim: Some(self.dim),
            epochs: Some(self.epochs),
            unobserved_weight: Some(self.unobserved_weight),
            regularization: Some(self.regularization),
            frequency_scaling: Some(self.frequency_scaling),
            row_precision: Some(self.row_precision.name().to_owned()),
            warm_epochs: self.warm.map(|warm| warm.epochs),
            warm_from: self.warm.and_then(|warm| warm.from),
            ..shared
        }
    }
}

impl Graph {
    pub(super) fn give(&self, shared: GivenSettings) -> GivenSettings {
        GivenSettings {
            user_exponent: Some(self.user_exponent),
            source_exponent: Some(self.source_exponent),
            target_exponent: Some(self.target_exponent),
            power: Some(self.power),
            neighbours: Some(self.neighbours),
            source_mass_exponent: Some(self.source_mass_exponent),
            target_mass_exponent: Some(self.target_mass_exponent),
            idf_power: Some(self.idf_power),
            ..self.item_norm.give(shared)
        }
    }

    pub(super) fn validate(&self) -> Result<()> {
        for (name, exponent) in [
            ("user_exponent", self.user_exponent),
            ("source_exponent", self.source_exponent),
            ("target_exponent", self.target_exponent),
            ("source_mass_exponent", self.source_mass_exponent),
            ("target_mass_exponent", self.target_mass_exponent),
        ] {
            within(name, exponent, 0.0..=2.0, "must be 0 to 2")?;
        }
        above_zero("power", self.power, 4.0, "must be above 0 and at most 4")?;
        within("neighbours", self.neighbours, 1..=10_000, "must be 1 to 10000")?;
        within("idf_power", self.idf_power, 0.0..=8.0, "must be 0 to 8")?;
        self.item_norm.validate()
    }

    pub(super) fn take(given: &mut GivenSettings) -> Result<Graph> {
        let default = Graph::default();
        Ok(Graph {
            user_exponent: given.user_exponent.take().unwrap_or(default.user_exponent),
            source_exponent: given.source_exponent.take().unwrap_or(default.source_exponent),
            target_exponent: given.target_exponent.take().unwrap_or(default.target_exponent),
            power: given.power.take().unwrap_or(default.power),
            neighbours: given.neighbours.take().unwrap_or(default.neighbours),
            source_mass_exponent: given.source_mass_exponent.take().unwrap_or(default.source_mass_exponent),
            target_mass_exponent: given.target_mass_exponent.take().unwrap_or(default.target_mass_exponent),
            idf_power: given.idf_power.take().unwrap_or(default.idf_power),
            item_norm: ItemNorm::take(given)?,
        })
    }
}

impl Softmax {
    pub(super) fn validate(&self) -> Result<()> {
        within("dim", self.dim, 1..=512, "must be 1 to 512")?;
        within("epochs", self.epochs, 1..=1_000, "must be 1 to 1000")?;
        within("batch", self.batch, 64..=1 << 24, "must be 64 to 16777216")?;
        within("negatives", self.negatives, 16..=65_536, "must be 16 to 65536")?;
        within("temperature", self.temperature, 0.02..=1.0, "must be 0.02 to 1")?;
        within("folds", self.folds, 2..=64, "must be 2 to 64")?;
        above_zero("learning_rate", self.learning_rate, 10.0, "must be above 0 and at most 10")?;
        within("popularity_exponent", self.popularity_exponent, 0.0..=2.0, "must be 0 to 2")?;
        within("uniform_share", self.uniform_share, 0.01..=1.0, "must be 0.01 to 1")?;
        within("popularity_bias", self.popularity_bias, 0.0..=2.0, "must be 0 to 2")?;
        within("staleness", self.staleness, 0..=16, "must be 0 to 16")?;
        // The bias is one more value of a vector.
        let dim_max = if self.popularity_bias > 0.0 { 511 } else { 512 };
        within("dim", self.dim, 1..=dim_max, "must be at most 511 with a popularity_bias")
    }

    pub(super) fn take(given: &mut GivenSettings) -> Result<Softmax> {
        let default = Softmax::default();
        Ok(Softmax {
            dim: given.dim.take().unwrap_or(default.dim),
            epochs: given.epochs.take().unwrap_or(default.epochs),
            batch: given.batch.take().unwrap_or(default.batch),
            negatives: given.negatives.take().unwrap_or(default.negatives),
            temperature: given.temperature.take().unwrap_or(default.temperature),
            folds: given.folds.take().unwrap_or(default.folds),
            learning_rate: given.learning_rate.take().unwrap_or(default.learning_rate),
            popularity_exponent: given.popularity_exponent.take().unwrap_or(default.popularity_exponent),
            uniform_share: given.uniform_share.take().unwrap_or(default.uniform_share),
            popularity_bias: given.popularity_bias.take().unwrap_or(default.popularity_bias),
            loss: given.loss.take().as_deref().map_or(Ok(default.loss), Loss::named)?,
            staleness: given.staleness.take().unwrap_or(default.staleness),
        })
    }
}

impl Softmax {
    pub(super) fn give(&self, shared: GivenSettings) -> GivenSettings {
        GivenSettings {
            dim: Some(self.dim),
            epochs: Some(self.epochs),
            batch: Some(self.batch),
            negatives: Some(self.negatives),
            temperature: Some(self.temperature),
            folds: Some(self.folds),
            learning_rate: Some(self.learning_rate),
            popularity_exponent: Some(self.popularity_exponent),
            uniform_share: Some(self.uniform_share),
            popularity_bias: Some(self.popularity_bias),
            loss: Some(self.loss.name().to_owned()),
            staleness: Some(self.staleness),
            ..shared
        }
    }
}

impl Tower {
    pub(super) fn give(&self, shared: GivenSettings) -> GivenSettings {
        GivenSettings {
            user_hidden: Some(self.user_hidden),
            item_hidden: Some(self.item_hidden),
            dense_rate: Some(self.dense_rate),
            ..self.softmax.give(shared)
        }
    }

    pub(super) fn validate(&self) -> Result<()> {
        self.softmax.validate()?;
        within(
            "staleness",
            self.softmax.staleness,
            0..=0,
            "must be 0 with towers: their weights are those of each step",
        )?;
        for (field, hidden) in [("user_hidden", self.user_hidden), ("item_hidden", self.item_hidden)] {
            within(field, hidden, 0..=512, "must be 0 to 512")?;
            if hidden % 16 != 0 {
                return Err(Error::invalid(field, format!("{field} must be a multiple of 16")));
            }
            within(field, hidden * self.softmax.dim, 0..=65_536, "must be at most 65536 over dim")?;
        }
        above_zero("dense_rate", self.dense_rate, 1.0, "must be above 0 and at most 1")
    }

    pub(super) fn take(given: &mut GivenSettings) -> Result<Tower> {
        let default = Tower::default();
        Ok(Tower {
            softmax: Softmax::take(given)?,
            user_hidden: given.user_hidden.take().unwrap_or(default.user_hidden),
            item_hidden: given.item_hidden.take().unwrap_or(default.item_hidden),
            dense_rate: given.dense_rate.take().unwrap_or(default.dense_rate),
        })
    }
}

impl Blend {
    pub(super) fn validate(&self) -> Result<()> {
        self.graph.validate()?;
        match &self.with {
            Partner::Ials(ials) => ials.validate(),
            Partner::Softmax(softmax) => softmax.validate(),
            Partner::Tower(tower) => tower.validate(),
        }
    }

    pub(super) fn take(given: &mut GivenSettings) -> Result<Blend> {
        let graph = Graph::take(given)?;
        let with = match given.blend_with.take().as_deref() {
            None | Some(IALS) => Partner::Ials(Ials::take(given)?),
            Some(SOFTMAX) => Partner::Softmax(Softmax::take(given)?),
            Some(TOWER) => Partner::Tower(Tower::take(given)?),
            Some(other) => {
                let message =
                    format!("a graph filter is not blended with {other:?}; known: {IALS}, {SOFTMAX}, {TOWER}");
                return Err(Error::invalid("blend_with", message));
            }
        };
        Ok(Blend { graph, with })
    }

    pub(super) fn give(&self, shared: GivenSettings) -> GivenSettings {
        let shared = self.graph.give(shared);
        match &self.with {
            Partner::Ials(ials) => GivenSettings { blend_with: Some(IALS.to_owned()), ..ials.give(shared) },
            Partner::Softmax(softmax) => GivenSettings { blend_with: Some(SOFTMAX.to_owned()), ..softmax.give(shared) },
            Partner::Tower(tower) => GivenSettings { blend_with: Some(TOWER.to_owned()), ..tower.give(shared) },
        }
    }
}

pub(super) fn within<T: PartialOrd>(
    field: &str,
    value: T,
    range: std::ops::RangeInclusive<T>,
    must: &str,
) -> Result<()> {
    if range.contains(&value) { Ok(()) } else { Err(Error::invalid(field, format!("{field} {must}"))) }
}

fn above_zero(field: &str, value: f64, max: f64, must: &str) -> Result<()> {
    if value > 0.0 {
        within(field, value, 0.0..=max, must)
    } else {
        Err(Error::invalid(field, format!("{field} {must}")))
    }
}
