//! The account file: its format, and changes that keep what people wrote.
//!
//! ```text
//! # Comments and empty lines are kept.
//! #NAME:PASSWORD HASH[:SECOND FACTOR[:FLAGS]]
//! alice:$argon2id$v=19$m=19456,t=2,p=1$SALT$HASH:totp,secret=JBSWY3DPEHPK3PXPJBSWY3DPEHPK3PXP
//! bob:$argon2id$v=19$m=19456,t=2,p=1$SALT$HASH:hotp,secret=GEZDGNBVGY3TQOJQ,digits=8,counter=17
//! carol:$argon2id$v=19$m=19456,t=2,p=1$SALT$HASH::disabled
//! ```
//!
//! - *Name*: 1 to 127 bytes of UTF-8, what clients can send. Printable characters except `:`, no blank at either end, no `#` at
//!   the start. Upper and lower case differ.
//! - *Password hash*: argon2id in PHC form. Costs may differ between users, up to three of them in one file: each attempt
//!   pays all of them, so that its time does not tell whose it was.
//! - *Second factor*: empty, or `totp` or `hotp` and then, after commas and in any order, `secret=` (base32),
//!   `digits=6|8` (6), `algorithm=sha1|sha256|sha512` (sha1), `period=` in seconds for totp (30), `counter=`, the first that
//!   counts, for hotp (0).
//! - *Flags*: empty, or `disabled`: whoever presents this name is told that the password is wrong.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::fmt;
use std::path::Path;
use std::sync::Arc;

use zeroize::Zeroizing;

use super::hash::{Cost, PasswordHash};
use super::otp::{DEFAULT_PERIOD, Digits, Moving, Otp, OtpAlgorithm, PERIODS, parse_secret};

/// Users of one file: more belong into a directory service. Bounds the memory (about 1 KiB each) and the time of a reload.
pub const MAX_USERS: usize = 100_000;
/// Longest line in bytes: the longest name, hash and second factor together stay below.
pub const MAX_LINE: usize = 1024;
/// Largest file: every user with a line of average length twice over.
pub(super) const MAX_FILE: usize = MAX_USERS * MAX_LINE / 2;
/// Longest name in bytes: what an OpenVPN 2.x client can send.
pub const MAX_NAME: usize = 127;
/// Different costs in one file. Two are needed while users move to a costlier hash, three if that takes long; each
/// costs every attempt one more run.
const MAX_COSTS: usize = 3;

/// A line that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LineError {
    /// From 1.
    pub line: usize,
    /// Of the first character that is wrong, from 1, in characters.
    pub column: usize,
    /// What is wrong, without anything secret of the line.
    pub reason: String,
}

impl LineError {
    /// The error with its file in front: `file:line:column: reason`.
    #[must_use]
    pub fn in_file(&self, path: &Path) -> String {
        format!("{}:{self}", path.display())
    }
}

impl fmt::Display for LineError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.line, self.column, self.reason)
    }
}

/// One account.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct User {
    pub(super) name: String,
    pub(super) hash: PasswordHash,
    pub(super) otp: Option<Otp>,
    pub(super) disabled: bool,
}

/// All accounts of a file, ready to be asked.
#[derive(Debug, Default)]
pub(super) struct Users {
    by_name: HashMap<String, Arc<User>>,
    /// A hash of nobody for each cost in the file.
    pub(super) nobody: Vec<PasswordHash>,
    /// The lengths of codes in the file.
    pub(super) digits: BTreeSet<Digits>,
}

impl Users {
    /// Takes the accounts; `cost` is what attempts cost when there are none.
    pub(super) fn new(users: Vec<User>, cost: Cost) -> Result<Self, String> {
        let mut costs: BTreeSet<Cost> = users.iter().map(|user| user.hash.cost()).collect();
        if costs.is_empty() {
            costs.insert(cost);
        }
        let nobody = costs.into_iter().map(PasswordHash::of_nobody).collect::<Result<_, _>>()?;
        let digits = users.iter().filter_map(|user| Some(user.otp.as_ref()?.digits)).collect();
        let by_name = users.into_iter().map(|user| (user.name.clone(), Arc::new(user))).collect();
        Ok(Self { by_name, nobody, digits })
    }

