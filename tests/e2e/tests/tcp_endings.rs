//! How sessions over TCP end, whoever ends them.
//!
//! ```text
//!   client 0 ── killed: FIN ──► gateway ── disconnect hook once, the address is free
//!   tessera session kill, SIGTERM ──► gateway ── RESTART, FIN ──► client 0 comes back with its token
//! ```

use std::time::Duration;

use tessera_e2e::harness::{Cli, Deadline, Server, Version, eventually, pause, ping};
use tessera_e2e::{PASSWORD, Site};

const SOON: Duration = Duration::from_secs(30);
/// An end that is noticed at once, on a machine that has much to do; no timer of the configuration is as short.
const AT_ONCE: Duration = Duration::from_secs(8);

tessera_e2e::stock_clients!(killed_client, tesserad_only_killed_session, gateway_restarts);

/// Its connection ends with the client: nobody waits for `ping-restart`.
fn killed_client(version: Version) {
    let site = Site::new(3);
    let [_, connect, disconnect] = site.login_hooks();
    let config = site
        .server()
        .with("proto", "tcp4-server")
        .with("server", "10.8.0.0 255.255.255.0 nopool")
        .without("server-ipv6")
        .line("ifconfig-pool 10.8.0.20 10.8.0.21 255.255.255.0")
        .line(format!("client-connect {connect}"))
        .line(format!("client-disconnect {disconnect}"));
    let _server = Server::start(&site.net, &config);
    let mut first = site.client(0, version).over("tcp4-client").connect(&site.net, 0);
    let _second = site.client(1, version).over("tcp4-client").connect(&site.net, 1);
    ping(&site.net.clients[0], "192.168.77.2");
    let deadline = Deadline::after(AT_ONCE);
    first.process.kill();
    let calls = site.hooks.wait("disconnect", 1, AT_ONCE);
    assert!(!deadline.passed());
    assert_eq!(calls[0].var("common_name"), "client-0");
    assert!(calls[0].var("bytes_received").parse::<u64>().expect("a number") > 0);
    // The only address that the pool has left.
    let third = site.client(2, version).over("tcp4-client").connect(&site.net, 2);
    assert_eq!(third.address(), first.address());
    ping(&site.net.clients[2], "192.168.77.2");
    assert_eq!(site.hooks.calls("disconnect").len(), 1);
}

fn tesserad_only_killed_session(version: Version) {
    let site = Site::new(1);
    let cli = Cli::new(&site.net);
    let (config, _) = site.token_server("0");
    // One socket for both families: addresses of IPv4 are shown as such all the same.
    let config = config.with("proto", "tcp-server").own("control-socket", cli.socket());
    let _server = Server::start(&site.net, &config);
    let mut client = site.login_client(0, version).over("tcp4-client").connect(&site.net, 0);
    let open = || cli.metric("tessera_stream_connections");
    assert_eq!(open(), 1);
    let sessions = cli.run("session list");
    let address = sessions["sessions"][0]["real_address"].as_str().expect("an address").to_owned();
    assert!(address.starts_with("10.91.0.2:"), "{address}");
    let ids = cli.sessions();
    let mark = client.process.mark();
    cli.run(&format!("session kill {}", ids[0]));
    client.process.wait_from(mark, &["reset command was pushed"], SOON);
    client.wait_up_from(mark);
    site.hooks.wait("disconnect", 1, AT_ONCE);
    ping(&site.net.clients[0], "192.168.77.2");
    assert_ne!(cli.sessions(), ids, "a session of its own");
    assert_eq!(cli.metric("tessera_stream_connections_total{event=\"accepted\"}"), 2);
    eventually("the old connection is closed", AT_ONCE, || (open() == 1).then_some(()));
    assert_eq!(site.passwords_seen(), [PASSWORD], "the token is still good");
    // For good: the client is told to end, and so does the connection.
    cli.run(&format!("session kill {} --how halt", cli.sessions()[0]));
    client.process.wait_end(SOON);
    eventually("no connection", AT_ONCE, || (open() == 0).then_some(()));
    pause(Duration::from_secs(1));
    assert_eq!(site.hooks.calls("disconnect").len(), 2);
}

fn gateway_restarts(version: Version) {
    let site = Site::new(1);
    let (config, _) = site.token_server("0");
    let config = config.with("proto", "tcp4-server");
    let mut server = Server::start(&site.net, &config);
    let mut client = site.login_client(0, version).over("tcp4-client").connect(&site.net, 0);
    ping(&site.net.clients[0], "192.168.77.2");
    let mark = client.process.mark();
    server.process.stop();
    // The same port, though connections of it linger in TIME_WAIT.
    let _server = Server::start(&site.net, &config);
    client.wait_up_from(mark);
    ping(&site.net.clients[0], "192.168.77.2");
    assert_eq!(site.passwords_seen(), [PASSWORD], "the token outlives the process");
    assert_eq!(site.hooks.wait("disconnect", 1, AT_ONCE).len(), 1);
}
