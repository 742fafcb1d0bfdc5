//! What the journal is made of: a header and records, each with its checksum. All numbers are little-endian.
//!
//! ```text
//! header   "TESSERAJ", format version (u32), pepper (32), CRC-32 of all that (u32)
//! record   length of the body (u16), CRC-32 of length and body (u32), body
//! body     kind (u8), version of the kind (u8), fields
//! ```
//!
//! In a body a name is its length (u16) and its bytes, and what may be absent is a 0, or a 1 and the value.
//! Records may be applied in order from any earlier point to any later one, and again: those of tokens by time of issue,
//! those of locks by serial, revocations and counters as far as they go.

use std::sync::Arc;

use tessera_proto::Secret;
use zeroize::Zeroizing;

use crate::tokens::{
    Binding, Lineage, LockChange, MAX_NAME_BYTES, Pepper, Revocation, Scope, SigningKey, TokenHash,
    TokenInfo, UnixSeconds,
};

/// The format of header and frames. A gateway refuses a journal of another one.
const FORMAT: u32 = 1;

const MAGIC: &[u8; 8] = b"TESSERAJ";

/// Bytes of the header.
pub const HEADER_BYTES: usize = 8 + 4 + Pepper::BYTES + 4;

/// Bytes of a record before its body.
const FRAME_BYTES: usize = 6;

/// Kind and version.
const BODY_HEAD_BYTES: usize = 2;

/// Longest body: two names and all that there is besides, with room.
const MAX_BODY_BYTES: usize = 1024;

/// Longest record.
pub(super) const MAX_RECORD_BYTES: usize = FRAME_BYTES + MAX_BODY_BYTES;

/// Version of every kind of record so far.
const VERSION: u8 = 1;

/// A change that survives the process.
#[derive(Debug, Clone, PartialEq)]
pub enum Record {
    /// A pushed token.
    TokenPut {
        /// The only form in which it is kept.
        hash: TokenHash,
        /// Whose it is, and from when to when.
        info: TokenInfo,
        /// Whether it was revoked since.
        revoked: bool,
    },
    /// A token was revoked.
    TokenRevoked {
        /// Which.
        hash: TokenHash,
        /// When it was issued; one of the same value that was issued at another time lives.
        issued: UnixSeconds,
    },
    /// Tokens were revoked together.
    Revocation(Revocation),
    /// A user was locked or freed.
    Lock {
        /// Who.
        username: String,
        /// What holds.
        change: LockChange,
    },
    /// A one-time password was used.
    OtpUsed {
        /// By whom.
        username: String,
        /// Counter or time step; all below are used as well.
        counter: u64,
    },
    /// A key that signs generated tokens.
    SigningKey(SigningKey),
}

/// Why bytes are no record. At the end of a journal [`Self::Damaged`] is what a crash leaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Undecodable {
    /// Cut, or not what was written.
    Damaged,
    /// It is whole, and a newer gateway's.
    Newer,
}

impl Record {
    /// Appends the record to `out`; false, and nothing is appended, when a name is too long for any user.
    pub fn encode(&self, out: &mut Vec<u8>) -> bool {
        let start = out.len();
        out.extend_from_slice(&[0; FRAME_BYTES]);
        self.encode_body(out);
        let body = out.len() - start - FRAME_BYTES;
        let length = u16::try_from(body).unwrap_or(u16::MAX).to_le_bytes();
        let (Some(frame), true) = (out.get_mut(start..), body <= MAX_BODY_BYTES && self.is_sound()) else {
            out.truncate(start);
            return false;
        };
        let checksum = frame.get(FRAME_BYTES..).map_or(0, |body| checksum(length, body)).to_le_bytes();
        for (to, from) in frame.iter_mut().zip(length.iter().chain(&checksum)) {
            *to = *from;
        }
        true
    }

