//! Every protection of the control channel, the keys made by `openvpn --genkey`.
//!
//! ```text
//!   client 0 ── none | tls-auth | tls-crypt | tls-crypt-v2 ── gateway ── LAN host
//!   client 0 ── none ── gateway that wants a key: no answer
//! ```

use std::time::Duration;

use tessera_e2e::Site;
use tessera_e2e::harness::{Client, ClientConfig, Server, ServerConfig, Version, genkey, pause, ping};

tessera_e2e::stock_clients!(
    none,
    tls_auth_sha1,
    tls_auth_sha256,
    tls_auth_sha384,
    tls_auth_sha512_bidirectional,
    tls_crypt,
    tls_crypt_v2,
    missing_key
);

fn none(version: Version) {
    let site = Site::new(1);
    let client = connect(&site, &site.server(), &site.client(0, version));
    assert!(!client.process.logged(&["Control Channel Authentication"]));
    assert!(!client.process.logged(&["Control Channel Encryption"]));
}

fn tls_auth_sha1(version: Version) {
    tls_auth(version, "SHA1", true);
}

fn tls_auth_sha256(version: Version) {
    tls_auth(version, "SHA256", true);
}

fn tls_auth_sha384(version: Version) {
    tls_auth(version, "SHA384", true);
}

fn tls_auth_sha512_bidirectional(version: Version) {
    tls_auth(version, "SHA512", false);
}

fn tls_auth(version: Version, digest: &str, directed: bool) {
    let site = Site::new(1);
    let key = genkey(&site.net, "secret", "ta.key", None);
    let (ours, theirs) = if directed { (" 0", " 1") } else { ("", "") };
    let server = site.server().line(format!("auth {digest}")).line(format!("tls-auth {key}{ours}"));
    let client =
        site.client(0, version).line(format!("auth {digest}")).line(format!("tls-auth {key}{theirs}"));
    let client = connect(&site, &server, &client);
    let digest_bits = digest.trim_start_matches("SHA");
    let digest_bits = if digest_bits == "1" { "160" } else { digest_bits };
    let using = format!("Using {digest_bits} bit message hash '{digest}' for HMAC authentication");
    assert!(client.process.logged(&["Outgoing Control Channel Authentication", &using]));
}

fn tls_crypt(version: Version) {
    let site = Site::new(1);
    let key = genkey(&site.net, "secret", "tc.key", None);
    let server = site.server().line(format!("tls-crypt {key}"));
    let client = site.client(0, version).line(format!("tls-crypt {key}"));
    let client = connect(&site, &server, &client);
    assert!(client.process.logged(&["Outgoing Control Channel Encryption", "AES-256-CTR"]));
}

fn tls_crypt_v2(version: Version) {
    let site = Site::new(1);
    let server_key = genkey(&site.net, "tls-crypt-v2-server", "v2-server.key", None);
    let client_key = genkey(&site.net, "tls-crypt-v2-client", "v2-client.key", Some(&server_key));
    let server = site.server().line(format!("tls-crypt-v2 {server_key}"));
    let client = site.client(0, version).line(format!("tls-crypt-v2 {client_key}"));
    let client = connect(&site, &server, &client);
    assert!(client.process.logged(&["Outgoing Control Channel Encryption", "AES-256-CTR"]));
}

fn missing_key(version: Version) {
    let site = Site::new(1);
    let key = genkey(&site.net, "secret", "tc.key", None);
    let _server = Server::start(&site.net, &site.server().line(format!("tls-crypt {key}")));
    let client = site.client(0, version).start(&site.net, 0);
    pause(Duration::from_secs(4));
    assert!(!client.process.logged(&["TLS: Initial packet from"]), "a packet without the key was answered");
}

fn connect(site: &Site, server: &ServerConfig, client: &ClientConfig) -> Client {
    let server = Server::start(&site.net, server);
    let client = client.connect(&site.net, 0);
    ping(&site.net.clients[0], "192.168.77.2");
    drop(server);
    client
}
