//! The binary against a gateway that says what each test wants: exit codes, forms of output, what is asked.

#![expect(clippy::unwrap_used, reason = "a test may fail by panic")]

use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::sync::mpsc;
use std::thread::JoinHandle;

use tempfile::TempDir;
use tessera_api::*;

const NOW: Moment = Moment(1_787_220_000);
/// A socket that nobody serves.
const NOWHERE: &str = "/nonexistent/control.sock";

/// Answers one connection after the other, each with the bytes it is given, and tells what was asked.
struct Fake {
    dir: TempDir,
    asked: mpsc::Receiver<String>,
    thread: JoinHandle<()>,
}

impl Fake {
    fn new(answers: Vec<Vec<u8>>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(dir.path().join("s")).unwrap();
        let (tell, asked) = mpsc::channel();
        let thread = std::thread::spawn(move || {
            for answer in answers {
                let (mut stream, _) = listener.accept().unwrap();
                let mut line = String::new();
                BufReader::new(&stream).read_line(&mut line).unwrap();
                tell.send(line).unwrap();
                stream.write_all(&answer).unwrap();
            }
        });
        Self { dir, asked, thread }
    }

    fn socket(&self) -> PathBuf {
        self.dir.path().join("s")
    }

    /// The requests, once all answers are given.
    fn asked(self) -> Vec<String> {
        self.thread.join().unwrap();
        self.asked.try_iter().collect()
    }
}

fn lines(result: Result<Response, ApiError>) -> Vec<u8> {
    Reply::lines(NOW, result).flat_map(|line| line.unwrap().to_vec()).collect()
}

fn tessera(socket: impl Into<PathBuf>, args: &[&str], input: &str) -> Output {
    let mut child = Command::new(env!("CARGO_BIN_EXE_tessera"))
        .args(args)
        .env("TESSERA_SOCKET", socket.into())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // One that does not read its input is fine.
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    child.wait_with_output().unwrap()
}

/// Exit code, standard output, standard error.
fn outcome(output: &Output) -> (i32, String, String) {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    (output.status.code().unwrap(), text(&output.stdout), text(&output.stderr))
}

/// Runs a command against one answer: what it asked for, and what came of it.
fn one(args: &[&str], answer: Result<Response, ApiError>) -> (String, i32, String, String) {
    with_input(args, answer, "")
}

fn with_input(
    args: &[&str],
    answer: Result<Response, ApiError>,
    input: &str,
) -> (String, i32, String, String) {
    let fake = Fake::new(vec![lines(answer)]);
    let (code, out, err) = outcome(&tessera(fake.socket(), args, input));
    (fake.asked().pop().unwrap(), code, out, err)
}

fn request(line: &str) -> Request {
    Request::parse(line.trim_end().as_bytes()).unwrap()
}

fn session(id: &str) -> Session {
    Session {
        id: id.to_owned(),
        state: SessionState::Connected,
        common_name: "alice".into(),
        username: String::new(),
        peer_id: Some(4),
        real_address: "198.51.100.7:4500".parse().unwrap(),
        virtual_address: Some("10.8.0.2".parse().unwrap()),
        virtual_ipv6_address: None,
        iroutes: vec![],
        connected_since: Moment(NOW.0 - 3700),
        bytes_received: 1_300_000,
        bytes_sent: 999,
        cipher: Some("AES-256-GCM".into()),
        token: TokenOfSession { kind: TokenKind::Pushed, ..TokenOfSession::default() },
        certificate_fingerprint: None,
        client_version: Some("2.6\u{1b}[2J".into()),
        client_platform: None,
        peer_info: [("IV_VER".to_owned(), "2.6".to_owned())].into(),
    }
}

fn token(number: usize) -> Token {
    Token {
        id: format!("t{number}"),
        kind: TokenKind::Generated,
        state: TokenState::Valid,
        username: "alice".into(),
        common_name: "alice".into(),
        certificate_fingerprint: Some(Fingerprint([0xab; 32])),
        session_id: Some("AAECAwQFBgcICQoL".into()),
        issued: Moment(NOW.0 - 60),
        expires: Moment(NOW.0 + 7200),
    }
}

fn user(name: &str) -> User {
    User {
        name: name.into(),
        in_auth_file: true,
        otp: Some(OtpKind::Totp),
        locked: false,
        locked_out_until: Some(Moment(NOW.0 + 90)),
        created: Some(Moment(NOW.0 - 86_400)),
    }
}

