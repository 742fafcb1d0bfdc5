//! Whole logins: all prompts, replays, lockouts, and what nobody may find out.

use std::fs;
use std::net::IpAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use proptest::prelude::*;
use tessera_proto::{Instant, Now, Secret, UnixTime};

use super::otp::{Moving, Otp, parse_secret};
use super::*;

/// Unix time at second 0 of a test, at the beginning of a step of TOTP.
const EPOCH: u64 = 1_700_000_010;
const PASSWORD: &str = "correct horse";

struct Bench {
    accounts: Accounts,
    path: PathBuf,
    _dir: tempfile::TempDir,
}

/// What a client sends.
#[derive(Clone)]
struct Client {
    user: String,
    source: IpAddr,
    certificate: Option<[u8; 32]>,
    crtext: bool,
}

fn client(user: &str) -> Client {
    Client { user: user.to_owned(), source: ip("192.0.2.1"), certificate: None, crtext: false }
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn at(seconds: u64) -> Now {
    let mono = Instant::from_epoch(Duration::from_secs(10_000 + seconds));
    Now { mono, wall: UnixTime(EPOCH + seconds) }
}

fn secret(text: &str) -> Secret<String> {
    Secret::new(text.to_owned())
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

/// The code that an app shows at this second.
fn code(otp: &Secret<String>, seconds: u64) -> String {
    format!("{:06}", as_otp(otp, Moving::Period(30)).code((EPOCH + seconds) / 30))
}

fn as_otp(secret: &Secret<String>, moving: Moving) -> Otp {
    let secret = parse_secret(secret.expose()).unwrap();
    Otp { moving, algorithm: OtpAlgorithm::Sha1, digits: Digits::Six, secret }
}

impl Bench {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("accounts");
        fs::write(&path, "# users\n").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        let options = AccountsOptions { cost: Cost::WEAKEST, threads: 2, ..AccountsOptions::new(&path) };
        let accounts = Accounts::open(options, Arc::new(MemoryLedger::new())).unwrap();
        Self { accounts, path, _dir: dir }
    }

    /// Adds a user with [`PASSWORD`]; the secret of its second factor.
    fn add(&self, name: &str, otp: Option<OtpKind>) -> Secret<String> {
        self.accounts.add(name, Some(secret(PASSWORD)), otp).unwrap().secret.unwrap_or_default()
    }

    fn try_login(&self, client: &Client, field: &str, seconds: u64) -> Decision {
        let Client { user, source, certificate, crtext } = client.clone();
        let request =
            Request { user, password: secret(field), source, certificate, crtext, now: at(seconds) };
        block_on(self.accounts.verify(request))
    }

    /// What the decision is, in a word.
    fn login(&self, client: &Client, field: &str, seconds: u64) -> &'static str {
        word(&self.try_login(client, field, seconds))
    }

    fn challenge(&self, client: &Client, field: &str, seconds: u64) -> String {
        let Decision::Challenge { text } = self.try_login(client, field, seconds) else { panic!() };
        let parts: Vec<&str> = text.expose().splitn(5, ':').collect();
        assert_eq!((parts[0], parts[1], parts[4]), ("CRV1", "R,E", "One-time code"));
        assert_eq!(STANDARD.decode(parts[3]).unwrap(), client.user.as_bytes());
        parts[2].to_owned()
    }

    fn hashes(&self) -> u64 {
        self.accounts.stats().hashes.load(Ordering::Relaxed)
    }
}

fn word(decision: &Decision) -> &'static str {
    match decision {
        Decision::Allow => "allow",
        Decision::Deny => "deny",
        Decision::Locked => "locked",
        Decision::Challenge { .. } => "challenge",
        Decision::AskInSession { .. } => "ask",
        Decision::NoAnswer => "none",
    }
}

fn scrv1(password: &str, response: &str) -> String {
    format!("SCRV1:{}:{}", STANDARD.encode(password), STANDARD.encode(response))
}

