//! Who is not let in: wrong password, revoked, expired and foreign certificates.
//!
//! ```text
//!   client 0 ── bad login or certificate ──✗ gateway
//!   client 0 ── good one ──────────────────► gateway      (the same gateway: it is not broken)
//! ```

use std::time::Duration;

use tessera_e2e::Site;
use tessera_e2e::harness::{ClientConfig, Identity, Pki, Server, ServerConfig, Version, pause};

const SOON: Duration = Duration::from_secs(20);

tessera_e2e::stock_clients!(
    wrong_password,
    revoked,
    revoked_later,
    tesserad_only_revoked_while_connected,
    expired,
    other_authority,
    no_certificate
);

fn wrong_password(version: Version) {
    let site = Site::new(1);
    let server = Server::start(&site.net, &site.login_server());
    let mut client = site.client(0, version).login(&site.net, "user-0", "wrong-9f3c").start(&site.net, 0);
    client.process.wait_for(&["AUTH_FAILED"], SOON);
    client.process.wait_end(SOON);
    assert!(site.hooks.calls("connect").is_empty(), "client-connect ran for a client that is not let in");
    assert!(!server.process.log().contains("wrong-9f3c"), "a password is in the gateway's log");
    drop(client);
    let _client = site.login_client(0, version).connect(&site.net, 0);
}

fn revoked(version: Version) {
    let site = Site::new(1);
    let bad = site.pki.client("client-bad", 66);
    let list = site.net.write("crl.pem", &site.pki.revocation_list(&[&bad]));
    refused(&site, &site.server().line(format!("crl-verify {list}")), version, &bad);
}

/// A list that changes counts from the next handshake on, without a restart.
fn revoked_later(version: Version) {
    let site = Site::new(1);
    let identity = site.identity(0);
    let list = site.net.write("crl.pem", &site.pki.revocation_list(&[]));
    let _server = Server::start(&site.net, &site.server().line(format!("crl-verify {list}")));
    let config = site.client(0, version).identity(&site.net, &identity);
    drop(config.connect(&site.net, 0));
    // The time of change has a resolution of a second in some file systems.
    pause(Duration::from_millis(1100));
    site.net.write("crl.pem", &site.pki.revocation_list(&[&identity]));
    let client = config.start(&site.net, 0);
    pause(Duration::from_secs(5));
    assert!(client.process.logged(&["TLS: Initial packet from"]), "the gateway does not answer at all");
    assert!(
        !client.process.logged(&["Initialization Sequence Completed"]),
        "a revoked certificate was let in"
    );
}

/// Whoever is revoked while connected goes at once, not at its next renegotiation.
fn tesserad_only_revoked_while_connected(version: Version) {
    let site = Site::new(1);
    let identity = site.identity(0);
    let list = site.net.write("crl.pem", &site.pki.revocation_list(&[]));
    let _server = Server::start(&site.net, &site.server().line(format!("crl-verify {list}")));
    let mut client = site.client(0, version).identity(&site.net, &identity).connect(&site.net, 0);
    pause(Duration::from_millis(1100));
    site.net.write("crl.pem", &site.pki.revocation_list(&[&identity]));
    client.process.wait_for(&["AUTH_FAILED"], Duration::from_secs(5));
}

fn expired(version: Version) {
    let site = Site::new(1);
    let bad = site.pki.expired_client("client-bad", 66);
    refused(&site, &site.server(), version, &bad);
}

fn other_authority(version: Version) {
    let site = Site::new(1);
    // The same name, so that only the signature tells them apart.
    let bad = Pki::new("Tessera test CA").client("client-bad", 66);
    refused(&site, &site.server(), version, &bad);
}

fn refused(site: &Site, server: &ServerConfig, version: Version, bad: &Identity) {
    let connect = site.hooks.script("connect", "exit 0");
    let mut server = Server::start(&site.net, &server.clone().line(format!("client-connect {connect}")));
    let client = ClientConfig::new(&site.net, 0, version).identity(&site.net, bad).start(&site.net, 0);
    server.process.wait_for(&["10.91.0.2"], SOON);
    pause(Duration::from_secs(4));
    assert!(!client.process.logged(&["Initialization Sequence Completed"]), "a bad certificate was let in");
    assert!(site.hooks.calls("connect").is_empty(), "client-connect ran for a bad certificate");
    drop(client);
    let _client = site.client(0, version).connect(&site.net, 0);
    assert_eq!(site.hooks.calls("connect").len(), 1);
}

fn no_certificate(version: Version) {
    let site = Site::new(1);
    let server = Server::start(&site.net, &site.login_server());
    let client = ClientConfig::new(&site.net, 0, version)
        .login(&site.net, "user-0", tessera_e2e::PASSWORD)
        .start(&site.net, 0);
    pause(Duration::from_secs(5));
    assert!(!client.process.logged(&["Initialization Sequence Completed"]), "no certificate was let in");
    assert!(
        site.hooks.calls("verify").is_empty(),
        "the password of a client without certificate was looked at"
    );
    drop((client, server));
}
