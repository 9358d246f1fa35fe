//! The items of one shard under a blend: what either model finds is scored by both, and by how popular it was when the version was trained.

use docent_index::{ItemIndex, NeighbourIndex, ScoredItem, dot};
use docent_model::Error as ModelError;
use docent_model::blend::Blend;
use docent_types::{Error, Kind, Result};
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

/// Of each model so many of its best are candidates, if no more are asked for: as many as weights are found with.
const DEPTH: usize = 100;

/// A blend's searchable items of one shard.
#[derive(Debug)]
pub struct BlendIndex {
    /// Of the version.
    pub blend: Arc<Blend>,
    /// By neighbours.
    pub graph: NeighbourIndex,
    /// By rows.
    pub rows: ItemIndex,
    /// Positives of the items that were trained.
    pub positives: HashMap<Arc<str>, u32>,
}

impl BlendIndex {
    /// The best `n` items for a user's vector (empty: none) and the fingerprints of the history.
    ///
    /// An item's score needs no other item, so shards are merged by it; what is scored is what either model has among the [`DEPTH`] best of the shard.
    pub fn search(&self, vector: &[f32], sources: &[u64], n: usize, exclude: &[&str]) -> Result<Vec<ScoredItem>> {
        let depth = n.max(DEPTH);
        let mut ids: BTreeSet<Arc<str>> =
            self.graph.search(sources, depth, exclude).into_iter().map(|hit| hit.id).collect();
        if !vector.is_empty() {
            let near = self.rows.search(vector, depth, exclude);
            let near = near.map_err(|error| Error::invalid("vector", error.to_string()))?;
            ids.extend(near.into_iter().map(|hit| hit.id));
        }
        let names: Vec<&str> = ids.iter().map(|id| &**id).collect();
        let of_graph = self.graph.scores(sources, &names);
        let user = self.blend.for_user(sources.len());
        let scores: Vec<[f32; 3]> = ids
            .iter()
            .zip(of_graph)
            .map(|(id, graph)| {
                // The model of a version that has no vector for the user, or none for the item, says nothing of it.
                let row = self.rows.row(id).filter(|row| row.len() == vector.len());
                let near = row.map_or(0.0, |row| dot(vector, &row));
                [graph, near, self.positives.get(id).copied().unwrap_or(0) as f32]
            })
            .collect();
        let unfit = |error: ModelError| Error::new(Kind::Internal, format!("a blend cannot score: {error}"));
        // Ids are in order, and so are their numbers: ties go to the lower id, as everywhere.
        let top = user.top((0u32..).zip(scores.iter().map(|scores| &scores[..])), n).map_err(unfit)?;
        let ids: Vec<Arc<str>> = ids.into_iter().collect();
        Ok(top.into_iter().map(|(at, score)| ScoredItem { id: ids[at as usize].clone(), score }).collect())
    }
}
