//! One data worker: a thread that alone owns its sockets, its TUN queue, and its peers' keys, counters and windows.
//!
//! ```text
//!  UDP sockets ──▶ open in place ──▶ source check ──▶ MSS ──▶ TUN queue
//!  TUN queue ──▶ route ──▶ MSS ──▶ seal in the send slot ──▶ UDP socket
//!  messages ──▶ peers and keys      clock ──▶ pings, silence, worn keys
//! ```
//!
//! Nothing here locks, allocates per packet, logs or blocks. A turn has a budget for each source, so that none starves
//! the others.

use std::io;
use std::net::UdpSocket;
use std::ops::AddAssign;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, TryRecvError};
use std::time::Duration;

use nix::sys::prctl::set_timerslack;
use tessera_ebpf_common::PeerIdLayout;
use tessera_proto::data::{InBand, OpenError, PING};
use tessera_proto::{Instant, Now};
use tessera_wire::{PeerId, data, ip};
use tokio::sync::mpsc::Sender;
use tokio::sync::mpsc::error::TrySendError;

use super::counters::WorkerCounters;
use super::handover::{Handover, Kind};
use super::message::{FromWorker, PeerStats, ToWorker};
use super::mssfix;
use super::peer::{Peer, Peers};
use super::readiness::Readiness;
use super::waker::Waker;
use crate::clock;
use crate::config::MssFix;
use crate::net::batch::{BATCH, SLOT_LEN};
use crate::net::tun::TunQueue;
use crate::net::{Path, RecvBatch, SendBatch};
use crate::routes::RouteTable;

/// Messages of shards that are handled in one turn.
const MESSAGE_BUDGET: usize = 256;
/// Batches of one socket in one turn: four batches are 256 datagrams, and then the other direction gets its turn.
const BATCH_BUDGET: usize = 4;
/// Packets from the TUN in one turn, likewise.
const TUN_BUDGET: usize = 256;
/// Parcels of other workers in one turn.
const PARCEL_BUDGET: usize = 256;
/// How often peers are looked through for pings and silence; both are set in seconds.
const TICK: Duration = Duration::from_secs(1);
/// After a turn that moved packets the thread looks again after so long, instead of asking to be woken by the next
/// packet: waking costs the sender and us more than the packet itself, and the pause lets a batch gather. It is the most
/// that a packet waits because of it.
const NAP: Duration = Duration::from_micros(50);
/// How exactly the kernel keeps that; its default would double it.
const TIMER_SLACK_NS: u64 = 1_000;
/// Room in front of a packet that is read from the TUN; what most peers need.
const HEADROOM: usize = data::OVERHEAD;

/// What a worker is started with.
#[derive(Debug)]
pub struct WorkerSetup {
    /// Its number, and how peer-ids name workers.
    pub index: usize,
    /// Likewise.
    pub layout: PeerIdLayout,
    /// One socket for each listener.
    pub sockets: Vec<UdpSocket>,
    /// Its queue; `None` with `dev null`.
    pub tun: Option<TunQueue>,
    /// What shards say.
    pub messages: Receiver<ToWorker>,
    /// Where shards listen, by number.
    pub shards: Vec<Sender<FromWorker>>,
    /// Its own waker.
    pub waker: Waker,
    /// Switch packets between clients here.
    pub client_to_client: bool,
    /// Clamping of TCP.
    pub mssfix: MssFix,
    /// Most routes.
    pub max_routes: usize,
    /// What it counts.
    pub counters: Arc<WorkerCounters>,
}

/// What a source had in one turn.
#[derive(Debug, Clone, Copy, Default)]
struct Turn {
    packets: usize,
    /// The budget was used up: there may be more.
    more: bool,
}

impl AddAssign for Turn {
    fn add_assign(&mut self, other: Self) {
        self.packets += other.packets;
        self.more |= other.more;
    }
}

/// A running worker: what fills, and what acts on it.
pub(super) struct Worker {
    recv: RecvBatch,
    ready: Readiness,
    core: Core,
}

