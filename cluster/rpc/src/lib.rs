//! What members of a cluster say to each other, and how: channels, deadlines, fencing, the multiplexed raft stream.
//!
//! | module | owns |
//! |---|---|
//! | `bulk` | streams of bytes that nobody packs into messages, both sides |
//! | [`caller`] | the seam to other members, as the rest of Docent sees it |
//! | [`handler`] | the seam on the receiving side |
//! | [`identity`] | who this process is, and the address book |
//! | [`peers`] | the real [`Caller`]: pooled channels, one connection a class of traffic |
//! | [`link`] | the multiplexed raft stream, client side; implements `docent_raft::Transport` |
//! | [`server`] | the receiving side of everything |
//! | `socket` | accepted connections, as tonic takes them |
//! | [`wire`] | between envelopes and the domain |

mod bulk;
pub mod caller;
pub mod handler;
pub mod identity;
pub mod link;
pub mod peers;
pub mod server;
mod socket;
mod wire;

pub use caller::Caller;
pub use handler::Handler;
pub use identity::Identity;
pub use link::RaftTransport;
pub use peers::Peers;
pub use server::Server;