    pub(super) fn find(&self, name: &str) -> Option<&Arc<User>> {
        self.by_name.get(name)
    }

    pub(super) fn len(&self) -> usize {
        self.by_name.len()
    }

    /// In the order of their names.
    pub(super) fn sorted(&self) -> Vec<&Arc<User>> {
        let mut users: Vec<_> = self.by_name.values().collect();
        users.sort_by(|a, b| a.name.cmp(&b.name));
        users
    }
}

/// Reads all lines. What cannot be used is in the second list.
pub(super) fn parse(content: &[u8]) -> (Vec<User>, Vec<LineError>) {
    let (mut users, mut errors) = (Vec::new(), Vec::new());
    let (mut names, mut costs) = (HashSet::new(), HashSet::new());
    for (line, bytes) in (1..).zip(lines(content)) {
        let user = match parse_line(bytes) {
            Ok(None) => continue,
            Ok(Some(user)) => user,
            Err((column, reason)) => {
                errors.push(LineError { line, column, reason });
                continue;
            }
        };
        let refused = if users.len() == MAX_USERS {
            Some((1, format!("more than {MAX_USERS} users")))
        } else if names.contains(&user.name) {
            Some((1, format!("user {:?} is there already", user.name)))
        } else if !costs.contains(&user.hash.cost()) && costs.len() == MAX_COSTS {
            let column = user.name.chars().count() + 2;
            Some((column, format!("more than {MAX_COSTS} different argon2 parameters in one file")))
        } else {
            None
        };
        match refused {
            Some((column, reason)) => errors.push(LineError { line, column, reason }),
            None => {
                names.insert(user.name.clone());
                costs.insert(user.hash.cost());
                users.push(user);
            }
        }
    }
    (users, errors)
}

/// Whether this can be the name of a user.
///
/// # Errors
/// Why not, and which character (from 0) is the first that is wrong.
pub(super) fn check_name(name: &str) -> Result<(), (usize, String)> {
    if name.is_empty() {
        return Err((0, "the user name is empty".to_owned()));
    }
    if name.len() > MAX_NAME {
        return Err((0, format!("the user name is longer than {MAX_NAME} bytes")));
    }
    if name.starts_with('#') {
        return Err((0, "a user name does not begin with '#'".to_owned()));
    }
    if name.trim() != name {
        return Err((0, "a user name has no blank at its ends".to_owned()));
    }
    match name.chars().position(|c| c == ':' || is_invisible(c)) {
        Some(at) => Err((at, "a user name has no ':' and no invisible character".to_owned())),
        None => Ok(()),
    }
}

/// Control characters, and those that make one name look like another.
fn is_invisible(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{ad}' | '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffd}')
}

/// The line of a user, without its end.
pub(super) fn render(user: &User) -> Zeroizing<String> {
    use fmt::Write as _;
    // All room at once: growing would leave copies of the secret behind.
    let mut line = Zeroizing::new(String::with_capacity(MAX_LINE));
    let _ = write!(line, "{}:{}", user.name, user.hash);
    if let Some(otp) = &user.otp {
        let secret = otp.secret_base32();
        let kind = if matches!(otp.moving, Moving::Period(_)) { "totp" } else { "hotp" };
        let _ = write!(line, ":{kind},secret={}", secret.expose());
        if otp.digits != Digits::default() {
            let _ = write!(line, ",digits={}", otp.digits.count());
        }
        if otp.algorithm != OtpAlgorithm::default() {
            let _ = write!(line, ",algorithm={}", otp.algorithm.name());
        }
        match otp.moving {
            Moving::Period(DEFAULT_PERIOD) | Moving::Counter(0) => {}
            Moving::Period(period) => {
                let _ = write!(line, ",period={period}");
            }
            Moving::Counter(counter) => {
                let _ = write!(line, ",counter={counter}");
            }
        }
    }
    if user.disabled {
        line.push_str(if user.otp.is_some() { ":disabled" } else { "::disabled" });
    }
    line
}

