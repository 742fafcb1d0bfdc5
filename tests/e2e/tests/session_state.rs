//! `auth-gen-token … external-auth`: the gateway judges the token, tells the hook, and the hook decides.
//!
//! ```text
//!   client 0 ── password or token ──► gateway ── session_state, session_id ──► verify hook
//! ```

use std::time::Duration;

use tessera_e2e::harness::{AuthToken, Call, Server, TokenKey, Version, genkey, ping, unix_time};
use tessera_e2e::{PASSWORD, Site};

const SOON: Duration = Duration::from_secs(30);
const USER: &str = "user-0";

tessera_e2e::stock_clients!(
    renewed_by_the_hook,
    refused_by_the_hook,
    states,
    nameless_is_not_asked_about,
    tesserad_only_nameless_takes_no_name,
    without_external_auth
);

/// The hook takes the password, and tokens that the gateway calls good.
const JUDGE: &str = "case \"$session_state\" in Authenticated) exit 0;; Initial) ;; *) exit 1;; esac\n\
                     [ \"$(sed -n 2p \"$last\")\" = 'open sesame' ]";

fn password_of(call: &Call) -> &str {
    call.file.as_deref().and_then(|text| text.lines().nth(1)).expect("a file with user and password")
}

fn renewed_by_the_hook(version: Version) {
    let site = Site::new(1);
    let (config, key) = site.token_server("0 external-auth");
    site.hooks.script("verify", JUDGE);
    let _server = Server::start(&site.net, &config);
    let mut client = site.login_client(0, version).line("reneg-sec 5").connect(&site.net, 0);
    for round in 1..=2 {
        client.wait_negotiations(1 + round, SOON);
        // A stock client that has nothing else to do looks at the renewed token late.
        ping(&site.net.clients[0], "192.168.77.2");
    }
    let calls = site.hooks.wait("verify", 3, SOON);
    client.reconnect();
    ping(&site.net.clients[0], "192.168.77.2");
    let all = site.hooks.calls("verify");
    assert!(all.len() > calls.len(), "the hook is asked at a reconnect");
    assert_eq!(password_of(&all[0]), PASSWORD);
    assert_eq!(all[0].var("session_state"), "Initial");
    let mut last: Option<AuthToken> = None;
    for call in &all[1..] {
        assert_eq!(call.var("session_state"), "Authenticated");
        let token = AuthToken::verify(password_of(call), &key, USER);
        assert_eq!(call.var("session_id"), token.session_id());
        assert_eq!(call.var("session_id"), all[0].var("session_id"), "one session from its first login on");
        if let Some(last) = last {
            assert_eq!((last.session, last.first_login), (token.session, token.first_login));
            assert!(last.renewed <= token.renewed, "{last:?}, then {token:?}");
        }
        last = Some(token);
    }
    assert!(last.is_some_and(|token| token.renewed > token.first_login), "the token was renewed: {last:?}");
}

/// A good token is no more than an argument: the hook says no, and the client falls back to its password.
fn refused_by_the_hook(version: Version) {
    let site = Site::new(1);
    let (config, _) = site.token_server("0 external-auth");
    site.hooks.script("verify", "[ \"$session_state\" = Initial ]");
    let _server = Server::start(&site.net, &config);
    let mut client = site.login_client(0, version).line("reneg-sec 5").connect(&site.net, 0);
    let mark = client.process.mark();
    client.process.wait_from(mark, &["AUTH_FAILED"], SOON);
    client.wait_up_from(mark);
    let states: Vec<_> =
        site.hooks.calls("verify").iter().map(|call| call.var("session_state").to_owned()).collect();
    assert_eq!(states[..3], ["Initial", "Authenticated", "Initial"]);
}

