//! What holders of model parts give each other.

use serde::{Deserialize, Serialize};

/// Asks for a part from `offset` on; the reply is a stream of chunks of at most 1 MiB, raw bytes each.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    /// blake3 of the whole part.
    pub hash: [u8; 32],
    /// Where to go on after an interruption.
    pub offset: u64,
}
