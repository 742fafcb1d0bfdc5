//! The typed configuration: what the rest of the daemon sees. Macros are resolved, defaults are filled in, and every
//! value is inside its limits; sources are named here and read by whoever needs them.

mod auth;
mod network;
mod process;
mod tls;
mod transport;

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Serialize, Serializer};
use tessera_proto::Secret;

pub use auth::{
    Auth, AuthHook, CertificatePolicy, CredentialsVia, GenToken, HookCommand, Hooks, PluginFile,
    ScriptSecurity, Variable,
};
pub(crate) use network::mask4;
pub use network::{
    Device, DeviceKind, Ifconfig4, Ifconfig6, Network, Pool4, Pool6, PoolPersist, Route4, Route6, Topology,
};
pub use process::{ControlSocket, IoChoice, Log, Process, Status, Tessera, Threads, TokenVerify, WorkerCpus};
pub use tls::{
    Compression, CookieMode, Crypto, Fingerprint, KeyDirection, NameField, Tls, TlsVersion, Wrap, X509Match,
    X509Name,
};
pub use transport::{Limits, Listener, MssFix, PortShare, Protocol, Rate, ReplayWindow, Timers, Transport};

/// The whole configuration of a gateway.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Config {
    /// Sockets to listen on; never empty after a check.
    pub listeners: Vec<Listener>,
    /// What all sockets share: buffers and packet sizes.
    pub transport: Transport,
    /// The TUN device.
    pub device: Device,
    /// Addresses, pools and routes.
    pub network: Network,
    /// Options for every client, in the order of the file, each as it goes on the wire. Never holds a token.
    pub push: Vec<String>,
    /// Identity, trust and the limits of TLS.
    pub tls: Tls,
    /// What protects the control channel.
    pub wrap: Wrap,
    /// The data channel's ciphers.
    pub crypto: Crypto,
    /// Timers.
    pub timers: Timers,
    /// How clients prove who they are.
    pub auth: Auth,
    /// Programs that are run.
    pub hooks: Hooks,
    /// Bounds.
    pub limits: Limits,
    /// User, directories, logs.
    pub process: Process,
    /// Tessera's own directives.
    pub tessera: Tessera,
}

/// Where the text of a key, certificate or list comes from.
#[derive(Clone)]
pub enum Source {
    /// Written in the configuration as `<name>…</name>`.
    Inline(Secret<String>),
    /// A file; the path is already joined with the working directory (`cd`).
    File(PathBuf),
}

impl Source {
    /// The path, unless the text is inline.
    pub fn path(&self) -> Option<&Path> {
        match self {
            Self::Inline(_) => None,
            Self::File(path) => Some(path),
        }
    }

    /// Reads the text, at most `limit` bytes of it.
    ///
    /// # Errors
    /// The file cannot be opened or read, or has more than `limit` bytes.
    pub fn read(&self, limit: u64) -> std::io::Result<Secret<Vec<u8>>> {
        use std::io::Read as _;
        match self {
            Self::Inline(text) => Ok(Secret::new(text.expose().as_bytes().to_vec())),
            Self::File(path) => {
                let file = std::fs::File::open(path)?;
                let mut text = Secret::new(Vec::new());
                file.take(limit.saturating_add(1)).read_to_end(text.expose_mut())?;
                if text.expose().len() as u64 > limit {
                    let message = format!("more than {limit} bytes");
                    return Err(std::io::Error::new(std::io::ErrorKind::FileTooLarge, message));
                }
                Ok(text)
            }
        }
    }
}

impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Inline(_) => f.write_str("Inline([redacted])"),
            Self::File(path) => f.debug_tuple("File").field(path).finish(),
        }
    }
}

impl Serialize for Source {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        use serde::ser::SerializeMap as _;
        let mut map = serializer.serialize_map(Some(1))?;
        match self {
            Self::Inline(_) => map.serialize_entry("inline", "[redacted]")?,
            Self::File(path) => map.serialize_entry("file", path)?,
        }
        map.end()
    }
}

/// Serialises a duration as (whole or fractional) seconds.
fn seconds<S: Serializer>(value: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    if value.subsec_nanos() == 0 {
        serializer.serialize_u64(value.as_secs())
    } else {
        serializer.serialize_f64(value.as_secs_f64())
    }
}

/// Serialises an optional duration as seconds.
fn optional_seconds<S: Serializer>(value: &Option<Duration>, serializer: S) -> Result<S::Ok, S::Error> {
    match value {
        Some(value) => seconds(value, serializer),
        None => serializer.serialize_none(),
    }
}

/// Serialises anything by its `Display`.
fn display<T: fmt::Display, S: Serializer>(value: &T, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(value)
}

/// Serialises an optional value by its `Display`.
fn optional_display<T: fmt::Display, S: Serializer>(
    value: &Option<T>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    match value {
        Some(value) => serializer.collect_str(value),
        None => serializer.serialize_none(),
    }
}

/// Serialises a list of values by their `Display`.
fn display_list<T: fmt::Display, S: Serializer>(values: &[T], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(values.iter().map(ToString::to_string))
}
