//! All that is known of tokens and logins, in memory and in the store.

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use ring::rand::SecureRandom;
use tessera_proto::Secret;

use super::binding::{Binding, Presented};
use super::cache::{TokenCache, TokenLimits, TokenStats};
use super::hash::TokenId;
use super::keys::{SigningKey, SigningKeys};
use super::list::{ListedToken, TokenFilter};
use super::locks::{LockedUser, UserLocks};
use super::otp::OtpCounters;
use super::record::{Lineage, TokenError, TokenInfo, TokenVerdict, UnixSeconds};
use super::revocations::{Revocation, Revocations, RevokeError, Scope, Subject};
use crate::store::{LoadReport, Opening, Record, Source, Store, StoreError, StoreStats, Written};

/// Tokens, revocations, locked users, one-time passwords and signing keys, each change of which goes to the store: there
/// is no other way to change them. All methods take `&self` and wait for nothing but short locks, never for the disk;
/// who must know that a change survives the process awaits [`Self::written`].
#[derive(Debug)]
pub struct Vault {
    // The store's writer ends before the state that it writes goes.
    store: Store,
    state: Arc<State>,
}

#[derive(Debug)]
struct State {
    tokens: TokenCache,
    revocations: Revocations,
    locks: UserLocks,
    otp: OtpCounters,
    keys: SigningKeys,
    /// The latest second that a token was stamped with: by a clock that is put back, tokens are from the future.
    newest: AtomicU64,
}

impl Vault {
    /// One that lives as long as the process.
    ///
    /// # Errors
    /// When the operating system gives no random bytes.
    pub fn in_memory(limits: TokenLimits, rng: &dyn SecureRandom) -> Result<Self, ring::error::Unspecified> {
        let state = Arc::new(State::new(TokenCache::new(limits, rng)?));
        Ok(Self { store: Store::Memory, state })
    }

