//! Data keys by the TLS exporter (2.6, 2.7) and by the TLS 1.0 PRF (2.5, which cannot export).
//!
//! ```text
//!   client 0 (2.6, 2.7) ══ tls-ekm ══ gateway ── LAN host
//!   client 0 (2.5)      ══ PRF     ══ gateway ── LAN host
//! ```

use std::time::Duration;

use tessera_e2e::Site;
use tessera_e2e::harness::{Client, Server, Version, both_ways};

const BYTES: u64 = 5 * 1000 * 1000;

tessera_e2e::stock_clients!(exporter);

fn exporter(version: Version) {
    let site = Site::new(1);
    let client = case(&site, version);
    let flags = client.pushed("protocol-flags").expect("pushed protocol-flags");
    assert!(flags.split(' ').any(|flag| flag == "tls-ekm"), "{flags}");
}

#[test]
fn prf_with_client_2_5() {
    let site = Site::new(1);
    let client = case(&site, Version::V2_5);
    assert_eq!(client.pushed("protocol-flags"), None);
    assert_eq!(client.pushed("key-derivation"), None);
}

/// Traffic under the first key and, after a renegotiation by the client, under the second.
fn case(site: &Site, version: Version) -> Client {
    let _server = Server::start(&site.net, &site.server());
    let mut client = site.client(0, version).line("reneg-sec 6").connect(&site.net, 0);
    let ns = &site.net.clients[0];
    both_ways(ns, &client.address(), &site.net.lan, "192.168.77.2", BYTES);
    client.wait_negotiations(2, Duration::from_secs(20));
    both_ways(ns, &client.address(), &site.net.lan, "192.168.77.2", BYTES);
    client
}
