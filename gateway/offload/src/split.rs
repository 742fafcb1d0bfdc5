//! The way down: one packet from the device into the segments that it stands for.

use crate::checksum::{Sum, copy_and_sum};
use crate::packet::{
    CWR, FIN, IPV4_LEN, IPV6_LEN, PSH, TCP, TCP_CHECKSUM, TCP_LEN, UDP, UDP_CHECKSUM, UDP_LEN, is_fragment,
    word16,
};
use crate::vnet::{GSO_ECN, GSO_NONE, GSO_TCPV4, GSO_TCPV6, GSO_UDP_L4, NEEDS_CSUM, VnetHeader};

/// Why a packet from the device makes no sense. The kernel does not send such.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SplitError {
    /// `gso_type` is none that was asked for.
    #[error("segmentation of unknown type {0}")]
    UnknownType(u8),
    /// `gso_size` is zero.
    #[error("segments of no bytes")]
    NoSize,
    /// It starts with no header of the IP version and the protocol that `gso_type` names.
    #[error("the IP header is not of the kind that the offload header names")]
    WrongProtocol,
    /// Shorter than its headers.
    #[error("the packet ends inside its headers")]
    Truncated,
    /// A fragment cannot be segmented.
    #[error("a fragment with a segment size")]
    Fragment,
    /// `csum_start` or `csum_offset` is outside of the packet, or not where the transport's checksum is.
    #[error("the checksum's place is wrong")]
    ChecksumPlace,
    /// A segment would be longer than an IP packet can be.
    #[error("a segment would exceed 65535 bytes")]
    TooLong,
}

/// A packet from the device, and how it falls into segments. Each comes out as a whole IP packet with finished lengths and
/// checksums; what is no super-packet comes out as one.
///
/// Length fields of super-packets are not read: the packet is as long as it is.
#[derive(Clone, Copy, Debug)]
pub struct Split<'a> {
    packet: &'a [u8],
    /// Segments; at least 1.
    count: usize,
    plan: Plan,
}

#[derive(Clone, Copy, Debug)]
enum Plan {
    /// As it is.
    Copy,
    /// One packet that lacks its checksum.
    Finish { start: usize, checksum: usize },
    /// Segments.
    Cut(Cut),
}

/// What all segments have in common.
#[derive(Clone, Copy, Debug)]
struct Cut {
    is_v4: bool,
    is_tcp: bool,
    /// Where the transport header starts, and where the payload does.
    transport: usize,
    header: usize,
    /// Payload of each segment but the last.
    size: usize,
    /// IPv4: the id of the first. TCP: the sequence number of the first.
    id: u16,
    sequence: u32,
    /// IPv4: the sum of the header without length, id and checksum.
    ip_sum: Sum,
    /// The sum of pseudo-header and transport header, without lengths, checksum, and TCP's sequence and flags.
    transport_sum: Sum,
}

impl<'a> Split<'a> {
    /// Looks at a packet that stood behind `header`.
    ///
    /// # Errors
    /// Why header and packet contradict each other.
    #[inline]
    pub fn new(header: VnetHeader, packet: &'a [u8]) -> Result<Self, SplitError> {
        if header.gso_type & !GSO_ECN == GSO_NONE {
            let plan = if header.flags & NEEDS_CSUM == 0 {
                Plan::Copy
            } else {
                let start = usize::from(header.csum_start);
                let checksum = start + usize::from(header.csum_offset);
                if checksum + 2 > packet.len() {
                    return Err(SplitError::ChecksumPlace);
                }
                Plan::Finish { start, checksum }
            };
            return Ok(Self { packet, count: 1, plan });
        }
        let cut = Cut::new(header, packet)?;
        let count = (packet.len() - cut.header).div_ceil(cut.size).max(1);
        Ok(Self { packet, count, plan: Plan::Cut(cut) })
    }

    /// How many segments there are; at least one.
    #[inline]
    #[must_use]
    pub const fn count(&self) -> usize {
        self.count
    }

