//! Socket addresses and packet-info control messages, encoded to and decoded from the kernel's byte layout.
//!
//! IPv4 paths are written as `sockaddr_in` + `IP_PKTINFO` and IPv6 paths as `sockaddr_in6` + `IPV6_PKTINFO`. Linux accepts the
//! IPv4 forms on dual-stack IPv6 sockets too, so a sender needs no knowledge of the socket's family.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};

use super::path::{LocalAddr, Path, normalise};

/// Room for control messages of one datagram: one `in6_pktinfo` needs 40 bytes, a segment
/// length and a traffic class 24 each.
pub const CONTROL_LEN: usize = 128;

/// Length of a `sockaddr_in6`, the longer of the two names.
pub const NAME_LEN: usize = size_of::<libc::sockaddr_in6>();

/// Bytes of a `cmsghdr`, already aligned.
const HEADER_LEN: usize = size_of::<libc::cmsghdr>();

/// A control buffer with the alignment of a `cmsghdr`.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug)]
pub struct Control(pub [u8; CONTROL_LEN]);

impl Control {
    /// A zeroed buffer.
    pub const EMPTY: Self = Self([0; CONTROL_LEN]);
}

/// A socket name buffer with the alignment of a `sockaddr`.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug)]
pub struct Name(pub [u8; NAME_LEN]);

impl Name {
    /// A zeroed buffer.
    pub const EMPTY: Self = Self([0; NAME_LEN]);
}

/// Writes the name of `remote`; returns the number of bytes used.
pub fn encode_name(remote: SocketAddr, name: &mut Name) -> usize {
    let out = &mut name.0;
    match normalise(remote) {
        SocketAddr::V4(v4) => {
            const LEN: usize = size_of::<libc::sockaddr_in>();
            out[..LEN].fill(0);
            out[..2].copy_from_slice(&(libc::AF_INET as libc::sa_family_t).to_ne_bytes());
            out[2..4].copy_from_slice(&v4.port().to_be_bytes());
            out[4..8].copy_from_slice(&v4.ip().octets());
            LEN
        }
        SocketAddr::V6(v6) => {
            out[..2].copy_from_slice(&(libc::AF_INET6 as libc::sa_family_t).to_ne_bytes());
            out[2..4].copy_from_slice(&v6.port().to_be_bytes());
            out[4..8].copy_from_slice(&v6.flowinfo().to_ne_bytes());
            out[8..24].copy_from_slice(&v6.ip().octets());
            out[24..28].copy_from_slice(&v6.scope_id().to_ne_bytes());
            NAME_LEN
        }
    }
}

/// Reads a name the kernel wrote (normalised); `None` if it is no IP address.
#[must_use]
pub fn decode_name(name: &[u8]) -> Option<SocketAddr> {
    let family = u16::from_ne_bytes(array(name, 0)?);
    let port = u16::from_be_bytes(array(name, 2)?);
    match i32::from(family) {
        libc::AF_INET => Some(SocketAddrV4::new(Ipv4Addr::from(array::<4>(name, 4)?), port).into()),
        libc::AF_INET6 => {
            let ip = Ipv6Addr::from(array::<16>(name, 8)?);
            let scope = u32::from_ne_bytes(array(name, 24)?);
            Some(normalise(SocketAddrV6::new(ip, port, 0, scope).into()))
        }
        _ => None,
    }
}

/// Writes the packet-info message that makes a datagram leave from `path.local`; returns the bytes used, 0 if the kernel chooses.
pub fn encode_local(path: &Path, control: &mut Control) -> usize {
    let out = &mut control.0;
    match path.local.ip.map(|ip| ip.to_canonical()) {
        None => 0,
        Some(IpAddr::V4(ip)) => {
            // struct in_pktinfo { int ipi_ifindex; struct in_addr ipi_spec_dst; struct in_addr ipi_addr; }
            let mut info = [0u8; 12];
            info[4..8].copy_from_slice(&ip.octets());
            put(out, libc::IPPROTO_IP, libc::IP_PKTINFO, &info)
        }
        Some(IpAddr::V6(ip)) => {
            // struct in6_pktinfo { struct in6_addr ipi6_addr; unsigned ipi6_ifindex; }
            let mut info = [0u8; 20];
            info[..16].copy_from_slice(&ip.octets());
            if ip.is_unicast_link_local() {
                info[16..].copy_from_slice(&path.local.ifindex.to_ne_bytes());
            }
            put(out, libc::IPPROTO_IPV6, libc::IPV6_PKTINFO, &info)
        }
    }
}

/// As [`encode_local`], and behind it the messages that cut the bytes into datagrams of `segment` (0: it is one datagram) and
/// give them a TOS or traffic class (0: the socket's).
pub fn encode_train(path: &Path, segment: u16, tos: u8, control: &mut Control) -> usize {
    let mut used = encode_local(path, control);
    if segment != 0 {
        used += put(&mut control.0[used..], libc::SOL_UDP, libc::UDP_SEGMENT, &segment.to_ne_bytes());
    }
    if tos != 0 {
        let (level, kind) = match path.remote {
            SocketAddr::V4(_) => (libc::IPPROTO_IP, libc::IP_TOS),
            SocketAddr::V6(_) => (libc::IPPROTO_IPV6, libc::IPV6_TCLASS),
        };
        used += put(&mut control.0[used..], level, kind, &i32::from(tos).to_ne_bytes());
    }
    used
}

