//! Keys: `[keyspace u8][slot u16 BE][tenant length u8][tenant][kind u8][id ...]`.
//!
//! The store puts its `store_id` before them, so that these bytes, snapshots and digests are the same on every replica.
//! A user or item id is followed by an end mark and its zero bytes are escaped: no id's key is a prefix of another's, and keys
//! sort as the ids do. Frozen: a change would lose every record of every cluster.

use docent_types::error::{Error, Kind as ErrorKind, Result};
use docent_types::{EventId, ItemId, Keyspace, SLOTS, Slot, SlotRange, TenantId, UserId};
use std::borrow::Cow;

/// After an id: below every escaped or plain byte, so that a shorter id sorts first.
const END: [u8; 2] = [0x00, 0x01];
/// For a zero byte inside an id.
const ZERO: [u8; 2] = [0x00, 0xff];

/// Stands in the slot's place for records of the shard as a whole.
pub const SHARD_WIDE: Slot = Slot(SLOTS);

/// What a record is; the numbers are part of the format and never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Kind {
    /// A user: attributes and consent. There for every known user.
    User = 1,
    /// A user's block list, where it is not empty.
    Blocks = 2,
    /// One event; its key is the dedupe.
    Event = 3,
    /// Shard-wide: what one command changed in the counts of items.
    Delta = 4,
    /// Shard-wide: an item's count up to the last fold.
    Count = 5,
    /// Shard-wide: how far deltas are folded into counts.
    Fold = 6,
    /// Shard-wide, of a user shard: the backup that it was restored from.
    UserLineage = 7,
    /// An item: metadata and take-down.
    Item = 16,
    /// An item's count from each user shard.
    ItemCounts = 17,
    /// Shard-wide, of an item shard: the backup that it was restored from.
    ItemLineage = 18,
}

impl Kind {
    pub(crate) fn keyspace(self) -> Keyspace {
        match self {
            Kind::Item | Kind::ItemCounts | Kind::ItemLineage => Keyspace::Items,
            _ => Keyspace::Users,
        }
    }

    fn of(number: u8) -> Option<Kind> {
        use Kind::*;
        let all = [User, Blocks, Event, Delta, Count, Fold, UserLineage, Item, ItemCounts, ItemLineage];
        all.into_iter().find(|kind| *kind as u8 == number)
    }
}

/// The key of the one record that says which backup a shard was restored from. It is of no tenant.
pub fn lineage(keyspace: Keyspace) -> Vec<u8> {
    let kind = match keyspace {
        Keyspace::Users => Kind::UserLineage,
        Keyspace::Items => Kind::ItemLineage,
    };
    let [high, low] = SHARD_WIDE.0.to_be_bytes();
    vec![space(keyspace), high, low, 0, kind as u8]
}

/// A key taken apart, up to the id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parts<'a> {
    /// Where it belongs; [`SHARD_WIDE`] for records of the shard as a whole.
    pub slot: Slot,
    /// Whose; empty for a lineage.
    pub tenant: &'a str,
    /// What.
    pub kind: Kind,
    /// The id, and what follows it.
    pub rest: &'a [u8],
}

/// Takes a key apart; `None` where it cannot be one, or is of a kind that this binary does not know.
pub fn parts(key: &[u8]) -> Option<Parts<'_>> {
    let (head, rest) = key.split_at_checked(4)?;
    let (tenant, rest) = rest.split_at_checked(usize::from(head[3]))?;
    let (&kind, rest) = rest.split_first()?;
    let kind = Kind::of(kind)?;
    let slot = Slot(u16::from_be_bytes([head[1], head[2]]));
    (head[0] == space(kind.keyspace())).then_some(Parts { slot, tenant: std::str::from_utf8(tenant).ok()?, kind, rest })
}

/// The prefix of all records of one kind in one slot.
pub fn prefix(slot: Slot, tenant: &TenantId, kind: Kind) -> Vec<u8> {
    let tenant = tenant.as_str().as_bytes();
    // Room for a usual id behind it: growing is what a key costs most.
    let mut key = Vec::with_capacity(5 + tenant.len() + 64);
    key.push(space(kind.keyspace()));
    key.extend_from_slice(&slot.0.to_be_bytes());
    key.push(tenant.len() as u8); // at most 63, by the type
    key.extend_from_slice(tenant);
    key.push(kind as u8);
    key
}

