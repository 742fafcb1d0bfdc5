//! What ends or renews a session by itself: bytes and packets under one key, idleness, age.
//!
//! ```text
//!   client 0 ══ so many bytes, packets or seconds ══ gateway
//! ```

use std::time::Duration;

use tessera_e2e::harness::{Server, Version, both_ways, ping};
use tessera_e2e::{Site, TOKEN};

const SOON: Duration = Duration::from_secs(25);

tessera_e2e::stock_clients!(
    bytes_renew_the_key,
    packets_renew_the_key,
    inactive_client_is_sent_away,
    session_timeout,
    many_routes_are_pushed_in_parts
);

fn bytes_renew_the_key(version: Version) {
    renewed_by(version, "reneg-bytes 2000000");
}

fn packets_renew_the_key(version: Version) {
    renewed_by(version, "reneg-pkts 1000");
}

fn renewed_by(version: Version, directive: &str) {
    let site = Site::new(1);
    let _server = Server::start(&site.net, &site.login_server().line("reneg-sec 0").line(directive));
    let mut client = site.login_client(0, version).line("reneg-sec 0").connect(&site.net, 0);
    both_ways(&site.net.clients[0], &client.address(), &site.net.lan, "192.168.77.2", 5_000_000);
    client.wait_negotiations(2, SOON);
    assert_eq!(
        site.hooks.wait("verify", 2, SOON)[1].file.as_deref(),
        Some(format!("user-0\n{TOKEN}\n").as_str())
    );
    ping(&site.net.clients[0], "192.168.77.2");
}

fn inactive_client_is_sent_away(version: Version) {
    let site = Site::new(1);
    let _server = Server::start(&site.net, &site.login_server().line("inactive 3 100000"));
    let mut client = site.login_client(0, version).connect(&site.net, 0);
    client.process.wait_for(&["Inactivity timeout"], SOON);
    site.hooks.wait("disconnect", 1, SOON);
}

fn session_timeout(version: Version) {
    let site = Site::new(1);
    let _server = Server::start(&site.net, &site.login_server().line("session-timeout 4"));
    let mut client = site.login_client(0, version).connect(&site.net, 0);
    ping(&site.net.clients[0], "192.168.77.2");
    client.process.wait_for(&["Session timeout"], SOON);
    let mark = client.process.mark();
    client.wait_up_from(mark);
    assert_eq!(site.passwords_seen().last().map(String::as_str), Some(TOKEN), "it comes back with its token");
}

fn many_routes_are_pushed_in_parts(version: Version) {
    let site = Site::new(1);
    let mut server = site.server();
    for i in 0..100 {
        server = server.line(format!("push \"route 172.16.{i}.0 255.255.255.0\""));
    }
    let _server = Server::start(&site.net, &server);
    let client = site.client(0, version).connect(&site.net, 0);
    assert!(
        client.process.logged(&["push-continuation 2"]) && client.process.logged(&["push-continuation 1"])
    );
    let routes = site.net.clients[0].ip("route show");
    assert_eq!(routes.matches("172.16.").count(), 100, "{routes}");
    ping(&site.net.clients[0], "192.168.77.2");
}
