//! The sharded token cache.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use dashmap::DashMap;
use ring::hmac;
use ring::rand::SecureRandom;
use tessera_proto::Secret;

use super::index::Index;
use super::record::{Binding, Lineage, TokenError, TokenHash, TokenInfo, TokenVerdict, UnixSeconds};

/// How many tokens are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TokenLimits {
    /// Of all clients together. Above it the token that expires first is forgotten.
    pub entries: usize,
    /// Of one user with one certificate, so that nobody pushes the others' tokens out by logging in again and again.
    pub entries_per_client: usize,
}

impl Default for TokenLimits {
    /// 262,144 tokens take about 128 MiB; 64 of one client are its devices and a day of logins.
    fn default() -> Self {
        Self { entries: 256 * 1024, entries_per_client: 64 }
    }
}

/// Counters since the start, and how many tokens there are now.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TokenStats {
    /// Tokens in the cache, expired and revoked ones that were not swept yet included.
    pub entries: u64,
    /// New tokens.
    pub inserted: u64,
    /// Pushed again with the same value to the same client.
    pub refreshed: u64,
    /// Not taken ([`TokenError`]).
    pub refused: u64,
    /// Forgotten before their time, for a limit.
    pub evicted: u64,
    /// Forgotten after their time.
    pub expired: u64,
    /// Revoked.
    pub revoked: u64,
    /// Checks by verdict.
    pub valid: u64,
    /// Checks by verdict.
    pub unknown: u64,
    /// Checks by verdict: wrong user or wrong certificate.
    pub wrong_client: u64,
    /// Checks by verdict.
    pub found_expired: u64,
    /// Checks by verdict.
    pub found_revoked: u64,
}

/// Tokens by their keyed hash. All methods take `&self`, return owned data and never wait for anything but a short
/// lock, so that they may be called from any thread and no guard can live across an `await`.
///
/// A check takes one shard's read lock. Whatever changes the cache takes the index lock first and shard locks under
/// it, so that index and shards never disagree when the index lock is free.
#[derive(Debug)]
pub struct TokenCache {
    pepper: hmac::Key,
    limits: TokenLimits,
    tokens: DashMap<TokenHash, Record>,
    index: Mutex<Index>,
    counters: Counters,
}

#[derive(Debug, Clone)]
struct Record {
    info: TokenInfo,
    revoked: bool,
}

#[derive(Debug, Default)]
struct Counters {
    inserted: AtomicU64,
    refreshed: AtomicU64,
    refused: AtomicU64,
    evicted: AtomicU64,
    expired: AtomicU64,
    revoked: AtomicU64,
    valid: AtomicU64,
    unknown: AtomicU64,
    wrong_client: AtomicU64,
    found_expired: AtomicU64,
    found_revoked: AtomicU64,
}

impl TokenCache {
    /// An empty cache with a fresh pepper from `rng`. A limit of 0 counts as 1.
    ///
    /// # Errors
    /// When the operating system gives no random bytes.
    pub fn new(limits: TokenLimits, rng: &dyn SecureRandom) -> Result<Self, ring::error::Unspecified> {
        Ok(Self {
            pepper: hmac::Key::generate(hmac::HMAC_SHA256, rng)?,
            limits: TokenLimits {
                entries: limits.entries.max(1),
                entries_per_client: limits.entries_per_client.max(1),
            },
            tokens: DashMap::new(),
            index: Mutex::default(),
            counters: Counters::default(),
        })
    }

    /// Takes a token that is about to be pushed: call it before the push, so that a client never holds a token that
    /// the gateway does not know. The same value again for the same client gives it a new `lifetime` and `lineage`.
    ///
    /// # Errors
    /// [`TokenError`]; then nothing has changed, and the token must not be pushed.
    pub fn insert(
        &self,
        token: &Secret<String>,
        binding: Binding,
        lineage: Lineage,
        now: UnixSeconds,
        lifetime: Duration,
    ) -> Result<TokenInfo, TokenError> {
        let result = self.try_insert(token, binding, lineage, now, lifetime);
        if result.is_err() {
            count(&self.counters.refused);
        }
        result
    }

