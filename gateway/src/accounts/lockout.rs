//! Who has guessed too often. Concerns passwords and one-time codes only: a valid token is never asked for here, so a
//! stranger who guesses disconnects nobody.

use std::hash::Hash;
use std::net::IpAddr;
use std::num::NonZeroUsize;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use lru::LruCache;
use ring::hmac;
use tessera_proto::Instant;

/// Failures are counted over this time.
const WINDOW: Duration = Duration::from_secs(600);
/// Failures of one user from one prefix: more than anybody mistypes, and 5 of a million codes are nothing.
const PAIR_FAILURES: u32 = 5;
/// First lock of a user from a prefix; each failure after it doubles the next.
const PAIR_FIRST: Duration = Duration::from_secs(30);
/// Longest such lock.
const PAIR_LONGEST: Duration = Duration::from_secs(900);
/// Failures of one user from everywhere: guessing from many addresses.
const USER_FAILURES: u32 = 100;
/// Lock of a user from everywhere. It does not grow, and failures are counted anew afterwards: otherwise a stranger's single
/// guess would keep the user out. Against a six-digit code with three valid steps, 100 guesses each time are 3 % in a day.
const USER_LOCK: Duration = Duration::from_secs(900);
/// Users and prefixes that are remembered; then the one that failed longest ago is forgotten. About 10 MB each. To push one
/// out takes this many failures of others within its window, each with a handshake and a hash of its own.
const ENTRIES: NonZeroUsize = NonZeroUsize::new(100_000).expect("not zero");
/// One network of an IPv4 client: its address.
const PREFIX_V4: u8 = 32;
/// One network of an IPv6 client: what a provider gives to one customer.
const PREFIX_V6: u8 = 56;

/// A user name as a key: hashed, because names are hostile, long, and sometimes passwords in the wrong field.
type UserKey = [u8; 16];

/// The table of failures. All methods are cheap and may be called on any thread, with any name, existing or not.
#[derive(Debug)]
pub struct Lockout {
    key: hmac::Key,
    tables: Mutex<Tables>,
}

#[derive(Debug)]
struct Tables {
    pairs: LruCache<(UserKey, u128), Failures>,
    users: LruCache<UserKey, Failures>,
}

/// How failures become a lock.
struct Rule {
    failures: u32,
    first: Duration,
    /// Each failure after a lock doubles the next, up to this. `None`: after a lock everything begins again.
    longest: Option<Duration>,
}

const PAIR: Rule = Rule { failures: PAIR_FAILURES, first: PAIR_FIRST, longest: Some(PAIR_LONGEST) };
const USER: Rule = Rule { failures: USER_FAILURES, first: USER_LOCK, longest: None };

/// Failures of one key.
#[derive(Debug, Clone, Copy)]
struct Failures {
    count: u32,
    /// When the first of them was.
    since: Instant,
    /// Locks so far, each a failure beyond the limit.
    locks: u32,
    /// End of the last lock, or the last failure.
    until: Instant,
}

impl Lockout {
    /// An empty table.
    ///
    /// # Errors
    /// When the system has no random numbers.
    pub fn new() -> Result<Self, String> {
        let key = super::hash::random::<32>()?;
        let tables = Tables { pairs: LruCache::unbounded(), users: LruCache::unbounded() };
        Ok(Self { key: hmac::Key::new(hmac::HMAC_SHA256, &key), tables: Mutex::new(tables) })
    }

    /// For how long this user must not try from this address; `None`: now.
    #[must_use]
    pub fn locked(&self, user: &str, source: IpAddr, now: Instant) -> Option<Duration> {
        let user = self.user_key(user);
        let tables = self.tables.lock().unwrap_or_else(PoisonError::into_inner);
        let left = |failures: Option<&Failures>| {
            let failures = failures.filter(|failures| failures.locks > 0)?;
            let left = failures.until.saturating_since(now);
            (!left.is_zero()).then_some(left)
        };
        left(tables.pairs.peek(&(user, prefix(source)))).max(left(tables.users.peek(&user)))
    }

