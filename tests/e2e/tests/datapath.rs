//! Which rung of the data path a gateway takes, what it says about it, and that each carries what it should.

use std::time::Duration;

use tessera_e2e::Site;
use tessera_e2e::harness::{Cli, Server, Version, both_ways, ping, transfer};

const SOON: Duration = Duration::from_secs(20);
/// Enough for many full trains.
const BYTES: u64 = 4 << 20;

tessera_e2e::stock_clients!(every_rung_carries, workers_share_clients, large_and_small_links);

/// Takes the right to load BPF programs away from root.
const WITHOUT_BPF: [&str; 3] =
    ["setpriv", "--bounding-set=-bpf,-sys_admin,-perfmon", "--inh-caps=-bpf,-sys_admin,-perfmon"];

/// The highest rung is taken; without the right for it the next one, and the reason names the right.
#[test]
fn the_highest_that_works_is_taken() {
    let site = Site::new(1);
    let cli = Cli::new(&site.net);
    let config = site.server().own("control-socket", cli.socket()).own("datapath", "auto");
    let mut server = Server::start(&site.net, &config);
    let status = cli.run("status")["status"].take();
    assert_eq!(status["rung"], "steered", "{status}");
    assert_eq!(cli.metric("tessera_datapath_rung{rung=\"steered\"}"), 1);
    assert!(server.process.logged(&["data path: rung steered"]));
    server.process.stop();

    let mut server = Server::launch_by(&site.net, &config, &WITHOUT_BPF);
    server.process.wait_for(&["Initialization Sequence Completed"], SOON);
    let status = cli.run("status")["status"].take();
    assert_eq!(status["rung"], "offload", "{status}");
    let reason = status["rung_reason"].as_str().unwrap_or_default().to_owned();
    assert!(reason.contains("CAP_BPF"), "{reason}");
    assert!(server.process.logged(&["data path: rung offload", &reason]));
    assert_eq!(cli.metric("tessera_datapath_rung{rung=\"steered\"}"), 0);
    let client = site.client(0, Version::V2_6).connect(&site.net, 0);
    ping(&site.net.lan, &client.address());
}

/// A rung that was asked for is used, or the start fails and says why.
#[test]
fn a_rung_that_was_asked_for_is_a_must() {
    let site = Site::new(1);
    let cli = Cli::new(&site.net);
    for rung in ["basic", "offload"] {
        let config = site.server().own("control-socket", cli.socket()).own("datapath", rung);
        let mut server = Server::start(&site.net, &config);
        assert_eq!(cli.run("status")["status"]["rung"], rung);
        server.process.stop();
    }
    let mut server = Server::launch_by(&site.net, &site.server().own("datapath", "steered"), &WITHOUT_BPF);
    let status = server.process.wait_end(SOON);
    assert!(!status.success());
    assert!(server.process.logged(&["datapath steered", "CAP_BPF"]), "{}", server.process.log());
}

/// From rung `offload` on packets travel in groups, both ways, and everything arrives.
fn every_rung_carries(version: Version) {
    for rung in ["basic", "offload", "steered"] {
        let site = Site::new(1);
        let cli = Cli::new(&site.net);
        let config = site.server().own("control-socket", cli.socket()).own("datapath", rung);
        let _server = Server::start(&site.net, &config);
        let client = site.client(0, version).connect(&site.net, 0);
        let (client_ns, lan) = (&site.net.clients[0], &site.net.lan);
        transfer(client_ns, lan, "192.168.77.2", BYTES);
        transfer(lan, client_ns, &client.address(), BYTES);
        let mean = |place: &str| {
            let of =
                |part: &str| cli.metric(&format!("tessera_data_batch_packets_{part}{{place=\"{place}\"}}"));
            of("sum") as f64 / of("count").max(1) as f64
        };
        // The queues count what they have sent a second late.
        std::thread::sleep(Duration::from_millis(1500));
        let (read, sent) = (mean("tun_read"), mean("udp_send"));
        if rung == "basic" {
            assert_eq!((read, sent), (1.0, 1.0));
        } else {
            assert!(read > 2.0 && sent > 2.0, "{rung}: {read} packets a read, {sent} datagrams a train");
        }
        if rung == "steered" {
            let seen = |program: &str, verdict: &str| {
                let name = "tessera_bpf_packets_total";
                cli.metric(&format!("{name}{{program=\"{program}\",verdict=\"{verdict}\"}}"))
            };
            assert!(seen("tcx_guard", "data") > 100);
            assert!(seen("reuseport_select", "data") > 100);
            assert!(seen("tun_steer", "addressed") > 10);
        }
    }
}

/// Two workers, four clients that talk to the LAN and to one another; steered packets need not be handed over.
fn workers_share_clients(version: Version) {
    let site = Site::new(4);
    let cli = Cli::new(&site.net);
    let config =
        site.server().own("control-socket", cli.socket()).own("workers", "2").line("client-to-client");
    let _server = Server::start(&site.net, &config);
    let clients: Vec<_> = (0..4).map(|i| site.client(i, version).connect(&site.net, i)).collect();
    let lan = &site.net.lan;
    for (client, ns) in clients.iter().zip(&site.net.clients) {
        both_ways(ns, &client.address(), lan, "192.168.77.2", BYTES / 8);
    }
    let detours = || cli.metric("tessera_data_events_total{event=\"handed_over\"}");
    let from_lan = detours();
    if cli.run("status")["status"]["rung"] == "steered" {
        assert_eq!(from_lan, 0, "the kernel knows the owner");
    }
    // Neighbours have different workers.
    let [a, b] = [0, 1].map(|i| (&site.net.clients[i], clients[i].address()));
    both_ways(a.0, &a.1, b.0, &b.1, BYTES / 8);
    assert!(detours() > from_lan, "packets of one worker's client for another's");
    assert_eq!(cli.metric("tessera_data_drops_total{reason=\"handover_full\"}"), 0);
}

/// Inner packets that are longer than the outer link takes at once, and a tunnel with a large MTU.
fn large_and_small_links(version: Version) {
    let site = Site::new(1);
    let config = site.server().line("mssfix 0").line("push \"mssfix 0\"");
    let _server = Server::start(&site.net, &config);
    let client = site.client(0, version).line("mssfix 0").connect(&site.net, 0);
    let (ns, lan) = (&site.net.clients[0], &site.net.lan);
    // Each full segment makes a datagram of more than 1500 bytes: trains cannot be, and each is fragmented.
    both_ways(ns, &client.address(), lan, "192.168.77.2", BYTES / 8);
    for size in ["1472", "1400", "1", "0"] {
        ns.run(&["ping", "-c", "2", "-i", "0.2", "-W", "2", "-s", size, "192.168.77.2"]);
        lan.run(&["ping", "-c", "2", "-i", "0.2", "-W", "2", "-s", size, &client.address()]);
    }
}
