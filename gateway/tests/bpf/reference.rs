//! The classifiers again, in user space: on whole slices, with the wire crate's parsers for whole packets.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use tessera_ebpf_common::Reason;
use tessera_wire::{OpcodeByte, PeerId, control, data, ip};
use tesserad::routes::Prefix;

/// Length of an Ethernet header.
pub(crate) const ETHERNET: usize = 14;

/// What the guard knows.
#[derive(Debug, Clone)]
pub(crate) struct Guarded {
    pub(crate) endpoints: Vec<SocketAddr>,
    pub(crate) live: BTreeSet<u32>,
    /// The MAC address of the device.
    pub(crate) mac: [u8; 6],
    /// The addresses that the host keeps packets for.
    pub(crate) local: Vec<IpAddr>,
}

/// What the guard should do with a packet: let it by uncounted, or count it (and drop it, if that is what the reason says).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    NotOurs,
    Counted(Reason),
}

impl Guarded {
    /// The verdict on an Ethernet frame, whose UDP payload GRO has put together from pieces of `gso_size` bytes (0: one piece).
    pub(crate) fn judge(&self, frame: &[u8], gso_size: usize) -> Verdict {
        self.ours(frame).map_or(Verdict::NotOurs, |(payload, certain)| {
            let size = if gso_size == 0 || gso_size > payload.len() { payload.len() } else { gso_size };
            let mut pieces = payload.chunks(size.max(1));
            let head = self.claim(pieces.next().unwrap_or_default());
            let verdict = if head.is_ok() {
                head
            } else {
                pieces.map(|p| self.claim(p)).find(Result::is_ok).unwrap_or(head)
            };
            match verdict {
                Ok(reason) => Verdict::Counted(reason),
                Err(reason) if certain => Verdict::Counted(reason),
                Err(_) => Verdict::NotOurs,
            }
        })
    }

    /// The UDP payload of a frame to one of the endpoints, and whether this host keeps it.
    fn ours<'a>(&self, frame: &'a [u8]) -> Option<(&'a [u8], bool)> {
        if frame.get(..6)? != self.mac {
            return None;
        }
        let packet = frame.get(ETHERNET..)?;
        let dst = ip::addresses(packet)?.dst;
        let behind_ip = match (&frame[12..14], dst) {
            ([0x08, 0x00], IpAddr::V4(_)) => {
                let total = usize::from(u16::from_be_bytes([packet[2], packet[3]]));
                let fragment = packet[6] & 0x20 != 0 || packet[6] & 0x1f != 0 || packet[7] != 0;
                (packet[0] & 0x0f == 5 && packet[9] == 17 && !fragment)
                    .then(|| packet.get(20..total.min(packet.len())))?
            }
            ([0x86, 0xdd], IpAddr::V6(dst)) => {
                let len = usize::from(u16::from_be_bytes([packet[4], packet[5]]));
                (packet[6] == 17 && dst.to_ipv4_mapped().is_none())
                    .then(|| packet.get(40..packet.len().min(40 + len)))?
            }
            _ => None,
        }?;
        let word = |at| Some(u16::from_be_bytes([*behind_ip.get(at)?, *behind_ip.get(at + 1)?]));
        let (port, len) = (word(2)?, usize::from(word(4)?));
        let payload = behind_ip.get(8..len)?;
        let any = |ip: IpAddr| ip.is_unspecified() && ip.is_ipv4() == dst.is_ipv4();
        let mut hits = self.endpoints.iter().filter(|e| e.port() == port && (e.ip() == dst || any(e.ip())));
        hits.next()?;
        let exact = self.endpoints.contains(&SocketAddr::new(dst, port));
        Some((payload, exact || self.local.contains(&dst)))
    }

    fn claim(&self, datagram: &[u8]) -> Result<Reason, Reason> {
        if let Some(header) = data::Header::parse(datagram) {
            let live = header.peer_id != PeerId::UNDEFINED && self.live.contains(&header.peer_id.get());
            return if live { Ok(Reason::Data) } else { Err(Reason::UnknownPeer) };
        }
        if control::Header::parse(datagram).is_ok() {
            return Ok(Reason::Control);
        }
        match datagram.first() {
            Some(first) if datagram.len() >= control::HEADER_LEN => match OpcodeByte::parse(*first) {
                None => Err(Reason::UnknownOpcode),
                Some(op) if op.opcode.number() == 6 => Err(Reason::DataV1),
                Some(_) => Err(Reason::Short),
            },
            _ => Err(Reason::Short),
        }
    }
}

