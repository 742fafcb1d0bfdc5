//! `tun_steer`: each packet against the reference, then packets that are routed into a device.

use std::io::ErrorKind;
use std::net::{IpAddr, UdpSocket};
use std::os::fd::AsFd;
use std::time::Duration;

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use tessera_ebpf_common::{PeerIdLayout, Reason};
use tesserad::bpf::TunSteering;
use tesserad::net::tun::{Tun, TunSpec};
use tesserad::routes::Prefix;

use super::kernel::{Meta, in_namespace, ip, test_run};
use super::reference::{frame, queue, udp};

const WORKERS: u32 = 4;

fn prefix(text: &str) -> Prefix {
    let (addr, len) = text.split_once('/').unwrap();
    Prefix::new(addr.parse().unwrap(), len.parse().unwrap()).unwrap()
}

fn device() -> (Tun, TunSteering) {
    let tun = Tun::open(&TunSpec { queues: WORKERS as usize, ..TunSpec::new("tun") }).unwrap();
    let steering =
        TunSteering::attach(tun.queues[0].as_fd(), PeerIdLayout::new(WORKERS).unwrap(), 16).unwrap();
    (tun, steering)
}

#[test]
fn every_packet_goes_where_the_reference_says() {
    in_namespace(|| {
        let (_tun, steering) = device();
        let routes = [
            ("10.0.0.0/8", 3),
            ("10.1.0.0/16", 2),
            ("10.1.2.0/24", 1),
            ("10.1.2.3/32", 0),
            ("172.16.0.0/12", 1),
            ("fd00::/16", 2),
            ("fd00:1::/32", 3),
            ("fd00:1::7/128", 1),
        ]
        .map(|(text, worker)| (prefix(text), worker));
        for (prefix, worker) in routes {
            steering.add(prefix, worker).unwrap();
        }
        let address = prop_oneof![
            prop::sample::select(vec![
                0x0a01_0203u32,
                0x0a01_0204,
                0x0a01_0909,
                0x0a09_0909,
                0xac10_0001,
                0xac20_0001
            ])
            .prop_map(|bits| IpAddr::from(bits.to_be_bytes())),
            any::<u32>().prop_map(|bits| IpAddr::from(bits.to_be_bytes())),
            (prop::sample::select(vec!["fd00:1::7", "fd00:1::8", "fd00:9::1", "2001:db8::"]), any::<u8>())
                .prop_map(|(text, low)| {
                    let mut octets = text.parse::<std::net::Ipv6Addr>().unwrap().octets();
                    if low < 128 {
                        octets[15] = low;
                    }
                    IpAddr::from(octets)
                }),
        ];
        let changed = prop::option::of((0..40usize, any::<u8>()));
        let cut = prop_oneof![8 => Just(usize::MAX), 1 => 40..60usize];
        let mut runner =
            TestRunner::new(Config { cases: 4000, failure_persistence: None, ..Config::default() });
        runner
            .run(&(address, changed, cut), |(dst, changed, cut)| {
                let src = if dst.is_ipv4() { [10, 8, 0, 1].into() } else { "fd00::1".parse().unwrap() };
                let mut packet = udp(src, (dst, 80).into(), b"inner datagram of some length");
                if let Some((at, value)) = changed {
                    packet[at] = value;
                }
                packet.truncate(cut);
                let before = steering.counters().unwrap();
                let (chosen, _) = test_run(steering.loaded(), &frame([0; 6], &packet), Meta::default(), 1)
                    .map_err(|e| TestCaseError::fail(format!("BPF_PROG_TEST_RUN: {e}")))?;
                let (expected, reason) = queue(&packet, WORKERS, &routes);
                prop_assert_eq!(chosen, expected);
                prop_assert_eq!(steering.counters().unwrap().of(reason), before.of(reason) + 1);
                Ok(())
            })
            .unwrap();
        let counters = steering.counters().unwrap();
        for reason in [Reason::Routed, Reason::Addressed, Reason::NoAddress] {
            assert!(counters.of(reason) >= 20, "{counters:?}");
        }
    });
}

