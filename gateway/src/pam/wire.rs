//! Messages between gateway and helper: one datagram each on a pair of `SOCK_SEQPACKET` sockets.

use std::net::IpAddr;

use tessera_proto::Secret;
use zeroize::Zeroizing;

/// Longest user name in bytes: what `utmp` and most modules bear.
pub(super) const MAX_USER: usize = 256;
/// Longest answer in bytes: `PAM_MAX_RESP_SIZE` is 512 with the NUL at the end.
pub(super) const MAX_ANSWER: usize = 511;
/// Most answers of one login: a password, a code, and what a module may ask beyond.
pub(super) const MAX_ANSWERS: usize = 8;
/// Longest text of the helper: a prompt or a reason.
pub(super) const MAX_TEXT: usize = 512;
/// Largest message. All that may be under way at a time fits into the socket's default buffer.
pub(super) const MAX_MESSAGE: usize = 5 * 1024;

/// What the gateway says.
#[derive(Debug)]
pub(super) enum ToHelper {
    /// First, once.
    Hello { service: String, confdir: Option<String> },
    /// Decide a login.
    Login { id: u64, user: String, rhost: IpAddr, answers: Vec<Secret<String>> },
    /// Nobody waits for it any more.
    Cancel { id: u64 },
}

/// What the helper says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum FromHelper {
    /// It is ready, and runs as this user.
    Ready { uid: u32 },
    /// It cannot be.
    Failed { why: String },
    /// A login is decided.
    Answer { id: u64, verdict: Verdict },
}

/// The decision of a child.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Verdict {
    Allow,
    Deny { why: String },
    NeedMore { prompt: String, echo: bool },
    NoAnswer { why: String },
}

impl ToHelper {
    pub(super) fn encode(&self) -> Zeroizing<Vec<u8>> {
        let mut out = Writer::new();
        match self {
            Self::Hello { service, confdir } => {
                out.byte(1).text(service).byte(u8::from(confdir.is_some()));
                out.text(confdir.as_deref().unwrap_or(""));
            }
            Self::Login { id, user, rhost, answers } => {
                out.byte(2).number(*id).text(user).text(&rhost.to_string());
                for answer in answers {
                    out.text(answer.expose());
                }
            }
            Self::Cancel { id } => {
                out.byte(3).number(*id);
            }
        }
        out.0
    }

    /// `None` for anything but a whole message.
    pub(super) fn decode(message: &[u8]) -> Option<Self> {
        let mut from = Reader(message);
        let decoded = match from.byte()? {
            1 => {
                let service = from.text(MAX_TEXT)?.to_owned();
                let has = from.byte()? == 1;
                let confdir = from.text(MAX_TEXT)?.to_owned();
                Self::Hello { service, confdir: has.then_some(confdir) }
            }
            2 => {
                let id = from.number()?;
                let user = from.text(MAX_USER)?.to_owned();
                let rhost = from.text(MAX_TEXT)?.parse().ok()?;
                let mut answers = Vec::new();
                while !from.0.is_empty() && answers.len() < MAX_ANSWERS {
                    answers.push(Secret::new(from.text(MAX_ANSWER)?.to_owned()));
                }
                Self::Login { id, user, rhost, answers }
            }
            3 => Self::Cancel { id: from.number()? },
            _ => return None,
        };
        from.0.is_empty().then_some(decoded)
    }
}

impl FromHelper {
    pub(super) fn encode(&self) -> Zeroizing<Vec<u8>> {
        let mut out = Writer::new();
        match self {
            Self::Ready { uid } => {
                out.byte(1).number(u64::from(*uid));
            }
            Self::Failed { why } => {
                out.byte(2).text(clip(why));
            }
            Self::Answer { id, verdict } => {
                out.byte(3).number(*id);
                match verdict {
                    Verdict::Allow => out.byte(1),
                    Verdict::Deny { why } => out.byte(2).text(clip(why)),
                    Verdict::NeedMore { prompt, echo } => {
                        out.byte(3).byte(u8::from(*echo)).text(clip(prompt))
                    }
                    Verdict::NoAnswer { why } => out.byte(4).text(clip(why)),
                };
            }
        }
        out.0
    }

    /// `None` for anything but a whole message.
    pub(super) fn decode(message: &[u8]) -> Option<Self> {
        let mut from = Reader(message);
        let decoded = match from.byte()? {
            1 => Self::Ready { uid: from.number()?.try_into().ok()? },
            2 => Self::Failed { why: from.text(MAX_TEXT)?.to_owned() },
            3 => {
                let id = from.number()?;
                let verdict = match from.byte()? {
                    1 => Verdict::Allow,
                    2 => Verdict::Deny { why: from.text(MAX_TEXT)?.to_owned() },
                    3 => {
                        let echo = from.byte()? == 1;
                        Verdict::NeedMore { prompt: from.text(MAX_TEXT)?.to_owned(), echo }
                    }
                    4 => Verdict::NoAnswer { why: from.text(MAX_TEXT)?.to_owned() },
                    _ => return None,
                };
                Self::Answer { id, verdict }
            }
            _ => return None,
        };
        from.0.is_empty().then_some(decoded)
    }
}

