//! The bodies of the members' messages, encoded by `docent_types::codec`.
//!
//! | module | between |
//! |---|---|
//! | [`shard`] | gateways and the replicas of shards |
//! | [`coordinator`] | members and the coordinator |
//! | [`parts`] | holders of model parts |

pub mod coordinator;
pub mod parts;
pub mod shard;

/// Which handler an envelope is for. Numbers are on the wire: never reuse one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u32)]
pub enum Service {
    /// [`coordinator::Request`].
    Coordinator = 1,
    /// [`shard::Request`].
    Shard = 2,
    /// `docent_train`'s requests.
    Train = 3,
    /// [`parts::Request`], as a fetch.
    Parts = 4,
    /// [`coordinator::Watch`], as a fetch: a stream of catalogs.
    Catalog = 5,
    /// [`shard::Export`], as a fetch.
    Export = 6,
}

impl Service {
    /// The service of a wire number.
    pub fn from_number(number: u32) -> Option<Service> {
        use Service::*;
        [Coordinator, Shard, Train, Parts, Catalog, Export].into_iter().find(|service| *service as u32 == number)
    }
}
