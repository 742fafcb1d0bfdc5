//! A token belongs to its user, and with `token-bind certificate` to its certificate as well.
//!
//! ```text
//!   client 0 (alice) ── password ──► token T
//!   client 1 (bob's certificate or name) ── T ──✗ gateway
//! ```

use std::time::Duration;

use tessera_e2e::harness::{Server, Version, ping};
use tessera_e2e::{Site, TOKEN};

const SOON: Duration = Duration::from_secs(30);
const USER: &str = "user-0";

tessera_e2e::stock_clients!(
    tesserad_only_generated_token_of_another_certificate,
    tesserad_only_pushed_token_of_another_user,
    tesserad_only_pushed_token_of_another_certificate
);

/// The hook sees the token, so the test does. It takes passwords, and tokens that the gateway calls good.
fn tesserad_only_generated_token_of_another_certificate(version: Version) {
    let site = Site::new(2);
    let (config, _) = site.token_server("0 external-auth");
    let judge = "case \"$session_state\" in Authenticated) exit 0;; Initial) ;; *) exit 1;; esac\n\
                 [ \"$(sed -n 2p \"$last\")\" = 'open sesame' ]";
    site.hooks.script("verify", judge);
    let _server = Server::start(&site.net, &config.own("token-bind", "certificate"));
    let mut client = site.login_client(0, version).connect(&site.net, 0);
    client.reconnect();
    let token = site.passwords_seen().pop().expect("the token");
    assert!(token.starts_with("SESS_ID_AT_"), "no token at the reconnect");
    assert_eq!(site.hooks.calls("verify")[1].var("session_state"), "Authenticated");
    let mut thief = site.client(1, version).login(&site.net, USER, &token).start(&site.net, 1);
    thief.process.wait_for(&["AUTH_FAILED"], SOON);
    assert!(!thief.process.logged(&["PUSH_REPLY"]), "something was pushed to a client that is not let in");
    let last = site.hooks.calls("verify").pop().expect("a call");
    assert_ne!(last.var("session_state"), "Authenticated", "a stolen token is called good");
    client.reconnect();
    ping(&site.net.clients[0], "192.168.77.2");
}

fn tesserad_only_pushed_token_of_another_user(version: Version) {
    stolen(version, "user-1", 0);
}

fn tesserad_only_pushed_token_of_another_certificate(version: Version) {
    stolen(version, USER, 1);
}

/// The token that a script pushed to client 0 is sent as `user` with the certificate of client `index`.
fn stolen(version: Version, user: &str, index: usize) {
    let site = Site::new(2);
    let _server = Server::start(&site.net, &site.login_server().own("token-verify", "cache"));
    let mut client = site.login_client(0, version).connect(&site.net, 0);
    site.accepting(&[]);
    let config = site.client(1, version).identity(&site.net, &site.identity(index));
    let mut thief = config.login(&site.net, user, TOKEN).start(&site.net, 1);
    thief.process.wait_for(&["AUTH_FAILED"], SOON);
    assert!(!thief.process.logged(&["PUSH_REPLY"]), "something was pushed to a client that is not let in");
    drop(thief);
    client.reconnect();
    ping(&site.net.clients[0], "192.168.77.2");
}