/// A text that can be shown and logged: one line, printable, bounded.
pub(super) fn printable(text: &str) -> String {
    let clean: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    clip(clean.trim()).to_owned()
}

/// The first [`MAX_TEXT`] bytes, whole characters.
fn clip(text: &str) -> &str {
    &text[..text.floor_char_boundary(MAX_TEXT)]
}

struct Writer(Zeroizing<Vec<u8>>);

impl Writer {
    fn new() -> Self {
        // All room at once: growing would leave copies of passwords behind.
        Self(Zeroizing::new(Vec::with_capacity(MAX_MESSAGE)))
    }

    fn byte(&mut self, byte: u8) -> &mut Self {
        self.0.push(byte);
        self
    }

    fn number(&mut self, number: u64) -> &mut Self {
        self.0.extend_from_slice(&number.to_be_bytes());
        self
    }

    /// Two bytes of length, and the text. What is longer than the length can say fails at the reader.
    fn text(&mut self, text: &str) -> &mut Self {
        self.0.extend_from_slice(&u16::try_from(text.len()).unwrap_or(u16::MAX).to_be_bytes());
        self.0.extend_from_slice(text.as_bytes());
        self
    }
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn byte(&mut self) -> Option<u8> {
        let (first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*first)
    }

    fn number(&mut self) -> Option<u64> {
        let (number, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(u64::from_be_bytes(*number))
    }

    fn text(&mut self, most: usize) -> Option<&'a str> {
        let (len, rest) = self.0.split_first_chunk()?;
        let len = usize::from(u16::from_be_bytes(*len));
        let (text, rest) = rest.split_at_checked(len).filter(|_| len <= most)?;
        self.0 = rest;
        std::str::from_utf8(text).ok()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn texts(message: &ToHelper) -> String {
        match message {
            ToHelper::Hello { service, confdir } => format!("{service} {confdir:?}"),
            ToHelper::Login { id, user, rhost, answers } => {
                let answers: Vec<_> = answers.iter().map(Secret::expose).collect();
                format!("{id} {user} {rhost} {answers:?}")
            }
            ToHelper::Cancel { id } => id.to_string(),
        }
    }

    #[test]
    fn the_largest_login_fits() {
        let answers = (0..MAX_ANSWERS).map(|_| Secret::new("x".repeat(MAX_ANSWER))).collect();
        let user = "u".repeat(MAX_USER);
        let login = ToHelper::Login { id: 7, user, rhost: [1; 16].into(), answers };
        let bytes = login.encode();
        assert!(bytes.len() <= MAX_MESSAGE);
        assert_eq!(texts(&ToHelper::decode(&bytes).unwrap()), texts(&login));
    }

    #[test]
    fn answers_come_through() {
        for verdict in [
            Verdict::Allow,
            Verdict::Deny { why: "no".into() },
            Verdict::NeedMore { prompt: "Code: ".into(), echo: true },
            Verdict::NoAnswer { why: "ä".repeat(MAX_TEXT / 2) },
        ] {
            let answer = FromHelper::Answer { id: u64::MAX, verdict };
            assert_eq!(FromHelper::decode(&answer.encode()), Some(answer));
        }
        let long = FromHelper::Failed { why: format!("a{}", "ä".repeat(MAX_TEXT)) };
        let Some(FromHelper::Failed { why }) = FromHelper::decode(&long.encode()) else { panic!() };
        assert_eq!(why.len(), MAX_TEXT - 1);
        assert_eq!(printable(" a\nb\u{1b}[0m\0"), "a b [0m");
    }

    proptest! {
        #[test]
        fn decoding_is_total(bytes in proptest::collection::vec(any::<u8>(), 0..64), kind in 0..5_u8) {
            let mut bytes = bytes;
            bytes.insert(0, kind);
            ToHelper::decode(&bytes);
            FromHelper::decode(&bytes);
        }

        #[test]
        fn logins_come_through(id: u64, user in ".{0,60}", answers in proptest::collection::vec(".{0,60}", 0..MAX_ANSWERS)) {
            let answers = answers.into_iter().map(Secret::new).collect();
            let login = ToHelper::Login { id, user, rhost: [127, 0, 0, 1].into(), answers };
            prop_assert_eq!(texts(&ToHelper::decode(&login.encode()).unwrap()), texts(&login));
        }
    }
}
