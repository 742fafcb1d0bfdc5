//! Key-method-2 messages: the first application data under each TLS negotiation.
//!
//! ```text
//!  0(4) 2(1) [client: pre_master(48)] random1(32) random2(32) options username password peer-info
//!  each string: length(2, of bytes and NUL) bytes NUL; an empty one may be length 0
//! ```

use crate::Secret;
use crate::rng::{self, Rng};
use tessera_wire::{Reader, Truncated};
use zeroize::Zeroizing;

/// Longest user name or password: OpenVPN's limit of 128 with its NUL.
pub const MAX_CREDENTIAL: usize = 127;
/// Longest options string; stock peers send about 200 bytes.
const MAX_OPTIONS: usize = 1024;
/// Longest peer-info; stock peers send about 500 bytes.
const MAX_PEER_INFO: usize = 4096;

/// One side's random contribution to the PRF.
#[derive(Debug)]
pub struct KeySource {
    /// Only the client has one.
    pub pre_master: Option<Secret<[u8; 48]>>,
    /// Goes into the master secret.
    pub random1: Secret<[u8; 32]>,
    /// Goes into the key expansion.
    pub random2: Secret<[u8; 32]>,
}

impl KeySource {
    /// A client's.
    pub fn client(rng: &mut dyn Rng) -> Self {
        Self { pre_master: Some(Secret::new(rng::bytes(rng))), ..Self::server(rng) }
    }

    /// A server's.
    pub fn server(rng: &mut dyn Rng) -> Self {
        Self {
            pre_master: None,
            random1: Secret::new(rng::bytes(rng)),
            random2: Secret::new(rng::bytes(rng)),
        }
    }

    fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&[0, 0, 0, 0, 2]);
        if let Some(pre_master) = &self.pre_master {
            out.extend_from_slice(pre_master.expose());
        }
        out.extend_from_slice(self.random1.expose());
        out.extend_from_slice(self.random2.expose());
    }

    fn read(r: &mut Reader<'_>, client: bool) -> Result<Self, Method2Error> {
        if r.u32()? != 0 {
            return Err(Method2Error::NotKeyMethod2);
        }
        if r.u8()? & 0x0f != 2 {
            return Err(Method2Error::NotKeyMethod2);
        }
        Ok(Self {
            pre_master: if client { Some(Secret::new(r.array()?)) } else { None },
            random1: Secret::new(r.array()?),
            random2: Secret::new(r.array()?),
        })
    }
}

/// What a client says about itself.
#[derive(Debug)]
pub struct ClientMessage {
    /// Its randomness.
    pub source: KeySource,
    /// Its options string; a hint at best.
    pub options: String,
    /// Empty when it has none.
    pub username: String,
    /// A password, or a token in its place. Empty when it has none.
    pub password: Secret<String>,
    /// `KEY=value` lines.
    pub peer_info: String,
}

/// What a server says about itself.
#[derive(Debug)]
pub struct ServerMessage {
    /// Its randomness.
    pub source: KeySource,
    /// Its options string.
    pub options: String,
}

/// Why a message was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Method2Error {
    /// A user name or password beyond [`MAX_CREDENTIAL`].
    #[error("Username or password is too long. Maximum length is 128 bytes")]
    CredentialTooLong,
    /// The message does not start as key method 2 does.
    #[error("not a key method 2 message")]
    NotKeyMethod2,
    /// Text that is not text, or beyond every reason.
    #[error("malformed string in the key method 2 message")]
    BadString,
    /// The message ends early.
    #[error("truncated key method 2 message")]
    Truncated,
}

impl From<Truncated> for Method2Error {
    fn from(_: Truncated) -> Self {
        Self::Truncated
    }
}

impl ClientMessage {
    /// Reads a whole message. User name, password and peer-info may be missing at the end (very old clients).
    pub fn parse(bytes: &[u8]) -> Result<Self, Method2Error> {
        let mut r = Reader::new(bytes);
        let source = KeySource::read(&mut r, true)?;
        let options = string(&mut r, MAX_OPTIONS, Method2Error::BadString)?;
        let username = optional_string(&mut r, MAX_CREDENTIAL, Method2Error::CredentialTooLong)?;
        let password = optional_string(&mut r, MAX_CREDENTIAL, Method2Error::CredentialTooLong)?;
        let peer_info = optional_string(&mut r, MAX_PEER_INFO, Method2Error::BadString)?;
        Ok(Self { source, options, username, password: Secret::new(password), peer_info })
    }

    /// The bytes on the wire; wiped when dropped.
    pub fn encode(&self) -> Zeroizing<Vec<u8>> {
        let mut out = Zeroizing::new(Vec::new());
        self.source.write(&mut out);
        write_string(&mut out, &self.options);
        write_string(&mut out, &self.username);
        write_string(&mut out, self.password.expose());
        write_string(&mut out, &self.peer_info);
        out
    }
}