/// Where the records of `slots` begin, of every tenant and kind, and where they end.
pub fn of_slots(keyspace: Keyspace, slots: SlotRange) -> (Vec<u8>, Vec<u8>) {
    let start = |slot: u16| {
        let [high, low] = slot.to_be_bytes();
        vec![space(keyspace), high, low]
    };
    (start(slots.first), start(slots.end))
}

fn space(keyspace: Keyspace) -> u8 {
    match keyspace {
        Keyspace::Users => 1,
        Keyspace::Items => 2,
    }
}

/// The key of a user's record, or for [`Kind::Event`] the prefix of all the user's events.
pub fn user(slot: Slot, tenant: &TenantId, kind: Kind, user_id: &UserId) -> Vec<u8> {
    with_id(prefix(slot, tenant, kind), user_id.as_str())
}

/// The key of an item's record.
pub fn item(slot: Slot, tenant: &TenantId, kind: Kind, item_id: &ItemId) -> Vec<u8> {
    with_id(prefix(slot, tenant, kind), item_id.as_str())
}

/// The key of an event behind the prefix of its user's events. The event id is last and needs no end mark.
pub fn event(user_prefix: &[u8], event_id: &EventId) -> Vec<u8> {
    [user_prefix, event_id.as_str().as_bytes()].concat()
}

/// The key of a command's delta: sorts by log index.
pub fn delta(tenant: &TenantId, index: u64) -> Vec<u8> {
    let mut key = prefix(SHARD_WIDE, tenant, Kind::Delta);
    key.extend_from_slice(&index.to_be_bytes());
    key
}

fn with_id(mut key: Vec<u8>, id: &str) -> Vec<u8> {
    match id.bytes().any(|byte| byte == 0) {
        false => key.extend_from_slice(id.as_bytes()),
        true => id.bytes().for_each(|byte| match byte {
            0 => key.extend_from_slice(&ZERO),
            byte => key.push(byte),
        }),
    }
    key.extend_from_slice(&END);
    key
}

/// Splits what follows a prefix into the id and what follows its end mark.
pub fn split_id(bytes: &[u8]) -> Result<(Cow<'_, str>, &[u8])> {
    let broken = || Error::new(ErrorKind::Corrupt, "a stored key has no well-formed id");
    let mut unescaped: Option<Vec<u8>> = None;
    let mut from = 0;
    while let Some(zero) = bytes[from..].iter().position(|&byte| byte == 0) {
        let zero = from + zero;
        match bytes.get(zero + 1) {
            Some(&mark) if mark == END[1] => {
                let id = match unescaped {
                    None => Cow::Borrowed(std::str::from_utf8(&bytes[..zero]).map_err(|_| broken())?),
                    Some(mut id) => {
                        id.extend_from_slice(&bytes[from..zero]);
                        Cow::Owned(String::from_utf8(id).map_err(|_| broken())?)
                    }
                };
                return Ok((id, &bytes[zero + 2..]));
            }
            Some(&mark) if mark == ZERO[1] => {
                let id = unescaped.get_or_insert_with(Vec::new);
                id.extend_from_slice(&bytes[from..=zero]);
                from = zero + 2;
            }
            _ => return Err(broken()),
        }
    }
    Err(broken())
}