#[test]
fn a_password_alone() {
    let bench = Bench::new();
    bench.add("alice", None);
    let alice = client("alice");
    assert_eq!(bench.login(&alice, PASSWORD, 0), "allow");
    assert_eq!(bench.login(&alice, &scrv1(PASSWORD, ""), 0), "allow");
    assert_eq!(bench.login(&alice, &scrv1(PASSWORD, "whatever"), 0), "allow");
    for wrong in ["", "correct hors", "correct horse ", "correct horse123456", "SESS_ID_AT_x"] {
        assert_eq!(bench.login(&alice, wrong, 1_000), "deny", "{wrong}");
        bench.accounts.lockout().forgive("alice");
    }
    for nobody in ["Alice", "bob", "", "alice\0", "a:b", &"x".repeat(10_000)] {
        assert_eq!(bench.login(&client(nobody), PASSWORD, 2_000), "deny", "{nobody}");
    }
    bench.accounts.set_disabled("alice", true).unwrap();
    assert_eq!(bench.login(&alice, PASSWORD, 3_000), "deny");
    bench.accounts.set_disabled("alice", false).unwrap();
    assert_eq!(bench.login(&alice, PASSWORD, 3_000), "allow");
}

#[test]
fn a_code_behind_the_password() {
    let bench = Bench::new();
    let otp = bench.add("alice", Some(OtpKind::Totp));
    let alice = client("alice");
    let field = |seconds| format!("{PASSWORD}{}", code(&otp, seconds));
    assert_eq!(bench.login(&alice, &field(0), 0), "allow");
    assert_eq!(bench.login(&alice, &field(0), 1), "deny", "replayed");
    assert_eq!(bench.accounts.stats().replayed.load(Ordering::Relaxed), 1);
    assert_eq!(bench.login(&alice, &field(60), 30), "allow", "one step early");
    assert_eq!(bench.login(&alice, &field(90), 120), "allow", "one step late");
    assert_eq!(bench.login(&alice, &field(120), 180), "deny", "two steps late");
    assert_eq!(bench.login(&alice, &field(240), 180), "deny", "two steps early");
    assert_eq!(bench.login(&alice, &format!("wrong{}", code(&otp, 180)), 180), "deny");
    assert_eq!(bench.login(&alice, &code(&otp, 180), 180), "deny", "a code is no password");
    assert_eq!(bench.login(&alice, &field(180), 180), "allow");
}

#[test]
fn a_static_challenge() {
    let bench = Bench::new();
    let otp = bench.add("alice", Some(OtpKind::Totp));
    let alice = client("alice");
    assert_eq!(bench.login(&alice, &scrv1(PASSWORD, &code(&otp, 0)), 0), "allow");
    assert_eq!(bench.login(&alice, &scrv1(PASSWORD, &code(&otp, 0)), 0), "deny");
    assert_eq!(bench.login(&alice, &scrv1("wrong", &code(&otp, 30)), 30), "deny");
    assert_eq!(bench.login(&alice, &scrv1(PASSWORD, "000000x"), 30), "deny");
    assert_eq!(bench.login(&alice, "SCRV1:!:", 30), "deny");
    assert_eq!(bench.login(&alice, &scrv1(PASSWORD, ""), 60), "challenge");
    assert_eq!(bench.login(&alice, &scrv1(PASSWORD, &code(&otp, 60)), 60), "allow");
}

