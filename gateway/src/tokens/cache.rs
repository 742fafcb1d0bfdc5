//! The sharded token cache.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Duration;

use ring::rand::SecureRandom;
use tessera_proto::Secret;

use super::binding::{Binding, Presented, Tagger};
use super::hash::{Pepper, TokenHash, TokenId};
use super::index::{Index, Place, SHARDS};
use super::list::{ListedToken, MAX_LISTED, TokenFilter};
use super::record::{Lineage, MAX_TOKEN_BYTES, TokenError, TokenInfo, TokenVerdict, UnixSeconds, ValidToken};
use super::slots::{Record, Slots};
use super::table::MAX_SLOTS;

/// Most tokens of a cache: a part of the slots of all shards, as tokens do not spread over them evenly.
const MAX_ENTRIES: usize = 1 << 25;
const _: () = assert!(MAX_ENTRIES <= MAX_SLOTS * SHARDS / 4);

/// Most tokens of one client: they are walked when one of them must go.
const MAX_ENTRIES_PER_CLIENT: usize = 1024;

/// Least bytes of a cache: any single token fits.
const MIN_BYTES: usize = 64 * 1024;

/// Sets of counters of checks: as many as there are threads that check, on all but the largest machines.
const CHECKS: usize = 16;

thread_local! {
    /// Which set of counters is this thread's.
    static MINE: usize = {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        NEXT.fetch_add(1, Ordering::Relaxed) % CHECKS
    };
}

/// How many tokens are kept. Whatever is out of bounds is brought within.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TokenLimits {
    /// Of all clients together, at most 2^25. Above it the token that expires first is forgotten.
    pub entries: usize,
    /// Of one user with one certificate, at most 1024, so that nobody pushes the others' tokens out by logging in
    /// again and again.
    pub entries_per_client: usize,
    /// Of memory: an accounted estimate with tables and index. Above it the token that expires first is forgotten.
    pub bytes: usize,
}

impl Default for TokenLimits {
    /// 262,144 tokens, which take 40 to 80 MiB; 64 of one client are its devices and a day of logins. The bytes are for
    /// as many with the longest names.
    fn default() -> Self {
        Self { entries: 256 * 1024, entries_per_client: 64, bytes: 256 * 1024 * 1024 }
    }
}

impl TokenLimits {
    fn within_bounds(self) -> Self {
        Self {
            entries: self.entries.clamp(1, MAX_ENTRIES),
            entries_per_client: self.entries_per_client.clamp(1, MAX_ENTRIES_PER_CLIENT),
            bytes: self.bytes.max(MIN_BYTES),
        }
    }
}

/// Counters since the start, and how much there is now.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TokenStats {
    /// Tokens in the cache, expired and revoked ones that were not swept yet included.
    pub entries: u64,
    /// Users with a certificate, or without one, that have tokens in the cache.
    pub clients: u64,
    /// Estimate of what the entries take, with tables and index.
    pub bytes: u64,
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
/// A check takes one shard's read lock, and allocates nothing. Whatever changes the cache takes the index lock first
/// and shard locks under it, so that index and shards never disagree when the index lock is free.
#[derive(Debug)]
pub struct TokenCache {
    pepper: Pepper,
    tagger: Tagger,
    limits: TokenLimits,
    shards: Vec<Shard>,
    index: Mutex<Index>,
    counters: Counters,
    checks: [Checks; CHECKS],
}

/// On cache lines of its own, so that threads that check different tokens do not slow each other down.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Shard {
    slots: RwLock<Slots>,
}

/// By verdict. Each thread has its own as long as there are no more threads than sets, so that they do not pass one
/// cache line around.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Checks {
    valid: AtomicU64,
    unknown: AtomicU64,
    wrong_client: AtomicU64,
    expired: AtomicU64,
    revoked: AtomicU64,
}

#[derive(Debug, Default)]
struct Counters {
    inserted: AtomicU64,
    refreshed: AtomicU64,
    refused: AtomicU64,
    evicted: AtomicU64,
    expired: AtomicU64,
    revoked: AtomicU64,
}

impl TokenCache {
    /// An empty cache with a fresh pepper from `rng`.
    ///
    /// # Errors
    /// When the operating system gives no random bytes.
    pub fn new(limits: TokenLimits, rng: &dyn SecureRandom) -> Result<Self, ring::error::Unspecified> {
        let mut pepper = zeroize::Zeroizing::new([0; Pepper::BYTES]);
        rng.fill(&mut *pepper)?;
        Ok(Self::with_pepper(limits, Pepper::new(&pepper)))
    }