    /// Notes a wrong password or code. True if that begins a lock.
    pub fn failed(&self, user: &str, source: IpAddr, now: Instant) -> bool {
        let user = self.user_key(user);
        let mut tables = self.tables.lock().unwrap_or_else(PoisonError::into_inner);
        let pair = note(&mut tables.pairs, (user, prefix(source)), &PAIR, now);
        let user = note(&mut tables.users, user, &USER, now);
        pair || user
    }

    /// Notes a complete login: what failed from there is forgotten. What failed elsewhere is not: a guesser's count does
    /// not begin again because the user was there.
    pub fn succeeded(&self, user: &str, source: IpAddr) {
        let user = self.user_key(user);
        let mut tables = self.tables.lock().unwrap_or_else(PoisonError::into_inner);
        tables.pairs.pop(&(user, prefix(source)));
    }

    /// Forgets all failures of a user: an administrator has spoken.
    pub fn forgive(&self, user: &str) {
        let user = self.user_key(user);
        let mut tables = self.tables.lock().unwrap_or_else(PoisonError::into_inner);
        tables.users.pop(&user);
        let pairs: Vec<_> = tables.pairs.iter().map(|(key, _)| *key).filter(|(of, _)| *of == user).collect();
        for pair in pairs {
            tables.pairs.pop(&pair);
        }
    }

    /// How many users and prefixes, and how many users, are remembered.
    #[must_use]
    pub fn len(&self) -> (usize, usize) {
        let tables = self.tables.lock().unwrap_or_else(PoisonError::into_inner);
        (tables.pairs.len(), tables.users.len())
    }

    /// Whether nobody has failed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == (0, 0)
    }

    fn user_key(&self, user: &str) -> UserKey {
        let tag = hmac::sign(&self.key, user.as_bytes());
        let mut key = UserKey::default();
        key.copy_from_slice(&tag.as_ref()[..16]);
        key
    }
}

/// Counts one failure; true if it begins a lock.
fn note<K: Hash + Eq>(table: &mut LruCache<K, Failures>, key: K, rule: &Rule, now: Instant) -> bool {
    let new = Failures { count: 0, since: now, locks: 0, until: now };
    let mut failures = table.pop(&key).unwrap_or(new);
    // After a quiet window everything begins again; before the first lock, failures of an older window do not count.
    let quiet = now.saturating_since(failures.until) > WINDOW;
    let served = failures.locks > 0 && rule.longest.is_none() && failures.until <= now;
    if quiet || served || (failures.locks == 0 && now.saturating_since(failures.since) > WINDOW) {
        failures = new;
    }
    failures.count = failures.count.saturating_add(1);
    // What was under way when the lock began is counted, and does not make it longer.
    let in_lock = failures.locks > 0 && failures.until > now;
    let begins = !in_lock && failures.count >= rule.failures;
    if begins {
        let doubled = rule.first.saturating_mul(1_u32.checked_shl(failures.locks).unwrap_or(u32::MAX));
        failures.until = now + doubled.min(rule.longest.unwrap_or(rule.first));
        failures.locks = failures.locks.saturating_add(1);
    } else if !in_lock {
        failures.until = now;
    }
    table.put(key, failures);
    if table.len() > ENTRIES.get() {
        table.pop_lru();
    }
    begins
}