#[test]
fn a_dynamic_challenge() {
    let bench = Bench::new();
    let otp = bench.add("alice", Some(OtpKind::Totp));
    bench.add("bob", Some(OtpKind::Totp));
    let alice = Client { certificate: Some([1; 32]), ..client("alice") };
    let answer = |state: &str, seconds| format!("CRV1::{state}::{}", code(&otp, seconds));

    let state = bench.challenge(&alice, PASSWORD, 0);
    let before = bench.hashes();
    // The client may come back from elsewhere, and to another shard: this one has a runtime of its own.
    let moved = Client { source: ip("198.51.100.7"), ..alice.clone() };
    assert_eq!(bench.login(&moved, &answer(&state, 0), 30), "allow");
    assert_eq!(bench.hashes(), before, "the password is not asked for again");
    assert_eq!(bench.login(&alice, &answer(&state, 60), 60), "deny", "single use");

    let state = bench.challenge(&alice, PASSWORD, 90);
    assert_eq!(bench.login(&client("bob"), &answer(&state, 90), 90), "deny", "another user");
    let other = Client { certificate: Some([2; 32]), ..alice.clone() };
    assert_eq!(bench.login(&other, &answer(&state, 90), 90), "deny", "another certificate");
    let state = bench.challenge(&alice, PASSWORD, 120);
    assert_eq!(bench.login(&alice, &answer(&state, 300), 300), "deny", "too late");
    let state = bench.challenge(&alice, PASSWORD, 330);
    assert_eq!(bench.login(&alice, &format!("CRV1::{state}::000000"), 330), "deny");
    assert_eq!(bench.login(&alice, &answer(&state, 330), 330), "deny", "used up by the wrong code");
    let state = bench.challenge(&alice, PASSWORD, 360);
    bench.accounts.set_disabled("alice", true).unwrap();
    assert_eq!(bench.login(&alice, &answer(&state, 360), 360), "deny", "disabled meanwhile");
    bench.accounts.set_disabled("alice", false).unwrap();
    let state = bench.challenge(&alice, PASSWORD, 390);
    assert_eq!(bench.login(&alice, &answer(&state, 390), 390), "allow");
}

#[test]
fn a_question_within_the_session() {
    let bench = Bench::new();
    let otp = bench.add("alice", Some(OtpKind::Totp));
    let alice = Client { crtext: true, ..client("alice") };
    let ask = |seconds| match bench.try_login(&alice, PASSWORD, seconds) {
        Decision::AskInSession { prompt, pending } => {
            assert_eq!(prompt, "One-time code");
            pending
        }
        other => panic!("{other:?}"),
    };
    let respond = |pending, text: &str, seconds| {
        block_on(bench.accounts.verify_response(pending, secret(text), at(seconds)))
    };
    assert_eq!(word(&respond(ask(0), &code(&otp, 0), 5)), "allow");
    assert_eq!(word(&respond(ask(0), &code(&otp, 0), 5)), "ask", "replayed: the next code may be right");

    let mut pending = ask(60);
    for _ in 0..2 {
        let Decision::AskInSession { pending: again, .. } = respond(pending, "000000", 60) else { panic!() };
        pending = again;
    }
    assert_eq!(word(&respond(pending, "000000", 60)), "deny", "three tries");

    bench.accounts.lockout().forgive("alice");
    assert_eq!(word(&respond(ask(90), &code(&otp, 270), 270)), "deny", "too late");
    let pending = ask(300);
    bench.accounts.set_otp("alice", Some(OtpKind::Totp)).unwrap();
    assert_eq!(word(&respond(pending, &code(&otp, 300), 300)), "deny", "another second factor meanwhile");
}

#[test]
fn counters_and_eight_digits() {
    let bench = Bench::new();
    let secret = bench.add("alice", Some(OtpKind::Hotp));
    let hotp = as_otp(&secret, Moving::Counter(0));
    let field = |counter| format!("{PASSWORD}{:06}", hotp.code(counter));
    let alice = client("alice");
    assert_eq!(bench.login(&alice, &field(3), 0), "allow");
    assert_eq!(bench.login(&alice, &field(3), 0), "deny");
    assert_eq!(bench.login(&alice, &field(2), 0), "deny");
    assert_eq!(bench.login(&alice, &field(14), 0), "deny", "eleven ahead");
    assert_eq!(bench.login(&alice, &field(13), 0), "allow", "ten ahead");

    let text = fs::read_to_string(&bench.path).unwrap();
    let eight = text.replace("alice:", "eight:").lines().last().unwrap().to_owned() + ",digits=8\n";
    fs::write(&bench.path, text + &eight).unwrap();
    assert!(matches!(bench.accounts.refresh(at(5).mono), Refresh::Reloaded { users: 2, .. }));
    let long = Otp { digits: Digits::Eight, ..hotp.clone() };
    let (eight, code) = (client("eight"), long.code(0));
    assert_eq!(bench.login(&eight, &format!("{PASSWORD}{:06}", hotp.code(0)), 0), "deny");
    assert_eq!(bench.login(&eight, &format!("{PASSWORD}{code:08}"), 0), "allow");
    assert_eq!(bench.login(&alice, &field(14), 0), "allow", "others are not disturbed");
}

