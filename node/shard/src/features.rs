//! Which events are positives and how much they weigh.

use docent_types::error::{Error, Result};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// How one type of event counts.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Rule {
    /// What one event adds to the pair's confidence; 0: never a positive.
    pub weight: f32,
    /// The event counts from this value on; without a value it does not.
    pub value_min: Option<f32>,
}

impl Default for Rule {
    fn default() -> Self {
        Rule { weight: 1.0, value_min: None }
    }
}

/// The rules of all types.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Positives {
    /// By event type. Default: `rating` counts from 3.5, the middle of the half-star scale's upper half.
    pub types: BTreeMap<String, Rule>,
    /// For every other type.
    pub others: Rule,
    /// The most that a user-item pair's events sum up to. At the default of 1 repeats add recency, not weight.
    pub confidence_max: f32,
}

impl Default for Positives {
    fn default() -> Self {
        let rating = Rule { weight: 1.0, value_min: Some(3.5) };
        Positives {
            types: BTreeMap::from([("rating".to_owned(), rating)]),
            others: Rule::default(),
            confidence_max: 1.0,
        }
    }
}

impl Positives {
    /// Checks every number; the error names the setting.
    pub fn validate(&self) -> Result<()> {
        for (name, rule) in
            self.types.iter().map(|(name, rule)| (name.as_str(), rule)).chain([("others", &self.others)])
        {
            if !(rule.weight.is_finite() && rule.weight >= 0.0) {
                return Err(Error::invalid("weight", format!("positives.{name}.weight must be a number from 0")));
            }
            if rule.value_min.is_some_and(f32::is_nan) {
                return Err(Error::invalid("value_min", format!("positives.{name}.value_min must be a number")));
            }
        }
        if !(self.confidence_max.is_finite() && self.confidence_max > 0.0) {
            return Err(Error::invalid("confidence_max", "positives.confidence_max must be a positive number"));
        }
        Ok(())
    }

    /// What an event adds to its pair's confidence; 0 where it is no positive.
    pub fn weight(&self, event_type: &str, value: Option<f32>) -> f32 {
        let rule = self.types.get(event_type).unwrap_or(&self.others);
        match rule.value_min {
            Some(min) if value.is_none_or(|value| value < min) => 0.0,
            _ => rule.weight,
        }
    }

    /// The confidence of a pair from the weights and times of its events, and the newest time; `None` without events. The sum is in the order
    /// of the events.
    pub(crate) fn sum(&self, events: impl Iterator<Item = (f32, i64)>) -> Option<(f32, i64)> {
        let mut newest = None;
        let sum: f64 = events
            .inspect(|(_, timestamp_ms)| newest = newest.max(Some(*timestamp_ms)))
            .map(|(weight, _)| f64::from(weight))
            .sum();
        newest.map(|newest| ((sum as f32).min(self.confidence_max), newest))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rating_counts_from_three_and_a_half_and_every_other_type_counts() {
        let positives = Positives::default();
        for (event_type, value, weight) in [
            ("rating", Some(3.5), 1.0),
            ("rating", Some(3.0), 0.0),
            ("rating", None, 0.0),
            ("view", None, 1.0),
            ("purchase", Some(0.5), 1.0),
        ] {
            assert_eq!(positives.weight(event_type, value), weight, "{event_type} {value:?}");
        }
        assert_eq!(positives.validate(), Ok(()));
    }

    #[test]
    fn a_bad_rule_is_refused_by_name() {
        let bad = Rule { weight: f32::NAN, value_min: None };
        let positives = Positives { types: BTreeMap::from([("click".to_owned(), bad)]), ..Positives::default() };
        assert!(positives.validate().unwrap_err().message.contains("click"));
        assert!(Positives { confidence_max: 0.0, ..Positives::default() }.validate().is_err());
    }
}
