//! All that is known of tokens and logins, in memory and in the store.

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;
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
        self.state.tokens.check_with(token, presented, now, |info| {
            self.state.is_dead(info) || self.state.locks.is_locked(info.binding.username())
        })
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

    /// Kills all tokens of a scope, generated ones included, that were issued up to a time, `before` or now; how many of the
    /// cache that were. `expires` says when no such token can be valid any more ([`Revocation::expires`]). Walks the cache
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
        }
    }

    fn apply(&self, record: Record, now: UnixSeconds) {
        match record {
            Record::TokenPut { hash, info, revoked } => {
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
