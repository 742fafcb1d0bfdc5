//! One secret on two gateways, one of them stock: the client is known at both by its token.
//!
//! ```text
//!   client 0 ── password ──► gateway A ──► token
//!       └── token ──► gateway B (same secret, other maker): no hook is asked
//! ```

use tessera_e2e::harness::{Flavour, Server, Version, ping};
use tessera_e2e::{PASSWORD, Site};

tessera_e2e::stock_clients!(
    stock_s_token_at_stock,
    tesserad_only_stock_s_token,
    tesserad_only_our_token_at_stock,
    tesserad_only_there_and_back
);

/// The control: two stock gateways.
fn stock_s_token_at_stock(version: Version) {
    travel(version, &[Flavour::Stock, Flavour::Stock]);
}

fn tesserad_only_stock_s_token(version: Version) {
    travel(version, &[Flavour::Stock, Flavour::Tesserad]);
}

fn tesserad_only_our_token_at_stock(version: Version) {
    travel(version, &[Flavour::Tesserad, Flavour::Stock]);
}

fn tesserad_only_there_and_back(version: Version) {
    travel(version, &[Flavour::Tesserad, Flavour::Stock, Flavour::Tesserad, Flavour::Stock]);
}

/// The gateways take over from each other at the same address.
fn travel(version: Version, way: &[Flavour]) {
    let site = Site::new(1);
    let (config, _) = site.token_server("0");
    let mut server = Server::start_as(&site.net, &config, way[0]);
    let mut client = site.login_client(0, version).connect(&site.net, 0);
    for next in &way[1..] {
        server.process.stop();
        server = Server::start_as(&site.net, &config, *next);
        client.reconnect();
        ping(&site.net.clients[0], "192.168.77.2");
    }
    assert_eq!(site.passwords_seen(), [PASSWORD], "no gateway asks its hook about the other's token");
}