/// The length of the datagrams that the kernel handed over as one (UDP GRO); `None` for a single datagram.
#[must_use]
pub fn decode_segment(mut control: &[u8]) -> Option<u16> {
    while let Some((level, kind, data, rest)) = next(control) {
        if (level, kind) == (libc::SOL_UDP, libc::UDP_GRO) {
            return u16::try_from(i32::from_ne_bytes(array(data, 0)?)).ok();
        }
        control = rest;
    }
    None
}

/// Finds the packet-info message among the control messages of a received datagram.
#[must_use]
pub fn decode_local(mut control: &[u8]) -> LocalAddr {
    while let Some((level, kind, data, rest)) = next(control) {
        match (level, kind) {
            (libc::IPPROTO_IP, libc::IP_PKTINFO) => {
                if let (Some(index), Some(ip)) = (array::<4>(data, 0), array::<4>(data, 4)) {
                    return LocalAddr {
                        ip: known(Ipv4Addr::from(ip).into()),
                        ifindex: u32::from_ne_bytes(index),
                    };
                }
            }
            (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO) => {
                if let (Some(ip), Some(index)) = (array::<16>(data, 0), array::<4>(data, 16)) {
                    let ip = IpAddr::from(Ipv6Addr::from(ip)).to_canonical();
                    return LocalAddr { ip: known(ip), ifindex: u32::from_ne_bytes(index) };
                }
            }
            _ => {}
        }
        control = rest;
    }
    LocalAddr::default()
}

/// An address usable as a source: multicast and unspecified ones are not.
fn known(ip: IpAddr) -> Option<IpAddr> {
    (!ip.is_unspecified() && !ip.is_multicast()).then_some(ip)
}

/// Writes one control message at the start of `out`; returns its padded length.
fn put(out: &mut [u8], level: i32, kind: i32, data: &[u8]) -> usize {
    let len = HEADER_LEN + data.len();
    let padded = align(len);
    out[..padded].fill(0);
    // The kernel's cmsghdr is { size_t cmsg_len; int cmsg_level; int cmsg_type; }.
    out[..size_of::<usize>()].copy_from_slice(&len.to_ne_bytes());
    out[HEADER_LEN - 8..HEADER_LEN - 4].copy_from_slice(&level.to_ne_bytes());
    out[HEADER_LEN - 4..HEADER_LEN].copy_from_slice(&kind.to_ne_bytes());
    out[HEADER_LEN..len].copy_from_slice(data);
    padded
}

/// Splits off the first control message: `(level, type, data, the rest)`. `None` at the end or at a malformed one.
fn next(control: &[u8]) -> Option<(i32, i32, &[u8], &[u8])> {
    let len = usize::from_ne_bytes(array(control, 0)?);
    let level = i32::from_ne_bytes(array(control, HEADER_LEN - 8)?);
    let kind = i32::from_ne_bytes(array(control, HEADER_LEN - 4)?);
    let data = control.get(HEADER_LEN..len)?;
    Some((level, kind, data, control.get(align(len)..).unwrap_or_default()))
}

/// Rounds up to the alignment of control messages.
const fn align(len: usize) -> usize {
    len.next_multiple_of(size_of::<usize>())
}

/// `N` bytes of `bytes` from `at`, if they are there.
fn array<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..)?.first_chunk::<N>().copied()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn names_round_trip_and_are_normalised() {
        for (given, want) in [
            ("192.0.2.1:1194", "192.0.2.1:1194"),
            ("[2001:db8::1]:443", "[2001:db8::1]:443"),
            ("[fe80::2%7]:5", "[fe80::2%7]:5"),
            ("[::ffff:10.0.0.1]:7", "10.0.0.1:7"),
        ] {
            let mut name = Name::EMPTY;
            let len = encode_name(given.parse().unwrap(), &mut name);
            assert_eq!(decode_name(&name.0[..len]), Some(want.parse().unwrap()));
        }
        assert_eq!(decode_name(&[1, 0, b'/', b't']), None);
        assert_eq!(decode_name(&[2]), None);
    }

    #[test]
    fn the_interface_is_only_pinned_for_link_local_sources() {
        for (ip, pinned) in [("192.0.2.1", 0), ("2001:db8::1", 0), ("fe80::1", 9)] {
            let ip: IpAddr = ip.parse().unwrap();
            let mut control = Control::EMPTY;
            let path =
                Path { remote: "[::1]:1".parse().unwrap(), local: LocalAddr { ip: Some(ip), ifindex: 9 } };
            let len = encode_local(&path, &mut control);
            assert_eq!(decode_local(&control.0[..len]), LocalAddr { ip: Some(ip), ifindex: pinned });
        }
        let mut control = Control::EMPTY;
        assert_eq!(encode_local(&Path::to("[::1]:1".parse().unwrap()), &mut control), 0);
    }

    proptest! {
        #[test]
        fn any_control_bytes_are_survived(bytes in proptest::collection::vec(any::<u8>(), 0..160)) {
            let _ = decode_local(&bytes);
            let _ = decode_name(&bytes);
        }

        #[test]
        fn lying_lengths_are_survived(len in any::<usize>(), tail in proptest::collection::vec(any::<u8>(), 0..64)) {
            let mut bytes = len.to_ne_bytes().to_vec();
            bytes.extend(tail);
            let _ = decode_local(&bytes);
        }
    }
}
