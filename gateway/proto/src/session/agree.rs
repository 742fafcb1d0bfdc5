//! What a server and a client agree on, and what the client is pushed for it.

use std::sync::Arc;

use base64::Engine as _;

use super::event::{Agreed, Derivation, PushConfig};
use super::params::SessionParams;
use crate::data::Framing;
use crate::keys::EXPORT_DYNAMIC_TLS_CRYPT;
use crate::message;
use crate::peer_info::{PeerInfo, iv_proto};
use crate::tls::Tls;
use crate::wrap::{KeyDirection, StaticKey, TlsCryptKey, WrapKey};
use crate::{Cipher, Secret};

/// Base64 of a user name longer than this does not fit a client's buffer and is not pushed.
const MAX_TOKEN_USER: usize = 127;

/// What the first login fixed for the life of the session.
#[derive(Debug)]
pub(super) struct Identity {
    pub(super) username: String,
    /// Also good from now on: the name that was pushed with a token.
    pub(super) token_user: Option<String>,
    /// SHA-256 of the client's certificate.
    pub(super) certificate: Option<[u8; 32]>,
    pub(super) peer_info: PeerInfo,
    pub(super) uses_compression: bool,
    pub(super) offered_cipher: Option<Cipher>,
}

impl Identity {
    /// Whether a later login is of the same user and certificate. One without a name at first may get one, once.
    pub(super) fn is_of(&self, username: &str, certificate: Option<[u8; 32]>) -> bool {
        let named = username == self.username
            || self.username.is_empty()
            || self.token_user.as_ref().is_some_and(|name| *name == username);
        named && certificate == self.certificate
    }

    /// Notes the name of a later login that was accepted: from now on it is the session's, if that had none.
    pub(super) fn adopt(&mut self, username: &str) {
        if self.username.is_empty() {
            username.clone_into(&mut self.username);
        }
    }
}

/// The key that wraps control packets of renegotiations: exported from the first TLS connection and mixed with the
/// configured one.
pub(super) fn renegotiation_key(
    tls: &Tls,
    source: Option<&StaticKey>,
    direction: KeyDirection,
) -> Option<Arc<WrapKey>> {
    let exported = StaticKey::new(*tls.export(EXPORT_DYNAMIC_TLS_CRYPT).ok()?.expose());
    let mixed = source.map_or_else(|| exported.clone(), |source| exported.xor(source));
    TlsCryptKey::new(&mixed, direction).map(|key| Arc::new(WrapKey::TlsCrypt(key)))
}

/// Finds what both sides can do.
pub(super) fn agree(
    params: &SessionParams,
    client: &Identity,
    own: Option<&[Cipher]>,
) -> Result<Agreed, &'static str> {
    let info = &client.peer_info;
    if !info.can(iv_proto::DATA_V2) {
        return Err("Data channel negotiation failed (missing DATA_V2)");
    }
    let exporter = info.can(iv_proto::TLS_KEY_EXPORT);
    if params.require_exporter && !exporter {
        return Err(
            "Client incompatible with this server. Keying Material Exporters (RFC 5705) support missing",
        );
    }
    let wanted = own.unwrap_or(&params.ciphers);
    let offered = info.ciphers().unwrap_or_default();
    let accepts = |cipher: &Cipher| offered.contains(cipher) || client.offered_cipher == Some(*cipher);
    let nothing_said = !info.negotiates_cipher() && client.offered_cipher.is_none();
    let cipher = wanted
        .iter()
        .copied()
        .find(|cipher| accepts(cipher))
        .or_else(|| params.fallback_cipher.filter(|_| nothing_said))
        .ok_or("Data channel cipher negotiation failed (no shared cipher)")?;
    Ok(Agreed {
        cipher,
        derivation: if exporter { Derivation::Exporter } else { Derivation::Prf },
        framing: framing(client),
        // Both are announced by the same pushed option.
        dynamic_tls_crypt: info.can(iv_proto::DYN_TLS_CRYPT | iv_proto::CC_EXIT_NOTIFY),
    })
}

