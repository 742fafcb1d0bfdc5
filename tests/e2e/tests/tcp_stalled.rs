//! A TCP client that reads nothing: its data is dropped, and it is nobody else's trouble.
//!
//! ```text
//!   LAN host ── datagrams without end ──► gateway ══✗══ client 0 (stopped)
//!       └────── ping, transfer ─────────► gateway ═════ client 1
//! ```

use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use nix::sys::signal::Signal;
use tessera_e2e::Site;
use tessera_e2e::harness::{Cli, Server, Version, eventually, pause, ping, pings, transfer};

const SOON: Duration = Duration::from_secs(20);
const BYTES: u64 = 10 * 1000 * 1000;
/// Between two bursts of the flood, and how many datagrams each has: some 20 Mbit/s, far beyond what buffers hold.
const PAUSE: Duration = Duration::from_millis(10);
const BURST: usize = 20;
/// Longest answer to a ping of the other client. Far below what a worker that waits for the stalled one would show, and
/// above what a busy machine adds.
const SLOWEST_MS: f64 = 1000.0;

tessera_e2e::stock_clients!(tesserad_only_harms_nobody);

fn tesserad_only_harms_nobody(version: Version) {
    let site = Site::new(2);
    let cli = Cli::new(&site.net);
    // One worker for both clients: the harm would be greatest.
    let config =
        site.server().with("proto", "tcp4-server").own("control-socket", cli.socket()).own("workers", "1");
    let _server = Server::start(&site.net, &config);
    let lazy = site.client(0, version).over("tcp4-client").connect(&site.net, 0);
    let busy = site.client(1, version).over("tcp4-client").connect(&site.net, 1);
    ping(&site.net.clients[0], "192.168.77.2");
    let dropped = || cli.metric("tessera_data_drops_total{reason=\"stream_full\"}");
    assert_eq!(dropped(), 0);

    lazy.process.signal(Signal::SIGSTOP);
    let over = Arc::new(AtomicBool::new(false));
    let to: SocketAddr = format!("{}:9", lazy.address()).parse().expect("an address");
    let until = Arc::clone(&over);
    let flood = site.net.lan.spawn(move || {
        let socket = UdpSocket::bind("0.0.0.0:0").expect("a socket");
        while !until.load(Ordering::Relaxed) {
            for _ in 0..BURST {
                // "Port unreachable", later on, is no fault.
                let _ = socket.send_to(&[0x55; 1200], to);
            }
            pause(PAUSE);
        }
    });
    eventually("data is dropped", SOON, || (dropped() > 100).then_some(()));
    let (answered, slowest) = pings(&site.net.clients[1], "192.168.77.2", 40, 50);
    assert_eq!(answered, 40);
    assert!(slowest < SLOWEST_MS, "{slowest} ms");
    transfer(&site.net.lan, &site.net.clients[1], &busy.address(), BYTES);
    transfer(&site.net.clients[1], &site.net.lan, "192.168.77.2", BYTES);
    over.store(true, Ordering::Relaxed);
    flood.join().expect("the flood ends");

    let (mark, before) = (lazy.process.mark(), dropped());
    assert!(before > 100);
    lazy.process.signal(Signal::SIGCONT);
    ping(&site.net.clients[0], "192.168.77.2");
    transfer(&site.net.lan, &site.net.clients[0], &lazy.address(), BYTES);
    let log = lazy.process.log();
    let after = log.get(mark..).unwrap_or_default();
    for wrong in ["bad packet ID", "Replay", "replay", "packet error", "Bad encapsulated", "Initialization"] {
        assert!(!after.contains(wrong), "{wrong}");
    }
    assert_eq!(cli.metric("tessera_stream_connections"), 2);
    assert_eq!(cli.metric("tessera_stream_connections_total{event=\"stalled\"}"), 0);
}
