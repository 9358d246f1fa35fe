//! What every [`View`] must do, and a [`Tx`] over it: called by the tests of the fake and of the store.

use crate::view::{Batch, MemView, Tx, View};
use bytes::Bytes;
use docent_types::error::{Error, Kind};
use std::ops::ControlFlow;

/// A store under test.
pub trait Subject {
    /// Commits the writes.
    fn commit(&mut self, batch: Batch);
    /// The state as it is now, whatever is committed later.
    fn view(&self) -> Box<dyn View + '_>;
}

/// Everything in `view`, in order.
pub fn contents(view: &dyn View) -> Vec<(Vec<u8>, Bytes)> {
    range(view, b"", None)
}

fn range(view: &dyn View, from: &[u8], to: Option<&[u8]>) -> Vec<(Vec<u8>, Bytes)> {
    let mut found = Vec::new();
    let scanned = view.scan(from, to, &mut |key, value| {
        found.push((key.to_vec(), Bytes::copy_from_slice(value)));
        Ok(ControlFlow::Continue(()))
    });
    assert_eq!(scanned, Ok(()), "a scan fails");
    found
}

/// Panics where `subject`, which must be empty, is not as a [`View`] has to be.
pub fn check(subject: &mut dyn Subject) {
    let keys: [&[u8]; 7] = [b"\x01a", b"\x01a\x00", b"\x01a\xff", b"\x01b", b"\x02", b"\x02\xff\xff", b"\x03"];
    assert_eq!(contents(&*subject.view()), [], "the subject is not empty");
    let mut batch = Batch::default();
    for (i, key) in keys.iter().enumerate() {
        batch.put(key.to_vec(), Bytes::from(vec![i as u8; i]));
    }
    subject.commit(batch.clone());
    let mut model = MemView::default();
    model.commit(batch);
    same_reads(&*subject.view(), &model, &keys);
    ends_early(&*subject.view());
    transactions(subject, &mut model, &keys);
}

/// Gets, ranges and prefixes agree with the model's.
fn same_reads(view: &dyn View, model: &MemView, keys: &[&[u8]]) {
    for key in keys.iter().chain(&[&b""[..], b"\x00", b"\x01", b"\x01aa", b"\xff"]) {
        assert_eq!(view.get(key), model.get(key), "get of {key:?}");
        assert_eq!(view.contains(key), model.contains(key), "contains of {key:?}");
        let mut found = Vec::new();
        let scanned = view.scan_prefix(key, &mut |key, _| {
            found.push(key.to_vec());
            Ok(ControlFlow::Continue(()))
        });
        let expected: Vec<_> = contents(model).into_iter().map(|(k, _)| k).filter(|k| k.starts_with(key)).collect();
        assert_eq!((scanned, found), (Ok(()), expected), "prefix scan of {key:?}");
        for to in keys {
            assert_eq!(range(view, key, Some(to)), range(model, key, Some(to)), "scan of {key:?} to {to:?}");
        }
    }
    assert_eq!(contents(view), contents(model));
}

fn ends_early(view: &dyn View) {
    let mut seen = 0;
    let scanned = view.scan(b"", None, &mut |_, _| {
        seen += 1;
        Ok(if seen == 2 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
    });
    assert_eq!((scanned, seen), (Ok(()), 2), "a break ends a scan");
    let error = Error::new(Kind::Corrupt, "the visitor's");
    let scanned = view.scan(b"", None, &mut |_, _| Err(error.clone()));
    assert_eq!(scanned, Err(error), "a visitor's error comes out");
}

/// A transaction reads its writes, at every point of a scan; nobody else does before the commit.
fn transactions(subject: &mut dyn Subject, model: &mut MemView, keys: &[&[u8]]) {
    let before = contents(model);
    let batch = {
        let view = subject.view();
        let mut tx = Tx::new(&*view);
        tx.delete(keys[0].to_vec());
        tx.put(keys[1].to_vec(), Bytes::from_static(b"changed"));
        tx.put(b"\x01aa".to_vec(), Bytes::from_static(b"between"));
        tx.put(b"\x04".to_vec(), Bytes::from_static(b"after"));
        tx.put(b"\x00".to_vec(), Bytes::from_static(b"before"));
        tx.put(b"\x05".to_vec(), Bytes::from_static(b"put and deleted"));
        tx.delete(b"\x05".to_vec());
        assert_eq!(tx.delete_prefix(b"\x02"), Ok(()));
        for (key, is_new) in [(keys[0], true), (keys[0], false), (keys[3], false), (b"\x06", true)] {
            assert_eq!(tx.put_new(key.to_vec(), true, || Bytes::from_static(b"new")), Ok(is_new), "put_new of {key:?}");
        }
        let expected = {
            let mut expected = model.clone();
            let mut own = Tx::new(model);
            own.put(b"unused".to_vec(), Bytes::new());
            assert_eq!(own.into_batch().len(), 1);
            let [put, delete] = [true, false];
            for (key, value, what) in [
                (&b"\x01a"[..], "new", put),
                (b"\x01a\x00", "changed", put),
                (b"\x01aa", "between", put),
                (b"\x04", "after", put),
                (b"\x00", "before", put),
                (b"\x06", "new", put),
                (b"\x02", "", delete),
                (b"\x02\xff\xff", "", delete),
            ] {
                let mut one = Batch::default();
                match what {
                    true => one.put(key.to_vec(), Bytes::from(value)),
                    false => one.delete(key.to_vec()),
                }
                expected.commit(one);
            }
            expected
        };
        same_reads(&tx, &expected, keys);
        ends_early(&tx);
        assert_eq!(contents(&*view), before, "a transaction leaks before its commit");
        *model = expected;
        tx.into_batch()
    };
    subject.commit(batch);
    same_reads(&*subject.view(), model, keys);
}