    /// The length of a segment: of all the same, but the last may be shorter.
    #[inline]
    #[must_use]
    pub const fn segment_len(&self, index: usize) -> usize {
        match &self.plan {
            Plan::Cut(cut) if index + 1 < self.count => cut.header + cut.size,
            Plan::Cut(cut) => self.packet.len() - (self.count - 1) * cut.size,
            Plan::Copy | Plan::Finish { .. } => self.packet.len(),
        }
    }

    /// Writes a whole segment.
    ///
    /// # Panics
    /// When there is no such segment, or `out` is not as long as it.
    #[inline]
    pub fn write(&self, index: usize, out: &mut [u8]) {
        assert!(index < self.count, "segment {index} of {}", self.count);
        assert_eq!(out.len(), self.segment_len(index), "a slot of another size than its segment");
        match &self.plan {
            Plan::Copy => out.copy_from_slice(self.packet),
            Plan::Finish { start, checksum } => {
                out[..*start].copy_from_slice(&self.packet[..*start]);
                let sum = copy_and_sum(&self.packet[*start..], &mut out[*start..]);
                out[*checksum..*checksum + 2].copy_from_slice(&sum.checksum_nonzero());
            }
            Plan::Cut(cut) => cut.write(self.packet, index, index + 1 == self.count, out),
        }
    }
}

impl Cut {
    fn new(header: VnetHeader, packet: &[u8]) -> Result<Self, SplitError> {
        let version = packet.first().ok_or(SplitError::Truncated)? >> 4;
        let (is_v4, is_tcp) = match (header.gso_type & !GSO_ECN, version) {
            (GSO_TCPV4, 4) => (true, true),
            (GSO_TCPV6, 6) => (false, true),
            (GSO_UDP_L4, 4) => (true, false),
            (GSO_UDP_L4, 6) => (false, false),
            (GSO_TCPV4 | GSO_TCPV6 | GSO_UDP_L4, _) => return Err(SplitError::WrongProtocol),
            (other, _) => return Err(SplitError::UnknownType(other)),
        };
        let size = usize::from(header.gso_size);
        if size == 0 {
            return Err(SplitError::NoSize);
        }
        let protocol = if is_tcp { TCP } else { UDP };
        let (ip_end, id, ip_sum, addresses) = if is_v4 { ipv4(packet, protocol) } else { ipv6(packet) }?;
        let is_partial = header.flags & NEEDS_CSUM != 0;
        let transport = if is_partial { usize::from(header.csum_start) } else { ip_end };
        let place = if is_tcp { TCP_CHECKSUM } else { UDP_CHECKSUM };
        // Behind an IPv6 header there may be extension headers, which only the offload header knows the end of.
        let is_place = if is_v4 { transport == ip_end } else { transport >= ip_end };
        if !is_place || is_partial && usize::from(header.csum_offset) != place.start {
            return Err(SplitError::ChecksumPlace);
        }
        if !is_v4 && transport == ip_end && packet.get(6) != Some(&protocol) {
            return Err(SplitError::WrongProtocol);
        }
        let rest = packet.get(transport..).ok_or(SplitError::Truncated)?;
        let (header_len, sequence) = if is_tcp {
            let tcp = rest.first_chunk::<TCP_LEN>().ok_or(SplitError::Truncated)?;
            let len = usize::from(tcp[12] >> 4) * 4;
            if len < TCP_LEN || len > rest.len() {
                return Err(SplitError::Truncated);
            }
            (len, u32::from_be_bytes([tcp[4], tcp[5], tcp[6], tcp[7]]))
        } else {
            rest.first_chunk::<UDP_LEN>().ok_or(SplitError::Truncated)?;
            (UDP_LEN, 0)
        };
        let header = transport + header_len;
        let longest = header + size.min(packet.len() - header);
        if longest - if is_v4 { 0 } else { IPV6_LEN } > usize::from(u16::MAX) {
            return Err(SplitError::TooLong);
        }
        // What the checksum's place holds covers the length of the whole: behind a routing header the addresses in sight are not
        // those of the pseudo-header, so it is taken from there where possible.
        let pseudo = if is_partial {
            Sum::of(&rest[place]).plus(complement(rest.len()))
        } else {
            addresses.word(u16::from(protocol))
        };
        let fields = if is_tcp {
            // Ports, acknowledgement; window; urgent pointer and options.
            Sum::of(&rest[..4])
                .plus(Sum::of(&rest[8..12]))
                .plus(Sum::of(&rest[14..16]))
                .plus(Sum::of(&rest[18..header_len]))
        } else {
            Sum::of(&rest[..4])
        };
        Ok(Self {
            is_v4,
            is_tcp,
            transport,
            header,
            size,
            id,
            sequence,
            ip_sum,
            transport_sum: pseudo.plus(fields),
        })
    }

