//! What a data worker's I/O costs, two ways: (a) as the gateway does it, `recvmmsg`, `sendmmsg`, `read` and `writev`, with epoll
//! and a nap; (b) on io_uring: multishot receive into provided buffers, and a submission for each send and each write. Needs
//! root and two cores; takes about a minute. Everything happens in a network namespace of its own.
//!
//!     cargo bench -p tesserad --bench worker_io              # all rows
//!     cargo bench -p tesserad --bench worker_io -- read      # those that have the word in their name
//!
//! Counted is the processor time of the thread that receives or sends, and only of that, per packet (a datagram of a train is one).
//! What it receives comes from a thread on the other core. In the rows `drain`, a burst waits, complete, when the turn begins:
//! the bare cost of moving packets. In the rows `live` bursts come at their own times and the thread sleeps in between, so
//! waking, and what a turn finds, count too; and there are both sources, as a worker has them, one of them silent.
#![expect(
    clippy::print_stdout,
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a benchmark prints, and may fail by panic"
)]

#[path = "../tests/bpf/kernel.rs"]
#[expect(dead_code, reason = "only its namespaces are used")]
mod kernel;
#[path = "worker_io/read.rs"]
mod read;
#[path = "worker_io/ring.rs"]
mod ring;
#[path = "worker_io/table.rs"]
mod table;
#[path = "worker_io/world.rs"]
mod world;
#[path = "worker_io/write.rs"]
mod write;

use std::io::IoSlice;
use std::net::SocketAddr;
use std::ops::AddAssign;
use std::time::Duration;

use kernel::in_namespace;
use nix::sys::prctl::set_timerslack;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::time::{ClockId, clock_gettime};
use read::{Calls, Reader, Shots, Sources, Wait};
use table::{Variant, row};
use tessera_offload::VnetHeader;
use tesserad::net::SendQueue;
use world::{Feeder, packet, peers, pin, sink, socket, super_header, tun};
use write::{SendRing, WriteRing};

/// Datagrams of a train, and bytes of each.
const TRAIN: usize = 45;
const SEGMENT: usize = 1400;
/// A small datagram or packet.
const SMALL: usize = 100;
/// Trains, or small datagrams, that wait when a turn begins.
const TRAINS: usize = 16;
const SMALLS: usize = 64;
/// Bursts of one run, and of a live one.
const BURSTS: usize = 100;
const LIVE_BURSTS: usize = 500;
/// From one live burst to the next, and what is in it: 2.5 Gbit/s of long, or 0.2 million of small packets a second.
const GAP: Duration = Duration::from_micros(200);
const LIVE_TRAINS: usize = 1;
const LIVE_SMALLS: usize = 40;
/// Peers in the rows with many.
const MANY: usize = 1000;
/// Two groups of 64 KiB buffers on a ring: as few as do, because the ring goes through all of them in turn, and what does not
/// stay in the cache costs; and enough for a burst of small datagrams, each of which takes a whole one.
const FEW_BUFFERS: u16 = 32;
const MANY_BUFFERS: u16 = 128;
/// So few that they stay in the cache as the places of (a) do; each burst uses them up, and the shot must be renewed.
const TOO_FEW_BUFFERS: u16 = 4;

/// Processor time, and what was done in it.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Cost {
    pub(crate) cpu: Duration,
    pub(crate) packets: usize,
}

impl AddAssign for Cost {
    fn add_assign(&mut self, other: Self) {
        self.cpu += other.cpu;
        self.packets += other.packets;
    }
}

impl Cost {
    pub(crate) fn per_packet(self) -> f64 {
        self.cpu.as_nanos() as f64 / self.packets as f64
    }
}

/// Processor time of this thread.
pub(crate) fn cpu() -> Duration {
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).unwrap().into()
}

fn main() {
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, most.min(8192), most).unwrap();
    let wanted = std::env::args().skip(1).find(|argument| !argument.starts_with('-')).unwrap_or_default();
    in_namespace(move || {
        pin(0);
        set_timerslack(1000).unwrap();
        table::head();
        for (name, run) in [
            ("UDP read", udp_read as fn()),
            ("TUN read", tun_read),
            ("UDP send", udp_send),
            ("TUN write", tun_write),
            ("live read", live),
        ] {
            if name.contains(&wanted) {
                run();
            }
        }
    });
}