    /// An empty cache with the pepper of an earlier one.
    #[must_use]
    pub fn with_pepper(limits: TokenLimits, pepper: Pepper) -> Self {
        Self {
            tagger: Tagger::new(&pepper),
            pepper,
            limits: limits.within_bounds(),
            shards: (0..SHARDS).map(|_| Shard::default()).collect(),
            index: Mutex::default(),
            counters: Counters::default(),
            checks: Default::default(),
        }
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
        self.insert_issued(token, binding, lineage, now, lifetime, now).map(|(_, info)| info)
    }

    /// [`Self::insert`] of a token that counts as `issued` at another time if it is new.
    pub(super) fn insert_issued(
        &self,
        token: &Secret<String>,
        binding: Binding,
        lineage: Lineage,
        now: UnixSeconds,
        lifetime: Duration,
        issued: UnixSeconds,
    ) -> Result<(TokenHash, TokenInfo), TokenError> {
        let result = self.try_insert(token, binding, lineage, now, lifetime, issued);
        if result.is_err() {
            count(&self.counters.refused);
        }
        result
    }

    /// What to answer to a client that presents `token` as its password.
    pub fn check(&self, token: &Secret<String>, presented: &Presented<'_>, now: UnixSeconds) -> TokenVerdict {
        self.check_with(token, presented, now, |_| false)
    }

    /// [`Self::check`], where `is_dead` says of a token that is valid whether it was revoked together with others.
    pub(super) fn check_with(
        &self,
        token: &Secret<String>,
        presented: &Presented<'_>,
        now: UnixSeconds,
        is_dead: impl FnOnce(&ValidToken) -> bool,
    ) -> TokenVerdict {
        let mut verdict = self.verdict(token, presented, now);
        if let TokenVerdict::Valid(token) = &verdict
            && is_dead(token)
        {
            verdict = TokenVerdict::Revoked;
        }
        if let Some(checks) = self.checks.get(MINE.with(|mine| *mine)) {
            count(match &verdict {
                TokenVerdict::Valid(_) => &checks.valid,
                TokenVerdict::Unknown => &checks.unknown,
                TokenVerdict::WrongUser | TokenVerdict::WrongCertificate => &checks.wrong_client,
                TokenVerdict::Expired => &checks.expired,
                TokenVerdict::Revoked => &checks.revoked,
            });
        }
        verdict
    }

    /// Revokes one token by its value; whether it was there and not revoked.
    pub fn revoke(&self, token: &Secret<String>) -> bool {
        TokenHash::of(&self.pepper, token)
            .is_ok_and(|hash| !self.revoke_named(hash.id(), Some(hash)).is_empty())
    }

    /// Revokes the token with this public name ([`TokenId`]); whether it was there and not revoked.
    pub fn revoke_id(&self, id: &str) -> bool {
        TokenId::parse(id).is_some_and(|id| !self.revoke_named(id, None).is_empty())
    }

    /// Revokes every token of `username`, under whatever certificate; how many.
    pub fn revoke_user(&self, username: &str) -> usize {
        self.revoke_user_before(username, UnixSeconds(u64::MAX))
    }

    /// Revokes every token of one login, in all the sessions that came from it; how many. Walks the whole cache.
    pub fn revoke_lineage(&self, lineage: Lineage) -> usize {
        self.revoke_where(|record| record.lineage() == lineage)
    }

    /// Forgets up to `budget` tokens whose time is over; how many. Call it from a timer; a result of `budget` means
    /// that there may be more.
    pub fn sweep(&self, now: UnixSeconds, budget: usize) -> usize {
        let mut index = self.lock_index();
        (0..budget).take_while(|_| self.forget_expired(&mut index, now)).count()
    }

    /// A page of the tokens that `filter` lets through, in an order that does not change: at most `limit` and
    /// [`MAX_LISTED`] of those that follow `after`, the last one of the page before. Walks the cache shard by shard
    /// unless a username is given.
    pub fn list(&self, filter: &TokenFilter<'_>, limit: usize, after: Option<TokenId>) -> Vec<ListedToken> {
        let limit = limit.min(MAX_LISTED);
        let mut page = match filter.username {
            Some(username) => {
                let index = self.lock_index();
                let places = index.of_user(username);
                places.into_iter().filter_map(|place| self.listed(place)).collect()
            }
            None => self.walk_list(filter, limit, after),
        };
        page.retain(|token| {
            filter.matches(&token.info) && after.is_none_or(|after| key(after) < key(token.id))
        });
        page.sort_unstable_by_key(|token| key(token.id));
        page.truncate(limit);
        page
    }