    /// Most bytes of a token's record, without its client's names.
    pub const TOKEN_BYTES: usize = FRAME_BYTES + BODY_HEAD_BYTES + TokenHash::BYTES + 2 + 2 + 33 + 3 * 8 + 1;
    /// Most bytes of a user's lock, without the name.
    pub const LOCK_BYTES: usize = FRAME_BYTES + BODY_HEAD_BYTES + 2 + 8 + 9;
    /// Bytes of a counter, without the name.
    pub const OTP_BYTES: usize = FRAME_BYTES + BODY_HEAD_BYTES + 2 + 8;
    /// Bytes of a signing key.
    pub const KEY_BYTES: usize = FRAME_BYTES + BODY_HEAD_BYTES + 32 + 8;
    /// Most bytes of a revocation, without the scope's value.
    pub const REVOCATION_BYTES: usize = FRAME_BYTES + BODY_HEAD_BYTES + 1 + 8 + 9;

    /// Reads a record from the front of `bytes`; the rest comes back with it. Total: any bytes will do.
    ///
    /// # Errors
    /// [`Undecodable`].
    pub fn decode(bytes: &[u8]) -> Result<(Self, &[u8]), Undecodable> {
        let (frame, rest) = bytes.split_at_checked(FRAME_BYTES).ok_or(Undecodable::Damaged)?;
        let length = body_length(frame).ok_or(Undecodable::Damaged)?;
        let (body, rest) = rest.split_at_checked(length).ok_or(Undecodable::Damaged)?;
        let sum = frame.get(2..).and_then(|sum| sum.try_into().ok()).map(u32::from_le_bytes);
        if sum != Some(checksum((length as u16).to_le_bytes(), body)) {
            return Err(Undecodable::Damaged);
        }
        // Only a checksum that does not match says that the bytes are not what somebody wrote.
        Self::decode_body(body).map(|record| (record, rest)).ok_or(Undecodable::Newer)
    }

    fn is_sound(&self) -> bool {
        match self {
            Self::Revocation(Revocation { scope: Scope::User(name), .. }) => name.len() <= MAX_NAME_BYTES,
            Self::Lock { username, .. } | Self::OtpUsed { username, .. } => username.len() <= MAX_NAME_BYTES,
            _ => true,
        }
    }

    fn encode_body(&self, out: &mut Vec<u8>) {
        match self {
            Self::TokenPut { hash, info, revoked } => {
                out.extend_from_slice(&[1, VERSION]);
                out.extend_from_slice(hash.as_bytes());
                put_name(out, info.binding.username());
                put_name(out, info.binding.common_name());
                put_optional(out, info.binding.certificate());
                put_number(out, info.lineage.0);
                put_number(out, info.issued.0);
                put_number(out, info.expires.0);
                out.push((*revoked).into());
            }
            Self::TokenRevoked { hash, issued } => {
                out.extend_from_slice(&[2, VERSION]);
                out.extend_from_slice(hash.as_bytes());
                put_number(out, issued.0);
            }
            Self::Revocation(Revocation { scope, before, expires }) => {
                out.extend_from_slice(&[3, VERSION]);
                match scope {
                    Scope::Session(id) => {
                        out.push(1);
                        out.extend_from_slice(id);
                    }
                    Scope::User(name) => {
                        out.push(2);
                        put_name(out, name);
                    }
                    Scope::Certificate(id) => {
                        out.push(3);
                        out.extend_from_slice(id);
                    }
                    Scope::Everything => out.push(4),
                }
                put_number(out, before.0);
                put_optional(out, expires.map(|at| at.0.to_le_bytes()).as_ref());
            }
            Self::Lock { username, change } => {
                out.extend_from_slice(&[4, VERSION]);
                put_name(out, username);
                put_number(out, change.serial);
                put_optional(out, change.locked.map(|at| at.0.to_le_bytes()).as_ref());
            }
            Self::OtpUsed { username, counter } => {
                out.extend_from_slice(&[5, VERSION]);
                put_name(out, username);
                put_number(out, *counter);
            }
            Self::SigningKey(SigningKey { key, made }) => {
                out.extend_from_slice(&[6, VERSION]);
                out.extend_from_slice(key.expose());
                put_number(out, made.0);
            }
        }
    }