/// Everything but the receive buffers, so that a packet in them can be acted on.
struct Core {
    index: usize,
    layout: PeerIdLayout,
    sockets: Vec<UdpSocket>,
    tun: Option<TunQueue>,
    messages: Receiver<ToWorker>,
    shards: Vec<Sender<FromWorker>>,
    waker: Waker,
    client_to_client: bool,
    mssfix: MssFix,
    counters: Arc<WorkerCounters>,
    peers: Peers,
    routes: RouteTable,
    handover: Handover,
    /// One for each listener.
    send: Vec<SendBatch>,
    /// A TUN packet whose peer is not known yet.
    scratch: Box<[u8; SLOT_LEN]>,
    /// Messages that must not be lost and did not fit a shard's queue; bounded by the number of peers.
    backlog: Vec<(usize, FromWorker)>,
}

impl Worker {
    /// Sets up everything that a turn needs; turns allocate nothing.
    ///
    /// # Errors
    /// When the process may not open another file.
    pub(super) fn new(setup: WorkerSetup, handover: Handover) -> io::Result<Self> {
        let tun = setup.tun.as_ref().map(AsFd::as_fd);
        let sources = setup.sockets.iter().map(AsFd::as_fd).chain(tun).chain([setup.waker.as_fd()]);
        let ready = Readiness::new(sources, setup.sockets.len())?;
        let core = Core {
            send: setup.sockets.iter().map(|_| SendBatch::new()).collect(),
            peers: Peers::new(setup.layout),
            routes: RouteTable::new(setup.max_routes),
            scratch: Box::new([0; SLOT_LEN]),
            backlog: Vec::new(),
            handover,
            index: setup.index,
            layout: setup.layout,
            sockets: setup.sockets,
            tun: setup.tun,
            messages: setup.messages,
            shards: setup.shards,
            waker: setup.waker,
            client_to_client: setup.client_to_client,
            mssfix: setup.mssfix,
            counters: setup.counters,
        };
        Ok(Self { recv: RecvBatch::new(), ready, core })
    }

    /// Works until it is told to stop, or until nobody is left to tell it.
    pub(super) fn run(mut self) {
        // Without it naps are longer, and nothing else changes.
        let _ = set_timerslack(TIMER_SLACK_NS);
        let (mut turn, mut next_tick) = (Turn::default(), Instant::default());
        loop {
            if turn.packets > 0 && !turn.more {
                std::thread::sleep(NAP);
            } else if !turn.more {
                let now = clock::read().mono;
                self.ready.wait(next_tick.since_epoch().saturating_sub(now.since_epoch()));
            }
            let now = clock::read();
            if !self.core.handle_messages(now.mono) {
                return;
            }
            turn = self.uplink(now);
            turn += self.core.downlink(now.mono);
            turn += self.core.parcels(now);
            if next_tick <= now.mono {
                next_tick = now.mono + TICK;
                self.core.tick(now.mono);
            }
            self.flush();
            self.core.handover.wake();
        }
    }

    /// From the sockets to the TUN.
    fn uplink(&mut self, now: Now) -> Turn {
        let mut turn = Turn::default();
        for listener in 0..self.core.sockets.len() {
            for batch in 0..BATCH_BUDGET {
                let got = self.recv.recv(self.core.sockets[listener].as_fd()).unwrap_or(0);
                for (datagram, path) in self.recv.packets() {
                    self.core.handle_datagram(listener, path, datagram, now);
                }
                turn.packets += got;
                if got < BATCH {
                    break;
                }
                turn.more |= batch + 1 == BATCH_BUDGET;
            }
        }
        turn
    }

    /// Sends what is queued. What the kernel cannot take now stays queued in order, and the turn comes back for it.
    fn flush(&mut self) {
        for (index, (socket, batch)) in self.core.sockets.iter().zip(&mut self.core.send).enumerate() {
            let left = batch.flush(socket.as_fd()).unwrap_or_else(|_| batch.clear());
            self.ready.want_room(index, socket.as_fd(), left > 0);
        }
    }
}

impl Core {
    fn handle_messages(&mut self, now: Instant) -> bool {
        self.waker.clear();
        for _ in 0..MESSAGE_BUDGET {
            match self.messages.try_recv() {
                Ok(ToWorker::Stop) | Err(TryRecvError::Disconnected) => return false,
                Ok(message) => self.handle_message(message, now),
                Err(TryRecvError::Empty) => return true,
            }
        }
        // More may wait: come back at once after the packets had their turn.
        self.waker.wake();
        true
    }

