//! Writing an owner's parts.
use super::{Context, session::Session};
use crate::{
    Error, ItemInfo, PartInfo, SLOTS_OF_VWORKER, TrainResponse,
    link::ItemSide,
    message::{Open, Side},
    part::{self, Row},
};
use docent_model::{mean::CategorySums, tree};
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

impl Session {
    pub(super) async fn publish(&self) -> Result<TrainResponse, Error> {
        let items = self.items()?;
        let rows = self.rows(Side::Items, u32::from(self.open.settings.epochs))?;
        let (context, open, stop) = (self.context.clone(), self.open.clone(), self.stop.clone());
        let work = move || write(&context, &open, &items, &rows, &stop);
        let (parts, sums) = self.context.compute.run(work).await??;
        let means = postcard::to_stdvec(&sums).map_err(|error| Error::Internal(error.to_string()))?;
        self.state().means = Some(means.into());
        Ok(TrainResponse::Published { parts })
    }
}

type Sums = Vec<tree::Node<CategorySums>>;

fn write(
    context: &Context,
    open: &Open,
    items: &ItemSide,
    rows: &[f32],
    stop: &AtomicBool,
) -> Result<(Vec<PartInfo>, Sums), Error> {
    let input = context.parts.inputs.items(open.key.job, open.key.epoch)?;
    let dim = usize::from(open.settings.dim);
    let (mut parts, mut leaves) = (Vec::new(), Vec::new());
    for (vworker, range) in &items.vworkers {
        if stop.load(Ordering::Relaxed) {
            return Err(Error::Cancelled);
        }
        let vectors = &rows[range.start * dim..range.end * dim];
        let sums = categories(input.items(*vworker)?, items, range.clone(), vectors, dim);
        leaves.push(tree::Node { level: 0, index: *vworker, value: sums });

        let first = vworker * SLOTS_OF_VWORKER;
        let of_row = |at: usize| {
            let (slot, id) = items.items[at].clone();
            Row { slot, id, positives: u32::try_from(items.adjacency.row(at).0.len()).unwrap_or(u32::MAX) }
        };
        let part = part::Items {
            dim: open.settings.dim,
            slots: (first, first + SLOTS_OF_VWORKER),
            items: range.clone().map(of_row).collect(),
            vectors: vectors.to_vec(),
        };
        let bytes = part.encode().map_err(|error| Error::Diverged(error.to_string()))?;
        let info = part::describe(&bytes, Some(part.slots), range.len() as u64, context.options.node);
        context.parts.sink.put(&info, bytes)?;
        parts.push(info);
    }
    Ok((parts, tree::fold(leaves)))
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