    /// The counters now. Each is exact; together they are not one moment.
    pub fn stats(&self) -> TokenStats {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let checks = |of: fn(&Checks) -> &AtomicU64| self.checks.iter().map(|checks| read(of(checks))).sum();
        let counters = &self.counters;
        let (entries, clients, bytes) = {
            let index = self.lock_index();
            (index.len() as u64, index.clients() as u64, index.bytes() as u64)
        };
        TokenStats {
            entries,
            clients,
            bytes,
            inserted: read(&counters.inserted),
            refreshed: read(&counters.refreshed),
            refused: read(&counters.refused),
            evicted: read(&counters.evicted),
            expired: read(&counters.expired),
            revoked: read(&counters.revoked),
            valid: checks(|checks| &checks.valid),
            unknown: checks(|checks| &checks.unknown),
            wrong_client: checks(|checks| &checks.wrong_client),
            found_expired: checks(|checks| &checks.expired),
            found_revoked: checks(|checks| &checks.revoked),
        }
    }

    /// Revokes tokens of `username` that were issued at or before a time; how many.
    pub(super) fn revoke_user_before(&self, username: &str, before: UnixSeconds) -> usize {
        let index = self.lock_index();
        let places = index.of_user(username);
        places.into_iter().filter(|place| self.revoke_at(*place, |record| record.issued() <= before)).count()
    }

    /// Revokes what is `dead`, shard by shard; how many. A token that comes meanwhile may be missed.
    pub(super) fn revoke_where(&self, dead: impl Fn(&Record) -> bool) -> usize {
        let mut revoked = 0;
        for shard in &self.shards {
            // Nobody is kept waiting for longer than one shard takes.
            let _index = self.lock_index();
            let mut slots = shard.write();
            revoked += slots
                .iter_mut()
                .filter(|record| dead(record))
                .filter_map(|r| r.revoke().then_some(()))
                .count();
        }
        self.counters.revoked.fetch_add(revoked as u64, Ordering::Relaxed);
        revoked
    }

    /// Revokes by public name, or only the one with `hash`; the tokens that were not revoked yet, and when they were issued.
    pub(super) fn revoke_named(&self, id: TokenId, hash: Option<TokenHash>) -> Vec<(TokenHash, UnixSeconds)> {
        let _index = self.lock_index();
        let at = shard_of_id(id);
        let Some(shard) = self.shards.get(at) else { return Vec::new() };
        let slots = shard.read().named(id);
        let mut revoked = Vec::new();
        for slot in slots {
            if self.revoke_at(Place::new(at, slot), |record| hash.is_none_or(|hash| hash == record.hash()))
                && let Some(record) = shard.read().get(slot)
            {
                revoked.push((record.hash(), record.issued()));
            }
        }
        revoked
    }

    /// The hash of `token` and when it was issued, if it is there.
    pub(super) fn hash(&self, token: &Secret<String>) -> Option<TokenHash> {
        TokenHash::of(&self.pepper, token).ok()
    }

    /// Takes a token from a record of an earlier one. A record of the same value that was issued earlier changes
    /// nothing, one that was issued at the same time does not undo a revocation: whoever applies the same records
    /// again, in order and up to any of them, ends with the same.
    pub(super) fn restore(&self, hash: TokenHash, info: TokenInfo, revoked: bool, now: UnixSeconds) {
        let mut index = self.lock_index();
        let mut revoked = revoked;
        if let Some((place, known)) = self.find(&hash) {
            if info.issued < known.issued() {
                return;
            }
            revoked |= info.issued == known.issued() && known.is_revoked();
            self.forget(&mut index, place);
        }
        self.make_room(&mut index, &info.binding, now);
        self.put(&mut index, None, hash, info, revoked);
    }

    /// Revokes the token with `hash` if it is the one that was issued at that time.
    pub(super) fn restore_revoked(&self, hash: &TokenHash, issued: UnixSeconds) {
        let _index = self.lock_index();
        if let Some((place, _)) = self.find(hash) {
            self.revoke_at(place, |record| record.issued() == issued);
        }
    }

    /// Calls `take` with copies of each shard's records, under no lock.
    ///
    /// # Errors
    /// Those of `take`, at once.
    pub(super) fn export<E>(&self, mut take: impl FnMut(Vec<Record>) -> Result<(), E>) -> Result<(), E> {
        for shard in &self.shards {
            let records: Vec<Record> = shard.read().iter().cloned().collect();
            take(records)?;
        }
        Ok(())
    }

