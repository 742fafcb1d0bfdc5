//! `reuseport_select`, over real sockets: the kernel runs this kind of program on nothing else.

use std::io::ErrorKind;
use std::net::UdpSocket;
use std::num::NonZeroU8;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use tessera_ebpf_common::{PeerIdLayout, Reason};
use tesserad::bpf::ReuseportSteering;
use tesserad::net::udp::{Family, ListenSpec, ListenerGroup};

use super::kernel::in_namespace;
use super::reference::socket;

fn group(address: &str, family: Family, workers: usize, shards: usize) -> ListenerGroup {
    let spec = ListenSpec {
        addr: Some(address.parse().unwrap()),
        port: 0,
        family,
        bind_dev: None,
        sndbuf: None,
        rcvbuf: None,
        mark: None,
        gro: false,
    };
    ListenerGroup::open(&spec, workers, shards).unwrap()
}

fn sockets(group: &ListenerGroup) -> Vec<&UdpSocket> {
    group.worker_sockets.iter().chain(&group.shard_sockets).collect()
}

fn steer(group: &ListenerGroup) -> ReuseportSteering {
    let fds: Vec<BorrowedFd<'_>> = sockets(group).into_iter().map(AsFd::as_fd).collect();
    let layout = PeerIdLayout::new(group.worker_sockets.len() as u32).unwrap();
    let shards = NonZeroU8::new(group.shard_sockets.len() as u8).unwrap();
    ReuseportSteering::attach(&fds, layout, shards).unwrap()
}

/// Which socket has received `datagram`; `None` when none has, within `patience`.
fn found(group: &ListenerGroup, datagram: &[u8], patience: Duration) -> Option<u32> {
    let mut buf = [0; 2048];
    for _ in 0..=patience.as_millis() {
        for (index, socket) in (0..).zip(sockets(group)) {
            match socket.recv(&mut buf) {
                Ok(len) => {
                    assert_eq!(&buf[..len], datagram);
                    return Some(index);
                }
                Err(e) => assert_eq!(e.kind(), ErrorKind::WouldBlock),
            }
        }
        if !patience.is_zero() {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
    None
}

fn datagram() -> impl Strategy<Value = Vec<u8>> {
    let opcode = prop_oneof![3 => Just(9u8), 3 => 3..=11u8, 1 => 0..32u8];
    (opcode, 0..8u8, prop::collection::vec(any::<u8>(), 0..40)).prop_map(|(opcode, key_id, mut bytes)| {
        if let Some(first) = bytes.first_mut() {
            *first = opcode << 3 | key_id;
        }
        bytes
    })
}

/// Sends datagrams of all kinds to a group, and compares where they arrive with the reference.
fn all_arrive_where_they_belong(address: &str, family: Family, workers: u32, shards: u32) {
    let group = group(address, family, workers as usize, shards as usize);
    let steering = steer(&group);
    let client = UdpSocket::bind((address, 0)).unwrap();
    let mut runner = TestRunner::new(Config { cases: 1500, failure_persistence: None, ..Config::default() });
    runner
        .run(&datagram(), |datagram| {
            let before = steering.counters().unwrap().dropped();
            client.send_to(&datagram, group.local).unwrap();
            match socket(&datagram, workers, shards) {
                Some(expected) => {
                    prop_assert_eq!(found(&group, &datagram, Duration::from_secs(2)), Some(expected));
                    prop_assert_eq!(steering.counters().unwrap().dropped(), before);
                }
                None => {
                    let mut patience = 2000;
                    while steering.counters().unwrap().dropped() == before && patience > 0 {
                        std::thread::sleep(Duration::from_millis(1));
                        patience -= 1;
                    }
                    prop_assert_eq!(steering.counters().unwrap().dropped(), before + 1);
                    prop_assert_eq!(found(&group, &datagram, Duration::ZERO), None);
                }
            }
            Ok(())
        })
        .unwrap();
    let counters = steering.counters().unwrap();
    for reason in [Reason::Data, Reason::Control, Reason::Short, Reason::UnknownOpcode] {
        assert!(counters.of(reason) > 20, "{counters:?}");
    }
    assert_eq!(counters.of(Reason::NoSocket), 0);
}

#[test]
fn datagrams_arrive_where_they_belong() {
    in_namespace(|| {
        all_arrive_where_they_belong("127.0.0.1", Family::V4, 4, 3);
        all_arrive_where_they_belong("::1", Family::V6, 8, 1);
        all_arrive_where_they_belong("127.0.0.1", Family::V4, 1, 1);
        all_arrive_where_they_belong("::1", Family::Dual, 128, 128);
    });
}

#[test]
fn what_has_no_socket_is_left_to_the_kernel_s_choice() {
    in_namespace(|| {
        let mut group = group("127.0.0.1", Family::V4, 2, 1);
        let steering = steer(&group);
        let client = UdpSocket::bind("127.0.0.1:0").unwrap();
        let to_worker_1 = [9 << 3, 0, 0, 1, 0, 0, 0, 1, 0];
        client.send_to(&to_worker_1, group.local).unwrap();
        assert_eq!(found(&group, &to_worker_1, Duration::from_secs(2)), Some(1));
        // Its worker's socket goes; somebody else of the group gets what was for it.
        group.worker_sockets.pop();
        client.send_to(&to_worker_1, group.local).unwrap();
        assert!(found(&group, &to_worker_1, Duration::from_secs(2)).is_some());
        assert_eq!(steering.counters().unwrap().of(Reason::NoSocket), 1);
        // The program outlives its handle.
        drop(steering);
        client.send_to(&[0xff; 20], group.local).unwrap();
        assert_eq!(found(&group, &[0xff; 20], Duration::from_millis(50)), None);
        // The classic program takes its place: that one drops nothing.
        tesserad::net::steering::attach(group.shard_sockets[0].as_fd(), 1, 1).unwrap();
        client.send_to(&[0xff; 20], group.local).unwrap();
        assert!(found(&group, &[0xff; 20], Duration::from_secs(2)).is_some());
    });
}

#[test]
fn impossible_groups_are_refused() {
    in_namespace(|| {
        let group = group("127.0.0.1", Family::V4, 2, 1);
        let fds: Vec<BorrowedFd<'_>> = sockets(&group).into_iter().map(AsFd::as_fd).collect();
        let layout = PeerIdLayout::new(2).unwrap();
        let one = NonZeroU8::MIN;
        let error = ReuseportSteering::attach(&fds[..2], layout, one).unwrap_err().to_string();
        assert!(error.contains("2 sockets for 2 workers and 1 shards"), "{error}");
        let error = ReuseportSteering::attach(&[], layout, one).unwrap_err().to_string();
        assert!(error.contains("0 sockets"), "{error}");
        let alone = UdpSocket::bind("127.0.0.1:0").unwrap();
        let error = ReuseportSteering::attach(&[fds[0], fds[1], alone.as_fd()], layout, one).unwrap_err();
        assert_eq!(
            (error.program(), error.step()),
            ("reuseport_select", "put socket 2 into its map"),
            "{error}"
        );
    });
}
