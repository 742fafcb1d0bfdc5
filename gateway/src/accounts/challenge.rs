//! Dynamic challenges that wait for their answer: the password was right, the client comes back with the code. One table for
//! all shards, since it may come back to any.

use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use data_encoding::HEXLOWER;
use lru::LruCache;
use ring::digest;
use subtle::ConstantTimeEq as _;
use tessera_proto::{Instant, Secret};

use super::file::User;

/// Users with challenges under way; then the one that was challenged longest ago must begin again. A challenge takes a
/// right password, so no stranger pushes others out.
const USERS: NonZeroUsize = NonZeroUsize::new(10_000).expect("not zero");
/// Challenges of one user at a time: one for each device that connects at the same moment. Whoever knows the password and
/// floods only loses their own.
const PER_USER: usize = 8;
/// Random bytes of a state: not to be guessed.
const STATE_BYTES: usize = 16;

/// Fingerprint of a client's certificate.
pub(super) type Fingerprint = [u8; 32];

/// The table.
#[derive(Debug)]
pub(super) struct Challenges {
    lifetime: Duration,
    users: Mutex<LruCache<String, Vec<Waiting>>>,
}

#[derive(Debug)]
struct Waiting {
    /// A hash of the state: what is compared tells nothing by its time, and a dump holds no state.
    state: [u8; 32],
    certificate: Option<Fingerprint>,
    /// The account as it was: one that changed must prove its password anew.
    user: Arc<User>,
    ends: Instant,
}

impl Challenges {
    pub(super) fn new(lifetime: Duration) -> Self {
        Self { lifetime, users: Mutex::new(LruCache::unbounded()) }
    }

    /// A state for a user whose password was right.
    pub(super) fn issue(
        &self,
        user: &Arc<User>,
        certificate: Option<Fingerprint>,
        now: Instant,
    ) -> Result<Secret<String>, String> {
        let state = Secret::new(HEXLOWER.encode(&super::hash::random::<STATE_BYTES>()?));
        let ends = now + self.lifetime;
        let waiting = Waiting { state: hash(state.expose()), certificate, user: Arc::clone(user), ends };
        let mut users = self.users.lock().unwrap_or_else(PoisonError::into_inner);
        let mut list = users.pop(&user.name).unwrap_or_default();
        list.retain(|waiting| waiting.ends > now);
        if list.len() == PER_USER {
            list.remove(0);
        }
        list.push(waiting);
        users.put(user.name.clone(), list);
        if users.len() > USERS.get() {
            users.pop_lru();
        }
        Ok(state)
    }

    /// Takes a state back, once: the account as it was at the challenge, if the state is this user's, this certificate's, and
    /// not too old.
    pub(super) fn redeem(
        &self,
        user: &str,
        certificate: Option<&Fingerprint>,
        state: &str,
        now: Instant,
    ) -> Option<Arc<User>> {
        let state = hash(state);
        let mut users = self.users.lock().unwrap_or_else(PoisonError::into_inner);
        let list = users.get_mut(user)?;
        let at = list.iter().position(|waiting| bool::from(waiting.state.ct_eq(&state)))?;
        let waiting = list.remove(at);
        if list.is_empty() {
            users.pop(user);
        }
        (waiting.ends > now && waiting.certificate.as_ref() == certificate).then_some(waiting.user)
    }
}

fn hash(state: &str) -> [u8; 32] {
    let mut hash = [0; 32];
    hash.copy_from_slice(digest::digest(&digest::SHA256, state.as_bytes()).as_ref());
    hash
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::accounts::hash::{Cost, PasswordHash};

    fn user(name: &str) -> Arc<User> {
        let hash = PasswordHash::of_nobody(Cost::WEAKEST).unwrap();
        Arc::new(User { name: name.to_owned(), hash, otp: None, disabled: false })
    }

    fn at(seconds: u64) -> Instant {
        Instant::from_epoch(Duration::from_secs(seconds))
    }

    #[test]
    fn once_and_only_for_its_owner() {
        let challenges = Challenges::new(Duration::from_secs(180));
        let (alice, certificate) = (user("alice"), [7; 32]);
        let issue = || challenges.issue(&alice, Some(certificate), at(0)).unwrap();
        let redeem = |name, certificate, state: &Secret<String>, now| {
            challenges.redeem(name, certificate, state.expose(), at(now)).is_some()
        };
        let state = issue();
        assert!(!redeem("bob", Some(&certificate), &state, 1));
        assert!(redeem("alice", Some(&certificate), &state, 1));
        assert!(!redeem("alice", Some(&certificate), &state, 1), "once");
        for (wrong, now) in [(None, 1), (Some(&[8; 32]), 1), (Some(&certificate), 180)] {
            let state = issue();
            assert!(!redeem("alice", wrong, &state, now), "{wrong:?} {now}");
            assert!(!redeem("alice", Some(&certificate), &state, 1), "used up by the wrong one");
        }
        let state = issue();
        assert!(!redeem("alice", Some(&certificate), &Secret::new(String::new()), 1));
        assert!(redeem("alice", Some(&certificate), &state, 179), "other states leave it");
        assert!(challenges.users.lock().unwrap().is_empty());
    }

    #[test]
    fn bounded() {
        let challenges = Challenges::new(Duration::from_secs(180));
        let first = challenges.issue(&user("alice"), None, at(0)).unwrap();
        for _ in 0..PER_USER {
            challenges.issue(&user("alice"), None, at(0)).unwrap();
        }
        assert!(challenges.redeem("alice", None, first.expose(), at(1)).is_none(), "the oldest had to go");
        for n in 0..USERS.get() + 3 {
            challenges.issue(&user(&n.to_string()), None, at(0)).unwrap();
        }
        assert_eq!(challenges.users.lock().unwrap().len(), USERS.get());
    }
}