#[test]
fn a_password_that_ends_with_digits() {
    let bench = Bench::new();
    let accounts = &bench.accounts;
    let otp = accounts.add("alice", Some(secret("pass123456")), Some(OtpKind::Totp)).unwrap().secret.unwrap();
    accounts.add("bob", Some(secret("pass123456")), None).unwrap();
    assert_eq!(bench.login(&client("bob"), "pass123456", 0), "allow");
    assert_eq!(bench.login(&client("alice"), "pass123456", 0), "challenge");
    assert_eq!(bench.login(&client("alice"), &format!("pass123456{}", code(&otp, 0)), 0), "allow");
}

#[test]
fn the_clock_goes_back() {
    let bench = Bench::new();
    let otp = bench.add("alice", Some(OtpKind::Totp));
    let alice = client("alice");
    let field = |seconds| format!("{PASSWORD}{}", code(&otp, seconds));
    assert_eq!(bench.login(&alice, &field(7_200), 7_200), "allow");
    for seconds in [7_200, 7_170, 3_600, 0] {
        assert_eq!(bench.login(&alice, &field(seconds), seconds), "deny", "{seconds}");
        bench.accounts.lockout().forgive("alice");
    }
    assert_eq!(bench.login(&alice, &field(7_230), 7_230), "allow");
}

/// Locks are counted by the clock that nobody sets; codes by the one that people and apps go by.
#[test]
fn a_clock_that_is_set_opens_no_lock() {
    let bench = Bench::new();
    let otp = bench.add("alice", Some(OtpKind::Totp));
    let alice = client("alice");
    let login = |field: &str, seconds: u64, step: i64| {
        let now = at(seconds);
        let now = Now { wall: UnixTime(now.wall.0.checked_add_signed(step).unwrap()), ..now };
        let Client { user, source, certificate, crtext } = alice.clone();
        let request = Request { user, password: secret(field), source, certificate, crtext, now };
        word(&block_on(bench.accounts.verify(request)))
    };
    let words: Vec<_> = (0..6).map(|_| login("wrong", 100, 0)).collect();
    assert_eq!(words, ["deny", "deny", "deny", "deny", "deny", "locked"]);
    for step in [0, 3600, -3600, -86_400, 86_400] {
        assert_eq!(login(PASSWORD, 101, step), "locked", "{step}");
    }
    // The lock is over after its time, whatever the wall clock says meanwhile.
    let code_at = |seconds: i64| {
        let unix = EPOCH.checked_add_signed(seconds).unwrap();
        format!("{PASSWORD}{:06}", as_otp(&otp, Moving::Period(30)).code(unix / 30))
    };
    assert_eq!(login(&code_at(200 - 3600), 200, -3600), "allow");
    assert_eq!(login(&code_at(200 - 3600), 200, -3600), "deny", "a code counts once");
    assert_eq!(login(&code_at(200), 200, 0), "allow", "the clock is right again");
    assert_eq!(login(&code_at(200 - 3600), 201, -3600), "deny", "what was passed does not come back");
}

#[test]
fn one_code_on_many_threads_counts_once() {
    let bench = Bench::new();
    let otp = bench.add("alice", Some(OtpKind::Totp));
    let field = format!("{PASSWORD}{}", code(&otp, 0));
    let allowed = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for n in 0..8 {
            let (bench, field, allowed) = (&bench, &field, &allowed);
            scope.spawn(move || {
                let source = IpAddr::V4([192, 0, 2, n].into());
                let word = bench.login(&Client { source, ..client("alice") }, field, 0);
                allowed.fetch_add(u64::from(word == "allow"), Ordering::Relaxed);
            });
        }
    });
    assert_eq!(allowed.into_inner(), 1);
}

