//! `port-share`: a web server behind the port of the gateway.
//!
//! ```text
//!   client 0 ── GET ──► gateway:1194 ──► 127.0.0.1:8080, python3 -m http.server
//!   client 1 ══ OpenVPN ══╝
//! ```

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::time::Duration;

use tessera_e2e::Site;
use tessera_e2e::harness::{Cli, PORT, Process, Server, Version, eventually, ping};

const SOON: Duration = Duration::from_secs(15);
/// Larger than any buffer on the way.
const PAGE: usize = 3_000_000;

tessera_e2e::stock_clients!(tesserad_only_web_server);

/// A connection as a browser's.
fn connect(site: &Site) -> TcpStream {
    site.net.clients[0].within(|| {
        let stream = TcpStream::connect(format!("10.91.0.1:{PORT}")).expect("a connection");
        stream.set_read_timeout(Some(SOON)).expect("a time limit");
        stream
    })
}

fn files(folder: &Path) -> Vec<(String, String)> {
    let entries = std::fs::read_dir(folder).expect("a folder");
    let read = |entry: std::io::Result<std::fs::DirEntry>| {
        let entry = entry.expect("an entry");
        let content = std::fs::read_to_string(entry.path()).unwrap_or_default();
        (entry.file_name().to_string_lossy().into_owned(), content)
    };
    entries.map(read).collect()
}

fn tesserad_only_web_server(version: Version) {
    let site = Site::new(2);
    let cli = Cli::new(&site.net);
    let page = "tessera ".repeat(PAGE / 8);
    for folder in ["web", "origins"] {
        std::fs::create_dir(site.net.folder().join(folder)).expect("a folder");
    }
    site.net.write("web/page.txt", &page);
    let (web, origins) = (site.net.folder().join("web"), site.net.folder().join("origins"));
    let argv = ["python3", "-u", "-m", "http.server", "8080", "--bind", "127.0.0.1", "--directory"];
    let argv = [&argv[..], &[web.to_str().expect("a UTF-8 path")]].concat();
    let mut server =
        Process::start("web server", &site.net.gateway, &argv, &site.net.folder().join("web.log"));
    server.wait_for(&["Serving HTTP"], SOON);
    let config = site
        .server()
        .with("proto", "tcp4-server")
        .own("control-socket", cli.socket())
        .line(format!("port-share 127.0.0.1 8080 {}", origins.display()));
    let gateway = Server::start(&site.net, &config);
    let _client = site.client(1, version).over("tcp4-client").connect(&site.net, 1);

    // While a browser keeps its connection, its origin can be looked up.
    let mut browser = connect(&site);
    browser.write_all(b"GET /page.txt HTTP/1.1\r\nHost: x\r\n").expect("sent");
    let (name, content) =
        eventually("its origin", SOON, || files(&origins).pop().filter(|(_, content)| !content.is_empty()));
    assert_eq!(cli.metric("tessera_port_share_active"), 1);
    assert!(name.starts_with("[AF_INET]127.0.0.1:"), "{name}");
    assert_eq!(content, format!("[AF_INET]{}", browser.local_addr().expect("an address")));
    browser.write_all(b"Connection: close\r\n\r\n").expect("sent");
    let mut answer = String::new();
    browser.read_to_string(&mut answer).expect("an answer");
    let (head, body) = answer.split_once("\r\n\r\n").expect("head and body");
    assert!(head.contains("200 OK"), "{head}");
    assert!(body == page, "{} of {} bytes, or others", body.len(), page.len());
    drop(browser);
    eventually("its file is gone", SOON, || files(&origins).is_empty().then_some(()));

    // The port is a client's as well, also for one that comes meanwhile.
    ping(&site.net.clients[1], "192.168.77.2");
    let waiting = connect(&site);
    (&waiting).write_all(b"POST / HTTP/1.1\r\n").expect("sent");
    let again = site.client(0, version).over("tcp4-client").connect(&site.net, 0);
    ping(&site.net.clients[0], "192.168.77.2");
    assert_eq!(cli.metric("tessera_port_share_connections_total{outcome=\"proxied\"}"), 2);
    assert_eq!(cli.metric("tessera_stream_connections_total{event=\"foreign\"}"), 2);
    assert!(cli.metric("tessera_port_share_bytes_total{direction=\"to_client\"}") > PAGE as u64);
    assert_eq!(cli.metric("tessera_stream_connections"), 2);
    drop((again, gateway));
    assert!(files(&origins).is_empty(), "a stop leaves no file");
}