fn udp_read() {
    for (name, peers, small, gro, buffers) in [
        ("UDP read, drain: 16 trains of 45 x 1400 B, 1 peer, GRO", 1, false, true, FEW_BUFFERS),
        ("UDP read, drain: 16 trains of 45 x 1400 B, 16 peers, GRO", 16, false, true, FEW_BUFFERS),
        ("UDP read, drain: 64 x 100 B, 1000 peers, GRO", MANY, true, true, MANY_BUFFERS),
        ("UDP read, drain: 64 x 100 B, 1000 peers, 2 KiB places", MANY, true, false, MANY_BUFFERS),
        ("UDP read, drain: 2 trains of 45 x 1400 B, 1 peer, 2 KiB places", 1, false, false, MANY_BUFFERS),
    ] {
        let per_burst = match (small, gro) {
            (true, _) => SMALLS,
            (false, true) => TRAINS,
            (false, false) => 2,
        };
        let bench = |buffers: Option<u16>| {
            let (socket, to) = socket(gro);
            let room = (!gro).then_some(2048);
            drain(
                Sources { socket: Some(socket), tun: None, room, buffers: buffers.unwrap_or_default() },
                buffers.is_some(),
                to,
                peers,
                small,
                per_burst,
            )
        };
        let mut variants = vec![
            Variant::new("(a) epoll, recvmmsg", bench(None)),
            Variant::new("(b) io_uring, multishot RECVMSG", bench(Some(buffers))),
        ];
        if buffers == FEW_BUFFERS {
            variants.push(Variant::new("(b') the same with too few buffers", bench(Some(TOO_FEW_BUFFERS))));
        }
        row(name, variants);
    }
}

fn tun_read() {
    for (name, small, buffers) in [
        ("TUN read, drain: 16 super-packets of 45 x 1400 B", false, FEW_BUFFERS),
        ("TUN read, drain: 64 packets of 100 B", true, MANY_BUFFERS),
    ] {
        let bench = |buffers: Option<u16>| {
            let (tun, to) = tun();
            let per_burst = if small { SMALLS } else { TRAINS };
            drain(
                Sources { socket: None, tun: Some(tun), room: None, buffers: buffers.unwrap_or_default() },
                buffers.is_some(),
                to,
                1,
                small,
                per_burst,
            )
        };
        let mut variants = vec![
            Variant::new("(a) epoll, read", bench(None)),
            Variant::new("(b) io_uring, multishot READ", bench(Some(buffers))),
        ];
        if buffers == FEW_BUFFERS {
            variants.push(Variant::new("(b') the same with too few buffers", bench(Some(TOO_FEW_BUFFERS))));
        }
        row(name, variants);
    }
}

fn live() {
    for (name, from_tun, small, gro) in [
        ("live read: a train of 45 x 1400 B every 200 us, UDP", false, false, true),
        ("live read: 40 datagrams of 100 B every 200 us, UDP", false, true, true),
        ("live read: a super-packet of 45 x 1400 B every 200 us, TUN", true, false, true),
        ("live read: 40 packets of 100 B every 200 us, TUN", true, true, true),
    ] {
        let bench = |shots, nap| {
            let ((socket, by_socket), (tun, by_tun)) = (socket(gro), tun());
            let to = if from_tun { by_tun } else { by_socket };
            let sources = Sources { socket: Some(socket), tun: Some(tun), room: None, buffers: 64 };
            let mut reader = reader(sources, shots);
            let (per_burst, count) =
                if small { (LIVE_SMALLS, LIVE_SMALLS) } else { (LIVE_TRAINS, LIVE_TRAINS * TRAIN) };
            let feeder = Feeder::start(to, 16, small, per_burst);
            move || {
                let (began, mut packets, mut turn) = (cpu(), 0, 0);
                feeder.go(LIVE_BURSTS, GAP);
                while packets < LIVE_BURSTS * count {
                    turn = reader.turn(if turn > 0 && nap { Wait::Nap } else { Wait::Ready });
                    packets += turn;
                }
                let cpu = cpu() - began;
                feeder.wait();
                assert_eq!(packets, LIVE_BURSTS * count, "each packet comes once {}", reader.remark());
                Cost { cpu, packets }
            }
        };
        let variants = vec![
            Variant::new("(a) nap 50 us, else epoll; recvmmsg and read", bench(false, true)),
            Variant::new("(a') the same without the nap", bench(false, false)),
            Variant::new("(b) io_uring, nap 50 us as least wait", bench(true, true)),
            Variant::new("(b') io_uring, woken by the first completion", bench(true, false)),
        ];
        row(name, variants);
    }
}

