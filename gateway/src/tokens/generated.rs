//! Tokens of the gateway's own making (`auth-gen-token`): who gets which, and what is thought of one that comes back.
//!
//! The format is [`tessera_proto::auth_token`]; nothing is kept about a token but what its session remembers. All methods
//! take the time as an argument. A session judges the tokens that it has made itself by the monotonic clock, so that a
//! wall clock that is set ends no running session.

use std::sync::{PoisonError, RwLock};
use std::time::Duration;

use tessera_proto::auth_token::{self, AuthToken, Freshness, TokenKey, TokenSession, TokenTimes};
use tessera_proto::{Instant, Now, Rng, Secret, UnixTime};

/// How far the clocks of a fleet may be apart.
pub const CLOCK_SKEW: Duration = Duration::from_secs(30);
/// Most keys that check tokens: each costs a hash per login. Rotating more often than this ends the oldest tokens early.
pub const MAX_KEYS: usize = 8;
/// Tokens of its own that a session remembers the making of: the last, and the one that a client may still hold.
const REMEMBERED: usize = 2;

/// Makes and judges tokens.
#[derive(Debug)]
pub struct TokenGenerator {
    keys: RwLock<Vec<TokenKey>>,
    times: TokenTimes,
    bind_certificate: bool,
}

/// Whom a token is for.
#[derive(Debug, Clone, Copy)]
pub struct Holder<'a> {
    /// As the client sends it.
    pub username: &'a str,
    /// SHA-256 of its certificate.
    pub certificate: Option<&'a [u8; 32]>,
}

/// What a session of the gateway remembers of its tokens.
#[derive(Debug, Clone)]
pub struct SessionTokens {
    /// The same for every token of the session.
    pub session: TokenSession,
    /// The first real login.
    initial: UnixTime,
    /// Its age when this session began, and when that was.
    began: (Duration, Instant),
    /// Tokens made here: their stamp, and when that was.
    made: Vec<(UnixTime, Instant)>,
}

/// What a password is, where tokens are generated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Judgement {
    /// An ordinary password.
    NoToken,
    /// A good token of this client.
    Good(AuthToken),
    /// A good token of a client that sends no user name.
    GoodEmptyUser(AuthToken),
    /// A token of this client whose time is over.
    Expired(AuthToken),
    /// The same of a client that sends no user name.
    ExpiredEmptyUser(AuthToken),
    /// From the future: a clock is wrong, and the client is not to blame.
    NotYet(AuthToken),
    /// It looks like a token, and is none of this client's.
    Invalid,
}

impl Judgement {
    /// `session_state` in the environment of hooks.
    #[must_use]
    pub const fn session_state(&self) -> &'static str {
        match self {
            Self::NoToken => "Initial",
            Self::Good(_) => "Authenticated",
            Self::GoodEmptyUser(_) => "AuthenticatedEmptyUser",
            Self::Expired(_) | Self::NotYet(_) => "Expired",
            Self::ExpiredEmptyUser(_) => "ExpiredEmptyUser",
            Self::Invalid => "Invalid",
        }
    }

    /// The token, if it is signed by us for this client, whatever its age.
    #[must_use]
    pub const fn token(&self) -> Option<AuthToken> {
        match self {
            Self::Good(token)
            | Self::GoodEmptyUser(token)
            | Self::Expired(token)
            | Self::ExpiredEmptyUser(token)
            | Self::NotYet(token) => Some(*token),
            Self::NoToken | Self::Invalid => None,
        }
    }

    /// The token's user name counts as empty, whatever the client sent beside it.
    #[must_use]
    pub const fn is_empty_user(&self) -> bool {
        matches!(self, Self::GoodEmptyUser(_) | Self::ExpiredEmptyUser(_))
    }

    /// The token, if it is good.
    const fn good(&self) -> Option<AuthToken> {
        match self {
            Self::Good(token) | Self::GoodEmptyUser(token) => Some(*token),
            _ => None,
        }
    }
}

impl TokenGenerator {
    /// Tokens by these keys (the first makes them, all check them) for these times.
    #[must_use]
    pub const fn new(
        keys: Vec<TokenKey>,
        lifetime: Option<Duration>,
        renewal: Duration,
        bind_certificate: bool,
    ) -> Self {
        let times = TokenTimes { lifetime, renewal, skew: CLOCK_SKEW };
        Self { keys: RwLock::new(keys), times, bind_certificate }
    }

