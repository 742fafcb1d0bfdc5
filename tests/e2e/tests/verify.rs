//! The other hooks of a login: certificates, wrapped client keys, addresses.
//!
//! ```text
//!   client 0 ── WKc ──► tls-crypt-v2-verify ── chain ──► tls-verify ── addresses ──► learn-address
//! ```

use std::time::Duration;

use tessera_e2e::Site;
use tessera_e2e::harness::{Server, Version, genkey, pause, ping};

const SOON: Duration = Duration::from_secs(20);

tessera_e2e::stock_clients!(certificates, refused_certificate, addresses, wrapped_keys);

fn certificates(version: Version) {
    let site = Site::new(1);
    let verify = site.hooks.script("tls", "exit 0");
    let _server = Server::start(&site.net, &site.server().line(format!("tls-verify {verify}")));
    let _client = site.client(0, version).connect(&site.net, 0);
    let calls = site.hooks.calls("tls");
    let arguments: Vec<_> = calls.iter().map(|call| call.args.join(" ")).collect();
    assert_eq!(arguments.len(), 2, "the CA and the client: {arguments:?}");
    assert!(arguments[0].starts_with("1 ") && arguments[0].contains("CN=Tessera test CA"), "{arguments:?}");
    assert!(arguments[1].starts_with("0 ") && arguments[1].contains("CN=client-0"), "{arguments:?}");
    assert_eq!(calls[1].var("X509_0_CN"), "client-0");
}

fn refused_certificate(version: Version) {
    let site = Site::new(1);
    let verify = site.hooks.script("tls", "[ \"$1\" = 1 ]");
    let _server = Server::start(&site.net, &site.server().line(format!("tls-verify {verify}")));
    let client = site.client(0, version).start(&site.net, 0);
    site.hooks.wait("tls", 2, SOON);
    pause(Duration::from_secs(3));
    assert!(!client.process.logged(&["Initialization Sequence Completed"]), "a refused client got in");
}

fn addresses(version: Version) {
    let site = Site::new(1);
    let learn = site.hooks.script("learn", "exit 0");
    let server = site.server().line(format!("learn-address {learn}"));
    let _server = Server::start(&site.net, &server);
    let mut client = site.client(0, version).line("explicit-exit-notify 1").connect(&site.net, 0);
    let address = client.address();
    ping(&site.net.clients[0], "192.168.77.2");
    let added = site.hooks.calls("learn");
    assert_eq!(added[0].args, ["add", &address, "client-0"]);
    let before = added.len();
    client.process.stop();
    let calls = site.hooks.wait("learn", before * 2, SOON);
    assert_eq!(calls[before].args, ["delete", &address]);
}

fn wrapped_keys(version: Version) {
    let site = Site::new(1);
    let server_key = genkey(&site.net, "tls-crypt-v2-server", "v2-server.key", None);
    let client_key = genkey(&site.net, "tls-crypt-v2-client", "v2-client.key", Some(&server_key));
    let verify = site.hooks.script("key", "exit 0");
    let server = site
        .server()
        .line(format!("tls-crypt-v2 {server_key}"))
        .line(format!("tls-crypt-v2-verify {verify}"));
    let server = Server::start(&site.net, &server);
    let client = site.client(0, version).line(format!("tls-crypt-v2 {client_key}"));
    drop(client.connect(&site.net, 0));
    let call = site.hooks.calls("key").remove(0);
    // The key was made with its time of creation as metadata.
    assert_eq!(call.var("metadata_type"), "1");
    assert!(!call.var("metadata_file").is_empty());
    site.hooks.script("key", "exit 1");
    let client = client.start(&site.net, 0);
    site.hooks.wait("key", 2, SOON);
    pause(Duration::from_secs(2));
    assert!(!client.process.logged(&["VERIFY OK"]), "TLS began for a refused key");
    drop(server);
}
