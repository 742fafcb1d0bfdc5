//! Tokens that the gateway never saw before: made with its secret, forged, of others, cut.
//!
//! ```text
//!   test ── secret ──► token ── client 0 sends it as its password ──► gateway │ verify hook not asked
//! ```

use std::time::Duration;

use tessera_e2e::harness::{
    AuthToken, Client, Server, ServerConfig, TokenKey, Version, genkey, ping, unix_time,
};
use tessera_e2e::{PASSWORD, Site};

const SOON: Duration = Duration::from_secs(20);
/// The user of client 0.
const USER: &str = "user-0";

tessera_e2e::stock_clients!(
    of_another_gateway,
    outside_its_window,
    of_a_past_lifetime,
    of_another_user,
    of_another_secret,
    of_nobody,
    changed,
    tesserad_only_password_with_the_prefix,
    tesserad_only_clocks_apart
);

/// A token that was renewed `age` seconds ago, and first issued 100 s before.
fn aged(age: u64) -> AuthToken {
    let renewed = unix_time() - age;
    AuthToken { session: *b"minted-here!", first_login: renewed - 100, renewed }
}

fn with_password(site: &Site, version: Version, password: &str) -> Client {
    site.client(0, version).login(&site.net, USER, password).start(&site.net, 0)
}

/// The token is refused, in these words; the hook is not asked; a password still gets in.
fn refused(site: &Site, config: &ServerConfig, version: Version, token: &str, words: &str) {
    let _server = Server::start(&site.net, config);
    let mut client = with_password(site, version, token);
    client.process.wait_for(&[words], SOON);
    assert!(!client.process.logged(&["PUSH_REPLY"]), "something was pushed to a client that is not let in");
    drop(client);
    assert!(site.passwords_seen().is_empty(), "the hook was asked about a token");
    assert!(site.hooks.calls("connect").is_empty(), "client-connect ran for a client that is not let in");
    drop(site.login_client(0, version).connect(&site.net, 0));
    assert_eq!(site.passwords_seen(), [PASSWORD]);
}

fn of_another_gateway(version: Version) {
    let site = Site::new(1);
    let (config, key) = site.token_server("0");
    let _server = Server::start(&site.net, &config);
    let mut client = with_password(&site, version, &aged(60).sign(&key, USER));
    client.wait_up();
    ping(&site.net.clients[0], "192.168.77.2");
    client.reconnect();
    assert!(site.passwords_seen().is_empty(), "the hook was asked about a token");
}

/// Not renewed for two renewal times.
fn outside_its_window(version: Version) {
    let site = Site::new(1);
    let (config, key) = site.token_server("0");
    let token = aged(500).sign(&key, USER);
    refused(&site, &config.line("reneg-sec 200"), version, &token, "AUTH_FAILED,SESSION: token expired");
}

fn of_a_past_lifetime(version: Version) {
    let site = Site::new(1);
    let (config, key) = site.token_server("90");
    let token = aged(0).sign(&key, USER);
    refused(&site, &config, version, &token, "AUTH_FAILED,SESSION: token expired");
}

fn of_another_user(version: Version) {
    let site = Site::new(1);
    let (config, key) = site.token_server("0");
    refused(&site, &config, version, &aged(0).sign(&key, "user-1"), "AUTH_FAILED");
}

fn of_another_secret(version: Version) {
    let site = Site::new(1);
    let (config, _) = site.token_server("0");
    let other = TokenKey::read(&genkey(&site.net, "auth-token", "other.key", None));
    refused(&site, &config, version, &aged(0).sign(&other, USER), "AUTH_FAILED");
}

/// Signed without a name. Only a script may decide about it, and there is none that is asked.
fn of_nobody(version: Version) {
    let site = Site::new(1);
    let (config, key) = site.token_server("0");
    refused(&site, &config, version, &aged(0).sign(&key, ""), "AUTH_FAILED");
}

/// One letter of the time of renewal.
fn changed(version: Version) {
    let site = Site::new(1);
    let (config, key) = site.token_server("0");
    let mut token = aged(0).sign(&key, USER).into_bytes();
    // Far up in the time of renewal, where a token of today has zeros.
    let letter = &mut token["SESS_ID_AT_".len() + 30];
    *letter = if *letter == b'A' { b'B' } else { b'A' };
    let token = String::from_utf8(token).expect("still ASCII");
    refused(&site, &config, version, &token, "AUTH_FAILED");
}

/// What is no token by its form is a password, whatever it begins with: the hook decides.
fn tesserad_only_password_with_the_prefix(version: Version) {
    let site = Site::new(1);
    let (config, key) = site.token_server("0");
    let _server = Server::start(&site.net, &config);
    let token = aged(0).sign(&key, USER);
    let words = [
        "SESS_ID_AT_".to_owned(),
        "SESS_ID_AT_ and more".to_owned(),
        token[..token.len() - 1].to_owned(),
        format!("{token}AAAA"),
        token.replace(|c: char| c.is_ascii_digit(), "!"),
    ];
    for word in &words {
        let mut client = with_password(&site, version, word);
        client.process.wait_for(&["AUTH_FAILED"], SOON);
    }
    // The last has a token's form: it is one that nobody has signed, and no hook is asked about it.
    assert_eq!(site.passwords_seen(), words[..4]);
    let odd = &words[1];
    site.accepting(&[odd]);
    with_password(&site, version, odd).wait_up();
}

/// Gateways whose clocks differ by seconds take each other's tokens. A token from far ahead says that a clock is wrong,
/// which is not the client's fault: it shall keep the token and come again.
fn tesserad_only_clocks_apart(version: Version) {
    let site = Site::new(1);
    let (config, key) = site.token_server("0");
    let _server = Server::start(&site.net, &config);
    let now = unix_time();
    let ahead =
        |seconds| AuthToken { session: *b"minted-here!", first_login: now + seconds, renewed: now + seconds };
    with_password(&site, version, &ahead(20).sign(&key, USER)).wait_up();
    let mut client = with_password(&site, version, &ahead(120).sign(&key, USER));
    client.process.wait_for(&["AUTH_FAILED,TEMP"], SOON);
    assert!(!client.process.logged(&["PUSH_REPLY"]), "something was pushed to a client that is not let in");
    assert!(site.passwords_seen().is_empty(), "the hook was asked about a token");
}