/// Each state, with tokens made by the test. The hook lets all of them in.
fn states(version: Version) {
    let site = Site::new(1);
    let (config, key) = site.token_server("3000 external-auth");
    let verify = site.hooks.script("verify", "exit 0");
    let config =
        config.with("auth-user-pass-verify", &format!("{verify} via-file")).line("auth-user-pass-optional");
    let _server = Server::start(&site.net, &config);
    let now = unix_time();
    let good = AuthToken { session: *b"minted-here!", first_login: now - 60, renewed: now - 60 };
    let past_lifetime = AuthToken { first_login: now - 4000, ..good };
    let past_window = AuthToken { first_login: now - 9000, renewed: now - 9000, ..good };
    let other = TokenKey::read(&genkey(&site.net, "auth-token", "other.key", None));
    let cases = [
        ("Initial", PASSWORD.to_owned()),
        ("Authenticated", good.sign(&key, USER)),
        ("AuthenticatedEmptyUser", good.sign(&key, "")),
        ("Expired", past_lifetime.sign(&key, USER)),
        ("Expired", past_window.sign(&key, USER)),
        ("ExpiredEmptyUser", past_lifetime.sign(&key, "")),
        ("Invalid", good.sign(&other, USER)),
        ("Invalid", good.sign(&key, "user-1")),
    ];
    for (round, (state, password)) in cases.iter().enumerate() {
        let client = site.client(0, version).login(&site.net, USER, password).connect(&site.net, 0);
        let calls = site.hooks.calls("verify");
        assert_eq!(calls.len(), round + 1, "one question for each login");
        assert_eq!(calls[round].var("session_state"), *state);
        assert!(!calls[round].var("session_id").is_empty());
        if *state == "Authenticated" {
            assert_eq!(calls[round].var("session_id"), good.session_id());
        }
        drop(client);
    }
}

/// A token without a name leaves a login without a name, which the hook sees only where it may be missing.
fn nameless_is_not_asked_about(version: Version) {
    let site = Site::new(1);
    let (config, key) = site.token_server("0 external-auth");
    site.hooks.script("verify", "exit 0");
    let _server = Server::start(&site.net, &config);
    let now = unix_time();
    let token = AuthToken { session: *b"minted-here!", first_login: now, renewed: now }.sign(&key, "");
    let mut client = site.client(0, version).login(&site.net, USER, &token).start(&site.net, 0);
    client.process.wait_for(&["AUTH_FAILED"], SOON);
    assert!(site.hooks.calls("verify").is_empty(), "the hook was asked about nobody");
}

/// The hook that lets a token without a name in has not been told the name beside it: that name gets nobody's session.
fn tesserad_only_nameless_takes_no_name(version: Version) {
    let site = Site::new(1);
    let (config, key) = site.token_server("0 external-auth");
    let verify = site.hooks.script("verify", "exit 0");
    let connect = site.hooks.script("connect", "exit 0");
    let config = config
        .with("auth-user-pass-verify", &format!("{verify} via-file"))
        .with("client-connect", &connect)
        .line("auth-user-pass-optional")
        .line("username-as-common-name");
    let _server = Server::start(&site.net, &config);
    let now = unix_time();
    let token = AuthToken { session: *b"minted-here!", first_login: now, renewed: now };
    let named = site.client(0, version).login(&site.net, "boss", &token.sign(&key, "boss"));
    drop(named.connect(&site.net, 0));
    let nameless = site.client(0, version).login(&site.net, "boss", &token.sign(&key, ""));
    let _nameless = nameless.connect(&site.net, 0);
    let calls = site.hooks.calls("connect");
    assert_eq!(calls[0].var("common_name"), "boss");
    assert_ne!(calls[1].var("common_name"), "boss");
    assert_eq!(site.hooks.calls("verify")[1].var("session_state"), "AuthenticatedEmptyUser");
}

/// The variables are there as soon as tokens are.
fn without_external_auth(version: Version) {
    let site = Site::new(1);
    let (config, _) = site.token_server("0");
    let _server = Server::start(&site.net, &config);
    let _client = site.login_client(0, version).connect(&site.net, 0);
    let call = site.hooks.calls("verify").remove(0);
    assert_eq!(call.var("session_state"), "Initial");
    assert_eq!(call.var("session_id").len(), 16);
}