/// The network of an address, as one number: IPv4 in its IPv6 form.
fn prefix(address: IpAddr) -> u128 {
    match address.to_canonical() {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().to_bits() & (u128::MAX << (32 - PREFIX_V4)),
        IpAddr::V6(v6) => v6.to_bits() & (u128::MAX << (128 - PREFIX_V6)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Instant {
        Instant::from_epoch(Duration::from_secs(1_000 + seconds))
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn locks_after_five_and_grows() {
        let (lockout, source) = (Lockout::new().unwrap(), ip("192.0.2.1"));
        for n in 0..4 {
            assert!(!lockout.failed("alice", source, at(n)));
            assert_eq!(lockout.locked("alice", source, at(n)), None);
        }
        assert!(lockout.failed("alice", source, at(4)));
        assert_eq!(lockout.locked("alice", source, at(4)), Some(Duration::from_secs(30)));
        assert_eq!(lockout.locked("alice", source, at(33)), Some(Duration::from_secs(1)));
        assert_eq!(lockout.locked("alice", source, at(34)), None);
        assert_eq!(lockout.locked("alice", ip("192.0.2.2"), at(4)), None, "elsewhere");
        assert_eq!(lockout.locked("bob", source, at(4)), None, "somebody else");
        assert!(!lockout.failed("alice", source, at(5)), "was under way");
        let mut now = 34;
        for lock in [60, 120, 240, 480, 900, 900] {
            assert!(lockout.failed("alice", source, at(now)));
            assert_eq!(lockout.locked("alice", source, at(now)), Some(Duration::from_secs(lock)));
            now += lock;
        }
        now += 601;
        assert!(!lockout.failed("alice", source, at(now)), "forgotten after a quiet window");
        assert_eq!(lockout.locked("alice", source, at(now)), None);
    }

    #[test]
    fn slow_mistakes_do_not_lock() {
        let (lockout, source) = (Lockout::new().unwrap(), ip("192.0.2.1"));
        for n in 0..50 {
            assert!(!lockout.failed("alice", source, at(n * 200)), "{n}");
        }
    }

    #[test]
    fn a_success_clears_this_prefix_only() {
        let lockout = Lockout::new().unwrap();
        let (here, there) = (ip("192.0.2.1"), ip("192.0.2.2"));
        for _ in 0..4 {
            lockout.failed("alice", here, at(0));
            lockout.failed("alice", there, at(0));
        }
        lockout.succeeded("alice", here);
        assert!(!lockout.failed("alice", here, at(1)));
        assert!(lockout.failed("alice", there, at(1)));
    }

    #[test]
    fn many_prefixes_lock_the_user() {
        let lockout = Lockout::new().unwrap();
        for n in 0..100_u32 {
            assert_eq!(lockout.locked("alice", ip("198.51.100.1"), at(1)), None);
            lockout.failed("alice", IpAddr::V4((0x0a00_0000 + n).into()), at(1));
        }
        assert_eq!(lockout.locked("alice", ip("198.51.100.1"), at(1)), Some(USER_LOCK));
        assert_eq!(lockout.locked("alice", ip("198.51.100.1"), at(901)), None);
        assert_eq!(lockout.locked("bob", ip("198.51.100.1"), at(1)), None);
        lockout.failed("alice", ip("198.51.100.2"), at(902));
        assert_eq!(lockout.locked("alice", ip("198.51.100.1"), at(902)), None, "counted anew");
        lockout.forgive("alice");
        assert_eq!(lockout.locked("alice", ip("198.51.100.1"), at(1)), None);
        assert!(lockout.is_empty());
    }

    #[test]
    fn prefixes() {
        assert_eq!(prefix(ip("2001:db8:0:100::1")), prefix(ip("2001:db8:0:1ff:ffff::2")));
        assert_ne!(prefix(ip("2001:db8:0:100::1")), prefix(ip("2001:db8:0:200::1")));
        assert_ne!(prefix(ip("192.0.2.1")), prefix(ip("192.0.2.2")));
        assert_eq!(prefix(ip("192.0.2.1")), prefix(ip("::ffff:192.0.2.1")));
    }

    #[test]
    fn time_that_goes_back_frees_nobody() {
        let (lockout, source) = (Lockout::new().unwrap(), ip("192.0.2.1"));
        for _ in 0..5 {
            lockout.failed("alice", source, at(100));
        }
        assert!(lockout.locked("alice", source, at(0)).is_some());
    }

    #[test]
    fn tables_are_bounded() {
        let lockout = Lockout::new().unwrap();
        for n in 0..u32::try_from(ENTRIES.get()).unwrap() + 10 {
            lockout.failed(&n.to_string(), IpAddr::V4(n.into()), at(0));
        }
        assert_eq!(lockout.len(), (ENTRIES.get(), ENTRIES.get()));
    }
}
