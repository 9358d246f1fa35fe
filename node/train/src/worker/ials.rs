//! iALS on a host: first rows, half passes, and the rows that peers read.
use super::{
    checkpoint::{States, joined},
    evaluate::Ranking,
    order::Order,
    panel::{Panel, Places, Share},
    session::Session,
    users::Users,
};
use crate::{
    Error, Precision, TrainResponse,
    blob::{self, Content},
    link::ItemSide,
    load::ItemKey,
    message::{Blob, Side},
    part::Items,
    plan::Algorithm,
    wire,
};
use bytes::Bytes;
use docent_model::{Adjacency, Kernel, Settings, gramian, init, parallel, rows::HalfPass, tree};
use std::{ops::Range, sync::Arc};

/// Rows that a thread fills at a time: enough that taking them is cheap.
const ROWS_OF_TASK: usize = 256;

/// Both sides' rows on this host, as far as they are solved.
#[derive(Default)]
pub(in crate::worker) struct Rows {
    users: Option<Solved>,
    items: Option<Solved>,
    /// Memory that the next panel may use.
    room: Vec<f32>,
}

/// A side's rows on this host after `version` half passes of that side.
struct Solved {
    version: u32,
    values: Arc<Vec<f32>>,
}

type Sums = Vec<tree::Node<Vec<f64>>>;

/// What half a pass starts from.
enum Start {
    /// Each row's value after the pass before: it is moved towards its optimum.
    From(Arc<Vec<f32>>),
    /// Zero, and moved twice: items that are trained already would lose by users that are half-way.
    Twice,
    /// Nothing: each row is solved exactly.
    Nowhere,
}

/// What half a pass solves: a side's positives, and which rows are which virtual worker's.
trait Half {
    fn adjacency(&self) -> &Adjacency;
    fn vworkers(&self) -> &[(u16, Range<usize>)];
}

impl Half for Users {
    fn adjacency(&self) -> &Adjacency {
        &self.side.adjacency
    }
    fn vworkers(&self) -> &[(u16, Range<usize>)] {
        &self.side.vworkers
    }
}

impl Half for ItemSide {
    fn adjacency(&self) -> &Adjacency {
        &self.adjacency
    }
    fn vworkers(&self) -> &[(u16, Range<usize>)] {
        &self.vworkers
    }
}

/// Rows of items before the first pass, and their sums: those of an earlier version's parts, if there are any, else drawn ones.
pub(super) fn first_rows(
    settings: &Settings,
    precision: Precision,
    (kernel, threads): (Kernel, usize),
    side: &ItemSide,
    base: &[Vec<u8>],
) -> Result<(Rows, Sums), Error> {
    let dim = usize::from(settings.dim);
    let mut rows = vec![0.0; side.items.len() * dim];
    if base.is_empty() {
        let tasks = side.items.chunks(ROWS_OF_TASK).zip(rows.chunks_mut(ROWS_OF_TASK * dim)).collect();
        parallel::map(threads, tasks, |(items, rows): (&[ItemKey], &mut [f32])| {
            for ((_, id), row) in items.iter().zip(rows.chunks_exact_mut(dim)) {
                init::fill(settings.seed, id, settings.init_deviation, row);
            }
        });
    } else {
        let mut rest = &mut rows[..];
        let tasks = base.iter().zip(&side.vworkers).map(|(part, (_, range))| {
            let (own, after) = std::mem::take(&mut rest).split_at_mut(range.len() * dim);
            rest = after;
            (part, &side.items[range.clone()], own)
        });
        let taken =
            parallel::map(threads, tasks.collect(), |(part, items, rows): (&Vec<u8>, &[ItemKey], &mut [f32])| {
                take_over(part, items, dim, rows)
            });
        taken.into_iter().collect::<Result<(), Error>>()?;
    }
    precision.round(&mut rows);
    let losses = vec![[0.0; 2]; side.vworkers.len()];
    let sums = partial_sums(kernel, threads, dim, &rows, &side.vworkers, &losses);
    Ok((Rows { items: Some(Solved { version: 0, values: Arc::new(rows) }), ..Rows::default() }, sums))
}

