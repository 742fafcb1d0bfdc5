//! What `Merge` writes, split again, is what was added: the same bytes, in order within each flow.

#![expect(clippy::unwrap_used, reason = "a test may fail by panic")]

mod packets;

use std::collections::{HashMap, VecDeque};

use packets::{ACK, CWR, ECE, FIN, PSH, RST, SYN, Spec, URG, fix_ip_checksum, ones_sum};
use proptest::prelude::*;
use tessera_offload::{MAX_PACKETS, Merge, Offloads, RunInfo, Split, VNET_LEN, VnetHeader};

const ALL: Offloads = Offloads { tso4: true, tso6: true, uso4: true, uso6: true };

/// Merges `packets` as they would stand in a receive buffer, and gives each write with what it says about itself.
fn merge(offloads: Offloads, packets: &[Vec<u8>], gap: usize) -> Vec<(Vec<u8>, RunInfo)> {
    let mut buf = vec![0xee; gap];
    let mut places = Vec::new();
    for packet in packets {
        places.push(buf.len()..buf.len() + packet.len());
        buf.extend(packet);
        buf.extend(vec![0xee; gap]);
    }
    let mut merge = Box::new(Merge::new(offloads));
    let mut written = Vec::new();
    let mut added = 0;
    for (index, place) in places.iter().enumerate() {
        if !merge.add(&buf, place.clone()) {
            assert_eq!(merge.len(), MAX_PACKETS);
            assert_eq!(merge.len(), index - added);
            drain(&mut merge, &mut buf, &mut written);
            added = index;
            assert!(merge.add(&buf, place.clone()));
        }
        assert!(!merge.is_empty());
    }
    drain(&mut merge, &mut buf, &mut written);
    written
}

fn drain(merge: &mut Merge, buf: &mut [u8], written: &mut Vec<(Vec<u8>, RunInfo)>) {
    merge.drain(buf, |slices, info| {
        assert_eq!(slices[0].len(), VNET_LEN);
        let bytes: Vec<u8> = slices.iter().flat_map(|slice| slice.iter().copied()).collect();
        written.push((bytes, info));
    });
    assert!(merge.is_empty());
}

/// What the kernel would make of the writes, after looking at them as it does.
fn segments(written: &[(Vec<u8>, RunInfo)]) -> Vec<Vec<u8>> {
    let mut made = Vec::new();
    for (bytes, info) in written {
        let header = VnetHeader::parse(bytes).unwrap();
        let packet = &bytes[VNET_LEN..];
        assert_eq!(info.gso, header.gso_type != 0);
        if header.gso_type == 0 {
            assert_eq!((header, info.packets, info.bytes), (VnetHeader::PLAIN, 1, packet.len()));
        } else {
            assert!(packet.len() <= 65_535 && info.packets >= 2 && info.packets <= 64);
            let transport = usize::from(header.csum_start);
            let length = packet.len() - transport;
            if packet[0] >> 4 == 4 {
                assert_eq!(usize::from(u16::from_be_bytes([packet[2], packet[3]])), packet.len());
                assert_eq!(ones_sum(&packet[..20]), 0xffff);
            } else {
                assert_eq!(usize::from(u16::from_be_bytes([packet[4], packet[5]])), length);
            }
            if header.gso_type == 5 {
                assert_eq!(
                    usize::from(u16::from_be_bytes([packet[transport + 4], packet[transport + 5]])),
                    length
                );
            }
        }
        let split = Split::new(header, packet).unwrap();
        assert_eq!(split.count(), info.packets);
        let before = made.len();
        for index in 0..split.count() {
            let mut out = vec![0; split.segment_len(index)];
            split.write(index, &mut out);
            made.push(out);
        }
        assert_eq!(made[before..].iter().map(Vec::len).sum::<usize>(), info.bytes);
    }
    made
}

/// A packet as far as it must come out again: the id of a whole IPv4 datagram with DF means nothing.
fn significant(packet: &[u8]) -> Vec<u8> {
    let mut packet = packet.to_vec();
    let is_atomic = packet.len() >= 20 && packet[0] == 0x45 && packet[6..8] == [0x40, 0];
    if is_atomic && ones_sum(&packet[..20]) == 0xffff {
        packet[4..6].fill(0);
        fix_ip_checksum(&mut packet);
    }
    packet
}