/// The content with the line of `name` replaced, taken out (`None`), or put at the end if there was none. All other lines
/// stay as they are, also those that cannot be read.
pub(super) fn edit(content: &[u8], name: &str, line: Option<&str>) -> Zeroizing<Vec<u8>> {
    let mut next = Zeroizing::new(Vec::with_capacity(content.len() + MAX_LINE + 2));
    let mut line = line;
    for old in lines(content) {
        let same = parse_line(old).ok().flatten().is_some_and(|user| user.name == name);
        let kept = if same { line.take().map(str::as_bytes) } else { Some(old) };
        if let Some(kept) = kept {
            next.extend_from_slice(kept);
            next.push(b'\n');
        }
    }
    if let Some(line) = line {
        next.extend_from_slice(line.as_bytes());
        next.push(b'\n');
    }
    next
}

/// The lines, without the empty one after the last end of line.
fn lines(content: &[u8]) -> impl Iterator<Item = &[u8]> {
    let content = content.strip_suffix(b"\n").unwrap_or(content);
    content.split(|byte| *byte == b'\n').filter(move |_| !content.is_empty())
}

/// One line; `None` for an empty one or a comment. The error has its column, from 1.
fn parse_line(bytes: &[u8]) -> Result<Option<User>, (usize, String)> {
    if bytes.len() > MAX_LINE {
        return Err((1, format!("longer than {MAX_LINE} bytes")));
    }
    let line = std::str::from_utf8(bytes).map_err(|error| {
        let good = String::from_utf8_lossy(&bytes[..error.valid_up_to()]);
        (good.chars().count() + 1, "not UTF-8".to_owned())
    })?;
    let line = line.strip_suffix('\r').unwrap_or(line);
    if line.trim().is_empty() || line.trim_start().starts_with('#') {
        return Ok(None);
    }
    let mut fields = columns(line, ':', 1);
    let (column, name) = fields.next().unwrap_or((1, ""));
    check_name(name).map_err(|(at, reason)| (column + at, reason))?;
    let end = line.chars().count() + 1;
    let (column, hash) = fields.next().ok_or((end, "the password hash is missing".to_owned()))?;
    let hash = PasswordHash::parse(hash).map_err(|reason| (column, reason))?;
    let otp = match fields.next() {
        None | Some((_, "")) => None,
        Some((column, otp)) => Some(parse_otp(column, otp)?),
    };
    let disabled = match fields.next() {
        None | Some((_, "")) => false,
        Some((_, "disabled")) => true,
        Some((column, _)) => return Err((column, "the only flag is 'disabled'".to_owned())),
    };
    match fields.next() {
        Some((column, _)) => Err((column, "more than four fields".to_owned())),
        None => Ok(Some(User { name: name.to_owned(), hash, otp, disabled })),
    }
}

fn parse_otp(column: usize, text: &str) -> Result<Otp, (usize, String)> {
    let mut words = columns(text, ',', column);
    let (_, kind) = words.next().unwrap_or((column, ""));
    let mut moving = match kind {
        "totp" => Moving::Period(DEFAULT_PERIOD),
        "hotp" => Moving::Counter(0),
        _ => return Err((column, "the second factor is 'totp' or 'hotp'".to_owned())),
    };
    let (mut secret, mut digits, mut algorithm) = (None, Digits::default(), OtpAlgorithm::default());
    let mut seen = HashSet::new();
    for (column, word) in words {
        let wrong = |reason: String| (column, reason);
        let (key, value) = word.split_once('=').unwrap_or((word, ""));
        if !seen.insert(key) {
            return Err(wrong("given twice".to_owned()));
        }
        match (key, &mut moving) {
            ("secret", _) => secret = Some(parse_secret(value).map_err(wrong)?),
            ("digits", _) => {
                digits = match value {
                    "6" => Digits::Six,
                    "8" => Digits::Eight,
                    _ => return Err(wrong("digits is 6 or 8".to_owned())),
                }
            }
            ("algorithm", _) => {
                algorithm = OtpAlgorithm::from_name(value)
                    .ok_or_else(|| wrong("algorithm is sha1, sha256 or sha512".to_owned()))?;
            }
            ("period", Moving::Period(period)) => {
                *period = value.parse().ok().filter(|period| PERIODS.contains(period)).ok_or_else(|| {
                    wrong(format!("period is from {} to {} seconds", PERIODS.start(), PERIODS.end()))
                })?;
            }
            ("counter", Moving::Counter(counter)) => {
                *counter = value.parse().map_err(|_| wrong("counter is a number".to_owned()))?;
            }
            _ => {
                let own = if kind == "totp" { "period" } else { "counter" };
                return Err(wrong(format!("{kind} has secret, digits, algorithm and {own}, each with '='")));
            }
        }
    }
    let secret = secret.ok_or_else(|| (column, format!("{kind} without secret=")))?;
    Ok(Otp { moving, algorithm, digits, secret })
}

