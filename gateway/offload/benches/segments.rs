//! What a packet of 1400 bytes costs on its way through `Split` and `Merge`.
//!
//!     cargo bench -p tessera-offload --bench segments
//!
//! One iteration is one packet. Time is the thread's processor time, so that what else runs on the machine counts little; the bytes
//! stand in the caches, as they do right after they were opened or read.
#![expect(clippy::expect_used, reason = "a benchmark may fail")]

use std::hint::black_box;
use std::time::Duration;

use criterion::{BenchmarkGroup, Criterion, Throughput, measurement::WallTime};
use nix::time::{ClockId, clock_gettime};
use tessera_offload::{Merge, Offloads, Split, Sum, VNET_LEN, VnetHeader, copy_and_sum};

/// A packet's length, all headers included.
const LEN: usize = 1400;

/// Segments of a full super-packet.
const BURST: usize = 46;

/// Packets stand this far apart in a receive buffer: behind their OpenVPN headers, at odd places.
const STRIDE: usize = LEN + 24;

const ALL: Offloads = Offloads { tso4: true, tso6: true, uso4: true, uso6: true };

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    let mut group = criterion.benchmark_group("1400 bytes");
    group.throughput(Throughput::Bytes(LEN as u64));
    checksums(&mut group);
    for (name, v6, tcp) in [
        ("TCP/IPv4", false, true),
        ("TCP/IPv6", true, true),
        ("UDP/IPv4", false, false),
        ("UDP/IPv6", true, false),
    ] {
        split(&mut group, name, v6, tcp);
        merge(&mut group, &format!("Merge, {name}, one flow"), v6, tcp, 1);
    }
    merge(&mut group, "Merge, TCP/IPv4, 16 flows", false, true, 16);
    group.finish();
    criterion.final_summary();
}

/// The processor time that this thread has used.
fn used() -> Duration {
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).expect("the thread's clock").into()
}

/// Runs `round`, which is about `packets` packets, as often as it takes.
fn per_packet(group: &mut BenchmarkGroup<'_, WallTime>, name: &str, packets: usize, mut round: impl FnMut()) {
    group.bench_function(name, |bencher| {
        bencher.iter_custom(|iterations| {
            let rounds = iterations.div_ceil(packets as u64);
            let start = used();
            for _ in 0..rounds {
                round();
            }
            (used() - start).mul_f64(iterations as f64 / (rounds * packets as u64) as f64)
        });
    });
}

fn checksums(group: &mut BenchmarkGroup<'_, WallTime>) {
    let bytes: Vec<u8> = (0..LEN).map(|i| (i * 31) as u8).collect();
    let mut copy = vec![0; LEN];
    per_packet(group, "sum", BURST, || {
        for _ in 0..BURST {
            black_box(Sum::of(black_box(&bytes)).checksum());
        }
    });
    per_packet(group, "copy and sum", BURST, || {
        for _ in 0..BURST {
            black_box(copy_and_sum(black_box(&bytes), black_box(&mut copy)).checksum());
        }
    });
    per_packet(group, "copy alone", BURST, || {
        for _ in 0..BURST {
            black_box(&mut copy).copy_from_slice(black_box(&bytes));
        }
    });
}

fn split(group: &mut BenchmarkGroup<'_, WallTime>, name: &str, v6: bool, tcp: bool) {
    let (header, packet) = super_packet(v6, tcp, 40_000);
    let mut slots = vec![0; STRIDE * BURST];
    per_packet(group, &format!("Split, {name}"), BURST, || {
        let split = Split::new(black_box(header), black_box(&packet)).expect("a super-packet");
        for index in 0..split.count() {
            let at = index * STRIDE + 24;
            split.write(index, &mut slots[at..at + split.segment_len(index)]);
        }
        black_box(&slots);
    });
}

fn merge(group: &mut BenchmarkGroup<'_, WallTime>, name: &str, v6: bool, tcp: bool, flows: u16) {
    // Each flow's segments, and then one of each in turn.
    let per_flow = BURST / usize::from(flows) + 1;
    let mut bursts = Vec::new();
    for flow in 0..flows {
        let (header, packet) = super_packet(v6, tcp, 40_000 + flow);
        let split = Split::new(header, &packet).expect("a super-packet");
        bursts.push(
            (0..split.count())
                .map(|index| {
                    let mut out = vec![0; split.segment_len(index)];
                    split.write(index, &mut out);
                    out
                })
                .take(per_flow)
                .collect::<Vec<_>>(),
        );
    }
    let mut buf = Vec::new();
    let mut places = Vec::new();
    for index in 0..per_flow {
        for burst in &bursts {
            let Some(packet) = burst.get(index) else { continue };
            buf.resize(buf.len() + STRIDE - LEN, 0);
            places.push(buf.len()..buf.len() + packet.len());
            buf.extend(packet);
        }
    }
    let heads: Vec<_> = places
        .iter()
        .take(flows.into())
        .map(|at| (at.start, buf[at.start..at.start + 72].to_vec()))
        .collect();
    let mut merge = Box::new(Merge::new(ALL));
    per_packet(group, name, places.len(), || {
        // The drain has made heads of super-packets of the first ones.
        for (at, bytes) in &heads {
            buf[*at..*at + bytes.len()].copy_from_slice(bytes);
        }
        for at in &places {
            assert!(merge.add(&buf, at.clone()));
        }
        let mut writes = 0;
        merge.drain(&mut buf, |slices, _| {
            black_box(slices);
            writes += 1;
        });
        assert_eq!(writes, usize::from(flows));
    });
}

/// A super-packet whose segments have 1400 bytes, TCP with timestamps.
fn super_packet(v6: bool, tcp: bool, port: u16) -> (VnetHeader, Vec<u8>) {
    let transport = if v6 { 40 } else { 20 };
    let header = transport + if tcp { 32 } else { 8 };
    let mut packet = vec![0; header];
    if v6 {
        packet[0] = 0x60;
        packet[6] = if tcp { 6 } else { 17 };
        packet[7] = 64;
        packet[8..40].fill(0xfd);
    } else {
        packet[..10].copy_from_slice(&[0x45, 0, 0, 0, 0, 1, 0x40, 0, 64, if tcp { 6 } else { 17 }]);
        packet[12..20].copy_from_slice(&[10, 8, 0, 1, 10, 8, 0, 2]);
    }
    packet[transport..transport + 2].copy_from_slice(&port.to_be_bytes());
    if tcp {
        packet[transport + 12..transport + 14].copy_from_slice(&[0x80, 0x10]);
        packet[transport + 20..transport + 24].copy_from_slice(&[1, 1, 8, 10]);
    }
    let size = LEN - header;
    let count = (65_535 - header) / size;
    packet.extend((0..count.min(BURST) * size).map(|i| (i * 31 % 251) as u8));
    let gso_type = if !tcp {
        5
    } else if v6 {
        4
    } else {
        1
    };
    let vnet = VnetHeader { gso_type, gso_size: size as u16, ..VnetHeader::PLAIN };
    assert_eq!(vnet.to_bytes().len(), VNET_LEN);
    (vnet, packet)
}
