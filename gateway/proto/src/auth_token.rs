//! The stateless token of `auth-gen-token`, in the format of OpenVPN 2.5 and later: a server of either kind accepts what
//! another has minted with the same secret.
//!
//! ```text
//!  token = "SESS_ID_AT_" base64( session id (12)  initial (8)  issued (8)  HMAC (32) )         11 + 80 characters
//!  HMAC  = HMAC-SHA256(key, user name  session id  initial  issued  [certificate (32)])
//! ```
//!
//! Both times are seconds since 1970, big-endian: of the first real login, and of this token. A token that is bound to a
//! certificate (which stock servers cannot do) has the SHA-256 of the certificate under the HMAC as well.

use core::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ring::hmac;
use zeroize::Zeroizing;

use crate::{Secret, UnixTime, pem};

/// What every token starts with.
pub const PREFIX: &str = "SESS_ID_AT_";
/// Length of a token's text.
pub const TOKEN_LEN: usize = PREFIX.len() + 80;

const LABEL: &str = "OpenVPN auth-token server key";
/// Bytes of a key file that is made here.
const FILE_LEN: usize = 128;
/// Where in the file the HMAC key is.
const KEY_AT: usize = 64;
const KEY_LEN: usize = 32;
const SESSION_LEN: usize = 12;
const HEAD_LEN: usize = SESSION_LEN + 8 + 8;
const MAC_LEN: usize = 32;

/// Names a login and every token that follows from it. Its text is the first 16 base64 characters of the token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TokenSession(pub [u8; SESSION_LEN]);

impl core::fmt::Display for TokenSession {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(&STANDARD.encode(self.0))
    }
}

impl TokenSession {
    /// Reads the 16 characters of hooks' `session_id`.
    pub fn parse(text: &str) -> Option<Self> {
        STANDARD.decode(text).ok()?.try_into().ok().map(Self)
    }
}

/// What a token says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AuthToken {
    /// Whose it is; the same for every token of a session.
    pub session: TokenSession,
    /// When the session began: its first real login.
    pub initial: UnixTime,
    /// When this token was made.
    pub issued: UnixTime,
}

/// A key that makes and checks tokens.
#[derive(Clone)]
pub struct TokenKey {
    file: Secret<Vec<u8>>,
    key: hmac::Key,
}

impl core::fmt::Debug for TokenKey {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("TokenKey([redacted])")
    }
}

/// A key file is not one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not an \"{LABEL}\" file of at least {FILE_LEN} bytes in base64")]
pub struct TokenKeyError;

impl TokenKey {
    /// A key from random bytes.
    pub fn new(random: [u8; FILE_LEN]) -> Self {
        let random = Zeroizing::new(random);
        Self::from_file(Zeroizing::new(random.to_vec()))
    }

    /// A key that is in no file.
    pub fn from_key(key: &Secret<[u8; KEY_LEN]>) -> Self {
        let mut file = Zeroizing::new(vec![0; FILE_LEN]);
        for (to, from) in file.iter_mut().skip(KEY_AT).zip(key.expose()) {
            *to = *from;
        }
        Self::from_file(file)
    }

    /// Every key of a file, in order. Stock servers know one; here the first makes tokens, and all of them check.
    ///
    /// # Errors
    /// When there is no key in the text, or a block is no key.
    pub fn parse_all(text: &str) -> Result<Vec<Self>, TokenKeyError> {
        let end = format!("-----END {LABEL}-----");
        let mut keys = Vec::new();
        let mut rest = text;
        while let Some(at) = rest.find(&end) {
            let (block, after) = rest.split_at_checked(at + end.len()).ok_or(TokenKeyError)?;
            let bytes = pem::decode(block, LABEL).filter(|bytes| bytes.len() >= FILE_LEN);
            keys.push(Self::from_file(bytes.ok_or(TokenKeyError)?));
            rest = after;
        }
        if keys.is_empty() { Err(TokenKeyError) } else { Ok(keys) }
    }

    fn from_file(mut file: Zeroizing<Vec<u8>>) -> Self {
        // Callers have checked the length; a shorter file would only make a weaker key, never a panic.
        let key = file.get(KEY_AT..KEY_AT + KEY_LEN).unwrap_or_default();
        let key = hmac::Key::new(hmac::HMAC_SHA256, key);
        Self { file: Secret::new(core::mem::take(&mut *file)), key }
    }

