//! Settings as clients give them.
use super::{
    Admission, Algorithm, BLEND, Blend, GRAPH, Graph, IALS, Ials, SOFTMAX, Softmax, Split, TOWER, Tower, TrainSettings,
};
use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};

/// Settings as clients give and read them: of all families side by side, each optional.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[allow(missing_docs, reason = "each is the setting of the same name")]
pub struct GivenSettings {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub algorithm: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub blend_with: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dim: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub epochs: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unobserved_weight: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub regularization: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub frequency_scaling: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user_exponent: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source_exponent: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target_exponent: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub power: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub neighbours: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source_mass_exponent: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target_mass_exponent: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub idf_power: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub item_norm: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub length_share: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub batch: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub negatives: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub temperature: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub folds: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub learning_rate: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub popularity_exponent: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uniform_share: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub popularity_bias: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub loss: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub staleness: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub row_precision: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub warm_epochs: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub warm_from: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user_hidden: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub item_hidden: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dense_rate: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seed: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub holdout: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub split: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_positives: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub items_max: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub refit: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub activate: Option<bool>,
}

impl GivenSettings {
    /// The settings of a job, with what is absent at its default, checked.
    ///
    /// # Errors
    /// `Invalid`, naming the setting: out of range, or one of another family.
    pub fn settings(mut self) -> Result<TrainSettings> {
        let default = TrainSettings::default();
        let algorithm = match self.algorithm.as_deref() {
            None | Some(IALS) => Algorithm::Ials(Ials::take_alone(&mut self)?),
            Some(GRAPH) => Algorithm::Graph(Graph::take(&mut self)?),
            Some(SOFTMAX) => Algorithm::Softmax(Box::new(Softmax::take(&mut self)?)),
            Some(TOWER) => Algorithm::Tower(Box::new(Tower::take(&mut self)?)),
            Some(BLEND) => Algorithm::Blend(Box::new(Blend::take(&mut self)?)),
            Some(other) => {
                let message =
                    format!("unknown algorithm {other:?}; known: {IALS}, {GRAPH}, {SOFTMAX}, {TOWER}, {BLEND}");
                return Err(Error::invalid("algorithm", message));
            }
        };
        if let Some(field) = self.left() {
            return Err(Error::invalid(field, format!("{field} is not a setting of {}", algorithm.name())));
        }
        let settings = TrainSettings {
            algorithm,
            seed: self.seed.unwrap_or(default.seed),
            holdout: self.holdout.unwrap_or(default.holdout),
            split: self.split.as_deref().map_or(Ok(default.split), Split::named)?,
            admission: Admission {
                min_positives: self.min_positives.unwrap_or(default.admission.min_positives),
                items_max: self.items_max,
            },
            refit: self.refit.unwrap_or(default.refit),
            activate: self.activate.unwrap_or(default.activate),
        };
        settings.validate()?;
        Ok(settings)
    }

    /// Sets a number of a family by its name; whole numbers are rounded.
    ///
    /// # Errors
    /// `Invalid`, naming a setting that is not one of those.
    pub fn set_number(&mut self, name: &str, value: f64) -> Result<()> {
        let whole = match name {
            "dim" => &mut self.dim,
            "epochs" => &mut self.epochs,
            "neighbours" => &mut self.neighbours,
            "batch" => &mut self.batch,
            "negatives" => &mut self.negatives,
            "folds" => &mut self.folds,
            "staleness" => &mut self.staleness,
            "min_positives" => &mut self.min_positives,
            "user_hidden" => &mut self.user_hidden,
            "item_hidden" => &mut self.item_hidden,
            _ => return self.set_real(name, value),
        };
        // Saturates; the setting's own range is checked with the rest.
        *whole = Some(value.round() as u32);
        Ok(())
    }

