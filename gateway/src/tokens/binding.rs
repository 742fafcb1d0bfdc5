//! Whom a token is for.

use std::fmt;
use std::hash::Hasher as _;

use siphasher::sip128::{Hasher128 as _, SipHasher13};
use subtle::ConstantTimeEq as _;

use super::hash::Pepper;
use super::record::{TokenError, TokenVerdict};

/// Longest username or common name. Either is at most 127 bytes when it comes from a client; the rest is for names
/// that a hook sets.
pub const MAX_NAME_BYTES: usize = 255;

/// Whom a token is for. Names are compared byte by byte, before any mapping of characters.
///
/// All tokens of a client share one of these, so it is laid out to be small: both names in one allocation.
#[derive(Clone, PartialEq, Eq)]
pub struct Binding {
    names: Box<str>,
    /// Length of the username, which stands first.
    username: u8,
    certificate: Option<[u8; 32]>,
}

impl Binding {
    /// `username` is as the client sends it with the token, and empty where certificates alone tell users apart.
    /// `certificate` is the SHA-256 of the client's certificate. The common name is for lists and logs; it is not
    /// compared, as it follows from the certificate or the username.
    ///
    /// # Errors
    /// [`TokenError::NameTooLong`], and [`TokenError::Unbound`] for neither a username nor a certificate.
    pub fn new(username: &str, certificate: Option<[u8; 32]>, common_name: &str) -> Result<Self, TokenError> {
        let (Ok(split), true) = (u8::try_from(username.len()), common_name.len() <= MAX_NAME_BYTES) else {
            return Err(TokenError::NameTooLong);
        };
        if username.is_empty() && certificate.is_none() {
            return Err(TokenError::Unbound);
        }
        let mut names = String::with_capacity(username.len() + common_name.len());
        names.push_str(username);
        names.push_str(common_name);
        Ok(Self { names: names.into_boxed_str(), username: split, certificate })
    }

    /// As the client sends it.
    #[must_use]
    pub fn username(&self) -> &str {
        self.names.split_at(usize::from(self.username)).0
    }

    /// For lists and logs.
    #[must_use]
    pub fn common_name(&self) -> &str {
        self.names.split_at(usize::from(self.username)).1
    }

    /// SHA-256 of the client's certificate.
    #[must_use]
    pub const fn certificate(&self) -> Option<&[u8; 32]> {
        self.certificate.as_ref()
    }

    /// A client that shows exactly what the token is bound to.
    #[must_use]
    pub fn presented(&self) -> Presented<'_> {
        Presented { username: self.username(), certificate: self.certificate() }
    }

    /// Bytes of both names.
    pub(super) const fn names_len(&self) -> usize {
        self.names.len()
    }

    /// What a token that is bound to `self` says about a client that is `presented`.
    pub(super) fn mismatch(&self, presented: &Presented<'_>) -> Option<TokenVerdict> {
        if !bool::from(self.username().as_bytes().ct_eq(presented.username.as_bytes())) {
            return Some(TokenVerdict::WrongUser);
        }
        let same = match (&self.certificate, presented.certificate) {
            (Some(bound), Some(shown)) => bound.ct_eq(shown).into(),
            (None, None) => true,
            _ => false,
        };
        (!same).then_some(TokenVerdict::WrongCertificate)
    }
}

impl fmt::Debug for Binding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Binding")
            .field("username", &self.username())
            .field("certificate", &self.certificate)
            .field("common_name", &self.common_name())
            .finish()
    }
}

/// What a client shows together with a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Presented<'a> {
    /// As it sends it.
    pub username: &'a str,
    /// SHA-256 of its certificate; `None` for a client without one.
    pub certificate: Option<&'a [u8; 32]>,
}

/// Makes tags of bindings: SipHash-1-3 of 128 bits under a key that follows from the pepper. It has to be fast, and nobody
/// outside sees a tag.
#[derive(Clone)]
pub(super) struct Tagger(SipHasher13);

/// Stands for a username and a certificate. It lies beside the token's hash, so that a check that finds all in order
/// need not go to the binding.
#[derive(Clone, Copy)]
pub(super) struct BindingTag([u8; 16]);

impl Tagger {
    pub(super) fn new(pepper: &Pepper) -> Self {
        // A token has no space in it, so this is no token's hash.
        Self(SipHasher13::new_with_key(&pepper.derive(b"tags of bindings")))
    }

    pub(super) fn tag(&self, presented: &Presented<'_>) -> BindingTag {
        let mut hasher = self.0;
        hasher.write(&[presented.certificate.is_some().into()]);
        hasher.write(presented.certificate.map_or(&[], |certificate| certificate));
        hasher.write(presented.username.as_bytes());
        BindingTag(hasher.finish128().as_bytes())
    }
}

impl fmt::Debug for Tagger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

impl PartialEq for BindingTag {
    fn eq(&self, other: &Self) -> bool {
        u128::from_ne_bytes(self.0).ct_eq(&u128::from_ne_bytes(other.0)).into()
    }
}

impl fmt::Debug for BindingTag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[tag]")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tag_is_one_username_and_one_certificate() {
        let tagger = Tagger::new(&Pepper::new(&[1; 32]));
        let tag = |username, certificate: Option<[u8; 32]>| {
            tagger.tag(&Presented { username, certificate: certificate.as_ref() })
        };
        let a = std::str::from_utf8(&[b'a'; 32]).unwrap();
        let all = [
            tag("", None),
            tag("a", None),
            tag(a, None),
            tag("", Some([b'a'; 32])),
            tag("a", Some([b'a'; 32])),
            tag("\u{1}", Some([b'a'; 32])),
            tag("a", Some([b'b'; 32])),
        ];
        for (at, one) in all.iter().enumerate() {
            assert_eq!(all.iter().filter(|other| *other == one).count(), 1, "{at}");
        }
        assert!(tag("a", Some([7; 32])) == tag("a", Some([7; 32])));
        let presented = Presented { username: "a", certificate: None };
        assert!(Tagger::new(&Pepper::new(&[2; 32])).tag(&presented) != tag("a", None));
    }

    #[test]
    fn names_keep_their_border() {
        for (username, common_name) in [("alice", "example"), ("", "aliceexample"), ("ä", "ö"), ("x", "")] {
            let binding = Binding::new(username, Some([1; 32]), common_name).unwrap();
            assert_eq!((binding.username(), binding.common_name()), (username, common_name));
        }
        let longest = "x".repeat(MAX_NAME_BYTES);
        assert_eq!(Binding::new(&longest, None, &longest).unwrap().common_name(), longest);
        let longer = "x".repeat(MAX_NAME_BYTES + 1);
        assert_eq!(Binding::new(&longer, None, ""), Err(TokenError::NameTooLong));
        assert_eq!(Binding::new("x", None, &longer), Err(TokenError::NameTooLong));
        assert_eq!(Binding::new("", None, "x"), Err(TokenError::Unbound));
    }
}