    /// Tokens, and the bytes of their clients' names, counted once for each token.
    pub(super) fn extent(&self) -> (usize, usize) {
        let index = self.lock_index();
        (index.len(), index.names_of_tokens())
    }

    fn try_insert(
        &self,
        token: &Secret<String>,
        binding: Binding,
        lineage: Lineage,
        now: UnixSeconds,
        lifetime: Duration,
        issued: UnixSeconds,
    ) -> Result<(TokenHash, TokenInfo), TokenError> {
        if lifetime.is_zero() {
            return Err(TokenError::NoLifetime);
        }
        let hash = TokenHash::of(&self.pepper, token)?;
        let expires = now.after(lifetime);
        let mut index = self.lock_index();
        let known = self.find(&hash);
        let (mut issued, mut at) = (issued, None);
        match known {
            Some((place, known)) if now < known.expires => {
                if known.is_revoked() {
                    return Err(TokenError::Revoked);
                }
                if known.binding().mismatch(&binding.presented()).is_some() {
                    return Err(TokenError::BoundToAnother);
                }
                issued = known.issued();
                at = Some(place);
                index.remove(place, known.expires);
                count(&self.counters.refreshed);
            }
            known => {
                if let Some((place, _)) = known {
                    self.forget(&mut index, place);
                }
                self.make_room(&mut index, &binding, now);
                count(&self.counters.inserted);
            }
        }
        let info = TokenInfo { binding: Arc::new(binding), lineage, issued, expires };
        Ok((hash, self.put(&mut index, at, hash, info, false)))
    }

    fn verdict(&self, token: &Secret<String>, presented: &Presented<'_>, now: UnixSeconds) -> TokenVerdict {
        // What cannot be a token is not worth a hash, however long it is.
        if token.expose().len() > MAX_TOKEN_BYTES {
            return TokenVerdict::Unknown;
        }
        let hash = TokenHash::of_any(&self.pepper, token);
        let tag = self.tagger.tag(presented);
        let Some(shard) = self.shards.get(shard_of(&hash)) else {
            return TokenVerdict::Unknown;
        };
        let slots = shard.read();
        let Some((_, record)) = slots.find(&hash) else {
            return TokenVerdict::Unknown;
        };
        if !record.is_for(&tag) {
            // Another client's; the binding says in what.
            return record.binding().mismatch(presented).unwrap_or(TokenVerdict::WrongUser);
        }
        if record.is_revoked() {
            return TokenVerdict::Revoked;
        }
        if now >= record.expires {
            return TokenVerdict::Expired;
        }
        TokenVerdict::Valid(record.valid())
    }

    /// Writes a record `at` its place, or at a new one, and adds it to the index.
    fn put(
        &self,
        index: &mut Index,
        at: Option<Place>,
        hash: TokenHash,
        mut info: TokenInfo,
        revoked: bool,
    ) -> TokenInfo {
        let (client, binding, others) = index.intern(info.binding);
        for place in others {
            self.with_record(place, |record| record.rebind(Arc::clone(&binding)));
        }
        info.binding = binding;
        let tag = self.tagger.tag(&info.binding.presented());
        let record = Record::new(hash, tag, info.clone(), revoked);
        let place = match at {
            Some(place) => {
                self.with_record(place, |known| *known = record);
                place
            }
            None => {
                let shard = shard_of(&hash);
                let slot = self.shards.get(shard).map_or(0, |shard| shard.write().insert(record));
                Place::new(shard, slot)
            }
        };
        index.add(place, client, info.expires);
        info
    }

    fn find(&self, hash: &TokenHash) -> Option<(Place, Record)> {
        let at = shard_of(hash);
        let slots = self.shards.get(at)?.read();
        slots.find(hash).map(|(slot, record)| (Place::new(at, slot), record.clone()))
    }

    fn with_record<T>(&self, place: Place, change: impl FnOnce(&mut Record) -> T) -> Option<T> {
        self.shards.get(place.shard())?.write().get_mut(place.slot()).map(change)
    }

    /// A revoked token stays until its time is over, so that it can be told from an unknown one and its value cannot
    /// be pushed again. Call it under the index lock.
    fn revoke_at(&self, place: Place, dead: impl FnOnce(&Record) -> bool) -> bool {
        let revoked = self.with_record(place, |record| dead(record) && record.revoke()) == Some(true);
        if revoked {
            count(&self.counters.revoked);
        }
        revoked
    }