/// The parts of a text, each with the column of its first character; the text itself begins at `start`.
fn columns(text: &str, separator: char, start: usize) -> impl Iterator<Item = (usize, &str)> {
    text.split(separator).scan(start, |next, part| {
        let column = *next;
        *next += part.chars().count() + 1;
        Some((column, part))
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tessera_proto::Secret;

    use super::*;

    pub(super) const HASH: &str =
        "$argon2id$v=19$m=1024,t=1,p=1$c29tZXNhbHQ$CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2GRPPc";

    fn only_error(text: &str) -> (usize, usize, String) {
        let (_, mut errors) = parse(text.as_bytes());
        assert_eq!(errors.len(), 1, "{text}: {errors:?}");
        let error = errors.remove(0);
        (error.line, error.column, error.reason)
    }

    #[test]
    fn every_form_is_read_and_written() {
        let text = format!(
            "# people\n\nalice:{HASH}:totp,secret=GEZDGNBVGY3TQOJQ\r\n  # more\nbøb smith:{HASH}\n\
             carol:{HASH}:hotp,counter=17,digits=8,algorithm=SHA256,secret=gezdgnbvgy3tqojq:disabled\ndan:{HASH}::disabled\n\
             eve:{HASH}:totp,secret=GEZDGNBVGY3TQOJQ,period=60:\n"
        );
        let (users, errors) = parse(text.as_bytes());
        assert_eq!(errors, []);
        let names: Vec<_> = users.iter().map(|user| user.name.as_str()).collect();
        assert_eq!(names, ["alice", "bøb smith", "carol", "dan", "eve"]);
        assert_eq!(users.iter().map(|u| u.disabled).collect::<Vec<_>>(), [false, false, true, true, false]);
        let carol = users[2].otp.as_ref().unwrap();
        assert_eq!((carol.moving, carol.digits), (Moving::Counter(17), Digits::Eight));
        assert_eq!(carol.algorithm, OtpAlgorithm::Sha256);
        assert_eq!(users[4].otp.as_ref().unwrap().moving, Moving::Period(60));
        for user in &users {
            let (again, errors) = parse(render(user).as_bytes());
            assert_eq!((again.as_slice(), errors.as_slice()), (std::slice::from_ref(user), &[][..]));
        }
        assert!(!format!("{users:?}").contains("GEZD"));
    }

    #[test]
    fn errors_say_where() {
        let alice = format!("alice:{HASH}");
        let at = alice.chars().count() + 2;
        for (line, column, reason) in [
            ("alice".to_owned(), 6, "missing"),
            (":x".to_owned(), 1, "empty"),
            (" alice:x".to_owned(), 1, "blank"),
            ("al\u{202e}ice:x".to_owned(), 3, "invisible"),
            ("älice:secret".to_owned(), 7, "argon2id"),
            (format!("{alice}:sms"), at, "'totp' or 'hotp'"),
            (format!("{alice}:totp"), at, "without secret"),
            (format!("{alice}:totp,secret=ABC1"), at + 5, "base32"),
            (format!("{alice}:totp,secret=GEZDGNBVGY3TQOJQ,counter=1"), at + 29, "period"),
            (format!("{alice}:totp,digits=7"), at + 5, "6 or 8"),
            (format!("{alice}:totp,digits=6,digits=8"), at + 14, "twice"),
            (format!("{alice}:hotp,secret=GEZDGNBVGY3TQOJQ,counter=-1"), at + 29, "number"),
            (format!("{alice}:totp,period=1"), at + 5, "seconds"),
            (format!("{alice}::off"), at + 1, "disabled"),
            (format!("{alice}:::"), at + 2, "four"),
            ("x".repeat(MAX_LINE + 1), 1, "longer"),
            (format!("{}:{HASH}", "x".repeat(128)), 1, "127"),
        ] {
            let (row, found, text) = only_error(&format!("bob:{HASH}\n{line}\neve:{HASH}\n"));
            assert_eq!((row, found), (2, column), "{line}: {text}");
            assert!(text.contains(reason), "{line}: {text}");
            assert!(!text.contains("ABC1") && !text.contains("secret:"), "nothing secret: {text}");
        }
        let (_, column, reason) = only_error(&format!("alice:{HASH}\nalice:{HASH}"));
        assert_eq!((column, reason.contains("already")), (1, true));
        let (_, errors) = parse(b"a\xff:x");
        assert_eq!((errors[0].line, errors[0].column), (1, 2));
        assert_eq!(errors[0].in_file(Path::new("/etc/x")), "/etc/x:1:2: not UTF-8");
    }

    #[test]
    fn few_costs_in_one_file() {
        let lines: String =
            (1..=4).map(|t| format!("u{t}:{}\n", HASH.replace("t=1", &format!("t={t}")))).collect();
        let (users, errors) = parse(lines.as_bytes());
        assert_eq!((users.len(), errors.len(), errors[0].line, errors[0].column), (3, 1, 4, 4));
        let users = Users::new(users, Cost::OWASP).unwrap();
        assert_eq!(users.nobody.len(), 3);
        assert_eq!(Users::new(Vec::new(), Cost::OWASP).unwrap().nobody[0].cost(), Cost::OWASP);
    }

    #[test]
    fn edits_touch_one_line() {
        let text = format!("# top\nalice:{HASH}\nbroken\n\nbob:{HASH}");
        let without = edit(text.as_bytes(), "alice", None);
        assert_eq!(*without, format!("# top\nbroken\n\nbob:{HASH}\n").into_bytes());
        let with = edit(&without, "carol", Some("carol:x"));
        assert_eq!(*with, format!("# top\nbroken\n\nbob:{HASH}\ncarol:x\n").into_bytes());
        let other = edit(&with, "bob", Some("bob:y"));
        assert_eq!(*other, b"# top\nbroken\n\nbob:y\ncarol:x\n");
        assert_eq!(*edit(b"", "a", Some("a:b")), b"a:b\n");
    }

    fn user() -> impl Strategy<Value = User> {
        let moving =
            prop_oneof![(15..=300_u32).prop_map(Moving::Period), any::<u64>().prop_map(Moving::Counter)];
        let algorithm =
            prop_oneof![Just(OtpAlgorithm::Sha1), Just(OtpAlgorithm::Sha256), Just(OtpAlgorithm::Sha512)];
        let secret = proptest::collection::vec(any::<u8>(), SECRET_BYTES_RANGE);
        let digits = prop_oneof![Just(Digits::Six), Just(Digits::Eight)];
        let otp = (moving, algorithm, digits, secret).prop_map(|(moving, algorithm, digits, secret)| Otp {
            moving,
            algorithm,
            digits,
            secret: Secret::new(secret),
        });
        let name =
            "[^:#[:cntrl:][:space:]][^:[:cntrl:]]{0,30}".prop_filter("name", |n| check_name(n).is_ok());
        (name, proptest::option::of(otp), any::<bool>()).prop_map(|(name, otp, disabled)| User {
            name,
            hash: PasswordHash::parse(HASH).unwrap(),
            otp,
            disabled,
        })
    }

    const SECRET_BYTES_RANGE: std::ops::RangeInclusive<usize> = crate::accounts::otp::SECRET_BYTES;

    proptest! {
        #[test]
        fn reading_is_total(content in proptest::collection::vec(any::<u8>(), 0..300)) {
            let (users, errors) = parse(&content);
            prop_assert!(users.len() + errors.len() <= content.len());
        }

        #[test]
        fn almost_lines_are_total(line in "[a-z:$,=# \n]{0,80}") {
            parse(line.as_bytes());
            parse(format!("alice:{HASH}:totp,{line}").as_bytes());
        }

        #[test]
        fn what_is_written_reads_back(user in user()) {
            let line = render(&user);
            prop_assert!(line.len() <= MAX_LINE);
            let (users, errors) = parse(line.as_bytes());
            prop_assert_eq!(errors, vec![]);
            prop_assert_eq!(users, vec![user]);
        }
    }
}
