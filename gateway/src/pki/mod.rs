//! Certificates: what the server shows, which client certificates it accepts, and what it reports about them.
//!
//! The order of use: fill a [`PkiOptions`], build a [`ServerTls`] from it, take [`ServerTls::server_config`] for each new TLS
//! session (after [`ServerTls::reload_crl`]), and once a handshake is done ask [`ServerTls::peer_identity`] who came. A
//! handshake that failed is put in words by [`explain`].
//!
//! Every check of the client certificate runs inside the TLS handshake, so a refused client gets an alert. The identity is
//! read from fully parsed DER by the same code in the verifier and afterwards; the two cannot disagree.

mod crl;
mod error;
mod explain;
mod identity;
mod inspect;
mod load;
mod names;
mod options;
mod remembered;
mod rules;
mod server;
mod suites;
mod verifier;

#[cfg(test)]
mod fixtures;
#[cfg(test)]
mod tests_handshake;
#[cfg(test)]
mod tests_identity;

pub use crl::CrlReload;
pub use error::{CertProblem, CertRefusal, PkiError};
pub use explain::explain;
pub use identity::{CertInfo, IdentityError, PeerIdentity};
pub use names::{UsernameField, UsernameFields};
pub use options::{
    CertProfile, ClientCert, CrlExpiry, CrlSource, KeyPem, Pem, PkiOptions, TlsVersion, parse_fingerprint,
};
pub use rules::{Eku, KeyUsageRule, LeafRules, NameRule};
pub use server::{ServerTls, WallClock};
