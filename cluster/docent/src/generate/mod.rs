//! The data generator: the same settings and seed give the same bytes on every machine, in memory of the order of the items.
//!
//! A catalogue whose popularity follows the Zipf-Mandelbrot law (Mandelbrot 1953; `weight(rank) = 1 / (rank + q)`), split into latent
//! clusters; users with a few favourite clusters, heavy-tailed activity and demographics; events in sessions. Only integer
//! arithmetic, the four operations and square roots decide anything: all of them are exact by IEEE 754, where `powf` and `ln` differ
//! between C libraries. Every user and item draws from its own ChaCha8 stream, so nothing depends on the order of generation.
//!
//! | module | owns |
//! |---|---|
//! | [`draw`] | counter-based random streams |
//! | [`words`] | titles, categories, demographics |
//! | [`world`] | settings, the catalogue, the users |
//! | [`events`] | the stream of events |
//! | [`write`] | files |

pub mod draw;
pub mod events;
pub mod words;
pub mod world;
pub mod write;
