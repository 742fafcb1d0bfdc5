//! Clamps the MSS of TCP handshakes that pass, so that full segments fit the outer link (`mssfix`).

use std::net::SocketAddr;

use tessera_wire::data::OVERHEAD;

use super::message::Via;
use crate::config::MssFix;

/// TCP flag.
const SYN: u8 = 0x02;
/// TCP option kinds.
const OPT_END: u8 = 0;
const OPT_NOP: u8 = 1;
const OPT_MSS: u8 = 2;
/// Outer headers behind IP: UDP's; TCP's without options, and the length in front of each packet.
const UDP_HEADER: u16 = 8;
const TCP_HEADER: u16 = 20 + 2;
/// Headers of IPv4 or IPv6 and TCP, without options.
const INNER_V4: u16 = 40;
const INNER_V6: u16 = 60;

/// Largest MSS for inner IPv4; IPv6 gets 20 less. `None` when nothing is clamped.
#[must_use]
pub(super) fn limit(mode: MssFix, remote: SocketAddr, via: Via, framing: usize) -> Option<u16> {
    let ip: u16 = if remote.is_ipv4() { 20 } else { 40 };
    let outer = ip + if let Via::Udp(_) = via { UDP_HEADER } else { TCP_HEADER };
    let tunnel = (OVERHEAD + framing) as u16;
    match mode {
        MssFix::Off => None,
        MssFix::Mtu(mtu) => Some(mtu.saturating_sub(outer + tunnel + INNER_V4)),
        MssFix::Payload(size) => Some(size.saturating_sub(tunnel + INNER_V4)),
        MssFix::Fixed(size) => Some(size.saturating_sub(INNER_V4)),
    }
}

/// Lowers the MSS option of a TCP SYN to `limit_v4` (20 less inside IPv6), and patches the checksum. Anything that is
/// not a whole, unfragmented TCP SYN stays as it is. True when the packet was changed.
pub(super) fn clamp(packet: &mut [u8], limit_v4: u16) -> bool {
    let Some((tcp_at, limit)) = tcp_header(packet, limit_v4) else {
        return false;
    };
    let Some(tcp) = packet.get_mut(tcp_at..) else {
        return false;
    };
    let (Some(&offset), Some(&flags)) = (tcp.get(12), tcp.get(13)) else {
        return false;
    };
    if flags & SYN == 0 {
        return false;
    }
    let header_len = usize::from(offset >> 4) * 4;
    let Some(at) = mss_option(tcp.get(20..header_len).unwrap_or_default()) else {
        return false;
    };
    let at = 20 + at;
    let Some(&[high, low]) = tcp.get(at..at + 2).and_then(|b| b.first_chunk::<2>()) else {
        return false;
    };
    let old = u16::from_be_bytes([high, low]);
    if old <= limit {
        return false;
    }
    tcp[at..at + 2].copy_from_slice(&limit.to_be_bytes());
    patch_checksum(tcp, at, old, limit);
    true
}

/// Where the TCP header starts, and the MSS limit for that IP version.
fn tcp_header(packet: &[u8], limit_v4: u16) -> Option<(usize, u16)> {
    match packet.first()? >> 4 {
        4 => {
            let fragment = u16::from_be_bytes(*packet.get(6..8)?.first_chunk()?);
            let first = fragment & 0x1fff == 0;
            let header = usize::from(packet.first()? & 0x0f) * 4;
            (*packet.get(9)? == 6 && first && header >= 20).then_some((header, limit_v4))
        }
        // A SYN behind extension headers is legal and never seen; it keeps its MSS.
        6 => (*packet.get(6)? == 6).then_some((40, limit_v4.saturating_sub(INNER_V6 - INNER_V4))),
        _ => None,
    }
}

/// Offset of the MSS value inside the options.
fn mss_option(options: &[u8]) -> Option<usize> {
    let mut at = 0;
    loop {
        match *options.get(at)? {
            OPT_END => return None,
            OPT_NOP => at += 1,
            kind => {
                let len = usize::from(*options.get(at + 1)?);
                if kind == OPT_MSS && len == 4 {
                    return (at + 4 <= options.len()).then_some(at + 2);
                }
                // A length below 2 would never end.
                at = at.checked_add(len.max(2))?;
            }
        }
    }
}

