//! 5 % loss with reorder and duplication, on connect and on renegotiation.
//!
//! ```text
//!   client 0 ── relay (loses, reorders, duplicates, both ways) ── gateway ── LAN host
//! ```

use std::time::Duration;

use tessera_e2e::harness::{Impairment, PORT, Relay, Server, Version, ping, transfer};
use tessera_e2e::{PASSWORD, Site, TOKEN};

tessera_e2e::stock_clients!(connect_and_renegotiate);

fn connect_and_renegotiate(version: Version) {
    let site = Site::new(1);
    let _server = Server::start(&site.net, &site.login_server().line("reneg-sec 0"));
    let ns = &site.net.clients[0];
    let bad = Impairment { loss: 5, reorder: 10, duplicate: 3 };
    let relay = Relay::start(ns, ([10, 91, 0, 1], PORT).into(), bad, 0x5eed);
    let mut client = site
        .login_client(0, version)
        .remote("127.0.0.1", relay.port(), "udp4")
        .line("reneg-sec 8")
        .connect(&site.net, 0);
    for negotiations in 2..=3 {
        client.wait_negotiations(negotiations, Duration::from_secs(60));
        ping(ns, "192.168.77.2");
    }
    transfer(ns, &site.net.lan, "192.168.77.2", 300_000);
    let seen = site.hooks.wait("verify", 3, Duration::from_secs(30));
    assert!(seen[0].file.as_deref().is_some_and(|file| file.contains(PASSWORD)));
    assert!(seen[1..].iter().all(|call| call.file.as_deref().is_some_and(|file| file.contains(TOKEN))));
    assert!(!client.process.logged(&["AUTH_FAILED"]));
    assert_eq!(
        client.process.count("Initialization Sequence Completed"),
        1,
        "the client had to connect again"
    );
    let (forwarded, lost, held) = relay.counts();
    assert!(
        lost > 0 && held > 0,
        "the relay did no harm: {forwarded} forwarded, {lost} lost, {held} held back"
    );
}
