//! One-time codes: HOTP (RFC 4226) and TOTP (RFC 6238).

use std::fmt;

use data_encoding::BASE32_NOPAD;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use ring::{digest, hmac};
use subtle::{Choice, ConditionallySelectable as _, ConstantTimeEq as _, ConstantTimeLess as _};
use tessera_proto::Secret;
use zeroize::Zeroizing;

use super::ledger::OtpLedger;

/// TOTP: so many steps earlier or later than the gateway's are taken. One step covers a phone whose clock is off by half a
/// minute and the time that typing takes.
const TOTP_SKEW: u64 = 1;
/// HOTP: how far a token may be ahead of us, by codes that were made and not used. Each more is one more code that a
/// guess can hit.
const HOTP_WINDOW: u64 = 10;
/// Default length of a step of TOTP in seconds; what apps assume.
pub(super) const DEFAULT_PERIOD: u32 = 30;
/// Steps that are taken, in seconds.
pub(super) const PERIODS: std::ops::RangeInclusive<u32> = 15..=300;
/// Shared secrets that are taken, in bytes. 80 bits is what old provisioning made, 128 bytes is SHA-512's block.
pub(super) const SECRET_BYTES: std::ops::RangeInclusive<usize> = 10..=128;
/// Shared secret of new users in bytes, as RFC 4226 recommends.
pub(super) const NEW_SECRET_BYTES: usize = 20;
/// What stands unescaped in an otpauth URI.
const UNRESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// What makes the codes go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum OtpKind {
    /// The time (RFC 6238).
    Totp,
    /// Each use (RFC 4226).
    Hotp,
}

/// The hash under the HMAC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum OtpAlgorithm {
    /// SHA-1: the one that every app and token can do. HMAC does not need collision resistance.
    #[default]
    Sha1,
    /// SHA-256.
    Sha256,
    /// SHA-512.
    Sha512,
}

impl OtpAlgorithm {
    const fn ring(self) -> hmac::Algorithm {
        match self {
            Self::Sha1 => hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY,
            Self::Sha256 => hmac::HMAC_SHA256,
            Self::Sha512 => hmac::HMAC_SHA512,
        }
    }

    /// As files and URIs name it, in lower case.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Sha1 => "sha1",
            Self::Sha256 => "sha256",
            Self::Sha512 => "sha512",
        }
    }

    pub(super) fn from_name(name: &str) -> Option<Self> {
        [Self::Sha1, Self::Sha256, Self::Sha512].into_iter().find(|a| a.name().eq_ignore_ascii_case(name))
    }
}

/// How many digits a code has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub enum Digits {
    /// Six.
    #[default]
    Six,
    /// Eight.
    Eight,
}

impl Digits {
    /// The number.
    #[must_use]
    pub const fn count(self) -> usize {
        match self {
            Self::Six => 6,
            Self::Eight => 8,
        }
    }

    const fn modulus(self) -> u32 {
        match self {
            Self::Six => 1_000_000,
            Self::Eight => 100_000_000,
        }
    }
}

/// What moves on: a clock or a counter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Moving {
    /// Length of a step in seconds.
    Period(u32),
    /// The first counter that counts.
    Counter(u64),
}

/// A user's second factor.
#[derive(Clone)]
pub(super) struct Otp {
    pub(super) moving: Moving,
    pub(super) algorithm: OtpAlgorithm,
    pub(super) digits: Digits,
    pub(super) secret: Secret<Vec<u8>>,
}

/// What became of a code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum CodeVerdict {
    Right,
    Wrong,
    /// Right, but used already, or older than one that was.
    Replayed,
}

impl Otp {
    /// A new one with a secret of its own.
    pub(super) fn generate(kind: OtpKind) -> Result<Self, String> {
        let secret = Zeroizing::new(super::hash::random::<NEW_SECRET_BYTES>()?);
        let moving = match kind {
            OtpKind::Totp => Moving::Period(DEFAULT_PERIOD),
            OtpKind::Hotp => Moving::Counter(0),
        };
        let (algorithm, digits) = (OtpAlgorithm::default(), Digits::default());
        Ok(Self { moving, algorithm, digits, secret: Secret::new(secret.to_vec()) })
    }

    pub(super) const fn kind(&self) -> OtpKind {
        match self.moving {
            Moving::Period(_) => OtpKind::Totp,
            Moving::Counter(_) => OtpKind::Hotp,
        }
    }