#[test]
fn ten_thousand_wrong_passwords_cost_little() {
    let bench = Bench::new();
    bench.add("alice", None);
    let alice = client("alice");
    let started = bench.hashes();
    let locked =
        (0..10_000).filter(|n| bench.login(&alice, &format!("guess {n}"), n / 10) == "locked").count();
    // 1,000 s: five guesses, and one after each of the locks of 30, 60, 120, 240 and 480 s.
    assert_eq!(bench.hashes() - started, 10);
    assert_eq!(locked, 9_990);
    assert_eq!(bench.login(&alice, PASSWORD, 1_000), "locked");
    let elsewhere = Client { source: ip("2001:db8::1"), ..alice.clone() };
    assert_eq!(bench.login(&elsewhere, PASSWORD, 1_000), "allow", "the user comes from elsewhere");
    assert_eq!(bench.login(&alice, PASSWORD, 1_931), "allow", "and from here, once the lock is over");
    let nobody = client("nobody");
    let words: Vec<_> = (0..7).map(|_| bench.login(&nobody, "x", 0)).collect();
    assert_eq!(words, ["deny", "deny", "deny", "deny", "deny", "locked", "locked"], "no difference");
}

/// The time that a client can measure is the hashes: their number and cost must tell nothing. Wall-clock time is not
/// compared, since a busy machine would make that fail by chance.
#[test]
fn the_work_does_not_tell_who_exists() {
    let bench = Bench::new();
    bench.add("plain", None);
    bench.add("totp", Some(OtpKind::Totp));
    bench.add("off", Some(OtpKind::Totp));
    bench.accounts.set_disabled("off", true).unwrap();
    // A user whose hash has another cost: everybody pays for both.
    let text = fs::read_to_string(&bench.path).unwrap();
    let costly =
        "old:$argon2id$v=19$m=2048,t=1,p=1$c29tZXNhbHQ$CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2GRPPc\n";
    fs::write(&bench.path, text + costly).unwrap();
    bench.accounts.refresh(at(0).mono);
    let crtext = [false, true];
    for (field, expected) in [
        ("wrong".to_owned(), 2),
        (PASSWORD.to_owned(), 2),
        ("wrong123456".to_owned(), 4),
        (format!("{PASSWORD}123456"), 4),
        // Eight digits are not in the file.
        ("wrong12345678".to_owned(), 4),
        ("123456".to_owned(), 2),
        (scrv1("wrong", "123456"), 2),
        (scrv1(PASSWORD, "123456"), 2),
        (scrv1(PASSWORD, ""), 2),
        ("SCRV1:x".to_owned(), 0),
        ("CRV1::x::123456".to_owned(), 0),
    ] {
        for user in ["plain", "totp", "off", "old", "nobody", "", "bad\nname"] {
            for crtext in crtext {
                let before = bench.hashes();
                bench.login(&Client { crtext, ..client(user) }, &field, 0);
                assert_eq!(bench.hashes() - before, expected, "{user:?} {field:?}");
                bench.accounts.lockout().forgive(user);
            }
        }
    }
}

/// What a client could measure, at the cost that is in use: wrong passwords of a user and of nobody, by turns. The numbers
/// are for people to read; what is asserted is far from noise, and far from a hash that is left out.
#[test]
fn wrong_user_and_wrong_password_take_as_long() {
    const RUNS: usize = 30;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("accounts");
    fs::write(&path, "").unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    let options = AccountsOptions { threads: 1, ..AccountsOptions::new(&path) };
    let accounts = Accounts::open(options, Arc::new(MemoryLedger::new())).unwrap();
    accounts.add("alice", Some(secret(PASSWORD)), None).unwrap();
    let measure = |name: &str| {
        let Client { user, source, certificate, crtext } = client(name);
        let request = Request { user, password: secret("wrong"), source, certificate, crtext, now: at(0) };
        let began = crate::clock::now();
        assert_eq!(word(&block_on(accounts.verify(request))), "deny");
        let took = crate::clock::now().saturating_duration_since(began);
        accounts.lockout().forgive(name);
        took
    };
    let (mut known, mut unknown): (Vec<_>, Vec<_>) =
        (0..RUNS).map(|_| (measure("alice"), measure("nobody"))).unzip();
    known.sort_unstable();
    unknown.sort_unstable();
    let [known, unknown] = [known[RUNS / 2], unknown[RUNS / 2]].map(|median| median.as_secs_f64() * 1000.0);
    println!("median of {RUNS}: wrong password {known:.2} ms, wrong user {unknown:.2} ms");
    assert!(
        (0.5..2.0).contains(&(known / unknown)),
        "wrong password {known:.2} ms, wrong user {unknown:.2} ms"
    );
}

