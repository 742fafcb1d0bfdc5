//! Both input/output engines of the control plane carry a login, a renegotiation and traffic.
//!
//! ```text
//!   client 0 ── gateway (io uring | io epoll) ── LAN host
//! ```

use std::time::Duration;

use tessera_e2e::Site;
use tessera_e2e::harness::{Server, Version, ping};

tessera_e2e::stock_clients!(tesserad_only_uring, tesserad_only_epoll);

fn tesserad_only_uring(version: Version) {
    case(version, "uring");
}

fn tesserad_only_epoll(version: Version) {
    case(version, "epoll");
}

fn case(version: Version, engine: &str) {
    let site = Site::new(1);
    let server = Server::start(&site.net, &site.login_server().own("io", engine).line("reneg-sec 0"));
    assert!(server.process.logged(&["io", engine]), "the log says which engine is live");
    let mut client = site.login_client(0, version).line("reneg-sec 5").connect(&site.net, 0);
    ping(&site.net.clients[0], "192.168.77.2");
    client.wait_negotiations(2, Duration::from_secs(20));
    ping(&site.net.clients[0], "192.168.77.2");
}
