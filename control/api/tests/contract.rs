//! The contract, written out: each request and each answer as `tests/contract/NAME.json`. A file that differs is a break of the
//! contract or a new field; `TESSERA_BLESS=1 cargo test -p tessera-api --test contract` writes the files anew.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::Value;
use tessera_api::*;

const NOW: Moment = Moment(1_787_220_000);

#[test]
fn requests_are_as_documented() {
    let name = |name: &str| UserName { name: name.to_owned() };
    let revoke = |target, before| Request::TokenRevoke(TokenRevoke { target, before });
    let kill = |target, reason: Option<&str>, how| {
        Request::SessionKill(SessionKill { target, reason: reason.map(str::to_owned), how })
    };
    let cases = [
        ("session.list", Request::SessionList(SessionList::default())),
        (
            "session.list.filtered",
            Request::SessionList(SessionList {
                filter: SessionFilter {
                    common_name: Some("alice".into()),
                    username: Some("alice".into()),
                    real_address: Some("198.51.100.7".parse().unwrap()),
                    virtual_address: Some("fd00::2".parse().unwrap()),
                },
            }),
        ),
        ("session.show", Request::SessionShow(SessionShow { id: "0-17".into() })),
        ("session.kill.id", kill(KillTarget::Id("0-17".into()), None, KillHow::Restart)),
        (
            "session.kill.common_name",
            kill(KillTarget::CommonName("alice".into()), Some("moved"), KillHow::Halt),
        ),
        ("session.kill.username", kill(KillTarget::Username("alice".into()), None, KillHow::AuthFailed)),
        ("token.list", Request::TokenList(TokenList::default())),
        (
            "token.list.page",
            Request::TokenList(TokenList {
                user: Some("alice".into()),
                limit: 10,
                after: Some("c42".into()),
            }),
        ),
        ("token.revoke.id", revoke(RevokeTarget::Id("5f2a".into()), None)),
        ("token.revoke.session_id", revoke(RevokeTarget::SessionId("AAECAwQFBgcICQoL".into()), None)),
        ("token.revoke.username", revoke(RevokeTarget::Username("alice".into()), None)),
        ("token.revoke.certificate", revoke(RevokeTarget::Certificate(fingerprint()), None)),
        ("token.revoke.everything", revoke(RevokeTarget::Everything, Some(NOW.0))),
        ("token.rotate_secret", Request::TokenRotateSecret(Empty {})),
        ("user.add", Request::UserAdd(UserAdd { name: "alice".into(), password: None, otp: None })),
        (
            "user.add.full",
            Request::UserAdd(UserAdd {
                name: "alice".into(),
                password: Some("correct horse".to_owned().into()),
                otp: Some(OtpKind::Totp),
            }),
        ),
        ("user.list", Request::UserList(Empty {})),
        ("user.remove", Request::UserRemove(name("alice"))),
        ("user.otp", Request::UserOtp(UserOtp { name: "alice".into(), otp: OtpSetting::Hotp })),
        ("user.otp.none", Request::UserOtp(UserOtp { name: "alice".into(), otp: OtpSetting::None })),
        (
            "user.password",
            Request::UserPassword(UserPassword {
                name: "alice".into(),
                password: Some("correct horse".to_owned().into()),
            }),
        ),
        ("user.lock", Request::UserLock(name("alice"))),
        ("user.unlock", Request::UserUnlock(name("alice"))),
        ("status", Request::Status(Empty {})),
        ("metrics", Request::Metrics(Empty {})),
    ];
    for (name, request) in cases {
        let line = request.line().unwrap();
        compare(&format!("request.{name}"), &line);
        assert!(name.starts_with(request.method()), "{name}");
        let back = Request::parse(&line).unwrap();
        assert_eq!(format!("{back:?}"), format!("{request:?}"));
        assert_eq!(*back.line().unwrap(), *line);
    }
}

#[test]
fn answers_are_as_documented() {
    let cases = [
        ("sessions", Ok(Response::Sessions(vec![session(), newcomer()]))),
        ("sessions.none", Ok(Response::Sessions(vec![]))),
        ("tokens", Ok(Response::Tokens { tokens: vec![token(), generated()], next: Some("c42".into()) })),
        ("users", Ok(Response::Users(vec![user(), locked()]))),
        ("changes", Ok(Response::Changes(Changes { sessions: 2, tokens: 3, users: 1 }))),
        (
            "credentials",
            Ok(Response::Credentials(Credentials {
                name: "alice".into(),
                password: Some("k7Qm-w2Rt".to_owned().into()),
                otp: Some(OtpProvisioning {
                    kind: OtpKind::Totp,
                    secret: "JBSWY3DPEHPK3PXP".to_owned().into(),
                    uri: "otpauth://totp/Tessera:alice?secret=JBSWY3DPEHPK3PXP&issuer=Tessera"
                        .to_owned()
                        .into(),
                }),
            })),
        ),
        (
            "credentials.none",
            Ok(Response::Credentials(Credentials { name: "alice".into(), password: None, otp: None })),
        ),
        (
            "rotation",
            Ok(Response::Rotation(Rotation { secrets: 2, file: Some("/etc/tessera/auth-token.key".into()) })),
        ),
        ("status", Ok(Response::Status(Box::new(status())))),
        ("metrics", Ok(Response::Metrics("# TYPE tessera_clients gauge\ntessera_clients 2\n".into()))),
        ("error", Err(ApiError::not_found("no session has the id '0-17'"))),
    ];
    for (name, result) in cases {
        let lines: Vec<_> = Reply::lines(NOW, result).map(Result::unwrap).collect();
        assert_eq!(lines.len(), 1, "{name}");
        compare(&format!("response.{name}"), &lines[0]);
        let back = Reply::parse(&lines[0]).unwrap();
        assert_eq!((back.now, back.more), (NOW, false));
        assert_eq!(*back.to_json(false).unwrap(), *lines[0], "{name}");
    }
}

