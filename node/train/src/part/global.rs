//! The global part: what is one for the whole model.
use super::{Error, KIND_GLOBAL, header, open};
use docent_model::{Settings, gramian, kernel::NUMERICS};
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// Most categories with a mean row, the largest ones.
pub const CATEGORIES_MAX: usize = 4096;

/// A category's mean row: a new item's first vector.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Category {
    /// Its name.
    pub name: Arc<str>,
    /// Items in it, of those that were trained and live.
    pub items: u64,
    /// `dim` values.
    pub mean: Vec<f32>,
}

/// Settings, sizes, Gramian and means.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Global {
    /// As trained, seed included.
    pub settings: Settings,
    /// Name of the arithmetic that gave the bytes (`docent_model::kernel::NUMERICS`).
    pub numerics: String,
    /// Users, items and positives trained on.
    pub users: u64,
    /// Items with a row: `|I|` of the regularisation.
    pub items: u64,
    /// Pairs.
    pub positives: u64,
    /// The objective after the last pass.
    pub loss: f64,
    /// Packed item Gramian (`docent_model::gramian`), for fold-in.
    pub item_gramian: Vec<f64>,
    /// Mean of all live item rows, `dim` values.
    pub mean: Vec<f32>,
    /// Sorted by name.
    pub categories: Vec<Category>,
}

impl Global {
    /// A part as this program's arithmetic makes it.
    #[must_use]
    pub fn numerics() -> String {
        NUMERICS.to_owned()
    }

    /// The part's bytes.
    ///
    /// # Errors
    /// [`Error::Damaged`] when the fields contradict one another.
    pub fn encode(&self) -> Result<Vec<u8>, Error> {
        self.check()?;
        let body = postcard::to_stdvec(self).map_err(|_| Error::Damaged("it cannot be encoded"))?;
        Ok([&header(KIND_GLOBAL)[..], &body].concat())
    }

    /// Reads a global part.
    ///
    /// # Errors
    /// Any [`Error`]; never panics.
    pub fn decode(bytes: &[u8]) -> Result<Self, Error> {
        let body = open(bytes, KIND_GLOBAL)?;
        let (part, rest) =
            postcard::take_from_bytes::<Self>(body).map_err(|_| Error::Damaged("its fields cannot be read"))?;
        if !rest.is_empty() {
            return Err(Error::Damaged("bytes that belong to nothing"));
        }
        part.check()?;
        Ok(part)
    }

    fn check(&self) -> Result<(), Error> {
        self.settings.validate().map_err(|_| Error::Damaged("a setting is out of range"))?;
        let dim = usize::from(self.settings.dim);
        let rows = std::iter::once(&self.mean).chain(self.categories.iter().map(|category| &category.mean));
        if self.item_gramian.len() != gramian::packed_len(dim)
            || self.categories.len() > CATEGORIES_MAX
            || rows.clone().any(|row| row.len() != dim)
        {
            return Err(Error::Damaged("a size is not what the dimension asks for"));
        }
        if self.item_gramian.iter().any(|v| !v.is_finite()) || rows.flatten().any(|v| !v.is_finite()) {
            return Err(Error::Damaged("a value is not finite"));
        }
        if self.categories.windows(2).any(|pair| pair[0].name >= pair[1].name) {
            return Err(Error::Damaged("categories are not in order"));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn part() -> Global {
        Global {
            settings: Settings { dim: 2, ..Settings::default() },
            numerics: Global::numerics(),
            users: 1,
            items: 2,
            positives: 3,
            loss: 4.5,
            item_gramian: vec![1.0, 2.0, 3.0],
            mean: vec![0.5, 0.25],
            categories: vec![Category { name: "x".into(), items: 2, mean: vec![1.0, 2.0] }],
        }
    }

    #[test]
    fn a_global_part_comes_back_as_it_was() {
        let bytes = part().encode().unwrap();
        assert_eq!(Global::decode(&bytes).unwrap(), part());
        for end in 0..bytes.len() {
            assert!(Global::decode(&bytes[..end]).is_err(), "cut at {end}");
        }
        assert!(Global { mean: vec![f32::NAN; 2], ..part() }.encode().is_err());
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_reader_panic(noise in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = Global::decode(&noise);
            let _ = Global::decode(&[&header(KIND_GLOBAL)[..], &noise].concat());
        }
    }
}