    /// The secret as people and apps exchange it.
    pub(super) fn secret_base32(&self) -> Secret<String> {
        Secret::new(BASE32_NOPAD.encode(self.secret.expose()))
    }

    /// Under which name uses are remembered: of this user *and* this secret, so that a new secret starts anew and an old
    /// one that comes back does not.
    pub(super) fn ledger_key(&self, user: &str) -> String {
        let mut context = digest::Context::new(&digest::SHA256);
        context.update(b"tessera otp ledger");
        context.update(self.algorithm.name().as_bytes());
        context.update(match self.moving {
            Moving::Period(_) => b"totp",
            Moving::Counter(_) => b"hotp",
        });
        context.update(self.secret.expose());
        let hash = context.finish();
        format!("{user}/{}", data_encoding::HEXLOWER.encode(&hash.as_ref()[..8]))
    }

    /// Judges a code and, if it is right, uses it up. The time that takes does not depend on the code.
    pub(super) fn judge(&self, user: &str, code: &str, unix: u64, ledger: &dyn OtpLedger) -> CodeVerdict {
        // People type what apps show: "123 456".
        let digits: Zeroizing<String> = Zeroizing::new(code.chars().filter(|c| *c != ' ').collect());
        if digits.len() != self.digits.count() || !digits.bytes().all(|b| b.is_ascii_digit()) {
            return CodeVerdict::Wrong;
        }
        let Ok(code) = digits.parse::<u32>() else {
            return CodeVerdict::Wrong;
        };
        let key = self.ledger_key(user);
        let last = ledger.last(&key);
        // The first counter that may be used, and those that are compared. A clock that went back makes all of them
        // older than the last use: nothing is accepted twice, and codes count again when the clock has caught up.
        let unused = last.map_or(0, |last| last.saturating_add(1));
        let candidates = match self.moving {
            Moving::Period(period) => {
                let step = unix / u64::from(period.max(1));
                step.saturating_sub(TOTP_SKEW)..=step.saturating_add(TOTP_SKEW)
            }
            Moving::Counter(first) => {
                let base = first.max(unused);
                base..=base.saturating_add(HOTP_WINDOW - 1)
            }
        };
        let (mut used, mut fresh, mut counter) = (Choice::from(0), Choice::from(0), 0_u64);
        for candidate in candidates {
            let right = self.code(candidate).ct_eq(&code);
            let old = candidate.ct_lt(&unused);
            used |= right & old;
            // The oldest fresh one counts, so that no more is used up than must be.
            counter.conditional_assign(&candidate, right & !old & !fresh);
            fresh |= right & !old;
        }
        if bool::from(fresh) {
            // Another thread may have used it meanwhile: the ledger decides.
            if ledger.use_counter(&key, counter) { CodeVerdict::Right } else { CodeVerdict::Replayed }
        } else if bool::from(used) {
            CodeVerdict::Replayed
        } else {
            CodeVerdict::Wrong
        }
    }

    /// The code of a counter or step.
    pub(super) fn code(&self, counter: u64) -> u32 {
        let key = hmac::Key::new(self.algorithm.ring(), self.secret.expose());
        let tag = hmac::sign(&key, &counter.to_be_bytes());
        let tag = tag.as_ref();
        // Dynamic truncation: the last four bits say where the 31 bits stand. The shortest tag has 20 bytes, 15 + 4 fit.
        let at = usize::from(tag.last().copied().unwrap_or(0) & 15);
        let word = tag[at..].iter().take(4).fold(0_u32, |word, byte| word << 8 | u32::from(*byte));
        (word & 0x7fff_ffff) % self.digits.modulus()
    }

    /// The `otpauth://` URI that apps read from a QR code.
    pub(super) fn uri(&self, issuer: &str, user: &str) -> Secret<String> {
        let escape = |text| utf8_percent_encode(text, UNRESERVED);
        let (kind, moving) = match self.moving {
            Moving::Period(period) => ("totp", format!("period={period}")),
            Moving::Counter(counter) => ("hotp", format!("counter={counter}")),
        };
        let secret = self.secret_base32();
        Secret::new(format!(
            "otpauth://{kind}/{issuer}:{user}?secret={secret}&issuer={issuer}&algorithm={algorithm}&digits={digits}&{moving}",
            issuer = escape(issuer),
            user = escape(user),
            secret = secret.expose(),
            algorithm = self.algorithm.name().to_ascii_uppercase(),
            digits = self.digits.count(),
        ))
    }
}