#[test]
fn error_codes_are_as_documented() {
    use ErrorCode::*;
    let codes = [
        BadRequest,
        UnsupportedVersion,
        UnknownMethod,
        TooLarge,
        Forbidden,
        NotFound,
        Exists,
        Refused,
        Busy,
        Timeout,
        Unavailable,
        Internal,
    ];
    let words = "bad_request unsupported_version unknown_method too_large forbidden not_found exists refused busy \
                 timeout unavailable internal";
    for (code, word) in codes.iter().zip(words.split_whitespace()) {
        assert_eq!(serde_json::to_value(code).unwrap(), word);
        assert_eq!(serde_json::from_value::<ErrorCode>(word.into()).unwrap(), *code);
    }
    assert_eq!(codes.len(), words.split_whitespace().count());
    assert_eq!(serde_json::from_value::<ErrorCode>("of_tomorrow".into()).unwrap(), Unknown);
}

#[test]
fn long_lists_come_in_parts_and_end_once() {
    let sessions: Vec<_> =
        (0..2 * ENTRIES_PER_LINE + 1).map(|id| Session { id: id.to_string(), ..session() }).collect();
    let replies: Vec<_> = Reply::lines(NOW, Ok(Response::Sessions(sessions.clone())))
        .map(|line| Reply::parse(&line.unwrap()).unwrap())
        .collect();
    assert_eq!(replies.iter().map(|reply| reply.more).collect::<Vec<_>>(), [true, true, false]);
    let mut parts = replies.into_iter().map(|reply| reply.result.unwrap());
    let mut whole = parts.next().unwrap();
    for part in parts {
        assert!(whole.extend(part));
    }
    assert!(!whole.extend(Response::Users(vec![])));
    assert!(matches!(whole, Response::Sessions(list) if list == sessions));

    let tokens = vec![token(); ENTRIES_PER_LINE + 1];
    let replies: Vec<_> = Reply::lines(NOW, Ok(Response::Tokens { tokens, next: Some("c".into()) }))
        .map(|line| Reply::parse(&line.unwrap()).unwrap())
        .collect();
    let nexts: Vec<_> = replies
        .iter()
        .map(|reply| match &reply.result {
            Ok(Response::Tokens { tokens, next }) => (tokens.len(), next.as_deref(), reply.more),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(nexts, [(ENTRIES_PER_LINE, None, true), (1, Some("c"), false)]);
    assert_eq!(Reply::lines(NOW, Ok(Response::Users(vec![user(); ENTRIES_PER_LINE]))).count(), 1);
}

#[test]
fn answers_of_other_times_are_told() {
    let other = r#"{"api_version":2,"gone":1}"#;
    assert_eq!(
        Reply::parse(other.as_bytes()).unwrap_err(),
        "the gateway speaks version 2 of the contract, not 1"
    );
    let newer = r#"{"api_version":1,"now":{"unix":1,"zone":"x"},"mood":"fine","changes":{"sessions":1,"tokens":0,"users":0,"moods":1}}"#;
    let reply = Reply::parse(newer.as_bytes()).unwrap();
    assert!(matches!(reply.result, Ok(Response::Changes(Changes { sessions: 1, .. }))));
    let empty = r#"{"api_version":1,"now":{"unix":1}}"#;
    assert!(Reply::parse(empty.as_bytes()).unwrap_err().contains("without a content"));
    assert!(Reply::parse(b"HTTP/1.1 200 OK").unwrap_err().starts_with("not an answer"));
}

#[test]
fn filters_are_all_met_or_none() {
    let mapped = Session { real_address: "[::ffff:198.51.100.7]:4500".parse().unwrap(), ..session() };
    let filter = SessionFilter { real_address: Some("198.51.100.7".parse().unwrap()), ..Default::default() };
    assert!(filter.matches(&session()) && filter.matches(&mapped));
    let both = SessionFilter { username: Some("bob".into()), ..filter };
    assert!(!both.matches(&session()));
    let inside = |address: &str| SessionFilter {
        virtual_address: Some(address.parse().unwrap()),
        ..Default::default()
    };
    assert!(inside("10.8.0.2").matches(&session()) && inside("fd00::2").matches(&session()));
    assert!(!inside("10.8.0.3").matches(&session()) && !inside("fd00::3").matches(&session()));
    assert!(!inside("10.8.0.2").matches(&newcomer()));
    assert!(SessionFilter::default().matches(&newcomer()));
}

/// Compares a line with its file, or writes the file.
fn compare(name: &str, line: &[u8]) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/contract/{name}.json"));
    let found: Value = serde_json::from_slice(line).unwrap();
    if std::env::var_os("TESSERA_BLESS").is_some() {
        let text = serde_json::to_string_pretty(&found).unwrap() + "\n";
        std::fs::write(&path, text).unwrap();
    }
    let text = std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let wanted: Value = serde_json::from_slice(&text).unwrap();
    assert_eq!(found, wanted, "{name}");
}

fn fingerprint() -> Fingerprint {
    Fingerprint(std::array::from_fn(|at| at as u8))
}

fn session() -> Session {
    Session {
        id: "0-17".into(),
        state: SessionState::Connected,
        common_name: "alice".into(),
        username: "alice".into(),
        peer_id: Some(4),
        real_address: "198.51.100.7:4500".parse().unwrap(),
        virtual_address: Some("10.8.0.2".parse().unwrap()),
        virtual_ipv6_address: Some("fd00::2".parse().unwrap()),
        iroutes: vec!["192.0.2.0/24".into()],
        connected_since: Moment(NOW.0 - 3600),
        bytes_received: 1_234_567,
        bytes_sent: 7_654_321,
        cipher: Some("AES-256-GCM".into()),
        token: TokenOfSession {
            kind: TokenKind::Generated,
            session_id: Some("AAECAwQFBgcICQoL".into()),
            issued: Some(Moment(NOW.0 - 3600)),
            expires: Some(Moment(NOW.0 + 3600)),
        },
        certificate_fingerprint: Some(fingerprint()),
        client_version: Some("2.6.14".into()),
        client_platform: Some("linux".into()),
        peer_info: BTreeMap::from([("IV_VER".into(), "2.6.14".into())]),
    }
}

fn newcomer() -> Session {
    Session {
        id: "1-3".into(),
        state: SessionState::Authenticating,
        common_name: String::new(),
        username: String::new(),
        peer_id: None,
        real_address: "[2001:db8::7]:1194".parse().unwrap(),
        virtual_address: None,
        virtual_ipv6_address: None,
        iroutes: vec![],
        connected_since: NOW,
        bytes_received: 0,
        bytes_sent: 0,
        cipher: None,
        token: TokenOfSession::default(),
        certificate_fingerprint: None,
        client_version: None,
        client_platform: None,
        peer_info: BTreeMap::new(),
    }
}

fn token() -> Token {
    Token {
        id: "5f2a".into(),
        kind: TokenKind::Pushed,
        state: TokenState::Valid,
        username: "alice".into(),
        common_name: "alice".into(),
        certificate_fingerprint: Some(fingerprint()),
        session_id: None,
        issued: Moment(NOW.0 - 60),
        expires: Moment(NOW.0 + 60),
    }
}

fn generated() -> Token {
    Token {
        id: "5f2b".into(),
        kind: TokenKind::Generated,
        state: TokenState::Revoked,
        certificate_fingerprint: None,
        session_id: Some("AAECAwQFBgcICQoL".into()),
        ..token()
    }
}

fn user() -> User {
    User {
        name: "alice".into(),
        in_auth_file: true,
        otp: Some(OtpKind::Totp),
        locked: false,
        locked_out_until: Some(Moment(NOW.0 + 30)),
        created: Some(Moment(NOW.0 - 86_400)),
    }
}

fn locked() -> User {
    User {
        name: "bob".into(),
        in_auth_file: false,
        otp: None,
        locked: true,
        locked_out_until: None,
        created: None,
    }
}

fn status() -> Status {
    Status {
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
            kinds: vec![HookKindStats {
                kind: "client-connect".into(),
                runs: 10,
                failures: 1,
                timeouts: 0,
                total_ms: 2500,
            }],
        },
        tokens: TokenCacheStats {
            entries: 2,
            capacity: 262_144,
            inserted: 3,
            valid: 5,
            ..Default::default()
        },
        store: Some(StoreStats {
            path: "/var/lib/tessera/tokens".into(),
            healthy: false,
            bytes: 4096,
            records: 2,
            pending: 1,
            written: 3,
            failed: 1,
            dropped: 0,
            last_error: Some("No space left on device".into()),
        }),
        plugins: vec![PluginStats {
            file: "/usr/lib/openvpn/openvpn-plugin-auth-pam.so".into(),
            state: PluginState::Running,
            pid: Some(4712),
            restarts: 0,
            calls: 7,
            failures: 2,
            timeouts: 0,
        }],
    }
}
