//! A whole data worker, sockets to TUN and back, allocates nothing per packet.

#![expect(clippy::unwrap_used, reason = "a test may fail by panic")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tessera_ebpf_common::PeerIdLayout;
use tessera_proto::data::{DataChannel, DataKey, Framing, InBand};
use tessera_proto::keys::{KeyMaterial, Role};
use tessera_proto::suite::Cipher;
use tessera_wire::{KeyId, PeerId};
use tesserad::config::{Config, MssFix};
use tesserad::data::streams::StreamOptions;
use tesserad::data::{DataPlane, DataPlaneSetup, PeerSpec, Rung, Steering, ToWorker, Via};
use tesserad::net::tun::{Tun, TunSpec};
use tesserad::net::{Family, ListenSpec, ListenerGroup, Path};
use tesserad::routes::Prefix;
use tokio::sync::mpsc;

/// Of all threads: during the measured time only the worker has anything to allocate for.
static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);

/// The system allocator, counting.
struct Counting;

// SAFETY: every call is handed to the system allocator unchanged; counting is one atomic addition.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller's contract is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        // SAFETY: the caller's contract is passed on.
        unsafe { System.dealloc(ptr, layout) }
    }

    unsafe fn realloc(&self, ptr: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller's contract is passed on.
        unsafe { System.realloc(ptr, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Packets of a round: a burst that every queue on the way holds.
const BURST: usize = 32;
/// Bytes of an inner UDP payload.
const PAYLOAD: usize = 1200;
const SINK_PORT: u16 = 5001;

fn ip(arguments: &str) {
    let output = Command::new("ip").args(arguments.split(' ')).output().unwrap();
    assert!(output.status.success(), "ip {arguments}: {}", String::from_utf8_lossy(&output.stderr));
}

fn key(role: Role, peer: u8) -> DataKey {
    let material = KeyMaterial::new([peer; 256]);
    let window = (64, Duration::from_secs(15));
    DataKey::new(KeyId::from_low_bits(0), &material, role, Cipher::Aes256Gcm, window).unwrap()
}

/// A client: its end of the data channel, its socket, its address in the tunnel.
struct Client {
    channel: DataChannel,
    socket: UdpSocket,
    id: PeerId,
}

impl Client {
    fn join(plane: &DataPlane, number: u8, server: SocketAddr) -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.connect(server).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        let id = PeerId::new(number.into()).unwrap();
        let spec = PeerSpec {
            id,
            generation: 1,
            shard: 0,
            via: Via::Udp(0),
            path: Path::to(socket.local_addr().unwrap()),
            framing: Framing::Plain,
            ping: None,
            ping_restart: None,
            inactive: None,
            reneg_bytes: None,
            reneg_packets: None,
        };
        let data = plane.handle();
        data.add_route(Prefix::host(IpAddr::from([10, 8, 0, number])), id);
        data.add_peer(Box::new(spec));
        data.tell(id, ToWorker::InstallKey(id, Box::new(key(Role::Server, number))));
        let mut channel = DataChannel::new(id, Framing::Plain);
        channel.install(key(Role::Client, number));
        Self { channel, socket, id }
    }

    /// An inner UDP packet from this client to the gateway's own address, sealed.
    fn sealed(&mut self, frame: &mut [u8]) {
        let headroom = self.channel.headroom();
        let packet = &mut frame[headroom..];
        let len = packet.len() as u16;
        packet[..28].fill(0);
        packet[0] = 0x45;
        packet[2..4].copy_from_slice(&len.to_be_bytes());
        packet[6] = 0x40;
        (packet[8], packet[9]) = (64, 17);
        packet[12..16].copy_from_slice(&[10, 8, 0, self.id.get() as u8]);
        packet[16..20].copy_from_slice(&[10, 8, 0, 1]);
        let sum = packet[..20].chunks(2).map(|w| u32::from(u16::from_be_bytes([w[0], w[1]]))).sum::<u32>();
        let sum = !((sum & 0xffff) + (sum >> 16)) as u16;
        packet[10..12].copy_from_slice(&sum.to_be_bytes());
        packet[20..22].copy_from_slice(&4000u16.to_be_bytes());
        packet[22..24].copy_from_slice(&SINK_PORT.to_be_bytes());
        packet[24..26].copy_from_slice(&(len - 20).to_be_bytes());
        self.channel.seal(frame).unwrap();
    }
}

/// Bursts up and down through a worker; all must arrive.
fn bursts(clients: &mut [Client], host: &UdpSocket, frame: &mut [u8], buf: &mut [u8], rounds: usize) {
    for _ in 0..rounds {
        for client in &mut *clients {
            for _ in 0..BURST {
                client.sealed(frame);
                client.socket.send(frame).unwrap();
            }
            for _ in 0..BURST {
                let (len, from) = host.recv_from(buf).unwrap();
                assert_eq!((len, from.port()), (PAYLOAD, 4000));
            }
            let to = SocketAddr::from(([10, 8, 0, client.id.get() as u8], 4000));
            for _ in 0..BURST {
                host.send_to(&buf[..PAYLOAD], to).unwrap();
            }
            for _ in 0..BURST {
                let len = client.socket.recv(buf).unwrap();
                let opened = client.channel.open(&mut buf[..len], tessera_proto::Instant::default()).unwrap();
                assert!(matches!(opened.payload, InBand::Packet(p) if p.len() == 28 + PAYLOAD));
            }
        }
    }
}

fn worker_allocates_nothing(rung: Rung) {
    ip("link set lo up");
    let spec = TunSpec { offload: rung >= Rung::Offload, ..TunSpec::new("tun0") };
    let tun = Tun::open(&spec).unwrap();
    ip("addr add 10.8.0.1/24 dev tun0");
    ip("link set tun0 up");
    let listen = ListenSpec {
        addr: Some([127, 0, 0, 1].into()),
        port: 0,
        family: Family::V4,
        bind_dev: None,
        sndbuf: None,
        rcvbuf: None,
        mark: None,
        gro: rung >= Rung::Offload,
    };
    let mut group = ListenerGroup::open(&listen, 1, 1).unwrap();
    let layout = PeerIdLayout::new(1).unwrap();
    let (to_shard, _from_worker) = mpsc::channel(64);
    let plane = DataPlane::start(DataPlaneSetup {
        layout,
        steering: Steering::new(layout, Vec::new(), None, None),
        sockets: vec![std::mem::take(&mut group.worker_sockets)],
        listeners: Vec::new(),
        streams: StreamOptions::new(&Config::default()),
        share: None,
        offloads: tun.offloads,
        tun: tun.queues,
        rung,
        cpus: Vec::new(),
        room: 2048,
        shards: vec![to_shard],
        client_to_client: false,
        mssfix: MssFix::Mtu(1492),
        passtos: true,
        max_routes: 100,
    })
    .unwrap();
    let host = UdpSocket::bind(("10.8.0.1", SINK_PORT)).unwrap();
    host.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    let mut clients = [2, 3].map(|number| Client::join(&plane, number, group.local));
    let (mut frame, mut buf) = (vec![0; clients[0].channel.headroom() + 28 + PAYLOAD], vec![0; 4096]);
    bursts(&mut clients, &host, &mut frame, &mut buf, 20);
    let before = ALLOCATIONS.load(Ordering::Relaxed);
    assert!(before > 0, "the counter counts");
    bursts(&mut clients, &host, &mut frame, &mut buf, 50);
    let allocated = ALLOCATIONS.load(Ordering::Relaxed) - before;
    assert_eq!(allocated, 0, "{rung}: allocations for {} packets", 50 * 2 * 2 * BURST);
}

#[test]
fn a_worker_allocates_nothing_per_packet_on_any_rung() {
    for rung in [Rung::Basic, Rung::Offload] {
        // The namespace, and the device in it, go away with the thread and the plane.
        let thread = std::thread::spawn(move || {
            nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
            worker_allocates_nothing(rung);
        });
        thread.join().unwrap();
    }
}
