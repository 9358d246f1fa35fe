//! Measuring on a user host: every item ranked for users with something held out.
use super::session::{Session, Users};
use crate::{
    Error, TrainResponse, VWORKERS,
    message::{Blob, Side},
    page,
    plan::Hosts,
};
use docent_model::{Kernel, metrics::Metrics, rank, tree};
use futures::future::try_join_all;
use std::{
    ops::Range,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

/// What the compute thread measures with.
struct Measure {
    users: Arc<Users>,
    user_rows: Arc<Vec<f32>>,
    /// All item rows in the order (slot, id).
    table: Vec<f32>,
    /// Per touched item its row in the table, `u32::MAX` when it has none.
    places: Vec<u32>,
    cutoffs: Vec<u16>,
    users_max: usize,
    dim: usize,
    kernel: Kernel,
    threads: usize,
    stop: Arc<AtomicBool>,
}

impl Session {
    pub(super) async fn evaluate(
        &self,
        version: u32,
        items: &[u32],
        cutoffs: &[u16],
        users_max: u32,
    ) -> Result<TrainResponse, Error> {
        if items.len() != usize::from(VWORKERS) || cutoffs.is_empty() || cutoffs.len() > 16 {
            return Err(Error::Invalid("evaluation needs the items of 64 virtual workers and 1 to 16 cut-offs".into()));
        }
        let users = self.users()?;
        // Users were solved once more after the items' last half pass.
        let user_rows = self.rows(Side::Users, version + 1)?;
        let (table, places) = self.pull_tables(&users, version, items).await?;
        let options = &self.context.options;
        let measure = Measure {
            users,
            user_rows,
            table,
            places,
            cutoffs: cutoffs.to_vec(),
            users_max: if users_max == 0 { usize::MAX } else { users_max.div_ceil(u32::from(VWORKERS)) as usize },
            dim: usize::from(self.open.settings.dim),
            kernel: self.context.kernel,
            threads: options.threads,
            stop: self.stop.clone(),
        };
        let sums = self.context.compute.run(move || measure.run()).await??;
        Ok(TrainResponse::Evaluated { sums, bytes_pulled: self.bytes_pulled() })
    }

    /// All item rows, and where this host's touched items are among them. `items`: rows of each virtual worker.
    async fn pull_tables(&self, users: &Users, version: u32, items: &[u32]) -> Result<(Vec<f32>, Vec<u32>), Error> {
        let dim = usize::from(self.open.settings.dim);
        let reader = self.context.options.node;
        let starts: Vec<usize> =
            items.iter().scan(0usize, |next, count| Some(std::mem::replace(next, *next + *count as usize))).collect();
        let total: usize = items.iter().map(|count| *count as usize).sum();
        let pulled = try_join_all(self.open.hosts.item_nodes().into_iter().map(|node| async move {
            let table = self.pull(node, Blob::Table { version }).await?;
            Ok::<_, Error>((node, table, self.pull(node, Blob::Places { reader }).await?))
        }))
        .await?;
        let mut table = vec![0.0f32; total * dim];
        let mut places = vec![u32::MAX; users.side.touched.len()];
        for (node, rows, list) in pulled {
            let own = Hosts::vworkers_of(&self.open.hosts.items, node);
            // The owner's rows are its virtual workers' one after the other; so are the touched items of each.
            let of_owner: Vec<usize> =
                own.iter().flat_map(|w| (starts[usize::from(*w)]..).take(items[usize::from(*w)] as usize)).collect();
            let touched = users.touched.get(&node).map_or(&[][..], Vec::as_slice);
            if rows.len() != of_owner.len() * dim * 4 || list.len() != touched.len() * 4 {
                return Err(Error::Malformed { node, reason: "tables of another size".into() });
            }
            for (at, row) in of_owner.iter().zip(rows.chunks_exact(dim * 4)) {
                table[at * dim..][..dim].iter_mut().zip(page::floats(row)).for_each(|(to, value)| *to = value);
            }
            for (at, place) in touched.iter().zip(page::numbers(&list)) {
                places[*at as usize] = of_owner.get(place as usize).map_or(u32::MAX, |at| *at as u32);
            }
        }
        Ok((table, places))
    }
}

impl Measure {
    fn run(&self) -> Result<Vec<tree::Node<Vec<f64>>>, Error> {
        let items = rank::Items::new(self.dim, &self.table)?;
        let mut leaves = Vec::new();
        for (vworker, range) in &self.users.side.vworkers {
            let value = self.vworker(&items, range.clone())?;
            leaves.push(tree::Node { level: 0, index: *vworker, value });
        }
        Ok(tree::fold(leaves))
    }

    /// Sums over the users of one virtual worker, five per cut-off.
    fn vworker(&self, items: &rank::Items, range: Range<usize>) -> Result<Vec<f64>, Error> {
        if self.stop.load(Ordering::Relaxed) {
            return Err(Error::Cancelled);
        }
        let side = &self.users.side;
        let mut measured: Vec<usize> = range.filter(|user| !side.held_out[*user].is_empty()).collect();
        if measured.len() > self.users_max {
            measured.sort_unstable_by_key(|user| (side.lots[*user], *user));
            measured.truncate(self.users_max);
            measured.sort_unstable();
        }
        let in_table = |touched: &[u32]| {
            let mut list: Vec<u32> =
                touched.iter().map(|at| self.places[*at as usize]).filter(|place| *place != u32::MAX).collect();
            list.sort_unstable();
            list
        };
        let seen: Vec<Vec<u32>> = measured.iter().map(|user| in_table(side.adjacency.row(*user).0)).collect();
        let seen: Vec<&[u32]> = seen.iter().map(Vec::as_slice).collect();
        let rows: Vec<f32> =
            measured.iter().flat_map(|user| self.user_rows[user * self.dim..][..self.dim].iter().copied()).collect();
        let deepest = self.cutoffs.iter().copied().max().unwrap_or(1);
        let lists = items.rank(self.kernel, self.threads, &rows, &seen, usize::from(deepest))?;
        let mut sums = vec![Metrics::default(); self.cutoffs.len()];
        for (user, list) in measured.iter().zip(lists) {
            let truth = in_table(&side.held_out[*user]);
            for (sum, cutoff) in sums.iter_mut().zip(&self.cutoffs) {
                let hits = list.iter().map(|item| truth.binary_search(item).is_ok());
                *sum = sum.plus(Metrics::of_hits(hits, side.held_out[*user].len(), usize::from(*cutoff)));
            }
        }
        Ok(sums.into_iter().flat_map(Metrics::to_array).collect())
    }
}
