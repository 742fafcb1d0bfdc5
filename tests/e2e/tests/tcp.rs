//! Clients over TCP: everything that works over UDP, and both beside each other.
//!
//! ```text
//!   client 0 ══ TCP over IPv4 or IPv6 ══ gateway ── LAN host
//!   client 1 ══ UDP ════════════════════════╝
//! ```

use std::time::Duration;

use tessera_e2e::harness::{
    Cli, ClientConfig, PORT, Server, ServerConfig, TcpSink, Version, both_ways, genkey, ping, ping_sized,
    transfer,
};
use tessera_e2e::{PASSWORD, Site};

const BYTES: u64 = 20 * 1000 * 1000;
const SOON: Duration = Duration::from_secs(60);
/// Traffic during renegotiations: in each direction so much in so long a time.
const STREAM: u64 = 5 * 1000 * 1000;
const SPREAD: Duration = Duration::from_secs(20);

tessera_e2e::stock_clients!(
    outside_v4,
    outside_v6,
    tesserad_only_udp_and_tcp_side_by_side,
    renegotiates_plain,
    renegotiates_tls_auth,
    renegotiates_tls_crypt,
    renegotiates_tls_crypt_v2,
    tesserad_only_slow_login,
    nodelay_is_pushed
);

/// What a client says when packets do not come in the order they were sealed in, or damaged.
const WRONG: [&str; 5] =
    ["bad packet ID", "Replay", "packet error", "Bad encapsulated packet length", "Bad LZO"];

fn outside_v4(version: Version) {
    outside(version, false);
}

fn outside_v6(version: Version) {
    outside(version, true);
}

fn outside(version: Version, v6: bool) {
    let site = Site::new(1);
    let proto = if v6 { "tcp6-server" } else { "tcp4-server" };
    let _server = Server::start(&site.net, &site.server().with("proto", proto));
    let mut config = site.client(0, version).over("tcp4-client");
    if v6 {
        config = config.remote("fd91:0:0:0::1", PORT, "tcp6-client");
    }
    let client = config.connect(&site.net, 0);
    let ns = &site.net.clients[0];
    for (inner, lan) in [(client.address(), "192.168.77.2"), (client.address_v6(), "fd77::2")] {
        ping(ns, lan);
        // Small, one that fills a packet, one byte more, and many fragments.
        for bytes in [0, 56, 1000, 1452, 1472, 1473, 4000, 20_000] {
            ping_sized(ns, lan, bytes);
            ping_sized(&site.net.lan, &inner, bytes);
        }
        both_ways(ns, &inner, &site.net.lan, lan, BYTES);
    }
    for wrong in WRONG {
        assert_eq!(client.process.count(wrong), 0, "{wrong}");
    }
}

/// As the configuration of 2.7 has it: several listeners, each with a protocol.
fn tesserad_only_udp_and_tcp_side_by_side(version: Version) {
    let site = Site::new(2);
    let cli = Cli::new(&site.net);
    let config = site
        .server()
        .without("proto")
        .without("port")
        .line(format!("local 10.91.0.1 {PORT} tcp-server"))
        .line(format!("local * {PORT} udp"))
        .line("client-to-client")
        .own("control-socket", cli.socket());
    let _server = Server::start(&site.net, &config);
    let a = site.client(0, version).over("tcp4-client").connect(&site.net, 0);
    let b = site.client(1, version).connect(&site.net, 1);
    let (first, second) = (&site.net.clients[0], &site.net.clients[1]);
    for (ns, address) in
        [(first, b.address()), (second, a.address()), (first, b.address_v6()), (second, a.address_v6())]
    {
        ping(ns, &address);
    }
    ping(first, "192.168.77.2");
    ping(second, "192.168.77.2");
    both_ways(first, &a.address(), second, &b.address(), BYTES);
    transfer(&site.net.lan, first, &a.address(), BYTES);
    assert_eq!(cli.metric("tessera_stream_connections"), 1);
    assert!(cli.metric("tessera_stream_packets_total") > 1000);
    assert_eq!(cli.run("status")["status"]["clients"], 2);
}

fn renegotiates_plain(version: Version) {
    renegotiates(version, |_| (String::new(), String::new()));
}

fn renegotiates_tls_auth(version: Version) {
    renegotiates(version, |site| {
        let key = genkey(&site.net, "secret", "ta.key", None);
        (format!("tls-auth {key} 0"), format!("tls-auth {key} 1"))
    });
}

fn renegotiates_tls_crypt(version: Version) {
    renegotiates(version, |site| {
        let key = genkey(&site.net, "secret", "tc.key", None);
        (format!("tls-crypt {key}"), format!("tls-crypt {key}"))
    });
}

fn renegotiates_tls_crypt_v2(version: Version) {
    renegotiates(version, |site| {
        let server = genkey(&site.net, "tls-crypt-v2-server", "v2-server.key", None);
        let client = genkey(&site.net, "tls-crypt-v2-client", "v2-client.key", Some(&server));
        (format!("tls-crypt-v2 {server}"), format!("tls-crypt-v2 {client}"))
    });
}

/// Under traffic, with the token in the password's place, and then over a connection of its own.
fn renegotiates(version: Version, protection: impl Fn(&Site) -> (String, String)) {
    let site = Site::new(1);
    let (ours, theirs) = protection(&site);
    let (config, _) = site.token_server("0");
    let _server = Server::start(&site.net, &over_tcp(config).line(ours));
    let config: ClientConfig = site.login_client(0, version).over("tcp4-client").line(theirs);
    let mut client = config.line("reneg-sec 8").connect(&site.net, 0);
    let ns = &site.net.clients[0];
    let up = TcpSink::start(ns, &site.net.lan, "192.168.77.2", STREAM, SPREAD);
    let down = TcpSink::start(&site.net.lan, ns, &client.address(), STREAM, SPREAD);
    client.wait_negotiations(3, SOON);
    up.finish();
    down.finish();
    client.reconnect();
    ping(ns, "192.168.77.2");
    assert_eq!(site.passwords_seen(), [PASSWORD], "the token stands for the password");
    for wrong in WRONG {
        assert_eq!(client.process.count(wrong), 0, "{wrong}");
    }
}

/// A login that takes longer than `hand-window` keeps its connection.
fn tesserad_only_slow_login(version: Version) {
    let site = Site::new(1);
    let connect = site.hooks.script("connect", "sleep 8");
    let config = over_tcp(site.server()).line("hand-window 4").line(format!("client-connect {connect}"));
    let _server = Server::start(&site.net, &config);
    let client = site.client(0, version).over("tcp4-client").connect(&site.net, 0);
    ping(&site.net.clients[0], "192.168.77.2");
    assert_eq!(site.hooks.calls("connect").len(), 1);
    assert_eq!(client.process.count("TCP connection established"), 1, "it had to connect again");
}

fn nodelay_is_pushed(version: Version) {
    let site = Site::new(1);
    let config = over_tcp(site.server()).line("tcp-nodelay").line("tcp-queue-limit 128");
    let _server = Server::start(&site.net, &config);
    let client = site.client(0, version).over("tcp4-client").connect(&site.net, 0);
    assert_eq!(client.pushed("socket-flags").as_deref(), Some("TCP_NODELAY"));
    ping(&site.net.clients[0], "192.168.77.2");
}

fn over_tcp(config: ServerConfig) -> ServerConfig {
    config.with("proto", "tcp4-server")
}
