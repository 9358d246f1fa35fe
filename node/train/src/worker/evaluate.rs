//! Measuring on a user host: every item ranked for users with something held out.
use super::session::{Session, Users};
use crate::{
    Error, TrainResponse, VWORKERS,
    message::{Blob, Side},
    page,
    plan::Hosts,
};
use docent_model::{
    Kernel,
    evaluation::{Catalogue, Judged, Sums, weights},
    rank, tree,
};
use futures::future::try_join_all;
use std::{
    ops::Range,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

/// What is ranked, as the owners of the items gave it.
struct Tables {
    /// All item rows in the order (slot, id).
    rows: Vec<f32>,
    /// Positives of each.
    positives: Vec<u32>,
    /// Per touched item its row, `u32::MAX` when it has none.
    places: Vec<u32>,
}

type PartialSums = Vec<tree::Node<Vec<f64>>>;

/// What the compute thread measures with.
struct Measure {
    users: Arc<Users>,
    user_rows: Arc<Vec<f32>>,
    tables: Tables,
    /// Users in the cluster.
    users_total: u64,
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
        (items, users_total): (&[u32], u64),
        cutoffs: &[u16],
        users_max: u32,
    ) -> Result<TrainResponse, Error> {
        if items.len() != usize::from(VWORKERS) || cutoffs.is_empty() || cutoffs.len() > 16 {
            return Err(Error::Invalid("evaluation needs the items of 64 virtual workers and 1 to 16 cut-offs".into()));
        }
        let users = self.users()?;
        // Users were solved once more after the items' last half pass.
        let user_rows = self.rows(Side::Users, version + 1)?;
        let tables = self.pull_tables(&users, version, items).await?;
        let options = &self.context.options;
        let measure = Measure {
            users,
            user_rows,
            tables,
            users_total,
            cutoffs: cutoffs.to_vec(),
            users_max: if users_max == 0 { usize::MAX } else { users_max.div_ceil(u32::from(VWORKERS)) as usize },
            dim: usize::from(self.open.settings.dim),
            kernel: self.context.kernel,
            threads: options.threads,
            stop: self.stop.clone(),
        };
        let (sums, shown) = self.context.compute.run(move || measure.run()).await??;
        self.state().shown = Some(shown.into_iter().flat_map(u32::to_le_bytes).collect::<Vec<_>>().into());
        Ok(TrainResponse::Evaluated { sums, bytes_pulled: self.bytes_pulled() })
    }

    /// All item rows with their positives, and where this host's touched items are among them. `items`: rows of each virtual worker.
    async fn pull_tables(&self, users: &Users, version: u32, items: &[u32]) -> Result<Tables, Error> {
        let dim = usize::from(self.open.settings.dim);
        let reader = self.context.options.node;
        let starts: Vec<usize> =
            items.iter().scan(0usize, |next, count| Some(std::mem::replace(next, *next + *count as usize))).collect();
        let total: usize = items.iter().map(|count| *count as usize).sum();
        let pulled = try_join_all(self.open.hosts.item_nodes().into_iter().map(|node| async move {
            let table = self.pull(node, Blob::Table { version }).await?;
            let positives = self.pull(node, Blob::Positives).await?;
            Ok::<_, Error>((node, table, positives, self.pull(node, Blob::Places { reader }).await?))
        }))
        .await?;
        let mut tables = Tables {
            rows: vec![0.0f32; total * dim],
            positives: vec![0; total],
            places: vec![u32::MAX; users.side.touched.len()],
        };
        for (node, rows, positives, list) in pulled {
            let own = Hosts::vworkers_of(&self.open.hosts.items, node);
            // The owner's rows are its virtual workers' one after the other; so are the touched items of each.
            let of_owner: Vec<usize> =
                own.iter().flat_map(|w| (starts[usize::from(*w)]..).take(items[usize::from(*w)] as usize)).collect();
            let touched = users.touched.get(&node).map_or(&[][..], Vec::as_slice);
            let is_whole = rows.len() == of_owner.len() * dim * 4 && positives.len() == of_owner.len() * 4;
            if !is_whole || list.len() != touched.len() * 4 {
                return Err(Error::Malformed { node, reason: "tables of another size".into() });
            }
            for (at, row) in of_owner.iter().zip(rows.chunks_exact(dim * 4)) {
                tables.rows[at * dim..][..dim].iter_mut().zip(page::floats(row)).for_each(|(to, value)| *to = value);
            }
            of_owner.iter().zip(page::numbers(&positives)).for_each(|(at, count)| tables.positives[*at] = count);
            for (at, place) in touched.iter().zip(page::numbers(&list)) {
                tables.places[*at as usize] = of_owner.get(place as usize).map_or(u32::MAX, |at| *at as u32);
            }
        }
        Ok(tables)
    }
}

impl Measure {
    /// Partial sums, and in how many lists each item is, cut-off by cut-off.
    fn run(&self) -> Result<(PartialSums, Vec<u32>), Error> {
        let items = rank::Items::new(self.dim, &self.tables.rows)?;
        let mut shown = vec![0; self.cutoffs.len() * self.tables.positives.len()];
        let mut leaves = Vec::new();
        for (vworker, range) in &self.users.side.vworkers {
            let value = self.vworker(&items, range.clone(), &mut shown)?;
            leaves.push(tree::Node { level: 0, index: *vworker, value });
        }
        Ok((tree::fold(leaves), shown))
    }

    /// Sums over the users of one virtual worker, cut-off by cut-off.
    fn vworker(&self, items: &rank::Items, range: Range<usize>, shown: &mut [u32]) -> Result<Vec<f64>, Error> {
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
                touched.iter().map(|at| self.tables.places[*at as usize]).filter(|row| *row != u32::MAX).collect();
            list.sort_unstable();
            list
        };
        let seen: Vec<Vec<u32>> = measured.iter().map(|user| in_table(side.adjacency.row(*user).0)).collect();
        let seen: Vec<&[u32]> = seen.iter().map(Vec::as_slice).collect();
        let rows: Vec<f32> =
            measured.iter().flat_map(|user| self.user_rows[user * self.dim..][..self.dim].iter().copied()).collect();
        let deepest = self.cutoffs.iter().copied().max().unwrap_or(1);
        let lists = items.rank(self.kernel, self.threads, &rows, &seen, usize::from(deepest))?;
        let catalogue = Catalogue { positives: &self.tables.positives, users: self.users_total };
        let mut sums = vec![Sums::default(); self.cutoffs.len()];
        for (user, list) in measured.iter().zip(lists) {
            let judged = Judged {
                list: &list,
                truth: &in_table(&side.held_out[*user]),
                truths: side.held_out[*user].len(),
                positives: side.adjacency.row(*user).0.len() as u32,
                weights: &weights(side.lots[*user]),
            };
            let shown = shown.chunks_exact_mut(self.tables.positives.len().max(1));
            for ((sums, cutoff), shown) in sums.iter_mut().zip(&self.cutoffs).zip(shown) {
                sums.add(&judged, &catalogue, usize::from(*cutoff));
                list.iter().take(usize::from(*cutoff)).for_each(|item| shown[*item as usize] += 1);
            }
        }
        Ok(sums.iter().flat_map(Sums::to_vec).collect())
    }
}