    /// The text of its file, as `--genkey auth-token` writes it.
    pub fn to_text(&self) -> Secret<String> {
        Secret::new(pem::encode(self.file.expose(), LABEL))
    }

    /// Makes a token.
    pub fn mint(&self, token: &AuthToken, username: &str, certificate: Option<&[u8; 32]>) -> Secret<String> {
        let head = head(token);
        let mac = self.mac(username, &head, certificate);
        let mut raw = Zeroizing::new(Vec::with_capacity(HEAD_LEN + MAC_LEN));
        raw.extend_from_slice(&head);
        raw.extend_from_slice(mac.as_ref());
        let mut text = String::with_capacity(TOKEN_LEN);
        text.push_str(PREFIX);
        STANDARD.encode_string(&*raw, &mut text);
        Secret::new(text)
    }

    fn mac(&self, username: &str, head: &[u8; HEAD_LEN], certificate: Option<&[u8; 32]>) -> hmac::Tag {
        let mut context = self.context(username, head);
        if let Some(certificate) = certificate {
            context.update(certificate);
        }
        context.sign()
    }

    fn context(&self, username: &str, head: &[u8; HEAD_LEN]) -> hmac::Context {
        let mut context = hmac::Context::with_key(&self.key);
        context.update(username.as_bytes());
        context.update(head);
        context
    }

    /// Compares in constant time.
    fn signed(
        &self,
        username: &str,
        head: &[u8; HEAD_LEN],
        certificate: Option<&[u8; 32]>,
        mac: &[u8],
    ) -> bool {
        use subtle::ConstantTimeEq as _;
        self.mac(username, head, certificate).as_ref().ct_eq(mac).into()
    }
}

fn head(token: &AuthToken) -> [u8; HEAD_LEN] {
    let mut out = [0; HEAD_LEN];
    let parts = token.session.0.into_iter().chain(token.initial.0.to_be_bytes());
    for (to, from) in out.iter_mut().zip(parts.chain(token.issued.0.to_be_bytes())) {
        *to = from;
    }
    out
}

/// How long tokens are good.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TokenTimes {
    /// Since the first real login; `None`: no limit.
    pub lifetime: Option<Duration>,
    /// A token is renewed this often, and good for twice as long.
    pub renewal: Duration,
    /// Clocks of a fleet may differ by so much: a token from so far in the future is good.
    pub skew: Duration,
}

/// What became of a token whose signature is right.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Freshness {
    /// It is good.
    Fresh,
    /// Its time is over.
    Expired,
    /// It was made in the future: our clock, or the clock of the server that made it, is wrong.
    NotYet,
}

/// A token whose signature is right.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Verified {
    /// What it says.
    pub token: AuthToken,
    /// It was made for a client that sent no user name.
    pub empty_user: bool,
    /// Whether it is good now.
    pub freshness: Freshness,
}

/// True when a password has a token's prefix and length. Anything else is an ordinary password, whatever it starts with.
pub fn is_token(password: &str) -> bool {
    password.len() == TOKEN_LEN && password.starts_with(PREFIX)
}

/// Checks a token against every key. `None`: it is none of ours. Total: any text may come in.
pub fn verify(
    keys: &[TokenKey],
    times: &TokenTimes,
    text: &Secret<String>,
    username: &str,
    certificate: Option<&[u8; 32]>,
    now: UnixTime,
) -> Option<Verified> {
    if !is_token(text.expose()) {
        return None;
    }
    let encoded = text.expose().get(PREFIX.len()..)?;
    let raw = Zeroizing::new(STANDARD.decode(encoded).ok()?);
    let (head, mac) = raw.split_first_chunk::<HEAD_LEN>()?;
    if mac.len() != MAC_LEN {
        return None;
    }
    // Every key is tried, so that the time tells nothing about which one it is.
    let (mut named, mut unnamed) = (false, false);
    for key in keys {
        named |= key.signed(username, head, certificate, mac);
        unnamed |= key.signed("", head, certificate, mac);
    }
    let (session, times_of) = head.split_first_chunk::<SESSION_LEN>()?;
    let (initial, issued) = times_of.split_first_chunk::<8>()?;
    let token = AuthToken {
        session: TokenSession(*session),
        initial: UnixTime(u64::from_be_bytes(*initial)),
        issued: UnixTime(u64::from_be_bytes(*issued.first_chunk()?)),
    };
    let empty_user = unnamed && !(named && username.is_empty());
    (named || unnamed).then(|| Verified { token, empty_user, freshness: freshness(&token, times, now) })
}

