//! `auth-gen-token`: the gateway makes the token, renews it, and answers for it by itself.
//!
//! ```text
//!   client 0 ── password ──► verify hook (once) ──► PUSH_REPLY,…,auth-token T0
//!       └── T0 at renegotiation ──► gateway ──► PUSH_REPLY,auth-token T1
//!       └── T1 at SIGUSR1, after a restart ──► gateway, while the lifetime lasts
//! ```

use std::time::Duration;

use tessera_e2e::harness::{AuthToken, Deadline, Server, Version, pause, ping};
use tessera_e2e::{OurClient, Outcome, PASSWORD, Site};

const SOON: Duration = Duration::from_secs(30);

tessera_e2e::stock_clients!(
    renegotiates,
    reconnects,
    renewed_by_the_clock,
    tesserad_only_names_the_user,
    lifetime_ends,
    secret_outlives_the_process,
    random_secret_dies_with_the_process
);

fn renegotiates(version: Version) {
    let site = Site::new(1);
    let (config, _) = site.token_server("0");
    let server = Server::start(&site.net, &config);
    let mut client = site.login_client(0, version).line("reneg-sec 5").connect(&site.net, 0);
    for round in 1..=3 {
        client.wait_negotiations(1 + round, SOON);
        ping(&site.net.clients[0], "192.168.77.2");
    }
    let renewed = "'PUSH_REPLY,auth-token";
    client.process.wait_for(&[renewed], SOON);
    assert!(client.process.count(renewed) >= 2, "each renegotiation brings a renewed token");
    assert_eq!(
        site.passwords_seen(),
        [PASSWORD],
        "the hook is asked about the password, never about a token"
    );
    assert_eq!(site.hooks.calls("connect").len(), 1);
    assert!(!client.process.logged(&["AUTH_FAILED"]));
    assert!(!server.process.log().contains("SESS_ID_AT_"), "a token is in the gateway's log");
}

/// A renewal time below the time between renegotiations: renewed tokens come by themselves.
fn renewed_by_the_clock(version: Version) {
    let site = Site::new(1);
    // The renewal time may not be less than twice the handshake window.
    let (config, _) = site.token_server("0 8");
    let _server = Server::start(&site.net, &config.line("hand-window 4"));
    let mut client = site.login_client(0, version).line("reneg-sec 0").connect(&site.net, 0);
    client.process.wait_for(&["'PUSH_REPLY,auth-token"], SOON);
    // Without renewal a token lives for two renewal times.
    pause(Duration::from_secs(18));
    client.reconnect();
    assert_eq!(site.passwords_seen(), [PASSWORD], "a renewed token is as good as new");
    assert!(!client.process.logged(&["AUTH_FAILED"]));
}

fn reconnects(version: Version) {
    let site = Site::new(1);
    let (config, _) = site.token_server("0");
    let _server = Server::start(&site.net, &config);
    let mut client = site.login_client(0, version).connect(&site.net, 0);
    for _ in 0..2 {
        client.reconnect();
        ping(&site.net.clients[0], "192.168.77.2");
    }
    assert_eq!(site.passwords_seen(), [PASSWORD]);
    assert_eq!(site.hooks.calls("connect").len(), 3);
}

/// The user's name goes along in base64: the token is of use only with it.
fn tesserad_only_names_the_user(version: Version) {
    let site = Site::new(1);
    let (config, _) = site.token_server("0");
    let _server = Server::start(&site.net, &config);
    let client = site.login_client(0, version).connect(&site.net, 0);
    assert_eq!(client.pushed("auth-token-user").as_deref(), Some("dXNlci0w"));
}

fn lifetime_ends(version: Version) {
    let site = Site::new(1);
    let (config, _) = site.token_server("8");
    let _server = Server::start(&site.net, &config);
    let mut client = site.login_client(0, version).line("reneg-sec 5").connect(&site.net, 0);
    let mark = client.process.mark();
    client.process.wait_from(mark, &["AUTH_FAILED,SESSION: token expired"], SOON);
    // The client drops the token and logs in with the password it still knows.
    client.wait_up_from(mark);
    assert_eq!(site.passwords_seen(), [PASSWORD, PASSWORD], "the password again, and never a token");
    ping(&site.net.clients[0], "192.168.77.2");
}

fn secret_outlives_the_process(version: Version) {
    let site = Site::new(1);
    let (config, _) = site.token_server("0");
    restart(&site, &config.line("explicit-exit-notify 1"), version);
    assert_eq!(site.passwords_seen(), [PASSWORD], "the token is good at the next process too");
}

fn random_secret_dies_with_the_process(version: Version) {
    let site = Site::new(1);
    let (config, _) = site.token_server("0");
    restart(&site, &config.without("auth-gen-token-secret").line("explicit-exit-notify 1"), version);
    assert_eq!(site.passwords_seen(), [PASSWORD, PASSWORD], "the password once more");
}

/// A renewal does not end the token before it at once, so that a client which missed the renewal is not lost: it is good
/// until two renewal times are over, and then no more, although its session still lives with a newer one.
#[test]
fn tesserad_only_previous_generation() {
    const RENEWAL: Duration = Duration::from_secs(8);
    let site = Site::new(1);
    let (config, key) = site.token_server("0 8");
    let config = config.line("hand-window 4").line("duplicate-cn");
    let _server = Server::start(&site.net, &config);
    let client = OurClient::new(&site, 0, &site.identity(0));
    let (mut session, outcome) = client.login(&site, "user-0", PASSWORD, SOON);
    assert_eq!(outcome, Outcome::In);
    let first = session.token();
    let age = Deadline::after(2 * RENEWAL);
    while session.token() == first && !age.passed() {
        session.run(Duration::from_millis(200));
    }
    let second = session.token();
    assert_ne!(first, second, "no renewal");
    let [old, new] = [&first, &second].map(|token| AuthToken::verify(token, &key, "user-0"));
    assert_eq!((old.session, old.first_login), (new.session, new.first_login));
    assert!(old.renewed < new.renewed);
    let try_with = |token: &str| client.login(&site, "user-0", token, SOON);
    let (again, outcome) = try_with(&first);
    assert_eq!(outcome, Outcome::In, "the previous token, {:?} old", age.elapsed());
    assert!(age.elapsed() < 2 * RENEWAL - Duration::from_secs(2), "the machine is too slow for this test");
    again.leave();
    session.run(age.left() + Duration::from_secs(2));
    let (_refused, outcome) = try_with(&first);
    assert_eq!(outcome, Outcome::Refused("SESSION: token expired".to_owned()), "the previous token, too old");
    let newest = session.token();
    let (again, outcome) = try_with(&newest);
    assert_eq!(outcome, Outcome::In, "the session's newest token");
    again.leave();
    assert!(session.renegotiate(SOON), "the session's own token was refused: {:?}", session.decided());
    session.leave();
    assert_eq!(site.passwords_seen(), [PASSWORD], "the hook was asked about a token");
}

/// Login, the gateway is stopped and started again, the client comes back by itself.
fn restart(site: &Site, config: &tessera_e2e::harness::ServerConfig, version: Version) {
    let mut server = Server::start(&site.net, config);
    let mut client = site.login_client(0, version).connect(&site.net, 0);
    let mark = client.process.mark();
    server.process.stop();
    pause(Duration::from_secs(1));
    let _server = Server::start(&site.net, config);
    client.wait_up_from(mark);
    ping(&site.net.clients[0], "192.168.77.2");
}
