//! Sockets, each with a source port of its own, that rest before they are used again.

use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use std::collections::VecDeque;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::time::Duration;
use tessera_proto::Instant;

/// How long a port rests: OpenVPN keeps a session for 5 s after its goodbye, and takes a reset from the same address for
/// another negotiation of it.
pub const REST: Duration = Duration::from_secs(6);
/// Descriptors that are left for everything but the pool.
const SPARE_DESCRIPTORS: u64 = 64;
/// Most sockets: every port there is.
const MOST_SOCKETS: u64 = 64_000;
/// Ready sockets taken at a time.
const MAX_EVENTS: usize = 256;

/// The sockets, all connected to one server and registered for reading.
#[derive(Debug)]
pub struct SocketPool {
    server: SocketAddr,
    epoll: Epoll,
    sockets: Vec<UdpSocket>,
    /// Given back, oldest first, with the time from which each may be used.
    resting: VecDeque<(Instant, usize)>,
    most: usize,
    events: Vec<EpollEvent>,
}

/// What came of asking for a socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Taken {
    /// Use this one.
    Socket(usize),
    /// All are in use or rest; the first is free at this time, if any rests.
    Wait(Option<Instant>),
}

impl SocketPool {
    /// A pool that grows as far as descriptors reach. Raises the soft limit of descriptors to the hard one.
    ///
    /// # Errors
    /// When there is no epoll.
    pub fn new(server: SocketAddr) -> io::Result<Self> {
        let most = descriptors()?.saturating_sub(SPARE_DESCRIPTORS).clamp(1, MOST_SOCKETS);
        Ok(Self {
            server,
            epoll: Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?,
            sockets: Vec::new(),
            resting: VecDeque::new(),
            most: usize::try_from(most).unwrap_or(usize::MAX),
            events: vec![EpollEvent::empty(); MAX_EVENTS],
        })
    }

    /// A socket that has rested, or a new one.
    ///
    /// # Errors
    /// When the system gives no socket. Running out of descriptors or ports is no error while others rest.
    pub fn take(&mut self, now: Instant) -> io::Result<Taken> {
        if let Some((free_at, slot)) = self.resting.front().copied()
            && free_at <= now
        {
            self.resting.pop_front();
            return Ok(Taken::Socket(slot));
        }
        let wait = self.resting.front().map(|(at, _)| *at);
        if self.sockets.len() >= self.most {
            return Ok(Taken::Wait(wait));
        }
        match self.open() {
            Ok(slot) => Ok(Taken::Socket(slot)),
            Err(error) if wait.is_some() && is_shortage(&error) => {
                self.most = self.sockets.len();
                Ok(Taken::Wait(wait))
            }
            Err(error) => Err(error),
        }
    }

    /// The socket that was taken is not needed now: the next one to ask gets it.
    pub fn untouched(&mut self, slot: usize) {
        self.resting.push_front((Instant::default(), slot));
    }

    /// The session on this socket is over.
    pub fn give_back(&mut self, slot: usize, now: Instant) {
        self.resting.push_back((now + REST, slot));
    }

    /// Sends, now or never: the reliable layer repeats what is lost.
    ///
    /// # Errors
    /// As the system says, a full buffer and the server's "port unreachable" included.
    pub fn send(&self, slot: usize, bytes: &[u8]) -> io::Result<()> {
        let socket = self.sockets.get(slot).ok_or(io::ErrorKind::NotFound)?;
        socket.send(bytes).map(|_| ())
    }

    /// Receives one datagram.
    ///
    /// # Errors
    /// `WouldBlock` when there is none.
    pub fn receive(&self, slot: usize, buf: &mut [u8]) -> io::Result<usize> {
        self.sockets.get(slot).ok_or(io::ErrorKind::NotFound)?.recv(buf)
    }

    /// Waits up to `timeout` and appends the sockets that have something to read.
    ///
    /// # Errors
    /// When epoll fails; an interrupted wait is no error.
    pub fn wait(&mut self, timeout: Duration, ready: &mut Vec<usize>) -> io::Result<()> {
        // Rounded up: a wait of 0 would spin until the last millisecond is over.
        let ms = timeout.as_nanos().div_ceil(1_000_000).min(1000);
        let timeout = EpollTimeout::from(u16::try_from(ms).unwrap_or(1000));
        let count = match self.epoll.wait(&mut self.events, timeout) {
            Ok(count) => count,
            Err(Errno::EINTR) => 0,
            Err(error) => return Err(error.into()),
        };
        let slots = self.events.iter().take(count).filter_map(|event| usize::try_from(event.data()).ok());
        ready.extend(slots);
        Ok(())
    }

