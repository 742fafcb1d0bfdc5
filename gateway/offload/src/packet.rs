//! What an inner packet is to [`Merge`](crate::Merge): which flow it is of, and whether it may stand in a run.

use std::ops::Range;

use crate::checksum::Sum;
use crate::vnet::{GSO_TCPV4, GSO_TCPV6, GSO_UDP_L4};

/// Protocol numbers.
pub(crate) const TCP: u8 = 6;
pub(crate) const UDP: u8 = 17;
const ICMPV6: u8 = 58;

/// TCP flags.
pub(crate) const FIN: u8 = 0x01;
pub(crate) const PSH: u8 = 0x08;
pub(crate) const ACK: u8 = 0x10;
pub(crate) const CWR: u8 = 0x80;

/// Fixed header lengths, in bytes.
pub(crate) const IPV4_LEN: usize = 20;
pub(crate) const IPV6_LEN: usize = 40;
pub(crate) const TCP_LEN: usize = 20;
pub(crate) const UDP_LEN: usize = 8;

/// Where the checksum stands in each transport header.
pub(crate) const TCP_CHECKSUM: Range<usize> = 16..18;
pub(crate) const UDP_CHECKSUM: Range<usize> = 6..8;

/// Bits of the IPv4 word with the fragment fields.
const DONT_FRAGMENT: u16 = 0x4000;
const MORE_OR_OFFSET: u16 = 0x3fff;

/// Which super-packets the device takes: what `TUNSETOFFLOAD` accepted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Offloads {
    /// TCP over IPv4.
    pub tso4: bool,
    /// TCP over IPv6.
    pub tso6: bool,
    /// UDP over IPv4.
    pub uso4: bool,
    /// UDP over IPv6.
    pub uso6: bool,
}

impl Offloads {
    /// All kinds.
    pub const ALL: Self = Self { tso4: true, tso6: true, uso4: true, uso6: true };
    /// No kind.
    pub const NONE: Self = Self { tso4: false, tso6: false, uso4: false, uso6: false };
}

/// The four kinds of flows that can be merged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Tcp4,
    Tcp6,
    Udp4,
    Udp6,
}

impl Kind {
    pub(crate) const fn is_v4(self) -> bool {
        matches!(self, Self::Tcp4 | Self::Udp4)
    }

    pub(crate) const fn is_tcp(self) -> bool {
        matches!(self, Self::Tcp4 | Self::Tcp6)
    }

    pub(crate) const fn protocol(self) -> u8 {
        if self.is_tcp() { TCP } else { UDP }
    }

    /// Length of the IP header, which is where the transport header starts.
    pub(crate) const fn transport(self) -> usize {
        if self.is_v4() { IPV4_LEN } else { IPV6_LEN }
    }

    /// Where the checksum stands in the transport header.
    pub(crate) const fn checksum(self) -> Range<usize> {
        if self.is_tcp() { TCP_CHECKSUM } else { UDP_CHECKSUM }
    }

    /// `gso_type` of a super-packet.
    pub(crate) const fn gso_type(self) -> u8 {
        match self {
            Self::Tcp4 => GSO_TCPV4,
            Self::Tcp6 => GSO_TCPV6,
            Self::Udp4 | Self::Udp6 => GSO_UDP_L4,
        }
    }
}

/// Hashes of who speaks to whom. They need not be good: a collision ends a run too early, and that is all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Flow {
    /// Addresses.
    pub(crate) pair: u32,
    /// Addresses, ports and protocol; never 0.
    pub(crate) flow: u32,
}

/// A packet that may stand in a run: intact, honest, with a payload.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Segment {
    pub(crate) kind: Kind,
    pub(crate) flow: Flow,
    /// Length of all headers.
    pub(crate) header: usize,
    /// Length of the payload; at least 1.
    pub(crate) payload: usize,
    /// TCP: the sequence number.
    pub(crate) sequence: u32,
    /// TCP: PSH is set, so nothing may follow in the same run.
    pub(crate) is_last: bool,
}

