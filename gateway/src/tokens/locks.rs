//! Users who may not log in at all.

use std::collections::HashMap;
use std::sync::{PoisonError, RwLock, RwLockReadGuard};

use super::record::UnixSeconds;
use super::revocations::{RevokeError, check_name};

/// Most users that are locked, or were: some 10 MiB.
pub const MAX_LOCKS: usize = 100_000;

/// A locked user.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct LockedUser {
    /// Who.
    pub username: String,
    /// Since when.
    pub since: UnixSeconds,
}

/// A change of a user's lock. Of two changes the one with the higher serial holds, in whatever order they come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LockChange {
    /// Counts all changes.
    pub serial: u64,
    /// When; `None`: the user is free.
    pub locked: Option<UnixSeconds>,
}

/// Locked users. One who is free again is remembered as such until the place is needed, so that no record of the lock
/// can come back.
#[derive(Debug, Default)]
pub struct UserLocks {
    inner: RwLock<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    users: HashMap<Box<str>, LockChange>,
    /// The highest there was.
    serial: u64,
    names: usize,
}

impl UserLocks {
    /// Locks `username`; `None` if that is so already.
    ///
    /// # Errors
    /// [`RevokeError`]: no lock is ever forgotten for another.
    pub fn lock(&self, username: &str, now: UnixSeconds) -> Result<Option<LockChange>, RevokeError> {
        check_name(username)?;
        let mut inner = self.inner.write().unwrap_or_else(PoisonError::into_inner);
        if inner.since(username).is_some() {
            return Ok(None);
        }
        if inner.users.len() >= MAX_LOCKS && !inner.users.contains_key(username) {
            inner.users.retain(|_, change| change.locked.is_some());
            inner.names = inner.users.keys().map(|name| name.len()).sum();
            if inner.users.len() >= MAX_LOCKS {
                return Err(RevokeError::TooManyLocked(MAX_LOCKS));
            }
        }
        Ok(Some(inner.change(username, Some(now))))
    }

    /// Frees `username`; `None` if it was not locked.
    pub fn unlock(&self, username: &str) -> Option<LockChange> {
        let mut inner = self.inner.write().unwrap_or_else(PoisonError::into_inner);
        inner.since(username)?;
        Some(inner.change(username, None))
    }

    /// Whether `username` may not log in.
    pub fn is_locked(&self, username: &str) -> bool {
        self.read().since(username).is_some()
    }

    /// All that are locked, by name.
    pub fn list(&self) -> Vec<LockedUser> {
        let inner = self.read();
        let mut all = Vec::new();
        for (name, change) in &inner.users {
            all.extend(change.locked.map(|since| LockedUser { username: name.to_string(), since }));
        }
        drop(inner);
        all.sort_unstable();
        all
    }

    /// Takes a change from a record, unless a later one is known.
    pub(super) fn restore(&self, username: &str, change: LockChange) {
        let mut inner = self.inner.write().unwrap_or_else(PoisonError::into_inner);
        if inner.users.get(username).is_none_or(|known| known.serial < change.serial) {
            inner.put(username, change);
        }
        inner.serial = inner.serial.max(change.serial);
    }

    /// All changes that hold.
    pub(super) fn export(&self) -> Vec<(String, LockChange)> {
        self.read().users.iter().map(|(name, change)| (name.to_string(), *change)).collect()
    }

    /// Users that are known here, and the bytes of their names.
    pub(super) fn extent(&self) -> (usize, usize) {
        let inner = self.read();
        (inner.users.len(), inner.names)
    }

    fn read(&self) -> RwLockReadGuard<'_, Inner> {
        self.inner.read().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn since(&self, username: &str) -> Option<UnixSeconds> {
        self.users.get(username).and_then(|change| change.locked)
    }

    fn change(&mut self, username: &str, locked: Option<UnixSeconds>) -> LockChange {
        self.serial += 1;
        let change = LockChange { serial: self.serial, locked };
        self.put(username, change);
        change
    }

    fn put(&mut self, username: &str, change: LockChange) {
        if self.users.insert(username.into(), change).is_none() {
            self.names += username.len();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: UnixSeconds = UnixSeconds(1_700_000_000);

    #[test]
    fn a_lock_holds_until_it_is_taken_off() {
        let locks = UserLocks::default();
        let first = locks.lock("alice", NOW).unwrap().unwrap();
        assert_eq!(locks.lock("alice", UnixSeconds(5)), Ok(None));
        assert!(locks.is_locked("alice") && !locks.is_locked("alic") && !locks.is_locked(""));
        assert_eq!(locks.list(), [LockedUser { username: "alice".into(), since: NOW }]);
        assert_eq!(locks.unlock("bob"), None);
        let second = locks.unlock("alice").unwrap();
        assert!(!locks.is_locked("alice") && second.serial > first.serial);
        assert_eq!((locks.unlock("alice"), locks.list()), (None, vec![]));
        assert_eq!(locks.lock("", NOW), Err(RevokeError::Name(0)));

        // Records of both, in either order.
        for order in [[first, second], [second, first]] {
            let copy = UserLocks::default();
            order.iter().for_each(|change| copy.restore("alice", *change));
            assert!(!copy.is_locked("alice"));
            assert!(copy.lock("alice", NOW).unwrap().unwrap().serial > second.serial);
            assert_eq!(copy.extent(), (1, 5));
        }
    }

    #[test]
    fn locks_are_bounded_and_none_is_forgotten() {
        let locks = UserLocks::default();
        for number in 0..MAX_LOCKS {
            locks.lock(&number.to_string(), NOW).unwrap();
        }
        assert_eq!(locks.lock("alice", NOW), Err(RevokeError::TooManyLocked(MAX_LOCKS)));
        locks.unlock("7").unwrap();
        assert!(locks.lock("alice", NOW).unwrap().is_some());
        assert_eq!(locks.list().len(), MAX_LOCKS);
    }
}