    fn decode_body(body: &[u8]) -> Option<Self> {
        let mut fields = Fields(body);
        let [kind, VERSION] = fields.array()? else { return None };
        let record = match kind {
            1 => {
                let hash = TokenHash::from_bytes(fields.array()?);
                let (username, common_name) = (fields.name()?, fields.name()?);
                let certificate = fields.optional()?;
                let binding = Arc::new(Binding::new(username, certificate, common_name).ok()?);
                let lineage = Lineage(fields.number()?);
                let (issued, expires) = (UnixSeconds(fields.number()?), UnixSeconds(fields.number()?));
                let revoked = fields.flag()?;
                Self::TokenPut { hash, info: TokenInfo { binding, lineage, issued, expires }, revoked }
            }
            2 => Self::TokenRevoked {
                hash: TokenHash::from_bytes(fields.array()?),
                issued: UnixSeconds(fields.number()?),
            },
            3 => {
                let [scope] = fields.array()?;
                let scope = match scope {
                    1 => Scope::Session(fields.array()?),
                    2 => Scope::User(fields.name()?.to_owned()),
                    3 => Scope::Certificate(fields.array()?),
                    4 => Scope::Everything,
                    _ => return None,
                };
                let before = UnixSeconds(fields.number()?);
                Self::Revocation(Revocation { scope, before, expires: fields.optional_time()? })
            }
            4 => Self::Lock {
                username: fields.name()?.to_owned(),
                change: LockChange { serial: fields.number()?, locked: fields.optional_time()? },
            },
            5 => Self::OtpUsed { username: fields.name()?.to_owned(), counter: fields.number()? },
            6 => Self::SigningKey(SigningKey {
                key: Secret::new(fields.array()?),
                made: UnixSeconds(fields.number()?),
            }),
            _ => return None,
        };
        fields.0.is_empty().then_some(record)
    }
}

/// The length of the body that follows a frame, if there can be one.
pub(super) fn body_length(frame: &[u8]) -> Option<usize> {
    let length = usize::from(u16::from_le_bytes(frame.get(..2)?.try_into().ok()?));
    (BODY_HEAD_BYTES..=MAX_BODY_BYTES).contains(&length).then_some(length)
}

/// Bytes before a body.
pub(super) const fn frame_bytes() -> usize {
    FRAME_BYTES
}

/// The header of a journal with this pepper.
pub(super) fn encode_header(pepper: &[u8; Pepper::BYTES]) -> Zeroizing<Vec<u8>> {
    let mut header = Zeroizing::new(Vec::with_capacity(HEADER_BYTES));
    header.extend_from_slice(MAGIC);
    header.extend_from_slice(&FORMAT.to_le_bytes());
    header.extend_from_slice(pepper);
    let sum = crc32fast::hash(&header);
    header.extend_from_slice(&sum.to_le_bytes());
    header
}

/// The pepper of a journal.
///
/// # Errors
/// [`Undecodable`].
pub(super) fn decode_header(header: &[u8]) -> Result<Zeroizing<[u8; Pepper::BYTES]>, Undecodable> {
    let mut fields = Fields(header);
    let read = |fields: &mut Fields<'_>| {
        let magic: [u8; 8] = fields.array()?;
        let format = u32::from_le_bytes(fields.array()?);
        let pepper = Zeroizing::new(fields.array()?);
        let sum = u32::from_le_bytes(fields.array()?);
        let summed = header.get(..HEADER_BYTES - 4)?;
        (magic == *MAGIC && sum == crc32fast::hash(summed)).then_some((format, pepper))
    };
    match read(&mut fields) {
        Some((FORMAT, pepper)) => Ok(pepper),
        Some(_) => Err(Undecodable::Newer),
        None => Err(Undecodable::Damaged),
    }
}

