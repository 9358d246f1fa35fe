//! Writing an owner's parts.
use super::{Context, blend::Shelf, session::Session};
use crate::{
    Error, ItemInfo, PartInfo, SLOTS_OF_VWORKER, TrainResponse,
    link::ItemSide,
    message::{Open, Side},
    part::{self, Neighbour, Row},
    plan::Algorithm,
};
use docent_model::{mean::CategorySums, parallel, tree};
use std::{
    collections::BTreeMap,
    ops::Range,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

/// Most categories of an item that count.
const CATEGORIES_OF_ITEM_MAX: usize = 32;

/// Writes parts on the compute thread.
struct Writer {
    context: Arc<Context>,
    open: Arc<Open>,
    items: Arc<ItemSide>,
    stop: Arc<AtomicBool>,
    /// Where parts go that are part of a blend's; else to the node's sink.
    shelf: Option<Arc<Shelf>>,
}

type Sums = Vec<tree::Node<CategorySums>>;

impl Session {
    /// Writes parts, to the node's sink or to the shelf of a blend.
    pub(super) async fn publish(&self, shelf: Option<Arc<Shelf>>) -> Result<TrainResponse, Error> {
        let writer = self.writer(shelf)?;
        let parts = match &self.open.algorithm {
            Algorithm::Ials(settings) => {
                let rows = self.rows(Side::Items, u32::from(settings.epochs))?;
                self.publish_rows(writer, rows, settings.dim).await?
            }
            Algorithm::Softmax(_) | Algorithm::Tower(_) => {
                let (rows, dim) = self.published_rows()?;
                self.publish_rows(writer, Arc::new(rows), dim).await?
            }
            Algorithm::Graph(_) => {
                let weights = self.weights().await?;
                self.context.compute.run(move || writer.neighbours(weights)).await??
            }
        };
        Ok(TrainResponse::Published { parts })
    }

    fn writer(&self, shelf: Option<Arc<Shelf>>) -> Result<Writer, Error> {
        let (context, open, stop) = (self.context.clone(), self.open.clone(), self.stop.clone());
        Ok(Writer { context, open, items: self.items()?, stop, shelf })
    }

    /// Writes the parts of a blend from those on its shelf.
    pub(super) async fn compose(&self) -> Result<TrainResponse, Error> {
        let (writer, shelf) = (self.writer(None)?, self.shelf.clone());
        let parts = self.context.compute.run(move || writer.compose(&shelf)).await??;
        Ok(TrainResponse::Published { parts })
    }

    async fn publish_rows(&self, writer: Writer, rows: Arc<Vec<f32>>, dim: u16) -> Result<Vec<PartInfo>, Error> {
        let (parts, sums) = self.context.compute.run(move || writer.rows(&rows, dim)).await??;
        let means = postcard::to_stdvec(&sums).map_err(|error| Error::Internal(error.to_string()))?;
        self.state().means = Some(means.into());
        Ok(parts)
    }
}

impl Writer {
    /// Parts with rows of `dim` values, and the sums of each category's.
    fn rows(&self, rows: &[f32], dim: u16) -> Result<(Vec<PartInfo>, Sums), Error> {
        let input = self.context.parts.inputs.items(self.open.key.job, self.open.key.epoch)?;
        let width = usize::from(dim);
        let write = |vworker: u16, range: &Range<usize>| {
            let vectors = &rows[range.start * width..range.end * width];
            let sums = categories(input.items(vworker)?, &self.items, range.clone(), vectors, width);
            let (slots, items) = (slots(vworker), self.table(range));
            let part = part::Items { dim, slots, items, vectors: vectors.to_vec() };
            Ok((self.put(slots, range, part.encode())?, tree::Node { level: 0, index: vworker, value: sums }))
        };
        let (parts, leaves): (_, Vec<_>) = self.each(write)?.into_iter().unzip();
        Ok((parts, tree::fold(leaves)))
    }

    /// Parts with the weights that sources have for this owner's items, which those count by their place on it.
    fn neighbours(&self, mut weights: Vec<Neighbour>) -> Result<Vec<PartInfo>, Error> {
        // By item first, so that each part's are together; two sources of one fingerprint leave the larger weight.
        weights.sort_unstable_by(|a, b| (a.at, a.source).cmp(&(b.at, b.source)).then(b.weight.total_cmp(&a.weight)));
        weights.dedup_by_key(|neighbour| (neighbour.at, neighbour.source));
        self.each(|vworker, range| {
            let place = |at: usize| weights.partition_point(|neighbour| (neighbour.at as usize) < at);
            let mut neighbours = weights[place(range.start)..place(range.end)].to_vec();
            neighbours.iter_mut().for_each(|neighbour| neighbour.at -= range.start as u32);
            neighbours.sort_unstable_by_key(|neighbour| (neighbour.source, neighbour.at));
            let (slots, items) = (slots(vworker), self.table(range));
            let part = part::Neighbours { slots, items, neighbours };
            self.put(slots, range, part.encode())
        })
    }

    /// Parts of a blend.
    fn compose(&self, shelf: &Shelf) -> Result<Vec<PartInfo>, Error> {
        self.each(|vworker, range| {
            let slots = slots(vworker);
            let broken = |error: part::Error| Error::Internal(format!("a part on the shelf: {error}"));
            let (neighbours, rows) = shelf.take_parts(slots)?;
            let neighbours = part::Neighbours::decode(&neighbours).map_err(broken)?;
            let rows = part::Items::decode(&rows).map_err(broken)?;
            self.put(slots, range, part::Blended { neighbours, rows }.encode())
        })
    }

    /// What `write` makes of each of this owner's virtual workers and their rows, in their order. Several at once: a part is on the disk before
    /// its thread goes on.
    fn each<R: Send>(&self, write: impl Fn(u16, &Range<usize>) -> Result<R, Error> + Sync) -> Result<Vec<R>, Error> {
        let vworkers = self.items.vworkers.iter().collect();
        let written = parallel::map(self.context.options.threads, vworkers, |(vworker, range)| write(*vworker, range));
        written.into_iter().collect()
    }

    /// The items of a part.
    fn table(&self, range: &Range<usize>) -> Vec<Row> {
        let of_row = |at: usize| {
            let (slot, id) = self.items.items[at].clone();
            Row { slot, id, positives: u32::try_from(self.items.adjacency.row(at).0.len()).unwrap_or(u32::MAX) }
        };
        range.clone().map(of_row).collect()
    }

    /// Stores a part.
    fn put(
        &self,
        slots: (u16, u16),
        range: &Range<usize>,
        bytes: Result<Vec<u8>, part::Error>,
    ) -> Result<PartInfo, Error> {
        if self.stop.load(Ordering::Relaxed) {
            return Err(Error::Cancelled);
        }
        let bytes = bytes.map_err(|error| Error::Diverged(error.to_string()))?;
        let info = part::describe(&bytes, Some(slots), range.len() as u64, self.context.options.node);
        match &self.shelf {
            Some(shelf) => shelf.put_part(self.open.key.run, slots, bytes),
            None => self.context.parts.sink.put(&info, bytes)?,
        }
        Ok(info)
    }
}

/// The slots of a virtual worker.
fn slots(vworker: u16) -> (u16, u16) {
    let first = vworker * SLOTS_OF_VWORKER;
    (first, first + SLOTS_OF_VWORKER)
}

/// Sums of live items' rows per category, in the order of the items; under the empty name those of all live items.
fn categories(
    infos: Vec<ItemInfo>,
    items: &ItemSide,
    range: Range<usize>,
    vectors: &[f32],
    dim: usize,
) -> CategorySums {
    let all: Arc<str> = "".into();
    let infos: BTreeMap<(u16, Arc<str>), ItemInfo> =
        infos.into_iter().map(|info| ((info.slot, info.id.clone()), info)).collect();
    let mut sums = CategorySums::default();
    for (at, row) in range.zip(vectors.chunks_exact(dim)) {
        let mut names = match infos.get(&items.items[at]) {
            Some(info) if !info.live => continue,
            Some(info) => info.categories.clone(),
            None => Vec::new(),
        };
        names.retain(|name| !name.is_empty());
        names.sort_unstable();
        names.dedup();
        names.truncate(CATEGORIES_OF_ITEM_MAX);
        sums.push(names.iter().chain([&all]), row);
    }
    sums
}
