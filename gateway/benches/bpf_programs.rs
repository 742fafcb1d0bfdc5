//! What one run of a BPF program costs, as the kernel measures it (BPF_PROG_TEST_RUN), and how much the verifier looked at.
//! Needs root.
//!
//!     cargo bench -p tesserad --bench bpf_programs

#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "a benchmark prints, and may fail by panic")]

#[path = "../tests/bpf/kernel.rs"]
mod kernel;
#[path = "../tests/bpf/reference.rs"]
#[expect(dead_code, reason = "only its frames are used")]
mod reference;

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::num::NonZeroU8;
use std::os::fd::{AsFd, BorrowedFd};

use kernel::{Meta, ifindex, in_namespace, ip, test_run};
use reference::{frame, udp};
use tessera_ebpf_common::PeerIdLayout;
use tessera_wire::PeerId;
use tesserad::bpf::{Guard, Loaded, ReuseportSteering, TunSteering};
use tesserad::net::tun::{Tun, TunSpec};
use tesserad::net::udp::{Family, ListenSpec, ListenerGroup};
use tesserad::routes::Prefix;

const MAC: [u8; 6] = [0x02, 0, 0, 0, 0, 1];
/// Runs in one call, and calls, of which the median counts.
const REPEAT: u32 = 1_000_000;
const CALLS: usize = 9;

fn main() {
    in_namespace(|| {
        guard();
        tun();
        reuseport();
    });
}

fn guard() {
    ip("link add wan type veth peer name outside");
    ip("link set wan address 02:00:00:00:00:01 up");
    ip("addr add 192.0.2.1/24 dev wan");
    let ports: [SocketAddr; 2] = ["192.0.2.1:1194".parse().unwrap(), "0.0.0.0:1195".parse().unwrap()];
    let wan = ifindex("wan");
    let guard = Guard::attach(&[wan], &ports, 100_000).unwrap();
    guard.set_live(PeerId::new(77_777).unwrap(), true).unwrap();
    verified("tcx_guard", guard.loaded());
    let data = |peer: u32| [&(9 << 27 | peer).to_be_bytes()[..], &[7; 1396]].concat();
    let client: IpAddr = [203, 0, 113, 50].into();
    let run = |what: &str, to: SocketAddr, payload: &[u8], gso_size, gso_segs| {
        let frame = frame(MAC, &udp(client, to, payload));
        time("tcx_guard", what, guard.loaded(), &frame, Meta { ifindex: wan, gso_size, gso_segs });
    };
    run("data of a live peer", ports[0], &data(77_777), 0, 0);
    run("data of nobody: drop", ports[0], &data(77_778), 0, 0);
    run("data of a live peer, any address", ports[1], &data(77_777), 0, 0);
    run("data of nobody, any address: drop", ports[1], &data(77_778), 0, 0);
    run("28 merged of nobody: drop", ports[0], &data(77_778)[..100].repeat(14), 50, 28);
    run("another port", "192.0.2.1:53".parse().unwrap(), &[7; 60], 0, 0);
    let mut tcp = frame(MAC, &udp(client, ports[0], &[7; 1400]));
    tcp[14 + 9] = 6;
    time("tcx_guard", "no UDP", guard.loaded(), &tcp, Meta { ifindex: wan, ..Meta::default() });
}

fn tun() {
    let tun = Tun::open(&TunSpec { queues: 4, ..TunSpec::new("tun") }).unwrap();
    let steering = TunSteering::attach(tun.queues[0].as_fd(), PeerIdLayout::new(4).unwrap(), 20_000).unwrap();
    verified("tun_steer", steering.loaded());
    let run = |what: &str, dst: &str| {
        let dst: IpAddr = dst.parse().unwrap();
        let src = if dst.is_ipv4() { [10, 8, 0, 1].into() } else { "fd00::1".parse().unwrap() };
        let frame = frame(MAC, &udp(src, (dst, 80).into(), &[7; 1372]));
        time("tun_steer", what, steering.loaded(), &frame, Meta::default());
    };
    run("IPv4 by address, no route", "10.8.0.7");
    run("IPv6 by address, no route", "fd00::7");
    for n in 0..10_000u32 {
        let net = IpAddr::from((0xac10_0000 + (n << 4)).to_be_bytes());
        steering.add(Prefix::new(net, 28).unwrap(), n % 4).unwrap();
    }
    run("IPv4 by address, 10,000 routes", "10.8.0.7");
    run("IPv4 by one of 10,000 routes", "172.16.99.7");
}

fn reuseport() {
    let spec = ListenSpec {
        addr: Some([127, 0, 0, 1].into()),
        port: 0,
        family: Family::V4,
        bind_dev: None,
        sndbuf: None,
        rcvbuf: None,
        mark: None,
        gro: false,
    };
    let group = ListenerGroup::open(&spec, 4, 2).unwrap();
    let sockets: Vec<BorrowedFd<'_>> =
        group.worker_sockets.iter().chain(&group.shard_sockets).map(UdpSocket::as_fd).collect();
    let layout = PeerIdLayout::new(4).unwrap();
    let steering = ReuseportSteering::attach(&sockets, layout, NonZeroU8::new(2).unwrap()).unwrap();
    verified("reuseport_select", steering.loaded());
}

fn verified(program: &str, loaded: &Loaded) {
    println!("{program:17} {:6} instructions verified", loaded.verified_instructions().unwrap());
}

fn time(program: &str, what: &str, loaded: &Loaded, frame: &[u8], meta: Meta) {
    let mut runs: Vec<u32> = (0..CALLS).map(|_| test_run(loaded, frame, meta, REPEAT).unwrap().1).collect();
    runs.sort_unstable();
    println!("{program:17} {:6} ns  {what} ({} to {})", runs[CALLS / 2], runs[0], runs[CALLS - 1]);
}
