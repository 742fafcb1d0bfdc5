//! The owner of a control packet.

use core::num::NonZeroU8;

/// The session shard, `0..shards`, that owns the session whose id ends with `session_id_last_byte`.
///
/// A server session id is a keyed hash or random, so its last byte is uniform. The shares of two shards differ by
/// at most one of the 256 byte values.
#[inline]
#[must_use]
pub const fn shard_of(session_id_last_byte: u8, shards: NonZeroU8) -> u8 {
    session_id_last_byte % shards.get()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shards_are_in_range_and_even() {
        for shards in 1..=u8::MAX {
            let shards = NonZeroU8::new(shards).unwrap();
            let mut load = [0u16; 256];
            for byte in 0..=u8::MAX {
                load[usize::from(shard_of(byte, shards))] += 1;
            }
            let (used, unused) = load.split_at(usize::from(shards.get()));
            assert!(unused.iter().all(|n| *n == 0));
            let (low, high) = (used.iter().min().unwrap(), used.iter().max().unwrap());
            assert!(high - low <= 1, "{shards} shards: {low}..{high}");
        }
    }
}
