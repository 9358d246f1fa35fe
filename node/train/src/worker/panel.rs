//! The other side's rows that half a pass reads: each is put where it is needed as it comes, and this host's own are copied at the end.
use super::session::{Session, no_host};
use crate::{
    Error,
    message::{Blob, Side, Source},
};
use bytes::Bytes;
use futures::future::try_join_all;
use std::sync::{Arc, Mutex, PoisonError};

/// The rows of one host.
pub(super) struct Share {
    pub(super) node: u64,
    /// Where they belong in the panel, in the order in which the host sends them.
    pub(super) places: Places,
}

/// Places in a panel.
pub(super) enum Places {
    Listed(Arc<Vec<u32>>),
    /// One after the other: the first, and how many.
    From(usize, usize),
}

impl Places {
    fn len(&self) -> usize {
        match self {
            Places::Listed(places) => places.len(),
            Places::From(_, count) => *count,
        }
    }

    fn at(&self, n: usize) -> Option<usize> {
        match self {
            Places::Listed(places) => places.get(n).map(|place| *place as usize),
            Places::From(first, count) => (n < *count).then(|| first + n),
        }
    }
}

/// Rows that have come, and what is still to be copied from this host's own.
pub(super) struct Panel {
    /// In the beginning of this.
    room: Vec<f32>,
    count: usize,
    own: Option<Own>,
}

/// This host's own share: rows, and which of them go where.
struct Own {
    rows: Arc<Vec<f32>>,
    list: Arc<Vec<u32>>,
    places: Places,
}

impl Panel {
    /// Puts this host's own rows where they belong. Copies tens of megabytes: not on a thread that queries wait for.
    pub(super) fn finish(&mut self, dim: usize) -> Result<(), Error> {
        let Some(Own { rows, list, places }) = self.own.take() else { return Ok(()) };
        if list.len() != places.len() {
            return Err(Error::Internal("a host does not agree with itself about rows".to_owned()));
        }
        for (n, from) in list.iter().enumerate() {
            let to = places.at(n).and_then(|place| self.room.get_mut(place * dim..(place + 1) * dim));
            let to = to.ok_or_else(|| Error::Internal("a row beyond the panel".to_owned()))?;
            match rows.get(*from as usize * dim..).and_then(|rest| rest.get(..dim)) {
                Some(row) => to.copy_from_slice(row),
                // An item that is not in the model.
                None => to.fill(0.0),
            }
        }
        Ok(())
    }

    /// All rows.
    pub(super) fn rows(&self, dim: usize) -> &[f32] {
        &self.room[..self.count * dim]
    }

    /// The memory, for the next one: users' and items' are of different sizes, and it stays as large as the larger.
    pub(super) fn into_room(self) -> Vec<f32> {
        self.room
    }
}

impl Session {
    /// The rows of `side` at `version` that this host needs, `count` of them; `room` is used again.
    pub(super) async fn panel(
        &self,
        side: Side,
        version: u32,
        shares: Vec<Share>,
        count: usize,
        mut room: Vec<f32>,
    ) -> Result<Panel, Error> {
        let (node, dim) = (self.context.options.node, self.dim()?);
        room.resize(room.len().max(count * dim), 0.0);
        let (own, others): (Vec<Share>, Vec<Share>) = shares.into_iter().partition(|share| share.node == node);
        let own = match own.into_iter().next() {
            None => None,
            Some(Share { places, .. }) => {
                Some(Own { rows: self.rows(side, version)?, list: self.sent_rows(side, node)?, places })
            }
        };
        // All pulls are polled by this task alone, so nobody ever waits for the lock.
        let room = Mutex::new(room);
        let blob = Blob::Rows { side, version, reader: node };
        try_join_all(others.iter().map(|share| self.pull_into(share, blob, dim, &room))).await?;
        Ok(Panel { room: room.into_inner().unwrap_or_else(PoisonError::into_inner), count, own })
    }

    async fn pull_into(&self, share: &Share, blob: Blob, dim: usize, room: &Mutex<Vec<f32>>) -> Result<(), Error> {
        let malformed = || Error::Malformed { node: share.node, reason: "rows of another number".to_owned() };
        let (rows, width) = (self.open.rows, self.open.rows.row_bytes(dim));
        let take = |offset: u64, _: u64, bytes: Bytes| {
            let first = usize::try_from(offset).map_err(|_| malformed())? / width;
            let mut panel = room.lock().unwrap_or_else(PoisonError::into_inner);
            for (n, row) in (first..).zip(bytes.chunks_exact(width)) {
                let to = share.places.at(n).and_then(|place| panel.get_mut(place * dim..(place + 1) * dim));
                rows.read(row, to.ok_or_else(malformed)?);
            }
            Ok(())
        };
        let total = self.read_each(share.node, width, Source::Blob { key: self.open.key, blob }, take).await?;
        if total == (share.places.len() * width) as u64 { Ok(()) } else { Err(malformed()) }
    }

    /// Which rows of a side this host sends to `reader`, in order; beyond the last one for an item that is not in the model.
    pub(super) fn sent_rows(&self, side: Side, reader: u64) -> Result<Arc<Vec<u32>>, Error> {
        let list = match side {
            Side::Users => self.users()?.readers.get(&reader).cloned(),
            Side::Items => self.items()?.places.get(&reader).cloned(),
        };
        list.ok_or_else(|| no_host(reader))
    }
}
