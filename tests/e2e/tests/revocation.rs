//! Tokens, sessions and users that an operator ends: at once, and for good.
//!
//! ```text
//!   tessera ── token revoke, session kill, user lock ──► gateway ──✗ client 0
//! ```

use std::time::Duration;

use tessera_e2e::harness::{Cli, Client, Server, ServerConfig, Version, eventually, pause, ping, ping_fails};
use tessera_e2e::{PASSWORD, Site};

const SOON: Duration = Duration::from_secs(30);
/// A second, and what a busy machine adds.
const AT_ONCE: Duration = Duration::from_millis(2500);
const USER: &str = "user-0";

tessera_e2e::stock_clients!(
    tesserad_only_revoked_tokens,
    tesserad_only_locked_user,
    tesserad_only_killed_session,
    tesserad_only_locked_while_it_renegotiates,
    tesserad_only_rotated_secret
);

fn controlled(site: &Site) -> (ServerConfig, Cli) {
    let cli = Cli::new(&site.net);
    let (config, _) = site.token_server("0");
    let store = site.net.folder().join("store");
    std::fs::create_dir_all(&store).expect("a folder for the store");
    (config.own("control-socket", cli.socket()).own("store", store.to_str().expect("a UTF-8 path")), cli)
}

/// The session is over within a second: the gateway has none, and the client-disconnect hook was called.
fn gone(site: &Site, cli: &Cli) {
    site.hooks.wait("disconnect", 1, AT_ONCE);
    eventually("the end of the session", AT_ONCE, || cli.sessions().is_empty().then_some(()));
}

fn tesserad_only_revoked_tokens(version: Version) {
    let site = Site::new(1);
    let (config, cli) = controlled(&site);
    let _server = Server::start(&site.net, &config);
    let mut client = site.login_client(0, version).connect(&site.net, 0);
    client.reconnect();
    assert_eq!(site.passwords_seen(), [PASSWORD]);
    let mark = client.process.mark();
    let before = site.hooks.calls("disconnect").len();
    cli.run(&format!("token revoke --user {USER}"));
    site.hooks.wait("disconnect", before + 1, AT_ONCE);
    // The token is dead; the password is not.
    client.wait_up_from(mark);
    assert_eq!(site.passwords_seen(), [PASSWORD, PASSWORD]);
    client.reconnect();
    assert_eq!(site.passwords_seen().len(), 2, "a token that was made after the revocation is good");
}

fn tesserad_only_locked_user(version: Version) {
    let site = Site::new(1);
    let (config, cli) = controlled(&site);
    let _server = Server::start(&site.net, &config);
    let mut client = site.login_client(0, version).connect(&site.net, 0);
    ping(&site.net.clients[0], "192.168.77.2");
    cli.run(&format!("user lock {USER}"));
    gone(&site, &cli);
    ping_fails(&site.net.clients[0], "192.168.77.2");
    client.process.stop();
    let mut client = site.login_client(0, version).start(&site.net, 0);
    client.process.wait_for(&["AUTH_FAILED"], SOON);
    refused(&client);
    cli.run(&format!("user unlock {USER}"));
    let _client = site.login_client(0, version).connect(&site.net, 0);
}

fn refused(client: &Client) {
    assert!(!client.process.logged(&["PUSH_REPLY"]), "something was pushed to a client that is not let in");
}

/// A session that is ended, and no more, comes back by its token.
fn tesserad_only_killed_session(version: Version) {
    let site = Site::new(1);
    let (config, cli) = controlled(&site);
    let _server = Server::start(&site.net, &config);
    let mut client = site.login_client(0, version).connect(&site.net, 0);
    let ids = cli.sessions();
    assert_eq!(ids.len(), 1);
    let mark = client.process.mark();
    cli.run(&format!("session kill {}", ids[0]));
    site.hooks.wait("disconnect", 1, AT_ONCE);
    client.wait_up_from(mark);
    assert_eq!(site.passwords_seen(), [PASSWORD], "the token is still good");
    pause(Duration::from_secs(2));
    assert_eq!(site.hooks.calls("disconnect").len(), 1);
    assert_ne!(cli.sessions(), ids, "a session of its own");
}

/// The hook is being asked about a renegotiation while the user is locked. Its late yes changes nothing.
fn tesserad_only_locked_while_it_renegotiates(version: Version) {
    let site = Site::new(1);
    let cli = Cli::new(&site.net);
    let body = "[ -e \"$0.slow\" ] && sleep 5; exit 0";
    let verify = site.hooks.script("verify", body);
    let config = site.hooked_server(&verify).own("control-socket", cli.socket());
    let _server = Server::start(&site.net, &config);
    let client = site.login_client(0, version).line("reneg-sec 5").connect(&site.net, 0);
    ping(&site.net.clients[0], "192.168.77.2");
    std::fs::write(format!("{verify}.slow"), "").expect("a file beside the hook");
    site.hooks.wait("verify", 2, SOON);
    cli.run(&format!("user lock {USER}"));
    gone(&site, &cli);
    let mark = client.process.mark();
    pause(Duration::from_secs(8));
    assert!(cli.sessions().is_empty(), "the client has slipped back in");
    ping_fails(&site.net.clients[0], "192.168.77.2");
    let after = client.process.log();
    assert!(
        !after.get(mark..).unwrap_or_default().contains("PUSH_REPLY"),
        "something was pushed after the lock"
    );
    assert_eq!(site.hooks.calls("disconnect").len(), 1);
}

/// A new secret makes tokens from now on; those of the old one work until they end, also after a restart.
fn tesserad_only_rotated_secret(version: Version) {
    let site = Site::new(1);
    let (config, cli) = controlled(&site);
    let mut server = Server::start(&site.net, &config);
    let mut client = site.login_client(0, version).connect(&site.net, 0);
    let answer = cli.run("token rotate-secret");
    assert_eq!(answer["rotation"]["secrets"], 2, "{answer}");
    client.reconnect();
    ping(&site.net.clients[0], "192.168.77.2");
    server.process.stop();
    let _server = Server::start(&site.net, &config);
    client.reconnect();
    ping(&site.net.clients[0], "192.168.77.2");
    assert_eq!(site.passwords_seen(), [PASSWORD]);
}
