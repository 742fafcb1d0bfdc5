//! `client-config-dir` with `ifconfig-push` and `iroute`, `ifconfig-pool-persist`, `duplicate-cn`,
//! `username-as-common-name`.
//!
//! ```text
//!   net 10.66.1.0/24 ── client 0 ══╗
//!                                  gateway ── LAN host
//!                       client 1 ══╝
//! ```

use std::time::Duration;

use tessera_e2e::harness::{ClientConfig, Server, ServerConfig, Version, eventually, ping};
use tessera_e2e::{PASSWORD, Site};

const SOON: Duration = Duration::from_secs(25);

tessera_e2e::stock_clients!(
    ccd_address_and_iroute,
    ccd_exclusive,
    pool_persist,
    same_name_kicks,
    duplicate_cn,
    username_as_common_name
);

/// The server config with a folder of client configs, each a name and its text.
fn with_ccd(site: &Site, config: ServerConfig, files: &[(&str, &str)]) -> ServerConfig {
    let folder = site.net.folder().join("ccd");
    std::fs::create_dir_all(&folder).expect("a folder");
    for (name, text) in files {
        site.net.write(&format!("ccd/{name}"), text);
    }
    config.line(format!("client-config-dir {}", folder.display()))
}

fn ccd_address_and_iroute(version: Version) {
    let site = Site::new(1);
    let text = "ifconfig-push 10.8.0.77 255.255.255.0\nifconfig-ipv6-push fd08::77/64\n\
                iroute 10.66.1.0 255.255.255.0\npush \"route 10.98.0.0 255.255.0.0\"\n";
    let config = site.server().line("route 10.66.1.0 255.255.255.0");
    let _server = Server::start(&site.net, &with_ccd(&site, config, &[("client-0", text)]));
    let client = site.client(0, version).connect(&site.net, 0);
    assert_eq!((client.address().as_str(), client.address_v6().as_str()), ("10.8.0.77", "fd08::77"));
    assert_eq!(client.pushed("route 10.98.0.0").as_deref(), Some("255.255.0.0"));
    site.net.clients[0].ip("addr add 10.66.1.1/24 dev lo");
    ping(&site.net.lan, "10.8.0.77");
    ping(&site.net.lan, "fd08::77");
    ping(&site.net.lan, "10.66.1.1");
}

fn ccd_exclusive(version: Version) {
    let site = Site::new(2);
    let config = with_ccd(&site, site.server().line("ccd-exclusive"), &[("client-0", "")]);
    let _server = Server::start(&site.net, &config);
    let _known = site.client(0, version).connect(&site.net, 0);
    let mut unknown = site.client(1, version).start(&site.net, 1);
    unknown.process.wait_for(&["AUTH_FAILED"], SOON);
    assert!(!unknown.process.logged(&["PUSH_REPLY"]));
}

fn pool_persist(version: Version) {
    let site = Site::new(2);
    let file = site.net.folder().join("ipp.txt");
    let config = site.server().line(format!("ifconfig-pool-persist {} 1", file.display()));
    let mut server = Server::start(&site.net, &config);
    let a = site.client(0, version).connect(&site.net, 0);
    let b = site.client(1, version).connect(&site.net, 1);
    let addresses = [a.address(), b.address()];
    assert_ne!(addresses[0], addresses[1]);
    drop((a, b));
    server.process.stop();
    assert!(
        std::fs::read_to_string(&file).expect("the pool file").contains("client-0,"),
        "client-0 is remembered"
    );
    let _server = Server::start(&site.net, &config);
    // In the other order, so that handing out the first free address would swap them.
    let b = site.client(1, version).connect(&site.net, 1);
    let a = site.client(0, version).connect(&site.net, 0);
    assert_eq!([a.address(), b.address()], addresses);
}

/// Two clients with one certificate; each logs in as itself.
fn twins(site: &Site, version: Version) -> [ClientConfig; 2] {
    let identity = site.identity(0);
    [0, 1].map(|index| {
        let config = ClientConfig::new(&site.net, index, version).identity(&site.net, &identity);
        // The one that is kicked must not come back and kick in turn.
        config.line("ping-exit 300")
    })
}

fn same_name_kicks(version: Version) {
    let site = Site::new(2);
    let [_, connect, disconnect] = site.login_hooks();
    let config = site.server().line(format!("client-connect {connect}"));
    let _server = Server::start(&site.net, &config.line(format!("client-disconnect {disconnect}")));
    let [first, second] = twins(&site, version);
    let _first = first.connect(&site.net, 0);
    ping(&site.net.clients[0], "192.168.77.2");
    let _second = second.connect(&site.net, 1);
    let calls = site.hooks.wait("disconnect", 1, SOON);
    assert_eq!((calls.len(), calls[0].var("trusted_ip")), (1, "10.91.0.2"));
    ping(&site.net.clients[1], "192.168.77.2");
}

fn duplicate_cn(version: Version) {
    let site = Site::new(2);
    let _server = Server::start(&site.net, &site.server().line("duplicate-cn"));
    let [first, second] = twins(&site, version);
    let first = first.connect(&site.net, 0);
    let second = second.connect(&site.net, 1);
    assert_ne!(first.address(), second.address());
    ping(&site.net.clients[0], "192.168.77.2");
    ping(&site.net.clients[1], "192.168.77.2");
    ping(&site.net.lan, &first.address());
}

/// No certificate at all: the name is the user's, for hooks and for the folder of client configs.
fn username_as_common_name(version: Version) {
    let site = Site::new(1);
    let config = site.login_server().line("verify-client-cert none").line("username-as-common-name");
    let config = with_ccd(&site, config, &[("alice", "ifconfig-push 10.8.0.55 255.255.255.0\n")]);
    let _server = Server::start(&site.net, &config);
    let client = ClientConfig::new(&site.net, 0, version).login(&site.net, "alice", PASSWORD);
    let client = client.line("explicit-exit-notify 1");
    let mut client = client.connect(&site.net, 0);
    assert_eq!(client.address(), "10.8.0.55");
    assert_eq!(site.hooks.calls("connect")[0].var("common_name"), "alice");
    client.reconnect();
    ping(&site.net.clients[0], "192.168.77.2");
    client.process.stop();
    eventually("client-disconnect of alice", SOON, || {
        let calls = site.hooks.calls("disconnect");
        calls.last().filter(|call| call.var("common_name") == "alice").map(|_| ())
    });
}
