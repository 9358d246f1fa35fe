//! How model versions compare by what was measured before they were registered.

use crate::catalog::{Catalog, Model, ModelState};

/// The figure that versions are compared by. Its 95 % interval is beside it, as `ndcg@20.low` and `ndcg@20.high`.
pub const COMPARED_BY: &str = "ndcg@20";

impl Model {
    /// The figure that versions are compared by and its 95 % interval; `None` where nothing was held out.
    pub fn compared(&self) -> Option<(f64, [f64; 2])> {
        let figure = |suffix: &str| self.metrics.get(&format!("{COMPARED_BY}{suffix}")).copied();
        Some((figure("")?, [figure(".low")?, figure(".high")?]))
    }
}

impl Catalog {
    /// Why a version that was to become live as soon as it is staged does not: a newer one is or was live, the one that it was to replace was
    /// rolled back, or it is worse than the live one.
    pub fn held_back(&self, model: &Model) -> Option<String> {
        let live = self.live.filter(|_| model.activate && is_new(model))?;
        let newest = live.version.max(live.previous.unwrap_or(0));
        if newest > model.version {
            return Some(format!("version {newest}, which is newer, is live or was"));
        }
        if let Some(parent) = model.parent.filter(|parent| *parent > live.version) {
            return Some(format!("it was to replace version {parent}, which was rolled back"));
        }
        self.worse_than_live(model)
    }

    /// Why a version should not become live: its figure lies below the live version's interval. Versions of which one was not measured, or on
    /// another split, are not compared; nor is one that was live before.
    ///
    /// The users of both measurements are mostly the same, so the figures move together and one interval is enough to compare them.
    pub fn worse_than_live(&self, model: &Model) -> Option<String> {
        let live = self.live_model().filter(|live| live.version != model.version && is_new(model))?;
        let split = |model: &Model| (model.settings.holdout, model.settings.split);
        if split(live) != split(model) {
            return None;
        }
        let ((ours, _), (theirs, [low, high])) = (model.compared()?, live.compared()?);
        (ours < low).then(|| {
            format!(
                "its {COMPARED_BY} of {ours:.4} lies below that of live version {}, {theirs:.4} ({low:.4} to {high:.4})",
                live.version
            )
        })
    }
}

fn is_new(model: &Model) -> bool {
    matches!(model.state, ModelState::Validated | ModelState::Staged)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::{Activation, ModelPart};
    use crate::shard::{Keyspace, SLOTS, SlotRange};
    use crate::training::TrainSettings;
    use std::collections::BTreeMap;

    fn model(version: u64, state: ModelState, figures: &[(&str, f64)]) -> Model {
        let slots = SlotRange { first: 0, end: SLOTS };
        let part = ModelPart { keyspace: Keyspace::Items, slots, hash: [0; 32], bytes: 0, holders: Vec::new() };
        Model {
            version,
            state,
            job: version,
            settings: TrainSettings::default(),
            cut: Vec::new(),
            parts: Vec::new(),
            global: part,
            metrics: figures.iter().map(|(name, value)| ((*name).to_owned(), *value)).collect(),
            parent: None,
            created_ms: 0,
            staged: Default::default(),
            activate: true,
            error: None,
        }
    }

    fn measured(value: f64) -> [(&'static str, f64); 3] {
        [(COMPARED_BY, value), ("ndcg@20.low", value - 0.01), ("ndcg@20.high", value + 0.01)]
    }

    /// Version 5 is live with .2.
    fn catalog(previous: Option<u64>) -> Catalog {
        Catalog {
            models: BTreeMap::from([(5, model(5, ModelState::Live, &measured(0.2)))]),
            live: Some(Activation { version: 5, epoch: 1, previous }),
            ..Catalog::default()
        }
    }

    #[test]
    fn a_version_is_worse_where_its_figure_lies_below_the_live_ones_interval() {
        let catalog = catalog(None);
        let staged = |figures: &[(&str, f64)]| model(6, ModelState::Staged, figures);
        let worse = staged(&measured(0.18));
        assert!(catalog.worse_than_live(&worse).is_some_and(|why| why.contains("0.1800") && why.contains("version 5")));
        assert_eq!(catalog.held_back(&worse), catalog.worse_than_live(&worse));
        assert_eq!(catalog.held_back(&staged(&measured(0.195))), None, "within the interval");
        assert_eq!(catalog.held_back(&staged(&[])), None, "not measured");
        assert_eq!(catalog.held_back(&catalog.models[&5]), None);
        let rolled_back_to = Model { state: ModelState::Retired, ..worse.clone() };
        assert_eq!(catalog.worse_than_live(&rolled_back_to), None, "a rollback goes anywhere");
        let settings = TrainSettings { holdout: 0.2, ..TrainSettings::default() };
        assert_eq!(catalog.held_back(&Model { settings, ..worse.clone() }), None, "another share held out");
        let only_tried = Model { activate: false, ..worse.clone() };
        assert_eq!(catalog.held_back(&only_tried), None, "nobody wants it live");
        assert!(catalog.worse_than_live(&only_tried).is_some());
        assert_eq!(Catalog::default().held_back(&worse), None, "nothing is live");
    }

    #[test]
    fn a_version_never_replaces_a_newer_one_nor_undoes_a_rollback() {
        let of = |version, parent| Model { parent, ..model(version, ModelState::Staged, &[]) };
        assert!(catalog(None).held_back(&of(4, Some(3))).is_some_and(|why| why.contains("version 5, which is newer")));
        assert!(
            catalog(Some(8)).held_back(&of(7, Some(5))).is_some_and(|why| why.contains("version 8, which is newer"))
        );
        let after = catalog(Some(8)).held_back(&of(9, Some(8)));
        assert!(after.is_some_and(|why| why.contains("to replace version 8, which was rolled back")));
        assert_eq!(catalog(Some(8)).held_back(&of(9, Some(5))), None, "trained since");
        assert_eq!(catalog(Some(4)).held_back(&of(7, Some(4))), None, "the live one came while it was trained");
    }
}
