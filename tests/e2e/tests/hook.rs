//! Client-connect that is slow, hung, failing or writing rubbish; and the environment that hooks are given.
//!
//! ```text
//!   client 0 ── connect hook (sleeps, hangs, fails, writes rubbish)
//!   client 1 ── connect hook (quick) ── pings meanwhile
//! ```

use std::time::Duration;

use tessera_e2e::Site;
use tessera_e2e::harness::{Server, Version, ping, ping_fails, pings};

const SOON: Duration = Duration::from_secs(25);

tessera_e2e::stock_clients!(
    slow,
    failing,
    rubbish,
    environment,
    tesserad_only_slow_delays_nobody,
    tesserad_only_hung
);

fn slow(version: Version) {
    let site = Site::new(1);
    let connect =
        site.hooks.script("connect", "sleep 3; echo 'push \"route 10.99.0.0 255.255.0.0\"' >\"$last\"");
    let _server = Server::start(&site.net, &site.server().line(format!("client-connect {connect}")));
    let client = site.client(0, version).connect(&site.net, 0);
    assert_eq!(client.pushed("route 10.99.0.0").as_deref(), Some("255.255.0.0"));
    assert_eq!(site.hooks.calls("connect").len(), 1);
    ping(&site.net.clients[0], "192.168.77.2");
}

fn failing(version: Version) {
    let site = Site::new(1);
    let connect = site.hooks.script("connect", "exit 1");
    let _server = Server::start(&site.net, &site.server().line(format!("client-connect {connect}")));
    let mut client = site.client(0, version).start(&site.net, 0);
    client.process.wait_for(&["AUTH_FAILED"], SOON);
    assert!(!client.process.logged(&["PUSH_REPLY"]), "something was pushed to a client that is not let in");
    client.process.wait_end(SOON);
    site.hooks.script("connect", "exit 0");
    let _client = site.client(0, version).connect(&site.net, 0);
    ping(&site.net.clients[0], "192.168.77.2");
}

/// Lines that are not legal are logged and skipped; the others count; the client connects.
fn rubbish(version: Version) {
    let site = Site::new(1);
    let body = "{ head -c 300 /dev/zero | tr '\\0' x; echo; echo 'no-such-directive 1'; echo 'dev tap7'; \
                echo 'push \"route 10.99.0.0 255.255.0.0\"'; } >\"$last\"";
    let connect = site.hooks.script("connect", body);
    let _server = Server::start(&site.net, &site.server().line(format!("client-connect {connect}")));
    let client = site.client(0, version).connect(&site.net, 0);
    assert_eq!(client.pushed("route 10.99.0.0").as_deref(), Some("255.255.0.0"));
    ping(&site.net.clients[0], "192.168.77.2");
}

/// What stock OpenVPN gives its client-connect script, by name.
const CONNECT_VARIABLES: &[&str] = &[
    "common_name",
    "username",
    "trusted_ip",
    "trusted_port",
    "untrusted_ip",
    "untrusted_port",
    "time_ascii",
    "time_unix",
    "ifconfig_pool_remote_ip",
    "ifconfig_pool_netmask",
    "ifconfig_pool_remote_ip6",
    "ifconfig_pool_local_ip6",
    "ifconfig_pool_ip6_netbits",
    "tls_id_0",
    "tls_id_1",
    "tls_serial_0",
    "tls_serial_1",
    "tls_serial_hex_0",
    "tls_digest_0",
    "tls_digest_sha256_0",
    "X509_0_CN",
    "X509_0_O",
    "X509_0_C",
    "X509_1_CN",
    "IV_VER",
    "IV_PLAT",
    "IV_PROTO",
    "IV_CIPHERS",
    "IV_TCPNL",
    "IV_MTU",
    "UV_COLOUR",
    "script_type",
    "script_context",
    "config",
    "daemon",
    "daemon_pid",
    "daemon_start_time",
    "daemon_log_redirect",
    "verb",
    "dev",
    "dev_type",
    "tun_mtu",
    "proto_1",
    "local_port_1",
    "ifconfig_local",
    "ifconfig_netmask",
    "ifconfig_ipv6_local",
    "ifconfig_ipv6_netbits",
    "SITE_NAME",
    "client_connect_config_file",
    "client_connect_deferred_file",
];

