//! Pure: lists of numbered items with a value each, as bytes and back: what is liked together, and the weights of neighbours.
use crate::Error;
use serde::{Serialize, de::DeserializeOwned};

/// Rows with their entries, both ascending.
pub(crate) type Lists<T> = Vec<(u32, Vec<(u32, T)>)>;

/// Bytes of lists. Numbers are sent as differences to the one before, so most take a byte.
pub(crate) fn encode<T: Serialize + Copy>(lists: &Lists<T>) -> Result<Vec<u8>, Error> {
    let mut last = 0;
    let rows = lists.iter().map(|(row, entries)| {
        let mut before = 0;
        let entries = entries.iter().map(|(at, value)| (at - std::mem::replace(&mut before, *at), *value));
        (row - std::mem::replace(&mut last, *row), entries.collect::<Vec<_>>())
    });
    postcard::to_stdvec(&rows.collect::<Vec<_>>()).map_err(|error| Error::Internal(error.to_string()))
}

/// The lists that `node` sent: rows and entries strictly ascending and below `items`, as they are asked for.
pub(crate) fn decode<T: DeserializeOwned>(node: u64, bytes: &[u8], items: usize) -> Result<Lists<T>, Error> {
    let malformed = || Error::Malformed { node, reason: "lists of items".to_owned() };
    let mut lists: Lists<T> = match postcard::take_from_bytes(bytes) {
        Ok((lists, [])) => lists,
        _ => return Err(malformed()),
    };
    let mut last = None;
    for (row, entries) in &mut lists {
        *row = next(last, *row, items).ok_or_else(malformed)?;
        last = Some(*row);
        let mut before = None;
        for (at, _) in entries {
            *at = next(before, *at, items).ok_or_else(malformed)?;
            before = Some(*at);
        }
    }
    Ok(lists)
}

/// The number that is `step` beyond the last one, if it is above it and below `items`.
fn next(last: Option<u32>, step: u32, items: usize) -> Option<u32> {
    let number = match last {
        Some(last) if step > 0 => last.checked_add(step)?,
        Some(_) => return None,
        None => step,
    };
    ((number as usize) < items).then_some(number)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn lists_come_back(
            lists in prop::collection::btree_map(0u32..500, prop::collection::btree_map(0u32..500, any::<u64>(), 0..9), 0..9)
        ) {
            let lists: Lists<u64> = lists.into_iter().map(|(row, entries)| (row, entries.into_iter().collect())).collect();
            let bytes = encode(&lists).unwrap();
            prop_assert_eq!(&decode::<u64>(1, &bytes, 500).unwrap(), &lists);
            let highest = lists.iter().flat_map(|(row, entries)| entries.iter().map(|(at, _)| *at).chain([*row])).max();
            if let Some(highest) = highest {
                prop_assert!(decode::<u64>(1, &bytes, highest as usize).is_err(), "an item that there is not");
            }
        }

        #[test]
        fn no_bytes_make_the_decoder_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = decode::<u64>(1, &bytes, 100);
            let _ = decode::<f32>(1, &bytes, usize::MAX);
        }
    }

    #[test]
    fn what_is_given_twice_is_refused() {
        let twice = postcard::to_stdvec(&vec![(3u32, vec![(1u32, 5u64), (0, 5)])]).unwrap();
        assert!(decode::<u64>(1, &twice, 10).is_err());
    }
}
