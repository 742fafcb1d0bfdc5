//! The last counter or time step of each user's one-time passwords, so that none is taken twice.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::binding::MAX_NAME_BYTES;

/// Most users with one-time passwords: some 30 MiB.
pub const MAX_OTP_USERS: usize = 256 * 1024;

/// Last used counters. They only grow.
#[derive(Debug, Default)]
pub struct OtpCounters {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    last: HashMap<Box<str>, u64>,
    names: usize,
}

impl OtpCounters {
    /// The last counter that `username` has used.
    pub fn last(&self, username: &str) -> Option<u64> {
        self.lock().last.get(username).copied()
    }

    /// Uses `counter` up, and all below. False, and nothing changes, when it is used up already; also when there is no
    /// room for one user more: no user's counter is ever forgotten for another's. Of any number of threads that use
    /// the same counter, one succeeds.
    pub fn advance(&self, username: &str, counter: u64) -> bool {
        self.lock().advance(username, counter, MAX_OTP_USERS)
    }

    /// Takes a counter from a record.
    pub(super) fn restore(&self, username: &str, counter: u64) {
        self.lock().advance(username, counter, usize::MAX);
    }

    /// All of them.
    pub(super) fn export(&self) -> Vec<(String, u64)> {
        self.lock().last.iter().map(|(name, counter)| (name.to_string(), *counter)).collect()
    }

    /// Users, and the bytes of their names.
    pub(super) fn extent(&self) -> (usize, usize) {
        let inner = self.lock();
        (inner.last.len(), inner.names)
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn advance(&mut self, username: &str, counter: u64, most: usize) -> bool {
        if username.is_empty() || username.len() > MAX_NAME_BYTES {
            return false;
        }
        let full = self.last.len() >= most;
        match self.last.entry(username.into()) {
            Entry::Occupied(mut last) if *last.get() < counter => {
                last.insert(counter);
                true
            }
            Entry::Vacant(free) if !full => {
                free.insert(counter);
                self.names += username.len();
                true
            }
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_counter_is_used_once_and_never_falls() {
        let counters = OtpCounters::default();
        assert_eq!(counters.last("alice"), None);
        assert!(counters.advance("alice", 0) && !counters.advance("alice", 0));
        assert!(
            counters.advance("alice", 7) && !counters.advance("alice", 6) && !counters.advance("alice", 7)
        );
        assert!(counters.advance("bob", 3));
        counters.restore("alice", 5);
        assert_eq!((counters.last("alice"), counters.last("bob")), (Some(7), Some(3)));
        assert_eq!(counters.extent(), (2, 8));
        assert!(!counters.advance("", 1) && !counters.advance(&"x".repeat(256), 1));
        assert!(counters.advance("alice", u64::MAX) && !counters.advance("alice", u64::MAX));
    }

    #[test]
    fn no_users_counter_makes_room_for_anothers() {
        let mut inner = Inner::default();
        assert!(inner.advance("alice", 1, 1) && !inner.advance("bob", 1, 1) && inner.advance("alice", 2, 1));
    }

    #[test]
    fn of_many_threads_one_uses_a_counter() {
        let counters = OtpCounters::default();
        let won = std::sync::atomic::AtomicU64::new(0);
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    for counter in 0..1000 {
                        if counters.advance("alice", counter) {
                            won.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                        }
                    }
                });
            }
        });
        assert!(won.into_inner() <= 1000);
        assert_eq!(counters.last("alice"), Some(999));
    }
}
