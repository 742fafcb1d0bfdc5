//! The clients' thread: logs peers in, keeps their sessions, and counts what the server sends them.

use super::DataError;
use super::count::{Arrived, Ids};
use super::packet;
use super::peer::{Peer, State};
use super::phase::{Phase, Shared, Watch};
use super::receive::{Inbox, NAP};
use super::sys;
use crate::clock;
use crate::engine::Target;
use crate::timers::Timers;
use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::Duration;
use tessera_proto::data::{InBand, OpenError};
use tessera_proto::{Instant, TlsError};
use tessera_wire::data::{Header, OVERHEAD};
use tessera_wire::{Opcode, OpcodeByte};

/// Logins that begin in one turn: those under way go on meanwhile.
const STARTS_PER_TURN: usize = 8;
/// A peer whose login failed tries again so often: with thousands at a time, one may be unlucky.
const ATTEMPTS: u8 = 3;
/// Reads of one socket in a row.
const READS_PER_TURN: usize = 16;
/// Ready sockets taken at a time.
const MAX_EVENTS: usize = 256;
/// The thread looks around this often.
const TURN_MS: u64 = 20;
/// One packet in so many is opened, to prove that they are what they should be.
const SAMPLE_EVERY: u64 = 1024;
/// A sealed keep-alive, with framing, is no longer.
const LONGEST_PING: usize = OVERHEAD + 1 + 16;
/// How long acknowledgements of goodbyes are waited for.
const LEAVE_LIMIT: Duration = Duration::from_secs(3);
/// All receive buffers together, and the least and most of each.
const BUFFERS: usize = 512 << 20;
const LEAST_BUFFER: usize = 256 << 10;
const MOST_BUFFER: usize = 32 << 20;
/// A few trains may wait in a socket.
const SEND_BUFFER: usize = 1 << 20;

/// The peers and the thread's state.
#[derive(Debug)]
pub struct Clients {
    epoll: Epoll,
    server: SocketAddr,
    peers: Vec<Peer>,
    timers: Timers,
    ids: Vec<Ids>,
    /// Taken out while it is read from.
    inbox: Option<Inbox>,
    scratch: Vec<u8>,
    /// Slots whose state may have changed in the last turn; used while peers come and go.
    touched: Vec<usize>,
    seen: u64,
    /// Data has arrived in the last turn.
    busy: bool,
    drops_before: u64,
    cpu: Duration,
    arrived: Arrived,
}

