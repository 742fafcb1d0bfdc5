//! Generated tokens of the sessions of a shard: which each holds, and when it is due for a new one.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tessera_proto::{Instant, Now, Secret, UnixTime};

use crate::tokens::{Holder, SessionTokens, Subject, TokenGenerator, UnixSeconds, Vault};

/// What a session has been given.
#[derive(Debug, Clone)]
pub(super) struct OwnTokens {
    /// What is remembered about the tokens.
    pub(super) tokens: SessionTokens,
    /// The user name that they are signed for.
    pub(super) username: String,
    /// The client's certificate.
    pub(super) certificate: Option<[u8; 32]>,
}

impl OwnTokens {
    /// Makes the next token.
    pub(super) fn mint(
        &mut self,
        generator: &TokenGenerator,
        vault: &Vault,
        now: Now,
    ) -> Option<Secret<String>> {
        let holder = Holder { username: &self.username, certificate: self.certificate.as_ref() };
        let subject = Subject {
            session: Some(self.tokens.session.0),
            username: &self.username,
            certificate: self.certificate,
            issued: UnixSeconds(now.wall.0),
        };
        let not_before = vault.dead_until(&subject).map_or(0, |until| until.0.saturating_add(1));
        let made = generator.mint(&mut self.tokens, holder, UnixTime(not_before), now)?;
        if let Some(stamp) = self.tokens.last_made() {
            vault.stamped(UnixSeconds(stamp.0));
        }
        Some(made)
    }
}

/// All sessions with generated tokens by their handles, and when each is renewed. Bounded by the number of clients.
#[derive(Debug)]
pub(super) struct Renewals<Handle> {
    held: BTreeMap<Handle, (OwnTokens, Instant)>,
    due: BTreeSet<(Instant, Handle)>,
}

impl<Handle> Default for Renewals<Handle> {
    fn default() -> Self {
        Self { held: BTreeMap::new(), due: BTreeSet::new() }
    }
}

impl<Handle: Copy + Ord> Renewals<Handle> {
    /// Notes that a session holds a token made now.
    pub(super) fn hold(&mut self, handle: Handle, tokens: OwnTokens, every: Duration, now: Instant) {
        self.forget(handle);
        let due = now + every;
        self.held.insert(handle, (tokens, due));
        self.due.insert((due, handle));
    }

    /// What a session holds.
    pub(super) fn of(&self, handle: Handle) -> Option<&OwnTokens> {
        self.held.get(&handle).map(|(tokens, _)| tokens)
    }

    /// Forgets a session.
    pub(super) fn forget(&mut self, handle: Handle) {
        if let Some((_, due)) = self.held.remove(&handle) {
            self.due.remove(&(due, handle));
        }
    }

    /// A session whose token is due, with what it holds.
    pub(super) fn next_due(&self, now: Instant) -> Option<(Handle, OwnTokens)> {
        let (_, handle) = *self.due.first().filter(|(due, _)| *due <= now)?;
        Some((handle, self.of(handle)?.clone()))
    }
}

#[cfg(test)]
mod tests {
    use tessera_proto::auth_token::TokenKey;

    use super::*;
    use crate::tokens::Judgement;

    struct Zeros;
    impl tessera_proto::Rng for Zeros {
        fn fill(&mut self, out: &mut [u8]) {
            out.fill(0);
        }
    }

    #[test]
    fn each_is_due_once_in_its_time() {
        let every = Duration::from_secs(60);
        let generator = TokenGenerator::new(vec![TokenKey::new([1; 128])], None, every, false);
        let at = |s| Instant::from_epoch(Duration::from_secs(s));
        let now = Now { mono: at(0), wall: UnixTime(0) };
        let tokens = OwnTokens {
            tokens: generator.begin(&Judgement::NoToken, &mut Zeros, now),
            username: "alice".into(),
            certificate: None,
        };
        let (a, b) = (1, 2);
        let mut renewals = Renewals::default();
        renewals.hold(a, tokens.clone(), every, at(0));
        renewals.hold(b, tokens.clone(), every, at(10));
        assert!(renewals.next_due(at(59)).is_none());
        assert_eq!(renewals.next_due(at(60)).map(|(handle, _)| handle), Some(a));
        renewals.hold(a, tokens, every, at(60));
        assert_eq!(renewals.next_due(at(75)).map(|(handle, _)| handle), Some(b));
        renewals.forget(b);
        assert!(renewals.next_due(at(119)).is_none() && renewals.of(b).is_none());
    }
}
