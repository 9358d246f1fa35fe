//! `slot = SipHash-2-4(placement_key, tenant 0x1F id) >> 52`.
//!
//! Keyed, so that a client cannot aim its ids at one slot; a published algorithm, so that it never changes under us.
//! Aumasson and Bernstein, "SipHash: a fast short-input PRF", 2012.

use docent_types::{Slot, TenantId};
use siphasher::sip::SipHasher24;
use std::hash::Hasher;

/// Between tenant and id: a tenant cannot contain it, so that no two pairs share their bytes.
const SEPARATOR: u8 = 0x1f;

/// Hashes ids to slots under a cluster's placement key.
#[derive(Clone, Copy, Debug)]
pub struct SlotHasher {
    key: SipHasher24,
}

impl SlotHasher {
    /// A hasher under `placement_key`, which is fixed for the life of a cluster.
    pub fn new(placement_key: &[u8; 16]) -> SlotHasher {
        SlotHasher { key: SipHasher24::new_with_key(placement_key) }
    }

    /// The slot of `id` in either keyspace, 0 to 4,095.
    pub fn slot(&self, tenant: &TenantId, id: &str) -> Slot {
        let mut hasher = self.key;
        hasher.write(tenant.as_str().as_bytes());
        hasher.write(&[SEPARATOR]);
        hasher.write(id.as_bytes());
        // The top 12 of 64 bits: always below 4,096.
        Slot((hasher.finish() >> 52) as u16)
    }
}

/// 64 bits that stand for an item in the lists of a graph model: the same in every cluster, unlike its slot. Of 10^6 items two share theirs
/// with a chance of 3 in 10^8; they would share their neighbours.
pub fn fingerprint(id: &str) -> u64 {
    let mut hasher = SipHasher24::new_with_key(b"docent 2026 item");
    hasher.write(id.as_bytes());
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hasher() -> SlotHasher {
        let mut key = [0u8; 16];
        key.iter_mut().zip(0..).for_each(|(byte, i)| *byte = i);
        SlotHasher::new(&key)
    }

    /// A change of these numbers would re-home every record of every cluster.
    #[test]
    fn slots_never_change() {
        let tenant = TenantId::default();
        for (id, slot) in FROZEN {
            assert_eq!(hasher().slot(&tenant, id), Slot(slot), "slot of {id:?}");
        }
        let digest = (0..1_000u32).fold(0u64, |digest, i| {
            let slot = u64::from(hasher().slot(&tenant, &i.to_string()).0);
            digest.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(slot)
        });
        assert_eq!(digest, FROZEN_DIGEST);
    }

    // From an independent implementation in Python.
    const FROZEN: [(&str, u16); 4] = [("", 3769), ("1", 2192), ("user-42", 3991), ("\u{e9}", 3552)];
    const FROZEN_DIGEST: u64 = 10883268823148623989;

    #[test]
    fn fingerprints_never_change() {
        // They are in the parts of every graph model.
        assert_eq!(
            (fingerprint("1"), fingerprint("item-42")),
            (14_828_046_007_990_708_762, 16_544_886_520_984_935_785)
        );
    }

    #[test]
    fn the_published_vector_of_siphash_24_holds() {
        // Appendix A of the paper: key 00..0f, message 00..0e, a129ca6149be45e5.
        let mut key = [0u8; 16];
        key.iter_mut().zip(0..).for_each(|(byte, i)| *byte = i);
        let mut hasher = SipHasher24::new_with_key(&key);
        hasher.write(&(0..15).collect::<Vec<u8>>());
        assert_eq!(hasher.finish(), 0xa129_ca61_49be_45e5);
    }

    #[test]
    fn tenants_do_not_share_slots() {
        let (a, b) = (TenantId::new("a").unwrap(), TenantId::new("b").unwrap());
        let differing =
            (0..100).filter(|i| hasher().slot(&a, &i.to_string()) != hasher().slot(&b, &i.to_string())).count();
        assert!(differing > 90, "{differing} of 100 differ");
    }

    #[test]
    fn ids_spread_evenly_over_shards() {
        let tenant = TenantId::default();
        let mut counts = [0u32; 8];
        (0..80_000).for_each(|i: u32| counts[usize::from(hasher().slot(&tenant, &format!("user-{i}")).0) / 512] += 1);
        assert!(counts.iter().all(|&count| (9_500..10_500).contains(&count)), "{counts:?}");
    }
}
