//! The kernel takes what `Merge` writes, and `Split` understands what the kernel gives. Needs root: each test makes network
//! namespaces of its own, which go away with the threads that made them.

#![expect(clippy::unwrap_used, reason = "a test may fail by panic")]

mod packets;

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::OpenOptionsExt;
use std::process::Command;
use std::thread::JoinHandle;
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use packets::{ACK, PSH, Spec, is_intact};
use tessera_offload::{Merge, Offloads, Split, VNET_LEN, VnetHeader};

const ALL: Offloads = Offloads { tso4: true, tso6: true, uso4: true, uso6: true };

/// `TUN_F_CSUM`, `TSO4`, `TSO6`, `USO4`, `USO6`.
const TUN_OFFLOADS: u64 = 0x01 | 0x02 | 0x04 | 0x20 | 0x40;

/// Longest wait for a packet; only reached by a failing test.
const PATIENCE_MS: u16 = 5000;

/// How often a relay with nothing to do looks whether its hosts are done.
const QUIET_MS: u16 = 20;

/// Packets stand apart in the buffer.
const GAP: usize = 24;

mod ioctl {
    nix::ioctl_write_ptr_bad!(tunsetiff, libc::TUNSETIFF, libc::ifreq);
    nix::ioctl_write_int_bad!(tunsetoffload, libc::TUNSETOFFLOAD as libc::c_ulong as libc::Ioctl);
}

/// Runs `work` on a thread in a fresh network namespace.
fn in_namespace<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> JoinHandle<T> {
    std::thread::spawn(|| {
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET)
            .expect("a network namespace of our own (needs root)");
        work()
    })
}

fn finish<T>(thread: JoinHandle<T>) -> T {
    thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

fn ip(arguments: &str) {
    let output = Command::new("ip").args(arguments.split(' ')).output().unwrap();
    assert!(output.status.success(), "ip {arguments}: {}", String::from_utf8_lossy(&output.stderr));
}

/// A device that is up and has these addresses; with offloads it speaks vnet headers.
fn tun(name: &str, offloads: bool, addresses: [&str; 2]) -> File {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_NONBLOCK)
        .open("/dev/net/tun")
        .expect("/dev/net/tun");
    // SAFETY: all-zero is a valid ifreq.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from as libc::c_char;
    }
    let vnet = if offloads { libc::IFF_VNET_HDR } else { 0 };
    request.ifr_ifru.ifru_flags = (libc::IFF_TUN | libc::IFF_NO_PI | vnet) as libc::c_short;
    // SAFETY: the descriptor is open and `request` is a full ifreq.
    unsafe { ioctl::tunsetiff(file.as_raw_fd(), &raw const request) }.expect("a TUN device");
    if offloads {
        // SAFETY: the descriptor is a TUN queue; the argument is a number.
        unsafe { ioctl::tunsetoffload(file.as_raw_fd(), TUN_OFFLOADS as _) }
            .expect("TSO and USO (kernel 6.2)");
    }
    ip(&format!("addr add {} dev {name}", addresses[0]));
    ip(&format!("addr add {} dev {name} nodad", addresses[1]));
    ip(&format!("link set {name} up mtu 1400"));
    file
}

/// Reads one packet, or gives up.
fn read(mut tun: &File, buf: &mut [u8]) -> usize {
    let mut ready = [PollFd::new(tun.as_fd(), PollFlags::POLLIN)];
    assert_eq!(
        poll(&mut ready, PollTimeout::from(PATIENCE_MS)).unwrap(),
        1,
        "no packet came out of the device"
    );
    tun.read(buf).unwrap()
}

/// A packet of the kernel's own (router solicitations and the like) has neither of these protocols.
fn is_ours(packet: &[u8]) -> bool {
    matches!((packet[0] >> 4, packet[9], packet[6]), (4, 6 | 17, _) | (6, _, 6 | 17))
}

/// Writes segments as `Merge` puts them together, and gives the number of packets in each write.
fn write_merged(tun: &File, packets: &[Vec<u8>]) -> Vec<usize> {
    let mut buf = Vec::new();
    let mut merge = Merge::new(ALL);
    for packet in packets {
        buf.resize(buf.len() + GAP, 0);
        let at = buf.len()..buf.len() + packet.len();
        buf.extend(packet);
        assert!(merge.add(&buf, at));
    }
    write_all(tun, &mut merge, &mut buf)
}

