//! Reads connections, and says what they do.

use std::io;

use nix::sys::epoll::{EpollEvent, EpollFlags, EpollTimeout};
use tessera_proto::Instant;
use tessera_wire::FrameReader;
use tessera_wire::cursor::Truncated;
use tessera_wire::stream::{Opening, opening};

use super::connection::Phase;
use super::event::{CloseReason, StreamEvent, StreamId};
use super::{Closed, FIRST_LISTENER, Streams, lookup};

/// Bytes read from one connection before the next one has its turn: some twenty packets of usual size for a system call.
const READ: usize = 32 * 1024;
/// Ready sockets taken from the kernel at a time.
const EVENTS: usize = 64;

/// What was read last. One for all connections of a worker: what is left of an unfinished packet goes back to its
/// connection.
#[derive(Debug)]
pub struct StreamIntake {
    reader: FrameReader<Box<[u8]>>,
    events: Box<[EpollEvent; EVENTS]>,
    /// How many of them are filled, and how many are dealt with. Those that a turn leaves come first in the next one.
    filled: usize,
    at: usize,
    /// Whose bytes are in the reader.
    current: Option<StreamId>,
    /// Packets that this turn may still give.
    left: usize,
}

impl StreamIntake {
    /// Allocates the buffer; nothing is allocated for packets afterwards.
    ///
    /// # Errors
    /// Packets of `max_frame` 0 cannot be read.
    pub fn new(streams: &Streams) -> Result<Self, Truncated> {
        let max = streams.options.max_frame;
        let buffer = vec![0; READ + usize::from(max) + 2].into();
        Ok(Self {
            reader: FrameReader::new(buffer, max)?,
            events: Box::new([EpollEvent::empty(); EVENTS]),
            filled: 0,
            at: 0,
            current: None,
            left: 0,
        })
    }

    /// Begins a turn of at most so many packets. Does not wait.
    pub fn poll(&mut self, streams: &mut Streams, now: Instant, packets: usize) {
        self.left = packets;
        streams.end_rest(now);
        if self.at >= self.filled {
            self.at = 0;
            // An interrupted look is a turn with nothing to do.
            self.filled = streams.epoll.wait(&mut self.events[..], EpollTimeout::ZERO).unwrap_or(0);
        }
    }

    /// Whether the turn ended with something left to do: its packets were used up, or more sockets may be ready than were
    /// looked at.
    #[must_use]
    pub fn has_more(&self) -> bool {
        self.left == 0 || self.filled == EVENTS
    }

    /// The next thing that happened; `None` at the end of the turn. Between two calls anything may be done with `streams`,
    /// which must be the same ones each time.
    pub fn next<'a>(&'a mut self, streams: &mut Streams, now: Instant) -> Option<StreamEvent<'a>> {
        loop {
            if let Some(Closed { id, listener, path, why, spoke }) = streams.closed.pop_front() {
                return Some(StreamEvent::Closed { id, listener, path, why, spoke });
            }
            if self.left == 0 {
                return None;
            }
            if let Some(id) = self.current {
                let Some(connection) = streams.live(id) else {
                    // It was closed over one of its packets: the others are nobody's.
                    self.reader.clear();
                    self.current = None;
                    continue;
                };
                let (listener, path) = (connection.listener, connection.path);
                match self.reader.has_frame() {
                    Ok(true) => {
                        self.left -= 1;
                        streams.spoke(id);
                        let bytes = self.reader.next_frame().ok().flatten()?;
                        return Some(StreamEvent::Frame { id, listener, path, bytes });
                    }
                    Ok(false) => {
                        streams.keep(id, self.reader.rest());
                        self.current = None;
                    }
                    Err(bad) => streams.end(id, CloseReason::BadLength(bad.0)),
                }
                continue;
            }
            self.reader.clear();
            if self.at >= self.filled {
                return None;
            }
            let event = self.events[self.at];
            self.at += 1;
            let (slot, generation) = (event.data() as u32, (event.data() >> 32) as u32);
            if let Some(number) = slot.checked_sub(FIRST_LISTENER) {
                streams.accept(number as usize, now);
                continue;
            }
            let id = StreamId { slot, generation };
            if event.events().contains(EpollFlags::EPOLLOUT) {
                streams.has_become_writable(id);
            }
            if !event.events().difference(EpollFlags::EPOLLOUT).is_empty()
                && let Some(foreign) = self.read(streams, id)
            {
                let (stream, listener, path) = foreign;
                return Some(StreamEvent::Foreign { listener, path, stream, first: self.reader.rest() });
            }
        }
    }

    /// Reads a connection into the reader. Hands it out if it turns out to be somebody else's.
    fn read(
        &mut self,
        streams: &mut Streams,
        id: StreamId,
    ) -> Option<(std::net::TcpStream, usize, crate::net::Path)> {
        let port_share = streams.options.port_share;
        let connection = lookup(&mut streams.table, id)?;
        let waiting = match &connection.partial {
            // It was in a buffer of this size when it was kept.
            Some((chunk, len)) => self.reader.push(&chunk[..*len]).ok().map(|()| *len)?,
            None => 0,
        };
        let read = connection.read(self.reader.spare());
        let closing = !connection.is_live();
        match read {
            Ok(0) if closing => streams.remove(id.slot),
            Ok(0) if waiting > 0 => streams.end(id, CloseReason::Truncated),
            Ok(0) => streams.end(id, CloseReason::Ended),
            // Whatever it says after we have said our last is not heard.
            Ok(_) if closing => {}
            Ok(len) => {
                self.reader.advance(len);
                if let Some((chunk, _)) = connection.partial.take() {
                    streams.pool.give(chunk);
                }
                if port_share && !connection.judged {
                    match opening(self.reader.rest()) {
                        Opening::Foreign => return streams.give_away(id),
                        Opening::OpenVpn => connection.judged = true,
                        Opening::Unknown => {}
                    }
                }
                self.current = Some(id);
            }
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
            Err(_) if closing => streams.remove(id.slot),
            Err(error) => streams.end(id, CloseReason::Failed(error.kind())),
        }
        None
    }
}

impl Streams {
    /// A packet has come out of a connection.
    fn spoke(&mut self, id: StreamId) {
        self.counters.packets.add(1);
        if let Some(connection) = lookup(&mut self.table, id)
            && connection.phase == Phase::Silent
        {
            connection.phase = Phase::Speaking;
            self.admission.spoke();
        }
    }

    /// Keeps the beginning of a packet until the rest comes.
    fn keep(&mut self, id: StreamId, rest: &[u8]) {
        if rest.is_empty() {
            return;
        }
        let mut chunk = self.pool.take();
        // Chunks hold the longest packet with its length, and this is not all of one.
        let (Some(place), Some(connection)) = (chunk.get_mut(..rest.len()), lookup(&mut self.table, id))
        else {
            return;
        };
        place.copy_from_slice(rest);
        connection.partial = Some((chunk, rest.len()));
    }
}
