//! The TCP connections of one worker: it alone accepts, reads and writes them.
//!
//! ```text
//!  listening sockets ──▶ connections ──▶ StreamIntake ──▶ packets, as they would be in datagrams
//!  packets ──▶ a bounded queue for each connection ──▶ writev
//! ```
//!
//! [`Streams`] holds the connections and what waits for them; [`StreamIntake`] reads. They are two, as the batches of UDP
//! are, so that whoever acts on a packet that lies in the intake's buffer can write to any connection, or close it.
//!
//! Data is dropped before it is sealed ([`Streams::has_room`]), so that packet-ids have no gaps: old clients take a gap on
//! TCP for an attack. Control packets are never dropped; a client for which too many wait is given up.
//!
//! A connection without anything under way costs about 400 bytes here, and up to 3 KiB for the lists of its queue once that
//! was full; one that is in the middle of a packet, a chunk (4 KiB) more; what waits for it, that much, up to
//! [`StreamOptions::queue_bytes`] and [`StreamOptions::control_bytes`]. Chunks come from a pool: once it is warm,
//! packets allocate nothing.

mod admission;
mod connection;
mod event;
mod intake;
mod options;
mod outbox;

use std::collections::VecDeque;
use std::io;
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags};
use tessera_proto::Instant;

pub use event::{CloseReason, StreamCounters, StreamEvent, StreamId};
pub use intake::StreamIntake;
pub use options::StreamOptions;

use crate::net::Path;
use admission::Admission;
use connection::{Connection, Phase};
use outbox::ChunkPool;

/// Slots from here on are listeners' in the epoll set; a table never grows so large.
const FIRST_LISTENER: u32 = 1 << 31;
/// Most connections of a worker: as many as there are peer-ids, and well below the first listener.
const MOST_CONNECTIONS: usize = 1 << 24;

/// All TCP connections of one worker.
#[derive(Debug)]
pub struct Streams {
    epoll: Epoll,
    listeners: Vec<(usize, TcpListener)>,
    options: StreamOptions,
    table: Vec<Slot>,
    free: Vec<u32>,
    /// Connections to be written to; each is listed once.
    pending: Vec<u32>,
    admission: Admission,
    /// What is to be reported: at most one for each connection that there was room for since the last look.
    closed: VecDeque<Closed>,
    pool: ChunkPool,
    counters: Arc<StreamCounters>,
}

#[derive(Debug)]
struct Slot {
    generation: u32,
    connection: Option<Box<Connection>>,
}

/// A connection that closed by itself.
#[derive(Debug)]
struct Closed {
    id: StreamId,
    listener: usize,
    path: Path,
    why: CloseReason,
    spoke: bool,
}

