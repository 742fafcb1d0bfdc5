//! The token that client-connect pushes takes the password's place.
//!
//! ```text
//!   client 0 ── password ──► verify hook ── connect hook ──► push "auth-token T"
//!       └────── T at renegotiation, at SIGUSR1, after a restart ──► verify hook
//! ```

use std::time::Duration;

use tessera_e2e::harness::{Client, Server, ServerConfig, Version, pause, ping};
use tessera_e2e::{PASSWORD, Site, TOKEN};

const SOON: Duration = Duration::from_secs(25);

tessera_e2e::stock_clients!(
    client_renegotiates,
    server_renegotiates,
    rejected_at_renegotiation,
    reconnect_after_sigusr1,
    restart_of_the_gateway,
    tesserad_only_cache,
    tesserad_only_expired_in_the_cache
);

fn client_renegotiates(version: Version) {
    let site = Site::new(1);
    let _server = Server::start(&site.net, &site.login_server().line("reneg-sec 0"));
    let mut client = site.login_client(0, version).line("reneg-sec 5").connect(&site.net, 0);
    assert_renegotiated(&site, &mut client);
    assert!(!_server.process.log().contains(TOKEN), "the token is in the gateway's log");
}

fn server_renegotiates(version: Version) {
    let site = Site::new(1);
    let _server = Server::start(&site.net, &site.login_server().line("reneg-sec 5"));
    let mut client = site.login_client(0, version).line("reneg-sec 0").connect(&site.net, 0);
    assert_renegotiated(&site, &mut client);
}

/// Three renegotiations with the token, traffic after each, client-connect not called again.
fn assert_renegotiated(site: &Site, client: &mut Client) {
    assert_eq!(site.passwords_seen(), [PASSWORD]);
    for round in 1..=3 {
        client.wait_negotiations(1 + round, SOON);
        let calls = site.hooks.wait("verify", 1 + round, SOON);
        assert_eq!(calls[round].file.as_deref(), Some(format!("user-0\n{TOKEN}\n").as_str()));
        ping(&site.net.clients[0], "192.168.77.2");
    }
    assert_eq!(site.hooks.calls("connect").len(), 1, "client-connect runs once per connection");
    assert!(!client.process.logged(&["AUTH_FAILED"]));
}

fn rejected_at_renegotiation(version: Version) {
    let site = Site::new(1);
    let _server = Server::start(&site.net, &site.login_server().line("reneg-sec 0"));
    let mut client = site.login_client(0, version).line("reneg-sec 6").connect(&site.net, 0);
    ping(&site.net.clients[0], "192.168.77.2");
    site.accepting(&[PASSWORD]);
    let mark = client.process.mark();
    client.process.wait_from(mark, &["AUTH_FAILED"], SOON);
    // The client drops the token and logs in with the password it still knows.
    client.wait_up_from(mark);
    let seen = site.passwords_seen();
    assert_eq!(seen.first().map(String::as_str), Some(PASSWORD));
    assert!(seen[1..].iter().any(|word| word == TOKEN), "the token was asked about: {}", seen.len());
    assert_eq!(seen.last().map(String::as_str), Some(PASSWORD));
    site.hooks.wait("disconnect", 1, SOON);
    assert_eq!(site.hooks.calls("connect").len(), 2);
    ping(&site.net.clients[0], "192.168.77.2");
}

fn reconnect_after_sigusr1(version: Version) {
    let site = Site::new(1);
    let _server = Server::start(&site.net, &site.login_server());
    let mut client = site.login_client(0, version).connect(&site.net, 0);
    client.reconnect();
    assert_eq!(site.passwords_seen(), [PASSWORD, TOKEN]);
    ping(&site.net.clients[0], "192.168.77.2");
}

fn restart_of_the_gateway(version: Version) {
    let site = Site::new(1);
    let config = site.login_server().line("explicit-exit-notify 1");
    let mut server = Server::start(&site.net, &config);
    let mut client = site.login_client(0, version).connect(&site.net, 0);
    ping(&site.net.clients[0], "192.168.77.2");
    let mark = client.process.mark();
    server.process.stop();
    pause(Duration::from_secs(1));
    let _server = Server::start(&site.net, &config);
    client.wait_up_from(mark);
    let seen = site.passwords_seen();
    assert_eq!(seen.first().map(String::as_str), Some(PASSWORD));
    assert!(
        seen.len() >= 2 && seen[1..].iter().all(|word| word == TOKEN),
        "only the token after the restart"
    );
    ping(&site.net.clients[0], "192.168.77.2");
}

/// `token-verify cache`: the gateway answers for the token by itself, and the hook is not asked.
fn tesserad_only_cache(version: Version) {
    let site = Site::new(1);
    let config: ServerConfig = site.login_server().own("token-verify", "cache").line("reneg-sec 0");
    let _server = Server::start(&site.net, &config);
    let mut client = site.login_client(0, version).line("reneg-sec 5").connect(&site.net, 0);
    client.wait_negotiations(3, SOON);
    client.reconnect();
    ping(&site.net.clients[0], "192.168.77.2");
    assert_eq!(site.passwords_seen(), [PASSWORD], "the hook is asked at the login only");
    assert!(!client.process.logged(&["AUTH_FAILED"]));
}

/// A token past its time is refused in the form that says so; the client falls back to the password it still knows.
fn tesserad_only_expired_in_the_cache(version: Version) {
    let site = Site::new(1);
    let config =
        site.login_server().own("token-verify", "cache").own("token-lifetime", "4").line("reneg-sec 0");
    let _server = Server::start(&site.net, &config);
    let mut client = site.login_client(0, version).line("reneg-sec 6").connect(&site.net, 0);
    let mark = client.process.mark();
    client.process.wait_from(mark, &["AUTH_FAILED,SESSION: token expired"], SOON);
    client.wait_up_from(mark);
    assert_eq!(site.passwords_seen(), [PASSWORD, PASSWORD], "the password again, and never the token");
    ping(&site.net.clients[0], "192.168.77.2");
}