    fn handle_message(&mut self, message: ToWorker, now: Instant) {
        match message {
            ToWorker::Add(spec) => self.peers.insert(Peer::new(*spec, self.mssfix, now)),
            ToWorker::InstallKey(id, key) => {
                if let Some(peer) = self.peers.lookup(id) {
                    peer.install(*key);
                }
            }
            ToWorker::PromoteKey(id, key_id) => {
                if let Some(peer) = self.peers.lookup(id) {
                    peer.channel.promote(key_id);
                }
            }
            ToWorker::RetireKey(id, key_id) => {
                if let Some(peer) = self.peers.lookup(id) {
                    peer.channel.retire(key_id);
                }
            }
            ToWorker::SetPath(id, path) => {
                let mssfix = self.mssfix;
                if let Some(peer) = self.peers.lookup(id) {
                    peer.set_path(path, mssfix);
                }
            }
            ToWorker::Remove { id, generation } => {
                if let Some(peer) = self.peers.remove(id, generation) {
                    let stats: PeerStats = peer.stats;
                    self.tell(peer.spec.shard, FromWorker::Removed { id, generation, stats });
                }
            }
            ToWorker::Stats(id, reply) => {
                if let Some(peer) = self.peers.lookup(id) {
                    // Whoever asked may have given up waiting.
                    let _ = reply.send(peer.stats);
                }
            }
            ToWorker::AddRoute(prefix, id) => {
                // The directory has refused conflicts already; a second answer here changes nothing.
                let _ = self.routes.insert(prefix, id);
            }
            ToWorker::RemoveRoutes(id) => {
                self.routes.remove_owner(id);
            }
            ToWorker::Datagram { listener, path, mut bytes } => {
                let now = clock::read();
                self.handle_datagram(listener, path, &mut bytes, now);
            }
            ToWorker::Stop => {}
        }
    }

    #[inline]
    fn handle_datagram(&mut self, listener: usize, path: Path, datagram: &mut [u8], now: Now) {
        let Some(id) = data::peer_id_of(datagram) else {
            return self.pass_control(listener, path, datagram);
        };
        let owner = self.layout.worker_of(id) as usize;
        if owner != self.index {
            let sent = self.handover.send(owner, Kind::Sealed { listener, path }, datagram);
            return self.count_handover(sent);
        }
        let Some(peer) = self.peers.lookup(id) else {
            return self.counters.unknown_peer.add(1);
        };
        peer.stats.received += datagram.len() as u64;
        let opened = match peer.channel.open(datagram, now.mono) {
            Ok(opened) => opened,
            Err(error) => return self.counters.count_refused(error),
        };
        peer.last_received = now.mono;
        let (newest, pending) = (opened.newest, opened.with_pending_key);
        let event = match opened.payload {
            InBand::Packet(packet) => {
                peer.moved += packet.len() as u64;
                if let Some(mss) = peer.mss {
                    mssfix::clamp(packet, mss);
                }
                forward(
                    &mut Egress {
                        index: self.index,
                        layout: self.layout,
                        routes: &self.routes,
                        handover: &mut self.handover,
                        tun: self.tun.as_ref(),
                        counters: &self.counters,
                        client_to_client: self.client_to_client,
                    },
                    id,
                    packet,
                    &mut self.scratch,
                )
            }
            InBand::Exit => {
                return self.tell_about(id, FromWorker::Exit(id));
            }
            InBand::Ping | InBand::Occ(_) => Local::No,
        };
        if let Some(peer) = self.peers.lookup(id) {
            if pending && let Some(header) = data::Header::parse(datagram) {
                // The peer has the new key for certain: it sealed with it.
                peer.channel.promote(header.key_id);
            }
            if newest && peer.wants_to_move(&path, now.mono) {
                let shard = peer.spec.shard;
                self.tell(shard, FromWorker::Moved { id, path });
            }
        }
        if let Local::To(dst, len) = event {
            self.send_scratch(dst, len, now.mono);
        }
    }