/// RFC 1624: HC' = ~(~HC + ~m + m'), over 16-bit words at even offsets of the segment.
fn patch_checksum(tcp: &mut [u8], at: usize, old: u16, new: u16) {
    let Some(sum) = tcp.get_mut(16..18).and_then(|s| s.first_chunk_mut::<2>()) else {
        return;
    };
    // An option at an odd offset straddles two words: its bytes then count swapped.
    let (old, new) = if at.is_multiple_of(2) { (old, new) } else { (old.swap_bytes(), new.swap_bytes()) };
    let mut total = u32::from(!u16::from_be_bytes(*sum)) + u32::from(!old) + u32::from(new);
    while total > 0xffff {
        total = (total & 0xffff) + (total >> 16);
    }
    *sum = (!(total as u16)).to_be_bytes();
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::streams::StreamId;
    use proptest::prelude::*;

    fn checksum(pseudo: u32, tcp: &[u8]) -> u16 {
        let mut sum = pseudo;
        for pair in tcp.chunks(2) {
            sum += u32::from(u16::from_be_bytes([pair[0], *pair.get(1).unwrap_or(&0)]));
        }
        while sum > 0xffff {
            sum = (sum & 0xffff) + (sum >> 16);
        }
        !(sum as u16)
    }

    fn syn(v6: bool, options: &[u8]) -> Vec<u8> {
        let mut packet = if v6 { vec![0u8; 40] } else { vec![0u8; 20] };
        if v6 {
            packet[0] = 0x60;
            packet[6] = 6;
        } else {
            packet[0] = 0x45;
            packet[9] = 6;
        }
        let mut tcp = vec![0u8; 20];
        tcp.extend_from_slice(options);
        tcp.resize(tcp.len().next_multiple_of(4), 0);
        tcp[12] = (tcp.len() as u8 / 4) << 4;
        tcp[13] = SYN;
        let sum = checksum(99, &tcp);
        tcp[16..18].copy_from_slice(&sum.to_be_bytes());
        packet.extend_from_slice(&tcp);
        packet
    }

    fn tcp_is_consistent(packet: &[u8], at: usize) -> bool {
        checksum(99, &packet[at..]) == 0
    }

    #[test]
    fn clamps_even_and_odd_offsets_and_keeps_the_checksum() {
        for options in [&[2u8, 4, 0x05, 0xb4][..], &[1, 2, 4, 0x05, 0xb4], &[3, 3, 7, 2, 4, 0x05, 0xb4, 1]] {
            for (v6, at, expected) in [(false, 20, 1300u16), (true, 40, 1280)] {
                let mut packet = syn(v6, options);
                assert!(clamp(&mut packet, 1300));
                assert!(tcp_is_consistent(&packet, at), "{options:?}");
                assert!(packet.windows(2).any(|w| w == expected.to_be_bytes()));
                assert!(!clamp(&mut packet, 1300), "once is enough");
            }
        }
    }

    #[test]
    fn leaves_everything_else_alone() {
        let mut small = syn(false, &[2, 4, 0x02, 0x00]);
        assert!(!clamp(&mut small, 1300));
        let mut fragment = syn(false, &[2, 4, 0x05, 0xb4]);
        fragment[7] = 1;
        assert!(!clamp(&mut fragment, 1300));
        let mut ack = syn(false, &[2, 4, 0x05, 0xb4]);
        ack[33] = 0x10;
        assert!(!clamp(&mut ack, 1300));
        let mut udp = syn(false, &[2, 4, 0x05, 0xb4]);
        udp[9] = 17;
        assert!(!clamp(&mut udp, 1300));
    }

    #[test]
    fn limits_by_mode() {
        let (v4, v6) = ("192.0.2.1:1".parse().unwrap(), "[::1]:1".parse().unwrap());
        let udp = Via::Udp(0);
        let tcp = Via::Stream { worker: 0, id: StreamId { slot: 0, generation: 0 } };
        assert_eq!(limit(MssFix::Mtu(1492), v4, udp, 0), Some(1400));
        assert_eq!(limit(MssFix::Mtu(1492), v6, udp, 0), Some(1380));
        assert_eq!(limit(MssFix::Mtu(1492), v4, tcp, 0), Some(1386));
        assert_eq!(limit(MssFix::Payload(1450), v4, udp, 1), Some(1385));
        assert_eq!(limit(MssFix::Fixed(1400), v6, udp, 0), Some(1360));
        assert_eq!(limit(MssFix::Off, v4, udp, 0), None);
    }

    proptest! {
        #[test]
        fn hostile_packets_never_panic(mut bytes in prop::collection::vec(any::<u8>(), 0..120), v in prop::bool::ANY) {
            if let Some(first) = bytes.first_mut() {
                *first = if v { 0x45 } else { 0x60 };
            }
            let before = bytes.clone();
            let changed = clamp(&mut bytes, 1000);
            prop_assert_eq!(bytes.len(), before.len());
            prop_assert_eq!(changed, bytes != before);
        }
    }
}