/// The queue of an inner packet among `workers`, by the longest of `routes`, else by its destination.
pub(crate) fn queue(packet: &[u8], workers: u32, routes: &[(Prefix, u32)]) -> (u32, Reason) {
    let Some(found) = ip::addresses(packet) else {
        return (0, Reason::NoAddress);
    };
    let around = |prefix: &Prefix| match (prefix.addr(), found.dst) {
        (IpAddr::V4(p), IpAddr::V4(dst)) => {
            shared(p.to_bits().into(), dst.to_bits().into(), 32, prefix.len())
        }
        (IpAddr::V6(p), IpAddr::V6(dst)) => shared(p.to_bits(), dst.to_bits(), 128, prefix.len()),
        _ => false,
    };
    if let Some((_, worker)) = routes.iter().filter(|(p, _)| around(p)).max_by_key(|(p, _)| p.len()) {
        return (*worker, Reason::Routed);
    }
    let low = match found.dst {
        IpAddr::V4(dst) => dst.to_bits(),
        IpAddr::V6(dst) => u32::from_be_bytes(*dst.octets().last_chunk().unwrap()),
    };
    (low % workers, Reason::Addressed)
}

/// Whether two addresses of `width` bits agree in their first `len`.
fn shared(a: u128, b: u128, width: u32, len: u8) -> bool {
    (a ^ b).checked_shr(width - u32::from(len)).unwrap_or(0) == 0
}

/// The place of a datagram among `workers` and `shards` sockets; `None` when it is dropped.
pub(crate) fn socket(datagram: &[u8], workers: u32, shards: u32) -> Option<u32> {
    let head = datagram.first_chunk::<9>()?;
    match head[0] >> 3 {
        9 => Some(u32::from_be_bytes([0, head[1], head[2], head[3]]) % workers),
        3..=11 => Some(workers + u32::from(head[8]) % shards),
        _ => None,
    }
}

/// An Ethernet frame: `to` the MAC address, around an IP packet.
pub(crate) fn frame(to: [u8; 6], packet: &[u8]) -> Vec<u8> {
    let ethertype: [u8; 2] =
        if packet.first().is_some_and(|b| b >> 4 == 6) { [0x86, 0xdd] } else { [0x08, 0x00] };
    [&to[..], &[0x02, 0, 0, 0, 0, 9], &ethertype, packet].concat()
}

/// An IP packet with a UDP datagram.
pub(crate) fn udp(src: IpAddr, dst: SocketAddr, payload: &[u8]) -> Vec<u8> {
    let len = (8 + payload.len()) as u16;
    let udp = [&40_000u16.to_be_bytes()[..], &dst.port().to_be_bytes(), &len.to_be_bytes(), &[0, 0], payload]
        .concat();
    match (src, dst.ip()) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => {
            let total = (20 + len).to_be_bytes();
            let header = [0x45, 0, total[0], total[1], 0, 0, 0x40, 0, 64, 17, 0, 0];
            [&header[..], &src.octets(), &dst.octets(), &udp].concat()
        }
        (src, dst) => {
            let v6 = |ip| match ip {
                IpAddr::V4(v4) => Ipv6Addr::from(v4.to_bits() as u128),
                IpAddr::V6(v6) => v6,
            };
            let header = [0x60, 0, 0, 0, len.to_be_bytes()[0], len.to_be_bytes()[1], 17, 64];
            [&header[..], &v6(src).octets(), &v6(dst).octets(), &udp].concat()
        }
    }
}
