//! What applying and storing events costs: `cargo run --release -p docent-store --example bench -- ../shared/data/gowalla/train.txt`.
//!
//! Reads `user item item ...` lines, cuts them into batches of 10,000 as an import does, routes each to 8 user shards, and
//! prints microseconds of CPU (user and system, background threads included) and of wall clock an event.

#![allow(clippy::disallowed_methods, reason = "a benchmark measures with the real clock")]

use bytes::Bytes;
use docent_placement::SlotHasher;
use docent_shard::training::training_users;
use docent_shard::{ItemShard, Positives, Tx, UserShard, View, counts};
use docent_store::{ShardStore, Store, StoreOptions};
use docent_types::command::{ItemCommand, UserCommand};
use docent_types::event::Event;
use docent_types::{EventId, ItemId, Keyspace, SLOTS, ShardId, SlotRange, TenantId, UserId};
use std::collections::{BTreeMap, HashMap};
use std::error::Error;
use std::ops::ControlFlow;
use std::time::{Duration, Instant};

type Done = Result<(), Box<dyn Error>>;

const USER_SHARDS: u16 = 8;
const ITEM_SHARDS: u16 = 4;
const ALL: SlotRange = SlotRange { first: 0, end: SLOTS };

fn main() -> Done {
    let path = std::env::args().nth(1).ok_or("usage: bench FILE [BATCH] [shuffled]")?;
    let batch: usize = std::env::args().nth(2).map_or(Ok(10_000), |batch| batch.parse())?;
    let mut events = read(&path)?;
    if std::env::args().nth(3).is_some() {
        // By event id's hash: users interleave, as in data sorted by time.
        events.sort_by_cached_key(|event| crc32c::crc32c(event.event_id.as_str().as_bytes()));
    }
    let dir = tempfile::tempdir()?;
    let options = StoreOptions::default();
    let store = Store::open(dir.path(), &options)?;
    let hasher = SlotHasher::new(&[7; 16]);
    let bench = Bench { store, hasher, tenant: TenantId::default(), count: events.len() };
    bench.import(&events, batch)?;
    bench.import_again(&events, batch)?;
    bench.items(&events)?;
    bench.reads(&events)?;
    bench.snapshot()?;
    let reopening = Measure::start();
    drop(bench);
    Store::open(dir.path(), &options)?.flush()?;
    reopening.print("close and open again", 1);
    Ok(())
}

fn read(path: &str) -> Result<Vec<Event>, Box<dyn Error>> {
    let mut events = Vec::new();
    for line in std::fs::read_to_string(path)?.lines() {
        let mut ids = line.split_ascii_whitespace();
        let Some(user) = ids.next() else { continue };
        let user_id = UserId::new(user)?;
        for item in ids {
            events.push(Event {
                event_id: EventId::new(format!("0f1e2d3c4b5a6978-{}", events.len()))?,
                user_id: user_id.clone(),
                item_id: ItemId::new(item)?,
                event_type: "view".into(),
                value: None,
                timestamp_ms: 1_700_000_000_000 + events.len() as i64,
                session_id: None,
                recommendation_id: None,
                position: None,
                context: BTreeMap::new(),
            });
        }
    }
    Ok(events)
}

struct Bench {
    store: Store,
    hasher: SlotHasher,
    tenant: TenantId,
    count: usize,
}

impl Bench {
    fn user_shard(&self, index: u16) -> Result<ShardStore, docent_store::Error> {
        self.store.shard(ShardId { keyspace: Keyspace::Users, index })
    }

    fn import(&self, events: &[Event], batch: usize) -> Done {
        let (mut apply, mut commit) = (Duration::ZERO, Duration::ZERO);
        let whole = Measure::start();
        self.append(events, batch, 1, &mut apply, &mut commit)?;
        self.store.flush()?;
        whole.print(&format!("apply and commit, batches of {batch}"), self.count);
        println!("  of which apply {:.2} us, commit {:.2} us of wall clock an event", self.us(apply), self.us(commit));
        let usage = self.store.usage()?;
        println!("  {} records, {usage:?}", self.store.records()?);
        Ok(())
    }

    fn import_again(&self, events: &[Event], batch: usize) -> Done {
        let again = Measure::start();
        self.append(events, batch, 1_000_000, &mut Duration::default(), &mut Duration::default())?;
        again.print("the same again, all duplicates", self.count);
        Ok(())
    }

    fn us(&self, duration: Duration) -> f64 {
        duration.as_secs_f64() * 1e6 / self.count as f64
    }

    fn append(&self, events: &[Event], batch: usize, first: u64, apply: &mut Duration, commit: &mut Duration) -> Done {
        let machine = UserShard::new(self.hasher);
        for (index, events) in (first..).zip(events.chunks(batch)) {
            let mut routed: BTreeMap<u16, Vec<Event>> = BTreeMap::new();
            for event in events {
                let slot = self.hasher.slot(&self.tenant, event.user_id.as_str());
                routed.entry(slot.0 / (SLOTS / USER_SHARDS)).or_default().push(event.clone());
            }
            for (shard, events) in routed {
                let shard = self.user_shard(shard)?;
                let command = UserCommand::Append { tenant: self.tenant.clone(), events, received_ms: 0 };
                let start = Instant::now();
                let view = shard.view()?;
                let mut tx = Tx::new(&view);
                machine.apply(&mut tx, index, command)?;
                *apply += start.elapsed();
                let start = Instant::now();
                shard.commit(tx.into_batch(), &index.to_be_bytes())?;
                *commit += start.elapsed();
            }
        }
        Ok(())
    }