/// The first key after all keys with `prefix`; `None` where there is no bound.
pub fn successor(prefix: &[u8]) -> Option<Vec<u8>> {
    let last = prefix.iter().rposition(|&byte| byte != 0xff)?;
    let mut next = prefix[..=last].to_vec();
    next[last] += 1;
    Some(next)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn user_id(text: &str) -> UserId {
        UserId::new(text).unwrap()
    }

    #[test]
    fn the_layout_never_changes() {
        let tenant = TenantId::default();
        let events = user(Slot(0x0abc), &tenant, Kind::Event, &user_id("u\0x"));
        assert_eq!(events, b"\x01\x0a\xbc\x07default\x03u\x00\xffx\x00\x01");
        assert_eq!(event(&events, &EventId::new("e1").unwrap()), [&events[..], b"e1"].concat());
        let item_id = ItemId::new("i").unwrap();
        assert_eq!(item(Slot(1), &tenant, Kind::Item, &item_id), b"\x02\x00\x01\x07default\x10i\x00\x01");
        assert_eq!(item(Slot(1), &tenant, Kind::ItemCounts, &item_id), b"\x02\x00\x01\x07default\x11i\x00\x01");
        assert_eq!(user(Slot(1), &tenant, Kind::User, &user_id("u")), b"\x01\x00\x01\x07default\x01u\x00\x01");
        assert_eq!(user(Slot(1), &tenant, Kind::Blocks, &user_id("u")), b"\x01\x00\x01\x07default\x02u\x00\x01");
        assert_eq!(delta(&tenant, 258), b"\x01\x10\x00\x07default\x04\0\0\0\0\0\0\x01\x02");
        assert_eq!(item(SHARD_WIDE, &tenant, Kind::Count, &item_id), b"\x01\x10\x00\x07default\x05i\x00\x01");
        assert_eq!(prefix(SHARD_WIDE, &tenant, Kind::Fold), b"\x01\x10\x00\x07default\x06");
        assert_eq!(lineage(Keyspace::Users), b"\x01\x10\x00\x00\x07");
        assert_eq!(lineage(Keyspace::Items), b"\x02\x10\x00\x00\x12");
    }

    #[test]
    fn a_key_is_taken_apart_and_a_foreign_one_is_not() {
        let tenant = TenantId::default();
        let event = event(&user(Slot(0x0abc), &tenant, Kind::Event, &user_id("u")), &EventId::new("e1").unwrap());
        let expected = Parts { slot: Slot(0x0abc), tenant: "default", kind: Kind::Event, rest: b"u\x00\x01e1" };
        assert_eq!(parts(&event), Some(expected));
        assert_eq!(parts(&lineage(Keyspace::Items)).unwrap().kind, Kind::ItemLineage);
        for bad in [
            &b""[..],
            b"\x01",
            b"\x02\x00\x01\x07default\x01u\x00\x01",
            b"\x01\x00\x01\x07default\x63u",
            b"\x01\x00\x01\xffd",
        ] {
            assert_eq!(parts(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn the_successor_bounds_a_prefix() {
        assert_eq!(successor(b"a"), Some(b"b".to_vec()));
        assert_eq!(successor(b"a\xff\xff"), Some(b"b".to_vec()));
        assert_eq!(successor(b"\xff"), None);
        assert_eq!(successor(b""), None);
    }

    /// Ids that try to look like each other's keys.
    fn nasty() -> impl Strategy<Value = String> {
        proptest::collection::vec(
            prop_oneof![Just('\0'), Just('\u{1}'), Just('a'), Just('b'), Just('\u{ff}'), Just('\u{10ffff}')],
            1..6,
        )
        .prop_map(String::from_iter)
    }

    proptest! {
        #[test]
        fn a_scan_of_one_user_never_catches_another(a in nasty(), b in nasty(), event_id in nasty()) {
            let tenant = TenantId::default();
            let of = |id: &str| user(Slot(7), &tenant, Kind::Event, &user_id(id));
            let key = event(&of(&b), &EventId::new(&event_id).unwrap());
            prop_assert_eq!(key.starts_with(&of(&a)), a == b);
        }

        #[test]
        fn keys_sort_as_ids(a in nasty(), b in nasty()) {
            let of = |id: &str| user(Slot(7), &TenantId::default(), Kind::User, &user_id(id));
            prop_assert_eq!(of(&a).cmp(&of(&b)), a.as_bytes().cmp(b.as_bytes()));
        }

        #[test]
        fn an_id_is_read_back(id in nasty(), rest in proptest::collection::vec(any::<u8>(), 0..5)) {
            let mut bytes = with_id(Vec::new(), &id);
            bytes.extend_from_slice(&rest);
            let (read, left) = split_id(&bytes).unwrap();
            prop_assert_eq!(read.as_ref(), id.as_str());
            prop_assert_eq!(left, &rest[..]);
        }

        #[test]
        fn any_bytes_split_or_are_refused(bytes in proptest::collection::vec(0u8..3, 0..20)) {
            let _ = split_id(&bytes);
        }

        #[test]
        fn slots_hold_what_is_theirs_and_nothing_shard_wide(first in 0u16..SLOTS, slot in 0u16..=SLOTS, id in nasty()) {
            let (from, to) = of_slots(Keyspace::Users, SlotRange { first, end: SLOTS.min(first + 64) });
            let key = user(Slot(slot), &TenantId::default(), Kind::Event, &user_id(&id));
            let is_within = (first..SLOTS.min(first + 64)).contains(&slot);
            prop_assert_eq!((&from..&to).contains(&&key), is_within);
        }

        #[test]
        fn tenants_do_not_share_prefixes(a in "[a-z0-9-]{1,4}", b in "[a-z0-9-]{1,4}") {
            let of = |tenant: &str| prefix(Slot(3), &TenantId::new(tenant).unwrap(), Kind::Event);
            prop_assert_eq!(of(&a).starts_with(&of(&b)), a == b);
        }
    }
}
