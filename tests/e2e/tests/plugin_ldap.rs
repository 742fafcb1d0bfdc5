//! Debian's `openvpn-auth-ldap`, unmodified, against a directory.
//!
//! ```text
//!   client 0 ── password ──► openvpn-auth-ldap.so ── bind ──► slapd on the gateway's loopback
//! ```

use std::time::Duration;

use tessera_e2e::harness::{Directory, Server, Version, ping};
use tessera_e2e::{PASSWORD, Site};

const SOON: Duration = Duration::from_secs(30);

tessera_e2e::stock_clients!(password, directory_away);

fn password(version: Version) {
    let site = Site::new(1);
    let directory = Directory::start(&site.net, &[("user-0", PASSWORD)]);
    let config = site.server().line(format!(
        "plugin /usr/lib/openvpn/openvpn-auth-ldap.so {}",
        Directory::plugin_config(&site.net)
    ));
    let _server = Server::start(&site.net, &config);
    let mut client = site.client(0, version).login(&site.net, "user-0", "wrong-9f3c").start(&site.net, 0);
    client.process.wait_for(&["AUTH_FAILED"], SOON);
    drop(client);
    let mut client = site.client(0, version).login(&site.net, "user-1", PASSWORD).start(&site.net, 0);
    client.process.wait_for(&["AUTH_FAILED"], SOON);
    drop(client);
    let _client = site.login_client(0, version).connect(&site.net, 0);
    ping(&site.net.clients[0], "192.168.77.2");
    assert!(directory.process.logged(&["BIND dn=\"uid=user-0,ou=people,dc=tessera,dc=test\""]));
}

/// Without its directory the plugin lets nobody in; when it is back, so are the users.
fn directory_away(version: Version) {
    let site = Site::new(1);
    let users = [("user-0", PASSWORD)];
    let config = site.server().line(format!(
        "plugin /usr/lib/openvpn/openvpn-auth-ldap.so {}",
        Directory::plugin_config(&site.net)
    ));
    let _server = Server::start(&site.net, &config);
    let mut client = site.login_client(0, version).start(&site.net, 0);
    client.process.wait_for(&["AUTH_FAILED"], SOON);
    drop(client);
    let _directory = Directory::start(&site.net, &users);
    let _client = site.login_client(0, version).connect(&site.net, 0);
}
