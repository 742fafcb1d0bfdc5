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

    /// Takes the wake-ups back, before the worker looks for what they were about.
    ///
    /// In this order: whoever finds the flag set has put his part in place before the flag is taken back, and the worker
    /// looks after that; whoever finds it taken back writes anew. The other way round, a write between the two would be read
    /// here with its flag left set, and nobody would ever write again.
    pub(super) fn clear(&self) {
        let _ = self.0.event.read();
        self.0.pending.swap(false, Ordering::AcqRel);
    }

    pub(super) fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.event.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;

    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

    use super::*;

    fn readable(waker: &Waker, millis: u16) -> bool {
        let mut fds = [PollFd::new(waker.as_fd(), PollFlags::POLLIN)];
        poll(&mut fds, PollTimeout::from(millis)).unwrap() == 1
    }

    #[test]
    fn many_wake_once_and_each_turn_can_be_woken_again() {
        let waker = Waker::new().unwrap();
        for _ in 0..3 {
            assert!(!readable(&waker, 0));
            waker.wake();
            waker.wake();
            assert!(readable(&waker, 0));
            assert_eq!(waker.0.event.read().unwrap(), 1, "one write for both");
            waker.clear();
        }
    }

    #[test]
    fn nothing_is_left_lying_while_the_worker_sleeps() {
        const SENDERS: u32 = 3;
        const EACH: u32 = 20_000;
        let waker = Waker::new().unwrap();
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
            assert!(
                readable(&waker, 30_000),
                "{seen} of {} messages, and no wake-up for more",
                SENDERS * EACH
            );
            waker.clear();
            seen += messages.try_iter().count() as u32;
        }
        for thread in threads {
            thread.join().unwrap();
        }
    }
}
