//! `tcx_guard`: each frame against the reference, then over real sockets.

use std::collections::BTreeSet;
use std::fs;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::fd::AsFd;
use std::time::Duration;

use nix::sys::socket::{setsockopt, sockopt};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use tessera_ebpf_common::Reason;
use tessera_wire::PeerId;
use tesserad::bpf::Guard;
use tesserad::net::tun::{Tun, TunSpec};

use super::kernel::{Meta, ifindex, in_namespace, ip, test_run};
use super::reference::{Guarded, Verdict, frame, udp};

/// What the program returns: on to the next program, and drop.
const NEXT: u32 = u32::MAX;
const DROP: u32 = 2;

const MAC: [u8; 6] = [0x02, 0, 0, 0, 0, 1];
const CASES: u32 = 6000;

fn peer(id: u32) -> PeerId {
    PeerId::new(id).unwrap()
}

/// A router with a device `wan`, guarded at some endpoints, two of them at every address.
fn router() -> (Guard, Guarded, u32) {
    ip("link add wan type veth peer name outside");
    ip("link set wan address 02:00:00:00:00:01 up");
    ip("addr add 192.0.2.1/24 dev wan");
    ip("addr add fd00::1/64 dev wan nodad");
    ip("route add default via 192.0.2.254");
    ip("route add default via fd00::fe");
    fs::write("/proc/sys/net/ipv4/ip_forward", "1").unwrap();
    fs::write("/proc/sys/net/ipv6/conf/all/forwarding", "1").unwrap();
    let endpoints: Vec<SocketAddr> =
        ["0.0.0.0:1194", "[::]:1195", "192.0.2.1:1196", "198.51.100.7:1197", "[fd00::1]:1198"]
            .map(|e| e.parse().unwrap())
            .to_vec();
    let local = ["192.0.2.1", "fd00::1"].map(|a| a.parse().unwrap()).to_vec();
    let live: BTreeSet<u32> = [0, 1, 5, 999].into();
    let guard = Guard::attach(&[ifindex("wan")], &endpoints, 1000).unwrap();
    for id in &live {
        guard.set_live(peer(*id), true).unwrap();
    }
    (guard, Guarded { endpoints, live, mac: MAC, local }, ifindex("wan"))
}

/// Runs the program on a frame, and compares its verdict and its counters with the reference.
fn compare(
    guard: &Guard,
    guarded: &Guarded,
    ifindex: u32,
    frame: &[u8],
    gso_size: u32,
) -> Result<Verdict, TestCaseError> {
    let gso_segs = if gso_size == 0 { 0 } else { 3 };
    let before = guard.counters().unwrap();
    let (action, _) = test_run(guard.loaded(), frame, Meta { ifindex, gso_size, gso_segs }, 1)
        .map_err(|e| TestCaseError::fail(format!("BPF_PROG_TEST_RUN: {e}")))?;
    let after = guard.counters().unwrap();
    let expected = guarded.judge(frame, gso_size as usize);
    let counted: Vec<_> =
        before.iter().zip(after.iter()).map(|((r, a), (_, b))| (r, b - a)).filter(|(_, n)| *n > 0).collect();
    match expected {
        Verdict::NotOurs => {
            prop_assert_eq!(action, NEXT);
            prop_assert_eq!(counted, vec![]);
        }
        Verdict::Counted(reason) => {
            prop_assert_eq!(action, if reason.is_drop() { DROP } else { NEXT });
            prop_assert_eq!(counted, vec![(reason, u64::from(gso_segs.max(1)))]);
        }
    }
    Ok(expected)
}

