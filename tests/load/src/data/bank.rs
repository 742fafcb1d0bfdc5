//! Packets that were sealed before the clock runs, in the order in which they are sent.
//!
//! ```text
//!  bytes:   │ peer 0: train of 46 │ peer 1: train of 46 │ … │ peer 0 │ peer 1 │ …
//!  trains:    peer, length, count   …
//! ```
//!
//! A packet id can be used once, so a bank is good for one run. Nothing else may be sealed with a peer's key between the
//! sealing of its bank and the end of it: a later id would make a replay of all that came before.

use super::drive::Trains;
use super::mix::Sizes;
use super::packet::Template;
use std::net::{Ipv4Addr, SocketAddrV4};
use tessera_proto::data::{DataChannel, SealError};

/// Source port of a peer's first stream; the others follow.
const FIRST_PORT: u16 = 20_000;

/// Packets of one peer that leave together: all are of one length.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Train {
    /// Whose.
    pub peer: u32,
    /// By which of the sender's sockets.
    pub outlet: u32,
    /// Bytes of each packet, sealed.
    pub segment: u16,
    /// Packets.
    pub count: u16,
    /// Bytes of each inner packet.
    pub inner: u16,
}

/// Who sends.
#[derive(Debug)]
pub struct Source<'a> {
    /// What seals.
    pub channel: &'a mut DataChannel,
    /// The peer's address in the tunnel.
    pub address: Ipv4Addr,
}

/// What is sealed.
#[derive(Debug, Clone, Copy)]
pub struct Order {
    /// Sizes of inner packets.
    pub sizes: Sizes,
    /// Where they go.
    pub to: SocketAddrV4,
    /// Packets of a train.
    pub train: u16,
    /// Streams of each peer.
    pub streams: u16,
    /// Packets at most; `None` as many as there is room for.
    pub packets: Option<u64>,
    /// Room in bytes.
    pub room: usize,
}

/// The bank.
#[derive(Debug, Default)]
pub struct Bank {
    bytes: Vec<u8>,
    trains: Vec<Train>,
    packets: u64,
    /// The next train, and where its bytes start.
    at: usize,
    offset: usize,
}

impl Bank {
    /// Seals, train by train, the peers in turn.
    ///
    /// # Errors
    /// When a peer has no key, or one that is used up.
    pub fn seal(sources: &mut [Source<'_>], order: &Order) -> Result<Self, SealError> {
        let mut bank = Self::default();
        let (streams, peers) = (usize::from(order.streams.max(1)), sources.len());
        let mut sequences = vec![0_u64; peers.saturating_mul(streams)];
        // Zeroed memory is the system's, and costs nothing until it is written to.
        bank.bytes = vec![0; order.bytes(peers)];
        let mut end = 0;
        for round in 0..usize::MAX {
            if sources.is_empty() {
                break;
            }
            for (peer, source) in sources.iter_mut().enumerate() {
                let left = order.packets.map_or(u64::MAX, |most| most.saturating_sub(bank.packets));
                let inner = order.sizes.length(peer, round);
                let headroom = source.channel.headroom();
                let segment = headroom + usize::from(inner);
                let room = bank.bytes.len().saturating_sub(end) / segment;
                let count = u64::from(order.train).min(left).min(room as u64) as u16;
                if count == 0 {
                    bank.bytes.truncate(end);
                    return Ok(bank);
                }
                let stream = round % streams * peers + peer;
                let port = FIRST_PORT.wrapping_add((round % streams) as u16);
                let template =
                    Template::new(SocketAddrV4::new(source.address, port), order.to, stream as u32, inner);
                for _ in 0..count {
                    let frame = &mut bank.bytes[end..end + segment];
                    end += segment;
                    template.write(sequences[stream], 0, &mut frame[headroom..]);
                    source.channel.seal(frame)?;
                    sequences[stream] += 1;
                }
                bank.packets += u64::from(count);
                bank.trains.push(Train {
                    peer: peer as u32,
                    outlet: peer as u32,
                    segment: segment as u16,
                    count,
                    inner,
                });
            }
        }
        bank.bytes.truncate(end);
        Ok(bank)
    }

    /// Packets in it, sent ones included.
    #[must_use]
    pub const fn packets(&self) -> u64 {
        self.packets
    }

    /// Bytes in it.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.bytes.len()
    }

    /// True when there never was anything in it.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }
}

