//! Nothing is compressed: a client that insists on compression framing is moved to one without.
//!
//! ```text
//!   client 0 (comp-lzo no) ── OCC "comp-lzo" ──► gateway ── push "compress stub-v2" ──► client 0
//! ```

use tessera_e2e::Site;
use tessera_e2e::harness::{Server, Version, both_ways};

tessera_e2e::stock_clients!(moved_to_no_framing);

fn moved_to_no_framing(version: Version) {
    case(version);
}

#[test]
fn tesserad_only_client_2_5() {
    case(Version::V2_5);
}

fn case(version: Version) {
    let site = Site::new(1);
    let _server = Server::start(&site.net, &site.server().line("compress migrate"));
    let client = site.client(0, version).line("comp-lzo no").connect(&site.net, 0);
    assert_eq!(client.pushed("compress").as_deref(), Some("stub-v2"));
    both_ways(&site.net.clients[0], &client.address(), &site.net.lan, "192.168.77.2", 1_000_000);
}
