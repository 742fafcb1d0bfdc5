//! What is revoked beyond single tokens of the cache, tokens that are kept nowhere included.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use super::binding::MAX_NAME_BYTES;
use super::record::UnixSeconds;

/// Most revocations. They are kept by hand or by a program of an operator's; 100,000 take some 10 MiB.
pub const MAX_REVOCATIONS: usize = 100_000;

/// Most revocations without an end, so that those with one always have room.
pub const MAX_PERMANENT: usize = 10_000;

/// How long a revocation is kept after its end: a clock that runs ahead for less than that revives no token.
const FORGET_AFTER: u64 = 24 * 3600;

/// What makes room when it is full: a part of the bound, so that room is not looked for at every call.
const ROOM: usize = MAX_REVOCATIONS / 16;

/// Which tokens a revocation is about.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Scope {
    /// Those of one session, by the id in generated tokens.
    Session([u8; 12]),
    /// Those of one username.
    User(String),
    /// Those of one certificate, by its SHA-256.
    Certificate([u8; 32]),
    /// All.
    Everything,
}

/// Tokens of a scope that were issued at or before a time are dead.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Revocation {
    /// Which tokens.
    pub scope: Scope,
    /// The last second of issue that is dead.
    pub before: UnixSeconds,
    /// When no such token can be valid any more and the revocation may be forgotten; `None`: never.
    pub expires: Option<UnixSeconds>,
}

/// A token as far as revocations are concerned.
#[derive(Debug, Clone, Copy)]
pub struct Subject<'a> {
    /// Of a generated token.
    pub session: Option<[u8; 12]>,
    /// Whose it is.
    pub username: &'a str,
    /// SHA-256 of the certificate that comes with it.
    pub certificate: Option<[u8; 32]>,
    /// When it was issued.
    pub issued: UnixSeconds,
}

/// Why something was not revoked, or a user not locked. Nothing has changed then.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RevokeError {
    /// All places are taken by revocations that are still needed.
    #[error("there are {0} revocations that are still needed, which is the most; revoke everything instead")]
    Full(usize),
    /// Too many of them have no end.
    #[error("there are {MAX_PERMANENT} revocations without an end, which is the most; give it one")]
    TooManyPermanent,
    /// All places for locked users are taken.
    #[error("there are {0} locked users, which is the most")]
    TooManyLocked(usize),
    /// No user can have that name.
    #[error("a username has 1 to {MAX_NAME_BYTES} bytes, not {0}")]
    Name(usize),
    /// Tokens that are not issued yet would be dead.
    #[error("tokens can only be revoked up to now")]
    Future,
}

/// Revocations in force. A check takes a read lock for a few lookups and allocates nothing.
#[derive(Debug, Default)]
pub struct Revocations {
    inner: RwLock<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    sessions: HashMap<[u8; 12], Cut>,
    users: HashMap<Box<str>, Cut>,
    certificates: HashMap<[u8; 32], Cut>,
    everything: Option<Cut>,
    permanent: usize,
    /// Of the names of the users.
    names: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Cut {
    before: UnixSeconds,
    expires: Option<UnixSeconds>,
}

impl Cut {
    /// Two of the same scope are the same as one that reaches as far as either and lasts as long as either.
    fn merge(self, other: Self) -> Self {
        let expires = self.expires.zip(other.expires).map(|(one, other)| one.max(other));
        Self { before: self.before.max(other.before), expires }
    }