    #[inline]
    fn write(&self, packet: &[u8], index: usize, is_last: bool, out: &mut [u8]) {
        let total = out.len();
        let (head, body) = out.split_at_mut(self.header);
        head.copy_from_slice(&packet[..self.header]);
        let from = self.header + index * self.size;
        let payload = copy_and_sum(&packet[from..from + body.len()], body);

        // `new` has seen to it that no segment is too long for the fields.
        let (ip, transport) = head.split_at_mut(self.transport);
        if self.is_v4 {
            let id = self.id.wrapping_add(index as u16);
            ip[2..4].copy_from_slice(&(total as u16).to_be_bytes());
            ip[4..6].copy_from_slice(&id.to_be_bytes());
            ip[10..12].copy_from_slice(&self.ip_sum.word(total as u16).word(id).checksum());
        } else {
            ip[4..6].copy_from_slice(&((total - IPV6_LEN) as u16).to_be_bytes());
        }
        let length = (total - self.transport) as u16;
        let sum = self.transport_sum.plus(payload).word(length);
        if self.is_tcp {
            let sequence = self.sequence.wrapping_add(from as u32).wrapping_sub(self.header as u32);
            transport[4..8].copy_from_slice(&sequence.to_be_bytes());
            if !is_last {
                transport[13] &= !(FIN | PSH);
            }
            if index > 0 {
                transport[13] &= !CWR;
            }
            let sum = sum
                .word((sequence >> 16) as u16)
                .word(sequence as u16)
                .word(u16::from_be_bytes([transport[12], transport[13]]));
            transport[TCP_CHECKSUM].copy_from_slice(&sum.checksum());
        } else {
            transport[4..6].copy_from_slice(&length.to_be_bytes());
            transport[UDP_CHECKSUM].copy_from_slice(&sum.word(length).checksum_nonzero());
        }
    }
}

/// Where the header ends, the id, the sum of what all segments share, the sum of the addresses.
type Ip = (usize, u16, Sum, Sum);

fn ipv4(packet: &[u8], protocol: u8) -> Result<Ip, SplitError> {
    let fixed = packet.first_chunk::<IPV4_LEN>().ok_or(SplitError::Truncated)?;
    let len = usize::from(fixed[0] & 0x0f) * 4;
    if len < IPV4_LEN || len > packet.len() {
        return Err(SplitError::Truncated);
    }
    if fixed[9] != protocol {
        return Err(SplitError::WrongProtocol);
    }
    if is_fragment(word16(fixed, 6)) {
        return Err(SplitError::Fragment);
    }
    let sum = Sum::of(&fixed[..2]).plus(Sum::of(&fixed[6..10])).plus(Sum::of(&packet[12..len]));
    Ok((len, word16(fixed, 4), sum, Sum::of(&fixed[12..20])))
}

fn ipv6(packet: &[u8]) -> Result<Ip, SplitError> {
    let fixed = packet.first_chunk::<IPV6_LEN>().ok_or(SplitError::Truncated)?;
    Ok((IPV6_LEN, 0, Sum::ZERO, Sum::of(&fixed[8..40])))
}

/// Takes a length out of a sum; a packet may be longer than 16 bits can say.
fn complement(length: usize) -> Sum {
    Sum::ZERO.without_word((length >> 16) as u16).without_word(length as u16)
}