fn freshness(token: &AuthToken, times: &TokenTimes, now: UnixTime) -> Freshness {
    let (initial, issued, now) = (token.initial.0, token.issued.0, now.0);
    let window = times.renewal.as_secs().saturating_mul(2);
    let over = |lifetime: Duration| now > initial.saturating_add(lifetime.as_secs());
    if issued < initial || times.lifetime.is_some_and(over) || now >= issued.saturating_add(window) {
        Freshness::Expired
    } else if issued > now.saturating_add(times.skew.as_secs()) {
        Freshness::NotYet
    } else {
        Freshness::Fresh
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const T0: u64 = 1_790_000_000;
    const CERTIFICATE: [u8; 32] = [9; 32];
    const TIMES: TokenTimes = TokenTimes {
        lifetime: Some(Duration::from_secs(3600)),
        renewal: Duration::from_secs(600),
        skew: Duration::from_secs(30),
    };

    fn key(byte: u8) -> TokenKey {
        TokenKey::new([byte; FILE_LEN])
    }

    fn token(initial: u64, issued: u64) -> AuthToken {
        AuthToken {
            session: TokenSession(*b"twelve bytes"),
            initial: UnixTime(initial),
            issued: UnixTime(issued),
        }
    }

    fn at(keys: &[TokenKey], text: &Secret<String>, user: &str, now: u64) -> Option<Verified> {
        verify(keys, &TIMES, text, user, None, UnixTime(now))
    }

    #[test]
    fn the_layout_is_openvpns() {
        let text = key(1).mint(&token(T0, T0 + 7), "alice", None);
        assert_eq!(text.expose().len(), TOKEN_LEN);
        let raw = STANDARD.decode(&text.expose()[PREFIX.len()..]).unwrap();
        assert_eq!((&raw[..12], raw.len()), (&b"twelve bytes"[..], 60));
        assert_eq!(raw[12..20], T0.to_be_bytes());
        assert_eq!(raw[20..28], (T0 + 7).to_be_bytes());
        let mac = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, &[1; 32]), &[b"alice", &raw[..28]].concat());
        assert_eq!(raw[28..], *mac.as_ref());
        let session = token(T0, T0).session;
        assert!(text.expose()[PREFIX.len()..].starts_with(&session.to_string()));
        assert_eq!(TokenSession::parse(&session.to_string()), Some(session));
    }

    #[test]
    fn the_key_is_in_the_middle_of_the_file_and_the_rest_is_kept() {
        let mut random = [0; FILE_LEN];
        random.iter_mut().zip(0..).for_each(|(byte, n)| *byte = n);
        let text = TokenKey::new(random).to_text();
        assert!(text.expose().starts_with("-----BEGIN OpenVPN auth-token server key-----\n"));
        let both = format!("{}# next\n{}", key(7).to_text().expose(), text.expose());
        let keys = TokenKey::parse_all(&both).unwrap();
        let minted = keys[1].mint(&token(T0, T0), "bob", None);
        assert!(at(&keys, &minted, "bob", T0).is_some());
        assert!(at(&keys[..1], &minted, "bob", T0).is_none());
        assert_eq!(keys[1].to_text().expose(), text.expose());
        for bad in ["", "no key", &text.expose()[..80], &text.expose().replace('A', "*")] {
            assert!(TokenKey::parse_all(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn good_for_twice_the_renewal_and_for_the_lifetime() {
        let keys = [key(1)];
        let fresh = |initial: u64, issued: u64, now: u64| {
            let text = keys[0].mint(&token(initial, issued), "alice", None);
            at(&keys, &text, "alice", now).unwrap().freshness
        };
        assert_eq!(fresh(T0, T0, T0), Freshness::Fresh);
        assert_eq!(fresh(T0, T0, T0 + 1199), Freshness::Fresh);
        assert_eq!(fresh(T0, T0, T0 + 1200), Freshness::Expired);
        assert_eq!(fresh(T0, T0 + 3000, T0 + 3600), Freshness::Fresh);
        assert_eq!(fresh(T0, T0 + 3000, T0 + 3601), Freshness::Expired);
        assert_eq!(fresh(T0 + 1, T0, T0 + 1), Freshness::Expired, "older than its session");
        assert_eq!(fresh(T0, T0 + 30, T0), Freshness::Fresh);
        assert_eq!(fresh(T0, T0 + 31, T0), Freshness::NotYet);
        assert_eq!(fresh(u64::MAX, u64::MAX, T0), Freshness::NotYet);
        assert_eq!(fresh(0, 0, T0), Freshness::Expired);
    }

    /// ±1 h and −1 day, as a clock that is set does it: never taken for a forged token.
    #[test]
    fn a_stepped_clock_is_told_from_a_bad_token() {
        let keys = [key(1)];
        let text = keys[0].mint(&token(T0, T0), "alice", None);
        let after = |now| at(&keys, &text, "alice", now).unwrap().freshness;
        assert_eq!(after(T0 - 3600), Freshness::NotYet);
        assert_eq!(after(T0 - 86_400), Freshness::NotYet);
        assert_eq!(after(T0 + 3600), Freshness::Expired);
    }

    #[test]
    fn bound_to_user_certificate_and_key() {
        let keys = [key(1), key(2)];
        let bound = keys[1].mint(&token(T0, T0), "alice", Some(&CERTIFICATE));
        let check = |user, certificate| {
            verify(&keys, &TIMES, &bound, user, certificate, UnixTime(T0)).is_some_and(|v| !v.empty_user)
        };
        assert!(check("alice", Some(&CERTIFICATE)));
        assert!(!check("bob", Some(&CERTIFICATE)));
        assert!(!check("", Some(&CERTIFICATE)));
        assert!(!check("alice", Some(&[8; 32])));
        assert!(!check("alice", None));
        assert!(verify(&keys[..1], &TIMES, &bound, "alice", Some(&CERTIFICATE), UnixTime(T0)).is_none());
    }

    #[test]
    fn a_token_without_user_name_is_told_apart() {
        let keys = [key(1)];
        let text = keys[0].mint(&token(T0, T0), "", None);
        assert!(at(&keys, &text, "alice", T0).unwrap().empty_user);
        assert!(!at(&keys, &text, "", T0).unwrap().empty_user, "its own user presents it");
    }

    #[test]
    fn what_only_starts_like_a_token_is_a_password() {
        let text = key(1).mint(&token(T0, T0), "alice", None);
        let good = text.expose();
        for len in 0..200 {
            let other: String = good.chars().chain("A".repeat(200).chars()).take(len).collect();
            let is_ours = at(&[key(1)], &Secret::new(other.clone()), "alice", T0).is_some();
            assert_eq!(is_ours, len == TOKEN_LEN, "{len}");
            assert_eq!(is_token(&other), len == TOKEN_LEN);
        }
        for bad in [good.replace("SESS", "sess"), format!("{PREFIX}{}", "*".repeat(80))] {
            assert!(at(&[key(1)], &Secret::new(bad), "alice", T0).is_none());
        }
    }

    proptest! {
        #[test]
        fn no_changed_token_is_taken(at_char in 0..TOKEN_LEN, with in "[ -~]") {
            let text = key(1).mint(&token(T0, T0), "alice", None);
            let mut other = text.expose().clone();
            other.replace_range(at_char..=at_char, &with);
            // The last characters' spare bits do not exist: 60 bytes are 80 characters exactly.
            prop_assume!(other != *text.expose());
            prop_assert!(at(&[key(1)], &Secret::new(other), "alice", T0).is_none());
        }

        #[test]
        fn any_text_is_survived(text in "\\PC{0,200}") {
            prop_assert!(at(&[key(1)], &Secret::new(text), "alice", T0).is_none());
        }
    }
}
