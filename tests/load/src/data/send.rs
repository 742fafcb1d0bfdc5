//! Trains of datagrams to connected sockets: one system call a train, nothing allocated.

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{ControlMessage, MsgFlags, MultiHeaders, sendmmsg, sendmsg, setsockopt, sockopt};
use std::array;
use std::io::{self, IoSlice};
use std::net::UdpSocket;
use std::os::fd::{AsFd, AsRawFd};
use std::sync::Arc;
use std::time::Duration;

/// How long one wait for room in a socket may last before the caller looks around.
const ROOM_MS: u8 = 20;
/// Datagrams of one `sendmmsg` at most.
pub const MAX_SINGLES: usize = 64;
/// A pause when the device's queue is full: the kernel does not say when there is room.
const NO_BUFFERS_PAUSE: Duration = Duration::from_micros(50);

/// How a train is handed over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Manner {
    /// As one large datagram that the kernel cuts up (UDP_SEGMENT).
    Segmented,
    /// As datagrams of their own, by `sendmmsg`.
    Singles,
}

/// What became of a train.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sent {
    /// So many of its datagrams were taken.
    Taken(usize),
    /// No room for it within a moment: try the rest again, or stop.
    Full(usize),
}

struct Outlet {
    socket: Arc<UdpSocket>,
    /// The segment size that the socket is set to; 0 when it was not set.
    segment: u16,
}

/// One thread's sender to many destinations.
pub struct Sender {
    outlets: Vec<Outlet>,
    manner: Manner,
    headers: MultiHeaders<()>,
    /// Datagrams that the system refused (nobody there, too long).
    pub refused: u64,
    /// Waits for room.
    pub waits: u64,
    /// The last error that was no lack of room.
    pub last_error: Option<Errno>,
}

impl std::fmt::Debug for Sender {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sender").field("outlets", &self.outlets.len()).finish_non_exhaustive()
    }
}

impl Sender {
    /// Sends to these sockets, which are connected.
    #[must_use]
    pub fn new(sockets: &[Arc<UdpSocket>], manner: Manner) -> Self {
        let outlet = |socket: &Arc<UdpSocket>| Outlet { socket: Arc::clone(socket), segment: 0 };
        Self {
            outlets: sockets.iter().map(outlet).collect(),
            manner,
            headers: MultiHeaders::preallocate(MAX_SINGLES, None),
            refused: 0,
            waits: 0,
            last_error: None,
        }
    }

    /// Sends `bytes`, datagrams of `segment` bytes each (the last may be shorter), to destination `to`. Waits a moment when
    /// there is no room.
    ///
    /// # Errors
    /// When waiting is impossible. What the system refuses is counted, and the train goes on behind it.
    pub fn send(&mut self, to: usize, bytes: &[u8], segment: u16) -> io::Result<Sent> {
        let mut taken = 0;
        let mut rest = bytes;
        while !rest.is_empty() {
            let (count, result) = self.hand_over(to, rest, segment);
            match result {
                Ok(datagrams) => {
                    taken += datagrams;
                    rest = rest.get(datagrams * usize::from(segment)..).unwrap_or_default();
                }
                Err(Errno::EINTR) => {}
                Err(Errno::ENOBUFS | Errno::ENOMEM) => {
                    self.waits += 1;
                    std::thread::sleep(NO_BUFFERS_PAUSE);
                    return Ok(Sent::Full(taken));
                }
                Err(Errno::EAGAIN) => {
                    self.waits += 1;
                    if !self.wait(to)? {
                        return Ok(Sent::Full(taken));
                    }
                }
                Err(error) => {
                    self.last_error = Some(error);
                    self.refused += count as u64;
                    rest = rest.get(count * usize::from(segment)..).unwrap_or_default();
                }
            }
        }
        Ok(Sent::Taken(taken))
    }