/// What a packet is.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Class {
    /// Of no flow that is ever merged.
    Foreign,
    /// Between these addresses, and of a protocol (all, if `None`) whose flows it may belong to.
    Odd { pair: u32, protocol: Option<u8> },
    /// Of this flow, to stand alone.
    Alone(Flow),
    /// May stand in a run.
    Segment(Segment),
}

/// Looks at a whole packet, checksums included.
#[inline]
pub(crate) fn classify(packet: &[u8], offloads: Offloads) -> Class {
    match packet.first().map(|byte| byte >> 4) {
        Some(4) => classify_v4(packet, offloads),
        Some(6) => classify_v6(packet, offloads),
        _ => Class::Foreign,
    }
}

#[inline]
fn classify_v4(packet: &[u8], offloads: Offloads) -> Class {
    let Some((header, rest)) = packet.split_first_chunk::<IPV4_LEN>() else {
        return Class::Foreign;
    };
    let (kind, enabled) = match header[9] {
        TCP => (Kind::Tcp4, offloads.tso4),
        UDP => (Kind::Udp4, offloads.uso4),
        _ => return Class::Foreign,
    };
    if !enabled {
        return Class::Foreign;
    }
    let pair = mix(0, word64(header, 12));
    let is_ordinary = header[0] == 0x45
        && usize::from(word16(header, 2)) == packet.len()
        && word16(header, 6) & !DONT_FRAGMENT == 0;
    if !is_ordinary {
        return Class::Odd { pair: half(pair), protocol: Some(header[9]) };
    }
    // The other name of a zero checksum is right, and not what segmentation writes.
    let header_intact = Sum::of(header).is_intact() && header[10..12] != [0xff, 0xff];
    transport(kind, pair, rest, header_intact, Sum::of(&header[12..20]))
}

#[inline]
fn classify_v6(packet: &[u8], offloads: Offloads) -> Class {
    let Some((header, rest)) = packet.split_first_chunk::<IPV6_LEN>() else {
        return Class::Foreign;
    };
    let pair =
        mix(mix(mix(mix(1, word64(header, 8)), word64(header, 16)), word64(header, 24)), word64(header, 32));
    let (kind, enabled) = match header[6] {
        TCP => (Kind::Tcp6, offloads.tso6),
        UDP => (Kind::Udp6, offloads.uso6),
        ICMPV6 => return Class::Foreign,
        // What stands behind extension headers may be of any flow.
        _ => return Class::Odd { pair: half(pair), protocol: None },
    };
    if !enabled {
        return Class::Foreign;
    }
    if usize::from(word16(header, 4)) != rest.len() {
        return Class::Odd { pair: half(pair), protocol: Some(header[6]) };
    }
    transport(kind, pair, rest, true, Sum::of(&header[8..40]))
}

/// The transport header, and the verdict. `rest` is what follows the IP header.
#[inline]
fn transport(kind: Kind, pair: u64, rest: &[u8], header_intact: bool, addresses: Sum) -> Class {
    let odd = Class::Odd { pair: half(pair), protocol: Some(kind.protocol()) };
    let Some(ports) = rest.first_chunk::<4>() else {
        return odd;
    };
    let hash = mix(pair, u64::from(u32::from_ne_bytes(*ports)) << 8 | u64::from(kind.protocol()));
    let flow = Flow { pair: half(pair), flow: half(hash) | 1 };
    let (header, sequence, fits, is_last) = if kind.is_tcp() {
        let Some(tcp) = rest.first_chunk::<TCP_LEN>() else {
            return odd;
        };
        let header = usize::from(tcp[12] >> 4) * 4;
        if header < TCP_LEN || header > rest.len() {
            return odd;
        }
        // No flag but these two, and no reserved bit.
        let fits = tcp[13] & !PSH == ACK && tcp[12] & 0x0f == 0 && tcp[TCP_CHECKSUM] != [0xff, 0xff];
        (header, word32(tcp, 4), fits, tcp[13] & PSH != 0)
    } else {
        let Some(udp) = rest.first_chunk::<UDP_LEN>() else {
            return odd;
        };
        if usize::from(word16(udp, 4)) != rest.len() {
            return odd;
        }
        (UDP_LEN, 0, udp[UDP_CHECKSUM] != [0, 0], false)
    };
    let payload = rest.len() - header;
    if !fits || payload == 0 || !header_intact || !sum_with_pseudo(kind, addresses, rest).is_intact() {
        return Class::Alone(flow);
    }
    Class::Segment(Segment { kind, flow, header: kind.transport() + header, payload, sequence, is_last })
}

