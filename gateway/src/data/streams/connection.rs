//! One TCP connection.

use std::io::{self, IoSlice, Read};
use std::net::TcpStream;

use socket2::SockRef;
use tessera_proto::Instant;

use super::outbox::{ChunkPool, Outbox, SLICES};
use crate::net::Path;

/// Bytes that the kernel may hold unsent for one connection: more would only be delay, and memory that a client who does
/// not read can take from the others.
const UNSENT_BYTES: u32 = 128 * 1024;

/// How far a connection has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    /// No whole packet yet.
    Silent,
    /// It has said something.
    Speaking,
    /// It carries a session.
    Established,
    /// It is to be closed when everything is written.
    Closing {
        /// Since when; settled by the next look at it.
        since: Option<Instant>,
        /// Everything is written, and the client knows that no more will come.
        shut: bool,
    },
}

/// A connection: about 250 bytes while nothing waits in either direction, beside the kernel's own.
#[derive(Debug)]
pub(super) struct Connection {
    pub(super) stream: TcpStream,
    pub(super) listener: usize,
    pub(super) path: Path,
    pub(super) accepted: Instant,
    pub(super) phase: Phase,
    /// Its first bytes are known to be a client's, or nobody asks.
    pub(super) judged: bool,
    /// The beginning of a packet that has not wholly come in: its bytes, and how many.
    pub(super) partial: Option<(Box<[u8]>, usize)>,
    pub(super) out: Outbox,
    /// Since when something waits and nothing was taken.
    pub(super) waiting_since: Option<Instant>,
    /// The kernel has no room; it will say when it has.
    pub(super) blocked: bool,
    /// It is in the list of those to be written to.
    pub(super) listed: bool,
}

impl Connection {
    /// Takes an accepted connection.
    ///
    /// # Errors
    /// Its socket cannot be used: it was reset already, for example.
    pub(super) fn new(
        stream: TcpStream,
        listener: usize,
        path: Path,
        nodelay: bool,
        now: Instant,
    ) -> io::Result<Self> {
        stream.set_nonblocking(true)?;
        let socket = SockRef::from(&stream);
        socket.set_tcp_nodelay(nodelay)?;
        socket.set_keepalive(true)?;
        socket.set_tcp_notsent_lowat(UNSENT_BYTES)?;
        Ok(Self {
            stream,
            listener,
            path,
            accepted: now,
            phase: Phase::Silent,
            judged: false,
            partial: None,
            out: Outbox::default(),
            waiting_since: None,
            blocked: false,
            listed: false,
        })
    }

    /// Whether it can be written to and listened to.
    pub(super) fn is_live(&self) -> bool {
        !matches!(self.phase, Phase::Closing { .. })
    }

    pub(super) fn read(&self, into: &mut [u8]) -> io::Result<usize> {
        (&self.stream).read(into)
    }

    /// Writes what waits as far as the kernel takes it.
    ///
    /// # Errors
    /// The connection is broken.
    pub(super) fn write(&mut self, pool: &mut ChunkPool, now: Instant) -> io::Result<()> {
        self.blocked = false;
        while self.out.bytes() > 0 {
            let mut slices = [IoSlice::new(&[]); SLICES];
            let used = self.out.gather(&mut slices);
            let flags = libc::MSG_NOSIGNAL | libc::MSG_DONTWAIT;
            match SockRef::from(&self.stream).send_vectored_with_flags(&slices[..used], flags) {
                Ok(written) => {
                    self.out.consume(written, pool);
                    self.waiting_since = Some(now);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.blocked = true;
                    self.waiting_since = self.waiting_since.or(Some(now));
                    return Ok(());
                }
                Err(error) => return Err(error),
            }
        }
        self.waiting_since = None;
        Ok(())
    }

    /// Gives back what the pool has lent.
    pub(super) fn release(&mut self, pool: &mut ChunkPool) {
        if let Some((chunk, _)) = self.partial.take() {
            pool.give(chunk);
        }
        self.out.clear(pool);
    }
}
