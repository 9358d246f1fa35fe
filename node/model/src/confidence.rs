//! How much a user's events with an item count: the capped sum of their weights (design.md section 5).
use serde::{Deserialize, Serialize};

/// The rule for one event type.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    /// The event's type, as clients send it.
    pub event_type: String,
    /// Weight of one event, at least 0; 0 makes it count for nothing.
    pub weight: f32,
    /// Events with a value below this count for nothing; none asks for no value.
    #[serde(default)]
    pub value_min: Option<f32>,
}

/// Which events make a positive, and its confidence.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Positives {
    /// Types with a rule of their own.
    pub rules: Vec<Rule>,
    /// Weight of an event of any other type.
    pub weight: f32,
    /// A pair's confidence is at most this. The default 1 makes every positive binary: repeats add recency, not weight.
    pub confidence_max: f32,
}

impl Default for Positives {
    fn default() -> Self {
        Self {
            rules: vec![Rule { event_type: "rating".to_owned(), weight: 1.0, value_min: Some(3.5) }],
            weight: 1.0,
            confidence_max: 1.0,
        }
    }
}

impl Positives {
    /// The weight of one event; 0 when it does not count.
    #[must_use]
    pub fn weight(&self, event_type: &str, value: Option<f32>) -> f32 {
        let Some(rule) = self.rules.iter().find(|rule| rule.event_type == event_type) else { return self.weight };
        match (rule.value_min, value) {
            (None, _) => rule.weight,
            (Some(min), Some(value)) if value >= min => rule.weight,
            _ => 0.0,
        }
    }

    /// The confidence of a pair whose events' weights sum to `weights`; none when the pair is no positive.
    #[must_use]
    pub fn confidence(&self, weights: f32) -> Option<f32> {
        (weights > 0.0).then_some(weights.min(self.confidence_max)).filter(|c| c.is_finite() && *c > 0.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ratings_count_from_three_and_a_half_and_everything_else_counts() {
        let positives = Positives::default();
        assert_eq!(positives.weight("rating", Some(3.5)), 1.0);
        assert_eq!(positives.weight("rating", Some(3.0)), 0.0);
        assert_eq!(positives.weight("rating", None), 0.0);
        assert_eq!(positives.weight("view", None), 1.0);
        assert_eq!(positives.confidence(3.0), Some(1.0));
        assert_eq!(positives.confidence(0.0), None);
        assert_eq!(positives.confidence(f32::NAN), None);
    }
}