/// Copies the rows of an earlier version's part. `items` (sorted, as the part's are) that are not in it stay zero: users are solved as if they
/// had not met them, and their own first half pass gives them a row.
fn take_over(part: &[u8], items: &[ItemKey], dim: usize, rows: &mut [f32]) -> Result<(), Error> {
    let part =
        Items::decode(part).map_err(|error| Error::Input(format!("an earlier version cannot be read: {error}")))?;
    if usize::from(part.dim) != dim {
        return Err(Error::Input(format!("the earlier version has {} dimensions, not {dim}", part.dim)));
    }
    let earlier =
        part.items.iter().zip(part.vectors.chunks_exact(dim)).map(|(item, row)| ((item.slot, &*item.id), row));
    let mut earlier = earlier.peekable();
    for ((slot, id), row) in items.iter().zip(rows.chunks_exact_mut(dim)) {
        while earlier.next_if(|(key, _)| *key < (*slot, &**id)).is_some() {}
        if let Some((_, found)) = earlier.next_if(|(key, _)| *key == (*slot, &**id)) {
            row.copy_from_slice(found);
        }
    }
    Ok(())
}

impl Session {
    /// The settings of a job of this family.
    pub(super) fn settings(&self) -> Result<&Settings, Error> {
        match &self.open.algorithm {
            Algorithm::Ials(settings) => Ok(settings),
            _ => Err(Error::Invalid("only iALS solves rows".into())),
        }
    }

    pub(super) fn dim(&self) -> Result<usize, Error> {
        Ok(usize::from(self.settings()?.dim))
    }

    /// The rows of a side when they are at `version`.
    pub(super) fn rows(&self, side: Side, version: u32) -> Result<Arc<Vec<f32>>, Error> {
        let state = self.state();
        let rows = match side {
            Side::Users => &state.rows.users,
            Side::Items => &state.rows.items,
        };
        match rows {
            Some(rows) if rows.version == version => Ok(rows.values.clone()),
            Some(rows) => Err(Error::out_of_turn("for rows", &format!("they are at {}, not {version}", rows.version))),
            None => Err(Error::out_of_turn("for rows", "there are none yet")),
        }
    }

    /// Half a pass: solves one side's rows.
    pub(super) async fn step(
        &self,
        side: Side,
        step: u32,
        gramian: Vec<f64>,
        others: u64,
    ) -> Result<TrainResponse, Error> {
        match side {
            Side::Users => self.solve_users(step, gramian, others).await,
            Side::Items => self.solve_items(step, gramian, others).await,
        }
    }

    /// Item rows at version `step` -> user rows at `step + 1`.
    async fn solve_users(&self, step: u32, gramian: Vec<f64>, others: u64) -> Result<TrainResponse, Error> {
        let users = self.users()?;
        let share =
            |(node, places): (&u64, &Arc<Vec<u32>>)| Share { node: *node, places: Places::Listed(places.clone()) };
        let shares = users.touched.iter().map(share).collect();
        let panel = self.panel(Side::Items, step, shares, users.side.touched.len(), self.room()).await?;
        // The first pass starts from zero, and what is measured with is what a reader solves from the items alone.
        let start = match step {
            step if step == u32::from(self.settings()?.epochs) => Start::Nowhere,
            0 if self.open.base.is_some() => Start::Twice,
            0 => Start::From(Arc::new(vec![0.0; users.side.adjacency.rows() * self.dim()?])),
            step => Start::From(self.taken_rows(Side::Users, step)?),
        };
        let (rows, sums) = self.half_pass(users, panel, (gramian, others), Side::Users, start).await?;
        self.state().rows.users = Some(Solved { version: step + 1, values: Arc::new(rows) });
        Ok(TrainResponse::Stepped { sums, bytes_pulled: self.bytes_pulled() })
    }

