//! What is on the other side: senders, devices, a sink.

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::Duration;

use nix::sched::{CpuSet, sched_setaffinity};
use nix::sys::prctl::set_timerslack;
use nix::sys::socket::{setsockopt, sockopt};
use nix::unistd::Pid;
use tessera_offload::{VNET_LEN, VnetHeader};
use tesserad::net::tun::{Tun, TunQueue, TunSpec};
use tesserad::net::udp::{Family, ListenSpec, ListenerGroup};
use tesserad::net::{LocalAddr, Path};

use crate::kernel::ip;
use crate::write::Train;
use crate::{LIVE_BURSTS, LIVE_SMALLS, SEGMENT, SMALL, TRAIN};

/// Holds all that one run sends, so that nothing is lost however late the reader is. (The queue of a device is as long.)
const RCVBUF: usize = 64 << 20;

/// A thread on the other core that sends bursts when told to.
pub(crate) struct Feeder {
    orders: Option<SyncSender<(usize, Duration)>>,
    done: Receiver<()>,
    thread: Option<JoinHandle<()>>,
}

impl Feeder {
    /// Bursts of `per_burst` small datagrams or trains, from `peers` sockets in turn.
    pub(crate) fn start(to: SocketAddr, peers: usize, small: bool, per_burst: usize) -> Self {
        let (orders, inbox) = sync_channel::<(usize, Duration)>(1);
        let (outbox, done) = sync_channel(1);
        let thread = std::thread::spawn(move || {
            pin(1);
            set_timerslack(1000).unwrap();
            let bytes = vec![0x48; if small { SMALL } else { TRAIN * SEGMENT }];
            let sockets: Vec<UdpSocket> = (0..peers).map(|_| peer(to, small)).collect();
            let mut sockets = sockets.iter().cycle();
            while let Ok((bursts, gap)) = inbox.recv() {
                for _ in 0..bursts {
                    for socket in sockets.by_ref().take(per_burst) {
                        socket.send(&bytes).unwrap();
                    }
                    if !gap.is_zero() {
                        std::thread::sleep(gap);
                    }
                }
                outbox.send(()).unwrap();
            }
        });
        Self { orders: Some(orders), done, thread: Some(thread) }
    }

    pub(crate) fn go(&self, bursts: usize, gap: Duration) {
        self.orders.as_ref().unwrap().send((bursts, gap)).unwrap();
    }

    pub(crate) fn wait(&self) {
        self.done.recv().unwrap();
    }
}

impl Drop for Feeder {
    fn drop(&mut self) {
        self.orders = None;
        // Its panic was ours, too: `wait` did not get its answer.
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

pub(crate) fn pin(cpu: usize) {
    let mut set = CpuSet::new();
    set.set(cpu).unwrap();
    sched_setaffinity(Pid::from_raw(0), &set).expect("two cores");
}

/// A client's socket.
fn peer(to: SocketAddr, small: bool) -> UdpSocket {
    let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
    socket.connect(to).unwrap();
    setsockopt(&socket, sockopt::SndBuf, &(4 << 20)).unwrap();
    if !small {
        setsockopt(&socket, sockopt::UdpGsoSegment, &(SEGMENT as i32)).unwrap();
    }
    socket
}

/// A worker's socket, as the gateway opens it, and where it is.
pub(crate) fn socket(gro: bool) -> (UdpSocket, SocketAddr) {
    let spec = ListenSpec {
        addr: Some(Ipv4Addr::LOCALHOST.into()),
        port: 0,
        family: Family::V4,
        bind_dev: None,
        sndbuf: Some(8 << 20),
        rcvbuf: Some(RCVBUF),
        mark: None,
        gro,
    };
    // The shard's socket goes away, and with it all that would be steered to it: bursts are data.
    let mut group = ListenerGroup::open(&spec, 1, 1).unwrap();
    (group.worker_sockets.remove(0), group.local)
}

/// A worker's queue of a device of its own, and an address behind it. Each has a network of its own: a ring that was closed
/// keeps its device for a while, and with it the routes.
pub(crate) fn tun() -> (TunQueue, SocketAddr) {
    static NEXT: AtomicU8 = AtomicU8::new(1);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    assert!(number < u8::MAX, "too many devices");
    let mut tun = Tun::open(&TunSpec { offload: true, ..TunSpec::new("tun") }).unwrap();
    let name = &tun.name;
    ip(&format!("addr add 10.8.{number}.1/24 dev {name}"));
    ip(&format!("link set {name} up mtu 1500 txqueuelen {}", LIVE_BURSTS * LIVE_SMALLS));
    (tun.queues.remove(0), SocketAddr::new([10, 8, number, 7].into(), 1194))
}

/// A device that takes super-packets and drops all: its queue is full and nobody reads it.
pub(crate) fn sink() -> Tun {
    let tun = Tun::open(&TunSpec { offload: true, ..TunSpec::new("sink") }).unwrap();
    ip("addr add 10.9.0.1/16 dev sink");
    ip("link set sink up mtu 1500 txqueuelen 8");
    let socket = UdpSocket::bind("10.9.0.1:0").unwrap();
    for _ in 0..64 {
        let _ = socket.send_to(&[0; SMALL], "10.9.0.2:1194");
    }
    tun
}

/// A train to each of so many peers behind the sink.
pub(crate) fn peers(count: usize, segment: usize, datagrams: usize) -> Vec<Train> {
    let local = LocalAddr { ip: Some([10, 9, 0, 1].into()), ifindex: 0 };
    (0..count)
        .map(|n| {
            let remote = SocketAddr::new([10, 9, 1 + (n / 250) as u8, 1 + (n % 250) as u8].into(), 1194);
            Train { path: Path { remote, local }, segment, count: datagrams }
        })
        .collect()
}

/// What stands in front of a run of UDP packets of [`SEGMENT`] bytes.
pub(crate) fn super_header() -> VnetHeader {
    const NEEDS_CSUM: u8 = 1;
    const UDP_L4: u8 = 5;
    VnetHeader {
        flags: NEEDS_CSUM,
        gso_type: UDP_L4,
        hdr_len: 28,
        gso_size: (SEGMENT - 28) as u16,
        csum_start: 20,
        csum_offset: 6,
    }
}

/// A UDP packet of so many bytes to nobody, with a good IP checksum.
pub(crate) fn packet(len: usize) -> Vec<u8> {
    let mut packet = vec![0; len];
    packet[0] = 0x45;
    packet[2..4].copy_from_slice(&(len as u16).to_be_bytes());
    (packet[8], packet[9]) = (64, 17);
    packet[12..16].copy_from_slice(&[10, 8, 0, 5]);
    packet[16..20].copy_from_slice(&[192, 0, 2, 9]);
    let sum: u32 = packet[..20].chunks(2).map(|word| u32::from(u16::from_be_bytes([word[0], word[1]]))).sum();
    packet[10..12].copy_from_slice(&(!((sum & 0xffff) + (sum >> 16)) as u16).to_be_bytes());
    packet[20..24].copy_from_slice(&[0x20, 0, 0x20, 1]);
    packet[24..26].copy_from_slice(&((len - 20) as u16).to_be_bytes());
    packet
}

const _: () = assert!(VNET_LEN == 10, "headers are written as they are");
