//! A host's users: read from its shards, or taken over from an earlier run of the attempt.
use super::Context;
use crate::{
    Error, ItemNumbers,
    load::{self, Splitting, UserSide},
    message::Open,
    plan::{HoldOut, Hosts},
};
use docent_model::parallel;
use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

/// This host's users and what it exchanges with each owner.
pub(super) struct Users {
    pub(super) side: UserSide,
    /// Per owner, touched items in the order of its rows.
    pub(super) touched: BTreeMap<u64, Arc<Vec<u32>>>,
    /// Per owner, the user rows that it reads.
    pub(super) readers: BTreeMap<u64, Arc<Vec<u32>>>,
}

/// The users of an earlier run, and what was held out of them.
pub(super) type Known = Option<(Option<HoldOut>, Arc<Users>)>;

impl Users {
    /// The users of a run. All runs of an attempt read the same cut with the same seed, so what one read serves those that come after it.
    pub(super) fn of(known: Known, context: &Context, open: &Open, stop: &AtomicBool) -> Result<Arc<Self>, Error> {
        let side = match known {
            Some((hold_out, users)) if hold_out == open.hold_out => return Ok(users),
            Some((_, users)) if open.hold_out.is_none() => users.side.whole(),
            _ => read(context, open, stop)?,
        };
        Ok(Arc::new(Self::new(side, &open.hosts)))
    }

    pub(super) fn new(side: UserSide, hosts: &Hosts) -> Self {
        let shared =
            |lists: BTreeMap<u64, Vec<u32>>| lists.into_iter().map(|(node, list)| (node, Arc::new(list))).collect();
        let (touched, readers) = (shared(side.touched_by_owner(hosts)), shared(side.readers(hosts)));
        Self { side, touched, readers }
    }
}

/// Reads and sorts every user virtual worker of this host: each thread takes one after the other.
fn read(context: &Context, open: &Open, stop: &AtomicBool) -> Result<UserSide, Error> {
    let input = context.parts.inputs.users(open.key.job, open.key.epoch)?;
    let own = Hosts::vworkers_of(&open.hosts.users, context.options.node);
    let (threads, next) = (context.options.threads, AtomicUsize::new(0));
    let read = |_| {
        let (mut items, mut loaded) = (ItemNumbers::default(), Vec::new());
        while let Some(vworker) = own.get(next.fetch_add(1, Ordering::Relaxed)) {
            if stop.load(Ordering::Relaxed) {
                return Err(Error::Cancelled);
            }
            loaded.push(load::vworker(*vworker, input.users(*vworker, &mut items)?)?);
        }
        Ok(load::Read { items, loaded })
    };
    let read = parallel::map(threads, (0..threads).collect(), read).into_iter().collect::<Result<_, _>>()?;
    load::join(threads, read, Splitting { hold_out: open.hold_out, seed: open.seed })
}
