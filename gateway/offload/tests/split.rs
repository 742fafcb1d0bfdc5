//! `Split` against segmentation one field at a time.

#![expect(clippy::unwrap_used, reason = "a test may fail by panic")]

mod packets;

use packets::{ACK, CWR, ECE, FIN, PSH, Spec};
use proptest::prelude::*;
use tessera_offload::{Split, SplitError, VnetHeader};

fn split(header: VnetHeader, packet: &[u8]) -> Vec<Vec<u8>> {
    let split = Split::new(header, packet).unwrap();
    (0..split.count())
        .map(|index| {
            // What was in the slot must not matter.
            let mut out = vec![0xa5; split.segment_len(index)];
            split.write(index, &mut out);
            out
        })
        .collect()
}

prop_compose! {
    fn specs()(
        (v6, tcp, extension, df) in any::<(bool, bool, bool, bool)>(),
        (tos, hops, id, ports) in any::<(u8, u8, u16, (u16, u16))>(),
        label in 0u32..1 << 20,
        (sequence, acknowledgement, window, urgent) in any::<(u32, u32, u16, u16)>(),
        flags in prop::sample::subsequence(vec![PSH, FIN, CWR, ECE], 0..=4),
        ip_options in prop_oneof![Just(0), 0usize..=10],
        tcp_options in 0usize..=10,
        payload in prop_oneof![prop::collection::vec(any::<u8>(), 0..40), prop::collection::vec(any::<u8>(), 0..4000)],
        random in any::<u8>(),
    ) -> Spec {
        Spec {
            v6, tcp, extension, df, tos, hops, id, ports, label, sequence, acknowledgement, window, urgent, payload,
            networks: (8, random),
            source: random,
            destination: random.wrapping_mul(7),
            flags: flags.into_iter().fold(ACK, |all, flag| all | flag),
            ip_options: vec![1; ip_options * 4],
            tcp_options: vec![random; tcp_options * 4],
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn segments_are_what_the_reference_makes(spec in specs(), size in prop_oneof![1u16..100, 1u16..3000, Just(u16::MAX)]) {
        let (header, packet) = spec.build_super(size);
        prop_assert_eq!(split(header, &packet), spec.segments(size));
        // Where the checksum is not partial, everything is made anew.
        if !(spec.v6 && spec.extension) {
            let complete = VnetHeader { flags: 0, csum_start: 0, csum_offset: 0, ..header };
            prop_assert_eq!(split(complete, &spec.build()), spec.segments(size));
        }
    }

    #[test]
    fn a_partial_checksum_is_finished(spec in specs()) {
        let (header, packet) = spec.build_super(1);
        let single = VnetHeader { gso_type: 0, gso_size: 0, ..header };
        let expected = spec.build();
        let finished = split(single, &packet);
        prop_assert_eq!(finished.len(), 1);
        let place = spec.transport() + usize::from(header.csum_offset);
        // Zero and all ones are the same sum; the kernel writes the latter for any protocol.
        if expected[place..place + 2] != [0, 0] {
            prop_assert_eq!(&finished[0], &expected);
        }
        prop_assert_eq!(split(VnetHeader::PLAIN, &expected), vec![expected]);
    }

    #[test]
    fn any_header_and_any_bytes_give_segments_or_a_reason(
        flags in any::<u8>(),
        gso_type in prop_oneof![any::<u8>(), prop::sample::select(vec![0u8, 1, 4, 5, 0x81, 0x84])],
        (hdr_len, gso_size) in (any::<u16>(), prop_oneof![any::<u16>(), 0u16..50]),
        csum_start in prop_oneof![any::<u16>(), prop::sample::select(vec![20u16, 24, 40, 48])],
        csum_offset in prop_oneof![any::<u16>(), prop::sample::select(vec![6u16, 16])],
        mut packet in prop::collection::vec(any::<u8>(), 0..300),
        first in prop::sample::select(vec![0x45u8, 0x46, 0x4f, 0x60, 0x00, 0xff]),
        protocol in prop::sample::select(vec![6u8, 17, 60]),
    ) {
        if packet.len() > 9 {
            packet[0] = first;
            packet[if first == 0x60 { 6 } else { 9 }] = protocol;
        }
        let header = VnetHeader { flags, gso_type, hdr_len, gso_size, csum_start, csum_offset };
        if let Ok(split) = Split::new(header, &packet) {
            let mut payload = 0;
            for index in 0..split.count() {
                let mut out = vec![0; split.segment_len(index)];
                split.write(index, &mut out);
                payload += out.len();
                prop_assert!(index + 1 == split.count() || out.len() == split.segment_len(0));
                prop_assert!(out.len() <= split.segment_len(0));
            }
            prop_assert!(payload >= packet.len());
        }
    }
}

#[test]
fn a_full_super_packet() {
    for (v6, tcp) in [(false, true), (true, true), (false, false), (true, false)] {
        let mut spec = Spec::new(v6, tcp, 65_400);
        spec.flags = ACK | PSH | CWR;
        spec.sequence = u32::MAX - 3000;
        spec.id = u16::MAX - 3;
        let (header, packet) = spec.build_super(1348);
        let made = split(header, &packet);
        assert_eq!(made.len(), 49);
        assert_eq!(made, spec.segments(1348));
    }
}

#[test]
fn nonsense_has_a_reason() {
    let (header, packet) = Spec::new(false, true, 3000).build_super(1000);
    let reason = |change: &dyn Fn(&mut VnetHeader, &mut Vec<u8>)| {
        let (mut header, mut packet) = (header, packet.clone());
        change(&mut header, &mut packet);
        Split::new(header, &packet).err()
    };
    assert_eq!(reason(&|_, _| {}), None);
    assert_eq!(reason(&|h, _| h.gso_size = 0), Some(SplitError::NoSize));
    assert_eq!(reason(&|h, _| h.gso_type = 3), Some(SplitError::UnknownType(3)));
    assert_eq!(reason(&|h, _| h.gso_type = 0x21), Some(SplitError::UnknownType(0x21)));
    assert_eq!(reason(&|h, _| h.gso_type = 4), Some(SplitError::WrongProtocol));
    assert_eq!(reason(&|h, _| h.gso_type = 5), Some(SplitError::WrongProtocol));
    assert_eq!(reason(&|h, _| h.csum_start = 24), Some(SplitError::ChecksumPlace));
    assert_eq!(reason(&|h, _| h.csum_offset = 6), Some(SplitError::ChecksumPlace));
    assert_eq!(reason(&|_, p| p.truncate(51)), Some(SplitError::Truncated));
    assert_eq!(reason(&|_, p| p.clear()), Some(SplitError::Truncated));
    assert_eq!(reason(&|_, p| p[6] = 0x20), Some(SplitError::Fragment));
    assert_eq!(reason(&|_, p| p[32] = 0x40), Some(SplitError::Truncated));
    let huge = |h: &mut VnetHeader, p: &mut Vec<u8>| {
        h.gso_size = u16::MAX;
        p.resize(65_540, 0);
    };
    assert_eq!(reason(&huge), Some(SplitError::TooLong));
    let short = |h: &mut VnetHeader, p: &mut Vec<u8>| {
        h.gso_type = 0;
        p.truncate(37);
    };
    assert_eq!(reason(&short), Some(SplitError::ChecksumPlace));
}
