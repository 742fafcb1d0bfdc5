//! Waits for any of a worker's sources: an epoll set that is made once.

use std::io;
use std::os::fd::BorrowedFd;
use std::time::Duration;

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};

/// Events taken per wait. Which sources are ready does not matter (each is looked at in each turn), only that one is.
const EVENTS: usize = 8;

/// The sources of one worker.
#[derive(Debug)]
pub(super) struct Readiness {
    epoll: Epoll,
    /// For each socket, whether room to send is waited for.
    wants_room: Vec<bool>,
}

impl Readiness {
    /// Watches all `sources` for input; the first `sockets` of them can also be watched for room. `waker` is told of once for
    /// each time that it is written to, without being read.
    #[expect(single_use_lifetimes, reason = "impl Trait takes no anonymous lifetime")]
    pub(super) fn new<'a>(
        sources: impl Iterator<Item = BorrowedFd<'a>>,
        sockets: usize,
        waker: BorrowedFd<'_>,
    ) -> io::Result<Self> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        epoll.add(waker, EpollEvent::new(EpollFlags::EPOLLIN | EpollFlags::EPOLLET, 0))?;
        for source in sources {
            epoll.add(source, EpollEvent::new(EpollFlags::EPOLLIN, 0))?;
        }
        Ok(Self { epoll, wants_room: vec![false; sockets] })
    }

    /// Returns when a source is ready or `most` has passed, whichever is first.
    pub(super) fn wait(&self, most: Duration) {
        let mut events = [EpollEvent::empty(); EVENTS];
        // A millisecond more than asked for: waking just before a deadline would turn for nothing.
        let millis = if most.is_zero() { 0 } else { most.as_millis().saturating_add(1) };
        let timeout =
            EpollTimeout::try_from(u32::try_from(millis).unwrap_or(u32::MAX)).unwrap_or(EpollTimeout::NONE);
        // An interrupted wait is a turn with nothing to do.
        let _ = self.epoll.wait(&mut events, timeout);
    }

    /// Watches a socket for room, or no longer.
    pub(super) fn want_room(&mut self, index: usize, socket: BorrowedFd<'_>, wants: bool) {
        let Some(known) = self.wants_room.get_mut(index).filter(|known| **known != wants) else {
            return;
        };
        let flags = if wants { EpollFlags::EPOLLIN | EpollFlags::EPOLLOUT } else { EpollFlags::EPOLLIN };
        if self.epoll.modify(socket, &mut EpollEvent::new(flags, 0)).is_ok() {
            *known = wants;
        }
    }
}