    /// One that outlives the process, in a directory of an operator's. Blocks on the disk: call it at the start.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn open(
        directory: &Path,
        limits: TokenLimits,
        rng: &dyn SecureRandom,
        now: UnixSeconds,
    ) -> Result<(Self, LoadReport), StoreError> {
        let mut opening = Opening::open(directory, rng)?;
        let state = Arc::new(State::new(TokenCache::with_pepper(limits, opening.pepper())));
        opening.replay(|record| state.apply(record, now))?;
        let source: Arc<dyn Source> = Arc::<State>::clone(&state);
        let (journal, report) = opening.start(source)?;
        Ok((Self { store: Store::Journal(journal), state }, report))
    }

    /// When all that was changed before this call survives `kill -9`. Give it a short limit.
    pub fn written(&self) -> Written {
        self.store.written()
    }

    /// Takes a token that is about to be pushed ([`TokenCache::insert`]). A revocation that is in force does not kill
    /// it, whatever the clock says: it was not issued before.
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
        let dead_until = self.state.dead_until(&binding.presented());
        let issued = dead_until.map_or(now, |until| now.max(until.after(Duration::from_secs(1))));
        let (hash, info) = self.state.tokens.insert_issued(token, binding, lineage, now, lifetime, issued)?;
        self.stamped(info.issued);
        // The same value again keeps its time of issue, and so stays dead.
        if dead_until.is_some_and(|until| info.issued <= until) {
            return Err(TokenError::Revoked);
        }
        self.store.append(&Record::TokenPut { hash, info: info.clone(), revoked: false });
        Ok(info)
    }

    /// What to answer to a client that presents `token` as its password ([`TokenCache::check`]). A token that was
    /// revoked together with others, and a locked user's, is [`TokenVerdict::Revoked`].
    pub fn check(&self, token: &Secret<String>, presented: &Presented<'_>, now: UnixSeconds) -> TokenVerdict {
        self.state.tokens.check_with(token, presented, now, |token| {
            self.state.dead_until(presented).is_some_and(|until| token.issued <= until)
                || self.state.locks.is_locked(presented.username)
        })
    }

    /// The public name of a token; `None` when it cannot be one.
    pub fn id_of(&self, token: &Secret<String>) -> Option<TokenId> {
        self.state.tokens.hash(token).map(|hash| hash.id())
    }

    /// Revokes one token by its value; whether it was there and not revoked.
    pub fn revoke_token(&self, token: &Secret<String>) -> bool {
        let Some(hash) = self.state.tokens.hash(token) else { return false };
        self.journal_revoked(self.state.tokens.revoke_named(hash.id(), Some(hash)))
    }

    /// Revokes the token with this public name ([`TokenId`]); whether it was there and not revoked.
    pub fn revoke_id(&self, id: &str) -> bool {
        TokenId::parse(id).is_some_and(|id| self.journal_revoked(self.state.tokens.revoke_named(id, None)))
    }

    /// A token that is not in the cache was stamped with this second.
    pub fn stamped(&self, issued: UnixSeconds) {
        self.state.newest.fetch_max(issued.0, Ordering::Relaxed);
    }

    /// Kills all tokens of a scope, generated ones included, that were issued up to a time, `before` or now; how many of the
    /// cache that were. Without `before` those that are there are meant, also those of a clock that was put back since.
    /// `expires` says when no such token can be valid any more ([`Revocation::expires`]). Walks the cache
    /// unless the scope is a user or a session.
    ///
    /// # Errors
    /// [`RevokeError`]; then nothing has changed.
    pub fn revoke(
        &self,
        scope: Scope,
        before: Option<UnixSeconds>,
        expires: Option<UnixSeconds>,
        now: UnixSeconds,
    ) -> Result<usize, RevokeError> {
        let now = match before {
            Some(_) => now,
            None => now.max(UnixSeconds(self.state.newest.load(Ordering::Relaxed))),
        };
        let revocation = Revocation { scope, before: before.unwrap_or(now), expires };
        self.state.revocations.revoke(&revocation, now)?;
        let revoked = self.state.mark(&revocation);
        self.store.append(&Record::Revocation(revocation));
        Ok(revoked)
    }

    /// Whether a token is dead by a revocation, or its user is locked. For tokens that are not in the cache.
    pub fn is_revoked(&self, subject: &Subject<'_>) -> bool {
        self.state.revocations.is_revoked(subject) || self.state.locks.is_locked(subject.username)
    }

    /// Until when tokens of this subject must have been issued to be dead: the next one is stamped later.
    pub fn dead_until(&self, subject: &Subject<'_>) -> Option<UnixSeconds> {
        self.state.revocations.dead_until(subject)
    }

    /// All revocations that are remembered.
    pub fn revocations(&self) -> Vec<Revocation> {
        self.state.revocations.list()
    }

    /// Locks a user out; whether that is new.
    ///
    /// # Errors
    /// [`RevokeError`]; then nothing has changed.
    pub fn lock_user(&self, username: &str, now: UnixSeconds) -> Result<bool, RevokeError> {
        let change = self.state.locks.lock(username, now)?;
        if let Some(change) = change {
            self.store.append(&Record::Lock { username: username.to_owned(), change });
        }
        Ok(change.is_some())
    }

    /// Lets a user in again; whether it was locked.
    pub fn unlock_user(&self, username: &str) -> bool {
        let change = self.state.locks.unlock(username);
        if let Some(change) = change {
            self.store.append(&Record::Lock { username: username.to_owned(), change });
        }
        change.is_some()
    }

    /// Whether a user may not log in at all.
    pub fn is_locked(&self, username: &str) -> bool {
        self.state.locks.is_locked(username)
    }

    /// All locked users.
    pub fn locked_users(&self) -> Vec<LockedUser> {
        self.state.locks.list()
    }

    /// The last counter or time step of a user's one-time passwords.
    pub fn otp_used(&self, username: &str) -> Option<u64> {
        self.state.otp.last(username)
    }

    /// Uses a counter up ([`OtpCounters::advance`]): false when it, or a later one, is used up already. Of any number of
    /// threads one succeeds.
    pub fn use_otp(&self, username: &str, counter: u64) -> bool {
        let fresh = self.state.otp.advance(username, counter);
        if fresh {
            self.store.append(&Record::OtpUsed { username: username.to_owned(), counter });
        }
        fresh
    }

    /// Keys that sign generated tokens, the newest first: it signs, all verify.
    pub fn signing_keys(&self) -> Vec<SigningKey> {
        self.state.keys.list()
    }

    /// Takes one more key; the oldest goes when there are too many.
    pub fn add_signing_key(&self, key: SigningKey) {
        self.state.keys.add(key.clone());
        self.store.append(&Record::SigningKey(key));
    }

    /// A page of the tokens ([`TokenCache::list`]).
    pub fn list(&self, filter: &TokenFilter<'_>, limit: usize, after: Option<TokenId>) -> Vec<ListedToken> {
        let mut page = self.state.tokens.list(filter, limit, after);
        for token in &mut page {
            token.revoked |= self.state.is_dead(&token.info);
        }
        page
    }

    /// Forgets up to `budget` tokens whose time is over, and revocations that ended long ago; how many tokens. Call it from
    /// a timer. The store forgets them when it is compacted.
    pub fn sweep(&self, now: UnixSeconds, budget: usize) -> usize {
        self.state.revocations.sweep(now);
        self.state.tokens.sweep(now, budget)
    }

    /// Counters of the tokens.
    pub fn stats(&self) -> TokenStats {
        self.state.tokens.stats()
    }

    /// Counters of the store.
    pub fn store_stats(&self) -> StoreStats {
        self.store.stats()
    }

    /// Writes what is left; blocks for two seconds at most. Whether all was written. Later changes live in memory only.
    pub fn close(&self) -> bool {
        self.store.close()
    }

    fn journal_revoked(&self, revoked: Vec<(super::hash::TokenHash, UnixSeconds)>) -> bool {
        let any = !revoked.is_empty();
        for (hash, issued) in revoked {
            self.store.append(&Record::TokenRevoked { hash, issued });
        }
        any
    }
}

