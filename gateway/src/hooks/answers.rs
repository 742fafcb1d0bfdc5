//! What hooks write into their answer files. The text is a program's, and part of it may be a client's: every input has
//! a meaning, and none that is not plainly a yes means yes.

use std::fmt;
use std::io;
use std::time::Duration;

use super::HookFile;
use super::env::printable;

/// So much of a control file is looked at: an answer, a line end, and a contradiction behind it.
const CONTROL_HEAD: usize = 16;
/// Largest pending file: three lines, and what later versions may put behind them.
const MAX_PENDING_FILE: usize = 4096;
/// Longest time a pending login may ask for; the login's own limit is shorter. Longer ones are cut to it, as stock does.
const MAX_PENDING_TIME: u64 = 86_400;
/// Longest text for the client's screen. It has to fit into a control message of stock clients (1024 bytes) with its
/// keyword.
const MAX_EXTRA: usize = 900;
/// Longest reason, for the same reason; a dynamic challenge (`CRV1:…`) is one.
const MAX_REASON: usize = 900;

/// What a control file says.
#[derive(Debug)]
pub(super) enum Control {
    /// Nothing yet.
    Empty,
    /// `1`.
    Yes,
    /// `0`.
    No,
    /// `2`: the answer comes later (`client-connect` only).
    Later,
    /// Something else, more than one thing, or no file that could hold an answer.
    Malformed(String),
    /// This machine has a trouble of its own: nothing is known.
    Unreadable(io::Error),
}

impl Control {
    /// Reads a control file. One that is not there (any more) says nothing.
    pub(super) fn read(file: &HookFile) -> Self {
        match file.head(CONTROL_HEAD) {
            Ok(head) => Self::parse(&head),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Self::Empty,
            Err(error) if is_ours(&error) => Self::Unreadable(error),
            Err(error) => Self::Malformed(error.to_string()),
        }
    }

    /// The first byte decides, unless a later line begins with something else.
    fn parse(head: &[u8]) -> Self {
        let Some((first, _)) = head.split_first() else {
            return Self::Empty;
        };
        let lines = head.split(|b| *b == b'\n').filter_map(|line| line.first());
        if lines.clone().any(|other| other != first) && matches!(first, b'0'..=b'2') {
            return Self::Malformed("it holds more than one answer".into());
        }
        match first {
            b'0' => Self::No,
            b'1' => Self::Yes,
            b'2' => Self::Later,
            other => Self::Malformed(format!("it begins with byte {other:#04x}")),
        }
    }
}

/// How a client is asked for more, in the names of its `IV_SSO`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PendingMethod {
    /// `crtext`: a question in text, answered on the same connection.
    CrText,
    /// `webauth`: a page that the client opens.
    WebAuth,
    /// `openurl`: the older form of it.
    OpenUrl,
}

impl PendingMethod {
    /// Its name in `IV_SSO`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::CrText => "crtext",
            Self::WebAuth => "webauth",
            Self::OpenUrl => "openurl",
        }
    }
}

/// A login that needs more from the client: what goes into `AUTH_PENDING` and `INFO_PRE`.
#[derive(Clone, PartialEq, Eq)]
pub struct PendingAuth {
    /// How long the authenticator is ready to wait: 1 second to a day.
    pub timeout: Duration,
    /// What the client must be able to do.
    pub method: PendingMethod,
    /// The text behind `INFO_PRE,`: one printable line of at most 900 bytes. It may carry a secret of this login.
    pub extra: String,
}

impl fmt::Debug for PendingAuth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (timeout, method) = (self.timeout, self.method);
        f.debug_struct("PendingAuth")
            .field("timeout", &timeout)
            .field("method", &method)
            .finish_non_exhaustive()
    }
}

/// What a pending file says.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Pending {
    /// Nothing.
    Empty,
    /// The beginning of something.
    Incomplete,
    Ready(PendingAuth),
    Malformed(String),
}

impl Pending {
    /// Reads a pending file. `whole`: who wrote it has closed it, so that the last line may lack its end.
    pub(super) fn read(file: &HookFile, whole: bool) -> Self {
        match file.read(MAX_PENDING_FILE) {
            Ok(content) => Self::parse(&content, whole),
            Err(error) if error.kind() == io::ErrorKind::NotFound || is_ours(&error) => Self::Empty,
            Err(error) => Self::Malformed(error.to_string()),
        }
    }