fn credentials(otp: bool) -> Response {
    let uri = "otpauth://totp/Tessera:alice?secret=JBSWY3DPEHPK3PXP&issuer=Tessera";
    Response::Credentials(Credentials {
        name: "alice".into(),
        password: Some("k7Qm-w2Rt".to_owned().into()),
        otp: otp.then(|| OtpProvisioning {
            kind: OtpKind::Totp,
            secret: "JBSWY3DPEHPK3PXP".to_owned().into(),
            uri: uri.to_owned().into(),
        }),
    })
}

const NONE: Response = Response::Changes(Changes { sessions: 0, tokens: 0, users: 0 });

#[test]
fn sessions_in_each_form() {
    let list = || Ok(Response::Sessions(vec![session("0-1"), session("1-22")]));
    let (asked, code, out, err) = one(&["session", "list"], list());
    assert!(matches!(request(&asked), Request::SessionList(list) if list == SessionList::default()));
    assert_eq!((code, err.as_str()), (0, ""));
    let expected = "\
ID    COMMON NAME  USER  REAL ADDRESS       VIRTUAL ADDRESS  STATE      SINCE  RECEIVED   SENT  CIPHER       TOKEN   CLIENT
0-1   alice        -     198.51.100.7:4500  10.8.0.2         connected  1h 1m   1.2 MiB  999 B  AES-256-GCM  pushed  2.6\\u{1b}[2J
1-22  alice        -     198.51.100.7:4500  10.8.0.2         connected  1h 1m   1.2 MiB  999 B  AES-256-GCM  pushed  2.6\\u{1b}[2J
";
    assert_eq!(out, expected);

    let (_, code, out, _) = one(&["session", "list", "-o", "json"], list());
    let object: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!((code, &object["api_version"], &object["sessions"][1]["id"]), (0, &1.into(), &"1-22".into()));
    assert_eq!(object["sessions"][0]["connected_since"]["unix"], NOW.0 - 3700);
    assert!(object.get("more").is_none());

    let (_, code, out, _) = one(&["-o", "jsonl", "session", "list"], list());
    let ids: Vec<_> = out.lines().map(|line| serde_json::from_str::<Session>(line).unwrap().id).collect();
    assert_eq!((code, ids), (0, vec!["0-1".to_owned(), "1-22".to_owned()]));

    let (_, code, out, _) = one(&["session", "list", "-o", "jsonl"], Ok(Response::Sessions(vec![])));
    assert_eq!((code, out.as_str()), (0, ""));
}

#[test]
fn filters_and_details() {
    let args = [
        "session",
        "list",
        "--common-name",
        "a",
        "--user",
        "u",
        "--real-address",
        "::1",
        "--virtual-address",
        "10.8.0.2",
    ];
    let (asked, ..) = one(&args, Ok(Response::Sessions(vec![])));
    let Request::SessionList(SessionList { filter }) = request(&asked) else { panic!("{asked}") };
    assert_eq!((filter.common_name.as_deref(), filter.username.as_deref()), (Some("a"), Some("u")));
    assert_eq!(filter.real_address, Some("::1".parse().unwrap()));
    assert_eq!(filter.virtual_address, Some("10.8.0.2".parse().unwrap()));

    let (asked, code, out, _) =
        one(&["session", "show", "0-1"], Ok(Response::Sessions(vec![session("0-1")])));
    assert!(matches!(request(&asked), Request::SessionShow(show) if show.id == "0-1"));
    assert_eq!(code, 0);
    for part in [
        "common name      alice\n",
        "since            2026-08-20T08:58:20Z (1h 1m ago)\n",
        "received         1.2 MiB (1300000 bytes)\n",
        "client           2.6\\u{1b}[2J\n",
        "IV_VER  2.6\n",
    ] {
        assert!(out.contains(part), "{part}{out}");
    }
    assert!(!out.contains("user "));
}

#[test]
fn long_lists_are_put_together() {
    let all: Vec<_> = (0..1000).map(|n| session(&n.to_string())).collect();
    let (_, code, out, _) = one(&["session", "list", "-o", "jsonl"], Ok(Response::Sessions(all)));
    assert_eq!((code, out.lines().count()), (0, 1000));
}

#[test]
fn kill_says_how_many() {
    let answer = || Ok(Response::Changes(Changes { sessions: 2, ..Changes::default() }));
    let args =
        ["session", "kill", "--common-name", "alice", "--how", "auth-failed", "--reason", "moved away"];
    let (asked, code, out, err) = one(&args, answer());
    let Request::SessionKill(kill) = request(&asked) else { panic!("{asked}") };
    assert_eq!(kill.target, KillTarget::CommonName("alice".into()));
    assert_eq!((kill.how, kill.reason.as_deref()), (KillHow::AuthFailed, Some("moved away")));
    assert_eq!((code, out.as_str(), err.as_str()), (0, "2 sessions ended\n", ""));

    let (asked, ..) = one(&["session", "kill", "0-7"], answer());
    let Request::SessionKill(kill) = request(&asked) else { panic!("{asked}") };
    assert_eq!((kill.target, kill.how, kill.reason), (KillTarget::Id("0-7".into()), KillHow::Restart, None));

    let (_, code, out, _) = one(&["session", "kill", "--user", "u", "-o", "jsonl"], answer());
    let object: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!((code, out.lines().count(), &object["changes"]["sessions"]), (0, 1, &2.into()));
}

#[test]
fn exit_codes_tell_what_went_wrong() {
    let failing = |error_code| {
        let (_, code, out, err) = one(&["session", "kill", "9"], Err(ApiError::new(error_code, "no\u{1b}!")));
        assert_eq!((out.as_str(), err.as_str()), ("", "tessera: no\\u{1b}!\n"));
        code
    };
    for (error, code) in [
        (ErrorCode::BadRequest, 2),
        (ErrorCode::NotFound, 3),
        (ErrorCode::Exists, 5),
        (ErrorCode::Forbidden, 5),
        (ErrorCode::Refused, 5),
        (ErrorCode::Busy, 1),
        (ErrorCode::Timeout, 1),
        (ErrorCode::Unavailable, 1),
        (ErrorCode::Internal, 1),
    ] {
        assert_eq!(failing(error), code, "{error:?}");
    }
    // Nobody is there.
    let (code, out, err) = outcome(&tessera(NOWHERE, &["status"], ""));
    assert_eq!((code, out.as_str()), (4, ""));
    assert!(
        err.starts_with(&format!("tessera: socket {NOWHERE}: ")) && err.contains("is tesserad running"),
        "{err}"
    );
    // Somebody was there.
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    drop(UnixListener::bind(&path).unwrap());
    let (code, _, err) = outcome(&tessera(&path, &["status"], ""));
    assert!(code == 4 && err.contains("is gone"), "{code} {err}");
    // The option is stronger than the environment.
    let (code, ..) = outcome(&tessera(NOWHERE, &["status", "--socket", path.to_str().unwrap()], ""));
    assert_eq!(code, 4);
}

#[test]
fn answers_that_are_none_are_told() {
    let whole = lines(Ok(NONE));
    let users = lines(Ok(Response::Users(vec![user("a"); 2 * ENTRIES_PER_LINE])));
    let first = users.iter().position(|byte| *byte == b'\n').unwrap() + 1;
    let mixed = [&users[..first], &whole].concat();
    let answers = [
        (&b""[..], 4, "hung up before the end"),
        (&whole[..whole.len() - 5], 4, "hung up before the end"),
        (&users[..first], 4, "hung up before the end"),
        (b"HTTP/1.1 400 Bad Request\n", 1, "not an answer of the gateway"),
        (b"{\"api_version\":7}\n", 1, "version 7"),
        (&mixed, 1, "something else than was asked"),
        (&whole, 1, "something else than was asked"),
    ];
    for (answer, wanted, part) in answers {
        for form in ["table", "json", "jsonl"] {
            let fake = Fake::new(vec![answer.to_vec()]);
            let (code, out, err) = outcome(&tessera(fake.socket(), &["user", "list", "-o", form], ""));
            assert_eq!((code, out.as_str()), (wanted, ""), "{err}");
            assert!(err.contains(part), "{err}");
        }
    }
}

#[test]
fn wrong_usage_is_told_before_anything_is_asked() {
    for args in [
        &[][..],
        &["session"],
        &["session", "kill"],
        &["session", "kill", "1", "--user", "u"],
        &["session", "kill", "1", "--how", "gently"],
        &["session", "kill", "1", "--reason", "a\nb"],
        &["session", "list", "--real-address", "nowhere"],
        &["token", "revoke"],
        &["token", "revoke", "--before", "2026-08-20T10:00:00Z"],
        &["token", "revoke", "--all", "--user", "u"],
        &["token", "revoke", "--all", "--before", "yesterday"],
        &["token", "revoke", "--certificate", "ab:cd"],
        &["token", "list", "--limit", "0"],
        &["user", "add", "alice", "--otp=sms"],
        &["user", "add", "alice", "--password", "x"],
        &["user", "add", "alice", "--password-stdin", "--ask-password"],
        &["user", "add", "alice", "--password-stdin"],
        &["user", "add", ""],
        &["status", "-o", "xml"],
    ] {
        let (code, out, err) = outcome(&tessera(NOWHERE, args, ""));
        assert_eq!((code, out.as_str()), (2, ""), "{args:?}: {err}");
        assert!(!err.is_empty(), "{args:?}");
    }
}

#[test]
fn tokens_come_by_pages() {
    let page = |range: std::ops::Range<usize>, next: Option<&str>| {
        lines(Ok(Response::Tokens { tokens: range.map(token).collect(), next: next.map(str::to_owned) }))
    };
    let fake = Fake::new(vec![page(0..1000, Some("c1")), page(1000..1500, Some("c2"))]);
    let args = ["token", "list", "--user", "alice", "--limit", "1500", "-o", "jsonl"];
    let (code, out, err) = outcome(&tessera(fake.socket(), &args, ""));
    let ids: Vec<_> = out.lines().map(|line| serde_json::from_str::<Token>(line).unwrap().id).collect();
    assert_eq!((code, ids), (0, (0..1500).map(|n| format!("t{n}")).collect()));
    assert_eq!(err, "tessera: there are more: --after 'c2'\n");
    let asked: Vec<_> = fake
        .asked()
        .iter()
        .map(|line| match request(line) {
            Request::TokenList(list) => (list.user.unwrap(), list.limit, list.after),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(asked, [("alice".into(), 1000, None), ("alice".into(), 500, Some("c1".to_owned()))]);

    let fake = Fake::new(vec![page(0..1, None)]);
    let (code, out, err) = outcome(&tessera(fake.socket(), &["token", "list", "--after", "c2"], ""));
    let expected = "\
ID  KIND       STATE  USER   COMMON NAME    AGE  EXPIRES IN  SESSION ID        CERTIFICATE
t0  generated  valid  alice  alice        1m 0s       2h 0m  AAECAwQFBgcICQoL  ab:ab:ab:ab
";
    assert_eq!((code, out.as_str(), err.as_str()), (0, expected, ""));
    assert!(
        matches!(request(&fake.asked()[0]), Request::TokenList(list) if list.after.as_deref() == Some("c2"))
    );
    // A cursor that stands still ends the list.
    let fake = Fake::new(vec![page(0..1, Some("c")), page(1..2, Some("c"))]);
    let (code, out, _) = outcome(&tessera(fake.socket(), &["token", "list", "-o", "json"], ""));
    let object: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!((code, object["tokens"].as_array().unwrap().len(), &object["next"]), (0, 2, &"c".into()));
}

#[test]
fn revoke_says_what_happened() {
    let print = Fingerprint([0xab; 32]);
    for (args, target) in [
        (vec!["--id", "t1"], RevokeTarget::Id("t1".into())),
        (vec!["--session", "AAEC"], RevokeTarget::SessionId("AAEC".into())),
        (vec!["--user", "alice"], RevokeTarget::Username("alice".into())),
        (vec!["--certificate", &"AB".repeat(32)], RevokeTarget::Certificate(print)),
        (vec!["--all"], RevokeTarget::Everything),
    ] {
        for (before, seconds) in [(&[][..], None), (&["--before", "2026-08-20T12:00:00+02:00"], Some(NOW.0))]
        {
            let args = [&["token", "revoke"][..], &args, before].concat();
            let answer = Ok(Response::Changes(Changes { sessions: 1, tokens: 3, users: 0 }));
            let (asked, code, out, _) = one(&args, answer);
            let Request::TokenRevoke(revoke) = request(&asked) else { panic!("{asked}") };
            assert_eq!((&revoke.target, revoke.before), (&target, seconds));
            assert_eq!((code, out.as_str()), (0, "3 tokens revoked, 1 session ended\n"));
        }
    }
    let rotation =
        |file: Option<&str>| Ok(Response::Rotation(Rotation { secrets: 2, file: file.map(str::to_owned) }));
    let (asked, code, out, _) = one(&["token", "rotate-secret"], rotation(Some("/etc/key")));
    assert!(matches!(request(&asked), Request::TokenRotateSecret(_)));
    assert_eq!(
        (code, out.as_str()),
        (0, "a new secret makes tokens from now on; 2 secrets known, in /etc/key\n")
    );
    assert!(one(&["token", "rotate-secret"], rotation(None)).2.contains("in the gateway's own store"));
}

#[test]
fn a_new_user_is_told_everything_once() {
    let (asked, code, out, err) = one(&["user", "add", "alice", "--otp"], Ok(credentials(true)));
    let Request::UserAdd(add) = request(&asked) else { panic!("{asked}") };
    assert_eq!((add.name.as_str(), add.otp, add.password.is_none()), ("alice", Some(OtpKind::Totp), true));
    assert_eq!((code, err.as_str()), (0, ""));
    for part in [
        "user alice added\n",
        "password  k7Qm-w2Rt\n",
        "secret    JBSWY3DPEHPK3PXP\n",
        "uri       otpauth://totp/Tessera:alice?secret=JBSWY3DPEHPK3PXP&issuer=Tessera\n",
        "████",
        "This is not shown again.\n",
    ] {
        assert!(out.contains(part), "{part}{out}");
    }

    let (asked, _, out, _) =
        one(&["user", "add", "alice", "--otp=hotp", "-o", "json"], Ok(credentials(true)));
    assert!(matches!(request(&asked), Request::UserAdd(UserAdd { otp: Some(OtpKind::Hotp), .. })));
    let object: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!(object["credentials"]["password"], "k7Qm-w2Rt");
    assert!(object["credentials"]["otp"]["uri"].as_str().unwrap().starts_with("otpauth://"));

    // The name may stand behind the option.
    let (asked, ..) = one(&["user", "add", "--otp", "alice"], Ok(credentials(true)));
    assert!(matches!(request(&asked), Request::UserAdd(add) if add.name == "alice"));
}

#[test]
fn passwords_come_from_standard_input() {
    let answer =
        || Ok(Response::Credentials(Credentials { name: "alice".into(), password: None, otp: None }));
    for (input, password) in
        [("hunter2\n", "hunter2"), ("with space \r\nrest", "with space "), ("ünïcode", "ünïcode")]
    {
        let (asked, code, out, err) =
            with_input(&["user", "add", "alice", "--password-stdin"], answer(), input);
        let Request::UserAdd(add) = request(&asked) else { panic!("{asked}") };
        assert_eq!(add.password.unwrap().expose(), password);
        assert_eq!((code, out.as_str(), err.as_str()), (0, "user alice added\n", ""));
    }
    let (asked, _, out, _) = with_input(&["user", "password", "alice", "--password-stdin"], answer(), "x\n");
    assert!(matches!(request(&asked), Request::UserPassword(new) if new.password.is_some()));
    assert_eq!(out, "user alice has a new password\n");
    let (asked, _, out, _) = one(&["user", "password", "alice"], Ok(credentials(false)));
    assert!(matches!(request(&asked), Request::UserPassword(new) if new.password.is_none()));
    assert!(out.contains("password  k7Qm-w2Rt\n"));
    // Without a terminal there is nobody to ask.
    let mut command = Command::new("setsid");
    command.arg("--wait").arg(env!("CARGO_BIN_EXE_tessera")).args(["user", "add", "a", "--ask-password"]);
    let (code, _, err) = outcome(&command.stdin(Stdio::null()).output().unwrap());
    assert!(code == 1 && err.contains("the terminal"), "{code} {err}");
}

#[test]
fn users_are_listed_and_changed() {
    let other = User { in_auth_file: false, otp: None, locked: true, created: None, ..user("bob") };
    let (asked, code, out, _) = one(&["user", "list"], Ok(Response::Users(vec![user("alice"), other])));
    assert!(matches!(request(&asked), Request::UserList(_)));
    let expected = "\
NAME   OTP   STATE                    AGE  FROM
alice  totp  locked out for 1m 30s  1d 0h  auth-file
bob    -     locked                     -  elsewhere
";
    assert_eq!((code, out.as_str()), (0, expected));

    let change = || Ok(Response::Changes(Changes { sessions: 1, tokens: 2, users: 1 }));
    for (verb, done) in [("remove", "removed"), ("lock", "locked"), ("unlock", "unlocked")] {
        let (asked, code, out, _) = one(&["user", verb, "alice"], change());
        assert_eq!(request(&asked).method(), format!("user.{verb}"));
        assert_eq!((code, out), (0, format!("user alice {done}: 2 tokens revoked, 1 session ended\n")));
        assert_eq!(one(&["user", verb, "alice"], Ok(NONE)).2, format!("user alice was {done} already\n"));
    }
    for (args, setting) in [
        (&["user", "otp", "alice"][..], OtpSetting::Totp),
        (&["user", "otp", "alice", "hotp"], OtpSetting::Hotp),
        (&["user", "otp", "alice", "none"], OtpSetting::None),
    ] {
        let (asked, code, ..) = one(args, Ok(credentials(setting != OtpSetting::None)));
        assert!(matches!(request(&asked), Request::UserOtp(otp) if otp.otp == setting), "{asked}");
        assert_eq!(code, 0);
    }
}

#[test]
fn status_and_metrics() {
    let status = Status {
        version: "0.1.0".into(),
        pid: 4711,
        started: Moment(NOW.0 - 90_061),
        uptime: 90_061,
        clients: 2,
        sessions: 3,
        rung: "basic".into(),
        rung_reason: "no UDP GRO".into(),
        workers: 4,
        shards: 2,
        hooks: HookStats {
            in_queue: 1,
            rejected: 0,
            kinds: vec![
                HookKindStats {
                    kind: "client-connect".into(),
                    runs: 10,
                    failures: 1,
                    timeouts: 0,
                    total_ms: 2500,
                },
                HookKindStats { kind: "tls-verify".into(), ..HookKindStats::default() },
            ],
        },
        tokens: TokenCacheStats {
            entries: 2,
            capacity: 10,
            valid: 5,
            unknown: 1,
            ..TokenCacheStats::default()
        },
        store: Some(StoreStats {
            path: "/var/lib/tessera/tokens".into(),
            last_error: Some("No space left on device".into()),
            ..StoreStats::default()
        }),
        plugins: vec![PluginStats {
            file: "/usr/lib/auth-pam.so".into(),
            state: PluginState::Down,
            pid: None,
            restarts: 3,
            calls: 7,
            failures: 2,
            timeouts: 0,
        }],
    };
    let answer = || Ok(Response::Status(Box::new(status.clone())));
    let (asked, code, out, _) = one(&["status"], answer());
    assert!(matches!(request(&asked), Request::Status(_)));
    assert_eq!(code, 0);
    for part in [
        "up            1d 1h (since 2026-08-19T08:58:59Z)\n",
        "token checks  5 valid, 1 not\n",
        "store  /var/lib/tessera/tokens (failing: No space left on device)\n",
        "client-connect    10         1         0      250\n",
        "/usr/lib/auth-pam.so  down     -         3      7         2         0\n",
    ] {
        assert!(out.contains(part), "{part}{out}");
    }
    assert!(!out.contains("tls-verify"));
    let (_, _, out, _) = one(&["status", "-o", "json"], answer());
    assert_eq!(
        serde_json::from_str::<serde_json::Value>(&out).unwrap()["status"]["hooks"]["kinds"][0]["runs"],
        10
    );

    let text = "# TYPE tessera_clients gauge\ntessera_clients 2\n";
    let (asked, code, out, _) = one(&["metrics"], Ok(Response::Metrics(text.into())));
    assert!(matches!(request(&asked), Request::Metrics(_)));
    assert_eq!((code, out.as_str()), (0, text));
    let (_, _, out, _) = one(&["metrics", "-o", "jsonl"], Ok(Response::Metrics(text.into())));
    assert_eq!(serde_json::from_str::<serde_json::Value>(&out).unwrap()["metrics"], text);
}

#[test]
fn what_packagers_need() {
    let (code, out, _) = outcome(&tessera(NOWHERE, &["completions", "bash"], ""));
    assert!(code == 0 && out.contains("rotate-secret"));
    let dir = tempfile::tempdir().unwrap();
    let (code, ..) = outcome(&tessera(NOWHERE, &["man", dir.path().to_str().unwrap()], ""));
    assert_eq!(code, 0);
    let page = std::fs::read_to_string(dir.path().join("tessera-token-revoke.1")).unwrap();
    assert!(page.contains("fingerprint") || page.contains("FINGERPRINT"));
    let (code, out, _) = outcome(&tessera(NOWHERE, &["--help"], ""));
    assert!(code == 0 && out.contains("session") && !out.contains("completions"));
}