fn write_all(mut tun: &File, merge: &mut Merge, buf: &mut [u8]) -> Vec<usize> {
    let mut writes = Vec::new();
    merge.drain(buf, |slices, info| {
        let len: usize = slices.iter().map(|slice| slice.len()).sum();
        assert_eq!(tun.write_vectored(slices).expect("the kernel takes the packet"), len);
        writes.push(info.packets);
    });
    writes
}

/// The segments of what stands in `buf` behind its vnet header.
fn split(buf: &[u8]) -> Vec<Vec<u8>> {
    let split = Split::new(VnetHeader::parse(buf).unwrap(), &buf[VNET_LEN..]).expect("what the kernel gives");
    (0..split.count())
        .map(|index| {
            let mut out = vec![0; split.segment_len(index)];
            split.write(index, &mut out);
            out
        })
        .collect()
}

#[test]
fn super_packets_that_are_forwarded_become_the_segments_they_were() {
    finish(in_namespace(|| {
        let merged = tun("merged", true, ["10.8.0.254/24", "fd00:0:0:8::fe/64"]);
        let plain = tun("plain", false, ["10.9.0.254/24", "fd00:0:0:9::fe/64"]);
        std::fs::write("/proc/sys/net/ipv4/ip_forward", "1").unwrap();
        std::fs::write("/proc/sys/net/ipv6/conf/all/forwarding", "1").unwrap();
        for (v6, tcp) in [(false, true), (true, true), (false, false), (true, false)] {
            for (payload, size) in [(40_000, 1300), (1301, 1300), (2600, 1300), (60, 1), (64_000, 1000)] {
                let mut whole = Spec::new(v6, tcp, payload);
                (whole.source, whole.destination) = (2, 3);
                whole.networks = (8, 9);
                whole.flags = ACK | PSH;
                whole.sequence = u32::MAX - 5000;
                whole.id = u16::MAX - 3;
                assert_eq!(write_merged(&merged, &whole.segments(size)), [payload.div_ceil(size.into())]);
                whole.hops -= 1;
                for expected in whole.segments(size) {
                    let mut buf = [0; 2048];
                    let packet = loop {
                        let len = read(&plain, &mut buf);
                        if is_ours(&buf[..len]) {
                            break &buf[..len];
                        }
                    };
                    assert_eq!(packet, expected, "IPv6: {v6}, TCP: {tcp}, {payload} by {size}");
                }
            }
        }
    }));
}

#[test]
fn merged_datagrams_arrive_at_a_socket_one_by_one() {
    finish(in_namespace(|| {
        let tun = tun("tun", true, ["10.8.0.1/24", "fd00:0:0:8::1/64"]);
        for (v6, address) in [(false, "10.8.0.1:443"), (true, "[fd00:0:0:8::1]:443")] {
            let socket = UdpSocket::bind(address).unwrap();
            socket.set_read_timeout(Some(Duration::from_millis(PATIENCE_MS.into()))).unwrap();
            let whole = Spec::new(v6, false, 30_100);
            assert_eq!(write_merged(&tun, &whole.segments(1000)), [31]);
            for piece in whole.payload.chunks(1000) {
                let mut buf = [0; 2048];
                let len = socket.recv(&mut buf).unwrap();
                assert_eq!(&buf[..len], piece);
            }
        }
    }));
}

#[test]
fn datagrams_of_one_send_are_split_again() {
    finish(in_namespace(|| {
        let tun = tun("tun", true, ["10.8.0.1/24", "fd00:0:0:8::1/64"]);
        for (local, remote) in [("10.8.0.1:0", "10.8.0.9:53"), ("[fd00:0:0:8::1]:0", "[fd00:0:0:8::9]:53")] {
            let socket = UdpSocket::bind(local).unwrap();
            socket.connect(remote).unwrap();
            nix::sys::socket::setsockopt(&socket, nix::sys::socket::sockopt::UdpGsoSegment, &1200).unwrap();
            let sent: Vec<u8> = (0..30_500u32).map(|i| (i * 31 % 251) as u8).collect();
            assert_eq!(socket.send(&sent).unwrap(), sent.len());
            let mut buf = vec![0; VNET_LEN + 65_536];
            let len = loop {
                let len = read(&tun, &mut buf);
                if is_ours(&buf[VNET_LEN..len]) {
                    break len;
                }
            };
            assert_eq!(
                VnetHeader::parse(&buf).unwrap().gso_size,
                1200,
                "the device was to give a super-packet"
            );
            let segments = split(&buf[..len]);
            assert_eq!(segments.len(), 26);
            let header = segments[0].len() - 1200;
            for (segment, piece) in segments.iter().zip(sent.chunks(1200)) {
                assert!(is_intact(segment));
                assert_eq!(&segment[header..], piece);
            }
        }
    }));
}