/// For each packet added, where it came out.
fn positions(added: &[Vec<u8>], out: &[Vec<u8>]) -> Vec<usize> {
    assert_eq!(added.len(), out.len());
    let mut found: HashMap<Vec<u8>, VecDeque<usize>> = HashMap::new();
    for (position, packet) in out.iter().enumerate() {
        found.entry(significant(packet)).or_default().push_back(position);
    }
    let position = |packet: &Vec<u8>| {
        let places = found.get_mut(&significant(packet));
        places.and_then(VecDeque::pop_front).unwrap_or_else(|| panic!("lost or changed: {packet:02x?}"))
    };
    added.iter().map(position).collect()
}

/// What happens next in a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Event {
    Data,
    ShortData,
    PushedData,
    PureAck,
    Flagged(u8),
    Retransmission,
    Gap,
    NewTimestamp,
    NewWindow,
    NewTos,
    NewHops,
    IdJump,
    Fragment,
    IpOptions,
    Extension,
    BadChecksum,
    BadIpChecksum,
    NoChecksum,
    Trailing,
    Truncated,
    Icmp,
    Junk,
}

fn events() -> impl Strategy<Value = Event> {
    use Event::*;
    prop_oneof![
        30 => Just(Data),
        3 => Just(ShortData),
        3 => Just(PushedData),
        8 => prop::sample::select(vec![
            PureAck, Retransmission, Gap, NewTimestamp, NewWindow, NewTos, NewHops, IdJump, Fragment, IpOptions, Extension,
            BadChecksum, BadIpChecksum, NoChecksum, Trailing, Truncated, Icmp, Junk, Flagged(ACK | FIN), Flagged(SYN),
            Flagged(RST), Flagged(ACK | URG), Flagged(ACK | ECE), Flagged(ACK | CWR), Flagged(0),
        ]),
    ]
}

/// Six flows, two of them between the same addresses, all four kinds.
fn flow(index: usize, payload: usize, seed: u32) -> Spec {
    let (v6, tcp) =
        [(false, true), (false, true), (true, true), (false, false), (true, false), (false, true)][index];
    let mut spec = Spec::new(v6, tcp, payload);
    spec.ports.0 += (index % 2) as u16;
    spec.source = if index == 5 { 9 } else { 2 };
    spec.df = index != 1;
    spec.sequence = seed.wrapping_mul(0x9e37_79b9);
    spec.id = seed as u16;
    spec
}

/// A packet and what it must not change places with: its flow, and whether it is to be kept in order with all of its addresses.
struct Made {
    bytes: Vec<u8>,
    flow: Option<usize>,
    odd: bool,
}

