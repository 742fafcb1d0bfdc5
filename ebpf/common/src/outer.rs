//! The outer headers of a datagram, as a frame brings them: IPv4 or IPv6, then UDP.
//!
//! Only what is certainly one whole datagram is recognized: no fragments, no IP options, no extension headers. What is not
//! recognized is left alone.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use tessera_wire::Reader;

/// IPv4 header without options, then the UDP header.
pub const V4_LEN: usize = 20 + UDP_LEN;
/// IPv6 header, then the UDP header.
pub const V6_LEN: usize = 40 + UDP_LEN;

const UDP_LEN: usize = 8;
const PROTOCOL_UDP: u8 = 17;

/// IPv4: version 4, five words of header.
const V4_PLAIN: u8 = 0x45;
/// IPv4: "more fragments" and the offset.
const V4_FRAGMENT: u16 = 0x3fff;

/// An address and a port as a map key: four words of address in the order of the network (IPv4 mapped into IPv6), one of port.
/// The unspecified address of a family stands for all of its addresses.
///
/// They are words, because bytes would be filled by loops, which the verifier admits to privileged loaders only.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(transparent)]
pub struct Endpoint(pub [u32; Self::WORDS]);

impl Endpoint {
    /// Length in words.
    pub const WORDS: usize = 5;

    #[inline]
    const fn v4(addr: Ipv4Addr, port: u16) -> Self {
        Self([0, 0, 0xffff_u32.to_be(), addr.to_bits().to_be(), port as u32])
    }

    #[inline]
    const fn v6(addr: Ipv6Addr, port: u16) -> Self {
        let bits = addr.to_bits();
        let (a, b, c, d) = (bits >> 96, bits >> 64, bits >> 32, bits);
        Self([(a as u32).to_be(), (b as u32).to_be(), (c as u32).to_be(), (d as u32).to_be(), port as u32])
    }
}

impl From<SocketAddr> for Endpoint {
    /// IPv4 in IPv6 notation is IPv4: that is how it comes over the wire.
    fn from(addr: SocketAddr) -> Self {
        match addr.ip().to_canonical() {
            IpAddr::V4(v4) => Self::v4(v4, addr.port()),
            IpAddr::V6(v6) => Self::v6(v6, addr.port()),
        }
    }
}

/// The outer headers of one UDP datagram.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Outer {
    /// Where it comes from.
    pub src: IpAddr,
    /// Where it goes to.
    pub dst: IpAddr,
    /// The UDP port it comes from.
    pub src_port: u16,
    /// The UDP port it goes to.
    pub dst_port: u16,
    /// Length of what is behind the UDP header, in bytes.
    pub payload: u16,
}

impl Outer {
    /// An IPv4 header and a UDP header; `None` when it is anything else, or the lengths contradict each other.
    #[inline]
    #[must_use]
    pub fn parse_v4(headers: &[u8; V4_LEN]) -> Option<Self> {
        let [version, _, total_a, total_b, _, _, fragment_a, fragment_b, _, protocol, rest @ ..] = *headers;
        if version != V4_PLAIN
            || protocol != PROTOCOL_UDP
            || u16::from_be_bytes([fragment_a, fragment_b]) & V4_FRAGMENT != 0
        {
            return None;
        }
        let behind_ip = u16::from_be_bytes([total_a, total_b]).checked_sub(20)?;
        let mut r = Reader::new(&rest);
        let _checksum = r.u16().ok()?;
        let src = IpAddr::from(r.array::<4>().ok()?);
        let dst = IpAddr::from(r.array::<4>().ok()?);
        Self::udp(src, dst, behind_ip, r)
    }

    /// An IPv6 header and a UDP header right behind it; `None` when it is anything else, or the lengths contradict each
    /// other.
    #[inline]
    #[must_use]
    pub fn parse_v6(headers: &[u8; V6_LEN]) -> Option<Self> {
        let [version, _, _, _, behind_a, behind_b, protocol, _, rest @ ..] = *headers;
        if version >> 4 != 6 || protocol != PROTOCOL_UDP {
            return None;
        }
        let mut r = Reader::new(&rest);
        let src = IpAddr::from(r.array::<16>().ok()?);
        let dst = Ipv6Addr::from(r.array::<16>().ok()?);
        // As a key it would be the IPv4 address that it is not.
        if dst.to_ipv4_mapped().is_some() {
            return None;
        }
        Self::udp(src, IpAddr::V6(dst), u16::from_be_bytes([behind_a, behind_b]), r)
    }

    #[inline]
    fn udp(src: IpAddr, dst: IpAddr, behind_ip: u16, mut r: Reader<'_>) -> Option<Self> {
        let (src_port, dst_port, len) = (r.u16().ok()?, r.u16().ok()?, r.u16().ok()?);
        // What stands behind the datagram inside the IP packet is cut off by the kernel too.
        if len > behind_ip {
            return None;
        }
        let payload = len.checked_sub(UDP_LEN as u16)?;
        Some(Self { src, dst, src_port, dst_port, payload })
    }