/// A datagram as it may come: from good to garbage.
fn datagram() -> impl Strategy<Value = Vec<u8>> {
    let opcode = prop_oneof![6 => Just(9u8), 4 => 3..=11u8, 1 => 0..32u8];
    let peer_id = prop_oneof![4 => prop::sample::select(vec![0u32, 1, 5, 999]), 2 => 0..2000u32, 1 => Just(0xff_ffff), 1 => 0..1u32 << 24];
    let len = prop_oneof![4 => 0..=40usize, 2 => 24..=26usize, 1 => 8..=9usize, 1 => 40..200usize];
    (opcode, 0..8u8, peer_id, len, any::<u8>()).prop_map(|(opcode, key_id, peer_id, len, fill)| {
        let mut bytes = vec![fill; len.max(4)];
        bytes[0] = opcode << 3 | key_id;
        bytes[1..4].copy_from_slice(&peer_id.to_be_bytes()[1..]);
        bytes.truncate(len);
        bytes
    })
}

/// A frame to one of many endpoints, some of them guarded, and the size of the pieces that GRO put together.
fn frames() -> impl Strategy<Value = (Vec<u8>, u32)> {
    let v4 = prop::sample::select(vec!["192.0.2.1", "198.51.100.7", "203.0.113.9"]);
    let v6 = prop::sample::select(vec!["fd00::1", "fd00::2", "2001:db8::7", "::ffff:192.0.2.1"]);
    let address = prop_oneof![2 => v4, 1 => v6].prop_map(|a| a.parse::<IpAddr>().unwrap());
    let mac = prop_oneof![9 => Just(MAC), 1 => Just([0x02, 0, 0, 0, 0, 7])];
    let pieces = prop_oneof![2 => Just(1usize), 1 => 2..=4usize];
    let port = prop_oneof![4 => Just(1194u16), 8 => 1195..=1198u16, 1 => Just(53u16)];
    let many = (pieces, prop::collection::vec(datagram(), 4));
    // Bytes that are changed in the headers: most make another packet of it.
    let changes = prop_oneof![3 => prop::collection::vec((0..70usize, any::<u8>()), 0..1), 1 => prop::collection::vec((0..70usize, any::<u8>()), 1..4)];
    (address, port, mac, many, changes).prop_map(|(address, port, mac, (pieces, datagrams), changes)| {
        let size = datagrams[0].len().max(1);
        let mut payload = datagrams[0].clone();
        for datagram in &datagrams[1..pieces] {
            // Pieces are of one length, but for the last.
            let mut piece = datagram.clone();
            piece.resize(size, 0xee);
            payload.extend(piece);
        }
        if pieces > 1 {
            payload.truncate(payload.len() - size / 3);
        }
        let src: IpAddr =
            if address.is_ipv4() { [203, 0, 113, 50].into() } else { "2001:db8::50".parse().unwrap() };
        let mut frame = frame(mac, &udp(src, SocketAddr::new(address, port), &payload));
        for (at, value) in changes {
            if let Some(byte) = frame.get_mut(at) {
                *byte = value;
            }
        }
        (frame, if pieces > 1 { size as u32 } else { 0 })
    })
}

#[test]
fn every_verdict_is_that_of_the_reference() {
    in_namespace(|| {
        let (guard, guarded, ifindex) = router();
        let mut seen = std::collections::HashMap::<String, u32>::new();
        let mut runner =
            TestRunner::new(Config { cases: CASES, failure_persistence: None, ..Config::default() });
        let seen_too = std::cell::RefCell::new(&mut seen);
        runner
            .run(&frames(), |(frame, gso_size)| {
                let verdict = compare(&guard, &guarded, ifindex, &frame, gso_size)?;
                *seen_too.borrow_mut().entry(format!("{verdict:?}")).or_default() += 1;
                Ok(())
            })
            .unwrap();
        // The cases reach every verdict there is.
        for reason in ["Data", "Control", "Short", "UnknownOpcode", "DataV1", "UnknownPeer"] {
            let count = seen.get(&format!("Counted({reason})")).copied().unwrap_or(0);
            assert!(count >= CASES / 400, "{reason}: {seen:?}");
        }
        assert!(seen["NotOurs"] >= CASES / 20, "{seen:?}");
    });
}

