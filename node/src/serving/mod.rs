//! What a node keeps in memory to answer from its replicas.
//!
//! | module | owns |
//! |---|---|
//! | [`popularity`] | an item shard's items by popularity |
//! | [`blend`] | an item shard's items under a blend |
//! | [`index`] | an item shard's items under one model version |
//! | [`items`] | an item shard's metadata flags, popularity and indexes |
//! | [`models`] | model versions that this node can answer with |
//! | [`vectors`] | solved user vectors |

pub mod blend;
pub mod index;
pub mod items;
pub mod models;
pub mod popularity;
pub mod vectors;
