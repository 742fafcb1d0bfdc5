//! Listener groups and batches over loopback: steering, reply addresses, ordering, losses.

#![expect(clippy::unwrap_used, reason = "a test may fail by panic")]

use std::io::Read;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::fd::AsFd;
use std::time::Duration;

use tessera_proto::Instant;
use tesserad::net::recv::enable_gro;
use tesserad::net::send::{QUEUE_LEN, SEGMENTS, probe_gso};
use tesserad::net::steering::Steering;
use tesserad::net::{
    Family, ListenSpec, ListenerGroup, LocalAddr, Path, RecvBatch, SendQueue, receive_fill, try_send_now,
};

/// Longest datagram of most tests.
const ROOM: usize = 2048;
/// The send queue only looks at it after a failure.
const NOW: Instant = Instant::from_epoch(Duration::ZERO);

/// Longest wait for a datagram over loopback; only reached by a failing test.
const PATIENCE_MS: u8 = 200;

fn spec(addr: Option<&str>, family: Family) -> ListenSpec {
    let addr = addr.map(|a| a.parse().unwrap());
    ListenSpec { addr, port: 0, family, bind_dev: None, sndbuf: None, rcvbuf: None, mark: None, gro: false }
}

/// The datagrams of the last call, and where they came from.
fn datagrams(batch: &mut RecvBatch, got: usize) -> Vec<(Vec<u8>, Path)> {
    let mut all = Vec::new();
    for train in (0..got).filter_map(|index| batch.train(index)).collect::<Vec<_>>() {
        let bytes = &batch.bytes_mut()[train.start..train.start + train.len];
        if bytes.is_empty() {
            all.push((Vec::new(), train.path));
        }
        all.extend(bytes.chunks(train.segment).map(|datagram| (datagram.to_vec(), train.path)));
    }
    all
}

/// Queues a datagram.
fn push(out: &mut SendQueue, path: &Path, bytes: &[u8]) -> bool {
    let Some(place) = out.place(bytes.len()) else { return false };
    place.copy_from_slice(bytes);
    out.commit(bytes.len(), path, 0)
}