    fn parse(content: &[u8], whole: bool) -> Self {
        if content.is_empty() {
            return Self::Empty;
        }
        let mut lines = content.split(|b| *b == b'\n').map(|line| line.strip_suffix(b"\r").unwrap_or(line));
        let ended = content.iter().filter(|b| **b == b'\n').count();
        // Lines are judged as soon as they are complete, so that nobody waits for the rest of something hopeless.
        let mut next =
            |number: usize| lines.next().filter(|line| ended >= number || (whole && !line.is_empty()));
        let Some(first) = next(1) else { return Self::Incomplete };
        let number = std::str::from_utf8(first).ok().map(str::trim).filter(|text| is_number(text));
        let Some(seconds) = number.and_then(|text| text.parse::<u64>().ok()).filter(|seconds| *seconds > 0)
        else {
            return Self::Malformed("its first line is no number of seconds".into());
        };
        let Some(second) = next(2) else { return Self::Incomplete };
        let method = match second.trim_ascii() {
            b"crtext" => PendingMethod::CrText,
            b"webauth" => PendingMethod::WebAuth,
            b"openurl" => PendingMethod::OpenUrl,
            _ => return Self::Malformed("its second line is not crtext, webauth or openurl".into()),
        };
        let Some(third) = next(3) else { return Self::Incomplete };
        let text = std::str::from_utf8(third).ok().filter(|text| !text.chars().any(char::is_control));
        match text {
            Some(text) if !text.trim().is_empty() && text.len() <= MAX_EXTRA => Self::Ready(PendingAuth {
                timeout: Duration::from_secs(seconds.min(MAX_PENDING_TIME)),
                method,
                extra: text.to_owned(),
            }),
            _ => {
                Self::Malformed(format!("its third line is not printable text of at most {MAX_EXTRA} bytes"))
            }
        }
    }
}

fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit())
}

/// What a reason file says: one printable line, cut to what a message holds; `None` if there is nothing.
pub(super) fn read_reason(file: &HookFile) -> Option<String> {
    file.head(MAX_REASON).ok().and_then(|head| reason(&head))
}

fn reason(head: &[u8]) -> Option<String> {
    // A cut may go through a character; the replacement for its half must not make the text longer again.
    let text = String::from_utf8_lossy(head);
    let words: Vec<&str> = text.split(['\n', '\r']).map(str::trim).filter(|line| !line.is_empty()).collect();
    let mut line = printable(&words.join(" "));
    line.truncate(line.floor_char_boundary(MAX_REASON));
    (!line.is_empty()).then_some(line)
}

