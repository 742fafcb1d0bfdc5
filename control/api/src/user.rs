//! Users: those of the gateway's own file, and locks on anybody.

use serde::{Deserialize, Serialize};

use crate::{Moment, Sensitive};

/// `user.add`: a new user in the gateway's own file.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UserAdd {
    /// Not there yet.
    pub name: String,
    /// The gateway makes one when it is left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password: Option<Sensitive>,
    /// A second factor.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub otp: Option<OtpKind>,
}

/// `user.remove`, `user.lock`, `user.unlock`: whom.
///
/// A locked user's tokens are dead, the sessions ended, and no login is accepted before `user.unlock`, whatever decides
/// about logins.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UserName {
    /// The name.
    pub name: String,
}

/// `user.otp`: gives a user a new second factor, or takes it away.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UserOtp {
    /// Whose.
    pub name: String,
    /// Which.
    pub otp: OtpSetting,
}

/// `user.password`: gives a user a new password.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UserPassword {
    /// Whose.
    pub name: String,
    /// The gateway makes one when it is left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password: Option<Sensitive>,
}

/// A second factor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OtpKind {
    /// By the clock (RFC 6238).
    Totp,
    /// By a counter (RFC 4226).
    Hotp,
}

/// What becomes of a second factor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OtpSetting {
    /// A new one by the clock.
    Totp,
    /// A new one by a counter.
    Hotp,
    /// Away with it.
    None,
}

impl OtpSetting {
    /// The factor that is there afterwards.
    #[must_use]
    pub const fn kind(self) -> Option<OtpKind> {
        match self {
            Self::Totp => Some(OtpKind::Totp),
            Self::Hotp => Some(OtpKind::Hotp),
            Self::None => None,
        }
    }
}

/// A user.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct User {
    /// The name.
    pub name: String,
    /// It is in the gateway's own file. Users of other backends are listed while they are locked.
    pub in_auth_file: bool,
    /// The second factor.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub otp: Option<OtpKind>,
    /// By `user.lock`.
    pub locked: bool,
    /// Until when logins are refused after too many wrong ones. Tokens work.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub locked_out_until: Option<Moment>,
    /// When it was added.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created: Option<Moment>,
}

/// The outcome of `user.add`, `user.otp` and `user.password`: what the user must be told, once.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Credentials {
    /// Whose.
    pub name: String,
    /// The password, if the gateway made it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password: Option<Sensitive>,
    /// The second factor, if there is a new one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub otp: Option<OtpProvisioning>,
}

/// What an authenticator app needs.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct OtpProvisioning {
    /// Which second factor.
    pub kind: OtpKind,
    /// The shared secret in base32.
    pub secret: Sensitive,
    /// The same as an `otpauth` URI.
    pub uri: Sensitive,
}