    fn pass_control(&mut self, listener: usize, path: Path, datagram: &[u8]) {
        let Some(last) = datagram.get(8) else {
            return self.counters.malformed.add(1);
        };
        let shard = usize::from(*last) % self.shards.len().max(1);
        let Some(queue) = self.shards.get(shard) else {
            return;
        };
        // Copying is paid only for a packet that has a place.
        match queue.try_reserve() {
            Ok(place) => {
                self.counters.control_passed.add(1);
                place.send(FromWorker::Control { listener, path, bytes: datagram.to_vec() });
            }
            Err(_) => self.counters.shard_full.add(1),
        }
    }

    /// From the TUN to the sockets.
    fn downlink(&mut self, now: Instant) -> Turn {
        for packets in 0..TUN_BUDGET {
            let Some(tun) = &self.tun else { return Turn::default() };
            let Ok(len) = tun.read(&mut self.scratch[HEADROOM..]) else {
                return Turn { packets, more: false };
            };
            let Some(packet) = self.scratch.get(HEADROOM..HEADROOM + len) else {
                continue;
            };
            let Some(addresses) = ip::addresses(packet) else {
                self.counters.malformed.add(1);
                continue;
            };
            let Some(id) = self.routes.lookup(addresses.dst) else {
                self.counters.no_route.add(1);
                continue;
            };
            let owner = self.layout.worker_of(id) as usize;
            if owner == self.index {
                self.send_scratch(id, len, now);
            } else {
                let sent = self.handover.send(owner, Kind::Plain(id), packet);
                self.count_handover(sent);
            }
        }
        Turn { packets: TUN_BUDGET, more: true }
    }

    /// Packets that other workers handed over.
    fn parcels(&mut self, now: Now) -> Turn {
        for packets in 0..PARCEL_BUDGET {
            let Some(mut parcel) = self.handover.receive() else {
                return Turn { packets, more: false };
            };
            match parcel.kind {
                Kind::Sealed { listener, path } => {
                    self.handle_datagram(listener, path, parcel.bytes_mut(), now);
                }
                Kind::Plain(id) => {
                    let packet = parcel.bytes_mut();
                    if let Some(place) = self.scratch.get_mut(HEADROOM..HEADROOM + packet.len()) {
                        place.copy_from_slice(packet);
                        let len = packet.len();
                        self.send_scratch(id, len, now.mono);
                    }
                }
            }
        }
        Turn { packets: PARCEL_BUDGET, more: true }
    }

    /// Seals the `len` bytes behind the head room of the scratch buffer for a peer of this worker.
    fn send_scratch(&mut self, id: PeerId, len: usize, now: Instant) {
        let Some(peer) = self.peers.lookup(id) else {
            return self.counters.unknown_peer.add(1);
        };
        let packet = &mut self.scratch[HEADROOM..HEADROOM + len];
        if let Some(mss) = peer.mss {
            mssfix::clamp(packet, mss);
        }
        peer.moved += len as u64;
        let Some(batch) = self.send.get_mut(peer.spec.listener) else {
            return;
        };
        if batch.is_full()
            && let Some(socket) = self.sockets.get(peer.spec.listener)
        {
            let _ = batch.flush(socket.as_fd());
        }
        if seal_into(batch, peer, packet) {
            self.counters.downlink_packets.add(1);
            self.counters.downlink_bytes.add(len as u64);
            peer.last_sent = now;
        } else {
            self.counters.no_key.add(1);
        }
    }

    /// Pings, silence, and keys that are worn.
    fn tick(&mut self, now: Instant) {
        for (shard, message) in std::mem::take(&mut self.backlog) {
            self.tell(shard, message);
        }
        for peer in self.peers.iter_mut() {
            let (id, shard) = (peer.spec.id, peer.spec.shard);
            let queue = self.shards.get(shard);
            let tell =
                |message| queue.is_some_and(|queue: &Sender<FromWorker>| queue.try_send(message).is_ok());
            if peer.spec.ping_restart.is_some_and(|limit| now.saturating_since(peer.last_received) >= limit) {
                // Repeated until the shard has room for it.
                peer.reported_gone = peer.reported_gone || tell(FromWorker::Silent(id));
            }
            if let Some((period, least)) = peer.spec.inactive
                && now.saturating_since(peer.inactive_since) >= period
            {
                if peer.moved <= least {
                    peer.reported_gone = peer.reported_gone || tell(FromWorker::Inactive(id));
                }
                (peer.moved, peer.inactive_since) = (0, now);
            }
            if !peer.reported_worn && peer.is_worn() {
                peer.reported_worn = tell(FromWorker::RenegotiationDue(id));
            }
            if peer.spec.ping.is_some_and(|every| now.saturating_since(peer.last_sent) >= every)
                && let Some(batch) = self.send.get_mut(peer.spec.listener)
            {
                if batch.is_full()
                    && let Some(socket) = self.sockets.get(peer.spec.listener)
                {
                    let _ = batch.flush(socket.as_fd());
                }
                if seal_into(batch, peer, &PING) {
                    peer.last_sent = now;
                }
            }
        }
    }