/// Failures that say something about this machine and nothing about the file.
fn is_ours(error: &io::Error) -> bool {
    let ours = [libc::EMFILE, libc::ENFILE, libc::ENOMEM, libc::EIO, libc::EINTR, libc::EAGAIN];
    error.raw_os_error().is_some_and(|code| ours.contains(&code))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn pending(text: &str) -> Pending {
        Pending::parse(text.as_bytes(), true)
    }

    #[test]
    fn control_files() {
        let name = |text: &[u8]| match Control::parse(text) {
            Control::Empty => "empty",
            Control::Yes => "yes",
            Control::No => "no",
            Control::Later => "later",
            Control::Malformed(_) => "malformed",
            Control::Unreadable(_) => "unreadable",
        };
        for (text, expected) in [
            ("", "empty"),
            ("1", "yes"),
            ("1\n", "yes"),
            ("1 ok\n", "yes"),
            ("1\n1\n", "yes"),
            ("0", "no"),
            ("0\n0\n", "no"),
            ("2\n", "later"),
            ("2\n1\n", "malformed"),
            ("1\n0\n", "malformed"),
            ("0\n1\n", "malformed"),
            ("\n1", "malformed"),
            (" 1", "malformed"),
            ("3", "malformed"),
            ("yes", "malformed"),
            ("\u{0}", "malformed"),
        ] {
            assert_eq!(name(text.as_bytes()), expected, "{text:?}");
        }
        assert_eq!(name(b"\xff1"), "malformed");
    }

    #[test]
    fn pending_files() {
        let ready = |seconds, method, extra: &str| {
            Pending::Ready(PendingAuth { timeout: Duration::from_secs(seconds), method, extra: extra.into() })
        };
        let otp = ready(300, PendingMethod::CrText, "CR_TEXT:R,E:Enter OTP");
        assert_eq!(pending("300\ncrtext\nCR_TEXT:R,E:Enter OTP\n"), otp);
        assert_eq!(pending("300\r\ncrtext\r\nCR_TEXT:R,E:Enter OTP\r\nmore\r\n"), otp);
        assert_eq!(pending(" 300 \ncrtext\nCR_TEXT:R,E:Enter OTP"), otp);
        let page = "WEB_AUTH::https://example.com/?a=b";
        assert_eq!(pending(&format!("5\nwebauth\n{page}")), ready(5, PendingMethod::WebAuth, page));
        assert_eq!(
            pending("99999999\nopenurl\nOPEN_URL:x"),
            ready(86_400, PendingMethod::OpenUrl, "OPEN_URL:x")
        );
        assert_eq!(Pending::parse(b"300\ncrtext\nCR_TEXT:R,E:Ent", false), Pending::Incomplete);
        for text in ["3", "300\n", "300\ncrt", "300\ncrtext\n"] {
            assert_eq!(Pending::parse(text.as_bytes(), false), Pending::Incomplete, "{text:?}");
        }
        assert_eq!(pending(""), Pending::Empty);
        assert_eq!(pending("300\ncrtext\n"), Pending::Incomplete);
        for text in [
            "0\ncrtext\nCR_TEXT::x\n",
            "-1\ncrtext\nCR_TEXT::x\n",
            "+5\ncrtext\nCR_TEXT::x\n",
            "5s\ncrtext\nCR_TEXT::x\n",
            "99999999999999999999999\ncrtext\nCR_TEXT::x\n",
            "\ncrtext\nCR_TEXT::x\n",
            "5\nCRTEXT\nCR_TEXT::x\n",
            "5\nproxy_url\nx\n",
            "5\n\nx\n",
            "5\ncrtext\n\n",
            "5\ncrtext\n  \n",
            "5\ncrtext\nCR_TEXT::a\tb\n",
            "5\ncrtext\nCR_TEXT::a\0b\n",
            "5\ncrtext\nCR_TEXT::a\rPUSH_REPLY\n",
        ] {
            assert!(matches!(pending(text), Pending::Malformed(_)), "{text:?} is {:?}", pending(text));
        }
        let long = |n: usize| pending(&format!("5\ncrtext\n{}\n", "x".repeat(n)));
        assert!(matches!(long(900), Pending::Ready(_)));
        assert!(matches!(long(901), Pending::Malformed(_)));
        assert!(matches!(Pending::parse(b"5\ncrtext\n\xff\n", true), Pending::Malformed(_)));
    }

    #[test]
    fn what_a_client_is_shown_is_not_logged() {
        let Pending::Ready(auth) = pending("5\nwebauth\nWEB_AUTH::https://example.com/?state=hunter2") else {
            panic!("ready");
        };
        assert!(!format!("{auth:?}").contains("hunter2"));
    }

    #[test]
    fn reasons() {
        assert_eq!(reason(b""), None);
        assert_eq!(reason(b"\n \r\n"), None);
        assert_eq!(reason(b"account locked\n").as_deref(), Some("account locked"));
        assert_eq!(reason(b"one\r\ntwo\n\nthree\0").as_deref(), Some("one two three_"));
        assert_eq!(reason("x\u{e4}".repeat(600).as_bytes()).unwrap().len(), 900);
        assert_eq!(reason(&[0xff; 900]).unwrap().len(), 900);
    }

    proptest! {
        #[test]
        fn every_text_has_a_meaning(text in prop::collection::vec(any::<u8>(), 0..64), whole: bool) {
            if let Pending::Ready(auth) = Pending::parse(&text, whole) {
                prop_assert!(auth.extra.len() <= MAX_EXTRA && !auth.extra.chars().any(char::is_control));
            }
            if let Some(line) = reason(&text) {
                prop_assert!(line.len() <= MAX_REASON && !line.chars().any(char::is_control));
            }
            if matches!(Control::parse(&text), Control::Yes) {
                prop_assert_eq!(text[0], b'1');
            }
        }

        /// However the lines arrive, nothing is said before they are complete, and then always the same.
        #[test]
        fn a_file_that_grows_is_not_judged_early(
            seconds in 1_u64..1000,
            extra in "[ -~]{0,20}[!-~]",
            cut in 0_usize..64,
        ) {
            let text = format!("{seconds}\nwebauth\n{extra}\n");
            let part = &text.as_bytes()[..cut.min(text.len() - 1)];
            prop_assert!(matches!(Pending::parse(part, false), Pending::Empty | Pending::Incomplete));
            let timeout = Duration::from_secs(seconds);
            let auth = PendingAuth { timeout, method: PendingMethod::WebAuth, extra };
            prop_assert_eq!(Pending::parse(text.as_bytes(), false), Pending::Ready(auth));
        }
    }
}