impl Trains for Bank {
    #[inline]
    fn next_train(&mut self) -> Option<(Train, &[u8])> {
        let train = *self.trains.get(self.at)?;
        let end = self.offset + usize::from(train.segment) * usize::from(train.count);
        let bytes = self.bytes.get(self.offset..end)?;
        self.at += 1;
        self.offset = end;
        Some((train, bytes))
    }
}

impl Order {
    /// Memory that is set aside: all of the room, or what so many packets take.
    fn bytes(&self, peers: usize) -> usize {
        let Some(packets) = self.packets else { return self.room };
        // Whole cycles of the mix are as long as the mean says; a started one may be longer.
        let started = peers.saturating_add(1).saturating_mul(usize::from(self.train)).saturating_mul(1500);
        let overhead = tessera_wire::data::OVERHEAD as f64 + 1.0;
        let bytes = packets as f64 * (self.sizes.mean() + overhead) + started as f64;
        (bytes as usize).min(self.room)
    }
}

#[cfg(test)]
mod tests {
    use super::super::packet::verify;
    use super::super::peer::made_up_channel;
    use super::*;
    use std::collections::BTreeMap;
    use tessera_proto::Instant;
    use tessera_proto::data::InBand;
    use tessera_proto::keys::Role;

    fn order() -> Order {
        Order {
            sizes: Sizes::Imix,
            to: "192.0.2.1:5001".parse().unwrap(),
            train: 4,
            streams: 2,
            packets: Some(1000),
            room: 1 << 24,
        }
    }

    fn bank(peers: u32, order: &Order) -> Bank {
        let mut channels: Vec<_> = (0..peers).map(|peer| made_up_channel(peer, Role::Client)).collect();
        let mut sources: Vec<_> = channels
            .iter_mut()
            .map(|channel| Source { channel, address: Ipv4Addr::new(10, 8, 0, 2) })
            .collect();
        Bank::seal(&mut sources, order).unwrap()
    }

    #[test]
    fn every_packet_opens_once_in_order_and_is_what_it_says() {
        let mut bank = bank(3, &order());
        assert_eq!(bank.packets(), 1000);
        let mut servers: Vec<_> = (0..3).map(|peer| made_up_channel(peer, Role::Server)).collect();
        let mut next: BTreeMap<u32, u64> = BTreeMap::new();
        let mut packets = 0;
        while let Some((train, bytes)) = bank.next_train() {
            assert_eq!(bytes.len(), usize::from(train.segment) * usize::from(train.count));
            for frame in bytes.chunks(usize::from(train.segment)) {
                let mut frame = frame.to_vec();
                let opened = servers[train.peer as usize].open(&mut frame, Instant::default()).unwrap();
                assert!(opened.newest);
                let InBand::Packet(inner) = opened.payload else { panic!("no packet") };
                assert_eq!(inner.len(), usize::from(train.inner));
                let (_, payload) = verify(inner).unwrap();
                assert_eq!(payload.stream % 3, train.peer);
                let sequence = next.entry(payload.stream).or_default();
                assert_eq!(payload.sequence, *sequence);
                *sequence += 1;
                packets += 1;
            }
        }
        assert_eq!((packets, next.len()), (1000, 6), "all streams of all peers");
        assert!(bank.next_train().is_none());
    }

    #[test]
    fn peers_take_turns() {
        let mut bank = bank(3, &order());
        let mut peers = Vec::new();
        for _ in 0..7 {
            peers.push(bank.next_train().unwrap().0.peer);
        }
        assert_eq!(peers, [0, 1, 2, 0, 1, 2, 0]);
    }

    #[test]
    fn the_room_is_kept_to_and_used() {
        let order = Order { packets: None, room: 1 << 20, sizes: Sizes::One(1400), ..order() };
        let bank = bank(2, &order);
        assert!(bank.len() <= 1 << 20 && bank.len() + 1424 > 1 << 20, "{}", bank.len());
        assert_eq!(bank.len() as u64, bank.packets() * 1424);
    }

    #[test]
    fn a_number_of_packets_is_met_exactly() {
        for packets in [1, 3, 4, 5, 999] {
            assert_eq!(bank(5, &Order { packets: Some(packets), ..order() }).packets(), packets);
        }
    }

    #[test]
    fn no_room_is_an_empty_bank() {
        let mut bank = bank(1, &Order { room: 10, ..order() });
        assert!(bank.is_empty() && bank.next_train().is_none());
    }
}
