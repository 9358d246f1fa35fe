//! The generator as a source: what `docent generate` writes, without files in between.

use crate::failure::Result;
use crate::generate::events::Events;
use crate::generate::world::World;
use crate::import::row::{Row, Source};
use docent_proto::v1::{Event, Item, Profile};
use std::sync::Arc;

const NAME: &str = "generated";

/// Generated events.
pub struct GeneratedEvents {
    events: Events,
    total: u64,
}

impl GeneratedEvents {
    /// All events of a world.
    pub fn new(world: Arc<World>) -> GeneratedEvents {
        GeneratedEvents { total: world.settings().events, events: Events::new(world) }
    }
}

impl Source for GeneratedEvents {
    type Record = Event;

    fn name(&self) -> &str {
        NAME
    }

    fn total(&self) -> u64 {
        self.total
    }

    fn position(&self) -> u64 {
        self.events.position()
    }

    fn next_row(&mut self) -> Result<Option<Row<Event>>> {
        Ok(self.events.next().map(|event| Row { line: self.events.position(), record: Ok(event) }))
    }
}

/// Generated items or users, by number.
pub struct GeneratedThings<T> {
    world: Arc<World>,
    make: fn(&World, u64) -> T,
    next: u64,
    total: u64,
}

/// Generated items.
pub fn items(world: Arc<World>) -> GeneratedThings<Item> {
    let make = |world: &World, n: u64| world.item(u32::try_from(n).expect("at most 20 million items"));
    GeneratedThings { total: world.settings().items, world, make, next: 0 }
}

/// Generated users.
pub fn users(world: Arc<World>) -> GeneratedThings<Profile> {
    GeneratedThings { total: world.settings().users, world, make: World::profile, next: 0 }
}

impl<T: Send + 'static> Source for GeneratedThings<T> {
    type Record = T;

    fn name(&self) -> &str {
        NAME
    }

    fn total(&self) -> u64 {
        self.total
    }

    fn position(&self) -> u64 {
        self.next
    }

    fn next_row(&mut self) -> Result<Option<Row<T>>> {
        if self.next == self.total {
            return Ok(None);
        }
        let thing = (self.make)(&self.world, self.next);
        self.next += 1;
        Ok(Some(Row { line: self.next, record: Ok(thing) }))
    }
}