    /// Its destination.
    #[inline]
    #[must_use]
    pub fn endpoint(&self) -> Endpoint {
        match self.dst {
            IpAddr::V4(v4) => Endpoint::v4(v4, self.dst_port),
            IpAddr::V6(v6) => Endpoint::v6(v6, self.dst_port),
        }
    }

    /// Its destination's port at every address of the family.
    #[inline]
    #[must_use]
    pub fn any_endpoint(&self) -> Endpoint {
        match self.dst {
            IpAddr::V4(_) => Endpoint::v4(Ipv4Addr::UNSPECIFIED, self.dst_port),
            IpAddr::V6(_) => Endpoint::v6(Ipv6Addr::UNSPECIFIED, self.dst_port),
        }
    }
}

#[cfg(test)]
mod tests {
    extern crate std;

    use std::string::ToString;

    use super::*;

    fn v4(udp_len: u16, behind_ip: u16) -> [u8; V4_LEN] {
        let mut frame = [0; V4_LEN];
        frame[0] = 0x45;
        frame[2..4].copy_from_slice(&(behind_ip + 20).to_be_bytes());
        frame[6] = 0x40;
        frame[9] = 17;
        frame[12..20].copy_from_slice(&[192, 0, 2, 1, 198, 51, 100, 2]);
        frame[20..26].copy_from_slice(&[0x30, 0x39, 0x04, 0xaa, (udp_len >> 8) as u8, udp_len as u8]);
        frame
    }

    #[test]
    fn ipv4_is_taken_apart() {
        let outer = Outer::parse_v4(&v4(8 + 100, 8 + 100)).unwrap();
        assert_eq!(outer.src, IpAddr::from([192, 0, 2, 1]));
        assert_eq!(outer.dst, IpAddr::from([198, 51, 100, 2]));
        assert_eq!((outer.src_port, outer.dst_port, outer.payload), (12345, 1194, 100));
        assert_eq!(outer.endpoint(), Endpoint::from(SocketAddr::from(([198, 51, 100, 2], 1194))));
        assert_eq!(outer.any_endpoint(), Endpoint::from(SocketAddr::from((Ipv4Addr::UNSPECIFIED, 1194))));
        assert_eq!(Outer::parse_v4(&v4(8, 20)).unwrap().payload, 0, "padding behind the datagram");
        assert_eq!(Outer::parse_v4(&v4(7, 8)), None, "no room for its own header");
        assert_eq!(Outer::parse_v4(&v4(109, 108)), None, "longer than the packet");
    }

    #[test]
    fn what_is_not_one_plain_datagram_is_left_alone() {
        let plain = v4(108, 108);
        for (at, value) in [(0, 0x46), (0, 0x65), (6, 0x20), (7, 0x01), (6, 0x1f), (9, 6), (3, 127)] {
            let mut other = plain;
            other[at] = value;
            assert_eq!(Outer::parse_v4(&other), None, "byte {at} is {value:#x}");
        }
    }

    #[test]
    fn ipv6_is_taken_apart() {
        let mut frame = [0; V6_LEN];
        frame[0] = 0x6e;
        frame[4..8].copy_from_slice(&[0, 33, 17, 64]);
        frame[8] = 0xfd;
        frame[23] = 1;
        frame[24] = 0xfd;
        frame[39] = 2;
        frame[40..46].copy_from_slice(&[0x30, 0x39, 0x04, 0xaa, 0, 33]);
        let outer = Outer::parse_v6(&frame).unwrap();
        assert_eq!((outer.src.to_string(), outer.dst.to_string()), ("fd00::1".into(), "fd00::2".into()));
        assert_eq!((outer.src_port, outer.dst_port, outer.payload), (12345, 1194, 25));
        assert_eq!(outer.endpoint(), Endpoint::from("[fd00::2]:1194".parse::<SocketAddr>().unwrap()));
        assert_eq!(outer.any_endpoint(), Endpoint::from("[::]:1194".parse::<SocketAddr>().unwrap()));
        for (at, value) in [(0, 0x4e), (6, 44), (6, 0), (5, 32), (45, 7)] {
            let mut other = frame;
            other[at] = value;
            assert_eq!(Outer::parse_v6(&other), None, "byte {at} is {value:#x}");
        }
        frame[24..40].copy_from_slice(&"::ffff:1.2.3.4".parse::<Ipv6Addr>().unwrap().octets());
        assert_eq!(Outer::parse_v6(&frame), None, "an IPv4 address on an IPv6 wire");
    }

    #[test]
    fn ipv4_written_as_ipv6_is_the_same_endpoint() {
        let mapped: SocketAddr = "[::ffff:192.0.2.7]:1194".parse().unwrap();
        assert_eq!(Endpoint::from(mapped), Endpoint::from(SocketAddr::from(([192, 0, 2, 7], 1194))));
        assert_ne!(
            Endpoint::from("[::]:1194".parse::<SocketAddr>().unwrap()),
            Endpoint::from("0.0.0.0:1194".parse::<SocketAddr>().unwrap())
        );
    }
}