fn udp_send() {
    let sink = sink();
    let (socket, _) = socket(false);
    for (name, trains) in [
        ("UDP send: 4 trains of 45 x 1400 B, 4 peers", peers(4, SEGMENT, TRAIN)),
        ("UDP send: 64 x 100 B, of 960 peers", peers(15 * SMALLS, SMALL, 1)),
    ] {
        let batch = trains.len().min(SMALLS);
        let batches: Vec<_> = trains.chunks_exact(batch).collect();
        let mut queue = SendQueue::new(true);
        let mut free = SendRing::new(&socket, batch, false);
        let mut linked = SendRing::new(&socket, batch, true);
        let variants = vec![
            Variant::new("(a) sendmmsg", || {
                each(&batches, |trains| write::sendmmsg(&socket, &mut queue, trains))
            }),
            Variant::new("(b) io_uring, SENDMSG with MSG_DONTWAIT", || {
                each(&batches, |trains| free.send(trains))
            }),
            Variant::new("(b') the same, linked", || each(&batches, |trains| linked.send(trains))),
        ];
        row(name, variants);
    }
    drop(sink);
}

fn tun_write() {
    let (tun, _) = tun();
    // Nobody has the destination: the packet ends behind the look-up of its route.
    let headers = [VnetHeader::PLAIN.to_bytes(), super_header().to_bytes()];
    let small = packet(SMALL);
    let long = packet(28 + 44 * (SEGMENT - 28));
    for (name, batch, segments) in [
        ("TUN write: 4 super-packets of 44 x 1400 B, gathered", 4, 44),
        ("TUN write: 64 packets of 100 B, one by one", 64, 1),
        ("TUN write: 8 packets of 100 B, one by one", 8, 1),
    ] {
        let slices = || match segments {
            1 => vec![IoSlice::new(&headers[0]), IoSlice::new(&small)],
            _ => {
                let payloads = long[SEGMENT..].chunks(SEGMENT - 28).map(IoSlice::new);
                [IoSlice::new(&headers[1]), IoSlice::new(&long[..SEGMENT])]
                    .into_iter()
                    .chain(payloads)
                    .collect()
            }
        };
        let packets: Vec<Vec<IoSlice<'_>>> = (0..batch).map(|_| slices()).collect();
        let batches = [&packets[..]; BURSTS];
        let whole = [&headers[0][..], &small].concat();
        let wholes = vec![&whole[..]; batch];
        let whole_batches = [&wholes[..]; BURSTS];
        let (mut ring, mut whole_ring) = (WriteRing::new(&tun), WriteRing::new(&tun));
        let mut variants = vec![
            Variant::new("(a) writev", || each(&batches, |packets| write::writev(&tun, packets, segments))),
            Variant::new("(b) io_uring, WRITEV", || each(&batches, |packets| ring.write(packets, segments))),
        ];
        if segments == 1 {
            variants.push(Variant::new("(a') write, header and packet in one piece", || {
                each(&whole_batches, |packets| write::write(&tun, packets))
            }));
            variants.push(Variant::new("(b') io_uring, WRITE of the same", || {
                each(&whole_batches, |packets| whole_ring.write_whole(packets))
            }));
        }
        row(name, variants);
    }
}

/// Does the same with every batch, for at least so many bursts.
fn each<T: Copy>(batches: &[T], mut work: impl FnMut(T) -> Cost) -> Cost {
    let mut cost = Cost::default();
    for batch in batches.iter().cycle().take(batches.len().next_multiple_of(BURSTS)) {
        cost += work(*batch);
    }
    cost
}

/// Reads bursts that were sent before each turn.
fn drain(
    sources: Sources,
    shots: bool,
    to: SocketAddr,
    peers: usize,
    small: bool,
    per_burst: usize,
) -> impl FnMut() -> Cost {
    let mut reader = reader(sources, shots);
    let feeder = Feeder::start(to, peers, small, per_burst);
    let expected = if small { per_burst } else { per_burst * TRAIN };
    move || {
        let mut cost = Cost::default();
        for _ in 0..BURSTS {
            feeder.go(1, Duration::ZERO);
            feeder.wait();
            let (began, mut packets) = (cpu(), 0);
            while packets < expected {
                packets += reader.turn(Wait::Ready);
            }
            cost += Cost { cpu: cpu() - began, packets };
            assert_eq!(packets, expected, "each packet comes once {}", reader.remark());
        }
        cost
    }
}

fn reader(sources: Sources, shots: bool) -> Box<dyn Reader> {
    if shots { Box::new(Shots::new(sources)) } else { Box::new(Calls::new(sources)) }
}