#[test]
fn accounts_are_managed() {
    let bench = Bench::new();
    let accounts = &bench.accounts;
    let added = accounts.add("al ice@x", None, Some(OtpKind::Totp)).unwrap();
    let password = added.password.unwrap();
    assert_eq!(password.expose().len(), 19);
    let uri = added.otpauth.unwrap();
    assert!(uri.expose().starts_with("otpauth://totp/Tessera:al%20ice%40x?secret="), "{}", uri.expose());
    let (otp, alice) = (added.secret.unwrap(), client("al ice@x"));
    assert_eq!(bench.login(&alice, &format!("{}{}", password.expose(), code(&otp, 0)), 0), "allow");

    assert!(matches!(accounts.add("al ice@x", None, None), Err(AccountsError::Exists(_))));
    for (name, word) in [
        ("", None),
        ("a:b", None),
        ("#a", None),
        ("ok", Some("")),
        ("ok", Some("SCRV1:x")),
        ("ok", Some("a\nb")),
        ("ok", Some("SESS_ID_AT_x")),
    ] {
        let refused = accounts.add(name, word.map(secret), None);
        assert!(matches!(refused, Err(AccountsError::Invalid(_))), "{name:?} {word:?}");
    }
    let other = accounts.set_password("al ice@x", None).unwrap().unwrap();
    assert_eq!(bench.login(&alice, password.expose(), 0), "deny");
    assert_eq!(bench.login(&alice, other.expose(), 0), "challenge");
    assert!(accounts.set_otp("al ice@x", None).unwrap().secret.is_none());
    assert_eq!(bench.login(&alice, other.expose(), 0), "allow");
    accounts.add("bob", Some(secret("pw")), Some(OtpKind::Hotp)).unwrap();
    let listed = accounts.list();
    let names: Vec<_> = listed.iter().map(|l| (l.name.as_str(), l.otp, l.disabled)).collect();
    assert_eq!(names, [("al ice@x", None, false), ("bob", Some(OtpKind::Hotp), false)]);
    accounts.remove("al ice@x").unwrap();
    assert!(matches!(accounts.remove("al ice@x"), Err(AccountsError::Unknown(_))));
    assert_eq!(bench.login(&alice, other.expose(), 0), "deny");
    let text = fs::read_to_string(&bench.path).unwrap();
    assert!(text.starts_with("# users\nbob:$argon2id$v=19$m=1024,t=1,p=1$"), "{text}");
    assert_eq!(fs::metadata(&bench.path).unwrap().permissions().mode() & 0o777, 0o600);
}

#[test]
fn options_out_of_bounds() {
    let bench = Bench::new();
    let options = AccountsOptions::new(&bench.path);
    for options in [
        AccountsOptions { challenge_lifetime: Duration::from_secs(119), ..options.clone() },
        AccountsOptions { challenge_lifetime: Duration::from_secs(301), ..options.clone() },
        AccountsOptions { cost: Cost { passes: 99, ..Cost::OWASP }, ..options.clone() },
    ] {
        let refused = Accounts::open(options, Arc::new(MemoryLedger::new()));
        assert!(matches!(refused, Err(AccountsError::Invalid(_))));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn hostile_text_is_only_refused(user in ".{0,40}", field in "(SCRV1:|CRV1::|CRV1:)?.{0,80}") {
        let bench = Bench::new();
        bench.add("alice", Some(OtpKind::Totp));
        prop_assert_eq!(bench.login(&client(&user), &field, 0), "deny");
        prop_assert_eq!(bench.login(&client("alice"), &field, 0), "deny");
    }
}