impl Clients {
    /// None yet. Sockets will belong to the calling thread's namespace.
    ///
    /// # Errors
    /// When there is no epoll.
    pub fn new(server: SocketAddr) -> Result<Self, DataError> {
        Ok(Self {
            epoll: Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)
                .map_err(|error| DataError::io("epoll")(error.into()))?,
            server,
            peers: Vec::new(),
            timers: Timers::default(),
            ids: Vec::new(),
            inbox: Some(Inbox::default()),
            scratch: Vec::new(),
            touched: Vec::new(),
            seen: 0,
            busy: false,
            drops_before: 0,
            cpu: Duration::ZERO,
            arrived: Arrived::default(),
        })
    }

    /// The peers.
    pub fn peers(&mut self) -> &mut [Peer] {
        &mut self.peers
    }

    /// Takes the last peer out: somebody else sees to it from now on.
    ///
    /// # Errors
    /// When epoll fails.
    pub fn take_last(&mut self) -> Result<Option<Peer>, DataError> {
        let Some(peer) = self.peers.pop() else { return Ok(None) };
        self.ids.pop();
        self.timers.set(self.peers.len(), None);
        self.epoll.delete(&peer.socket).map_err(|error| DataError::io("epoll")(error.into()))?;
        Ok(Some(peer))
    }

    /// Logs `count` peers in, `concurrency` at a time.
    ///
    /// # Errors
    /// When one of them cannot log in after several attempts, with the reason.
    pub fn log_in(
        &mut self,
        target: &Target,
        count: usize,
        concurrency: usize,
        shared: &Shared,
    ) -> Result<(), DataError> {
        let config = target.clone().into_client_config();
        let mut watch = Watch::new(shared);
        let mut waiting: VecDeque<(usize, u8)> = (0..count).map(|slot| (slot, 1)).collect();
        let mut active: BTreeMap<usize, u8> = BTreeMap::new();
        while !(waiting.is_empty() && active.is_empty()) {
            for _ in 0..STARTS_PER_TURN {
                if active.len() >= concurrency {
                    break;
                }
                let Some((slot, attempt)) = waiting.pop_front() else { break };
                let socket = self.socket(slot, count)?;
                let peer = Peer::start(socket, config.clone(), target.limit, clock::read())
                    .map_err(|error: TlsError| DataError::Login(error.to_string()))?;
                self.put(slot, peer);
                active.insert(slot, attempt);
                self.tend(slot, true);
            }
            self.turn(&mut watch, shared)?;
            if watch.seen() == Phase::Stop {
                return Err(DataError::Login("stopped".to_owned()));
            }
            for slot in self.touched.drain(..) {
                match self.peers.get(slot).map(|peer| &peer.state) {
                    Some(State::In) => {
                        active.remove(&slot);
                    }
                    Some(State::Over(why)) => match active.remove(&slot) {
                        Some(attempt) if attempt < ATTEMPTS => waiting.push_back((slot, attempt + 1)),
                        Some(_) => return Err(DataError::Login(why.clone())),
                        // It was in, and was sent away while others came.
                        None => return Err(DataError::Login(format!("a session ended early: {why}"))),
                    },
                    _ => {}
                }
            }
        }
        Ok(())
    }

    /// Peers with made-up keys, for a sink.
    ///
    /// # Errors
    /// When there are no sockets.
    pub fn make_up(&mut self, count: usize) -> Result<(), DataError> {
        for slot in 0..count {
            let socket = self.socket(slot, count)?;
            self.put(slot, Peer::made_up(socket, u32::try_from(slot).unwrap_or(u32::MAX)));
        }
        Ok(())
    }

    /// Keeps the sessions and counts, until the run stops; then says goodbye.
    ///
    /// # Errors
    /// When the system fails us.
    pub fn keep(mut self, shared: &Shared) -> Result<Arrived, DataError> {
        sys::punctual();
        let mut watch = Watch::new(shared);
        while watch.seen() != Phase::Stop {
            self.turn(&mut watch, shared)?;
            self.touched.clear();
        }
        self.arrived.drops = self.drops()?.saturating_sub(self.drops_before);
        for peer in &self.peers {
            if let State::Over(why) = &peer.state {
                *self.arrived.ended.entry(why.clone()).or_default() += 1;
            }
        }
        self.arrived.by_peer = self.ids.iter().map(|ids| ids.inner).collect();
        self.arrived.reordered = self.ids.iter().map(|ids| ids.reordered).sum();
        self.arrived.id_gaps = self.ids.iter().map(Ids::lost).sum();
        let arrived = std::mem::take(&mut self.arrived);
        self.leave(shared)?;
        Ok(arrived)
    }

    fn leave(&mut self, shared: &Shared) -> Result<(), DataError> {
        for slot in 0..self.peers.len() {
            let now = clock::read();
            if let Some(peer) = self.peers.get_mut(slot) {
                peer.leave(LEAVE_LIMIT, now);
            }
            self.tend(slot, false);
        }
        let end = clock::mono() + LEAVE_LIMIT;
        let mut watch = Watch::new(shared);
        while clock::mono() < end && self.peers.iter().any(|peer| peer.state == State::Leaving) {
            self.turn(&mut watch, shared)?;
            self.touched.clear();
        }
        Ok(())
    }

    fn socket(&self, slot: usize, count: usize) -> Result<Arc<UdpSocket>, DataError> {
        let any: SocketAddr = match self.server {
            SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
            SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
        };
        let make = || {
            let socket = UdpSocket::bind(any)?;
            socket.set_nonblocking(true)?;
            socket.connect(self.server)?;
            self.epoll.add(&socket, EpollEvent::new(EpollFlags::EPOLLIN, slot as u64))?;
            Ok(socket)
        };
        let socket = make().map_err(DataError::io(format!("a socket to {}", self.server)))?;
        let receive = (BUFFERS / count.max(1)).clamp(LEAST_BUFFER, MOST_BUFFER);
        sys::buffers(&socket, receive, SEND_BUFFER)?;
        sys::merge_received(&socket)?;
        Ok(Arc::new(socket))
    }

    fn put(&mut self, slot: usize, peer: Peer) {
        match self.peers.get_mut(slot) {
            // Closing the old socket takes it out of epoll.
            Some(place) => *place = peer,
            None => {
                self.peers.push(peer);
                self.ids.push(Ids::default());
            }
        }
    }

    /// Waits a moment, and does what there is to do.
    fn turn(&mut self, watch: &mut Watch<'_>, shared: &Shared) -> Result<(), DataError> {
        if std::mem::take(&mut self.busy) {
            std::thread::sleep(NAP);
        }
        let turn = Duration::from_millis(TURN_MS);
        let now = clock::read().mono;
        let wait = self.timers.next().map_or(turn, |at| at.saturating_since(now).min(turn));
        // Rounded up: a wait of 0 would spin until the last millisecond is over.
        let wait = u16::try_from(wait.as_micros().div_ceil(1000)).unwrap_or(TURN_MS as u16);
        let mut events = [EpollEvent::empty(); MAX_EVENTS];
        let ready = match self.epoll.wait(&mut events, EpollTimeout::from(wait)) {
            Err(Errno::EINTR) => 0,
            result => result.map_err(|error| DataError::io("epoll")(error.into()))?,
        };
        self.phases(watch)?;
        for event in events.iter().take(ready) {
            let slot = usize::try_from(event.data()).unwrap_or(usize::MAX);
            self.read(slot, watch, shared)?;
        }
        while let Some(slot) = self.timers.expire(clock::read().mono) {
            self.tend(slot, !shared.bank_open());
        }
        Ok(())
    }

    fn phases(&mut self, watch: &mut Watch<'_>) -> Result<(), DataError> {
        while let Some(phase) = watch.begun() {
            match phase {
                Phase::Settle => self.drops_before = self.drops()?,
                Phase::Measure => {
                    self.ids.iter_mut().for_each(Ids::reset);
                    self.arrived = Arrived::default();
                    self.cpu = clock::thread_cpu();
                }
                Phase::Drain => {
                    self.arrived.window = self.arrived.all;
                    self.arrived.cpu_s = clock::thread_cpu().saturating_sub(self.cpu).as_secs_f64();
                }
                Phase::Prepare | Phase::WarmUp | Phase::Stop => {}
            }
        }
        Ok(())
    }

    fn read(&mut self, slot: usize, watch: &mut Watch<'_>, shared: &Shared) -> Result<(), DataError> {
        let Some(socket) = self.peers.get(slot).map(|peer| Arc::clone(&peer.socket)) else { return Ok(()) };
        let mut inbox = self.inbox.take().unwrap_or_default();
        let mut controlled = false;
        for _ in 0..READS_PER_TURN {
            let mut received = match inbox.receive(&socket) {
                Ok(Some(received)) => received,
                Ok(None) => break,
                // What an earlier send met ("port unreachable"): sessions find out by themselves.
                Err(_) => continue,
            };
            self.phases(watch)?;
            let before = self.arrived.all.packets;
            for datagram in received.datagrams() {
                controlled |= self.datagram(slot, datagram);
            }
            let packets = self.arrived.all.packets - before;
            self.arrived.all.batches += u64::from(packets > 0);
            self.busy |= packets > 0;
            shared.arrived(packets);
        }
        self.inbox = Some(inbox);
        if controlled {
            self.tend(slot, !shared.bank_open());
        }
        Ok(())
    }

    /// Counts a data packet; gives control packets to the session, and says so.
    fn datagram(&mut self, slot: usize, datagram: &mut [u8]) -> bool {
        let (Some(peer), Some(ids)) = (self.peers.get_mut(slot), self.ids.get_mut(slot)) else {
            return false;
        };
        let opcode = datagram.first().and_then(|first| OpcodeByte::parse(*first)).map(|op| op.opcode);
        match (opcode, Header::parse(datagram)) {
            (Some(Opcode::DataV2), Some(header)) if header.peer_id == peer.peer_id() => {
                let inner = datagram.len() > LONGEST_PING;
                ids.see(header.key_id, header.packet_id.0, inner);
                if inner {
                    self.arrived.all.packets += 1;
                    self.arrived.all.bytes += datagram.len().saturating_sub(peer.headroom()) as u64;
                    if self.seen.is_multiple_of(SAMPLE_EVERY) {
                        self.sample(slot, datagram);
                    }
                    self.seen += 1;
                }
                false
            }
            (Some(Opcode::DataV1 | Opcode::DataV2) | None, _) => {
                self.arrived.strays += 1;
                false
            }
            _ => {
                peer.control(datagram, clock::read());
                true
            }
        }
    }

    /// Opens a packet and looks at every byte.
    fn sample(&mut self, slot: usize, datagram: &[u8]) {
        let Some(peer) = self.peers.get_mut(slot) else { return };
        self.scratch.clear();
        self.scratch.extend_from_slice(datagram);
        let address = peer.address.map(|address| address.octets());
        let good = match peer.open(&mut self.scratch, clock::read()) {
            Ok(opened) => match opened.payload {
                InBand::Packet(inner) => packet::verify(inner).is_ok_and(|(to, payload)| {
                    Some(to) == address && payload.stream as usize % self.ids.len() == slot
                }),
                _ => false,
            },
            // Late, after another sample: nothing is wrong with it.
            Err(OpenError::Replay(_)) => return,
            Err(_) => false,
        };
        self.arrived.samples += 1;
        self.arrived.bad_samples += u64::from(!good);
    }

    fn tend(&mut self, slot: usize, may_seal: bool) {
        let Some(peer) = self.peers.get_mut(slot) else { return };
        let now = clock::read();
        peer.turn(now, may_seal);
        // Who must not seal has nothing due now: the timer comes back when the bank may be through.
        let soonest = if may_seal { Instant::default() } else { now.mono + Duration::from_secs(1) };
        self.timers.set(slot, peer.deadline().map(|at| if at <= now.mono { at.max(soonest) } else { at }));
        self.touched.push(slot);
    }

    fn drops(&self) -> Result<u64, DataError> {
        let ports: BTreeSet<u16> = self
            .peers
            .iter()
            .filter_map(|peer| peer.socket.local_addr().ok())
            .map(|address| address.port())
            .collect();
        sys::socket_drops(&ports, self.server.is_ipv6())
    }
}
