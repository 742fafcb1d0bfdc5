//! Tokens of scripts that clients cannot keep: refused where they are made, not at the next login.
//!
//! ```text
//!   connect hook ── push "auth-token a b" ──✗ gateway: the log names the hook, never the token
//! ```

use std::time::Duration;

use tessera_e2e::Site;
use tessera_e2e::harness::{Server, Version};

const SOON: Duration = Duration::from_secs(20);

tessera_e2e::stock_clients!(tesserad_only_comma, tesserad_only_blank, tesserad_only_too_long);

fn tesserad_only_comma(version: Version) {
    unusable(version, "half-7c1e,half");
}

fn tesserad_only_blank(version: Version) {
    unusable(version, "half-7c1e half");
}

/// A byte more than stock clients keep.
fn tesserad_only_too_long(version: Version) {
    unusable(version, &format!("half-7c1e{}", "x".repeat(128 - 9)));
}

fn unusable(version: Version, token: &str) {
    let site = Site::new(1);
    let verify = site.hooks.script("verify", "exit 0");
    let config = site.hooked_server(&verify);
    let connect = site.hooks.script("connect", &format!("echo 'push \"auth-token {token}\"' >\"$last\""));
    let mut server = Server::start(&site.net, &config);
    let client = site.login_client(0, version).start(&site.net, 0);
    server.process.wait_for(&["auth-token", &connect], SOON);
    assert!(!server.process.log().contains("half-7c1e"), "the token is in the gateway's log");
    assert!(!client.process.logged(&["PUSH_REPLY", "auth-token"]), "an unusable token was pushed");
    // A script that is mended counts at the next login.
    drop(client);
    site.hooks.script("connect", "echo 'push \"auth-token whole-7c1e\"' >\"$last\"");
    let client = site.login_client(0, version).connect(&site.net, 0);
    assert!(client.process.logged(&["PUSH_REPLY", "auth-token"]), "a good token was not pushed");
}
