//! Which socket a datagram is for, and which queue an inner packet.

use core::net::IpAddr;
use core::num::NonZeroU8;

use tessera_wire::{OpcodeByte, control, data};

use crate::{PeerIdLayout, Reason, shard_of};

/// The bytes that decide: opcode and session id, or opcode and peer-id.
pub const HEAD_LEN: usize = control::HEADER_LEN;

/// Most sockets of a SO_REUSEPORT group that is steered: the entries of its socket map.
pub const MAX_SOCKETS: u32 = 256;

/// The place of a datagram that starts with `head` among the sockets of a group, workers first, shards behind them; and
/// what to count it as.
///
/// # Errors
/// The reason to drop it.
#[inline]
pub fn socket_of(
    head: &[u8; HEAD_LEN],
    layout: PeerIdLayout,
    shards: NonZeroU8,
) -> Result<(u32, Reason), Reason> {
    if let Some(peer_id) = data::peer_id_of(head) {
        return Ok((layout.worker_of(peer_id), Reason::Data));
    }
    if OpcodeByte::parse(head[0]).is_none() {
        return Err(Reason::UnknownOpcode);
    }
    let shard = shard_of(head[HEAD_LEN - 1], shards);
    Ok((layout.workers() + shard as u32, Reason::Control))
}

/// The worker that the inner address `addr` names by itself: the low bits of its last 32.
#[inline]
#[must_use]
pub const fn worker_of_address(addr: IpAddr, layout: PeerIdLayout) -> u32 {
    let low = match addr {
        IpAddr::V4(addr) => addr.to_bits(),
        IpAddr::V6(addr) => addr.to_bits() as u32,
    };
    low & layout.worker_mask()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn data_goes_to_workers_and_the_rest_to_shards() {
        let layout = PeerIdLayout::new(4).unwrap();
        let shards = NonZeroU8::new(3).unwrap();
        let place = |head| socket_of(&head, layout, shards);
        assert_eq!(place([9 << 3, 0xff, 0xff, 6, 0, 0, 0, 0, 9]), Ok((2, Reason::Data)));
        assert_eq!(place([7 << 3, 0xff, 0xff, 6, 0, 0, 0, 0, 8]), Ok((4 + 2, Reason::Control)));
        assert_eq!(
            place([6 << 3, 0, 0, 0, 0, 0, 0, 0, 3]),
            Ok((4, Reason::Control)),
            "a shard says no to it"
        );
        assert_eq!(place([12 << 3, 0, 0, 0, 0, 0, 0, 0, 3]), Err(Reason::UnknownOpcode));
    }

    #[test]
    fn the_low_bits_of_an_address_name_the_worker() {
        let layout = PeerIdLayout::new(8).unwrap();
        for (addr, worker) in [("10.8.0.13", 5), ("10.8.0.16", 0), ("fd00::abcd", 5), ("fd00:7::", 0)] {
            assert_eq!(worker_of_address(addr.parse().unwrap(), layout), worker, "{addr}");
        }
    }
}