impl State {
    fn new(tokens: TokenCache) -> Self {
        Self {
            tokens,
            revocations: Revocations::default(),
            locks: UserLocks::default(),
            otp: OtpCounters::default(),
            keys: SigningKeys::default(),
            newest: AtomicU64::new(0),
        }
    }

    fn apply(&self, record: Record, now: UnixSeconds) {
        match record {
            Record::TokenPut { hash, info, revoked } => {
                self.newest.fetch_max(info.issued.0, Ordering::Relaxed);
                let revoked = revoked || self.is_dead(&info);
                self.tokens.restore(hash, info, revoked, now);
            }
            Record::TokenRevoked { hash, issued } => self.tokens.restore_revoked(&hash, issued),
            Record::Revocation(revocation) => {
                self.revocations.restore(&revocation);
                self.mark(&revocation);
            }
            Record::Lock { username, change } => self.locks.restore(&username, change),
            Record::OtpUsed { username, counter } => self.otp.restore(&username, counter),
            Record::SigningKey(key) => self.keys.add(key),
        }
    }

    /// Marks the tokens of the cache that a revocation kills, as they may live longer than it is remembered.
    fn mark(&self, revocation: &Revocation) -> usize {
        let before = revocation.before;
        match &revocation.scope {
            // Tokens of the cache have no session.
            Scope::Session(_) => 0,
            Scope::User(name) => self.tokens.revoke_user_before(name, before),
            Scope::Certificate(certificate) => self.tokens.revoke_where(|record| {
                record.issued() <= before && record.binding().certificate() == Some(certificate)
            }),
            Scope::Everything => self.tokens.revoke_where(|record| record.issued() <= before),
        }
    }

    fn is_dead(&self, info: &TokenInfo) -> bool {
        self.dead_until(&info.binding.presented()).is_some_and(|until| info.issued <= until)
    }

    fn dead_until(&self, presented: &Presented<'_>) -> Option<UnixSeconds> {
        self.revocations.dead_until(&Subject {
            session: None,
            username: presented.username,
            certificate: presented.certificate.copied(),
            issued: UnixSeconds(0),
        })
    }
}

