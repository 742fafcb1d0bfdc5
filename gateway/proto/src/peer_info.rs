//! What a client says about itself in the peer-info of its key-method-2 message.

use crate::suite::Cipher;

/// Most lines that are kept; a stock client sends about twenty.
const MAX_LINES: usize = 128;

/// `IV_PROTO` bits: what a client can do.
pub mod iv_proto {
    /// Speaks P_DATA_V2 (has a place for a peer-id).
    pub const DATA_V2: u32 = 1 << 1;
    /// Wants the push reply without asking for it.
    pub const REQUEST_PUSH: u32 = 1 << 2;
    /// Derives data keys by the TLS exporter.
    pub const TLS_KEY_EXPORT: u32 = 1 << 3;
    /// Understands keywords behind `AUTH_PENDING`.
    pub const AUTH_PENDING_KW: u32 = 1 << 4;
    /// Says and understands `EXIT` on the control channel.
    pub const CC_EXIT_NOTIFY: u32 = 1 << 7;
    /// Understands `AUTH_FAILED,TEMP`.
    pub const AUTH_FAIL_TEMP: u32 = 1 << 8;
    /// Wraps renegotiations under a key from the TLS exporter.
    pub const DYN_TLS_CRYPT: u32 = 1 << 9;
}

/// `KEY=value` lines, in order, as the client sent them: hostile text.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PeerInfo {
    lines: Vec<(String, String)>,
}

impl PeerInfo {
    /// Splits the text; lines without `=` are skipped, and so is everything beyond a sane number of lines.
    pub fn parse(text: &str) -> Self {
        let lines = text
            .lines()
            .filter_map(|line| line.split_once('='))
            .take(MAX_LINES)
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .collect();
        Self { lines }
    }

    /// All lines, in order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.lines.iter().map(|(key, value)| (key.as_str(), value.as_str()))
    }

    /// The first value of `key`.
    pub fn value(&self, key: &str) -> Option<&str> {
        self.iter().find(|(k, _)| *k == key).map(|(_, value)| value)
    }

    /// The `IV_PROTO` bits; none when there is no such line.
    pub fn protocol_bits(&self) -> u32 {
        self.value("IV_PROTO").and_then(|value| value.trim().parse().ok()).unwrap_or(0)
    }

    /// True when the client has all of `bits`.
    pub fn can(&self, bits: u32) -> bool {
        self.protocol_bits() & bits == bits
    }

    /// True when the client lets the server choose the cipher.
    pub fn negotiates_cipher(&self) -> bool {
        self.value("IV_CIPHERS").is_some() || self.value("IV_NCP").is_some()
    }

    /// The ciphers that the client accepts, of those that we speak; `None` when it does not say.
    pub fn ciphers(&self) -> Option<Vec<Cipher>> {
        if let Some(list) = self.value("IV_CIPHERS") {
            return Some(list.split(':').filter_map(Cipher::from_name).collect());
        }
        (self.value("IV_NCP") == Some("2")).then(|| vec![Cipher::Aes256Gcm, Cipher::Aes128Gcm])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_a_stock_client_sends() {
        let info = PeerInfo::parse(
            "IV_VER=2.6.14\nIV_PLAT=linux\nIV_PROTO=990\nIV_CIPHERS=AES-256-GCM:BF-CBC:AES-128-GCM\n",
        );
        assert!(info.can(iv_proto::DATA_V2 | iv_proto::REQUEST_PUSH | iv_proto::TLS_KEY_EXPORT));
        assert!(!info.can(iv_proto::AUTH_PENDING_KW << 8));
        assert_eq!(info.ciphers(), Some(vec![Cipher::Aes256Gcm, Cipher::Aes128Gcm]));
        assert_eq!(info.value("IV_VER"), Some("2.6.14"));
    }

    #[test]
    fn old_and_hostile_ones() {
        assert_eq!(PeerInfo::parse("").ciphers(), None);
        assert_eq!(PeerInfo::parse("IV_NCP=2\n").ciphers().unwrap().len(), 2);
        assert_eq!(PeerInfo::parse("IV_PROTO=99999999999\n").protocol_bits(), 0);
        assert_eq!(PeerInfo::parse(&"X=1\n".repeat(1000)).iter().count(), MAX_LINES);
        assert_eq!(PeerInfo::parse("no equals sign\n=\n").iter().count(), 1);
    }
}