    /// Stubs for all items, then one round of counts from every user shard.
    fn items(&self, events: &[Event]) -> Done {
        let machine = ItemShard::new(self.hasher);
        let mut item_ids: BTreeMap<u16, Vec<ItemId>> = BTreeMap::new();
        for event in events {
            item_ids.entry(self.item_shard(&event.item_id)).or_default().push(event.item_id.clone());
        }
        let ensure = Measure::start();
        for (shard, mut item_ids) in item_ids {
            item_ids.sort();
            item_ids.dedup();
            self.item_command(&machine, shard, ItemCommand::Ensure { tenant: self.tenant.clone(), item_ids })?;
        }
        ensure.print("stubs for all items", self.count);
        let (publish, mut published) = (Measure::start(), 0);
        for index in 0..USER_SHARDS {
            let mut routed: BTreeMap<u16, Vec<(ItemId, u64)>> = BTreeMap::new();
            let view = self.user_shard(index)?.view()?;
            counts::changed(&view, &self.tenant, 0, &mut |item_id, count| {
                published += 1;
                routed.entry(self.item_shard(&item_id)).or_default().push((item_id, count));
                Ok(ControlFlow::Continue(()))
            })?;
            for (shard, counts) in routed {
                let from = ShardId { keyspace: Keyspace::Users, index };
                self.item_command(
                    &machine,
                    shard,
                    ItemCommand::Counts { tenant: self.tenant.clone(), from, at: 1, counts },
                )?;
            }
        }
        publish.print("counts of all items from every user shard, a count", published);
        Ok(())
    }

    fn item_shard(&self, item_id: &ItemId) -> u16 {
        self.hasher.slot(&self.tenant, item_id.as_str()).0 / (SLOTS / ITEM_SHARDS)
    }

    fn item_command(&self, machine: &ItemShard, index: u16, command: ItemCommand) -> Done {
        let shard = self.store.shard(ShardId { keyspace: Keyspace::Items, index })?;
        let view = shard.view()?;
        let mut tx = Tx::new(&view);
        machine.apply(&mut tx, 1, command)?;
        Ok(shard.commit(tx.into_batch(), b"1")?)
    }

    fn reads(&self, events: &[Event]) -> Done {
        let machine = UserShard::new(self.hasher);
        let settings = Positives::default();
        let mut users: Vec<&UserId> = events.iter().map(|event| &event.user_id).collect();
        users.sort();
        users.dedup();
        let histories = Measure::start();
        let mut positives = 0;
        for user_id in &users {
            let slot = self.hasher.slot(&self.tenant, user_id.as_str());
            let view = self.user_shard(slot.0 / (SLOTS / USER_SHARDS))?.view()?;
            let history = machine.history(&view, &self.tenant, user_id, &settings)?;
            positives += history.map_or(0, |history| history.positives.len());
        }
        histories.print(&format!("history of a user ({positives} positives in all), a user"), users.len());
        let (training, mut pairs, mut numbers) = (Measure::start(), 0, HashMap::new());
        for index in 0..USER_SHARDS {
            let view = self.user_shard(index)?.view()?;
            let number = &mut |item: &str| {
                let known = numbers.get(item).copied();
                Ok(known.unwrap_or_else(|| {
                    numbers.insert(item.to_owned(), numbers.len() as u32);
                    numbers.len() as u32 - 1
                }))
            };
            training_users(&view, &self.tenant, ALL, &settings, number, &mut |user| {
                pairs += user.positives.len();
                Ok(ControlFlow::Continue(()))
            })?;
        }
        training.print(&format!("training input ({pairs} pairs), an event"), self.count);
        let (scan, mut keys) = (Measure::start(), 0);
        for index in 0..USER_SHARDS {
            self.user_shard(index)?.view()?.scan(b"", None, &mut |_, _| {
                keys += 1;
                Ok(ControlFlow::Continue(()))
            })?;
        }
        scan.print("a bare scan, a record", keys);
        Ok(())
    }

    fn snapshot(&self) -> Done {
        let taking = Measure::start();
        let source = self.user_shard(0)?;
        let chunks: Vec<Bytes> = source.snapshot()?.chunks(1 << 20).collect::<Result<_, _>>()?;
        let bytes: usize = chunks.iter().map(Bytes::len).sum();
        taking.print(
            &format!("a snapshot of one shard ({} chunks, {bytes} bytes), an event", chunks.len()),
            self.count / 8,
        );
        let installing = Measure::start();
        self.user_shard(99)?.install(b"m", chunks.into_iter().map(Ok))?;
        installing.print("its installation, an event", self.count / 8);
        Ok(())
    }
}

/// Wall clock and CPU since a moment.
struct Measure {
    wall: Instant,
    cpu: Duration,
}

impl Measure {
    fn start() -> Measure {
        Measure { wall: Instant::now(), cpu: cpu() }
    }

    fn print(&self, what: &str, count: usize) {
        let (wall, cpu) = (self.wall.elapsed(), cpu() - self.cpu);
        let each = |duration: Duration| duration.as_secs_f64() * 1e6 / count.max(1) as f64;
        println!("{what}: {count} in {wall:.2?}, {:.2} us wall and {:.2} us CPU each", each(wall), each(cpu));
    }
}

/// User and system time of this process, all threads, in ticks of 10 ms.
fn cpu() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let after_name = stat.rsplit(')').next().unwrap_or_default();
    let ticks = after_name.split_ascii_whitespace().skip(11).take(2).filter_map(|ticks| ticks.parse::<u64>().ok());
    Duration::from_millis(10 * ticks.sum::<u64>())
}