impl PartialEq for Otp {
    fn eq(&self, other: &Self) -> bool {
        (self.moving, self.algorithm, self.digits) == (other.moving, other.algorithm, other.digits)
            && self.secret.ct_eq(other.secret.expose())
    }
}

impl Eq for Otp {}

impl fmt::Debug for Otp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Otp({:?}, {:?}, {:?})", self.moving, self.algorithm, self.digits)
    }
}

/// Reads a shared secret: base32, upper or lower case, with or without padding.
pub(super) fn parse_secret(text: &str) -> Result<Secret<Vec<u8>>, String> {
    let upper = Zeroizing::new(text.trim_end_matches('=').to_ascii_uppercase());
    let secret = BASE32_NOPAD
        .decode(upper.as_bytes())
        .map(Secret::new)
        .map_err(|_| "the secret is not base32 (A-Z, 2-7)".to_owned())?;
    let len = secret.expose().len();
    if SECRET_BYTES.contains(&len) {
        return Ok(secret);
    }
    Err(format!(
        "the secret has {len} bytes, must be from {} to {}",
        SECRET_BYTES.start(),
        SECRET_BYTES.end()
    ))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::accounts::MemoryLedger;

    fn otp(moving: Moving, algorithm: OtpAlgorithm, digits: Digits, secret: &[u8]) -> Otp {
        Otp { moving, algorithm, digits, secret: Secret::new(secret.to_vec()) }
    }

    fn totp() -> Otp {
        otp(Moving::Period(30), OtpAlgorithm::Sha1, Digits::Six, b"12345678901234567890")
    }

    fn text(otp: &Otp, counter: u64) -> String {
        format!("{:0width$}", otp.code(counter), width = otp.digits.count())
    }

    #[test]
    fn rfc_4226_appendix_d() {
        let hotp = otp(Moving::Counter(0), OtpAlgorithm::Sha1, Digits::Six, b"12345678901234567890");
        let expected =
            [755_224, 287_082, 359_152, 969_429, 338_314, 254_676, 287_922, 162_583, 399_871, 520_489];
        for (counter, code) in (0..).zip(expected) {
            assert_eq!(hotp.code(counter), code);
        }
    }

    #[test]
    fn rfc_6238_appendix_b() {
        let seed = b"1234567890".repeat(7);
        let algorithms = [(OtpAlgorithm::Sha1, 20), (OtpAlgorithm::Sha256, 32), (OtpAlgorithm::Sha512, 64)];
        let expected: [(u64, [u32; 3]); 6] = [
            (59, [94_287_082, 46_119_246, 90_693_936]),
            (1_111_111_109, [7_081_804, 68_084_774, 25_091_201]),
            (1_111_111_111, [14_050_471, 67_062_674, 99_943_326]),
            (1_234_567_890, [89_005_924, 91_819_424, 93_441_116]),
            (2_000_000_000, [69_279_037, 90_698_825, 38_618_901]),
            (20_000_000_000, [65_353_130, 77_737_706, 47_863_826]),
        ];
        for (time, codes) in expected {
            for ((algorithm, len), code) in algorithms.into_iter().zip(codes) {
                let totp = otp(Moving::Period(30), algorithm, Digits::Eight, &seed[..len]);
                assert_eq!(totp.code(time / 30), code, "{algorithm:?} at {time}");
            }
        }
    }

    #[test]
    fn one_step_off_is_right_and_two_are_wrong() {
        let (totp, now) = (totp(), 1_700_000_010);
        let step = now / 30;
        for (code, verdict) in [
            (step - 2, CodeVerdict::Wrong),
            (step - 1, CodeVerdict::Right),
            (step, CodeVerdict::Right),
            (step + 1, CodeVerdict::Right),
            (step + 2, CodeVerdict::Wrong),
        ] {
            let ledger = MemoryLedger::new();
            assert_eq!(totp.judge("alice", &text(&totp, code), now, &ledger), verdict, "{code}");
        }
    }

    #[test]
    fn a_code_counts_once_and_older_ones_never_again() {
        let (totp, ledger, now) = (totp(), MemoryLedger::new(), 1_700_000_010);
        let step = now / 30;
        let judge = |code: u64, now: u64| totp.judge("alice", &text(&totp, code), now, &ledger);
        assert_eq!(judge(step, now), CodeVerdict::Right);
        assert_eq!(judge(step, now), CodeVerdict::Replayed);
        assert_eq!(judge(step - 1, now), CodeVerdict::Replayed);
        assert_eq!(judge(step + 1, now), CodeVerdict::Right);
        // The clock goes back an hour, and a day: what was used stays used, and older codes are not taken either.
        for back in [3_600, 86_400] {
            assert_eq!(judge((now - back) / 30, now - back), CodeVerdict::Replayed);
            assert_ne!(judge(step, now - back), CodeVerdict::Right);
        }
        assert_eq!(judge(step + 2, now + 60), CodeVerdict::Right, "once the clock has caught up");
        assert_eq!(totp.judge("bob", &text(&totp, step), now, &ledger), CodeVerdict::Right, "of its user");
    }

    #[test]
    fn a_counter_may_be_ahead_and_never_goes_back() {
        let hotp = otp(Moving::Counter(5), OtpAlgorithm::Sha1, Digits::Six, b"12345678901234567890");
        let ledger = MemoryLedger::new();
        let judge = |counter: u64| hotp.judge("alice", &text(&hotp, counter), 0, &ledger);
        assert_eq!(judge(4), CodeVerdict::Wrong, "before the first");
        assert_eq!(judge(15), CodeVerdict::Wrong, "too far ahead");
        assert_eq!(judge(14), CodeVerdict::Right);
        assert_eq!(judge(14), CodeVerdict::Wrong);
        assert_eq!(judge(6), CodeVerdict::Wrong);
        assert_eq!(judge(15), CodeVerdict::Right);
    }

    #[test]
    fn a_new_secret_starts_anew() {
        let (old, ledger) = (totp(), MemoryLedger::new());
        assert_eq!(old.judge("a", &text(&old, 100), 3_000, &ledger), CodeVerdict::Right);
        let new = otp(Moving::Counter(0), OtpAlgorithm::Sha1, Digits::Six, b"another secret of 20");
        assert_eq!(new.judge("a", &text(&new, 0), 3_000, &ledger), CodeVerdict::Right);
        assert_eq!(old.judge("a", &text(&old, 100), 3_000, &ledger), CodeVerdict::Replayed);
    }

    #[test]
    fn codes_are_exactly_their_digits() {
        let (totp, ledger) = (totp(), MemoryLedger::new());
        let right = text(&totp, 1);
        for wrong in ["", "12345", "1234567", "-12345", "+12345", "12345６", "abcdef", &format!("0{right}")]
        {
            assert_eq!(totp.judge("a", wrong, 30, &ledger), CodeVerdict::Wrong, "{wrong}");
        }
        let spaced = format!("{} {}", &right[..3], &right[3..]);
        assert_eq!(totp.judge("a", &spaced, 30, &ledger), CodeVerdict::Right);
    }

    #[test]
    fn uris_are_escaped() {
        let uri = totp().uri("Example & Co", "al/ice@example.org");
        assert_eq!(
            uri.expose(),
            "otpauth://totp/Example%20%26%20Co:al%2Fice%40example.org?secret=GEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQ\
             &issuer=Example%20%26%20Co&algorithm=SHA1&digits=6&period=30"
        );
    }

    #[test]
    fn secrets() {
        let read = parse_secret("gezdgnbvgy3tqojqgezdgnbvgy3tqojq").unwrap();
        assert_eq!(read.expose(), b"12345678901234567890");
        assert!(parse_secret("GEZDGNBVGY3TQOJQ====").is_ok());
        for wrong in ["", "AAAA", "1111111111111111", "GEZDGNBVGY3TQOJ", "GEZD GNBVGY3TQOJQ"] {
            assert!(parse_secret(wrong).is_err(), "{wrong}");
        }
    }

    proptest! {
        #[test]
        fn judging_is_total(code in ".{0,12}", unix: u64, counter: u64, last: u64) {
            let ledger = MemoryLedger::new();
            for moving in [Moving::Period(30), Moving::Counter(counter)] {
                let otp = otp(moving, OtpAlgorithm::Sha1, Digits::Six, b"12345678901234567890");
                ledger.use_counter(&otp.ledger_key("a"), last);
                otp.judge("a", &code, unix, &ledger);
            }
        }
    }
}
