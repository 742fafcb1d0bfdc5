//! Wakes a worker from another thread.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use nix::sys::eventfd::{EfdFlags, EventFd};

/// A counter in the kernel that the worker polls. Of many wake-ups before the worker's next turn only the first is a system
/// call.
#[derive(Debug, Clone)]
pub struct Waker(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    event: EventFd,
    /// Somebody has woken the worker (or is about to), and it has not started to look yet.
    pending: AtomicBool,
}

impl Waker {
    /// A new one.
    ///
    /// # Errors
    /// When the process may not open another file.
    pub fn new() -> io::Result<Self> {
        let flags = EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK;
        let event = EventFd::from_value_and_flags(0, flags)?;
        Ok(Self(Arc::new(Inner { event, pending: AtomicBool::new(false) })))
    }

    /// Makes the worker's poll return, after what it is to find is in place. Never blocks: a full counter wakes as well.
    pub fn wake(&self) {
        if !self.0.pending.swap(true, Ordering::AcqRel) {
            let _ = self.0.event.write(1);
        }
    }

    /// Takes the wake-ups back, before the worker looks for what they were about: whoever finds the flag set has put his part
    /// in place before it is taken back, and the worker looks after that; whoever finds it taken back writes anew.
    ///
    /// The counter is never read: its watch tells of each write once (see [`Readiness`](super::readiness::Readiness)), which
    /// saves a system call a turn. It would be full after 2^64 writes.
    pub(super) fn clear(&self) {
        if self.0.pending.load(Ordering::Relaxed) {
            self.0.pending.swap(false, Ordering::AcqRel);
        }
    }

    pub(super) fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.event.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;

    use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags};

    use super::*;

    /// Watches a waker as a worker does.
    fn watch(waker: &Waker) -> Epoll {
        let epoll = Epoll::new(EpollCreateFlags::empty()).unwrap();
        epoll.add(waker.as_fd(), EpollEvent::new(EpollFlags::EPOLLIN | EpollFlags::EPOLLET, 0)).unwrap();
        epoll
    }

    fn woken(epoll: &Epoll, millis: u16) -> bool {
        epoll.wait(&mut [EpollEvent::empty()], millis).unwrap() == 1
    }

    #[test]
    fn many_wake_once_and_each_turn_can_be_woken_again() {
        let waker = Waker::new().unwrap();
        let epoll = watch(&waker);
        for _ in 0..3 {
            assert!(!woken(&epoll, 0));
            waker.wake();
            waker.wake();
            assert!(woken(&epoll, 0));
            waker.clear();
        }
        assert_eq!(waker.0.event.read().unwrap(), 3, "one write for each two");
    }

    #[test]
    fn nothing_is_left_lying_while_the_worker_sleeps() {
        const SENDERS: u32 = 3;
        const EACH: u32 = 20_000;
        let waker = Waker::new().unwrap();
        let epoll = watch(&waker);
        let (sender, messages) = channel();
        let threads: Vec<_> = (0..SENDERS)
            .map(|_| {
                let (sender, waker) = (sender.clone(), waker.clone());
                std::thread::spawn(move || {
                    for number in 0..EACH {
                        sender.send(number).unwrap();
                        waker.wake();
                    }
                })
            })
            .collect();
        let mut seen = 0;
        while seen < SENDERS * EACH {
            assert!(woken(&epoll, 30_000), "{seen} of {} messages, and no wake-up for more", SENDERS * EACH);
            waker.clear();
            seen += messages.try_iter().count() as u32;
        }
        for thread in threads {
            thread.join().unwrap();
        }
    }
}