    fn set_real(&mut self, name: &str, value: f64) -> Result<()> {
        let real = match name {
            "unobserved_weight" => &mut self.unobserved_weight,
            "regularization" => &mut self.regularization,
            "frequency_scaling" => &mut self.frequency_scaling,
            "user_exponent" => &mut self.user_exponent,
            "source_exponent" => &mut self.source_exponent,
            "target_exponent" => &mut self.target_exponent,
            "power" => &mut self.power,
            "source_mass_exponent" => &mut self.source_mass_exponent,
            "target_mass_exponent" => &mut self.target_mass_exponent,
            "idf_power" => &mut self.idf_power,
            "length_share" => &mut self.length_share,
            "temperature" => &mut self.temperature,
            "learning_rate" => &mut self.learning_rate,
            "popularity_exponent" => &mut self.popularity_exponent,
            "uniform_share" => &mut self.uniform_share,
            "popularity_bias" => &mut self.popularity_bias,
            "dense_rate" => &mut self.dense_rate,
            _ => return Err(Error::invalid(name, format!("{name:?} is no number of a family's settings"))),
        };
        *real = Some(value);
        Ok(())
    }

    /// A family's setting that its family did not take.
    fn left(&self) -> Option<&'static str> {
        let families = [
            ("blend_with", self.blend_with.is_some()),
            ("dim", self.dim.is_some()),
            ("epochs", self.epochs.is_some()),
            ("unobserved_weight", self.unobserved_weight.is_some()),
            ("regularization", self.regularization.is_some()),
            ("frequency_scaling", self.frequency_scaling.is_some()),
            ("user_exponent", self.user_exponent.is_some()),
            ("source_exponent", self.source_exponent.is_some()),
            ("target_exponent", self.target_exponent.is_some()),
            ("power", self.power.is_some()),
            ("neighbours", self.neighbours.is_some()),
            ("source_mass_exponent", self.source_mass_exponent.is_some()),
            ("target_mass_exponent", self.target_mass_exponent.is_some()),
            ("idf_power", self.idf_power.is_some()),
            ("item_norm", self.item_norm.is_some()),
            ("length_share", self.length_share.is_some()),
            ("batch", self.batch.is_some()),
            ("negatives", self.negatives.is_some()),
            ("temperature", self.temperature.is_some()),
            ("folds", self.folds.is_some()),
            ("learning_rate", self.learning_rate.is_some()),
            ("popularity_exponent", self.popularity_exponent.is_some()),
            ("uniform_share", self.uniform_share.is_some()),
            ("popularity_bias", self.popularity_bias.is_some()),
            ("loss", self.loss.is_some()),
            ("staleness", self.staleness.is_some()),
            ("row_precision", self.row_precision.is_some()),
            ("warm_epochs", self.warm_epochs.is_some()),
            ("warm_from", self.warm_from.is_some()),
            ("user_hidden", self.user_hidden.is_some()),
            ("item_hidden", self.item_hidden.is_some()),
            ("dense_rate", self.dense_rate.is_some()),
        ];
        families.into_iter().find(|(_, is_given)| *is_given).map(|(field, _)| field)
    }
}

impl From<&TrainSettings> for GivenSettings {
    fn from(settings: &TrainSettings) -> GivenSettings {
        let shared = GivenSettings {
            algorithm: Some(settings.algorithm.name().to_owned()),
            seed: Some(settings.seed),
            holdout: Some(settings.holdout),
            split: Some(settings.split.name().to_owned()),
            min_positives: Some(settings.admission.min_positives),
            items_max: settings.admission.items_max,
            refit: Some(settings.refit),
            activate: Some(settings.activate),
            ..GivenSettings::default()
        };
        match &settings.algorithm {
            Algorithm::Ials(ials) => ials.give(shared),
            Algorithm::Graph(graph) => graph.give(shared),
            Algorithm::Softmax(softmax) => softmax.give(shared),
            Algorithm::Tower(tower) => tower.give(shared),
            Algorithm::Blend(blend) => blend.give(shared),
        }
    }
}
