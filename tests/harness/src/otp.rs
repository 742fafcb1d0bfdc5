//! One-time codes of RFC 4226 and RFC 6238, made apart from the gateway's own.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ring::hmac;

/// The code of `counter` with six digits.
#[must_use]
pub fn hotp(secret: &[u8], counter: u64) -> String {
    let key = hmac::Key::new(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, secret);
    let tag = hmac::sign(&key, &counter.to_be_bytes());
    let tag = tag.as_ref();
    let at = usize::from(tag[tag.len() - 1] & 15);
    let word = tag[at..at + 4].iter().fold(0_u32, |word, byte| word << 8 | u32::from(*byte)) & 0x7fff_ffff;
    format!("{:06}", word % 1_000_000)
}

/// The code of the half minute `unix_time` is in. `secret` is base32, as an `otpauth` URI has it.
#[must_use]
pub fn totp(secret: &str, unix_time: u64) -> String {
    hotp(&base32(secret), unix_time / 30)
}

/// What a client that was told of a static challenge sends as its password.
#[must_use]
pub fn scrv1(password: &str, code: &str) -> String {
    format!("SCRV1:{}:{}", base64(password.as_bytes()), base64(code.as_bytes()))
}

/// RFC 4648 base32, without padding or with it.
fn base32(text: &str) -> Vec<u8> {
    let (mut bits, mut held, mut bytes) = (0_u32, 0, Vec::new());
    for letter in text.trim_end_matches('=').bytes() {
        let value = match letter {
            b'A'..=b'Z' => letter - b'A',
            b'a'..=b'z' => letter - b'a',
            b'2'..=b'7' => letter - b'2' + 26,
            other => panic!("{:?} is no letter of base32", char::from(other)),
        };
        bits = bits << 5 | u32::from(value);
        held += 5;
        if held >= 8 {
            held -= 8;
            bytes.push((bits >> held & 0xff) as u8);
        }
    }
    bytes
}

/// Plain base64 with padding, as answers to challenges are sent.
pub(crate) fn base64(bytes: &[u8]) -> String {
    STANDARD.encode(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rfc_s_own_vectors() {
        let secret = b"12345678901234567890";
        assert_eq!([0, 1, 9].map(|counter| hotp(secret, counter)), ["755224", "287082", "520489"]);
        // RFC 6238 has eight digits; the last six of them are ours.
        assert_eq!(totp("GEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQ", 59), "287082");
        assert_eq!(totp("GEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQ", 1_111_111_109), "081804");
    }
}