#[inline]
fn sum_with_pseudo(kind: Kind, addresses: Sum, transport: &[u8]) -> Sum {
    // The length was compared with a 16-bit field.
    addresses.word(u16::from(kind.protocol())).word(transport.len() as u16).plus(Sum::of(transport))
}

/// Whether `next` goes on where a run that `head` leads, with `count` packets so far, ends: as far as the fields of the
/// headers say it. Both were found to be segments of one kind, with headers of the same length.
#[inline]
pub(crate) fn same_headers(kind: Kind, head: &[u8], next: &[u8], count: u16) -> bool {
    let same_ip = if kind.is_v4() {
        let (Some(a), Some(b)) = (head.first_chunk::<IPV4_LEN>(), next.first_chunk::<IPV4_LEN>()) else {
            return false;
        };
        let atomic = word16(a, 6) & DONT_FRAGMENT != 0;
        a[..2] == b[..2]
            && a[6..10] == b[6..10]
            && a[12..] == b[12..]
            && (atomic || word16(b, 4) == word16(a, 4).wrapping_add(count))
    } else {
        let (Some(a), Some(b)) = (head.first_chunk::<IPV6_LEN>(), next.first_chunk::<IPV6_LEN>()) else {
            return false;
        };
        a[..4] == b[..4] && a[6..] == b[6..]
    };
    let (Some(a), Some(b)) = (head.get(kind.transport()..), next.get(kind.transport()..)) else {
        return false;
    };
    same_ip && if kind.is_tcp() { same_tcp(a, b) } else { a.first_chunk::<4>() == b.first_chunk::<4>() }
}

/// Ports, acknowledgement, length of the header, window, urgent pointer and options.
#[inline]
fn same_tcp(head: &[u8], next: &[u8]) -> bool {
    let (Some((a, more_a)), Some((b, more_b))) =
        (head.split_first_chunk::<TCP_LEN>(), next.split_first_chunk::<TCP_LEN>())
    else {
        return false;
    };
    let options = usize::from(a[12] >> 4) * 4 - TCP_LEN;
    a[..4] == b[..4]
        && a[8..13] == b[8..13]
        && a[14..16] == b[14..16]
        && a[18..] == b[18..]
        && more_a.get(..options) == more_b.get(..options)
}

/// Whether the word with the IPv4 fragment fields is a fragment's.
pub(crate) const fn is_fragment(word: u16) -> bool {
    word & MORE_OR_OFFSET != 0
}

/// A network-order word inside a header whose length is known.
#[inline]
pub(crate) fn word16<const N: usize>(header: &[u8; N], at: usize) -> u16 {
    u16::from_be_bytes([header[at], header[at + 1]])
}

#[inline]
fn word32<const N: usize>(header: &[u8; N], at: usize) -> u32 {
    u32::from(word16(header, at)) << 16 | u32::from(word16(header, at + 2))
}

#[inline]
fn word64<const N: usize>(header: &[u8; N], at: usize) -> u64 {
    u64::from(word32(header, at)) << 32 | u64::from(word32(header, at + 4))
}

/// One round of a multiplicative hash.
#[inline]
const fn mix(state: u64, word: u64) -> u64 {
    let product = (state ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    product ^ product >> 32
}

#[inline]
const fn half(hash: u64) -> u32 {
    (hash >> 16) as u32
}
