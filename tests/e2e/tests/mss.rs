//! `mssfix` lowers the MSS of TCP SYNs, seen where they leave the gateway.
//!
//! ```text
//!   client 0 ── SYN (MSS 1460) ══ gateway ── SYN (MSS lowered) ──► LAN host
//! ```

use tessera_e2e::Site;
use tessera_e2e::harness::{Capture, Server, Version, ping, transfer};

tessera_e2e::stock_clients!(lowered_in_syn);

fn lowered_in_syn(version: Version) {
    let site = Site::new(1);
    let _server = Server::start(&site.net, &site.server().line("mssfix 1200"));
    // The client itself leaves the MSS alone.
    let client = site.client(0, version).line("mssfix 0").connect(&site.net, 0);
    let ns = &site.net.clients[0];
    ping(ns, "192.168.77.2");
    let capture = Capture::start(&site.net.lan, "eth0", "tcp", site.net.folder());
    transfer(ns, &site.net.lan, "192.168.77.2", 100_000);
    transfer(&site.net.lan, ns, &client.address(), 100_000);
    let seen = capture.finish("tcp.flags.syn == 1 and ip.src != 192.168.77.2", &["tcp.options.mss_val"]);
    assert_eq!(seen.len(), 2, "a SYN and a SYN-ACK of the client: {seen:?}");
    for mss in &seen {
        let mss: u32 = mss.parse().expect("a number");
        // 1200 less the outer headers (4 opcode and peer-id, 4 packet id, 16 tag) and the inner 40.
        assert_eq!(mss, 1200 - 24 - 40, "lowered to fit 1200 bytes of tunnel payload");
    }
}