    /// What to answer to a client that presents `token` as its password.
    pub fn check(&self, token: &Secret<String>, presented: &Binding, now: UnixSeconds) -> TokenVerdict {
        let verdict = self.verdict(token, presented, now);
        count(match &verdict {
            TokenVerdict::Valid(_) => &self.counters.valid,
            TokenVerdict::Unknown => &self.counters.unknown,
            TokenVerdict::WrongUser | TokenVerdict::WrongCertificate => &self.counters.wrong_client,
            TokenVerdict::Expired => &self.counters.found_expired,
            TokenVerdict::Revoked => &self.counters.found_revoked,
        });
        verdict
    }

    /// Revokes one token by its value; whether it was there and not revoked.
    pub fn revoke(&self, token: &Secret<String>) -> bool {
        let Ok(hash) = TokenHash::of(&self.pepper, token) else {
            return false;
        };
        let index = self.lock_index();
        self.revoke_all(&index, &[hash]) == 1
    }

    /// Revokes every token of `username`, under whatever certificate; how many.
    pub fn revoke_user(&self, username: &str) -> usize {
        let index = self.lock_index();
        self.revoke_all(&index, &index.of_user(username))
    }

    /// Revokes every token of one login, in all the sessions that came from it; how many.
    pub fn revoke_lineage(&self, lineage: Lineage) -> usize {
        let index = self.lock_index();
        self.revoke_all(&index, &index.of_lineage(lineage))
    }

    /// Forgets up to `budget` tokens whose time is over; how many. Call it from a timer; a result of `budget` means
    /// that there may be more.
    pub fn sweep(&self, now: UnixSeconds, budget: usize) -> usize {
        let mut index = self.lock_index();
        (0..budget).take_while(|_| self.forget_expired(&mut index, now)).count()
    }

    /// The counters now. Each is exact; together they are not one moment.
    pub fn stats(&self) -> TokenStats {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let counters = &self.counters;
        TokenStats {
            entries: self.lock_index().len() as u64,
            inserted: read(&counters.inserted),
            refreshed: read(&counters.refreshed),
            refused: read(&counters.refused),
            evicted: read(&counters.evicted),
            expired: read(&counters.expired),
            revoked: read(&counters.revoked),
            valid: read(&counters.valid),
            unknown: read(&counters.unknown),
            wrong_client: read(&counters.wrong_client),
            found_expired: read(&counters.found_expired),
            found_revoked: read(&counters.found_revoked),
        }
    }

    fn try_insert(
        &self,
        token: &Secret<String>,
        binding: Binding,
        lineage: Lineage,
        now: UnixSeconds,
        lifetime: Duration,
    ) -> Result<TokenInfo, TokenError> {
        binding.validate()?;
        if lifetime.is_zero() {
            return Err(TokenError::NoLifetime);
        }
        let hash = TokenHash::of(&self.pepper, token)?;
        let mut info = TokenInfo { binding, lineage, issued: now, expires: now.after(lifetime) };
        let mut index = self.lock_index();
        let known = self.tokens.get(&hash).map(|record| record.clone());
        match known.filter(|known| now < known.info.expires) {
            Some(known) if known.revoked => return Err(TokenError::Revoked),
            Some(known) if known.info.binding.mismatch(&info.binding).is_some() => {
                return Err(TokenError::BoundToAnother);
            }
            Some(known) => {
                info.issued = known.info.issued;
                index.remove(hash, &known.info);
                count(&self.counters.refreshed);
            }
            None => {
                self.forget(&mut index, hash);
                self.make_room(&mut index, &info, now);
                count(&self.counters.inserted);
            }
        }
        index.add(hash, &info);
        self.tokens.insert(hash, Record { info: info.clone(), revoked: false });
        Ok(info)
    }