/// Bytes that a TCP connection carries in each direction.
const TRANSFER: usize = 8 << 20;

fn pattern(seed: usize) -> Vec<u8> {
    (0..TRANSFER).map(|i| (i.wrapping_mul(seed) >> 7) as u8).collect()
}

/// Sends one pattern while it receives the other.
fn exchange(mut stream: TcpStream, send: usize, expect: usize) {
    stream.set_read_timeout(Some(Duration::from_millis(4 * u64::from(PATIENCE_MS)))).unwrap();
    let mut writer = stream.try_clone().unwrap();
    let sender = std::thread::spawn(move || {
        writer.write_all(&pattern(send)).unwrap();
        writer.shutdown(std::net::Shutdown::Write).unwrap();
    });
    let mut received = Vec::new();
    stream.read_to_end(&mut received).unwrap();
    assert!(received == pattern(expect), "{} bytes arrived, not those that were sent", received.len());
    finish(sender);
}

/// Moves what waits at one device to the other, split and merged again. Returns how many super-packets came and went.
fn relay(mut from: &File, to: &File, merge: &mut Merge, buf: &mut Vec<u8>) -> (usize, usize) {
    let mut packet = vec![0; VNET_LEN + 65_536];
    let (mut split_up, mut slots) = (0, 0);
    buf.clear();
    let mut places = Vec::new();
    while slots < 128 {
        let len = match from.read(&mut packet) {
            Ok(len) => len,
            Err(error) if error.kind() == ErrorKind::WouldBlock => break,
            Err(error) => panic!("read: {error}"),
        };
        let segments = split(&packet[..len]);
        split_up += usize::from(segments.len() > 1);
        for segment in &segments {
            assert!(!is_ours(segment) || is_intact(segment), "{segment:02x?}");
            buf.resize(buf.len() + GAP, 0);
            places.push(buf.len()..buf.len() + segment.len());
            buf.extend(segment);
        }
        slots += segments.len();
    }
    let mut merged = 0;
    for at in places {
        if !merge.add(buf, at.clone()) {
            merged += write_all(to, merge, buf).iter().filter(|packets| **packets > 1).count();
            assert!(merge.add(buf, at));
        }
    }
    merged += write_all(to, merge, buf).iter().filter(|packets| **packets > 1).count();
    (split_up, merged)
}

#[test]
fn tcp_between_two_hosts_goes_through_split_and_merge() {
    let (to_relay, devices) = std::sync::mpsc::channel();
    let (to_client, ports) = std::sync::mpsc::channel::<SocketAddr>();
    let relay_end = to_relay.clone();
    let server = in_namespace(move || {
        relay_end.send(tun("tun", true, ["10.8.0.1/24", "fd00:0:0:8::1/64"])).unwrap();
        for address in ["10.8.0.1", "fd00:0:0:8::1"] {
            let listener = TcpListener::bind((address.parse::<IpAddr>().unwrap(), 0)).unwrap();
            to_client.send(listener.local_addr().unwrap()).unwrap();
            exchange(listener.accept().unwrap().0, 3, 5);
        }
    });
    let one = devices.recv().unwrap();
    let client = in_namespace(move || {
        to_relay.send(tun("tun", true, ["10.8.0.2/24", "fd00:0:0:8::2/64"])).unwrap();
        for address in ports {
            exchange(TcpStream::connect(address).unwrap(), 5, 3);
        }
    });
    let other = devices.recv().unwrap();

    let (mut merge, mut buf) = (Box::new(Merge::new(ALL)), Vec::new());
    let (mut split_up, mut merged) = ([0; 2], [0; 2]);
    let mut quiet = 0;
    while !(server.is_finished() && client.is_finished()) {
        let mut ready =
            [PollFd::new(one.as_fd(), PollFlags::POLLIN), PollFd::new(other.as_fd(), PollFlags::POLLIN)];
        quiet =
            if poll(&mut ready, PollTimeout::from(QUIET_MS)).unwrap() == 0 { quiet + QUIET_MS } else { 0 };
        assert!(quiet < 4 * PATIENCE_MS, "nothing moves any more");
        for (direction, (from, to)) in [(&one, &other), (&other, &one)].into_iter().enumerate() {
            let (came, went) = relay(from, to, &mut merge, &mut buf);
            split_up[direction] += came;
            merged[direction] += went;
        }
    }
    finish(server);
    finish(client);
    assert!(
        split_up.iter().chain(&merged).all(|n| *n > 100),
        "super-packets: {split_up:?} came, {merged:?} went"
    );
}