fn make(spec: &mut Spec, flow: usize, event: Event, serial: u32, size: usize) -> Made {
    let mut next = spec.clone();
    next.payload = (0..size as u32).map(|i| (i.wrapping_mul(serial | 1) >> 3) as u8).collect();
    match event {
        Event::ShortData => next.payload.truncate(1 + serial as usize % size),
        Event::PushedData => next.flags |= PSH,
        Event::PureAck => next.payload.clear(),
        Event::Flagged(flags) => next.flags = flags,
        Event::Retransmission => next.sequence = next.sequence.wrapping_sub(size as u32),
        Event::Gap => next.sequence = next.sequence.wrapping_add(1),
        Event::NewTimestamp => next.tcp_options[7] = next.tcp_options[7].wrapping_add(1),
        Event::NewWindow => next.window = next.window.wrapping_add(1),
        Event::NewTos => next.tos ^= 3,
        Event::NewHops => next.hops ^= 1,
        Event::IdJump => next.id = next.id.wrapping_add(9),
        Event::IpOptions => next.ip_options = vec![1; 4],
        Event::Extension => next.extension = true,
        _ => {}
    }
    let mut bytes = next.build();
    let mut made_flow = Some(flow);
    let mut odd = matches!(event, Event::Extension) && next.v6;
    match event {
        Event::Fragment if !next.v6 => {
            bytes[6] = 0x20;
            fix_ip_checksum(&mut bytes);
            odd = true;
        }
        Event::Fragment => {
            bytes[6] = 44;
            odd = true;
        }
        Event::IpOptions => odd = !next.v6,
        Event::BadChecksum => *bytes.last_mut().unwrap() ^= 0x40,
        Event::BadIpChecksum => bytes[if next.v6 { 39 } else { 10 }] ^= 1,
        Event::NoChecksum if !next.tcp => bytes[next.transport() + 6..next.transport() + 8].fill(0),
        Event::Trailing => {
            bytes.extend([1, 2, 3]);
            odd = true;
        }
        Event::Truncated => {
            bytes.truncate(bytes.len() - 1);
            odd = true;
        }
        Event::Icmp => {
            bytes[if next.v6 { 6 } else { 9 }] = if next.v6 { 58 } else { 1 };
            if !next.v6 {
                fix_ip_checksum(&mut bytes);
            }
            made_flow = None;
        }
        Event::Junk => {
            bytes[0] = serial as u8 & 0x3f;
            made_flow = None;
        }
        _ => {}
    }
    if event == Event::BadIpChecksum && next.v6 {
        // An address that was changed is another flow.
        made_flow = None;
    }
    if made_flow.is_some() {
        spec.sequence = next.sequence.wrapping_add(next.payload.len() as u32);
        spec.id = next.id.wrapping_add(1);
        spec.tcp_options = next.tcp_options;
        (spec.window, spec.tos, spec.hops) = (next.window, next.tos, next.hops);
    }
    Made { bytes, flow: made_flow, odd }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn everything_comes_out_as_it_went_in_and_in_order(
        steps in prop::collection::vec((0usize..6, events()), 1..120),
        burst in 1usize..8,
        size in prop_oneof![1usize..60, 100usize..1400],
        offloads in prop_oneof![8 => Just(ALL), 1 => any::<(bool, bool, bool, bool)>().prop_map(|(tso4, tso6, uso4, uso6)| Offloads { tso4, tso6, uso4, uso6 })],
        gap in 0usize..30,
        seed in any::<u32>(),
    ) {
        let mut flows: Vec<Spec> = (0..6).map(|index| flow(index, 0, seed)).collect();
        let mut made = Vec::new();
        for (serial, (index, event)) in steps.iter().enumerate() {
            for more in 0..if *event == Event::Data { burst } else { 1 } {
                made.push(make(&mut flows[*index], *index, *event, seed ^ (serial * 8 + more) as u32, size));
            }
        }
        let added: Vec<Vec<u8>> = made.iter().map(|m| m.bytes.clone()).collect();
        let positions = positions(&added, &segments(&merge(offloads, &added, gap)));
        for (later, b) in made.iter().enumerate() {
            for (earlier, a) in made[..later].iter().enumerate() {
                let (Some(fa), Some(fb)) = (a.flow, b.flow) else { continue };
                let (fa_spec, fb_spec) = (&flows[fa], &flows[fb]);
                let same_pair = fa_spec.source == fb_spec.source && fa_spec.v6 == fb_spec.v6 && fa_spec.tcp == fb_spec.tcp;
                if fa == fb || same_pair && (a.odd || b.odd) {
                    prop_assert!(positions[earlier] < positions[later], "{later} overtook {earlier}");
                }
            }
        }
    }

    #[test]
    fn damaged_packets_are_not_lost(
        steps in prop::collection::vec((0usize..6, 0usize..3), 1..60),
        damage in prop::collection::vec((any::<prop::sample::Index>(), 0usize..80, any::<u8>()), 0..60),
        size in 1usize..100,
        seed in any::<u32>(),
    ) {
        let mut flows: Vec<Spec> = (0..6).map(|index| flow(index, 0, seed)).collect();
        let mut added: Vec<Vec<u8>> = steps.iter().enumerate().map(|(serial, (index, _))| {
            make(&mut flows[*index], *index, Event::Data, seed ^ serial as u32, size).bytes
        }).collect();
        for (which, at, to) in damage {
            let packet = which.get(&added).clone();
            let index = which.index(added.len());
            added[index] = packet;
            if let Some(byte) = added[index].get_mut(at) {
                *byte = to;
            }
        }
        positions(&added, &segments(&merge(ALL, &added, 3)));
    }

    #[test]
    fn any_bytes_come_out_unchanged(
        added in prop::collection::vec((prop::sample::select(vec![0x45u8, 0x60, 0x46, 0x00]), prop::collection::vec(any::<u8>(), 0..120)), 1..600),
    ) {
        let added: Vec<Vec<u8>> = added.into_iter().map(|(first, mut bytes)| {
            if let Some(byte) = bytes.first_mut() {
                *byte = first;
            }
            bytes
        }).collect();
        let written = merge(ALL, &added, 0);
        let out: Vec<Vec<u8>> = written.iter().map(|(bytes, _)| bytes[VNET_LEN..].to_vec()).collect();
        prop_assert_eq!(out, added);
    }
}

/// How many writes the packets become.
fn writes(packets: &[Spec]) -> usize {
    let added: Vec<Vec<u8>> = packets.iter().map(Spec::build).collect();
    let written = merge(ALL, &added, 0);
    positions(&added, &segments(&written));
    written.len()
}

