//! The armour around OpenVPN's own key files.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use zeroize::Zeroizing;

/// Characters of base64 per line, as OpenSSL writes PEM.
const LINE: usize = 64;

/// What stands between the BEGIN and the END line with this label.
pub(crate) fn block<'a>(text: &'a str, label: &str) -> Option<&'a str> {
    let (_, rest) = text.split_once(&format!("-----BEGIN {label}-----"))?;
    let (body, _) = rest.split_once(&format!("-----END {label}-----"))?;
    Some(body)
}

/// The bytes of a base64 block with this label; `None` without a block or when it is not base64.
pub(crate) fn decode(text: &str, label: &str) -> Option<Zeroizing<Vec<u8>>> {
    let body: Zeroizing<String> =
        Zeroizing::new(block(text, label)?.chars().filter(|c| !c.is_ascii_whitespace()).collect());
    STANDARD.decode(body.as_bytes()).ok().map(Zeroizing::new)
}

/// A base64 block with this label.
pub(crate) fn encode(bytes: &[u8], label: &str) -> String {
    let body = Zeroizing::new(STANDARD.encode(bytes));
    let mut out = format!("-----BEGIN {label}-----\n");
    for (i, c) in body.chars().enumerate() {
        if i > 0 && i % LINE == 0 {
            out.push('\n');
        }
        out.push(c);
    }
    out.push_str(&format!("\n-----END {label}-----\n"));
    out
}
