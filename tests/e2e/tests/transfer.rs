//! Connect, ping, and 50 MB both ways with checksums, IPv4 and IPv6 outside and inside.
//!
//! ```text
//!   client 0 ══ tunnel over IPv4 or IPv6 ══ gateway ── LAN host
//!      └──────────── ping, 50 MB each way ─────────────┘
//! ```

use tessera_e2e::Site;
use tessera_e2e::harness::{PORT, Server, Version, both_ways, ping};

const BYTES: u64 = 50 * 1000 * 1000;

tessera_e2e::stock_clients!(
    outside_v4_inside_v4,
    outside_v4_inside_v6,
    outside_v6_inside_v4,
    outside_v6_inside_v6
);

fn outside_v4_inside_v4(version: Version) {
    case(version, false, false);
}

fn outside_v4_inside_v6(version: Version) {
    case(version, false, true);
}

fn outside_v6_inside_v4(version: Version) {
    case(version, true, false);
}

fn outside_v6_inside_v6(version: Version) {
    case(version, true, true);
}

fn case(version: Version, outside_v6: bool, inside_v6: bool) {
    let site = Site::new(1);
    let config = if outside_v6 { site.server().with("proto", "udp6") } else { site.server() };
    let _server = Server::start(&site.net, &config);
    let mut config = site.client(0, version);
    if outside_v6 {
        config = config.remote("fd91:0:0:0::1", PORT, "udp6");
    }
    let client = config.connect(&site.net, 0);
    let (inner, lan) =
        if inside_v6 { (client.address_v6(), "fd77::2") } else { (client.address(), "192.168.77.2") };
    let ns = &site.net.clients[0];
    ping(ns, lan);
    ping(&site.net.lan, &inner);
    both_ways(ns, &inner, &site.net.lan, lan, BYTES);
}
