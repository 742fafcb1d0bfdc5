//! Keys that sign generated tokens, where no file gives them.

use std::sync::{Mutex, MutexGuard, PoisonError};

use subtle::ConstantTimeEq as _;
use tessera_proto::Secret;

use super::record::UnixSeconds;

/// Most keys: a new one every day, and tokens of a week.
pub const MAX_SIGNING_KEYS: usize = 8;

/// A key.
#[derive(Debug, Clone)]
pub struct SigningKey {
    /// Random bytes.
    pub key: Secret<[u8; 32]>,
    /// When it was made.
    pub made: UnixSeconds,
}

impl PartialEq for SigningKey {
    fn eq(&self, other: &Self) -> bool {
        self.made == other.made && self.key.expose().ct_eq(other.key.expose()).into()
    }
}

/// The newest [`MAX_SIGNING_KEYS`] keys.
#[derive(Debug, Default)]
pub struct SigningKeys {
    newest_first: Mutex<Vec<SigningKey>>,
}

impl SigningKeys {
    /// All of them, the newest first: it signs, all verify.
    pub fn list(&self) -> Vec<SigningKey> {
        self.lock().clone()
    }

    /// Takes one more; the oldest goes when there are too many. One that is there already changes nothing.
    pub fn add(&self, key: SigningKey) {
        let mut keys = self.lock();
        if keys.contains(&key) {
            return;
        }
        // Of two of the same second, either order will do if it is always the same.
        let place = |key: &SigningKey| (key.made, *key.key.expose());
        let at = keys.partition_point(|known| place(known) > place(&key));
        keys.insert(at, key);
        keys.truncate(MAX_SIGNING_KEYS);
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.lock().len()
    }

    fn lock(&self) -> MutexGuard<'_, Vec<SigningKey>> {
        self.newest_first.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_lead_and_the_oldest_go() {
        let keys = SigningKeys::default();
        let key = |made: u64| SigningKey { key: Secret::new([made as u8; 32]), made: UnixSeconds(made) };
        for made in [5, 3, 9, 1, 7, 3, 2, 8, 6, 4, 9] {
            keys.add(key(made));
        }
        let made: Vec<u64> = keys.list().iter().map(|key| key.made.0).collect();
        assert_eq!(made, [9, 8, 7, 6, 5, 4, 3, 2]);
        assert!(!format!("{keys:?}").contains("9, 9, 9"));
    }
}