/// Sends a datagram to `dst` through the device, and says which queue it comes out of.
fn queue_of(tun: &Tun, dst: &str) -> u32 {
    let dst: IpAddr = dst.parse().unwrap();
    let from = if dst.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    UdpSocket::bind(from).unwrap().send_to(b"steer me", (dst, 4000)).unwrap();
    let mut buf = [0; 2048];
    for _ in 0..400 {
        for (index, queue) in (0..).zip(&tun.queues) {
            match queue.read(&mut buf) {
                Ok((_, at)) if buf[at.clone()].ends_with(b"steer me") => return index,
                // The kernel has things of its own to say: neighbour discovery, group membership.
                Ok(_) => {}
                Err(e) => assert_eq!(e.kind(), ErrorKind::WouldBlock),
            }
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    panic!("the packet to {dst} did not come out of the device");
}

#[test]
fn routed_packets_come_out_of_their_worker_s_queue() {
    in_namespace(|| {
        let (tun, steering) = device();
        ip(&format!("addr add 10.8.0.1/16 dev {}", tun.name));
        ip(&format!("addr add fd00:8::1/64 dev {} nodad", tun.name));
        ip(&format!("link set {} up", tun.name));
        ip(&format!("route add 192.168.0.0/16 dev {}", tun.name));
        for host in 2..40u32 {
            assert_eq!(queue_of(&tun, &format!("10.8.3.{host}")), host % WORKERS);
            assert_eq!(queue_of(&tun, &format!("fd00:8::{host:x}")), host % WORKERS);
        }
        steering.add(prefix("192.168.64.0/18"), 2).unwrap();
        steering.add(prefix("192.168.77.0/24"), 3).unwrap();
        steering.add(prefix("fd00:8::20/124"), 1).unwrap();
        for (dst, worker) in [
            ("192.168.77.4", 3),
            ("192.168.78.4", 2),
            ("192.168.1.7", 3),
            ("fd00:8::22", 1),
            ("fd00:8::32", 2),
        ] {
            assert_eq!(queue_of(&tun, dst), worker, "{dst}");
        }
        steering.add(prefix("192.168.77.0/24"), 1).unwrap();
        assert_eq!(queue_of(&tun, "192.168.77.4"), 1, "a route that moves");
        steering.remove(prefix("192.168.77.0/24")).unwrap();
        steering.remove(prefix("192.168.77.0/24")).unwrap();
        assert_eq!(queue_of(&tun, "192.168.77.4"), 2, "the longer route is gone");
        steering.remove(prefix("192.168.64.0/18")).unwrap();
        assert_eq!(queue_of(&tun, "192.168.77.4"), 0);

        // The program outlives its handle, with what it knows.
        drop(steering);
        assert_eq!(queue_of(&tun, "fd00:8::22"), 1);
        assert_eq!(queue_of(&tun, "10.8.3.7"), 3);
    });
}

#[test]
fn impossible_routes_and_devices_are_refused() {
    in_namespace(|| {
        let (_tun, steering) = device();
        let error = steering.add(prefix("10.0.0.0/8"), WORKERS).unwrap_err().to_string();
        assert!(error.contains("route 10.0.0.0/8 to worker 4") && error.contains("4 workers"), "{error}");
        for n in 0..16u8 {
            steering.add(Prefix::host([10, 0, 0, n].into()), 1).unwrap();
        }
        let error = steering.add(prefix("10.0.0.16/32"), 1).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::StorageFull, "{error}");
        steering.add(prefix("fd00::/16"), 1).unwrap();

        let no_tun = UdpSocket::bind("127.0.0.1:0").unwrap();
        let error = TunSteering::attach(no_tun.as_fd(), PeerIdLayout::new(2).unwrap(), 1).unwrap_err();
        assert_eq!((error.program(), error.step()), ("tun_steer", "TUNSETSTEERINGEBPF"), "{error}");
    });
}