    /// How often a session's token is renewed.
    #[must_use]
    pub const fn renewal(&self) -> Duration {
        self.times.renewal
    }

    /// How long a revocation of tokens must be remembered: after that the tokens that it concerns are over anyway.
    #[must_use]
    pub fn longest_life(&self) -> Duration {
        // A token lives for two renewals, and is renewed as long as its session's lifetime allows.
        let window = self.times.renewal.saturating_mul(2);
        self.times.lifetime.map_or(Duration::MAX, |lifetime| lifetime.saturating_add(window))
    }

    /// Uses another set of keys from now on; the first makes tokens.
    pub fn set_keys(&self, mut keys: Vec<TokenKey>) {
        keys.truncate(MAX_KEYS);
        *self.keys.write().unwrap_or_else(PoisonError::into_inner) = keys;
    }

    /// The keys in use, the one that makes tokens first.
    #[must_use]
    pub fn keys(&self) -> Vec<TokenKey> {
        self.keys.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What a password is. `own` is what the session remembers, from its second login on: then only its own tokens are good.
    #[must_use]
    pub fn judge(
        &self,
        password: &Secret<String>,
        holder: Holder<'_>,
        own: Option<&SessionTokens>,
        now: Now,
    ) -> Judgement {
        if !auth_token::is_token(password.expose()) {
            return Judgement::NoToken;
        }
        let keys = self.keys.read().unwrap_or_else(PoisonError::into_inner);
        let certificate = holder.certificate.filter(|_| self.bind_certificate);
        let Some(found) =
            auth_token::verify(&keys, &self.times, password, holder.username, certificate, now.wall)
        else {
            return Judgement::Invalid;
        };
        let token = found.token;
        if own.is_some_and(|own| own.session != token.session) {
            return Judgement::Invalid;
        }
        let freshness = own.and_then(|own| own.freshness(&token, &self.times, now.mono));
        match (freshness.unwrap_or(found.freshness), found.empty_user) {
            (Freshness::Fresh, false) => Judgement::Good(token),
            (Freshness::Fresh, true) => Judgement::GoodEmptyUser(token),
            (Freshness::Expired, false) => Judgement::Expired(token),
            (Freshness::Expired, true) => Judgement::ExpiredEmptyUser(token),
            (Freshness::NotYet, _) => Judgement::NotYet(token),
        }
    }

    /// The session that follows from a login: that of the good token which was shown, else a new one.
    #[must_use]
    pub fn begin(&self, shown: &Judgement, rng: &mut dyn Rng, now: Now) -> SessionTokens {
        let (session, initial) = shown.good().map_or_else(
            || (TokenSession(tessera_proto::rng::bytes(rng)), now.wall),
            |token| (token.session, token.initial),
        );
        let age = Duration::from_secs(now.wall.0.saturating_sub(initial.0));
        SessionTokens { session, initial, began: (age, now.mono), made: Vec::new() }
    }

    /// Makes the next token of a session. A stamp is never before that of the session's first login, nor before `not_before`:
    /// what was revoked up to a second must not take the token with it that is made in that second.
    #[must_use]
    pub fn mint(
        &self,
        own: &mut SessionTokens,
        holder: Holder<'_>,
        not_before: UnixTime,
        now: Now,
    ) -> Option<Secret<String>> {
        let issued = now.wall.max(own.initial).max(not_before);
        let token = AuthToken { session: own.session, initial: own.initial, issued };
        let certificate = holder.certificate.filter(|_| self.bind_certificate);
        let keys = self.keys.read().unwrap_or_else(PoisonError::into_inner);
        let text = keys.first()?.mint(&token, holder.username, certificate);
        if own.made.len() == REMEMBERED {
            own.made.remove(0);
        }
        own.made.push((issued, now.mono));
        Some(text)
    }
}

impl SessionTokens {
    /// The lifetime begins anew: whoever checks logins has accepted a token that was over.
    pub fn restart(&mut self, now: Now) {
        self.initial = now.wall;
        self.began = (Duration::ZERO, now.mono);
    }

    /// When the session's newest token was made.
    #[must_use]
    pub fn last_made(&self) -> Option<UnixTime> {
        self.made.last().map(|(stamp, _)| *stamp)
    }