    /// User rows at version `step + 1` -> item rows at `step + 1`.
    async fn solve_items(&self, step: u32, gramian: Vec<f64>, others: u64) -> Result<TrainResponse, Error> {
        let items = self.items()?;
        let mut count = 0;
        let share = |(node, rows): (&u64, &usize)| {
            count += rows;
            Share { node: *node, places: Places::From(count - rows, *rows) }
        };
        let shares = items.panel.iter().map(share).collect();
        let panel = self.panel(Side::Users, step + 1, shares, count, self.room()).await?;
        let start = Start::From(self.taken_rows(Side::Items, step)?);
        let (rows, sums) = self.half_pass(items, panel, (gramian, others), Side::Items, start).await?;
        self.state().rows.items = Some(Solved { version: step + 1, values: Arc::new(rows) });
        Ok(TrainResponse::Stepped { sums, bytes_pulled: self.bytes_pulled() })
    }

    /// Rows that nobody reads any more: they become those of the next version where they are.
    fn taken_rows(&self, side: Side, version: u32) -> Result<Arc<Vec<f32>>, Error> {
        self.rows(side, version)?;
        let mut state = self.state();
        let rows = match side {
            Side::Users => state.rows.users.take(),
            Side::Items => state.rows.items.take(),
        };
        rows.map(|rows| rows.values).ok_or_else(|| Error::out_of_turn("for rows", "there are none yet"))
    }

    /// The memory of the last panel: a new one would be cleared page by page.
    fn room(&self) -> Vec<f32> {
        std::mem::take(&mut self.state().rows.room)
    }