    fn is_over(self, now: UnixSeconds) -> bool {
        self.expires.is_some_and(|expires| expires <= now)
    }
}

impl Revocations {
    /// Puts one in force. When all places are taken, the ones that ended first make room.
    ///
    /// # Errors
    /// [`RevokeError`]: nothing that is still needed is ever forgotten.
    pub fn revoke(&self, revocation: &Revocation, now: UnixSeconds) -> Result<(), RevokeError> {
        if revocation.before > now {
            return Err(RevokeError::Future);
        }
        if let Scope::User(name) = &revocation.scope {
            check_name(name)?;
        }
        let mut inner = self.write();
        match inner.find(&revocation.scope) {
            Some(known) if known.expires.is_none() => {}
            known => {
                if revocation.expires.is_none() && inner.permanent >= MAX_PERMANENT {
                    return Err(RevokeError::TooManyPermanent);
                }
                if known.is_none() && inner.len() >= MAX_REVOCATIONS && !inner.make_room(now) {
                    return Err(RevokeError::Full(MAX_REVOCATIONS));
                }
            }
        }
        inner.put(revocation);
        Ok(())
    }

    /// Puts one in force that was in force before. The order and the number of times do not matter.
    pub(super) fn restore(&self, revocation: &Revocation) {
        self.write().put(revocation);
    }

    /// Whether a token is dead.
    pub fn is_revoked(&self, subject: &Subject<'_>) -> bool {
        self.dead_until(subject).is_some_and(|until| subject.issued <= until)
    }

    /// The last second of issue at which a token like this is dead, whenever it was issued.
    pub fn dead_until(&self, subject: &Subject<'_>) -> Option<UnixSeconds> {
        let inner = self.read();
        let session = subject.session.and_then(|session| inner.sessions.get(&session));
        let user = inner.users.get(subject.username);
        let certificate = subject.certificate.and_then(|certificate| inner.certificates.get(&certificate));
        [session, user, certificate, inner.everything.as_ref()]
            .into_iter()
            .flatten()
            .map(|cut| cut.before)
            .max()
    }

    /// All of them, in the order of their scopes.
    pub fn list(&self) -> Vec<Revocation> {
        let inner = self.read();
        let mut all = Vec::with_capacity(inner.len());
        let of = |scope, cut: &Cut| Revocation { scope, before: cut.before, expires: cut.expires };
        all.extend(inner.sessions.iter().map(|(id, cut)| of(Scope::Session(*id), cut)));
        all.extend(inner.users.iter().map(|(name, cut)| of(Scope::User(name.to_string()), cut)));
        all.extend(inner.certificates.iter().map(|(id, cut)| of(Scope::Certificate(*id), cut)));
        all.extend(inner.everything.iter().map(|cut| of(Scope::Everything, cut)));
        drop(inner);
        all.sort_unstable();
        all
    }

    /// Forgets what ended more than a day ago; how many.
    pub fn sweep(&self, now: UnixSeconds) -> usize {
        let over = UnixSeconds(now.0.saturating_sub(FORGET_AFTER));
        let due = {
            let inner = self.read();
            inner.iter().any(|cut| cut.is_over(over))
        };
        if due { self.write().forget(|cut| cut.is_over(over)) } else { 0 }
    }

    /// How many there are, and the bytes of their users' names.
    pub(super) fn extent(&self) -> Extent {
        let inner = self.read();
        Extent {
            sessions: inner.sessions.len(),
            users: inner.users.len(),
            names: inner.names,
            certificates: inner.certificates.len(),
            everything: usize::from(inner.everything.is_some()),
        }
    }

