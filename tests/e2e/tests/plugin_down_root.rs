//! OpenVPN's down-root plugin, unmodified: its command runs when the gateway goes down.
//!
//! ```text
//!   gateway ── stop ──► openvpn-plugin-down-root.so ──► command
//! ```

use std::time::Duration;

use tessera_e2e::Site;
use tessera_e2e::harness::{Server, Version, ping};

tessera_e2e::stock_clients!(command_at_the_end);

fn command_at_the_end(version: Version) {
    let site = Site::new(1);
    let down = site.hooks.script("down", "exit 0");
    let config =
        site.server().line(format!("plugin /usr/lib/openvpn/openvpn-plugin-down-root.so {down} gone"));
    let mut server = Server::start(&site.net, &config);
    let client = site.client(0, version).connect(&site.net, 0);
    ping(&site.net.clients[0], "192.168.77.2");
    assert!(site.hooks.calls("down").is_empty(), "the command ran while the gateway was up");
    drop(client);
    server.process.stop();
    let calls = site.hooks.wait("down", 1, Duration::from_secs(10));
    assert_eq!(calls.len(), 1);
    assert_eq!(calls[0].args.first().map(String::as_str), Some("gone"));
}