    /// Puts the other side's rows together, solves a side's rows and sums up their Gramian and losses: on the compute thread, because tens of
    /// megabytes are too much for one that queries wait for.
    async fn half_pass<T: Half + Send + Sync + 'static>(
        &self,
        data: Arc<T>,
        mut panel: Panel,
        (gramian, others): (Vec<f64>, u64),
        side: Side,
        start: Start,
    ) -> Result<(Vec<f32>, Sums), Error> {
        let (context, settings, stop) = (self.context.clone(), *self.settings()?, self.stop.clone());
        let precision = self.open.rows;
        let work = move || {
            let (threads, dim) = (context.options.threads, usize::from(settings.dim));
            let (adjacency, vworkers) = (data.adjacency(), data.vworkers());
            panel.finish(dim)?;
            let pass = HalfPass::new(&settings, context.kernel, threads, &gramian, panel.rows(dim), others, &stop)?;
            let rows = match start {
                Start::From(rows) => {
                    let mut rows = Arc::unwrap_or_clone(rows);
                    pass.refine(adjacency, &mut rows)?;
                    precision.round(&mut rows);
                    rows
                }
                Start::Twice => {
                    let mut rows = vec![0.0; adjacency.rows() * dim];
                    pass.refine(adjacency, &mut rows)?;
                    pass.refine(adjacency, &mut rows)?;
                    precision.round(&mut rows);
                    rows
                }
                Start::Nowhere => {
                    let mut rows = vec![0.0; adjacency.rows() * dim];
                    pass.solve(adjacency, &mut rows)?;
                    rows
                }
            };
            let ranges: Vec<_> = vworkers.iter().map(|(_, range)| range.clone()).collect();
            let losses = match side {
                // The error over positives is counted on the items' side, after both halves.
                Side::Users => pass.penalties(adjacency, &rows, &ranges)?,
                Side::Items => pass.losses(adjacency, &rows, &ranges)?,
            };
            let sums = partial_sums(context.kernel, threads, dim, &rows, vworkers, &losses);
            Ok::<_, Error>((rows, sums, panel.into_room()))
        };
        let (rows, sums, room) = self.context.compute.run(work).await??;
        self.state().rows.room = room;
        Ok((rows, sums))
    }

    /// Ranks by the rows of the trained model; users were solved once more after the items' last half pass.
    pub(super) async fn ranking_by_rows(&self, settings: &Settings, order: &Order) -> Result<Ranking, Error> {
        let (dim, version) = (usize::from(settings.dim), u32::from(settings.epochs));
        let users = self.rows(Side::Users, version + 1)?;
        let items = self.all_rows(dim, Blob::Table { version }, order).await?;
        Ok(Ranking::Vectors { dim, users, items })
    }

    /// [`Blob::Rows`].
    pub(super) fn serve_rows(&self, side: Side, version: u32, reader: u64) -> Result<Content, Error> {
        let (dim, rows, list) = (self.dim()?, self.rows(side, version)?, self.sent_rows(side, reader)?);
        let (precision, count) = (self.open.rows, list.len());
        if precision == Precision::F32 {
            return Ok(Content::of_table(rows, dim, list));
        }
        let push = move |n: usize, bytes: &mut Vec<u8>| push_row(precision, &rows, list[n], dim, bytes);
        Ok(Content::of_rows(count, precision.row_bytes(dim), push))
    }

    /// The rows of a virtual worker after `step` passes.
    pub(super) fn ials_state(&self, side: Side, vworker: u16, step: u32) -> Result<Bytes, Error> {
        let (dim, rows) = (self.dim()?, self.rows(side, step)?);
        let find = |vworkers: &[(u16, Range<usize>)]| vworkers.iter().find(|(own, _)| *own == vworker).cloned();
        let range = match side {
            Side::Users => find(self.users()?.vworkers()),
            Side::Items => find(self.items()?.vworkers()),
        };
        let (_, range) = range.ok_or_else(|| Error::Invalid(format!("virtual worker {vworker} is not here")))?;
        Ok(wire::pack_floats(&rows[range.start * dim..range.end * dim]))
    }

    /// Takes up rows after `step` passes; gives the sums of the items'.
    pub(super) async fn restore_rows(&self, step: u32, users: States, items: States) -> Result<Sums, Error> {
        let (dim, user_side, side) = (self.dim()?, self.users()?, self.items()?);
        let (kernel, threads) = (self.context.kernel, self.context.options.threads);
        let work = move || {
            let users = joined(&users, user_side.vworkers(), dim)?;
            let items = joined(&items, side.vworkers(), dim)?;
            let losses = vec![[0.0; 2]; side.vworkers.len()];
            let sums = partial_sums(kernel, threads, dim, &items, &side.vworkers, &losses);
            Ok::<_, Error>((users, items, sums))
        };
        let (users, items, sums) = self.context.compute.run(work).await??;
        let solved = |values| Some(Solved { version: step, values: Arc::new(values) });
        self.state().rows = Rows { users: solved(users), items: solved(items), ..Rows::default() };
        Ok(sums)
    }

    /// [`Blob::Table`].
    pub(super) fn serve_table(&self, version: u32) -> Result<Content, Error> {
        Ok(Content::Whole(blob::shared(self.rows(Side::Items, version)?)))
    }
}

/// Appends row `at`, zeros where there is none (an item that is not in the model).
fn push_row(precision: Precision, rows: &[f32], at: u32, dim: usize, bytes: &mut Vec<u8>) {
    match rows.get((at as usize).saturating_mul(dim)..).and_then(|rest| rest.get(..dim)) {
        Some(row) => precision.push(row, bytes),
        None => bytes.resize(bytes.len() + precision.row_bytes(dim), 0),
    }
}

/// Per virtual worker the packed Gramian of its rows and its losses, added up as far as this host has the tree.
fn partial_sums(
    kernel: Kernel,
    threads: usize,
    dim: usize,
    rows: &[f32],
    vworkers: &[(u16, Range<usize>)],
    losses: &[[f64; 2]],
) -> Sums {
    let ranges: Vec<_> = vworkers.iter().map(|(_, range)| range.clone()).collect();
    let gramians = gramian::of_ranges(kernel, threads, dim, rows, &ranges);
    let mut leaves = Vec::with_capacity(ranges.len());
    for (((index, _), mut value), loss) in vworkers.iter().zip(gramians).zip(losses) {
        value.extend(loss);
        leaves.push(tree::Node { level: 0, index: *index, value });
    }
    tree::fold(leaves)
}
