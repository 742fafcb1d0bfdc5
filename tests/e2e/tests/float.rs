//! The client's address changes in the middle of a transfer, which goes on without a new handshake.
//!
//! ```text
//!   client 0 (10.91.0.2 → 10.91.0.9) ══ gateway ── LAN host
//!   client 0 ── relay (port A → port B) ══ gateway ── LAN host
//! ```

use std::time::Duration;

use tessera_e2e::Site;
use tessera_e2e::harness::{Impairment, PORT, Relay, Server, TcpSink, Version, ping};

const BYTES: u64 = 8 * 1000 * 1000;
const SPREAD: Duration = Duration::from_secs(4);

tessera_e2e::stock_clients!(address_changes, port_changes);

fn address_changes(version: Version) {
    let site = Site::new(1);
    let _server = Server::start(&site.net, &site.server());
    let client = site.client(0, version).connect(&site.net, 0);
    let ns = &site.net.clients[0];
    ping(ns, "192.168.77.2");
    let upload = TcpSink::start(ns, &site.net.lan, "192.168.77.2", BYTES, SPREAD);
    upload.wait_received(BYTES / 4, SPREAD * 3);
    ns.ip("addr add 10.91.0.9/24 dev eth0");
    ns.ip("addr del 10.91.0.2/24 dev eth0");
    // Deleting the first address of a net takes the others of that net with it, unless they are promoted.
    if !ns.ip("-4 addr show dev eth0").contains("10.91.0.9") {
        ns.ip("addr add 10.91.0.9/24 dev eth0");
    }
    upload.finish();
    ping(&site.net.lan, &client.address());
    assert_eq!(
        client.process.count("Initialization Sequence Completed"),
        1,
        "the client had to connect again"
    );
}

fn port_changes(version: Version) {
    let site = Site::new(1);
    let _server = Server::start(&site.net, &site.server());
    let ns = &site.net.clients[0];
    let gateway = ([10, 91, 0, 1], PORT).into();
    let relay = Relay::start(ns, gateway, Impairment::default(), 1);
    let client = site.client(0, version).remote("127.0.0.1", relay.port(), "udp4").connect(&site.net, 0);
    ping(ns, "192.168.77.2");
    let download = TcpSink::start(&site.net.lan, ns, &client.address(), BYTES, SPREAD);
    download.wait_received(BYTES / 4, SPREAD * 3);
    relay.rebind();
    download.wait_received(BYTES / 2, SPREAD * 3);
    relay.rebind();
    download.finish();
    assert_eq!(
        client.process.count("Initialization Sequence Completed"),
        1,
        "the client had to connect again"
    );
}
