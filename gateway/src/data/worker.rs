//! One data worker: a thread that alone owns its sockets, its TUN queue, and its peers' keys, counters and windows.
//!
//! ```text
//!  UDP sockets ──▶ open in place ──▶ source check ──▶ MSS ──▶ merge ──▶ TUN queue        (uplink)
//!  TCP connections ──▶ the same
//!  TUN queue ──▶ route ──▶ split and seal in the send queue ──▶ UDP socket               (downlink)
//!  shards' messages ──▶ peers and keys      clock ──▶ pings, silence, worn keys          (messages, upkeep)
//! ```
//!
//! Nothing here locks, allocates per packet, logs or blocks. A turn has a budget for each source, so that none starves
//! the others.

use std::io;
use std::net::{TcpListener, UdpSocket};
use std::ops::AddAssign;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::mpsc::Receiver;
use std::time::Duration;

use nix::sched::{CpuSet, sched_setaffinity};
use nix::sys::prctl::set_timerslack;
use nix::unistd::Pid;
use tessera_ebpf_common::PeerIdLayout;
use tessera_offload::Offloads;
use tessera_proto::{Instant, Now};
use tokio::sync::mpsc::Sender;

use super::Rung;
use super::counters::WorkerCounters;
use super::handover::{Handover, Kind};
use super::message::{FromWorker, ToWorker, Via};
use super::pace::Pace;
use super::readiness::Readiness;
use super::state::State;
use super::streams::{StreamCounters, StreamEvent, StreamIntake, StreamOptions, Streams};
use super::uplink::Origin;
use super::waker::Waker;
use crate::clock;
use crate::config::MssFix;
use crate::net::tun::{MAX_READ, TunQueue};
use crate::net::{RecvBatch, ShareHandle, receive_fill};

/// Datagrams of one socket after which the other sources get their turn (up to one more batch is taken): about half a
/// millisecond of work.
const UPLINK_BUDGET: usize = 512;
/// Datagrams of one socket in one turn, those that are dropped at once included: a flood must be read to be dropped.
const UPLINK_READ: usize = 8 * UPLINK_BUDGET;
/// Bytes read from the TUN in one turn, for the same reason; one more super-packet may be taken.
const DOWNLINK_BUDGET: usize = 512 * 1024;
/// Packets read from the TUN in one turn: small ones cost as much as large ones.
const DOWNLINK_PACKETS: usize = 512;
/// Packets of TCP connections in one turn, likewise.
const STREAM_BUDGET: usize = 512;
/// A receive buffer that is so full calls for shares. Bursts, and pauses when the machine gives the core to somebody else, fill
/// less of it.
const PRESSED_PERCENT: u32 = 40;
/// Turns in a row that leave packets in the TUN, whose queue does not say how full it is: a burst of full super-packets is
/// taken in as many.
const BEHIND: u32 = 8;
/// Parcels of other workers in one turn.
const PARCEL_BUDGET: usize = 256;
/// How often peers are looked through for pings and silence; both are set in seconds.
const TICK: Duration = Duration::from_secs(1);
/// How exactly the kernel keeps naps; its default would double the shortest.
const TIMER_SLACK_NS: u64 = 1_000;

/// What a worker is started with.
#[derive(Debug)]
pub struct WorkerSetup {
    /// Its number, and how peer-ids name workers.
    pub index: usize,
    /// Likewise.
    pub layout: PeerIdLayout,
    /// How packets are carried.
    pub rung: Rung,
    /// One socket for each UDP listener; with GRO enabled from rung `offload` on.
    pub sockets: Vec<UdpSocket>,
    /// One socket for each TCP listener.
    pub listeners: Vec<TcpListener>,
    /// How its connections are treated.
    pub streams: StreamOptions,
    /// Where connections go that are no client's (`port-share`).
    pub share: Option<ShareHandle>,
    /// Its queue; `None` with `dev null`.
    pub tun: Option<TunQueue>,
    /// What the TUN takes and gives.
    pub offloads: Offloads,
    /// Longest datagram that is taken without GRO.
    pub room: usize,
    /// The CPU that it is bound to.
    pub cpu: Option<usize>,
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
    /// Copy the TOS of inner packets.
    pub passtos: bool,
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
    intake: StreamIntake,
    /// A packet from the TUN, or from another worker.
    scratch: Box<[u8]>,
    ready: Readiness,
    cpu: Option<usize>,
    state: State,
}