    fn verdict(&self, token: &Secret<String>, presented: &Binding, now: UnixSeconds) -> TokenVerdict {
        let Ok(hash) = TokenHash::of(&self.pepper, token) else {
            return TokenVerdict::Unknown;
        };
        let Some(record) = self.tokens.get(&hash) else {
            return TokenVerdict::Unknown;
        };
        if let Some(mismatch) = record.info.binding.mismatch(presented) {
            return mismatch;
        }
        if record.revoked {
            return TokenVerdict::Revoked;
        }
        if now >= record.info.expires {
            return TokenVerdict::Expired;
        }
        TokenVerdict::Valid(record.info.clone())
    }

    /// A revoked token stays until its time is over, so that it can be told from an unknown one and its value cannot
    /// be pushed again.
    fn revoke_all(&self, _index: &Index, hashes: &[TokenHash]) -> usize {
        let mut revoked = 0;
        for hash in hashes {
            if let Some(mut record) = self.tokens.get_mut(hash)
                && !record.revoked
            {
                record.revoked = true;
                count(&self.counters.revoked);
                revoked += 1;
            }
        }
        revoked
    }

    /// Forgets tokens until one more of `info`'s client fits.
    fn make_room(&self, index: &mut Index, info: &TokenInfo, now: UnixSeconds) {
        while index.len() >= self.limits.entries && self.forget_expired(index, now) {}
        while let (count_now, Some(first)) = index.of_client(info)
            && count_now >= self.limits.entries_per_client
        {
            self.evict(index, first, now);
        }
        while index.len() >= self.limits.entries
            && let Some((_, first)) = index.next_due()
        {
            self.evict(index, first, now);
        }
    }

    fn evict(&self, index: &mut Index, hash: TokenHash, now: UnixSeconds) {
        let expired = self.forget(index, hash).is_some_and(|info| now >= info.expires);
        count(if expired { &self.counters.expired } else { &self.counters.evicted });
    }

    fn forget_expired(&self, index: &mut Index, now: UnixSeconds) -> bool {
        match index.next_due() {
            Some((expires, hash)) if now >= expires => {
                self.evict(index, hash, now);
                true
            }
            _ => false,
        }
    }

    fn forget(&self, index: &mut Index, hash: TokenHash) -> Option<TokenInfo> {
        let (_, record) = self.tokens.remove(&hash)?;
        index.remove(hash, &record.info);
        Some(record.info)
    }

