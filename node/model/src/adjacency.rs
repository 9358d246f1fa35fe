//! Positives as compressed sparse rows.
use crate::{Error, parallel, shape};

/// Rows of (column, confidence) pairs: row `r` holds the entries `offsets[r]..offsets[r + 1]`.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Adjacency {
    offsets: Vec<usize>,
    columns: Vec<u32>,
    confidences: Vec<f32>,
    column_max: Option<u32>,
}

impl Adjacency {
    /// No rows yet.
    #[must_use]
    pub fn new() -> Self {
        Self { offsets: vec![0], ..Self::default() }
    }

    /// Takes the three arrays after checking that they fit together and that columns lie below `columns_total`.
    ///
    /// # Errors
    /// [`Error::Shape`] for arrays that do not fit, [`Error::Value`] for a column or confidence out of range.
    pub fn from_parts(
        offsets: Vec<usize>,
        columns: Vec<u32>,
        confidences: Vec<f32>,
        columns_total: usize,
    ) -> Result<Self, Error> {
        shape("confidences", columns.len(), confidences.len())?;
        shape("last offset", columns.len(), offsets.last().copied().unwrap_or(usize::MAX))?;
        if offsets.first() != Some(&0) || offsets.windows(2).any(|pair| pair[0] > pair[1]) {
            return Err(Error::Value { what: "offsets" });
        }
        if columns.iter().any(|&column| column as usize >= columns_total) {
            return Err(Error::Value { what: "columns" });
        }
        if confidences.iter().any(|&c| !(c.is_finite() && c > 0.0)) {
            return Err(Error::Value { what: "confidences" });
        }
        let column_max = columns.iter().copied().max();
        Ok(Self { offsets, columns, confidences, column_max })
    }

    /// Appends a row.
    pub fn push_row(&mut self, entries: impl IntoIterator<Item = (u32, f32)>) {
        if self.offsets.is_empty() {
            self.offsets.push(0);
        }
        for (column, confidence) in entries {
            self.columns.push(column);
            self.confidences.push(confidence);
            self.column_max = self.column_max.max(Some(column));
        }
        self.offsets.push(self.columns.len());
    }

    /// The rows of all `parts`, one part after the other. Copied by several threads into memory of the right size, because what takes time is that
    /// memory is touched for the first time.
    #[must_use]
    pub fn stacked(threads: usize, parts: &[Self]) -> Self {
        let mut offsets = Vec::with_capacity(1 + parts.iter().map(Self::rows).sum::<usize>());
        offsets.push(0);
        let mut entries = 0;
        for part in parts {
            offsets.extend(part.offsets.iter().skip(1).map(|offset| entries + offset));
            entries += part.entries();
        }
        let (mut columns, mut confidences) = (vec![0; entries], vec![0.0; entries]);
        let (mut columns_left, mut confidences_left) = (&mut columns[..], &mut confidences[..]);
        let mut copies = Vec::with_capacity(parts.len());
        for part in parts {
            let (to_columns, to_confidences);
            (to_columns, columns_left) = columns_left.split_at_mut(part.entries());
            (to_confidences, confidences_left) = confidences_left.split_at_mut(part.entries());
            copies.push((part, to_columns, to_confidences));
        }
        let copy = |(): &mut (), (part, columns, confidences): (&Self, &mut [u32], &mut [f32])| {
            columns.copy_from_slice(&part.columns);
            confidences.copy_from_slice(&part.confidences);
        };
        parallel::for_each(threads, copies, || (), copy);
        let column_max = parts.iter().filter_map(|part| part.column_max).max();
        Self { offsets, columns, confidences, column_max }
    }

    /// Number of rows.
    #[must_use]
    pub fn rows(&self) -> usize {
        self.offsets.len().saturating_sub(1)
    }

    /// Number of entries over all rows.
    #[must_use]
    pub fn entries(&self) -> usize {
        self.columns.len()
    }

    /// Columns and confidences of row `row` (which must be below [`Self::rows`]).
    #[must_use]
    pub fn row(&self, row: usize) -> (&[u32], &[f32]) {
        let range = self.offsets[row]..self.offsets[row + 1];
        (&self.columns[range.clone()], &self.confidences[range])
    }

    /// The largest column, if there is an entry.
    #[must_use]
    pub fn column_max(&self) -> Option<u32> {
        self.column_max
    }

    /// Rows and columns exchanged; entries of a new row are in the order of the old rows.
    #[must_use]
    pub fn transposed(&self, columns_total: usize) -> Self {
        let mut offsets = vec![0usize; columns_total + 1];
        for &column in &self.columns {
            offsets[column as usize + 1] += 1;
        }
        for at in 0..columns_total {
            offsets[at + 1] += offsets[at];
        }
        let mut next = offsets.clone();
        let (mut columns, mut confidences) = (vec![0; self.entries()], vec![0.0; self.entries()]);
        for row in 0..self.rows() {
            let (row_columns, row_confidences) = self.row(row);
            for (&column, &confidence) in row_columns.iter().zip(row_confidences) {
                let at = &mut next[column as usize];
                columns[*at] = row as u32;
                confidences[*at] = confidence;
                *at += 1;
            }
        }
        let column_max = columns.iter().copied().max();
        Self { offsets, columns, confidences, column_max }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn transposing_twice_gives_the_same_rows() {
        let mut rows = Adjacency::new();
        rows.push_row([(0, 1.0), (2, 2.0)]);
        rows.push_row([]);
        rows.push_row([(2, 3.0)]);
        let transposed = rows.transposed(3);
        assert_eq!(transposed.row(2), (&[0u32, 2][..], &[2.0f32, 3.0][..]));
        assert_eq!(transposed.transposed(3), rows);
    }

    #[test]
    fn stacked_rows_are_those_of_each_part_in_turn() {
        let rows = [vec![(4, 1.0)], vec![], vec![(1, 2.0), (3, 4.0)], vec![(2, 1.5)]];
        let of = |rows: &[Vec<(u32, f32)>]| {
            let mut adjacency = Adjacency::new();
            rows.iter().for_each(|row| adjacency.push_row(row.iter().copied()));
            adjacency
        };
        for threads in [1, 3] {
            let parts = [of(&rows[..1]), Adjacency::default(), of(&rows[1..3]), of(&[]), of(&rows[3..])];
            assert_eq!(Adjacency::stacked(threads, &parts), of(&rows));
            assert_eq!(Adjacency::stacked(threads, &[]), Adjacency::new());
        }
    }

    #[test]
    fn parts_that_do_not_fit_are_refused() {
        assert!(Adjacency::from_parts(vec![0, 1], vec![5], vec![1.0], 5).is_err());
        assert!(Adjacency::from_parts(vec![0, 2], vec![1], vec![1.0], 5).is_err());
        assert!(Adjacency::from_parts(vec![0, 1], vec![1], vec![f32::NAN], 5).is_err());
        assert!(Adjacency::from_parts(vec![0, 1], vec![1], vec![1.0], 5).is_ok());
    }
}
