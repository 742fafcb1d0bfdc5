//! Two clients: `client-to-client`, and an inner source address that is not the client's.
//!
//! ```text
//!   client 0 ══╗
//!              gateway ── LAN host
//!   client 1 ══╝
//! ```

use tessera_e2e::Site;
use tessera_e2e::harness::{Capture, Server, Version, ping, ping_fails};

tessera_e2e::stock_clients!(client_to_client, no_client_to_client, spoofed_source);

/// The kernel of the gateway forwards nothing from the tunnel back into it, so only `client-to-client` can.
fn no_hairpin(site: &Site) {
    for rule in [
        "add table inet hairpin",
        "add chain inet hairpin forward { type filter hook forward priority 0; }",
        "add rule inet hairpin forward iifname tun0 oifname tun0 drop",
    ] {
        site.net.gateway.run(&["nft", rule]);
    }
}

fn client_to_client(version: Version) {
    let site = Site::new(2);
    let _server = Server::start(&site.net, &site.server().line("client-to-client"));
    no_hairpin(&site);
    let a = site.client(0, version).connect(&site.net, 0);
    let b = site.client(1, Version::V2_6).connect(&site.net, 1);
    ping(&site.net.clients[0], &b.address());
    ping(&site.net.clients[1], &a.address());
    ping(&site.net.clients[0], &b.address_v6());
    ping(&site.net.clients[1], &a.address_v6());
}

/// Without the directive it is the kernel's forwarding that decides.
fn no_client_to_client(version: Version) {
    let site = Site::new(2);
    let _server = Server::start(&site.net, &site.server());
    let a = site.client(0, version).connect(&site.net, 0);
    let b = site.client(1, version).connect(&site.net, 1);
    ping(&site.net.clients[0], &b.address());
    no_hairpin(&site);
    ping_fails(&site.net.clients[0], &b.address());
    ping_fails(&site.net.clients[1], &a.address_v6());
    ping(&site.net.clients[0], "192.168.77.2");
}

fn spoofed_source(version: Version) {
    let site = Site::new(2);
    let _server = Server::start(&site.net, &site.server());
    let _a = site.client(0, version).connect(&site.net, 0);
    let b = site.client(1, version).connect(&site.net, 1);
    let ns = &site.net.clients[0];
    ping(ns, "192.168.77.2");
    let capture = Capture::start(&site.net.lan, "eth0", "icmp", site.net.folder());
    // The neighbour's address, and one that nobody has.
    for spoofed in [b.address().as_str(), "172.31.9.9"] {
        ns.ip(&format!("addr add {spoofed}/32 dev lo"));
        ns.ip(&format!("route replace 192.168.77.2/32 dev tun0 src {spoofed}"));
        ping_fails(ns, "192.168.77.2");
        ns.ip("route del 192.168.77.2/32 dev tun0");
        ns.ip(&format!("addr del {spoofed}/32 dev lo"));
    }
    ping(ns, "192.168.77.2");
    let own = site.net.clients[0].ip("-4 -o addr show dev tun0");
    let seen = capture.finish("icmp.type == 8", &["ip.src"]);
    assert!(!seen.is_empty(), "the honest ping must have been captured");
    for source in &seen {
        assert!(own.contains(&format!(" {source}/")), "a packet from {source} came through; own: {own}");
    }
}
