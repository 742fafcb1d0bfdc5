//! Who may have a connection: bounds for those that are no session yet, and for all together.

use std::collections::{HashMap, VecDeque};
use std::net::{IpAddr, Ipv6Addr, SocketAddr, TcpStream};
use std::time::Duration;

use nix::sys::epoll::{EpollEvent, EpollFlags};
use tessera_proto::Instant;

use super::connection::{Connection, Phase};
use super::event::{CloseReason, StreamId};
use super::{FIRST_LISTENER, Slot, Streams, lookup, token};
use crate::net::path::normalise;
use crate::net::{LocalAddr, Path};

/// Connections accepted from one listener in one turn: then packets get theirs.
const ACCEPT_BUDGET: usize = 64;
/// How long nothing is accepted after files or memory ran out: without it the waiting connection would wake us at once,
/// again and again.
const REST: Duration = Duration::from_millis(100);

/// Connections that are no session yet.
#[derive(Debug, Default)]
pub(super) struct Admission {
    /// In the order they came; those that have become something else are skipped, and dropped by the next tick.
    young: VecDeque<StreamId>,
    unestablished: usize,
    silent: usize,
    by_address: HashMap<IpAddr, usize>,
    /// Nothing is accepted before.
    resting_until: Option<Instant>,
}

impl Admission {
    fn entered(&mut self, id: StreamId, remote: IpAddr) {
        self.young.push_back(id);
        self.unestablished += 1;
        self.silent += 1;
        *self.by_address.entry(block(remote)).or_default() += 1;
    }

    /// A silent connection has spoken.
    pub(super) fn spoke(&mut self) {
        self.silent -= 1;
    }

    /// A connection that was in this phase has left it for another one than `Speaking`.
    pub(super) fn left(&mut self, phase: Phase, remote: IpAddr) {
        match phase {
            Phase::Silent => self.silent -= 1,
            Phase::Speaking => {}
            Phase::Established | Phase::Closing { .. } => return,
        }
        self.unestablished -= 1;
        if let Some(count) = self.by_address.get_mut(&block(remote)) {
            *count -= 1;
            if *count == 0 {
                self.by_address.remove(&block(remote));
            }
        }
    }
}

impl Streams {
    /// Accepts what waits at a listener.
    pub(super) fn accept(&mut self, number: usize, now: Instant) {
        for _ in 0..ACCEPT_BUDGET {
            let Some((listener, socket)) = self.listeners.get(number) else { return };
            match socket.accept() {
                Ok((stream, remote)) => {
                    let listener = *listener;
                    self.admit(stream, remote, listener, now);
                }
                Err(error) => match error.raw_os_error() {
                    // Errors of a connection that was given up while it waited, or of the network behind it.
                    Some(
                        libc::EINTR
                        | libc::ECONNABORTED
                        | libc::EPROTO
                        | libc::EPERM
                        | libc::ENETDOWN
                        | libc::EHOSTUNREACH
                        | libc::ENETUNREACH,
                    ) => {}
                    Some(libc::EAGAIN) => return,
                    _ => {
                        self.counters.accept_failed.add(1);
                        self.evict();
                        self.admission.resting_until = Some(now + REST);
                        return self.watch_listeners(EpollFlags::empty());
                    }
                },
            }
        }
    }

    fn admit(&mut self, stream: TcpStream, remote: SocketAddr, listener: usize, now: Instant) {
        if !self.make_place(normalise(remote).ip()) {
            return self.counters.refused.add(1);
        }
        // Both fail only for a connection that is gone already.
        let Ok(local) = stream.local_addr() else { return };
        let local = LocalAddr { ip: Some(local.ip().to_canonical()), ifindex: 0 };
        let path = Path { local, ..Path::to(remote) };
        let Ok(connection) = Connection::new(stream, listener, path, self.options.nodelay, now) else {
            return;
        };
        let slot = self.free.pop().unwrap_or_else(|| {
            self.table.push(Slot { generation: 0, connection: None });
            (self.table.len() - 1) as u32
        });
        let Some(place) = self.table.get_mut(slot as usize) else { return };
        let id = StreamId { slot, generation: place.generation };
        if self.epoll.add(&connection.stream, EpollEvent::new(EpollFlags::EPOLLIN, token(id))).is_err() {
            self.free.push(slot);
            return self.counters.accept_failed.add(1);
        }
        place.connection = Some(Box::new(connection));
        self.admission.entered(id, path.remote.ip());
        self.counters.accepted.add(1);
        self.counters.open.set(self.len() as u64);
    }

    /// Whether there is a place for a newcomer; one that has said nothing may have to go for it.
    fn make_place(&mut self, remote: IpAddr) -> bool {
        let from_there = self.admission.by_address.get(&block(remote)).copied().unwrap_or(0);
        if from_there >= self.options.unestablished_per_address {
            return false;
        }
        let full = self.len() >= self.options.connections
            || self.admission.unestablished >= self.options.unestablished;
        !full || self.evict()
    }

    /// Closes the oldest connection that has said nothing. A client speaks at once, so it is most likely no client's.
    fn evict(&mut self) -> bool {
        if self.admission.silent == 0 {
            return false;
        }
        let table = &mut self.table;
        let silent = |id: &&StreamId| lookup(table, **id).is_some_and(|c| c.phase == Phase::Silent);
        let Some(id) = self.admission.young.iter().find(silent).copied() else { return false };
        self.end(id, CloseReason::Evicted);
        true
    }

    /// Ends the rest, and closes those whose time is over.
    pub(super) fn tick_admission(&mut self, now: Instant) {
        self.end_rest(now);
        for _ in 0..self.admission.young.len() {
            let Some(id) = self.admission.young.pop_front() else { break };
            let Some(connection) = lookup(&mut self.table, id) else { continue };
            let age = now.saturating_since(connection.accepted);
            match connection.phase {
                Phase::Silent if age >= self.options.first_frame => self.end(id, CloseReason::Silent),
                Phase::Silent | Phase::Speaking if age >= self.options.hand_window => {
                    self.end(id, CloseReason::NotEstablished);
                }
                Phase::Silent | Phase::Speaking => self.admission.young.push_back(id),
                Phase::Established | Phase::Closing { .. } => {}
            }
        }
    }

    /// Accepts again when the rest is over.
    pub(super) fn end_rest(&mut self, now: Instant) {
        if self.admission.resting_until.is_some_and(|until| until <= now) {
            self.admission.resting_until = None;
            self.watch_listeners(EpollFlags::EPOLLIN);
        }
    }

    fn watch_listeners(&self, flags: EpollFlags) {
        for (number, (_, socket)) in (FIRST_LISTENER..).zip(&self.listeners) {
            // It is in the set, so nothing but a lack of kernel memory can be wrong; the next rest tries again.
            let _ = self.epoll.modify(socket, &mut EpollEvent::new(flags, number.into()));
        }
    }
}

/// What one subscriber has: an IPv4 address, or a /64 of IPv6.
fn block(remote: IpAddr) -> IpAddr {
    match remote {
        IpAddr::V4(_) => remote,
        IpAddr::V6(ip) => Ipv6Addr::from_bits(ip.to_bits() >> 64 << 64).into(),
    }
}