    /// Forgets tokens until one more of `binding`'s client fits.
    fn make_room(&self, index: &mut Index, binding: &Binding, now: UnixSeconds) {
        let is_full = |index: &Index| {
            index.len() >= self.limits.entries || index.bytes() + index.cost(binding) > self.limits.bytes
        };
        while is_full(index) && self.forget_expired(index, now) {}
        while let Some(client) = index.client(&binding.presented())
            && index.count(client) >= self.limits.entries_per_client
            && let Some(first) = self.first_due(index.tokens(client))
        {
            self.evict(index, first, now);
        }
        while is_full(index)
            && let Some((_, first)) = index.next_due()
        {
            self.evict(index, first, now);
        }
    }

    /// Of one client's tokens, the one that expires first.
    fn first_due(&self, places: Vec<Place>) -> Option<Place> {
        places.into_iter().min_by_key(|place| {
            let slots = self.shards.get(place.shard()).map(Shard::read);
            slots.and_then(|slots| slots.get(place.slot()).map(|record| record.expires))
        })
    }

    fn evict(&self, index: &mut Index, place: Place, now: UnixSeconds) {
        let expired = self.forget(index, place).is_some_and(|expires| now >= expires);
        count(if expired { &self.counters.expired } else { &self.counters.evicted });
    }

    fn forget_expired(&self, index: &mut Index, now: UnixSeconds) -> bool {
        match index.next_due() {
            Some((expires, place)) if now >= expires => {
                self.evict(index, place, now);
                true
            }
            _ => false,
        }
    }

    fn forget(&self, index: &mut Index, place: Place) -> Option<UnixSeconds> {
        let record = self.shards.get(place.shard())?.write().remove(place.slot())?;
        index.remove(place, record.expires);
        Some(record.expires)
    }

    fn listed(&self, place: Place) -> Option<ListedToken> {
        self.shards.get(place.shard())?.read().get(place.slot()).map(ListedToken::of)
    }

    fn walk_list(&self, filter: &TokenFilter<'_>, limit: usize, after: Option<TokenId>) -> Vec<ListedToken> {
        let mut page = Vec::new();
        for shard in self.shards.iter().skip(after.map_or(0, shard_of_id)) {
            let mut more: Vec<ListedToken> = shard
                .read()
                .iter()
                .filter(|record| after.is_none_or(|after| key(after) < key(record.hash().id())))
                .filter(|record| filter.matches_binding(record.binding()))
                .map(ListedToken::of)
                .collect();
            more.sort_unstable_by_key(|token| key(token.id));
            page.append(&mut more);
            if page.len() >= limit {
                break;
            }
        }
        page
    }

    /// A panic under the lock cannot leave a half-done change that matters: the worst is a token that is forgotten
    /// late, so the poison is ignored.
    fn lock_index(&self) -> MutexGuard<'_, Index> {
        self.index.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Shard {
    fn read(&self) -> RwLockReadGuard<'_, Slots> {
        self.slots.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Slots> {
        self.slots.write().unwrap_or_else(PoisonError::into_inner)
    }
}

fn shard_of(hash: &TokenHash) -> usize {
    shard_of_id(hash.id())
}

/// Bits that the tables inside the shards use neither for the line nor for the tag.
fn shard_of_id(id: TokenId) -> usize {
    (id.0 >> 40) as usize % SHARDS
}

/// The order of a list: shard by shard.
fn key(id: TokenId) -> (usize, TokenId) {
    (shard_of_id(id), id)
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
        let limits = TokenLimits { entries, entries_per_client, bytes: usize::MAX };
        TokenCache::new(limits, &SystemRandom::new()).unwrap()
    }

    fn token(value: &str) -> Secret<String> {
        Secret::new(value.to_owned())
    }

    fn of(username: &str, certificate: Option<u8>) -> Binding {
        let common_name = format!("{username}.example");
        Binding::new(username, certificate.map(|byte| [byte; 32]), &common_name).unwrap()
    }

    fn valid(info: &TokenInfo) -> ValidToken {
        ValidToken { lineage: info.lineage, issued: info.issued, expires: info.expires }
    }

