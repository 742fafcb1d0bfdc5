//! Many packets through the tunnel, either way, from the load generator: at a rate that any gateway keeps up with, every
//! packet arrives, and is what was sent.
//!
//! ```text
//!   load generator: 4 peers + 1 that probes ──► gateway ──► load generator: LAN host
//! ```

use std::time::Duration;

use tessera_e2e::Site;
use tessera_e2e::harness::{PORT, Server};
use tessera_load::data::report::DirectionReport;
use tessera_load::data::{self, DataPlan, DataReport, Direction, Far, Sizes};
use tessera_load::{Target, tls};
use tessera_proto::session::Credentials;

const PEERS: usize = 4;
/// Packets a second and direction: a debug build on a busy core does so many.
const RATE: f64 = 2000.0;
const TIME: Duration = Duration::from_secs(2);

/// A site with a gateway that lets one certificate in as often as it comes, and the usual plan for it.
fn site() -> (Site, Server, DataPlan) {
    let site = Site::new(1);
    let config = site
        .server()
        .line("duplicate-cn")
        .with("verb", "3")
        // A busy machine stops the gateway for a while: what waits for it then must not be dropped.
        .line("rcvbuf 33554432")
        .line("sndbuf 8388608")
        .line("txqueuelen 10000");
    let server = Server::start(&site.net, &config);
    let identity = site.identity(0);
    let pem = [&site.pki.ca, &identity.certificate, &identity.key].map(String::as_bytes);
    let target = Target {
        server: format!("10.91.0.1:{PORT}").parse().expect("an address"),
        tls: tls::client_config(pem[0], pem[1], pem[2]).expect("a TLS configuration"),
        credentials: Credentials::default(),
        limit: Duration::from_secs(20),
    };
    let far = Far::Gateway { target, lan_host: [192, 168, 77, 2].into() };
    let plan = DataPlan {
        peers: PEERS,
        time: TIME,
        rate: Some(RATE),
        probe_rate: 100,
        client_netns: Some(site.net.clients[0].name().to_owned()),
        lan_netns: Some(site.net.lan.name().to_owned()),
        ..DataPlan::new(far)
    };
    (site, server, plan)
}

fn run(plan: &DataPlan) -> DataReport {
    let report = data::run(plan, || ()).unwrap_or_else(|error| panic!("no run: {error}"));
    assert!(report.sessions_ended.is_empty(), "{report}");
    report
}

/// Nothing was lost, and it was as much as was asked for.
fn whole(report: &DataReport, direction: Option<&DirectionReport>, size: u64) {
    let got = direction.unwrap_or_else(|| panic!("not reported: {report}"));
    assert_eq!((got.lost_packets, got.refused, got.socket_drops, got.strays), (0, 0, 0, 0), "{report}");
    let wanted = RATE * TIME.as_secs_f64();
    assert!(got.offered_packets as f64 > wanted * 0.7, "{report}");
    assert_eq!(got.delivered_packets, got.offered_packets, "{report}");
    assert_eq!(got.delivered_bytes, got.delivered_packets * size, "{report}");
    assert_eq!(got.peers_heard, PEERS, "{report}");
    let latency = got.latency.unwrap_or_else(|| panic!("no latency: {report}"));
    assert!(latency.sent > 100 && latency.lost == 0 && latency.p50_us > 1.0, "{report}");
}

#[test]
fn up() {
    let (_site, _server, plan) = site();
    for (size, train) in [(1400, 8), (64, 1)] {
        let report = run(&DataPlan { sizes: Sizes::One(size), train, burst: 8, ..plan.clone() });
        whole(&report, report.up.as_ref(), size.into());
        assert_eq!(report.down, None);
    }
}

#[test]
fn down() {
    let (_site, _server, plan) = site();
    let plan = DataPlan { direction: Direction::Down, ..plan };
    for (size, train) in [(1400, 8), (64, 1)] {
        let report = run(&DataPlan { sizes: Sizes::One(size), train, burst: 8, ..plan.clone() });
        whole(&report, report.down.as_ref(), size.into());
        let down = report.down.as_ref().expect("reported");
        assert_eq!((down.id_gaps, down.bad_samples), (Some(0), Some(0)), "{report}");
        assert!(down.opened_samples > Some(0), "{report}");
    }
}

#[test]
fn both_ways_with_all_sizes_and_several_streams() {
    let (_site, _server, plan) = site();
    let plan = DataPlan { direction: Direction::Both, sizes: Sizes::Imix, train: 4, streams: 3, ..plan };
    let report = run(&plan);
    for direction in [&report.up, &report.down] {
        let got = direction.as_ref().expect("reported");
        assert_eq!((got.lost_packets, got.delivered_packets), (0, got.offered_packets), "{report}");
        let mean = got.delivered_bytes as f64 / got.delivered_packets as f64;
        assert!((mean / Sizes::Imix.mean() - 1.0).abs() < 0.05, "{mean} bytes on average: {report}");
    }
}

#[test]
fn idle_peers_stay() {
    let (_site, server, plan) = site();
    let mut ready = 0;
    let report = data::run(&DataPlan { idle: true, peers: 20, ..plan }, || ready += 1).expect("a run");
    assert_eq!((ready, report.peers), (1, 20));
    assert!(report.sessions_ended.is_empty() && report.seconds > 1.9, "{report}");
    drop(server);
}