fn environment(version: Version) {
    let site = Site::new(1);
    let config = site.login_server().line("setenv SITE_NAME berlin").line("keepalive 2 8");
    let _server = Server::start(&site.net, &config);
    let client = site.login_client(0, version).line("push-peer-info").line("setenv UV_COLOUR blue");
    let mut client = client.line("explicit-exit-notify 1").connect(&site.net, 0);
    let address = client.address();
    ping(&site.net.clients[0], "192.168.77.2");
    let call = site.hooks.calls("connect").remove(0);
    let missing: Vec<_> = CONNECT_VARIABLES.iter().filter(|name| !call.env.contains_key(**name)).collect();
    assert!(missing.is_empty(), "client-connect was not given {missing:?}; it had {:?}", call.env.keys());
    for (name, value) in [
        ("common_name", "client-0"),
        ("username", "user-0"),
        ("trusted_ip", "10.91.0.2"),
        ("script_type", "client-connect"),
        ("X509_0_CN", "client-0"),
        ("tls_serial_0", "100"),
        ("UV_COLOUR", "blue"),
        ("SITE_NAME", "berlin"),
        ("dev", "tun0"),
        ("ifconfig_pool_remote_ip", &address),
    ] {
        assert_eq!(call.var(name), value, "{name}");
    }
    assert!(!call.env.contains_key("password"), "client-connect was given the password");
    assert_eq!(call.args.last().map(String::as_str), Some(call.var("client_connect_config_file")));

    // The farewell: exactly one client-disconnect, with the counters.
    client.process.stop();
    let call = site.hooks.wait("disconnect", 1, SOON).remove(0);
    for name in ["bytes_received", "bytes_sent", "time_duration", "common_name", "ifconfig_pool_remote_ip"] {
        assert!(call.env.contains_key(name), "client-disconnect was not given {name}: {:?}", call.env.keys());
    }
    for name in ["bytes_received", "bytes_sent"] {
        assert!(call.var(name).parse::<u64>().expect("a number") > 1000, "{name} is {}", call.var(name));
    }
    ping_fails(&site.net.lan, &address);
    assert_eq!(site.hooks.calls("disconnect").len(), 1);
}

/// A hook that sleeps for client 0 delays no packet of client 1.
fn tesserad_only_slow_delays_nobody(version: Version) {
    let site = Site::new(2);
    let connect = site.hooks.script("connect", "[ \"$common_name\" = client-1 ] || sleep 3");
    let _server = Server::start(&site.net, &site.server().line(format!("client-connect {connect}")));
    let _other = site.client(1, version).connect(&site.net, 1);
    ping(&site.net.clients[1], "192.168.77.2");
    let mut slow = site.client(0, version).start(&site.net, 0);
    site.hooks.wait("connect", 2, SOON);
    let (answered, longest) = pings(&site.net.clients[1], "192.168.77.2", 20, 100);
    assert!(!slow.process.logged(&["PUSH_REPLY"]), "the pings were over only after the slow hook");
    assert_eq!(answered, 20);
    // Generous for a busy test machine, and far below the 3 s of the hook.
    assert!(longest < 500.0, "a ping took {longest} ms");
    slow.wait_up();
}

fn tesserad_only_hung(version: Version) {
    let site = Site::new(1);
    let connect = site.hooks.script("connect", "sleep 300 & sleep 300");
    let config = site.server().line(format!("client-connect {connect}")).own("hook-timeout", "3");
    let _server = Server::start(&site.net, &config);
    let mut client = site.client(0, version).start(&site.net, 0);
    let line = client.process.wait_for(&["AUTH_FAILED"], SOON);
    assert!(line.contains("AUTH_FAILED,TEMP"), "{line}");
    site.hooks.script("connect", "exit 0");
    client.wait_up();
}
