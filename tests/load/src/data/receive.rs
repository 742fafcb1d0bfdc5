//! Reads that bring many datagrams at a time (UDP_GRO), with the kernel's time of arrival where it was asked for.

use nix::cmsg_space;
use nix::errno::Errno;
use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg};
use nix::sys::time::TimeSpec;
use std::io::{self, IoSliceMut};
use std::net::UdpSocket;
use std::os::fd::AsRawFd;
use std::time::Duration;

/// Longest datagram, and so the longest that merged ones can be.
const LONGEST: usize = 65_536;

/// A receiver that has just emptied its sockets looks again after so long, instead of asking to be woken by the next
/// packet: waking costs the sender more than the packet itself, and here the sender is a gateway whose work is measured.
pub const NAP: Duration = Duration::from_micros(50);

/// A buffer for one read.
#[derive(Debug)]
pub struct Inbox {
    bytes: Box<[u8]>,
    control: Vec<u8>,
}

/// What one read brought.
#[derive(Debug)]
pub struct Received<'a> {
    bytes: &'a mut [u8],
    segment: usize,
    /// When the kernel received it, on the real-time clock, if the socket asks for that.
    pub stamp: Option<Duration>,
}

impl Received<'_> {
    /// The datagrams. Empty ones are left out.
    pub fn datagrams(&mut self) -> impl Iterator<Item = &mut [u8]> {
        self.bytes.chunks_mut(self.segment)
    }
}

impl Default for Inbox {
    fn default() -> Self {
        Self { bytes: vec![0; LONGEST].into(), control: cmsg_space!(i32, TimeSpec) }
    }
}

impl Inbox {
    /// Reads once; `None` when there is nothing to read.
    ///
    /// # Errors
    /// As the system says, "port unreachable" for what was sent earlier included.
    pub fn receive(&mut self, socket: &UdpSocket) -> io::Result<Option<Received<'_>>> {
        let (length, segment, stamp) = {
            let mut slices = [IoSliceMut::new(&mut self.bytes)];
            let fd = socket.as_raw_fd();
            let message =
                match recvmsg::<()>(fd, &mut slices, Some(&mut self.control), MsgFlags::MSG_DONTWAIT) {
                    Ok(message) => message,
                    Err(Errno::EAGAIN | Errno::EINTR) => return Ok(None),
                    Err(error) => return Err(error.into()),
                };
            let (mut segment, mut stamp) = (message.bytes, None);
            for control in message.cmsgs()? {
                match control {
                    ControlMessageOwned::UdpGroSegments(length) => {
                        segment = usize::try_from(length).unwrap_or(segment);
                    }
                    ControlMessageOwned::ScmTimestampns(time) => stamp = Some(Duration::from(time)),
                    _ => {}
                }
            }
            (message.bytes, segment.max(1), stamp)
        };
        Ok(self.bytes.get_mut(..length).map(|bytes| Received { bytes, segment, stamp }))
    }
}

#[cfg(test)]
mod tests {
    use super::super::send::{Manner, Sender};
    use super::super::sys;
    use super::*;
    use nix::sys::socket::{setsockopt, sockopt};
    use std::sync::Arc;

    #[test]
    fn merged_datagrams_come_apart_again() {
        let to = UdpSocket::bind("127.0.0.1:0").unwrap();
        sys::merge_received(&to).unwrap();
        setsockopt(&to, sockopt::ReceiveTimestampns, &true).unwrap();
        let from = UdpSocket::bind("127.0.0.1:0").unwrap();
        from.connect(to.local_addr().unwrap()).unwrap();
        let mut sender = Sender::new(&[Arc::new(from)], Manner::Segmented);
        let bytes: Vec<u8> = (0..30 * 100 + 40).map(|n| (n / 100) as u8).collect();
        let before = crate::clock::mono();
        sender.send(0, &bytes, 100).unwrap();
        let (mut inbox, mut got, mut reads) = (Inbox::default(), Vec::new(), 0);
        while let Some(mut received) = inbox.receive(&to).unwrap() {
            let arrival = crate::clock::arrival(received.stamp.unwrap());
            assert!((before..=crate::clock::mono()).contains(&arrival));
            got.extend(received.datagrams().map(|datagram| datagram.to_vec()));
            reads += 1;
        }
        assert_eq!(got.len(), 31);
        assert_eq!(got.last().unwrap(), &[30; 40]);
        assert!(got[..30].iter().enumerate().all(|(n, d)| *d == [n as u8; 100]));
        assert!(reads < 31, "loopback keeps trains together");
    }
}