/// Waits until a datagram is there and takes the batch.
fn receive(batch: &mut RecvBatch, socket: &UdpSocket) -> Vec<(Vec<u8>, Path)> {
    for _ in 0..PATIENCE_MS {
        let got = batch.recv(socket.as_fd()).unwrap();
        if got > 0 {
            return datagrams(batch, got);
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    panic!("no datagram arrived at {:?}", socket.local_addr());
}

/// Sends `bytes` from a fresh client and says which socket of the group (workers first) got them.
fn lands_at(group: &ListenerGroup, server: SocketAddr, bytes: &[u8]) -> usize {
    let any = if server.is_ipv4() { "127.0.0.1:0" } else { "[::1]:0" };
    let client = UdpSocket::bind(any).unwrap();
    client.send_to(bytes, server).unwrap();
    let mut batch = RecvBatch::new(ROOM);
    for _ in 0..PATIENCE_MS {
        let sockets = group.worker_sockets.iter().chain(&group.shard_sockets);
        for (index, socket) in sockets.enumerate() {
            let got = batch.recv(socket.as_fd()).unwrap();
            if got > 0 {
                let got: Vec<_> =
                    datagrams(&mut batch, got).into_iter().map(|(b, p)| (b, p.remote)).collect();
                assert_eq!(got, [(bytes.to_vec(), client.local_addr().unwrap())]);
                return index;
            }
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    panic!("a datagram of {} bytes to {server} was lost", bytes.len());
}

fn steering_lands(addr: &str, family: Family, workers: usize, shards: usize) {
    let group = ListenerGroup::open(&spec(Some(addr), family), workers, shards).unwrap();
    assert_eq!(group.steering, Steering::Cbpf);
    // Fresh source ports each time: an address hash would scatter these.
    for round in 0..6u8 {
        for peer in [0u32, 1, 2, 3, 0x00ff_fffe, 0x0001_0001, u32::from(round)] {
            let mut data = vec![9 << 3 | round & 7];
            data.extend(&peer.to_be_bytes()[1..]);
            data.extend([0xaa; 40]);
            assert_eq!(lands_at(&group, group.local, &data), peer as usize & (workers - 1), "peer {peer:#x}");
        }
        for last in [0u8, 1, 2, 254, 255, round] {
            for opcode in [3u8, 4, 5, 7, 8, 10, 11] {
                let control = [&[opcode << 3], &[round; 7][..], &[last], &[0; 5]].concat();
                let want = workers + last as usize % shards;
                assert_eq!(lands_at(&group, group.local, &control), want, "opcode {opcode}, id …{last:#x}");
            }
        }
        assert_eq!(lands_at(&group, group.local, &[9 << 3, 0, 0, 1]), workers, "short data packet");
        assert_eq!(lands_at(&group, group.local, &[]), workers, "empty datagram");
    }
}

#[test]
fn steering_by_peer_id_and_session_id_v4() {
    steering_lands("127.0.0.1", Family::V4, 2, 2);
    steering_lands("127.0.0.1", Family::V4, 4, 3);
    steering_lands("127.0.0.1", Family::V4, 1, 1);
}

#[test]
fn steering_by_peer_id_and_session_id_v6() {
    steering_lands("::1", Family::V6, 2, 2);
}

#[test]
fn a_port_in_use_is_refused_not_shared() {
    let first = ListenerGroup::open(&spec(Some("127.0.0.1"), Family::V4), 2, 1).unwrap();
    let mut again = spec(Some("127.0.0.1"), Family::V4);
    again.port = first.local.port();
    let error = ListenerGroup::open(&again, 2, 1).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::AddrInUse);
    assert!(error.to_string().contains(&first.local.to_string()), "{error}");
}

#[test]
fn impossible_specs_are_refused() {
    assert!(ListenerGroup::open(&spec(None, Family::V4), 3, 1).is_err());
    assert!(ListenerGroup::open(&spec(None, Family::V4), 2, 0).is_err());
    let error = ListenerGroup::open(&spec(Some("::1"), Family::V4), 1, 1).unwrap_err();
    assert!(error.to_string().contains("::1"), "{error}");
    let mut bad_dev = spec(None, Family::V4);
    bad_dev.bind_dev = Some("nosuchdev0".into());
    let error = ListenerGroup::open(&bad_dev, 1, 1).unwrap_err();
    assert!(error.to_string().contains("nosuchdev0"), "{error}");
}

#[test]
fn buffer_sizes_are_the_granted_ones() {
    let mut big = spec(Some("127.0.0.1"), Family::V4);
    (big.rcvbuf, big.sndbuf) = (Some(3 << 20), Some(1 << 20));
    let group = ListenerGroup::open(&big, 1, 1).unwrap();
    // Linux reports twice the asked size; FORCE passes rmem_max for root.
    assert_eq!((group.rcvbuf, group.sndbuf), (6 << 20, 2 << 20));
}

/// Sends to `to` on the group's port and checks that an answer by each sender comes back from `to`.
fn answers_come_from(group: &ListenerGroup, client_at: &str, to: &str) {
    let client = UdpSocket::bind(client_at).unwrap();
    client.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
    let server = SocketAddr::new(to.parse().unwrap(), group.local.port());
    client.send_to(b"hello", server).unwrap();
    let mut batch = RecvBatch::new(ROOM);
    let got = receive(&mut batch, &group.shard_sockets[0]);
    let path = got[0].1;
    assert_eq!(path.remote, client.local_addr().unwrap());
    assert_eq!(path.local.ip, Some(to.parse().unwrap()), "the address the client spoke to, normalised");
    assert_ne!(path.local.ifindex, 0);

    let mut buf = [0; 64];
    try_send_now(group.shard_sockets[0].as_fd(), b"now", &path).unwrap();
    let (len, from) = client.recv_from(&mut buf).unwrap();
    assert_eq!((&buf[..len], from), (&b"now"[..], server));

    let mut out = SendQueue::new(false);
    assert!(push(&mut out, &path, b"batch"));
    assert_eq!(out.flush(group.worker_sockets[0].as_fd(), NOW).unwrap(), 0);
    let (len, from) = client.recv_from(&mut buf).unwrap();
    assert_eq!((&buf[..len], from), (&b"batch"[..], server));
}

#[test]
fn replies_leave_from_the_address_spoken_to() {
    let v4 = ListenerGroup::open(&spec(None, Family::V4), 1, 1).unwrap();
    for to in ["127.0.0.1", "127.0.0.2", "127.9.9.9"] {
        answers_come_from(&v4, "127.0.0.1:0", to);
    }
    // A dual-stack socket: IPv4 paths are plain IPv4 both ways.
    let dual = ListenerGroup::open(&spec(None, Family::Dual), 1, 1).unwrap();
    answers_come_from(&dual, "127.0.0.1:0", "127.0.0.3");
    answers_come_from(&dual, "[::1]:0", "::1");
}

#[test]
fn replies_over_v6_leave_from_the_address_spoken_to() {
    // A second IPv6 address needs a network namespace of our own; it goes away with the thread.
    std::thread::spawn(|| {
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
        for command in [
            "link set lo up",
            "addr add fd00:7e55::2/128 dev lo nodad",
            "addr add fd00:7e55::3/128 dev lo nodad",
        ] {
            assert!(std::process::Command::new("ip").args(command.split(' ')).status().unwrap().success());
        }
        for family in [Family::V6, Family::Dual] {
            let group = ListenerGroup::open(&spec(None, family), 1, 1).unwrap();
            for to in ["::1", "fd00:7e55::2", "fd00:7e55::3"] {
                answers_come_from(&group, "[::1]:0", to);
            }
        }
        let only_v6 = ListenerGroup::open(&spec(None, Family::V6), 1, 1).unwrap();
        // The port is free on IPv4: V6 listeners do not take it.
        UdpSocket::bind(("0.0.0.0", only_v6.local.port())).unwrap();
    })
    .join()
    .unwrap();
}

#[test]
fn datagrams_keep_their_order() {
    let group = ListenerGroup::open(&spec(Some("127.0.0.1"), Family::V4), 1, 1).unwrap();
    let client = UdpSocket::bind("127.0.0.1:0").unwrap();
    for gso in [false, true] {
        let (mut out, mut batch) = (SendQueue::new(gso), RecvBatch::new(ROOM));
        let to = Path::to(group.local);
        let (mut next, mut expected) = (0u32, 0u32);
        for round in 0..5usize {
            for _ in 0..64 - round * 7 {
                assert!(push(&mut out, &to, &[&[0; 9][..], &next.to_be_bytes()].concat()));
                next += 1;
            }
            assert_eq!(out.flush(client.as_fd(), NOW).unwrap(), 0);
            while expected < next {
                for (bytes, _) in receive(&mut batch, &group.shard_sockets[0]) {
                    assert_eq!(bytes[9..], expected.to_be_bytes());
                    expected += 1;
                }
            }
        }
        assert_eq!(out.counters().packets, u64::from(next));
        assert_eq!(out.counters().bytes, u64::from(next) * 13);
        assert_eq!(out.counters().sizes.iter().sum::<u64>(), if gso { 5 } else { next.into() });
    }
}

/// Sends trains over a link and says how many messages arrive, and what they are together.
#[test]
fn trains_arrive_as_trains() {
    let server = UdpSocket::bind("127.0.0.1:0").unwrap();
    server.set_nonblocking(true).unwrap();
    enable_gro(server.as_fd()).unwrap();
    let client = UdpSocket::bind("127.0.0.1:0").unwrap();
    probe_gso(client.as_fd()).unwrap();
    let other = UdpSocket::bind("127.0.0.1:0").unwrap();
    other.set_nonblocking(true).unwrap();
    let (to, elsewhere) = (Path::to(server.local_addr().unwrap()), Path::to(other.local_addr().unwrap()));
    let mut out = SendQueue::new(true);
    // Lengths of what is sent; a shorter datagram ends a train, a longer one and another peer begin a new one.
    let plan: Vec<(usize, &Path)> = [
        vec![(1000, &to); 5],
        vec![(400, &to), (1000, &to), (1000, &to), (1200, &to)],
        vec![(1200, &elsewhere)],
        vec![(90, &to); SEGMENTS + 3],
    ]
    .concat();
    for (index, (len, path)) in plan.iter().enumerate() {
        assert!(push(&mut out, path, &vec![index as u8; *len]));
    }
    assert_eq!(out.flush(client.as_fd(), NOW).unwrap(), 0);
    let mut batch = RecvBatch::with_gro();
    let (mut trains, mut got) = (Vec::new(), Vec::new());
    while got.len() < plan.len() - 1 {
        let messages = batch.recv(server.as_fd()).unwrap();
        for index in 0..messages {
            let train = batch.train(index).unwrap();
            trains.push((train.len, train.segment));
        }
        got.extend(datagrams(&mut batch, messages).into_iter().map(|(bytes, _)| bytes));
    }
    let sent = plan.iter().enumerate().filter(|(_, (_, path))| path.remote == to.remote);
    assert_eq!(got, sent.map(|(index, (len, _))| vec![index as u8; *len]).collect::<Vec<_>>());
    let expected = [(5400, 1000), (2000, 1000), (1200, 1200), (90 * SEGMENTS, 90), (270, 90)];
    assert_eq!(trains, expected);
    assert_eq!(receive(&mut RecvBatch::new(ROOM), &other).len(), 1);
}

#[test]
fn datagrams_longer_than_the_link_go_one_by_one() {
    // The kernel refuses to cut what it would have to fragment.
    std::thread::spawn(|| {
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
        let up = ["link", "set", "lo", "mtu", "1400", "up"];
        assert!(std::process::Command::new("ip").args(up).status().unwrap().success());
        let server = UdpSocket::bind("127.0.0.1:0").unwrap();
        server.set_nonblocking(true).unwrap();
        let client = UdpSocket::bind("127.0.0.1:0").unwrap();
        let to = Path::to(server.local_addr().unwrap());
        let mut out = SendQueue::new(true);
        for (index, len) in [1800, 1800, 1800, 700, 1000, 1000].into_iter().enumerate() {
            assert!(push(&mut out, &to, &vec![index as u8; len]));
        }
        assert_eq!(out.flush(client.as_fd(), NOW).unwrap(), 0);
        let mut batch = RecvBatch::new(ROOM);
        let mut got = Vec::new();
        while got.len() < 6 {
            got.extend(receive(&mut batch, &server).into_iter().map(|(b, _)| (b[0], b.len())));
        }
        assert_eq!(got, [(0, 1800), (1, 1800), (2, 1800), (3, 700), (4, 1000), (5, 1000)]);
        let counters = out.counters();
        assert_eq!((counters.unsegmented, counters.packets), (1, 6));
        assert_eq!(counters.sizes[..2], [4, 1], "{counters:?}");
    })
    .join()
    .unwrap();
}

#[test]
fn one_bad_datagram_does_not_stop_the_batch() {
    let server = UdpSocket::bind("127.0.0.1:0").unwrap();
    server.set_nonblocking(true).unwrap();
    let client = UdpSocket::bind("127.0.0.1:0").unwrap();
    let good = Path::to(server.local_addr().unwrap());
    // Not our address: the kernel refuses this packet-info source.
    let foreign = Path { local: LocalAddr { ip: Some(IpAddr::from([203, 0, 113, 9])), ifindex: 0 }, ..good };
    let mut out = SendQueue::new(false);
    for (i, path) in [&foreign, &good, &foreign, &good, &good, &foreign].into_iter().enumerate() {
        assert!(push(&mut out, path, &[i as u8]));
    }
    assert_eq!(out.flush(client.as_fd(), NOW).unwrap(), 0);
    let counters = out.counters();
    assert_eq!((counters.packets, counters.packets + drops(&out)), (3, 6));
    let got = receive(&mut RecvBatch::new(ROOM), &server);
    assert_eq!(got.iter().map(|(b, _)| b[0]).collect::<Vec<_>>(), [1, 3, 4]);
}

fn drops(out: &SendQueue) -> u64 {
    let c = out.counters();
    c.refused + c.not_permitted + c.too_big + c.unreachable + c.other
}

#[test]
fn a_full_socket_keeps_the_queue_in_order() {
    // UDP on loopback never fills its send buffer. A neighbour that does not answer does: the kernel holds the datagrams, charged
    // to the socket, until the test makes the neighbour known.
    std::thread::spawn(|| {
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
        let run = |command: &str| {
            assert!(
                std::process::Command::new("ip").args(command.split(' ')).status().unwrap().success(),
                "{command}"
            );
        };
        run("link add hold0 type veth peer name hold1");
        run("link set hold1 up address 02:00:00:00:00:02");
        run("link set hold0 up");
        run("addr add 10.77.0.1/24 dev hold0");
        // Sees every IPv4 packet that arrives on a device of this namespace.
        let ipv4 = i32::from((libc::ETH_P_IP as u16).to_be());
        let wire =
            socket2::Socket::new(socket2::Domain::PACKET, socket2::Type::DGRAM, Some(ipv4.into())).unwrap();
        wire.set_nonblocking(true).unwrap();
        let client = UdpSocket::bind("10.77.0.1:0").unwrap();
        nix::sys::socket::setsockopt(&client, nix::sys::socket::sockopt::SndBuf, &16384).unwrap();
        let to = Path::to("10.77.0.2:9".parse().unwrap());
        const COUNT: usize = 64;
        let mut out = SendQueue::new(false);
        for i in 0..COUNT as u8 {
            assert!(push(&mut out, &to, &[i; 1000]));
        }
        let left = out.flush(client.as_fd(), NOW).unwrap();
        assert!(left > 0 && left < COUNT, "{left} of {COUNT} left");
        assert_eq!(out.counters().would_block, 1);
        assert_eq!(out.flush(client.as_fd(), NOW).unwrap(), left, "still full: nothing lost");
        // Behind the waiting ones.
        for i in 0..(COUNT - left) as u8 {
            assert!(push(&mut out, &to, &[COUNT as u8 + i; 1000]));
        }
        run("neigh replace 10.77.0.2 lladdr 02:00:00:00:00:02 dev hold0 nud permanent");
        let mut seen = Vec::new();
        let mut buf = [0; 2048];
        for _ in 0..1000 {
            while let Ok(len) = (&wire).read(&mut buf) {
                if len == 1028 && buf[0] == 0x45 && buf[9] == 17 {
                    seen.push(buf[28]);
                }
            }
            if out.flush(client.as_fd(), NOW).unwrap() == 0 && seen.len() >= 2 * COUNT - left {
                break;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        assert_eq!(seen, (0..(2 * COUNT - left) as u8).collect::<Vec<_>>());
        assert_eq!(out.counters().packets, seen.len() as u64);
    })
    .join()
    .unwrap();
}

#[test]
fn a_receive_buffer_says_how_full_it_is() {
    let server = UdpSocket::bind("127.0.0.1:0").unwrap();
    nix::sys::socket::setsockopt(&server, nix::sys::socket::sockopt::RcvBuf, &100_000).unwrap();
    let client = UdpSocket::bind("127.0.0.1:0").unwrap();
    assert_eq!(receive_fill(server.as_fd()).unwrap(), 0);
    let mut before = 0;
    for _ in 0..3 {
        for _ in 0..10 {
            client.send_to(&[0; 1400], server.local_addr().unwrap()).unwrap();
        }
        let now = receive_fill(server.as_fd()).unwrap();
        assert!(now > before && now <= 100, "{before} % before, {now} % now");
        before = now;
    }
}

#[test]
fn oversized_and_empty_datagrams() {
    let server = UdpSocket::bind("127.0.0.1:0").unwrap();
    server.set_nonblocking(true).unwrap();
    let client = UdpSocket::bind("127.0.0.1:0").unwrap();
    let to = server.local_addr().unwrap();
    client.send_to(&vec![1; ROOM + 1], to).unwrap();
    client.send_to(&vec![2; ROOM], to).unwrap();
    client.send_to(&[], to).unwrap();
    let mut batch = RecvBatch::new(ROOM);
    let got = receive(&mut batch, &server);
    assert_eq!(got.iter().map(|(b, _)| b.len()).collect::<Vec<_>>(), [ROOM, 0]);
    assert_eq!(batch.counters().truncated, 1);

    let mut out = SendQueue::new(false);
    let to = Path::to(to);
    assert!(!out.commit(0, &to, 0), "an empty datagram is nothing to send");
    assert!(!out.commit(QUEUE_LEN + 1, &to, 0), "a lying length sends nothing");
    assert!(out.is_empty());
    assert!(push(&mut out, &to, &vec![0; QUEUE_LEN]), "the whole queue");
    assert!(!push(&mut out, &to, &[0]), "there is no room");
    assert_eq!(out.clear(), 1);
    assert!(push(&mut out, &to, &[0]));
}
