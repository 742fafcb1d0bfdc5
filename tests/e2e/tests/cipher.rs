//! Every data cipher, proven by the client's log, with traffic in both directions.
//!
//! ```text
//!   client 0 ══ AES-256-GCM | AES-128-GCM | CHACHA20-POLY1305 ══ gateway ── LAN host
//! ```

use std::time::Duration;

use tessera_e2e::Site;
use tessera_e2e::harness::{Server, Version, both_ways};

const BYTES: u64 = 5 * 1000 * 1000;

tessera_e2e::stock_clients!(
    aes_256_gcm,
    aes_128_gcm,
    chacha20_poly1305,
    servers_order_wins,
    no_shared_cipher
);

fn aes_256_gcm(version: Version) {
    case(version, "AES-256-GCM", "AES-256-GCM", "AES-256-GCM");
}

fn aes_128_gcm(version: Version) {
    case(version, "AES-128-GCM", "AES-256-GCM:AES-128-GCM", "AES-128-GCM");
}

fn chacha20_poly1305(version: Version) {
    case(version, "AES-256-GCM:CHACHA20-POLY1305", "CHACHA20-POLY1305", "CHACHA20-POLY1305");
}

fn servers_order_wins(version: Version) {
    case(version, "CHACHA20-POLY1305:AES-256-GCM", "AES-256-GCM:CHACHA20-POLY1305", "CHACHA20-POLY1305");
}

fn case(version: Version, server: &str, client: &str, expected: &str) {
    let site = Site::new(1);
    let _server = Server::start(&site.net, &site.server().line(format!("data-ciphers {server}")));
    let client = site.client(0, version).line(format!("data-ciphers {client}")).connect(&site.net, 0);
    assert_eq!(client.pushed("cipher").as_deref(), Some(expected));
    assert!(client.process.logged(&["Data Channel: cipher", expected]), "the client's log names the cipher");
    both_ways(&site.net.clients[0], &client.address(), &site.net.lan, "192.168.77.2", BYTES);
}

fn no_shared_cipher(version: Version) {
    let site = Site::new(1);
    let _server = Server::start(&site.net, &site.server().line("data-ciphers AES-128-GCM"));
    let mut client = site.client(0, version).line("data-ciphers CHACHA20-POLY1305").start(&site.net, 0);
    client.process.wait_for(&["AUTH_FAILED"], Duration::from_secs(20));
}