impl ServerMessage {
    /// Reads a whole message; what follows the options is ignored.
    pub fn parse(bytes: &[u8]) -> Result<Self, Method2Error> {
        let mut r = Reader::new(bytes);
        let source = KeySource::read(&mut r, false)?;
        Ok(Self { source, options: string(&mut r, MAX_OPTIONS, Method2Error::BadString)? })
    }

    /// The bytes on the wire; wiped when dropped.
    pub fn encode(&self) -> Zeroizing<Vec<u8>> {
        let mut out = Zeroizing::new(Vec::new());
        self.source.write(&mut out);
        write_string(&mut out, &self.options);
        for _ in ["username", "password", "peer-info"] {
            write_string(&mut out, "");
        }
        out
    }
}

fn optional_string(r: &mut Reader<'_>, most: usize, too_long: Method2Error) -> Result<String, Method2Error> {
    if r.is_empty() { Ok(String::new()) } else { string(r, most, too_long) }
}

/// A string without its NUL. Bytes that are no UTF-8 become replacement characters: nothing may fail on a name.
fn string(r: &mut Reader<'_>, most: usize, too_long: Method2Error) -> Result<String, Method2Error> {
    let len = usize::from(r.u16()?);
    let bytes = r.bytes(len)?;
    let text = bytes.strip_suffix(&[0]).unwrap_or(bytes);
    if text.contains(&0) {
        return Err(Method2Error::BadString);
    }
    if text.len() > most {
        return Err(too_long);
    }
    Ok(String::from_utf8_lossy(text).into_owned())
}

fn write_string(out: &mut Vec<u8>, text: &str) {
    if text.is_empty() {
        out.extend_from_slice(&[0, 0]);
        return;
    }
    // Callers keep strings far below 64 KiB; a longer one is cut rather than mis-framed.
    let bytes = text.as_bytes().get(..text.len().min(usize::from(u16::MAX) - 1)).unwrap_or_default();
    out.extend_from_slice(&(bytes.len() as u16 + 1).to_be_bytes());
    out.extend_from_slice(bytes);
    out.push(0);
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Counter(u8);
    impl Rng for Counter {
        fn fill(&mut self, out: &mut [u8]) {
            for byte in out {
                self.0 = self.0.wrapping_add(1);
                *byte = self.0;
            }
        }
    }

    fn message(username: &str, password: &str) -> ClientMessage {
        ClientMessage {
            source: KeySource::client(&mut Counter(0)),
            options: "V4,dev-type tun".into(),
            username: username.into(),
            password: Secret::new(password.into()),
            peer_info: "IV_VER=2.6.14\nIV_PROTO=990\n".into(),
        }
    }

    #[test]
    fn client_message_round_trip() {
        let bytes = message("alice", "secret").encode();
        let parsed = ClientMessage::parse(&bytes).unwrap();
        assert_eq!(parsed.username, "alice");
        assert_eq!(parsed.password.expose(), "secret");
        assert_eq!(parsed.peer_info, "IV_VER=2.6.14\nIV_PROTO=990\n");
        assert_eq!(parsed.source.random2.expose(), message("", "").source.random2.expose());
        assert!(!format!("{parsed:?}").contains("secret"));
    }

    #[test]
    fn credential_lengths() {
        for (len, ok) in
            [(0, true), (1, true), (126, true), (127, true), (128, false), (255, false), (4096, false)]
        {
            let text = "x".repeat(len);
            for message in [message(&text, "p"), message("u", &text)] {
                let parsed = ClientMessage::parse(&message.encode());
                match parsed {
                    Ok(parsed) => {
                        assert!(ok, "{len}");
                        assert_eq!(parsed.peer_info, message.peer_info, "what follows is parsed right");
                    }
                    Err(error) => assert_eq!((ok, error), (false, Method2Error::CredentialTooLong), "{len}"),
                }
            }
        }
    }

    #[test]
    fn missing_tails_are_empty_and_cut_ones_are_refused() {
        let bytes = message("alice", "secret").encode();
        let up_to_options = 5 + 48 + 64 + 2 + 16;
        let old = ClientMessage::parse(&bytes[..up_to_options]).unwrap();
        assert_eq!((old.username.as_str(), old.peer_info.as_str()), ("", ""));
        for len in 0..bytes.len() {
            let cut = ClientMessage::parse(&bytes[..len]);
            assert!(len >= up_to_options || cut.is_err(), "{len}");
        }
        let mut bad = bytes.to_vec();
        bad[4] = 1;
        assert_eq!(ClientMessage::parse(&bad).unwrap_err(), Method2Error::NotKeyMethod2);
    }

    #[test]
    fn server_message_round_trip() {
        let message = ServerMessage { source: KeySource::server(&mut Counter(9)), options: "V4".into() };
        let parsed = ServerMessage::parse(&message.encode()).unwrap();
        assert_eq!(parsed.options, "V4");
        assert_eq!(parsed.source.random1.expose(), message.source.random1.expose());
    }
}
