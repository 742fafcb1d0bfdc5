//! Sessions: clients from their login on.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use serde::{Deserialize, Serialize};

use crate::{Fingerprint, Moment};

/// `session.list`: which sessions there are.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SessionList {
    /// Which of them; all by default.
    pub filter: SessionFilter,
}

/// Conditions that a session must meet, all of them.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SessionFilter {
    /// Exactly this common name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub common_name: Option<String>,
    /// Exactly this user name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub username: Option<String>,
    /// From this host.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub real_address: Option<IpAddr>,
    /// With this address inside.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub virtual_address: Option<IpAddr>,
}

impl SessionFilter {
    /// Whether a session meets all conditions. IPv4 addresses that are mapped into IPv6 count as IPv4.
    #[must_use]
    pub fn matches(&self, session: &Session) -> bool {
        let inside = |address: IpAddr| match address.to_canonical() {
            IpAddr::V4(v4) => session.virtual_address == Some(v4),
            IpAddr::V6(v6) => session.virtual_ipv6_address == Some(v6),
        };
        let real = session.real_address.ip().to_canonical();
        self.common_name.as_ref().is_none_or(|name| *name == session.common_name)
            && self.username.as_ref().is_none_or(|name| *name == session.username)
            && self.real_address.is_none_or(|address| address.to_canonical() == real)
            && self.virtual_address.is_none_or(inside)
    }
}

/// `session.show`: one session, with what its client says about itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SessionShow {
    /// Its id.
    pub id: String,
}

/// `session.kill`: ends sessions. It is not found when there is none.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SessionKill {
    /// Which.
    pub target: KillTarget,
    /// What the client is told, and what the log says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// What the client is to do.
    #[serde(default)]
    pub how: KillHow,
}

/// Which sessions are to be ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum KillTarget {
    /// One.
    Id(String),
    /// All of a common name.
    CommonName(String),
    /// All of a user.
    Username(String),
}

/// What the client of an ended session is told to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum KillHow {
    /// `RESTART`: come back, with the token.
    #[default]
    Restart,
    /// `HALT`: stay away.
    Halt,
    /// `AUTH_FAILED`: drop the token.
    AuthFailed,
}

/// Where a session stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SessionState {
    /// Its first login is being decided.
    Authenticating,
    /// It is accepted, and is being given addresses and options.
    Configuring,
    /// It is up.
    Connected,
    /// It is being ended.
    Leaving,
}

/// A session.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Session {
    /// Names it for as long as the gateway runs.
    pub id: String,
    /// Where it stands.
    pub state: SessionState,
    /// Empty before it is known.
    pub common_name: String,
    /// As the client sent it; empty without one.
    pub username: String,
    /// Its number on the data channel, once it has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub peer_id: Option<u32>,
    /// Where the client is.
    pub real_address: SocketAddr,
    /// Its address inside.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub virtual_address: Option<Ipv4Addr>,
    /// Its IPv6 address inside.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub virtual_ipv6_address: Option<Ipv6Addr>,
    /// Networks behind it, as `192.0.2.0/24`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub iroutes: Vec<String>,
    /// When its login was accepted; before that, when it began.
    pub connected_since: Moment,
    /// From the client, control packets included.
    pub bytes_received: u64,
    /// To the client, control packets included.
    pub bytes_sent: u64,
    /// The data channel's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cipher: Option<String>,
    /// What it can log in with again.
    pub token: TokenOfSession,
    /// Of the client's certificate.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub certificate_fingerprint: Option<Fingerprint>,
    /// `IV_VER`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_version: Option<String>,
    /// `IV_PLAT`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_platform: Option<String>,
    /// All that the client says about itself; only in the answer to `session.show`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub peer_info: BTreeMap<String, String>,
}

/// Who made a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TokenKind {
    /// There is none.
    #[default]
    None,
    /// A hook or a plugin, which had it pushed.
    Pushed,
    /// The gateway (`auth-gen-token`).
    Generated,
}

/// The token of a session, without the token.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct TokenOfSession {
    /// Who made it.
    pub kind: TokenKind,
    /// The same over all renewals of a generated token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session_id: Option<String>,
    /// When it was made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub issued: Option<Moment>,
    /// When it ends, unless it is renewed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires: Option<Moment>,
}
