//! Clients that go: with a farewell, and without.
//!
//! ```text
//!   client 0 ── EXIT ──► gateway ── disconnect hook once
//!   client 0 ── killed   gateway ── ping-restart ── disconnect hook once
//! ```

use std::time::Duration;

use tessera_e2e::Site;
use tessera_e2e::harness::{Server, Version, pause, ping};

tessera_e2e::stock_clients!(farewell, dead_client_is_removed, pings_keep_an_idle_client);

fn farewell(version: Version) {
    let site = Site::new(1);
    let _server = Server::start(&site.net, &site.login_server());
    let mut client = site.login_client(0, version).line("explicit-exit-notify 2").connect(&site.net, 0);
    ping(&site.net.clients[0], "192.168.77.2");
    client.process.stop();
    let calls = site.hooks.wait("disconnect", 1, Duration::from_secs(15));
    assert!(calls[0].var("bytes_received").parse::<u64>().expect("a number") > 0);
    pause(Duration::from_secs(2));
    assert_eq!(site.hooks.calls("disconnect").len(), 1);
}

/// A client of 2.5 says goodbye inside the data channel.
#[test]
fn farewell_in_band_by_client_2_5() {
    farewell(Version::V2_5);
}

fn dead_client_is_removed(version: Version) {
    let site = Site::new(1);
    // The server's own limit is twice the second number.
    let _server = Server::start(&site.net, &site.login_server().with("keepalive", "1 4"));
    let mut client = site.login_client(0, version).connect(&site.net, 0);
    ping(&site.net.clients[0], "192.168.77.2");
    client.process.kill();
    let calls = site.hooks.wait("disconnect", 1, Duration::from_secs(20));
    assert_eq!(calls[0].var("common_name"), "client-0");
}

fn pings_keep_an_idle_client(version: Version) {
    let site = Site::new(1);
    let _server = Server::start(&site.net, &site.login_server().with("keepalive", "1 4"));
    let client = site.login_client(0, version).connect(&site.net, 0);
    // Neither side has anything to say: IPv6 router solicitations of the tunnel end by then.
    pause(Duration::from_secs(12));
    assert!(site.hooks.calls("disconnect").is_empty(), "an idle client was removed");
    assert_eq!(
        client.process.count("Initialization Sequence Completed"),
        1,
        "an idle client had to connect again"
    );
    ping(&site.net.clients[0], "192.168.77.2");
}