    fn read(&self) -> RwLockReadGuard<'_, Inner> {
        self.inner.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Inner> {
        self.inner.write().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How much there is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Extent {
    pub(super) sessions: usize,
    pub(super) users: usize,
    pub(super) names: usize,
    pub(super) certificates: usize,
    pub(super) everything: usize,
}

impl Inner {
    fn len(&self) -> usize {
        self.sessions.len()
            + self.users.len()
            + self.certificates.len()
            + usize::from(self.everything.is_some())
    }

    fn iter(&self) -> impl Iterator<Item = &Cut> {
        self.sessions
            .values()
            .chain(self.users.values())
            .chain(self.certificates.values())
            .chain(self.everything.iter())
    }

    fn find(&self, scope: &Scope) -> Option<Cut> {
        match scope {
            Scope::Session(id) => self.sessions.get(id).copied(),
            Scope::User(name) => self.users.get(name.as_str()).copied(),
            Scope::Certificate(id) => self.certificates.get(id).copied(),
            Scope::Everything => self.everything,
        }
    }

    fn put(&mut self, revocation: &Revocation) {
        let known = self.find(&revocation.scope);
        let new = Cut { before: revocation.before, expires: revocation.expires };
        let cut = known.map_or(new, |known| known.merge(new));
        let was_permanent = known.is_some_and(|known| known.expires.is_none());
        self.permanent += usize::from(cut.expires.is_none() && !was_permanent);
        match &revocation.scope {
            Scope::Session(id) => {
                self.sessions.insert(*id, cut);
            }
            Scope::User(name) => {
                if self.users.insert(name.as_str().into(), cut).is_none() {
                    self.names += name.len();
                }
            }
            Scope::Certificate(id) => {
                self.certificates.insert(*id, cut);
            }
            Scope::Everything => self.everything = Some(cut),
        }
    }

    /// Forgets some of those that are over, the ones that ended first; whether there were any.
    fn make_room(&mut self, now: UnixSeconds) -> bool {
        let mut over: Vec<_> = self.iter().filter(|cut| cut.is_over(now)).map(|cut| cut.expires).collect();
        over.sort_unstable();
        let Some(last) = over.get(ROOM.min(over.len()).saturating_sub(1)).copied() else { return false };
        self.forget(|cut| cut.expires.is_some() && cut.expires <= last) > 0
    }

    fn forget(&mut self, over: impl Fn(&Cut) -> bool) -> usize {
        fn from<K: Eq + Hash>(map: &mut HashMap<K, Cut>, over: impl Fn(&Cut) -> bool) {
            map.retain(|_, cut| !over(cut));
        }
        let before = self.len();
        from(&mut self.sessions, &over);
        from(&mut self.users, &over);
        from(&mut self.certificates, &over);
        self.everything.take_if(|cut| over(cut));
        self.names = self.users.keys().map(|name| name.len()).sum();
        before - self.len()
    }
}

/// Whether a user can have this name.
pub(super) const fn check_name(name: &str) -> Result<(), RevokeError> {
    if name.is_empty() || name.len() > MAX_NAME_BYTES { Err(RevokeError::Name(name.len())) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NOW: UnixSeconds = UnixSeconds(1_700_000_000);

    fn at(seconds: i64) -> UnixSeconds {
        UnixSeconds(NOW.0.saturating_add_signed(seconds))
    }

    fn cut(scope: Scope, before: i64, expires: Option<i64>) -> Revocation {
        Revocation { scope, before: at(before), expires: expires.map(at) }
    }

    fn session(number: u32) -> Scope {
        let mut id = [0; 12];
        id[..4].copy_from_slice(&number.to_be_bytes());
        Scope::Session(id)
    }

    #[test]
    fn each_scope_kills_its_own_up_to_its_time() {
        let subject = |issued| Subject {
            session: Some([1; 12]),
            username: "alice",
            certificate: Some([2; 32]),
            issued: at(issued),
        };
        for scope in [
            Scope::Session([1; 12]),
            Scope::User("alice".into()),
            Scope::Certificate([2; 32]),
            Scope::Everything,
        ] {
            let revocations = Revocations::default();
            assert!(!revocations.is_revoked(&subject(-100)));
            revocations.revoke(&cut(scope.clone(), -10, Some(100)), NOW).unwrap();
            assert!(revocations.is_revoked(&subject(-11)) && revocations.is_revoked(&subject(-10)));
            assert!(!revocations.is_revoked(&subject(-9)));
            let stranger =
                Subject { session: Some([9; 12]), username: "bob", certificate: None, issued: at(-50) };
            assert_eq!(revocations.is_revoked(&stranger), scope == Scope::Everything);
            let bare = Subject { session: None, ..stranger };
            assert_eq!(revocations.is_revoked(&bare), scope == Scope::Everything);
            // An earlier time or an earlier end takes nothing back.
            revocations.revoke(&cut(scope.clone(), -20, Some(50)), NOW).unwrap();
            assert_eq!(revocations.list(), [cut(scope, -10, Some(100))]);
        }
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        let revocations = Revocations::default();
        let refused = |revocation| revocations.revoke(&revocation, NOW).unwrap_err();
        assert_eq!(refused(cut(Scope::Everything, 1, None)), RevokeError::Future);
        assert_eq!(refused(cut(Scope::User(String::new()), 0, None)), RevokeError::Name(0));
        assert_eq!(refused(cut(Scope::User("x".repeat(256)), 0, None)), RevokeError::Name(256));
        assert_eq!(revocations.list(), []);
    }

    #[test]
    fn nothing_that_is_needed_is_forgotten() {
        let revocations = Revocations::default();
        for number in 0..MAX_REVOCATIONS as u32 {
            revocations.revoke(&cut(session(number), 0, Some(10 + i64::from(number))), NOW).unwrap();
        }
        let one_more = cut(Scope::User("alice".into()), 0, Some(1000));
        assert_eq!(revocations.revoke(&one_more, NOW), Err(RevokeError::Full(MAX_REVOCATIONS)));
        assert_eq!(revocations.revoke(&cut(session(0), 0, Some(12)), NOW), Ok(()), "it is there already");
        // Two have ended; one of them was given more time.
        let later = at(11);
        assert_eq!(revocations.revoke(&one_more, later), Ok(()));
        let all = revocations.list();
        assert_eq!(all.len(), MAX_REVOCATIONS);
        assert!(all.contains(&one_more) && all.contains(&cut(session(0), 0, Some(12))));
        assert!(!all.iter().any(|one| one.scope == session(1)));
    }

    #[test]
    fn those_without_an_end_are_bounded_by_themselves() {
        let revocations = Revocations::default();
        for number in 0..MAX_PERMANENT as u32 {
            revocations.revoke(&cut(session(number), 0, None), NOW).unwrap();
        }
        revocations.revoke(&cut(session(0), 0, None), NOW).unwrap();
        revocations.revoke(&cut(session(1), 0, Some(5)), NOW).unwrap();
        let one_more = cut(Scope::Everything, 0, None);
        assert_eq!(revocations.revoke(&one_more, NOW), Err(RevokeError::TooManyPermanent));
        revocations.revoke(&cut(Scope::Everything, 0, Some(5)), NOW).unwrap();
        assert_eq!(revocations.revoke(&one_more, NOW), Err(RevokeError::TooManyPermanent));
        assert_eq!(revocations.sweep(at(5 + FORGET_AFTER as i64 - 1)), 0);
        assert_eq!(revocations.sweep(at(5 + FORGET_AFTER as i64)), 1);
        assert_eq!(revocations.sweep(UnixSeconds(u64::MAX)), 0);
        assert_eq!(revocations.list().len(), MAX_PERMANENT);
    }

    proptest! {
        /// In whatever order and however often they are restored, the outcome is the same.
        #[test]
        fn the_order_does_not_matter(
            all in prop::collection::vec((0u8..4, 0i64..9, prop::option::of(0i64..9)), 0..12),
            order in any::<u64>(),
        ) {
            let of = |(kind, before, expires): (u8, i64, Option<i64>)| {
                let scope = [Scope::Session([1; 12]), Scope::User("a".into()), Scope::Certificate([1; 32]), Scope::Everything];
                cut(scope[usize::from(kind)].clone(), -before, expires)
            };
            let (one, other) = (Revocations::default(), Revocations::default());
            all.iter().for_each(|each| one.restore(&of(*each)));
            let mut shuffled = all.clone();
            shuffled.extend(&all[..all.len() / 2]);
            let count = shuffled.len().max(1);
            shuffled.rotate_left(order as usize % count);
            shuffled.iter().rev().for_each(|each| other.restore(&of(*each)));
            prop_assert_eq!(one.list(), other.list());
            prop_assert_eq!(one.extent(), other.extent());
        }
    }
}