    fn open(&mut self) -> io::Result<usize> {
        let any: SocketAddr = match self.server {
            SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
            SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
        };
        let socket = UdpSocket::bind(any)?;
        socket.set_nonblocking(true)?;
        socket.connect(self.server)?;
        let slot = self.sockets.len();
        self.epoll.add(&socket, EpollEvent::new(EpollFlags::EPOLLIN, slot as u64))?;
        self.sockets.push(socket);
        Ok(slot)
    }
}

/// Raises the limit of descriptors to `wanted`, or as far as the hard limit goes where only that is allowed; gives the limit
/// that holds now.
///
/// # Errors
/// When the limit cannot be read.
pub(crate) fn descriptors_for(wanted: u64) -> io::Result<u64> {
    let most = descriptors()?;
    if most >= wanted {
        return Ok(most);
    }
    // Root may raise the hard limit, too.
    Ok(setrlimit(Resource::RLIMIT_NOFILE, wanted, wanted).map_or(most, |()| wanted))
}

/// Raises the soft limit of descriptors to the hard one; gives the limit that holds now.
///
/// # Errors
/// When the limit cannot be read. Where it may not be raised, the old one holds.
pub(crate) fn descriptors() -> io::Result<u64> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    Ok(setrlimit(Resource::RLIMIT_NOFILE, hard, hard).map_or(soft, |()| hard))
}

fn is_shortage(error: &io::Error) -> bool {
    let shortages = [Errno::EMFILE, Errno::ENFILE, Errno::EADDRINUSE, Errno::EAGAIN, Errno::EADDRNOTAVAIL];
    error.raw_os_error().is_some_and(|number| shortages.contains(&Errno::from_raw(number)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    fn pool() -> (UdpSocket, SocketPool) {
        let server = UdpSocket::bind("127.0.0.1:0").unwrap();
        let pool = SocketPool::new(server.local_addr().unwrap()).unwrap();
        (server, pool)
    }

    fn socket(taken: Taken) -> usize {
        match taken {
            Taken::Socket(slot) => slot,
            Taken::Wait(_) => panic!("no socket"),
        }
    }

    #[test]
    fn every_socket_has_its_own_port_and_rests() {
        let (server, mut pool) = pool();
        server.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        let t0 = Instant::from_epoch(Duration::from_secs(100));
        let mut ports = BTreeSet::new();
        for _ in 0..20 {
            let slot = socket(pool.take(t0).unwrap());
            pool.send(slot, b"x").unwrap();
            ports.insert(server.recv_from(&mut [0; 8]).unwrap().1.port());
            pool.give_back(slot, t0);
        }
        assert_eq!(ports.len(), 20, "none is used again before it has rested");
        assert_eq!(pool.take(t0 + REST).unwrap(), Taken::Socket(0));
    }

    #[test]
    fn a_full_pool_says_when_to_come_back() {
        let (_server, mut pool) = pool();
        pool.most = 1;
        let t0 = Instant::from_epoch(Duration::from_secs(100));
        let slot = socket(pool.take(t0).unwrap());
        assert_eq!(pool.take(t0).unwrap(), Taken::Wait(None));
        pool.give_back(slot, t0);
        assert_eq!(pool.take(t0).unwrap(), Taken::Wait(Some(t0 + REST)));
    }

    #[test]
    fn wakes_for_the_socket_that_was_written_to() {
        let (server, mut pool) = pool();
        let t0 = Instant::default();
        let (_first, second) = (socket(pool.take(t0).unwrap()), socket(pool.take(t0).unwrap()));
        pool.send(second, b"hello").unwrap();
        let mut buf = [0; 8];
        let (len, from) = server.recv_from(&mut buf).unwrap();
        server.send_to(&buf[..len], from).unwrap();
        let mut ready = Vec::new();
        pool.wait(Duration::from_secs(10), &mut ready).unwrap();
        assert_eq!(ready, [second]);
        assert_eq!(pool.receive(second, &mut buf).unwrap(), 5);
        assert_eq!(pool.receive(second, &mut buf).unwrap_err().kind(), io::ErrorKind::WouldBlock);
    }
}