impl Source for State {
    fn snapshot(&self, sink: &mut dyn FnMut(Record) -> ControlFlow<()>) {
        // Revocations first, so that a token that is read before one and written after it is dead as well.
        let small = self
            .keys
            .list()
            .into_iter()
            .map(Record::SigningKey)
            .chain(self.revocations.list().into_iter().map(Record::Revocation))
            .chain(
                self.locks.export().into_iter().map(|(username, change)| Record::Lock { username, change }),
            )
            .chain(
                self.otp
                    .export()
                    .into_iter()
                    .map(|(username, counter)| Record::OtpUsed { username, counter }),
            );
        for record in small {
            if sink(record).is_break() {
                return;
            }
        }
        // Who broke off knows.
        let _ = self.tokens.export(|records| {
            for record in records {
                let put = Record::TokenPut {
                    hash: record.hash(),
                    info: record.info(),
                    revoked: record.is_revoked(),
                };
                if sink(put).is_break() {
                    return Err(());
                }
            }
            Ok(())
        });
    }

    fn live_bytes(&self) -> u64 {
        let (tokens, token_names) = self.tokens.extent();
        let revocations = self.revocations.extent();
        let (locks, lock_names) = self.locks.extent();
        let (users, user_names) = self.otp.extent();
        let scopes = revocations.sessions * 12
            + revocations.users * 2
            + revocations.names
            + revocations.certificates * 32;
        let count =
            revocations.sessions + revocations.users + revocations.certificates + revocations.everything;
        let bytes = tokens * Record::TOKEN_BYTES
            + token_names
            + count * Record::REVOCATION_BYTES
            + scopes
            + locks * Record::LOCK_BYTES
            + lock_names
            + users * Record::OTP_BYTES
            + user_names
            + self.keys.len() * Record::KEY_BYTES;
        bytes as u64
    }
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead as _, BufReader, Write as _};
    use std::process::{Command, Stdio};
    use std::sync::atomic::AtomicUsize;

    use proptest::prelude::*;
    use ring::rand::SystemRandom;

    use super::*;
    use crate::store::test_record;

    const HOUR: Duration = Duration::from_secs(3600);
    const T0: UnixSeconds = UnixSeconds(1_700_000_000);

    fn later(seconds: u64) -> UnixSeconds {
        UnixSeconds(T0.0 + seconds)
    }

    fn token(value: &str) -> Secret<String> {
        Secret::new(value.to_owned())
    }

    fn of(username: &str, certificate: u8) -> Binding {
        Binding::new(username, Some([certificate; 32]), username).unwrap()
    }

    fn open(directory: &Path) -> Vault {
        Vault::open(directory, TokenLimits::default(), &SystemRandom::new(), T0).unwrap().0
    }

    fn in_memory() -> Vault {
        Vault::in_memory(TokenLimits::default(), &SystemRandom::new()).unwrap()
    }

    fn wait(vault: &Vault) -> bool {
        tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(vault.written())
    }

    /// All of the state, in an order that does not depend on how it came about.
    fn contents(state: &State) -> Vec<Vec<u8>> {
        let mut all = Vec::new();
        state.snapshot(&mut |record| {
            let mut bytes = Vec::new();
            assert!(record.encode(&mut bytes));
            all.push(bytes);
            ControlFlow::Continue(())
        });
        all.sort();
        all
    }

    fn is_valid(vault: &Vault, value: &str, who: &Binding, now: UnixSeconds) -> bool {
        matches!(vault.check(&token(value), &who.presented(), now), TokenVerdict::Valid(_))
    }

    #[test]
    fn everything_outlives_the_process() {
        let dir = tempfile::tempdir().unwrap();
        let (alice, bob, carol) = (of("alice", 1), of("bob", 2), of("carol", 3));
        let vault = open(dir.path());
        for (value, who) in [("a1", &alice), ("a2", &alice), ("b1", &bob), ("c1", &carol)] {
            vault.insert(&token(value), who.clone(), Lineage(1), T0, HOUR).unwrap();
        }
        assert!(vault.revoke_token(&token("a1")) && !vault.revoke_token(&token("a1")));
        assert_eq!(vault.revoke(Scope::User("bob".into()), None, Some(later(7200)), later(1)), Ok(1));
        assert_eq!(vault.lock_user("dave", T0), Ok(true));
        assert_eq!((vault.lock_user("erin", T0), vault.unlock_user("erin")), (Ok(true), true));
        assert!(vault.use_otp("alice", 7) && !vault.use_otp("alice", 7));
        vault.add_signing_key(SigningKey { key: Secret::new([9; 32]), made: T0 });
        assert!(wait(&vault));
        let before = contents(&vault.state);
        assert!(vault.close());
        drop(vault);

        let vault = open(dir.path());
        assert_eq!(contents(&vault.state), before);
        let check = |value, who: &Binding| vault.check(&token(value), &who.presented(), later(2));
        assert_eq!(check("a1", &alice), TokenVerdict::Revoked);
        assert!(is_valid(&vault, "a2", &alice, later(2)) && is_valid(&vault, "c1", &carol, later(2)));
        assert_eq!((check("a2", &bob), check("b1", &bob)), (TokenVerdict::WrongUser, TokenVerdict::Revoked));
        assert_eq!(check("a2", &alice), check("a2", &alice));
        assert!(vault.is_locked("dave") && !vault.is_locked("erin"));
        assert_eq!(
            (vault.otp_used("alice"), vault.use_otp("alice", 7), vault.use_otp("alice", 8)),
            (Some(7), false, true)
        );
        assert_eq!(vault.signing_keys(), [SigningKey { key: Secret::new([9; 32]), made: T0 }]);
        assert_eq!(vault.store_stats().size, std::fs::metadata(dir.path().join("journal")).unwrap().len());
    }

    #[test]
    fn a_revocation_kills_what_was_and_nothing_that_comes() {
        let vault = in_memory();
        let alice = of("alice", 1);
        vault.insert(&token("a1"), alice.clone(), Lineage(1), T0, HOUR).unwrap();
        assert_eq!(vault.revoke(Scope::Certificate([1; 32]), None, Some(later(100)), T0), Ok(1));
        let revoked =
            |value| vault.check(&token(value), &alice.presented(), later(1)) == TokenVerdict::Revoked;
        assert!(revoked("a1"));
        // The same value again, and a new one: in the same second, and by a clock that went back an hour.
        let insert = |value: &str, now| vault.insert(&token(value), alice.clone(), Lineage(2), now, 3 * HOUR);
        assert_eq!(insert("a1", T0), Err(TokenError::Revoked));
        assert_eq!(insert("a2", T0).unwrap().issued, later(1));
        assert_eq!(insert("a3", UnixSeconds(T0.0 - 3600)).unwrap().issued, later(1));
        assert!(is_valid(&vault, "a2", &alice, later(1)) && is_valid(&vault, "a3", &alice, later(1)));
        // It is forgotten one day, and the tokens that it killed stay dead.
        vault.insert(&token("long"), alice.clone(), Lineage(3), later(2), 1000 * HOUR).unwrap();
        assert_eq!(vault.revoke(Scope::Everything, None, Some(later(100)), later(3)), Ok(3));
        vault.sweep(later(200_000), 0);
        assert_eq!(vault.revocations(), []);
        assert_eq!(vault.check(&token("long"), &alice.presented(), later(200_000)), TokenVerdict::Revoked);
    }

    /// Whoever revokes means what is there, not what a clock says that was put back meanwhile.
    #[test]
    fn a_revocation_by_a_clock_that_went_back_kills_what_is_there() {
        for scope in [Scope::User("alice".to_owned()), Scope::Certificate([1; 32]), Scope::Everything] {
            for step in [3600, 86_400] {
                let dir = tempfile::tempdir().unwrap();
                let vault = open(dir.path());
                let alice = of("alice", 1);
                vault.insert(&token("a1"), alice.clone(), Lineage(1), T0, 100 * HOUR).unwrap();
                let back = UnixSeconds(T0.0 - step);
                assert_eq!(vault.revoke(scope.clone(), None, None, back), Ok(1));
                let check = |vault: &Vault, now| vault.check(&token("a1"), &alice.presented(), now);
                assert_eq!(check(&vault, back), TokenVerdict::Revoked);
                assert_eq!(check(&vault, T0), TokenVerdict::Revoked);
                vault.insert(&token("a2"), alice.clone(), Lineage(2), back, 100 * HOUR).unwrap();
                assert!(is_valid(&vault, "a2", &alice, back));
                assert!(wait(&vault) && vault.close());
                drop(vault);
                let vault = open(dir.path());
                assert_eq!(check(&vault, T0), TokenVerdict::Revoked, "after a restart");
                assert!(is_valid(&vault, "a2", &alice, T0));
            }
        }
    }

    #[test]
    fn a_locked_users_tokens_do_not_open() {
        let vault = in_memory();
        let alice = of("alice", 1);
        vault.insert(&token("a1"), alice.clone(), Lineage(1), T0, HOUR).unwrap();
        let subject = Subject { session: Some([1; 12]), username: "alice", certificate: None, issued: T0 };
        assert!(!vault.is_revoked(&subject));
        vault.lock_user("alice", T0).unwrap();
        assert!(vault.is_revoked(&subject));
        assert_eq!(vault.check(&token("a1"), &alice.presented(), T0), TokenVerdict::Revoked);
        assert_eq!(vault.stats().found_revoked, 1);
        assert!(vault.unlock_user("alice") && is_valid(&vault, "a1", &alice, T0));
    }

    #[test]
    fn of_many_threads_one_uses_a_password() {
        let dir = tempfile::tempdir().unwrap();
        let vault = open(dir.path());
        let won: Vec<AtomicUsize> = (0..500).map(|_| AtomicUsize::new(0)).collect();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for (counter, won) in won.iter().enumerate() {
                        if vault.use_otp("alice", counter as u64) {
                            won.fetch_add(1, Ordering::Relaxed);
                        }
                    }
                });
            }
        });
        assert!(won.iter().all(|won| won.load(Ordering::Relaxed) <= 1));
        assert_eq!(won.last().unwrap().load(Ordering::Relaxed), 1);
        drop(vault);
        assert_eq!(open(dir.path()).otp_used("alice"), Some(499));
    }

    #[test]
    fn a_compacted_journal_has_everything() {
        let dir = tempfile::tempdir().unwrap();
        let vault = open(dir.path());
        let alice = of("alice", 1);
        let mut round = 0;
        while vault.store_stats().compactions == 0 {
            for number in 0..60 {
                let value = token(&format!("t{number}"));
                vault.insert(&value, alice.clone(), Lineage(round), later(round), HOUR).unwrap();
            }
            vault.use_otp("alice", round);
            assert!(wait(&vault));
            round += 1;
            assert!(round < 1000);
        }
        let before = contents(&vault.state);
        assert!(vault.store_stats().size < 100_000);
        let live: usize = before.iter().map(Vec::len).sum();
        assert!(vault.state.live_bytes() >= live as u64 && vault.state.live_bytes() <= live as u64 + 100);
        drop(vault);
        assert_eq!(contents(&open(dir.path()).state), before);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(256))]

        /// A snapshot that is ahead of the records that follow it, as a compaction leaves it, makes the same state as the
        /// records alone.
        #[test]
        fn a_snapshot_may_be_ahead_of_its_records(
            mut records in prop::collection::vec(test_record(), 0..40),
            cuts in any::<[prop::sample::Index; 2]>(),
        ) {
            // One value is one client's, and what is revoked was there.
            let mut last = [UnixSeconds(1); 256];
            for record in &mut records {
                match record {
                    Record::TokenPut { hash, info, .. } => {
                        let value = usize::from(hash.as_bytes()[0]);
                        info.binding = Arc::new(of(&format!("user{}", value % 3), 1));
                        last[value] = info.issued.max(last[value]);
                    }
                    Record::TokenRevoked { hash, issued } => *issued = last[usize::from(hash.as_bytes()[0])],
                    _ => {}
                }
            }
            let apply = |vault: &Vault, records: &[Record]| {
                records.iter().for_each(|record| vault.state.apply(record.clone(), T0));
            };
            let mut cuts = cuts.map(|cut| cut.index(records.len() + 1));
            cuts.sort_unstable();
            let [queued, taken] = cuts;
            let (straight, first, second) = (in_memory(), in_memory(), in_memory());
            apply(&straight, &records);
            apply(&first, &records[..taken]);
            first.state.snapshot(&mut |record| {
                second.state.apply(record, T0);
                ControlFlow::Continue(())
            });
            prop_assert_eq!(contents(&first.state), contents(&second.state));
            apply(&second, &records[queued..]);
            prop_assert_eq!(contents(&straight.state), contents(&second.state));
        }
    }

    /// Runs one of the ignored tests below in a process of its own.
    fn child(test: &str, directory: &Path) -> Command {
        let mut command = Command::new("sh");
        // A soft limit of 16 blocks of 512 or 1024 bytes where the test asks for one.
        command.args(["-c", "[ -z \"$LIMIT\" ] || { trap '' XFSZ; ulimit -S -f 16; }; exec \"$@\"", "sh"]);
        command.arg(std::env::current_exe().unwrap());
        command.args(["--exact", &format!("tokens::vault::tests::{test}"), "--ignored", "--nocapture"]);
        command.env("TESSERA_TEST_STORE", directory).stdout(Stdio::piped()).stdin(Stdio::null());
        command
    }

    fn directory_of_child() -> std::path::PathBuf {
        std::env::var_os("TESSERA_TEST_STORE").expect("a directory: the test is another one's child").into()
    }

    #[test]
    fn what_was_written_survives_kill_9() {
        let dir = tempfile::tempdir().unwrap();
        let mut last = 0;
        for round in 0..4u64 {
            let mut child = child("child_uses_passwords", dir.path()).spawn().unwrap();
            let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
            let mut seen = 0;
            while seen < 50 + 333 * round {
                let line = lines.next().expect("the child goes on until it is killed").unwrap();
                seen += u64::from(line.starts_with("used "));
            }
            child.kill().unwrap();
            child.wait().unwrap();
            // The last lines that it printed before it died count too; the very last one may be torn.
            let said: Vec<u64> = lines
                .map_while(Result::ok)
                .filter_map(|line| line.strip_prefix("used ")?.parse().ok())
                .collect();
            let vault = open(dir.path());
            let known = vault.otp_used("alice").unwrap();
            assert!(known >= last + seen + said.len().saturating_sub(1) as u64, "{known} {last} {seen}");
            assert!(is_valid(&vault, &format!("t{known}"), &of("alice", 1), T0));
            last = known;
        }
    }

    #[test]
    #[ignore = "a child of what_was_written_survives_kill_9"]
    fn child_uses_passwords() {
        let vault = open(&directory_of_child());
        let mut counter = vault.otp_used("alice").unwrap_or(0);
        let mut out = std::io::stdout().lock();
        writeln!(out).unwrap();
        loop {
            counter += 1;
            vault.insert(&token(&format!("t{counter}")), of("alice", 1), Lineage(counter), T0, HOUR).unwrap();
            assert!(vault.use_otp("alice", counter) && wait(&vault));
            writeln!(out, "used {counter}").unwrap();
        }
    }

    #[test]
    fn a_limit_of_the_kernels_stops_nobody() {
        let dir = tempfile::tempdir().unwrap();
        let output = child("child_fills_the_disk", dir.path()).env("LIMIT", "1").output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
        assert_eq!(open(dir.path()).otp_used("alice"), Some(5000));
    }

    #[test]
    #[ignore = "a child of a_limit_of_the_kernels_stops_nobody"]
    fn child_fills_the_disk() {
        use nix::sys::resource::{Resource, getrlimit, setrlimit};
        let vault = open(&directory_of_child());
        let start = crate::clock::now();
        for counter in 1..=5000 {
            assert!(vault.use_otp("alice", counter));
        }
        assert!(start.elapsed() < Duration::from_secs(2), "nobody waits for the disk");
        let until = |done: &dyn Fn() -> bool| {
            while !done() {
                assert!(start.elapsed() < Duration::from_secs(60));
                std::thread::sleep(Duration::from_millis(50));
            }
        };
        until(&|| vault.store_stats().failing);
        let size = std::fs::metadata(directory_of_child().join("journal")).unwrap().len();
        assert!(size <= 16 * 1024, "{size}");
        let (_, hard) = getrlimit(Resource::RLIMIT_FSIZE).unwrap();
        setrlimit(Resource::RLIMIT_FSIZE, hard, hard).unwrap();
        assert!(wait(&vault), "the disk is tried again");
        until(&|| !vault.store_stats().failing);
        assert!(vault.store_stats().failures > 0);
    }
}