    fn records(cache: &TokenCache) -> Vec<Record> {
        let mut all = Vec::new();
        cache
            .export(|mut records| {
                all.append(&mut records);
                Ok::<_, ()>(())
            })
            .unwrap();
        all
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
        let check = |value, who: &Binding| cache.check(&token(value), &who.presented(), later(1));
        assert_eq!(check("t0ken", &alice), TokenVerdict::Valid(valid(&info)));
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
        assert!(matches!(
            cache.check(&token("t0ken"), &alice.presented(), later(3599)),
            TokenVerdict::Valid(_)
        ));
        assert_eq!(cache.check(&token("t0ken"), &alice.presented(), later(3600)), TokenVerdict::Expired);
        assert_eq!(cache.sweep(later(3599), 10), 0);
        assert_eq!(cache.sweep(later(3600), 10), 1);
        assert_eq!(cache.check(&token("t0ken"), &alice.presented(), later(3600)), TokenVerdict::Unknown);
        let stats = cache.stats();
        assert_eq!((stats.entries, stats.expired, stats.evicted), (0, 1, 0));
    }

    /// Pushed tokens live by the wall clock. A step ends none that has more life left than the step is long, and no token
    /// lives longer than the step makes it.
    #[test]
    fn a_clock_that_is_set_ends_no_living_token() {
        let cache = cache(10, 10);
        let alice = of("alice", None);
        let at = |seconds: i64| UnixSeconds(T0.0.checked_add_signed(seconds).unwrap());
        let check = |value, seconds| cache.check(&token(value), &alice.presented(), at(seconds));
        cache.insert(&token("t0ken"), alice.clone(), Lineage(1), T0, 12 * HOUR).unwrap();
        for seconds in [60, 3660, 60 - 3600, 60 - 86_400] {
            assert!(matches!(check("t0ken", seconds), TokenVerdict::Valid(_)), "{seconds}");
            assert_eq!(cache.sweep(at(seconds), 10), 0);
        }
        // Too far ahead it is over, and good again once the clock is right, if nobody has swept meanwhile.
        assert_eq!(check("t0ken", 86_400), TokenVerdict::Expired);
        assert!(matches!(check("t0ken", 60), TokenVerdict::Valid(_)));
        assert_eq!(cache.sweep(at(86_400), 10), 1);
        assert_eq!(check("t0ken", 60), TokenVerdict::Unknown);
        // A token of a clock that is a day behind is no exception to its lifetime.
        cache.insert(&token("late"), alice.clone(), Lineage(2), at(-86_400), 12 * HOUR).unwrap();
        assert!(matches!(check("late", -86_400 + 60), TokenVerdict::Valid(_)));
        assert_eq!(check("late", 60), TokenVerdict::Expired);
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
        assert!(matches!(
            cache.check(&token("t0ken"), &alice.presented(), later(5399)),
            TokenVerdict::Valid(_)
        ));
        assert_eq!(cache.revoke_lineage(Lineage(1)), 0);
        let other = cache.insert(&token("t0ken"), of("mallory", Some(1)), Lineage(3), later(1), HOUR);
        assert_eq!(other, Err(TokenError::BoundToAnother));
        // Once it is over, the value is free for anybody.
        cache.insert(&token("t0ken"), of("bob", None), Lineage(4), later(5400), HOUR).unwrap();
        assert_eq!(cache.check(&token("t0ken"), &alice.presented(), later(5401)), TokenVerdict::WrongUser);
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
        let check = |value, who: &Binding| cache.check(&token(value), &who.presented(), later(1));
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
        assert_eq!(cache.check(&token("a2"), &alice.presented(), later(2)), TokenVerdict::Unknown);
        assert!(matches!(cache.check(&token("b1"), &bob.presented(), later(2)), TokenVerdict::Valid(_)));
        // A fourth client costs the first to expire, of all.
        cache.insert(&token("c1"), of("carol", None), Lineage(3), later(2), HOUR).unwrap();
        assert_eq!(cache.check(&token("b1"), &bob.presented(), later(3)), TokenVerdict::Unknown);
        assert_eq!((cache.stats().entries, cache.stats().evicted), (3, 2));
        // What is expired goes first and is no eviction.
        cache.insert(&token("b2"), bob.clone(), Lineage(2), later(3602), HOUR).unwrap();
        assert!(matches!(cache.check(&token("a1"), &alice.presented(), later(3602)), TokenVerdict::Valid(_)));
        assert_eq!((cache.stats().evicted, cache.stats().expired), (2, 1));
    }