impl Streams {
    /// Takes listening sockets, each with the number of its listener. They must be non-blocking.
    ///
    /// # Errors
    /// When the process may not open another file, or a socket cannot be watched.
    pub fn new(listeners: Vec<(usize, TcpListener)>, options: StreamOptions) -> io::Result<Self> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        for (number, (_, socket)) in (FIRST_LISTENER..).zip(&listeners) {
            epoll.add(socket, EpollEvent::new(EpollFlags::EPOLLIN, number.into()))?;
        }
        Ok(Self {
            epoll,
            listeners,
            table: Vec::new(),
            free: Vec::new(),
            pending: Vec::new(),
            admission: Admission::default(),
            closed: VecDeque::new(),
            pool: ChunkPool::new(usize::from(options.max_frame) + 2),
            counters: Arc::new(StreamCounters::default()),
            options: StreamOptions { connections: options.connections.min(MOST_CONNECTIONS), ..options },
        })
    }

    /// What the connections have seen.
    #[must_use]
    pub fn counters(&self) -> Arc<StreamCounters> {
        Arc::clone(&self.counters)
    }

    /// Open connections, those that are about to be closed among them.
    #[must_use]
    pub fn len(&self) -> usize {
        self.table.len() - self.free.len()
    }

    /// Whether a connection has closed by itself and nobody was told yet.
    #[must_use]
    pub fn has_closed(&self) -> bool {
        !self.closed.is_empty()
    }

    /// True without any connection.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Where a connection leads; `None` when it is gone.
    #[must_use]
    pub fn path(&self, id: StreamId) -> Option<Path> {
        self.live(id).map(|connection| connection.path)
    }

    /// A connection carries a session now: it may stay. False when it is gone.
    pub fn established(&mut self, id: StreamId) -> bool {
        let Some(connection) = self.live_mut(id) else { return false };
        let before = std::mem::replace(&mut connection.phase, Phase::Established);
        let remote = connection.path.remote.ip();
        self.admission.left(before, remote);
        true
    }

    /// Whether a data packet for this connection would be taken: to be asked before it is sealed.
    #[must_use]
    pub fn has_room(&self, id: StreamId) -> bool {
        self.live(id).is_some_and(|connection| {
            connection.out.data_packets() < self.options.queue_packets
                && connection.out.bytes() < self.options.queue_bytes
        })
    }

    /// As [`Streams::has_room`], after writing what waits if that is what is in the way: a burst from the TUN is longer than the
    /// queue, and the kernel may well take it.
    pub fn make_room(&mut self, id: StreamId, now: Instant) -> bool {
        if self.has_room(id) {
            return true;
        }
        if self.live(id).is_some_and(|connection| !connection.blocked) {
            self.write_out(id.slot, now);
        }
        self.has_room(id)
    }

    /// Queues a sealed data packet. False when there is no room or the connection is gone.
    pub fn queue_data(&mut self, id: StreamId, packet: &[u8]) -> bool {
        self.has_room(id) && self.queue(id, packet, false)
    }

    /// Queues a control packet. False when the connection is gone; so it is, as [`StreamEvent::Closed`] will tell, when too
    /// much of this kind waits for it already.
    pub fn queue_control(&mut self, id: StreamId, packet: &[u8]) -> bool {
        let Some(connection) = self.live(id) else { return false };
        if connection.out.control_bytes() + packet.len() > self.options.control_bytes {
            self.end(id, CloseReason::Backlog);
            return false;
        }
        self.queue(id, packet, true)
    }

    /// Closes a connection: at once, or after what waits for it is written (which may take [`StreamOptions::linger`]). It is
    /// gone for every other purpose, and nothing will be reported of it.
    pub fn close(&mut self, id: StreamId, after_flush: bool) {
        let Some(connection) = self.live_mut(id) else { return };
        if after_flush {
            let before =
                std::mem::replace(&mut connection.phase, Phase::Closing { since: None, shut: false });
            let remote = connection.path.remote.ip();
            self.admission.left(before, remote);
            self.list(id.slot);
        } else {
            self.remove(id.slot);
        }
    }

    /// Writes what waits for all connections whose kernel buffers have room: once at the end of each turn.
    pub fn flush(&mut self, now: Instant) {
        let mut pending = std::mem::take(&mut self.pending);
        for slot in pending.drain(..) {
            self.flush_one(slot, now);
        }
        // The list keeps its memory; nothing is listed while it is written.
        debug_assert!(self.pending.is_empty());
        self.pending = pending;
    }

    /// Closes what has been silent, unestablished, stalled or closing for too long, and takes connections again after files
    /// had run out. About once a second.
    pub fn tick(&mut self, now: Instant) {
        self.tick_admission(now);
        for slot in 0..self.table.len() {
            let Some(Slot { generation, connection: Some(connection) }) = self.table.get_mut(slot) else {
                continue;
            };
            let id = StreamId { slot: slot as u32, generation: *generation };
            if let Phase::Closing { since, .. } = &mut connection.phase {
                let since = *since.get_or_insert(now);
                if now.saturating_since(since) >= self.options.linger {
                    self.remove(id.slot);
                }
            } else if connection
                .waiting_since
                .is_some_and(|since| now.saturating_since(since) >= self.options.stalled_after)
            {
                self.end(id, CloseReason::Stalled);
            }
        }
    }

    fn queue(&mut self, id: StreamId, packet: &[u8], control: bool) -> bool {
        let pool = &mut self.pool;
        let Some(connection) = lookup(&mut self.table, id) else { return false };
        let queued = connection.out.push(packet, control, pool);
        if queued {
            self.list(id.slot);
        }
        queued
    }

    /// Lists a connection for the next flush, unless the kernel will say when it can be written to.
    fn list(&mut self, slot: u32) {
        if let Some(Slot { connection: Some(connection), .. }) = self.table.get_mut(slot as usize)
            && !connection.listed
            && !connection.blocked
        {
            connection.listed = true;
            self.pending.push(slot);
        }
    }

    /// The kernel has room for a connection again.
    fn has_become_writable(&mut self, id: StreamId) {
        if let Some(connection) = lookup(&mut self.table, id) {
            connection.blocked = false;
            self.list(id.slot);
        }
    }

    fn flush_one(&mut self, slot: u32, now: Instant) {
        let Some(Slot { connection: Some(connection), .. }) = self.table.get_mut(slot as usize) else {
            return;
        };
        // A slot whose owner has changed since it was listed: a look too many.
        connection.listed = false;
        self.write_out(slot, now);
    }

    fn write_out(&mut self, slot: u32, now: Instant) {
        let Some(Slot { generation, connection: Some(connection) }) = self.table.get_mut(slot as usize)
        else {
            return;
        };
        let id = StreamId { slot, generation: *generation };
        let was_blocked = connection.blocked;
        if let Err(error) = connection.write(&mut self.pool, now) {
            return self.end(id, CloseReason::Failed(error.kind()));
        }
        let blocked = connection.blocked;
        if !blocked && let Phase::Closing { since, shut: shut @ false } = &mut connection.phase {
            // What it sends meanwhile is read and dropped: closing with unread bytes would reset the connection, and the
            // client might lose what we said last.
            *shut = true;
            since.get_or_insert(now);
            if connection.stream.shutdown(Shutdown::Write).is_err() {
                return self.remove(slot);
            }
        }
        if blocked || was_blocked {
            self.watch(id, blocked);
        }
    }

    /// Has the kernel say when a connection has room, or no longer.
    fn watch(&mut self, id: StreamId, room: bool) {
        let Some(connection) = lookup(&mut self.table, id) else { return };
        let flags = if room { EpollFlags::EPOLLIN | EpollFlags::EPOLLOUT } else { EpollFlags::EPOLLIN };
        if let Err(error) = self.epoll.modify(&connection.stream, &mut EpollEvent::new(flags, token(id))) {
            self.end(id, CloseReason::Failed(io::Error::from(error).kind()));
        }
    }

    /// Closes a connection for a reason of its own, which will be reported unless it was closing anyway.
    fn end(&mut self, id: StreamId, why: CloseReason) {
        let Some(connection) = lookup(&mut self.table, id) else { return };
        if connection.is_live() {
            self.counters.count(why);
            let spoke = connection.phase != Phase::Silent;
            let (listener, path) = (connection.listener, connection.path);
            self.closed.push_back(Closed { id, listener, path, why, spoke });
        }
        self.remove(id.slot);
    }

    /// Closes the connection of a slot and gives back all it had.
    fn remove(&mut self, slot: u32) {
        if let Some(connection) = self.detach(slot) {
            drop(connection);
        }
    }

    /// Takes a connection out of the table.
    fn detach(&mut self, slot: u32) -> Option<Box<Connection>> {
        let place = self.table.get_mut(slot as usize)?;
        let mut connection = place.connection.take()?;
        // The epoll set forgets a socket when it is closed; one that is handed out must be taken from it.
        let _ = self.epoll.delete(&connection.stream);
        place.generation = place.generation.wrapping_add(1);
        self.free.push(slot);
        self.counters.open.set(self.len() as u64);
        connection.release(&mut self.pool);
        self.admission.left(connection.phase, connection.path.remote.ip());
        Some(connection)
    }

    /// Hands out a connection that is somebody else's.
    fn give_away(&mut self, id: StreamId) -> Option<(TcpStream, usize, Path)> {
        lookup(&mut self.table, id)?;
        let connection = self.detach(id.slot)?;
        self.counters.foreign.add(1);
        Some((connection.stream, connection.listener, connection.path))
    }

    fn live(&self, id: StreamId) -> Option<&Connection> {
        let slot = self.table.get(id.slot as usize).filter(|slot| slot.generation == id.generation)?;
        slot.connection.as_deref().filter(|connection| connection.is_live())
    }

    fn live_mut(&mut self, id: StreamId) -> Option<&mut Connection> {
        lookup(&mut self.table, id).filter(|connection| connection.is_live())
    }
}

impl AsFd for Streams {
    /// Readable when there is something to accept, to read, or to write after all: for the worker's own set.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.epoll.0.as_fd()
    }
}

/// A connection by its id, whatever its phase; a function of the table alone, so that the pool can be borrowed beside it.
fn lookup(table: &mut [Slot], id: StreamId) -> Option<&mut Connection> {
    let slot = table.get_mut(id.slot as usize).filter(|slot| slot.generation == id.generation)?;
    slot.connection.as_deref_mut()
}

/// What the kernel hands back with an event.
fn token(id: StreamId) -> u64 {
    u64::from(id.generation) << 32 | u64::from(id.slot)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_are_small_and_belong_to_any_thread() {
        fn goes_to_a_thread<T: Send>() {}
        goes_to_a_thread::<Streams>();
        goes_to_a_thread::<StreamIntake>();
        let each = size_of::<Connection>() + size_of::<Slot>() + size_of::<StreamId>() + size_of::<u32>();
        assert!(each <= 400, "{each} bytes");
    }
}
