//! Which one-time codes have been used.

use std::num::NonZeroUsize;
use std::sync::{Mutex, PoisonError};

use lru::LruCache;

/// Keys that [`MemoryLedger`] holds: twice the users that an account file may have, so that each can get a new secret before
/// anything is forgotten, and then it is what was used longest ago.
const MEMORY_KEYS: NonZeroUsize = NonZeroUsize::new(2 * super::file::MAX_USERS).expect("not zero");

/// Remembers the last used counter (HOTP) or step (TOTP) of each key. A key stands for one user with one secret; it is
/// printable and opaque. Both methods are called on the threads that verify passwords, never on a shard.
pub trait OtpLedger: Send + Sync {
    /// The last used counter, `None` before the first.
    fn last(&self, key: &str) -> Option<u64>;

    /// Uses a counter up: true if it is above the last one, which it then replaces. Of several threads with the same
    /// counter, one gets true.
    fn use_counter(&self, key: &str, counter: u64) -> bool;
}

/// A ledger that forgets at the end of the process.
#[derive(Debug)]
pub struct MemoryLedger {
    last: Mutex<LruCache<String, u64>>,
}

impl MemoryLedger {
    /// An empty one.
    #[must_use]
    pub fn new() -> Self {
        // Grows by use; the bound is kept by `use_counter`.
        Self { last: Mutex::new(LruCache::unbounded()) }
    }
}

impl Default for MemoryLedger {
    fn default() -> Self {
        Self::new()
    }
}

impl OtpLedger for MemoryLedger {
    fn last(&self, key: &str) -> Option<u64> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner).peek(key).copied()
    }

    fn use_counter(&self, key: &str, counter: u64) -> bool {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if last.peek(key).is_some_and(|last| counter <= *last) {
            return false;
        }
        last.put(key.to_owned(), counter);
        if last.len() > MEMORY_KEYS.get() {
            last.pop_lru();
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_upwards() {
        let ledger = MemoryLedger::new();
        assert_eq!(ledger.last("a"), None);
        assert!(ledger.use_counter("a", 0));
        assert!(!ledger.use_counter("a", 0));
        assert!(ledger.use_counter("a", 7));
        assert!(!ledger.use_counter("a", 6));
        assert!(ledger.use_counter("b", 6));
        assert_eq!((ledger.last("a"), ledger.last("b")), (Some(7), Some(6)));
    }

    #[test]
    fn bounded() {
        let ledger = MemoryLedger::new();
        for n in 0..MEMORY_KEYS.get() + 5 {
            assert!(ledger.use_counter(&n.to_string(), 1));
        }
        assert_eq!(ledger.last.lock().unwrap().len(), MEMORY_KEYS.get());
        assert_eq!(ledger.last("4"), None);
        assert_eq!(ledger.last("5"), Some(1));
    }
}