    /// The age of a token that was made here, by the clock that nobody sets. `None`: it was made elsewhere.
    fn freshness(&self, token: &AuthToken, times: &TokenTimes, now: Instant) -> Option<Freshness> {
        let (_, made) = self.made.iter().find(|(stamp, _)| *stamp == token.issued)?;
        let (age, began) = self.began;
        let over = |lifetime: Duration| age + now.saturating_since(began) > lifetime;
        let expired = now.saturating_since(*made) >= times.renewal * 2 || times.lifetime.is_some_and(over);
        Some(if expired { Freshness::Expired } else { Freshness::Fresh })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const T0: u64 = 1_790_000_000;
    const RENEWAL: Duration = Duration::from_secs(600);
    const LIFETIME: Duration = Duration::from_secs(3600);

    struct Counting(u8);
    impl Rng for Counting {
        fn fill(&mut self, out: &mut [u8]) {
            self.0 += 1;
            out.fill(self.0);
        }
    }

    /// `mono` seconds after the start, with the wall clock `off` seconds from where it should be.
    fn at(mono: u64, off: i64) -> Now {
        Now {
            mono: Instant::from_epoch(Duration::from_secs(mono)),
            wall: UnixTime(T0.saturating_add_signed(off) + mono),
        }
    }

    #[test]
    fn no_limit_is_too_long() {
        let generator = |limit| TokenGenerator::new(Vec::new(), Some(limit), limit, false);
        assert_eq!(generator(Duration::MAX).longest_life(), Duration::MAX);
        assert_eq!(generator(RENEWAL).longest_life(), RENEWAL * 3);
    }

    fn generator() -> TokenGenerator {
        TokenGenerator::new(vec![TokenKey::new([1; 128])], Some(LIFETIME), RENEWAL, false)
    }

    const ALICE: Holder<'static> = Holder { username: "alice", certificate: None };

    fn first_login(generator: &TokenGenerator) -> (SessionTokens, Secret<String>) {
        let mut own = generator.begin(&Judgement::NoToken, &mut Counting(0), at(0, 0));
        let token = generator.mint(&mut own, ALICE, UnixTime(0), at(0, 0)).unwrap();
        (own, token)
    }

    #[test]
    fn a_session_keeps_its_id_and_its_beginning_over_renewals_and_reconnects() {
        let generator = generator();
        let (mut own, first) = first_login(&generator);
        let second = generator.mint(&mut own, ALICE, UnixTime(0), at(600, 0)).unwrap();
        let shown = generator.judge(&second, ALICE, None, at(700, 0));
        let Judgement::Good(token) = shown else { panic!("{shown:?}") };
        assert_eq!((token.session, token.initial), (own.session, UnixTime(T0)));
        let again = generator.begin(&shown, &mut Counting(7), at(700, 0));
        assert_eq!((again.session, again.initial), (own.session, UnixTime(T0)));
        let other = generator.begin(&Judgement::Invalid, &mut Counting(7), at(700, 0));
        assert_ne!(other.session, own.session);
        assert_eq!(first.expose()[11..27], own.session.to_string());
    }

    #[test]
    fn the_previous_token_is_good_for_two_renewals_and_no_longer() {
        let generator = generator();
        let (mut own, first) = first_login(&generator);
        let _second = generator.mint(&mut own, ALICE, UnixTime(0), at(600, 0)).unwrap();
        let judge = |now| generator.judge(&first, ALICE, Some(&own), now);
        assert!(matches!(judge(at(1199, 0)), Judgement::Good(_)));
        assert!(matches!(judge(at(1200, 0)), Judgement::Expired(_)));
        // One that the session no longer remembers is judged by its stamp.
        let mut later = own.clone();
        let _ = generator.mint(&mut later, ALICE, UnixTime(0), at(601, 0));
        let judge = |now| generator.judge(&first, ALICE, Some(&later), now);
        assert!(matches!(judge(at(1199, 0)), Judgement::Good(_)));
        assert!(matches!(judge(at(1200, 0)), Judgement::Expired(_)));
    }

    #[test]
    fn a_clock_that_is_set_ends_no_running_session() {
        let generator = generator();
        let (own, token) = first_login(&generator);
        for step in [3600, -3600, -86_400, 86_400] {
            let judged = generator.judge(&token, ALICE, Some(&own), at(60, step));
            assert!(matches!(judged, Judgement::Good(_)), "{step}: {judged:?}");
        }
        assert!(matches!(generator.judge(&token, ALICE, None, at(60, -3600)), Judgement::NotYet(_)));
        assert!(matches!(generator.judge(&token, ALICE, None, at(60, -86_400)), Judgement::NotYet(_)));
        assert!(matches!(generator.judge(&token, ALICE, None, at(60, 3600)), Judgement::Expired(_)));
        assert!(
            matches!(generator.judge(&token, ALICE, None, at(60, -90)), Judgement::Good(_)),
            "30 s of skew"
        );
        // A token of a clock that went back is no older than its session.
        let mut own = own;
        let renewed = generator.mint(&mut own, ALICE, UnixTime(0), at(600, -3600)).unwrap();
        assert!(matches!(generator.judge(&renewed, ALICE, Some(&own), at(601, -3600)), Judgement::Good(_)));
        assert!(matches!(generator.judge(&renewed, ALICE, None, at(601, 0)), Judgement::Good(_)));
    }

    #[test]
    fn the_lifetime_counts_from_the_first_login_over_reconnects() {
        let generator = generator();
        let (_, token) = first_login(&generator);
        let shown = generator.judge(&token, ALICE, None, at(1000, 0));
        let mut again = generator.begin(&shown, &mut Counting(1), at(1000, 0));
        let token = generator.mint(&mut again, ALICE, UnixTime(0), at(3500, 0)).unwrap();
        assert!(matches!(generator.judge(&token, ALICE, Some(&again), at(3600, 0)), Judgement::Good(_)));
        assert!(matches!(generator.judge(&token, ALICE, Some(&again), at(3601, 0)), Judgement::Expired(_)));
        again.restart(at(3601, 0));
        let token = generator.mint(&mut again, ALICE, UnixTime(0), at(3601, 0)).unwrap();
        assert!(matches!(generator.judge(&token, ALICE, Some(&again), at(3700, 0)), Judgement::Good(_)));
    }

    #[test]
    fn another_sessions_or_another_keys_token_is_invalid() {
        let generator = generator();
        let (own, token) = first_login(&generator);
        let other = generator.begin(&Judgement::NoToken, &mut Counting(40), at(0, 0));
        assert_eq!(generator.judge(&token, ALICE, Some(&other), at(1, 0)), Judgement::Invalid);
        let bob = Holder { username: "bob", certificate: None };
        assert_eq!(generator.judge(&token, bob, None, at(1, 0)), Judgement::Invalid);
        // Rotation: the new key makes, the old one still checks, until it is gone.
        generator.set_keys(vec![TokenKey::new([2; 128]), TokenKey::new([1; 128])]);
        assert!(matches!(generator.judge(&token, ALICE, Some(&own), at(1, 0)), Judgement::Good(_)));
        generator.set_keys(vec![TokenKey::new([2; 128])]);
        assert_eq!(generator.judge(&token, ALICE, Some(&own), at(1, 0)), Judgement::Invalid);
    }

    #[test]
    fn states_for_hooks() {
        let generator = generator();
        let mut own = generator.begin(&Judgement::NoToken, &mut Counting(0), at(0, 0));
        let nobody = Holder { username: "", certificate: None };
        let unnamed = generator.mint(&mut own, nobody, UnixTime(0), at(0, 0)).unwrap();
        let state =
            |password: &Secret<String>, now| generator.judge(password, ALICE, None, now).session_state();
        assert_eq!(state(&Secret::new("secret".into()), at(0, 0)), "Initial");
        assert_eq!(state(&unnamed, at(0, 0)), "AuthenticatedEmptyUser");
        assert_eq!(state(&unnamed, at(2000, 0)), "ExpiredEmptyUser");
        let token = generator.mint(&mut own, ALICE, UnixTime(0), at(0, 0)).unwrap();
        assert_eq!(state(&token, at(0, 0)), "Authenticated");
        assert_eq!(state(&token, at(2000, 0)), "Expired");
        let forged = TokenGenerator::new(vec![TokenKey::new([9; 128])], None, RENEWAL, false);
        assert_eq!(state(&forged.mint(&mut own, ALICE, UnixTime(0), at(0, 0)).unwrap(), at(0, 0)), "Invalid");
        assert_eq!(state(&Secret::new("SESS_ID_AT_short".into()), at(0, 0)), "Initial");
    }
}
