//! Tokens of `auth-gen-token`, taken apart and made by the test itself: a third hand beside gateway and stock server.
//!
//! ```text
//!   SESS_ID_AT_ base64( session id 12 │ first login 8 │ renewed 8 │ HMAC-SHA256 32 )
//! ```

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ring::hmac;

/// What every token begins with.
const PREFIX: &str = "SESS_ID_AT_";
/// Where the key of the HMAC lies in the bytes of an `auth-token` key file.
const KEY: std::ops::Range<usize> = 64..96;

/// The secret of `auth-gen-token-secret`.
pub struct TokenKey(hmac::Key);

impl std::fmt::Debug for TokenKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("TokenKey")
    }
}

impl TokenKey {
    /// Reads the file that `--genkey auth-token` made.
    #[must_use]
    pub fn read(path: &str) -> Self {
        let text = std::fs::read_to_string(path).unwrap_or_else(|e| panic!("cannot read {path}: {e}"));
        let body: String = text.lines().filter(|line| !line.starts_with('-')).map(str::trim).collect();
        let bytes = STANDARD.decode(body).unwrap_or_else(|e| panic!("{path} is no base64: {e}"));
        Self(hmac::Key::new(hmac::HMAC_SHA256, &bytes[KEY]))
    }
}

/// What a token says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AuthToken {
    /// The session, unchanged by renewals.
    pub session: [u8; 12],
    /// When the password was given, in seconds since 1970.
    pub first_login: u64,
    /// When the token was last renewed, in seconds since 1970.
    pub renewed: u64,
}

impl AuthToken {
    /// The session as `session_id` shows it to hooks.
    #[must_use]
    pub fn session_id(&self) -> String {
        STANDARD.encode(self.session)
    }

    /// The token's text for `user`.
    #[must_use]
    pub fn sign(&self, key: &TokenKey, user: &str) -> String {
        let mut bytes = self.session.to_vec();
        bytes.extend(self.first_login.to_be_bytes());
        bytes.extend(self.renewed.to_be_bytes());
        let tag = hmac::sign(&key.0, &[user.as_bytes(), &bytes].concat());
        bytes.extend(tag.as_ref());
        format!("{PREFIX}{}", STANDARD.encode(bytes))
    }

    /// Takes a token apart; panics unless it is well-formed and signed by `key` for `user`.
    #[must_use]
    pub fn verify(text: &str, key: &TokenKey, user: &str) -> Self {
        let body = text.strip_prefix(PREFIX).unwrap_or_else(|| panic!("not a generated token: {text}"));
        let bytes = STANDARD.decode(body).unwrap_or_else(|e| panic!("{text} is no base64: {e}"));
        assert_eq!(bytes.len(), 60, "length of {text}");
        let number = |at: usize| u64::from_be_bytes(bytes[at..at + 8].try_into().expect("eight bytes"));
        let session = bytes[..12].try_into().expect("twelve bytes");
        let token = Self { session, first_login: number(12), renewed: number(20) };
        assert_eq!(token.sign(key, user), text, "the token's signature");
        token
    }
}