/// A packet and the one that goes on after it.
fn two(v6: bool, tcp: bool) -> (Spec, Spec) {
    let first = Spec::new(v6, tcp, 1000);
    let mut second = first.clone();
    second.sequence += 1000;
    second.id += 1;
    (first, second)
}

const KINDS: [(bool, bool); 4] = [(false, true), (true, true), (false, false), (true, false)];

#[test]
fn a_burst_becomes_one_write() {
    for (v6, tcp) in KINDS {
        let whole = Spec::new(v6, tcp, 46 * 1348 - 500);
        let added = whole.segments(1348);
        let written = merge(ALL, &added, 100);
        assert_eq!(written.len(), 1, "{v6} {tcp}");
        assert_eq!(written[0].1, RunInfo { packets: 46, bytes: added.iter().map(Vec::len).sum(), gso: true });
        let (header, packet) = whole.build_super(1348);
        assert_eq!(written[0].0[..VNET_LEN], header.to_bytes());
        assert_eq!(written[0].0[VNET_LEN..], packet);
    }
}

#[test]
fn a_run_is_bounded_in_length_and_in_number() {
    for (v6, tcp) in KINDS {
        assert_eq!(merge(ALL, &Spec::new(v6, tcp, 65 * 100).segments(100), 0).len(), 2);
        let mut long = Spec::new(v6, tcp, 60_000).segments(1400);
        let mut rest = Spec::new(v6, tcp, 60_000);
        rest.sequence += 60_000;
        rest.id += 43;
        long.pop();
        long.extend(rest.segments(1400));
        let written = merge(ALL, &long, 0);
        assert!(written.len() >= 2 && written.iter().all(|(bytes, _)| bytes.len() <= VNET_LEN + 65_535));
    }
}

#[test]
fn more_packets_than_fit_ask_for_a_drain() {
    let added: Vec<Vec<u8>> = (0..1000).map(|_| Spec::new(false, true, 0).build()).collect();
    assert_eq!(merge(ALL, &added, 0).len(), 1000);
    let added = Spec::new(true, true, 500 * 30).segments(30);
    assert_eq!(merge(ALL, &added, 0).len(), 4 + 4, "runs of 64, and 244 packets after the first 256");
}

#[test]
fn many_flows_at_once_are_all_merged() {
    let mut added = Vec::new();
    for round in 0..4u16 {
        for flow in 0..64 {
            let mut spec = Spec::new(flow % 2 == 0, true, 100);
            spec.ports.0 = 1000 + 77 * flow;
            spec.sequence += 100 * u32::from(round);
            added.push(spec.build());
        }
    }
    let written = merge(ALL, &added, 0);
    positions(&added, &segments(&written));
    assert!(written.len() <= 80, "{} writes for 64 flows", written.len());
}

#[test]
fn only_what_belongs_together_is_merged() {
    type Change = fn(&mut Spec);
    let apart: [(&str, Change); 13] = [
        ("source", |s| s.source ^= 1),
        ("destination", |s| s.destination ^= 1),
        ("source port", |s| s.ports.0 ^= 1),
        ("destination port", |s| s.ports.1 ^= 1),
        ("DSCP", |s| s.tos ^= 0x20),
        ("ECN", |s| s.tos ^= 3),
        ("TTL", |s| s.hops ^= 1),
        ("longer", |s| s.payload.push(0)),
        ("empty", |s| s.payload.clear()),
        ("IP options or extension", |s| (s.ip_options, s.extension) = (vec![1; 4], true)),
        ("everything", |s| *s = Spec::new(!s.v6, s.tcp, 1000)),
        ("protocol", |s| s.tcp = !s.tcp),
        ("label or DF", |s| (s.label, s.df) = (s.label ^ 1, !s.df)),
    ];
    for (v6, tcp) in KINDS {
        let (first, second) = two(v6, tcp);
        assert_eq!(writes(&[first.clone(), second.clone()]), 1);
        for (what, change) in apart {
            let mut other = second.clone();
            change(&mut other);
            assert_eq!(writes(&[first.clone(), other]), 2, "{what}");
        }
        // The shorter one ends the run.
        let mut short = second.clone();
        short.payload.pop();
        let mut third = second.clone();
        (third.sequence, third.id) = (second.sequence + 999, second.id + 1);
        assert_eq!(writes(&[first, short, third]), 2);
    }
}