    /// A panic under the lock cannot leave a half-done change that matters: the worst is a token that is forgotten
    /// late, so the poison is ignored.
    fn lock_index(&self) -> MutexGuard<'_, Index> {
        self.index.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use ring::rand::SystemRandom;

    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);
    const T0: UnixSeconds = UnixSeconds(1_700_000_000);

    fn cache(entries: usize, entries_per_client: usize) -> TokenCache {
        TokenCache::new(TokenLimits { entries, entries_per_client }, &SystemRandom::new()).unwrap()
    }

    fn token(value: &str) -> Secret<String> {
        Secret::new(value.to_owned())
    }

    fn of(username: &str, certificate: Option<u8>) -> Binding {
        let common_name = format!("{username}.example");
        Binding {
            username: username.to_owned(),
            certificate: certificate.map(|byte| [byte; 32]),
            common_name,
        }
    }

    fn later(seconds: u64) -> UnixSeconds {
        UnixSeconds(T0.0 + seconds)
    }

    #[test]
    fn a_token_is_its_clients_alone() {
        let cache = cache(10, 10);
        let alice = of("alice", Some(1));
        let info = cache.insert(&token("t0ken"), alice.clone(), Lineage(7), T0, HOUR).unwrap();
        assert_eq!((info.lineage, info.issued, info.expires), (Lineage(7), T0, later(3600)));
        let check = |value, who: &Binding| cache.check(&token(value), who, later(1));
        assert_eq!(check("t0ken", &alice), TokenVerdict::Valid(info));
        assert_eq!(check("t0ke", &alice), TokenVerdict::Unknown);
        assert_eq!(check("T0ken", &alice), TokenVerdict::Unknown);
        assert_eq!(check("t0ken", &of("Alice", Some(1))), TokenVerdict::WrongUser);
        assert_eq!(check("t0ken", &of("", Some(1))), TokenVerdict::WrongUser);
        assert_eq!(check("t0ken", &of("alice", Some(2))), TokenVerdict::WrongCertificate);
        assert_eq!(check("t0ken", &of("alice", None)), TokenVerdict::WrongCertificate);
        let stats = cache.stats();
        assert_eq!((stats.valid, stats.unknown, stats.wrong_client), (1, 2, 4));
    }

    #[test]
    fn a_token_ends_at_its_second() {
        let cache = cache(10, 10);
        let alice = of("alice", None);
        cache.insert(&token("t0ken"), alice.clone(), Lineage(1), T0, HOUR).unwrap();
        assert!(matches!(cache.check(&token("t0ken"), &alice, later(3599)), TokenVerdict::Valid(_)));
        assert_eq!(cache.check(&token("t0ken"), &alice, later(3600)), TokenVerdict::Expired);
        assert_eq!(cache.sweep(later(3599), 10), 0);
        assert_eq!(cache.sweep(later(3600), 10), 1);
        assert_eq!(cache.check(&token("t0ken"), &alice, later(3600)), TokenVerdict::Unknown);
        let stats = cache.stats();
        assert_eq!((stats.entries, stats.expired, stats.evicted), (0, 1, 0));
    }

    #[test]
    fn the_same_value_again_refreshes() {
        let cache = cache(10, 10);
        let alice = of("alice", Some(1));
        cache.insert(&token("t0ken"), alice.clone(), Lineage(1), T0, HOUR).unwrap();
        let info = cache.insert(&token("t0ken"), alice.clone(), Lineage(2), later(1800), HOUR).unwrap();
        assert_eq!((info.issued, info.expires, info.lineage), (T0, later(5400), Lineage(2)));
        assert_eq!(cache.stats().entries, 1);
        assert_eq!(cache.sweep(later(3600), 10), 0);
        assert!(matches!(cache.check(&token("t0ken"), &alice, later(5399)), TokenVerdict::Valid(_)));
        assert_eq!(cache.revoke_lineage(Lineage(1)), 0);
        let other = cache.insert(&token("t0ken"), of("mallory", Some(1)), Lineage(3), later(1), HOUR);
        assert_eq!(other, Err(TokenError::BoundToAnother));
        // Once it is over, the value is free for anybody.
        cache.insert(&token("t0ken"), of("bob", None), Lineage(4), later(5400), HOUR).unwrap();
        assert_eq!(cache.check(&token("t0ken"), &alice, later(5401)), TokenVerdict::WrongUser);
        let stats = cache.stats();
        assert_eq!((stats.inserted, stats.refreshed, stats.refused, stats.entries), (2, 1, 1, 1));
    }

    #[test]
    fn revoked_stays_revoked() {
        let cache = cache(100, 10);
        for (value, who, lineage) in [
            ("a1", of("alice", Some(1)), 1),
            ("a2", of("alice", Some(2)), 2),
            ("a3", of("alice", None), 3),
            ("b1", of("alicf", Some(1)), 4),
            ("c1", of("carol", Some(3)), 5),
            ("c2", of("carol", Some(3)), 5),
            ("c3", of("carol", Some(3)), 6),
        ] {
            cache.insert(&token(value), who, Lineage(lineage), T0, HOUR).unwrap();
        }
        assert_eq!(cache.revoke_user("alice"), 3);
        assert_eq!(cache.revoke_user("alice"), 0);
        assert_eq!(cache.revoke_user("nobody"), 0);
        assert_eq!(cache.revoke_lineage(Lineage(5)), 2);
        assert!(cache.revoke(&token("c3")));
        assert!(!cache.revoke(&token("c3")));
        assert!(!cache.revoke(&token("c4")));
        let check = |value, who: &Binding| cache.check(&token(value), who, later(1));
        assert_eq!(check("a3", &of("alice", None)), TokenVerdict::Revoked);
        assert_eq!(check("c1", &of("carol", Some(3))), TokenVerdict::Revoked);
        assert!(matches!(check("b1", &of("alicf", Some(1))), TokenVerdict::Valid(_)));
        let again = cache.insert(&token("a1"), of("alice", Some(1)), Lineage(9), later(2), HOUR);
        assert_eq!(again, Err(TokenError::Revoked));
        // A stranger does not learn that it was revoked.
        assert_eq!(check("a1", &of("bob", None)), TokenVerdict::WrongUser);
        assert_eq!(cache.stats().revoked, 6);
    }

    #[test]
    fn the_first_to_expire_makes_room() {
        let cache = cache(3, 2);
        let (alice, bob) = (of("alice", None), of("bob", None));
        cache.insert(&token("a1"), alice.clone(), Lineage(1), T0, 2 * HOUR).unwrap();
        cache.insert(&token("a2"), alice.clone(), Lineage(1), T0, HOUR).unwrap();
        cache.insert(&token("b1"), bob.clone(), Lineage(2), T0, HOUR / 2).unwrap();
        // A third one of alice's costs alice one, not bob.
        cache.insert(&token("a3"), alice.clone(), Lineage(1), later(1), HOUR).unwrap();
        assert_eq!(cache.check(&token("a2"), &alice, later(2)), TokenVerdict::Unknown);
        assert!(matches!(cache.check(&token("b1"), &bob, later(2)), TokenVerdict::Valid(_)));
        // A fourth client costs the first to expire, of all.
        cache.insert(&token("c1"), of("carol", None), Lineage(3), later(2), HOUR).unwrap();
        assert_eq!(cache.check(&token("b1"), &bob, later(3)), TokenVerdict::Unknown);
        assert_eq!((cache.stats().entries, cache.stats().evicted), (3, 2));
        // What is expired goes first and is no eviction.
        cache.insert(&token("b2"), bob.clone(), Lineage(2), later(3602), HOUR).unwrap();
        assert!(matches!(cache.check(&token("a1"), &alice, later(3602)), TokenVerdict::Valid(_)));
        assert_eq!((cache.stats().evicted, cache.stats().expired), (2, 1));
    }

    #[test]
    fn hostile_values_are_refused_and_unknown() {
        let cache = cache(1000, 1000);
        let alice = of("alice", None);
        for len in 0..=200 {
            let value = token(&"x".repeat(len));
            let taken = cache.insert(&value, alice.clone(), Lineage(1), T0, HOUR);
            let found = cache.check(&value, &alice, T0);
            if (1..=127).contains(&len) {
                assert!(taken.is_ok() && matches!(found, TokenVerdict::Valid(_)), "{len}");
            } else {
                assert_eq!((taken, found), (Err(TokenError::Length(len)), TokenVerdict::Unknown), "{len}");
            }
        }
        for byte in 0..=127u8 {
            let value = token(&format!("ab{}", char::from(byte)));
            let taken = cache.insert(&value, alice.clone(), Lineage(1), T0, HOUR);
            if byte.is_ascii_graphic() && !b",\"'\\".contains(&byte) {
                assert!(taken.is_ok(), "{byte:#x}");
            } else {
                assert_eq!(taken, Err(TokenError::Byte { byte, at: 2 }));
                assert_eq!(cache.check(&value, &alice, T0), TokenVerdict::Unknown);
            }
        }
        for (value, byte) in [("#a", b'#'), (";a", b';'), ("é", 0xc3), ("\0", 0), ("\u{7f}", 0x7f)] {
            let taken = cache.insert(&token(value), alice.clone(), Lineage(1), T0, HOUR);
            assert_eq!(taken, Err(TokenError::Byte { byte, at: 0 }));
        }
        // A NUL in the name of who presents it does not cut the comparison short.
        assert_eq!(cache.check(&token("x"), &of("alice\0x", None), T0), TokenVerdict::WrongUser);
        let nobody = of("", None);
        assert_eq!(cache.insert(&token("t"), nobody, Lineage(1), T0, HOUR), Err(TokenError::Unbound));
        let long = of(&"x".repeat(250), None);
        assert_eq!(cache.insert(&token("t"), long, Lineage(1), T0, HOUR), Err(TokenError::NameTooLong));
        let no_time = cache.insert(&token("t"), alice.clone(), Lineage(1), T0, Duration::ZERO);
        assert_eq!(no_time, Err(TokenError::NoLifetime));
        let forever = cache.insert(&token("t"), alice, Lineage(1), T0, Duration::MAX).unwrap();
        assert_eq!(forever.expires, UnixSeconds(u64::MAX));
    }

    #[test]
    fn nothing_prints_a_token() {
        let cache = cache(10, 10);
        cache.insert(&token("s3cr3t-value"), of("alice", None), Lineage(1), T0, HOUR).unwrap();
        let refused =
            cache.insert(&token("s3cr3t value"), of("alice", None), Lineage(1), T0, HOUR).unwrap_err();
        let printed = format!("{cache:?} {refused} {refused:?}");
        assert!(printed.contains("alice") && !printed.contains("s3cr3t"), "{printed}");
        let hash = TokenHash::of(&cache.pepper, &token("s3cr3t-value")).unwrap();
        assert_eq!(format!("{hash:?}"), "[hash]");
    }

    #[test]
    fn two_caches_have_two_peppers() {
        let (one, other) = (cache(1, 1), cache(1, 1));
        let hash = |cache: &TokenCache| TokenHash::of(&cache.pepper, &token("t0ken")).unwrap();
        assert!(hash(&one) == hash(&one));
        assert!(hash(&one) != hash(&other));
    }

    #[test]
    fn threads_never_see_anothers_token_and_the_limit_holds() {
        const THREADS: u64 = 8;
        const ROUNDS: u64 = 400;
        let cache = cache(100, 10);
        std::thread::scope(|scope| {
            for thread in 0..THREADS {
                let cache = &cache;
                scope.spawn(move || {
                    let me = of(&format!("user{thread}"), Some(thread as u8));
                    let neighbour = of(&format!("user{}", (thread + 1) % THREADS), None);
                    for round in 0..ROUNDS {
                        let now = later(round);
                        let value = token(&format!("t-{thread}-{}", round % 25));
                        let result = cache.insert(&value, me.clone(), Lineage(thread), now, HOUR / 60);
                        if result.is_ok() {
                            let found = cache.check(&value, &me, now);
                            // Another thread's clock may be ahead: then this one is forgotten early.
                            assert!(
                                matches!(&found, TokenVerdict::Valid(info) if info.binding == me)
                                    || found == TokenVerdict::Unknown,
                                "{found:?}"
                            );
                        } else {
                            assert_eq!(result, Err(TokenError::Revoked));
                        }
                        let theirs = token(&format!("t-{}-{}", (thread + 1) % THREADS, round % 25));
                        assert!(!matches!(cache.check(&theirs, &me, now), TokenVerdict::Valid(_)));
                        assert!(!matches!(cache.check(&theirs, &neighbour, now), TokenVerdict::Valid(_)));
                        match round % 16 {
                            3 => {
                                cache.sweep(now, 4);
                            }
                            7 => {
                                cache.revoke_user(&me.username);
                                let found = cache.check(&value, &me, now);
                                assert!(
                                    matches!(found, TokenVerdict::Revoked | TokenVerdict::Unknown),
                                    "{found:?}"
                                );
                            }
                            11 => {
                                cache.revoke_lineage(Lineage(thread));
                            }
                            _ => {}
                        }
                        assert!(cache.stats().entries <= 100);
                    }
                });
            }
        });
        let stats = cache.stats();
        assert_eq!(stats.entries as usize, cache.tokens.len());
        assert_eq!(stats.inserted + stats.refreshed + stats.refused, THREADS * ROUNDS);
        assert!(stats.valid > 0 && stats.revoked > 0);
        while cache.sweep(UnixSeconds(u64::MAX), 7) == 7 {}
        assert_eq!((cache.stats().entries, cache.tokens.len()), (0, 0));
    }

    #[derive(Debug, Clone)]
    enum Step {
        Insert { value: u8, user: u8, lineage: u8, lifetime: u8 },
        Check { value: u8, user: u8 },
        RevokeUser(u8),
        RevokeLineage(u8),
        Sweep(u8),
        Wait(u8),
    }

    fn step() -> impl Strategy<Value = Step> {
        let (value, user, few) = (0u8..12, 0u8..3, 0u8..4);
        prop_oneof![
            5 => (value.clone(), user.clone(), few.clone(), 1u8..20).prop_map(|(value, user, lineage, lifetime)| {
                Step::Insert { value, user, lineage, lifetime }
            }),
            5 => (value, user.clone()).prop_map(|(value, user)| Step::Check { value, user }),
            1 => user.prop_map(Step::RevokeUser),
            1 => few.clone().prop_map(Step::RevokeLineage),
            1 => few.prop_map(Step::Sweep),
            2 => (0u8..10).prop_map(Step::Wait),
        ]
    }

    proptest! {
        /// A token is valid only if a list of what was pushed says so, and index and shards agree.
        #[test]
        fn behaves_like_a_list(steps in prop::collection::vec(step(), 1..150)) {
            const LIMITS: (usize, usize) = (6, 4);
            let cache = cache(LIMITS.0, LIMITS.1);
            let mut now = T0;
            // value -> (user, lineage, expires, revoked)
            let mut pushed: std::collections::HashMap<u8, (u8, u8, UnixSeconds, bool)> = Default::default();
            let named = |user: u8| of(&format!("user{user}"), Some(user));
            for step in steps {
                match step {
                    Step::Insert { value, user, lineage, lifetime } => {
                        let lifetime = Duration::from_secs(lifetime.into());
                        let secret = token(&format!("t{value}"));
                        let done = cache.insert(&secret, named(user), Lineage(lineage.into()), now, lifetime);
                        match done {
                            Ok(_) => {
                                pushed.insert(value, (user, lineage, now.after(lifetime), false));
                            }
                            Err(TokenError::Revoked) => prop_assert!(pushed[&value].3),
                            Err(error) => {
                                prop_assert_eq!(error, TokenError::BoundToAnother);
                                prop_assert_ne!(pushed[&value].0, user);
                            }
                        }
                    }
                    Step::Check { value, user } => {
                        let found = cache.check(&token(&format!("t{value}")), &named(user), now);
                        match (found, pushed.get(&value)) {
                            (TokenVerdict::Valid(info), Some((owner, lineage, expires, revoked))) => {
                                prop_assert_eq!((user, *revoked), (*owner, false));
                                prop_assert!(now < *expires);
                                prop_assert_eq!((info.expires, info.lineage), (*expires, Lineage((*lineage).into())));
                            }
                            (TokenVerdict::Unknown, _) => {}
                            (TokenVerdict::WrongUser, Some((owner, ..))) => prop_assert_ne!(user, *owner),
                            (TokenVerdict::Revoked, Some((.., revoked))) => prop_assert!(*revoked),
                            (TokenVerdict::Expired, Some((_, _, expires, _))) => prop_assert!(now >= *expires),
                            (found, pushed) => prop_assert!(false, "{found:?} for {pushed:?}"),
                        }
                    }
                    Step::RevokeUser(user) => {
                        cache.revoke_user(&named(user).username);
                        pushed.values_mut().filter(|(owner, ..)| *owner == user).for_each(|entry| entry.3 = true);
                    }
                    Step::RevokeLineage(lineage) => {
                        cache.revoke_lineage(Lineage(lineage.into()));
                        pushed.values_mut().filter(|(_, of, ..)| *of == lineage).for_each(|entry| entry.3 = true);
                    }
                    Step::Sweep(budget) => {
                        prop_assert!(cache.sweep(now, budget.into()) <= usize::from(budget));
                    }
                    Step::Wait(seconds) => now = UnixSeconds(now.0 + u64::from(seconds)),
                }
                let index = cache.lock_index();
                prop_assert!(index.len() <= LIMITS.0);
                prop_assert_eq!(index.len(), cache.tokens.len());
                for entry in &cache.tokens {
                    prop_assert!(index.of_lineage(entry.info.lineage).contains(entry.key()));
                    prop_assert!(index.of_user(&entry.info.binding.username).contains(entry.key()));
                    prop_assert!(index.of_client(&entry.info).0 <= LIMITS.1);
                }
            }
        }
    }
}