fn checksum(length: [u8; 2], body: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&length);
    hasher.update(body);
    hasher.finalize()
}

fn put_number(out: &mut Vec<u8>, number: u64) {
    out.extend_from_slice(&number.to_le_bytes());
}

/// A name that is too long makes a body that is too long, or [`Record::is_sound`] refuses it.
fn put_name(out: &mut Vec<u8>, name: &str) {
    out.extend_from_slice(&u16::try_from(name.len()).unwrap_or(u16::MAX).to_le_bytes());
    out.extend_from_slice(name.as_bytes());
}

fn put_optional<const N: usize>(out: &mut Vec<u8>, value: Option<&[u8; N]>) {
    out.push(value.is_some().into());
    out.extend_from_slice(value.map_or(&[], |value| value));
}

/// What is left of a body.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(taken)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.take(N)?.try_into().ok()
    }

    fn number(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }

    fn flag(&mut self) -> Option<bool> {
        match self.array()? {
            [0] => Some(false),
            [1] => Some(true),
            _ => None,
        }
    }

    fn name(&mut self) -> Option<&'a str> {
        let length = usize::from(u16::from_le_bytes(self.array()?));
        if length > MAX_NAME_BYTES {
            return None;
        }
        std::str::from_utf8(self.take(length)?).ok()
    }

    fn optional<const N: usize>(&mut self) -> Option<Option<[u8; N]>> {
        if self.flag()? { self.array().map(Some) } else { Some(None) }
    }

    fn optional_time(&mut self) -> Option<Option<UnixSeconds>> {
        Some(self.optional()?.map(|time| UnixSeconds(u64::from_le_bytes(time))))
    }
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Any record, with few different names, so that they meet.
    pub(crate) fn record() -> impl Strategy<Value = Record> {
        let name = || prop_oneof![Just("alice".to_owned()), Just("bob".to_owned()), "[a-zé]{1,20}"];
        let time = || (1_000u64..1_020).prop_map(UnixSeconds);
        let hash = || (0u8..6).prop_map(|byte| TokenHash::from_bytes([byte; 16]));
        let scope = prop_oneof![
            any::<u8>().prop_map(|byte| Scope::Session([byte; 12])),
            name().prop_map(Scope::User),
            (0u8..3).prop_map(|byte| Scope::Certificate([byte; 32])),
            Just(Scope::Everything),
        ];
        let certificate = || prop::option::of((0u8..3).prop_map(|byte| [byte; 32]));
        prop_oneof![
            (hash(), name(), certificate(), any::<u64>(), time(), 1_020u64..1_040, any::<bool>()).prop_map(
                |(hash, name, certificate, lineage, issued, expires, revoked)| {
                    let common_name = format!("{name}.example");
                    let binding = Arc::new(Binding::new(&name, certificate, &common_name).unwrap());
                    let info = TokenInfo {
                        binding,
                        lineage: Lineage(lineage),
                        issued,
                        expires: UnixSeconds(expires),
                    };
                    Record::TokenPut { hash, info, revoked }
                }
            ),
            (hash(), time()).prop_map(|(hash, issued)| Record::TokenRevoked { hash, issued }),
            (scope, time(), prop::option::of(time())).prop_map(
                |(scope, before, expires)| Record::Revocation(Revocation { scope, before, expires })
            ),
            (name(), any::<u64>(), prop::option::of(time())).prop_map(|(username, serial, locked)| {
                Record::Lock { username, change: LockChange { serial, locked } }
            }),
            (name(), any::<u64>()).prop_map(|(username, counter)| Record::OtpUsed { username, counter }),
            (any::<u8>(), time()).prop_map(|(byte, made)| {
                Record::SigningKey(SigningKey { key: Secret::new([byte; 32]), made })
            }),
        ]
    }

    proptest! {
        #[test]
        fn records_read_back(records in prop::collection::vec(record(), 0..8)) {
            let mut bytes = Vec::new();
            for record in &records {
                prop_assert!(record.encode(&mut bytes));
            }
            let mut rest = &bytes[..];
            for record in &records {
                let (read, left) = Record::decode(rest).unwrap();
                prop_assert_eq!(&read, record);
                rest = left;
            }
            prop_assert_eq!(rest, b"");
        }

        #[test]
        fn a_changed_record_is_none(record in record(), at in any::<prop::sample::Index>(), bit in 0u8..8) {
            let mut bytes = Vec::new();
            record.encode(&mut bytes);
            let at = at.index(bytes.len());
            bytes[at] ^= 1 << bit;
            prop_assert_eq!(Record::decode(&bytes), Err(Undecodable::Damaged));
        }

        #[test]
        fn any_bytes_will_do(bytes in prop::collection::vec(any::<u8>(), 0..2000)) {
            prop_assert!(Record::decode(&bytes).is_err());
            let mut framed = bytes;
            framed.truncate(MAX_BODY_BYTES);
            let length = (framed.len() as u16).to_le_bytes();
            let sum = checksum(length, &framed).to_le_bytes();
            let whole: Vec<u8> = length.into_iter().chain(sum).chain(framed).collect();
            // With the right checksum it is a record, or one of a newer gateway.
            let is_damaged = Record::decode(&whole) == Err(Undecodable::Damaged);
            prop_assert_eq!(is_damaged, whole.len() < FRAME_BYTES + BODY_HEAD_BYTES);
        }
    }

    #[test]
    fn sizes_are_as_accounted() {
        let size = |record: Record| {
            let mut bytes = Vec::new();
            assert!(record.encode(&mut bytes));
            bytes.len()
        };
        let binding = Arc::new(Binding::new("alice", Some([1; 32]), "al").unwrap());
        let info =
            TokenInfo { binding, lineage: Lineage(1), issued: UnixSeconds(1), expires: UnixSeconds(2) };
        let put = Record::TokenPut { hash: TokenHash::from_bytes([0; 16]), info, revoked: false };
        assert_eq!(size(put), Record::TOKEN_BYTES + 7);
        let change = LockChange { serial: 1, locked: Some(UnixSeconds(1)) };
        assert_eq!(size(Record::Lock { username: "bob".into(), change }), Record::LOCK_BYTES + 3);
        assert_eq!(size(Record::OtpUsed { username: "bob".into(), counter: 1 }), Record::OTP_BYTES + 3);
        let key = SigningKey { key: Secret::new([0; 32]), made: UnixSeconds(1) };
        assert_eq!(size(Record::SigningKey(key)), Record::KEY_BYTES);
        let expires = Some(UnixSeconds(1));
        let revocation = Revocation { scope: Scope::Session([0; 12]), before: UnixSeconds(1), expires };
        assert_eq!(size(Record::Revocation(revocation)), Record::REVOCATION_BYTES + 12);
    }

    #[test]
    fn what_cannot_be_a_name_is_not_written() {
        let mut bytes = vec![7];
        for length in [MAX_NAME_BYTES + 1, 70_000] {
            assert!(!Record::OtpUsed { username: "x".repeat(length), counter: 1 }.encode(&mut bytes));
            assert_eq!(bytes, [7]);
        }
    }

    #[test]
    fn a_header_of_another_format_is_told_from_a_damaged_one() {
        let header = encode_header(&[7; 32]);
        assert_eq!(*decode_header(&header).unwrap(), [7; 32]);
        for at in 0..header.len() {
            let mut damaged = header.clone();
            damaged[at] ^= 1;
            assert_eq!(decode_header(&damaged), Err(Undecodable::Damaged));
            assert_eq!(decode_header(&header[..at]), Err(Undecodable::Damaged));
        }
        let mut newer = header[..HEADER_BYTES - 4].to_vec();
        newer[8] = 2;
        newer.extend(crc32fast::hash(&newer).to_le_bytes());
        assert_eq!(decode_header(&newer), Err(Undecodable::Newer));
    }
}