/// Clients that know stub-v2 need no framing for IP packets; older ones that insist get the uncompressed stub.
pub(super) fn framing(client: &Identity) -> Framing {
    let stub_v2 = client.peer_info.value("IV_COMP_STUBv2") == Some("1");
    if client.uses_compression && !stub_v2 { Framing::Stub } else { Framing::Plain }
}

/// The parts of the PUSH_REPLY, in OpenVPN's order: common options, then those of this client.
pub(super) fn push_options(
    params: &SessionParams,
    client: &Identity,
    agreed: Agreed,
    push: &PushConfig,
) -> Vec<Secret<String>> {
    let info = &client.peer_info;
    let mut out: Vec<Secret<String>> = push.options.iter().cloned().map(Secret::new).collect();
    let mut add = |text: String| out.push(Secret::new(text));
    if client.uses_compression {
        add(match agreed.framing {
            Framing::Plain => "compress stub-v2".into(),
            Framing::Stub => "comp-lzo no".into(),
        });
    }
    if let Some((address, bits, gateway)) = push.ifconfig_ipv6 {
        add(format!("ifconfig-ipv6 {address}/{bits} {gateway}"));
    }
    if let Some((address, mask)) = push.ifconfig {
        add(format!("ifconfig {address} {mask}"));
    }
    if let Some(peer_id) = push.peer_id {
        add(format!("peer-id {peer_id}"));
    }
    if let Some(token) = &push.auth_token {
        add(format!("auth-token {}", token.expose()));
    }
    if let Some(user) = &push.auth_token_user {
        let user = base64::engine::general_purpose::STANDARD.encode(user);
        if user.len() <= MAX_TOKEN_USER {
            add(format!("auth-token-user {user}"));
        }
    }
    if info.negotiates_cipher() {
        add(format!("cipher {}", agreed.cipher));
    }
    let exporter = agreed.derivation == Derivation::Exporter;
    if info.can(iv_proto::CC_EXIT_NOTIFY) {
        let mut flags = String::from("protocol-flags cc-exit");
        if exporter {
            flags.push_str(" tls-ekm");
        }
        if agreed.dynamic_tls_crypt {
            flags.push_str(" dyn-tls-crypt");
        }
        add(flags);
    } else if exporter {
        add("key-derivation tls-ekm".into());
    }
    if info.value("IV_MTU").is_some() {
        add(format!("tun-mtu {}", params.tun_mtu));
    }
    message::push_reply(&out).0
}

/// The cipher in a client's options string, if it is one that we speak.
pub(super) fn offered_cipher(options: &str) -> Option<Cipher> {
    options.split(',').find_map(|option| option.strip_prefix("cipher ")).and_then(Cipher::from_name)
}

pub(super) fn sha256(bytes: &[u8]) -> [u8; 32] {
    let mut out = [0; 32];
    for (to, from) in out.iter_mut().zip(ring::digest::digest(&ring::digest::SHA256, bytes).as_ref()) {
        *to = *from;
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_without_a_name_gets_one_once() {
        let mut identity = Identity {
            username: String::new(),
            token_user: None,
            certificate: Some([1; 32]),
            peer_info: PeerInfo::parse(""),
            uses_compression: false,
            offered_cipher: None,
        };
        assert!(identity.is_of("", Some([1; 32])) && identity.is_of("alice", Some([1; 32])));
        assert!(!identity.is_of("alice", Some([2; 32])) && !identity.is_of("", None));
        identity.adopt("");
        identity.adopt("alice");
        identity.adopt("bob");
        assert!(identity.is_of("alice", Some([1; 32])));
        assert!(!identity.is_of("bob", Some([1; 32])) && !identity.is_of("", Some([1; 32])));
        identity.token_user = Some("YWxpY2U".into());
        assert!(identity.is_of("YWxpY2U", Some([1; 32])));
    }
}