    fn tell_about(&mut self, id: PeerId, message: FromWorker) {
        if let Some(peer) = self.peers.lookup(id) {
            let shard = peer.spec.shard;
            self.tell(shard, message);
        }
    }

    fn tell(&mut self, shard: usize, message: FromWorker) {
        let Some(queue) = self.shards.get(shard) else {
            return;
        };
        if let Err(TrySendError::Full(message)) = queue.try_send(message) {
            self.counters.shard_full.add(1);
            if matches!(message, FromWorker::Removed { .. } | FromWorker::Exit(_)) {
                self.backlog.push((shard, message));
            }
        }
    }

    fn count_handover(&self, sent: bool) {
        if sent {
            self.counters.handed_over.add(1);
        } else {
            self.counters.handover_full.add(1);
        }
    }
}

/// Where an inner packet of a client can go.
struct Egress<'a> {
    index: usize,
    layout: PeerIdLayout,
    routes: &'a RouteTable,
    handover: &'a mut Handover,
    tun: Option<&'a TunQueue>,
    counters: &'a WorkerCounters,
    client_to_client: bool,
}

/// What is left to do after [`forward`].
enum Local {
    No,
    /// The scratch buffer holds so many bytes for another peer of this worker.
    To(PeerId, usize),
}

/// Checks the source of an inner packet and sends it on.
#[inline]
fn forward(egress: &mut Egress<'_>, from: PeerId, packet: &[u8], scratch: &mut [u8; SLOT_LEN]) -> Local {
    let Some(addresses) = ip::addresses(packet) else {
        egress.counters.malformed.add(1);
        return Local::No;
    };
    if !egress.routes.owner_allows(from, addresses.src) {
        egress.counters.spoofed.add(1);
        return Local::No;
    }
    egress.counters.uplink_packets.add(1);
    egress.counters.uplink_bytes.add(packet.len() as u64);
    if egress.client_to_client
        && let Some(to) = egress.routes.lookup(addresses.dst)
        && to != from
    {
        let owner = egress.layout.worker_of(to) as usize;
        if owner == egress.index {
            let Some(place) = scratch.get_mut(HEADROOM..HEADROOM + packet.len()) else {
                return Local::No;
            };
            place.copy_from_slice(packet);
            return Local::To(to, packet.len());
        }
        if egress.handover.send(owner, Kind::Plain(to), packet) {
            egress.counters.handed_over.add(1);
        } else {
            egress.counters.handover_full.add(1);
        }
        return Local::No;
    }
    if let Some(tun) = egress.tun
        && tun.write(packet).is_err()
    {
        egress.counters.tun_refused.add(1);
    }
    Local::No
}

/// Seals a packet into the next free slot. False when there is no slot, no room, or no key.
#[inline]
fn seal_into(batch: &mut SendBatch, peer: &mut Peer, packet: &[u8]) -> bool {
    let headroom = peer.channel.headroom();
    let len = headroom + packet.len();
    let Some(slot) = batch.slot() else { return false };
    let Some(frame) = slot.get_mut(..len) else {
        return false;
    };
    frame[headroom..].copy_from_slice(packet);
    if peer.channel.seal(frame).is_err() || !batch.commit(len, &peer.spec.path) {
        return false;
    }
    peer.stats.sent += len as u64;
    true
}

impl WorkerCounters {
    fn count_refused(&self, error: OpenError) {
        match error {
            OpenError::BadTag | OpenError::ForgeryLimit => self.bad_tag.add(1),
            OpenError::Compressed | OpenError::Malformed => self.malformed.add(1),
            OpenError::Replay(_) => self.replayed.add(1),
            OpenError::UnknownKey => self.unknown_key.add(1),
        }
    }
}
