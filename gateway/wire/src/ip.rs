//! A peek at the inner IP packet: only what routing and the source check need.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Source and destination of an inner packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Addresses {
    /// Who claims to have sent it.
    pub src: IpAddr,
    /// Where it wants to go.
    pub dst: IpAddr,
}

/// `None` when `packet` does not start with a whole IPv4 or IPv6 header.
#[inline]
pub fn addresses(packet: &[u8]) -> Option<Addresses> {
    match packet.first()? >> 4 {
        4 => {
            let header = packet.first_chunk::<20>()?;
            let (_, addrs) = header.split_last_chunk::<8>()?;
            let [a, b, c, d, e, f, g, h] = *addrs;
            Some(Addresses {
                src: IpAddr::V4(Ipv4Addr::new(a, b, c, d)),
                dst: IpAddr::V4(Ipv4Addr::new(e, f, g, h)),
            })
        }
        6 => {
            let header = packet.first_chunk::<40>()?;
            let (rest, dst) = header.split_last_chunk::<16>()?;
            let (_, src) = rest.split_last_chunk::<16>()?;
            Some(Addresses { src: IpAddr::V6(Ipv6Addr::from(*src)), dst: IpAddr::V6(Ipv6Addr::from(*dst)) })
        }
        _ => None,
    }
}

/// The TOS of an IPv4 packet, the traffic class of an IPv6 one: six bits of DSCP and two of ECN. 0 for anything else.
#[inline]
pub const fn traffic_class(packet: &[u8]) -> u8 {
    match packet {
        [first, second, ..] if *first >> 4 == 4 => *second,
        [first, second, ..] if *first >> 4 == 6 => (*first << 4) | (*second >> 4),
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn peeks_at_both_families() {
        let mut v4 = [0u8; 20];
        v4[0] = 0x45;
        v4[12..16].copy_from_slice(&[10, 8, 0, 2]);
        v4[16..20].copy_from_slice(&[192, 0, 2, 1]);
        let found = addresses(&v4).unwrap();
        assert_eq!(found.src, IpAddr::from([10, 8, 0, 2]));
        assert_eq!(found.dst, IpAddr::from([192, 0, 2, 1]));
        assert_eq!(addresses(&v4[..19]), None);

        let mut v6 = [0u8; 40];
        v6[0] = 0x60;
        v6[23] = 1;
        v6[39] = 2;
        let found = addresses(&v6).unwrap();
        assert_eq!(found.src, IpAddr::from(Ipv6Addr::LOCALHOST));
        assert_eq!(found.dst, IpAddr::from([0u16, 0, 0, 0, 0, 0, 0, 2]));
        assert_eq!(addresses(&v6[..39]), None);
        assert_eq!(addresses(&[0x50; 60]), None);
        assert_eq!(addresses(&[]), None);
        assert_eq!(traffic_class(&[0x45, 0xb9]), 0xb9);
        assert_eq!(traffic_class(&[0x6b, 0x9f, 0xff]), 0xb9);
        assert_eq!((traffic_class(&[0x45]), traffic_class(&[0x50, 1])), (0, 0));
    }
}