    #[test]
    fn hostile_values_are_refused_and_unknown() {
        let cache = cache(1000, 1000);
        let alice = of("alice", None);
        for len in 0..=200 {
            let value = token(&"x".repeat(len));
            let taken = cache.insert(&value, alice.clone(), Lineage(1), T0, HOUR);
            let found = cache.check(&value, &alice.presented(), T0);
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
                assert_eq!(cache.check(&value, &alice.presented(), T0), TokenVerdict::Unknown);
            }
        }
        for (value, byte) in [("#a", b'#'), (";a", b';'), ("é", 0xc3), ("\0", 0), ("\u{7f}", 0x7f)] {
            let taken = cache.insert(&token(value), alice.clone(), Lineage(1), T0, HOUR);
            assert_eq!(taken, Err(TokenError::Byte { byte, at: 0 }));
        }
        // A NUL in the name of who presents it does not cut the comparison short.
        assert_eq!(cache.check(&token("x"), &of("alice\0x", None).presented(), T0), TokenVerdict::WrongUser);
        // Neither can a client without a name and a certificate use one.
        let nobody = Presented { username: "", certificate: None };
        assert_eq!(cache.check(&token("x"), &nobody, T0), TokenVerdict::WrongUser);
        let long = "x".repeat(1000);
        let presented = Presented { username: &long, certificate: None };
        assert_eq!(cache.check(&token("x"), &presented, T0), TokenVerdict::WrongUser);
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
                            let found = cache.check(&value, &me.presented(), now);
                            // Another thread's clock may be ahead: then this one is forgotten early.
                            assert!(
                                matches!(&found, TokenVerdict::Valid(of) if of.lineage == Lineage(thread))
                                    || found == TokenVerdict::Unknown,
                                "{found:?}"
                            );
                        } else {
                            assert_eq!(result, Err(TokenError::Revoked));
                        }
                        let theirs = token(&format!("t-{}-{}", (thread + 1) % THREADS, round % 25));
                        assert!(!matches!(
                            cache.check(&theirs, &me.presented(), now),
                            TokenVerdict::Valid(_)
                        ));
                        assert!(!matches!(
                            cache.check(&theirs, &neighbour.presented(), now),
                            TokenVerdict::Valid(_)
                        ));
                        match round % 16 {
                            3 => {
                                cache.sweep(now, 4);
                            }
                            7 => {
                                cache.revoke_user(me.username());
                                let found = cache.check(&value, &me.presented(), now);
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
        assert_eq!(stats.entries as usize, records(&cache).len());
        assert_eq!(stats.inserted + stats.refreshed + stats.refused, THREADS * ROUNDS);
        assert!(stats.valid > 0 && stats.revoked > 0);
        while cache.sweep(UnixSeconds(u64::MAX), 7) == 7 {}
        assert_eq!((cache.stats().entries, records(&cache).len()), (0, 0));
    }

    #[test]
    fn bytes_are_bounded_and_accounted() {
        let limits = TokenLimits { entries: 1 << 20, entries_per_client: 8, bytes: 0 };
        let cache = TokenCache::new(limits, &SystemRandom::new()).unwrap();
        for number in 0..2000u64 {
            let who = of(&format!("{number}{}", "x".repeat(200)), Some(1));
            cache.insert(&token(&format!("t{number}")), who, Lineage(1), later(number), HOUR).unwrap();
            let bytes = cache.stats().bytes;
            assert!(bytes <= MIN_BYTES as u64, "{bytes}");
        }
        let stats = cache.stats();
        assert!((50..300).contains(&stats.entries), "{stats:?}");
        assert_eq!((stats.evicted, stats.clients), (2000 - stats.entries, stats.entries));
        while cache.sweep(UnixSeconds(u64::MAX), 7) == 7 {}
        assert_eq!((cache.stats().bytes, cache.stats().clients, cache.extent()), (0, 0, (0, 0)));
    }

    #[test]
    fn a_new_common_name_is_all_the_clients_tokens() {
        let cache = cache(10, 10);
        let named = |common_name| Binding::new("alice", Some([1; 32]), common_name).unwrap();
        cache.insert(&token("a1"), named("old"), Lineage(1), T0, HOUR).unwrap();
        cache.insert(&token("a2"), named("newer name"), Lineage(1), T0, HOUR).unwrap();
        for value in ["a1", "a2"] {
            let found = cache.check(&token(value), &named("").presented(), T0);
            assert!(matches!(found, TokenVerdict::Valid(_)));
        }
        let filter = TokenFilter { username: None, common_name: Some("newer name") };
        assert_eq!(cache.list(&filter, 10, None).len(), 2);
        assert_eq!(cache.extent(), (2, 2 * "alicenewer name".len()));
    }

    #[test]
    fn a_list_has_pages_and_its_names_revoke() {
        let cache = cache(1000, 1000);
        for number in 0..300u64 {
            let who = of(["alice", "bob", "carol"][number as usize % 3], Some(number as u8 % 2));
            cache.insert(&token(&format!("t{number}")), who, Lineage(1), T0, HOUR).unwrap();
        }
        let pages = |filter: TokenFilter<'_>, limit| {
            let (mut all, mut after) = (Vec::<ListedToken>::new(), None);
            loop {
                let page = cache.list(&filter, limit, after);
                assert!(page.len() <= limit);
                let Some(last) = page.last() else { break all };
                after = Some(last.id);
                all.extend(page);
            }
        };
        for (filter, expected) in [
            (TokenFilter::default(), 300),
            (TokenFilter { username: Some("bob"), common_name: None }, 100),
            (TokenFilter { username: None, common_name: Some("bob.example") }, 100),
            (TokenFilter { username: Some("bob"), common_name: Some("carol.example") }, 0),
            (TokenFilter { username: Some("nobody"), common_name: None }, 0),
        ] {
            let all = pages(filter, 7);
            let mut ids: Vec<_> = all.iter().map(|token| token.id).collect();
            ids.sort_unstable();
            ids.dedup();
            assert_eq!((all.len(), ids.len()), (expected, expected), "{filter:?}");
            assert!(all.iter().all(|token| filter.matches(&token.info)));
            assert_eq!(pages(filter, MAX_LISTED), all);
        }
        let one = cache.list(&TokenFilter::default(), 1, None).remove(0);
        assert!(cache.revoke_id(&one.id.to_string()));
        assert!(!cache.revoke_id(&one.id.to_string()));
        assert!(!cache.revoke_id("0000000000000000") && !cache.revoke_id("t1") && !cache.revoke_id(""));
        assert!(cache.list(&TokenFilter::default(), 1, None).remove(0).revoked);
        assert_eq!(cache.stats().revoked, 1);
        // Its name is no token.
        let found = cache.check(&token(&one.id.to_string()), &one.info.binding.presented(), T0);
        assert_eq!(found, TokenVerdict::Unknown);
    }

    #[test]
    fn records_restore_the_same_whatever_is_applied_again() {
        let source = cache(10, 10);
        let alice = of("alice", None);
        let info = source.insert(&token("a1"), alice.clone(), Lineage(1), T0, HOUR).unwrap();
        source.insert(&token("a2"), alice.clone(), Lineage(1), T0, HOUR).unwrap();
        let copy = TokenCache::with_pepper(source.limits, source.pepper.clone());
        let hash = source.hash(&token("a1")).unwrap();
        for _ in 0..2 {
            for record in records(&source) {
                copy.restore(record.hash(), record.info(), record.is_revoked(), T0);
            }
            copy.restore_revoked(&hash, T0);
        }
        assert_eq!(copy.check(&token("a1"), &alice.presented(), T0), TokenVerdict::Revoked);
        assert!(matches!(copy.check(&token("a2"), &alice.presented(), T0), TokenVerdict::Valid(_)));
        // The value is over and comes anew; what is said of its first life changes nothing.
        let again = TokenInfo { issued: later(3600), expires: later(7200), ..info.clone() };
        copy.restore(hash, again.clone(), false, T0);
        copy.restore(hash, info, true, T0);
        copy.restore_revoked(&hash, T0);
        assert_eq!(
            copy.check(&token("a1"), &alice.presented(), later(3601)),
            TokenVerdict::Valid(valid(&again))
        );
        assert_eq!((copy.stats().entries, copy.extent()), (2, source.extent()));
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
                        let found = cache.check(&token(&format!("t{value}")), &named(user).presented(), now);
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
                        cache.revoke_user(named(user).username());
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
                let all = records(&cache);
                let index = cache.lock_index();
                prop_assert!(index.len() <= LIMITS.0);
                prop_assert_eq!(index.len(), all.len());
                prop_assert_eq!(index.next_due().map(|(due, _)| due), all.iter().map(|r| r.expires).min());
                prop_assert_eq!(index.names_of_tokens(), all.iter().map(|r| r.binding().names_len()).sum::<usize>());
                for record in &all {
                    let (place, _) = cache.find(&record.hash()).unwrap();
                    prop_assert!(index.of_user(record.binding().username()).contains(&place));
                    let client = index.client(&record.binding().presented()).unwrap();
                    prop_assert!(index.tokens(client).contains(&place));
                    prop_assert_eq!(index.tokens(client).len(), index.count(client));
                    prop_assert!(index.count(client) <= LIMITS.1);
                }
            }
        }
    }
}
