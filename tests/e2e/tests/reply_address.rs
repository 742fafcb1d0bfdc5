//! Replies come from the address that the client spoke to, not from the first one of the interface.
//!
//! ```text
//!   client 0 ── to 10.91.0.3 / fd91::3 ── gateway (10.91.0.1 and .3, fd91::1 and ::3) ── LAN host
//! ```

use tessera_e2e::Site;
use tessera_e2e::harness::{Capture, PORT, Server, Version, both_ways};

tessera_e2e::stock_clients!(second_address_v4, second_address_v6);

fn second_address_v4(version: Version) {
    case(version, "udp", "10.91.0.3/24", "udp4", "ip.src");
}

fn second_address_v6(version: Version) {
    case(version, "udp6", "fd91:0:0:0::3/64", "udp6", "ipv6.src");
}

fn case(version: Version, listen: &str, second: &str, protocol: &str, field: &str) {
    let site = Site::new(1);
    site.net.gateway.ip(&format!("addr add {second} dev c0 nodad"));
    let _server = Server::start(&site.net, &site.server().with("proto", listen).line("multihome"));
    let ns = &site.net.clients[0];
    let capture = Capture::start(ns, "eth0", "udp src port 1194", site.net.folder());
    let address = second.split('/').next().expect("an address");
    let client = site.client(0, version).remote(address, PORT, protocol).connect(&site.net, 0);
    both_ways(ns, &client.address(), &site.net.lan, "192.168.77.2", 500_000);
    let address: std::net::IpAddr = address.parse().expect("an address");
    let sources = capture.finish("udp", &[field]);
    assert!(sources.len() > 20, "the handshake and the transfer are more than {} packets", sources.len());
    for source in sources {
        assert_eq!(source.parse(), Ok(address));
    }
}
