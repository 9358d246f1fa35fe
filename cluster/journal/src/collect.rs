//! How old segments go away: from the oldest end, when no live record is left in them.
//!
//! A group that writes little would keep its few records in an old segment for ever, and with it all segments behind.
//! So when more than half of the log is dead, what is live in the oldest segment is written again at the end.

use std::collections::VecDeque;

use crate::Error;
use crate::record::{Head, Kind};
use crate::visible::{Placed, Whose};
use crate::writer::Writer;
use crate::written::Live;

/// Bytes moved between two batches: bounds what moving adds to a caller's wait (a few ms).
const STEP_BYTES_MAX: usize = 512 * 1024;

impl Writer {
    /// Unlinks dead segments and, if that is due, moves a step's worth of live records out of the oldest.
    pub(crate) fn collect(&mut self) -> Result<(), Error> {
        if self.sealed.is_empty() {
            return Ok(());
        }
        self.plan_move();
        if !self.moving.is_empty() {
            self.move_step()?;
        }
        self.unlink_dead()
    }

    fn unlink_dead(&mut self) -> Result<(), Error> {
        while let Some((&oldest, _)) = self.sealed.first_key_value() {
            if self.written.live_bytes(oldest) > 0 {
                break;
            }
            // What made its records dead must be durable before they go.
            self.sync()?;
            let segment = self.visible.lock().segment(oldest);
            self.visible.lock().drop_segment(oldest);
            if let Some(segment) = segment {
                self.disk.remove(&segment.path).map_err(|error| Error::io("remove", &segment.path, error))?;
            }
            // One by one: were a later name to vanish before an earlier one, that would look like a lost segment.
            self.disk.sync_dir(&self.options.dir).map_err(|error| Error::io("sync", &self.options.dir, error))?;
            self.sealed.remove(&oldest);
            self.written.forget_segment(oldest);
            metrics::gauge!("docent_journal_segments").set(self.sealed.len() as f64 + 1.0);
        }
        Ok(())
    }

    /// Starts to move the oldest segment's live records when dead bytes outweigh live ones, and two segments' worth at
    /// least: then each byte moved frees more than one.
    fn plan_move(&mut self) {
        if !self.moving.is_empty() {
            return;
        }
        let Some((&oldest, _)) = self.sealed.first_key_value() else { return };
        let live = self.written.live_bytes_total();
        let dead = (self.sealed.values().sum::<u64>() + self.tail.end).saturating_sub(live);
        if self.pinned_segment == Some(oldest)
            || dead < live.max(2 * self.options.segment_bytes_max)
            || self.written.live_bytes(oldest) == 0
        {
            return;
        }
        let live: VecDeque<Live> = self.written.live_in(oldest).collect();
        if live.iter().any(|live| self.pinned.contains(&live.group)) {
            self.pinned_segment = Some(oldest);
            return;
        }
        self.moving = live;
    }

    fn move_step(&mut self) -> Result<(), Error> {
        self.make_ready()?;
        while self.buffer.len() < STEP_BYTES_MAX {
            let Some(live) = self.moving.pop_front() else { break };
            if self.written.is_live(&live) {
                self.move_one(&live)?;
            }
        }
        self.flush()?;
        self.sync()
    }

    fn move_one(&mut self, live: &Live) -> Result<(), Error> {
        let Some(segment) = self.visible.lock().segment(live.loc.place.segment) else { return Ok(()) };
        match segment.read(live.loc)? {
            Some((head, value)) if head.group == live.group && head.index == live.index => {
                let head = Head { kind: live.kind, ..head };
                let loc = self.put(&head, &value);
                if live.kind == Kind::Moved {
                    let whose = Whose::MovedFrom(live.loc);
                    self.placed.push(Placed { group: live.group, index: live.index, loc, whose });
                }
            }
            _ => {
                let reason = format!("a record in {} is damaged", segment.path.display());
                self.visible.lock().quarantine(live.group, &reason);
                self.pinned.insert(live.group);
            }
        }
        Ok(())
    }
}