#[test]
fn frames_of_random_bytes_get_the_verdict_of_the_reference() {
    in_namespace(|| {
        let (guard, guarded, ifindex) = router();
        let mut runner =
            TestRunner::new(Config { cases: 2000, failure_persistence: None, ..Config::default() });
        let ethertype = prop::sample::select(vec![[0x08u8, 0x00], [0x86, 0xdd], [0x81, 0x00], [0x08, 0x06]]);
        runner
            .run(&(ethertype, prop::collection::vec(any::<u8>(), 40..120)), |(ethertype, bytes)| {
                let frame = [&MAC[..], &MAC, &ethertype, &bytes].concat();
                compare(&guard, &guarded, ifindex, &frame, 0).map(|_| ())
            })
            .unwrap();
    });
}

#[test]
fn what_is_forwarded_is_nobody_s_to_drop() {
    in_namespace(|| {
        let (guard, guarded, ifindex) = router();
        let junk = [0xff; 40];
        let verdict = |to: &str| {
            let to: SocketAddr = to.parse().unwrap();
            let from = if to.is_ipv4() { [203, 0, 113, 50].into() } else { "2001:db8::50".parse().unwrap() };
            compare(&guard, &guarded, ifindex, &frame(MAC, &udp(from, to, &junk)), 0).unwrap()
        };
        let dropped = Verdict::Counted(Reason::UnknownOpcode);
        assert_eq!(verdict("192.0.2.1:1194"), dropped, "our address, of those that are not named");
        assert_eq!(verdict("203.0.113.77:1194"), Verdict::NotOurs, "another's server behind this router");
        assert_eq!(verdict("[fd00::1]:1195"), dropped);
        assert_eq!(verdict("[2001:db8::77]:1195"), Verdict::NotOurs);
        assert_eq!(verdict("[fd00::1]:1194"), Verdict::NotOurs, "only IPv4 is ours there");
        assert_eq!(verdict("198.51.100.7:1197"), dropped, "a named address needs no route");
    });
}

#[test]
fn a_batch_is_dropped_only_when_all_of_it_is_junk() {
    in_namespace(|| {
        let (guard, guarded, ifindex) = router();
        let good = [&[9 << 3, 0, 0, 5][..], &[7; 21]].concat();
        let stranger = [&[9 << 3, 0, 0, 6][..], &[7; 21]].concat();
        let to: SocketAddr = "192.0.2.1:1196".parse().unwrap();
        let run = |pieces: &[&[u8]]| {
            let frame = frame(MAC, &udp([203, 0, 113, 50].into(), to, &pieces.concat()));
            compare(&guard, &guarded, ifindex, &frame, 25).unwrap()
        };
        assert_eq!(run(&[&good, &stranger, &stranger]), Verdict::Counted(Reason::Data));
        assert_eq!(run(&[&stranger, &stranger, &good]), Verdict::Counted(Reason::Data));
        assert_eq!(run(&[&stranger, &stranger, &good[..20]]), Verdict::Counted(Reason::UnknownPeer));
        // A batch of as many as the kernel merges, the good one last.
        let mut many = vec![&stranger[..]; 127];
        assert_eq!(run(&many), Verdict::Counted(Reason::UnknownPeer));
        many.push(&good);
        assert_eq!(run(&many), Verdict::Counted(Reason::Data));
    });
}

/// Receives all that has come, within a moment.
fn received(socket: &UdpSocket) -> Vec<Vec<u8>> {
    socket.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    let mut buf = [0; 2048];
    std::iter::from_fn(|| socket.recv(&mut buf).ok().map(|n| buf[..n].to_vec())).collect()
}

