//! The TLS 1.0 PRF: P_MD5 exclusive-or P_SHA1 (RFC 2246 §5). Only OpenVPN clients older than 2.6 still need it.

use hmac::{Hmac, KeyInit, Mac};
use md5::Md5;
use sha1::Sha1;
use zeroize::Zeroizing;

/// Fills `out` from `secret`, `label` and the concatenation of `seed`.
pub(super) fn tls1_prf(secret: &[u8], label: &[u8], seed: &[&[u8]], out: &mut [u8]) {
    // Each half is rounded up: with an odd length the middle byte belongs to both.
    let half = secret.len().div_ceil(2);
    let md5_key = secret.get(..half).unwrap_or(secret);
    let sha1_key = secret.get(secret.len().saturating_sub(half)..).unwrap_or(secret);
    let mut parts = vec![label];
    parts.extend_from_slice(seed);
    out.fill(0);
    p_hash::<Hmac<Md5>>(md5_key, &parts, out);
    p_hash::<Hmac<Sha1>>(sha1_key, &parts, out);
}

/// Exclusive-ors P_hash(secret, seed) into `out`.
fn p_hash<M: Mac + KeyInit>(secret: &[u8], seed: &[&[u8]], out: &mut [u8]) {
    let mac = |parts: &[&[u8]]| -> Zeroizing<Vec<u8>> {
        // HMAC takes keys of any length.
        let Ok(mut mac) = <M as KeyInit>::new_from_slice(secret) else {
            return Zeroizing::default();
        };
        for part in parts {
            mac.update(part);
        }
        Zeroizing::new(mac.finalize().into_bytes().to_vec())
    };
    let mut a = mac(seed);
    let mut filled = 0usize;
    while filled < out.len() {
        let mut parts: Vec<&[u8]> = vec![&a];
        parts.extend_from_slice(seed);
        let block = mac(&parts);
        if block.is_empty() {
            return;
        }
        for (to, from) in out.iter_mut().skip(filled).zip(block.iter()) {
            *to ^= from;
        }
        filled = filled.saturating_add(block.len());
        a = mac(&[&a]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hex(text: &str) -> Vec<u8> {
        (0..text.len() / 2).map(|i| u8::from_str_radix(&text[2 * i..2 * i + 2], 16).unwrap()).collect()
    }

    #[test]
    fn known_answers() {
        let all: serde_json::Value =
            serde_json::from_str(include_str!("../../tests/vectors/prf.json")).unwrap();
        let vectors = all["prf"].as_array().unwrap();
        assert!(!vectors.is_empty());
        for v in vectors {
            let text = |name: &str| v[name].as_str().unwrap();
            let expected = hex(text("output"));
            let mut out = vec![0; expected.len()];
            tls1_prf(&hex(text("secret")), text("label").as_bytes(), &[&hex(text("seed"))], &mut out);
            assert_eq!(out, expected);
        }
    }
}