impl Worker {
    /// Sets up everything that a turn needs; turns allocate nothing.
    ///
    /// # Errors
    /// When the process may not open another file.
    pub(super) fn new(mut setup: WorkerSetup, handover: Handover) -> io::Result<Self> {
        let tun = setup.tun.as_ref().map(AsFd::as_fd);
        let listeners = std::mem::take(&mut setup.listeners).into_iter().enumerate().collect();
        let streams = Streams::new(listeners, setup.streams)?;
        let intake = StreamIntake::new(&streams).map_err(|_| io::ErrorKind::InvalidInput)?;
        let sources = setup.sockets.iter().map(AsFd::as_fd).chain(tun);
        let sources = sources.chain([streams.as_fd()]);
        let ready = Readiness::new(sources, setup.sockets.len(), setup.waker.as_fd())?;
        let recv = if setup.rung == Rung::Basic { RecvBatch::new(setup.room) } else { RecvBatch::with_gro() };
        let scratch = vec![0; MAX_READ].into();
        let cpu = setup.cpu;
        Ok(Self { recv, intake, scratch, ready, cpu, state: State::new(setup, streams, handover) })
    }

    /// What its connections have seen.
    pub(super) fn stream_counters(&self) -> Arc<StreamCounters> {
        self.state.egress.streams.counters()
    }

    /// Works until it is told to stop, or until nobody is left to tell it.
    pub(super) fn run(mut self) {
        // Without it naps are longer, and nothing else changes.
        let _ = set_timerslack(TIMER_SLACK_NS);
        if let Some(cpu) = self.cpu {
            // The daemon has looked that it may be used; where the right is gone since, the kernel moves the thread.
            let mut set = CpuSet::new();
            let _ = set.set(cpu).and_then(|()| sched_setaffinity(Pid::from_raw(0), &set));
        }
        let (mut turn, mut up, mut down) = (Turn::default(), Turn::default(), Turn::default());
        let (mut next_tick, mut behind) = (Instant::default(), 0u32);
        let mut now = clock::read();
        let mut pace = Pace::new(now.mono);
        loop {
            let nap = pace.after(turn.packets, now.mono);
            match nap {
                _ if turn.more => {}
                // Right after packets more are likely; when a nap brought none, they have stopped.
                Some(nap) if turn.packets > 0 => std::thread::sleep(nap),
                _ => {
                    let now = clock::read().mono;
                    self.ready.wait(next_tick.since_epoch().saturating_sub(now.since_epoch()));
                }
            }
            now = clock::read();
            if !self.state.handle_messages(now) {
                return;
            }
            self.state.up.begin(up.more && self.queues_fill());
            behind = if down.more { behind + 1 } else { 0 };
            self.state.down.begin(behind >= BEHIND);
            up = self.uplink(now);
            up += self.streams(now);
            down = self.downlink(now.mono);
            turn = up;
            turn += down;
            turn += self.parcels(now);
            if next_tick <= now.mono {
                next_tick = now.mono + TICK;
                self.state.tick(now.mono);
            }
            self.flush(now.mono);
            // What broke while it was written to is told at once.
            turn.more |= self.state.egress.streams.has_closed();
            self.state.handover.wake();
        }
    }