#[test]
fn tcp_must_go_on_and_nothing_but_data_is_merged() {
    type Change = fn(&mut Spec);
    let apart: [(&str, Change); 15] = [
        ("gap", |s| s.sequence += 1),
        ("overlap", |s| s.sequence -= 1),
        ("acknowledgement", |s| s.acknowledgement += 1),
        ("window", |s| s.window += 1),
        ("urgent pointer", |s| s.urgent += 1),
        ("timestamp", |s| s.tcp_options[7] += 1),
        ("no options", |s| s.tcp_options.clear()),
        ("FIN", |s| s.flags |= FIN),
        ("SYN", |s| s.flags |= SYN),
        ("RST", |s| s.flags |= RST),
        ("URG", |s| s.flags |= URG),
        ("ECE", |s| s.flags |= ECE),
        ("CWR", |s| s.flags |= CWR),
        ("no ACK", |s| s.flags = 0),
        ("only PSH", |s| s.flags = PSH),
    ];
    for v6 in [false, true] {
        let (mut first, mut second) = two(v6, true);
        for (what, change) in apart {
            let mut other = second.clone();
            change(&mut other);
            assert_eq!(writes(&[first.clone(), other]), 2, "{what}");
            let mut other = first.clone();
            change(&mut other);
            assert_eq!(writes(&[other, second.clone()]), 2, "{what} first");
        }
        second.flags |= PSH;
        let mut third = second.clone();
        (third.sequence, third.id) = (second.sequence + 1000, second.id + 1);
        assert_eq!(writes(&[first.clone(), second.clone(), third]), 2, "PSH ends a run");
        first.flags |= PSH;
        assert_eq!(writes(&[first, second]), 2, "PSH of the first");
    }
}

#[test]
fn ids_without_df_must_count_up_and_with_df_mean_nothing() {
    for tcp in [false, true] {
        let (mut first, mut second) = two(false, tcp);
        second.id = 0x5555;
        assert_eq!(writes(&[first.clone(), second.clone()]), 1);
        (first.df, second.df) = (false, false);
        assert_eq!(writes(&[first.clone(), second.clone()]), 2);
        second.id = first.id;
        assert_eq!(writes(&[first.clone(), second.clone()]), 2);
        (first.id, second.id) = (0xffff, 0);
        assert_eq!(writes(&[first.clone(), second.clone()]), 1);
    }
}

#[test]
fn damage_is_passed_on_as_damage() {
    for (v6, tcp) in KINDS {
        let added = Spec::new(v6, tcp, 5000).segments(1000);
        for bad in 0..5 {
            for at in [Spec::new(v6, tcp, 0).header() + 700, Spec::new(v6, tcp, 0).header() - 1] {
                let mut added = added.clone();
                added[bad][at] ^= 0x10;
                let written = merge(ALL, &added, 0);
                let out = segments(&written);
                assert_eq!(
                    out.iter().map(|p| significant(p)).collect::<Vec<_>>(),
                    added.iter().map(|p| significant(p)).collect::<Vec<_>>()
                );
                assert!(written.iter().any(|(bytes, info)| !info.gso && bytes[VNET_LEN..] == added[bad]));
            }
        }
    }
}

#[test]
fn the_other_name_of_a_zero_checksum_is_kept() {
    for v6 in [false, true] {
        let (mut first, second) = two(v6, true);
        let transport = first.transport();
        // The payload takes up what the checksum was, so that it becomes zero.
        let checksum = first.build()[transport + 16..transport + 18].to_vec();
        let filled = ones_sum(&[&first.payload[..2], &checksum].concat());
        first.payload[..2].copy_from_slice(&filled.to_be_bytes());
        let mut added = vec![first.build(), second.build()];
        assert_eq!(added[0][transport + 16..transport + 18], [0, 0]);
        assert_eq!(merge(ALL, &added, 0).len(), 1);
        added[0][transport + 16..transport + 18].fill(0xff);
        let written = merge(ALL, &added, 0);
        assert_eq!(written.len(), 2);
        assert_eq!(segments(&written), added);
    }
    let (mut first, mut second) = two(false, true);
    let checksum = first.build()[10..12].to_vec();
    first.id = ones_sum(&[&first.id.to_be_bytes()[..], &checksum].concat());
    second.id = first.id.wrapping_add(1);
    let mut added = vec![first.build(), second.build()];
    assert_eq!(added[0][10..12], [0, 0]);
    assert_eq!(merge(ALL, &added, 0).len(), 1);
    added[0][10..12].fill(0xff);
    let written = merge(ALL, &added, 0);
    assert_eq!(written.len(), 2);
    assert_eq!(segments(&written), added);
}