    /// One system call; also says how many datagrams an error is about.
    fn hand_over(&mut self, to: usize, bytes: &[u8], segment: u16) -> (usize, nix::Result<usize>) {
        let Some(outlet) = self.outlets.get_mut(to) else { return (1, Err(Errno::EBADF)) };
        let count = bytes.len().div_ceil(usize::from(segment).max(1));
        match self.manner {
            Manner::Segmented => {
                // A datagram of its own is cut up, too, where it is longer than what the socket is set to.
                if outlet.segment != segment && (count > 1 || outlet.segment != 0) {
                    if let Err(error) =
                        setsockopt(&outlet.socket, sockopt::UdpGsoSegment, &i32::from(segment))
                    {
                        return (count, Err(error));
                    }
                    outlet.segment = segment;
                }
                (count, outlet.socket.send(bytes).map(|_| count).map_err(|error| errno(&error)))
            }
            Manner::Singles => {
                let mut pieces = bytes.chunks(usize::from(segment).max(1));
                let slices: [[IoSlice<'_>; 1]; MAX_SINGLES] =
                    array::from_fn(|_| [IoSlice::new(pieces.next().unwrap_or_default())]);
                let slices = slices.get(..count.min(MAX_SINGLES)).unwrap_or_default();
                const NOWHERE_ELSE: [Option<()>; MAX_SINGLES] = [None; MAX_SINGLES];
                let none: [ControlMessage<'_>; 0] = [];
                let fd = outlet.socket.as_raw_fd();
                let sent = sendmmsg(fd, &mut self.headers, slices, NOWHERE_ELSE, none, MsgFlags::empty());
                (1, sent.map(Iterator::count))
            }
        }
    }

    /// True when there is room.
    fn wait(&self, to: usize) -> io::Result<bool> {
        let Some(outlet) = self.outlets.get(to) else { return Ok(false) };
        let mut fds = [PollFd::new(outlet.socket.as_fd(), PollFlags::POLLOUT)];
        match poll(&mut fds, PollTimeout::from(ROOM_MS)) {
            Ok(ready) => Ok(ready > 0),
            Err(Errno::EINTR) => Ok(true),
            Err(error) => Err(error.into()),
        }
    }
}

/// Sends one datagram as it is, whatever segment size a [`Sender`] has set on the socket.
///
/// # Errors
/// As the system says, a full socket included.
pub fn send_whole(socket: &UdpSocket, bytes: &[u8]) -> io::Result<()> {
    let never = [ControlMessage::UdpGsoSegments(&0)];
    sendmsg::<()>(socket.as_raw_fd(), &[IoSlice::new(bytes)], &never, MsgFlags::MSG_DONTWAIT, None)?;
    Ok(())
}

fn errno(error: &io::Error) -> Errno {
    error.raw_os_error().map_or(Errno::UnknownErrno, Errno::from_raw)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair() -> (UdpSocket, Arc<UdpSocket>) {
        let to = UdpSocket::bind("127.0.0.1:0").unwrap();
        to.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        let from = UdpSocket::bind("127.0.0.1:0").unwrap();
        from.connect(to.local_addr().unwrap()).unwrap();
        (to, Arc::new(from))
    }

    fn receive(socket: &UdpSocket, count: usize) -> Vec<Vec<u8>> {
        let mut buf = [0; 2048];
        let one = |_| {
            let length = socket.recv(&mut buf).unwrap();
            buf[..length].to_vec()
        };
        (0..count).map(one).collect()
    }

    #[test]
    fn both_manners_send_the_same_datagrams() {
        let bytes: Vec<u8> = (0..50 * 100).map(|n| (n / 100) as u8).collect();
        for manner in [Manner::Segmented, Manner::Singles] {
            let (to, from) = pair();
            let mut sender = Sender::new(&[from], manner);
            assert_eq!(sender.send(0, &bytes, 100).unwrap(), Sent::Taken(50));
            let got = receive(&to, 50);
            assert!(got.iter().enumerate().all(|(n, d)| *d == [n as u8; 100]), "{manner:?}");
            // The segment size may change, and a train may be one datagram.
            assert_eq!(sender.send(0, &bytes[..400], 200).unwrap(), Sent::Taken(2));
            assert_eq!(sender.send(0, &bytes[..300], 300).unwrap(), Sent::Taken(1));
            let lengths: Vec<_> = receive(&to, 3).iter().map(Vec::len).collect();
            assert_eq!(lengths, [200, 200, 300], "{manner:?}");
            assert_eq!((sender.refused, sender.last_error), (0, None));
        }
    }

    #[test]
    fn a_socket_with_segments_sends_a_control_packet_whole() {
        let (to, from) = pair();
        let mut sender = Sender::new(&[Arc::clone(&from)], Manner::Segmented);
        sender.send(0, &[1; 200], 100).unwrap();
        send_whole(&from, &[2; 1200]).unwrap();
        let lengths: Vec<_> = receive(&to, 3).iter().map(Vec::len).collect();
        assert_eq!(lengths, [100, 100, 1200]);
    }

    #[test]
    fn what_is_refused_is_counted_and_no_end() {
        let (to, from) = pair();
        drop(to);
        let mut sender = Sender::new(&[from], Manner::Singles);
        for _ in 0..5 {
            sender.send(0, &[0; 300], 100).unwrap();
        }
        assert!(sender.refused > 0);
        assert_eq!(sender.last_error, Some(Errno::ECONNREFUSED));
    }
}