    /// From the sockets to the TUN.
    fn uplink(&mut self, now: Now) -> Turn {
        let mut turn = Turn::default();
        for listener in 0..self.state.egress.links.len() {
            let (mut read, dropped) = (0, self.state.counters.uplink_over_share.read());
            loop {
                let most = self.recv.most();
                let got = self.recv.recv(self.state.egress.links[listener].socket.as_fd()).unwrap_or(0);
                for index in 0..got {
                    let Some(train) = self.recv.train(index) else { continue };
                    read += self.state.handle_train(listener, &train, self.recv.bytes_mut(), now);
                }
                self.state.write_merged(self.recv.bytes_mut(), now.mono);
                if got < most {
                    break;
                }
                let dropped = self.state.counters.uplink_over_share.read() - dropped;
                if read >= UPLINK_BUDGET + dropped as usize || read >= UPLINK_READ {
                    turn.more = true;
                    break;
                }
            }
            turn.packets += read;
        }
        turn
    }

    /// Whether datagrams come faster than they are handled: some queue in the kernel is about to overflow.
    fn queues_fill(&self) -> bool {
        let mut links = self.state.egress.links.iter();
        links.any(|link| receive_fill(link.socket.as_fd()).is_ok_and(|percent| percent >= PRESSED_PERCENT))
    }

    /// From TCP connections to the TUN.
    fn streams(&mut self, now: Now) -> Turn {
        let mut packets = 0;
        let worker = self.state.index;
        self.intake.poll(&mut self.state.egress.streams, now.mono, STREAM_BUDGET);
        while let Some(event) = self.intake.next(&mut self.state.egress.streams, now.mono) {
            match event {
                StreamEvent::Frame { id, path, bytes, .. } => {
                    packets += 1;
                    let from = Origin { via: Via::Stream { worker, id }, path: &path };
                    let whole = 0..bytes.len();
                    self.state.handle_datagram(from, bytes, whole, now);
                    self.state.write_merged(bytes, now.mono);
                }
                StreamEvent::Closed { id, why, spoke: true, .. } => {
                    self.state.tell_closed(id, why);
                }
                StreamEvent::Closed { .. } => {}
                StreamEvent::Foreign { stream, first, .. } => {
                    if let Some(share) = &self.state.share {
                        share.hand_over(stream, first);
                    }
                }
            }
        }
        Turn { packets, more: self.intake.has_more() }
    }

    /// From the TUN to the sockets.
    fn downlink(&mut self, now: Instant) -> Turn {
        let (mut packets, mut bytes) = (0, 0);
        while bytes < DOWNLINK_BUDGET && packets < DOWNLINK_PACKETS {
            let Some(tun) = &self.state.tun else { break };
            let Ok((header, at)) = tun.read(&mut self.scratch) else {
                return Turn { packets, more: false };
            };
            packets += 1;
            bytes += at.len();
            self.state.route(header, &self.scratch[at], now);
        }
        Turn { packets, more: packets > 0 }
    }

    /// Packets that other workers handed over.
    fn parcels(&mut self, now: Now) -> Turn {
        for packets in 0..PARCEL_BUDGET {
            let Some((kind, len)) = self.state.handover.receive(&mut self.scratch) else {
                return Turn { packets, more: false };
            };
            match kind {
                Kind::Sealed { via, path } => {
                    let from = Origin { via, path: &path };
                    self.state.handle_datagram(from, &mut self.scratch, 0..len, now);
                    self.state.write_merged(&mut self.scratch, now.mono);
                }
                Kind::Plain(id, header) => self.state.seal(id, header, &self.scratch[..len], now.mono),
            }
        }
        Turn { packets: PARCEL_BUDGET, more: true }
    }

    /// Sends what is queued. What the kernel cannot take now stays queued in order, and the turn comes back for it.
    fn flush(&mut self, now: Instant) {
        for (index, link) in self.state.egress.links.iter_mut().enumerate() {
            let left = link.flush(now);
            self.ready.want_room(index, link.socket.as_fd(), left > 0);
        }
        self.state.egress.streams.flush(now);
    }
}