#[test]
fn junk_dies_before_the_socket_and_other_ports_are_left_alone() {
    in_namespace(|| {
        let ours = UdpSocket::bind("127.0.0.1:0").unwrap();
        let dns = UdpSocket::bind("127.0.0.1:0").unwrap();
        let client = UdpSocket::bind("127.0.0.1:0").unwrap();
        let to = ours.local_addr().unwrap();
        let guard = Guard::attach(&[ifindex("lo")], &[to], 64).unwrap();
        guard.set_live(peer(7), true).unwrap();

        let data = |id: u8, len: usize| [&[9 << 3 | 1, 0, 0, id][..], &vec![id; len - 4]].concat();
        let control = [&[7 << 3][..], &[0xab; 8]].concat();
        let good = [data(7, 25), control.clone(), data(7, 1400)];
        let junk = [
            data(8, 25),
            data(63, 1400),
            data(7, 24),
            control[..8].to_vec(),
            vec![],
            vec![6 << 3; 40],
            vec![0xff; 40],
        ];
        for datagram in good.iter().chain(&junk) {
            client.send_to(datagram, to).unwrap();
            client.send_to(datagram, dns.local_addr().unwrap()).unwrap();
        }
        assert_eq!(received(&ours), good);
        assert_eq!(received(&dns).len(), good.len() + junk.len(), "another port is nobody's business");
        let counters = guard.counters().unwrap();
        assert_eq!((counters.of(Reason::Data), counters.of(Reason::Control)), (2, 1));
        assert_eq!(counters.dropped(), junk.len() as u64);
        assert_eq!((counters.of(Reason::UnknownPeer), counters.of(Reason::Short)), (2, 3));

        // A peer leaves, another comes.
        guard.set_live(peer(7), false).unwrap();
        guard.set_live(peer(8), true).unwrap();
        client.send_to(&data(7, 30), to).unwrap();
        client.send_to(&data(8, 30), to).unwrap();
        assert_eq!(received(&ours), [data(8, 30)]);

        // One super-packet, as a segmenting sender hands it over: four datagrams, one verdict.
        setsockopt(&client.as_fd(), sockopt::UdpGsoSegment, &30).unwrap();
        let batch = |ids: [u8; 4]| ids.map(|id| data(id, 30)).concat();
        client.send_to(&batch([9, 9, 9, 9]), to).unwrap();
        client.send_to(&batch([9, 8, 9, 8]), to).unwrap();
        assert_eq!(received(&ours), [9, 8, 9, 8].map(|id| data(id, 30)));
        let after = guard.counters().unwrap();
        assert_eq!(after.of(Reason::UnknownPeer) - counters.of(Reason::UnknownPeer), 1 + 4);

        drop(guard);
        client.send_to(&data(9, 30), to).unwrap();
        assert_eq!(received(&ours), [data(9, 30)], "nothing is left behind");
    });
}

#[test]
fn impossible_guards_are_refused() {
    in_namespace(|| {
        let to: SocketAddr = "127.0.0.1:1194".parse().unwrap();
        let lo = ifindex("lo");
        let refused =
            |devices: &[u32], ports: &[SocketAddr]| Guard::attach(devices, ports, 8).unwrap_err().to_string();
        assert!(refused(&[lo, 9999], &[to]).contains("find device 9999: "));
        let tun = Tun::open(&TunSpec::new("tun")).unwrap();
        assert!(refused(&[tun.ifindex], &[to]).contains("is no Ethernet device"));
        assert!(refused(&[lo], &["127.0.0.1:0".parse().unwrap()]).contains("0 is no port"));
        assert!(refused(&[lo], &[to; 257]).contains("257 of at most 256"));
        let guard = Guard::attach(&[lo], &[to], 8).unwrap();
        assert!(guard.set_live(peer(8), true).unwrap_err().to_string().contains("peer-ids end at 8"));
        let guard = Guard::attach(&[lo], &[to], u32::MAX >> 8).unwrap();
        guard.set_live(peer(0xff_fffe), true).unwrap();
        let undefined = PeerId::from_be_bytes([0xff; 3]);
        assert!(guard.set_live(undefined, true).is_err());
        assert!(!super::lifetime::guards("lo").is_empty());
    });
}
