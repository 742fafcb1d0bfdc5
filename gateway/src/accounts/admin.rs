//! Changes of accounts. They hash and write: never call them on a shard.

use data_encoding::BASE32_NOPAD;
use tessera_proto::Secret;

use super::file::{User, check_name};
use super::hash::{Hasher, PasswordHash, random};
use super::otp::{Otp, OtpKind};
use super::{Accounts, AccountsError};

/// Longest password in bytes: what an OpenVPN 2.x client can send, less an appended code of eight digits.
pub const MAX_PASSWORD: usize = 119;
/// Random bytes of a generated password: 80 bits are not guessed, and sixteen letters can be typed.
const PASSWORD_BYTES: usize = 10;
/// What the password field of a client means something else with.
const RESERVED: [&str; 3] = ["SCRV1:", "CRV1:", "SESS_ID_AT_"];

/// What was made for a user, to be shown once.
#[derive(Debug)]
pub struct Added {
    /// The password, if none was given.
    pub password: Option<Secret<String>>,
    /// The `otpauth://` URI for a QR code, if there is a second factor.
    pub otpauth: Option<Secret<String>>,
    /// Its secret in base32, to be typed in where no code can be read.
    pub secret: Option<Secret<String>>,
}

/// What may be shown of a user at any time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// The name.
    pub name: String,
    /// The second factor.
    pub otp: Option<OtpKind>,
    /// Cannot log in.
    pub disabled: bool,
}

impl Accounts {
    /// Adds a user, with a generated password if none is given, and a second factor if one is asked for.
    ///
    /// # Errors
    /// [`AccountsError`]; nothing has changed then.
    pub fn add(
        &self,
        name: &str,
        password: Option<Secret<String>>,
        otp: Option<OtpKind>,
    ) -> Result<Added, AccountsError> {
        check_name(name).map_err(|(_, reason)| AccountsError::Invalid(reason))?;
        let (password, generated) = given_or_generated(password)?;
        let hash = self.hash(&password)?;
        let otp = otp.map(Otp::generate).transpose().map_err(AccountsError::System)?;
        let mut added = self.show(name, otp.as_ref());
        self.inner.store.change(name, |old| match old {
            Some(_) => Err(AccountsError::Exists(name.to_owned())),
            None => Ok(Some(User { name: name.to_owned(), hash, otp, disabled: false })),
        })?;
        self.inner.lockout.forgive(name);
        added.password = generated.then_some(password);
        Ok(added)
    }

    /// Removes a user.
    ///
    /// # Errors
    /// [`AccountsError`]; nothing has changed then.
    pub fn remove(&self, name: &str) -> Result<(), AccountsError> {
        self.inner.store.change(name, |old| known(name, old).map(|_| None))
    }

    /// All users that can be used, in the order of their names.
    #[must_use]
    pub fn list(&self) -> Vec<Listed> {
        let users = self.inner.store.users();
        let listed = |user: &User| Listed {
            name: user.name.clone(),
            otp: user.otp.as_ref().map(Otp::kind),
            disabled: user.disabled,
        };
        users.sorted().into_iter().map(|user| listed(user)).collect()
    }

    /// Gives a user a new second factor, or takes it away. The old one no longer counts.
    ///
    /// # Errors
    /// [`AccountsError`]; nothing has changed then.
    pub fn set_otp(&self, name: &str, kind: Option<OtpKind>) -> Result<Added, AccountsError> {
        let otp = kind.map(Otp::generate).transpose().map_err(AccountsError::System)?;
        let added = self.show(name, otp.as_ref());
        self.inner.store.change(name, |old| Ok(Some(User { otp, ..known(name, old)?.clone() })))?;
        self.inner.lockout.forgive(name);
        Ok(added)
    }

    /// Gives a user a new password; a generated one, which comes back, if none is given.
    ///
    /// # Errors
    /// [`AccountsError`]; nothing has changed then.
    pub fn set_password(
        &self,
        name: &str,
        password: Option<Secret<String>>,
    ) -> Result<Option<Secret<String>>, AccountsError> {
        let (password, generated) = given_or_generated(password)?;
        let hash = self.hash(&password)?;
        self.inner.store.change(name, |old| Ok(Some(User { hash, ..known(name, old)?.clone() })))?;
        self.inner.lockout.forgive(name);
        Ok(generated.then_some(password))
    }

    /// Disables a user, or enables it again.
    ///
    /// # Errors
    /// [`AccountsError`]; nothing has changed then.
    pub fn set_disabled(&self, name: &str, disabled: bool) -> Result<(), AccountsError> {
        self.inner.store.change(name, |old| Ok(Some(User { disabled, ..known(name, old)?.clone() })))
    }

    fn hash(&self, password: &Secret<String>) -> Result<PasswordHash, AccountsError> {
        let text = password.expose().as_str();
        let refuse = |reason: String| Err(AccountsError::Invalid(reason));
        if text.is_empty() {
            return refuse("the password is empty".to_owned());
        }
        if text.len() > MAX_PASSWORD {
            return refuse(format!("the password is longer than {MAX_PASSWORD} bytes"));
        }
        if text.chars().any(char::is_control) {
            return refuse("the password has control characters, which clients cannot send".to_owned());
        }
        if let Some(reserved) = RESERVED.into_iter().find(|reserved| text.starts_with(reserved)) {
            return refuse(format!("a password cannot begin with {reserved}"));
        }
        Hasher::default().hash(text.as_bytes(), self.options.cost).map_err(AccountsError::System)
    }

    fn show(&self, name: &str, otp: Option<&Otp>) -> Added {
        Added {
            password: None,
            otpauth: otp.map(|otp| otp.uri(&self.options.issuer, name)),
            secret: otp.map(Otp::secret_base32),
        }
    }
}

fn known<'a>(name: &str, user: Option<&'a User>) -> Result<&'a User, AccountsError> {
    user.ok_or_else(|| AccountsError::Unknown(name.to_owned()))
}

/// The password, and whether it is ours.
fn given_or_generated(password: Option<Secret<String>>) -> Result<(Secret<String>, bool), AccountsError> {
    match password {
        Some(password) => Ok((password, false)),
        None => generate_password().map(|password| (password, true)),
    }
}

/// Sixteen letters and digits in groups of four.
fn generate_password() -> Result<Secret<String>, AccountsError> {
    let bytes = Secret::new(random::<PASSWORD_BYTES>().map_err(AccountsError::System)?);
    let letters = Secret::new(BASE32_NOPAD.encode(bytes.expose()));
    let mut password = Secret::new(String::with_capacity(PASSWORD_BYTES * 2));
    for (n, letter) in letters.expose().chars().enumerate() {
        if n > 0 && n % 4 == 0 {
            password.expose_mut().push('-');
        }
        password.expose_mut().push(letter.to_ascii_lowercase());
    }
    Ok(password)
}
