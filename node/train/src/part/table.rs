//! The items of a part: who they are, in front of what is kept of each.
//!
//! ```text
//! width u16 | slot_first u16 | slot_end u16 | 0 u16 | count u32 | id_bytes u32
//! | count x (slot u16, id length u16, positives u32) | ids | zeros to a multiple of 64 from the start of the file
//! ```
use super::{Error, HEADER};
use crate::{ID_BYTES_MAX, SLOTS, wire::Reader};
use std::sync::Arc;

const FIXED: usize = HEADER + 16;
const ENTRY: usize = 8;
const ALIGN: usize = 64;

/// An item of a part.
#[derive(Debug, Clone, PartialEq)]
pub struct Row {
    /// The item's slot.
    pub slot: u16,
    /// External id.
    pub id: Arc<str>,
    /// Positives that it was trained on.
    pub positives: u32,
}

/// Appends the table to a file's header. `width`: values a row, 0 where there are no vectors.
pub(super) fn write(bytes: &mut Vec<u8>, width: u16, slots: (u16, u16), items: &[Row]) -> Result<(), Error> {
    check(slots, items)?;
    let id_bytes: usize = items.iter().map(|item| item.id.len()).sum();
    let too_many = |_| Error::Damaged("more than 2^32 items or id bytes");
    for field in [width, slots.0, slots.1, 0] {
        bytes.extend(field.to_le_bytes());
    }
    bytes.extend(u32::try_from(items.len()).map_err(too_many)?.to_le_bytes());
    bytes.extend(u32::try_from(id_bytes).map_err(too_many)?.to_le_bytes());
    for item in items {
        bytes.extend(item.slot.to_le_bytes());
        bytes.extend((item.id.len() as u16).to_le_bytes());
        bytes.extend(item.positives.to_le_bytes());
    }
    for item in items {
        bytes.extend(item.id.as_bytes());
    }
    bytes.resize(bytes.len().next_multiple_of(ALIGN), 0);
    Ok(())
}

/// What [`write()`] wrote.
pub(super) struct Table {
    pub(super) width: u16,
    pub(super) slots: (u16, u16),
    pub(super) items: Vec<Row>,
}

/// Reads a table. `reader` stands behind the file's header, and after this behind the padding.
pub(super) fn read(reader: &mut Reader<'_>) -> Result<Table, Error> {
    let short = || Error::Damaged("cut off");
    let width = reader.u16().ok_or_else(short)?;
    let slots = (reader.u16().ok_or_else(short)?, reader.u16().ok_or_else(short)?);
    let reserved = reader.u16().ok_or_else(short)?;
    let (count, id_bytes) = (reader.u32().ok_or_else(short)? as usize, reader.u32().ok_or_else(short)? as usize);
    if reserved != 0 {
        return Err(Error::Damaged("a reserved field is not 0"));
    }
    // Taken whole before anything is allocated by the numbers of the file.
    let mut entries = Reader(reader.take(count.saturating_mul(ENTRY)).ok_or_else(short)?);
    let mut ids = Reader(reader.take(id_bytes).ok_or_else(short)?);
    let end = FIXED + count * ENTRY + id_bytes;
    let padding = reader.take(end.next_multiple_of(ALIGN) - end).ok_or_else(short)?;
    let mut items = Vec::with_capacity(count);
    for _ in 0..count {
        let (slot, len) = (entries.u16().ok_or_else(short)?, entries.u16().ok_or_else(short)?);
        let positives = entries.u32().ok_or_else(short)?;
        let id = ids.take(usize::from(len)).and_then(|id| std::str::from_utf8(id).ok());
        items.push(Row { slot, id: id.ok_or(Error::Damaged("an id is not text"))?.into(), positives });
    }
    if !ids.0.is_empty() || padding.iter().any(|byte| *byte != 0) {
        return Err(Error::Damaged("bytes that belong to nothing"));
    }
    check(slots, &items)?;
    Ok(Table { width, slots, items })
}

fn check(slots: (u16, u16), items: &[Row]) -> Result<(), Error> {
    if slots.0 > slots.1 || slots.1 > SLOTS {
        return Err(Error::Damaged("slots out of range"));
    }
    if items.windows(2).any(|pair| (pair[0].slot, &pair[0].id) >= (pair[1].slot, &pair[1].id)) {
        return Err(Error::Damaged("items are not in order"));
    }
    let in_range = |item: &Row| (slots.0..slots.1).contains(&item.slot) && (1..=ID_BYTES_MAX).contains(&item.id.len());
    if !items.iter().all(in_range) {
        return Err(Error::Damaged("an item's slot or id is out of range"));
    }
    Ok(())
}
