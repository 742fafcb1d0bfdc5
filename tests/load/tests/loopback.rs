//! The load generator against the protocol's server role, over loopback.

#![expect(clippy::unwrap_used, reason = "tests")]

mod server;

use rcgen::ExtendedKeyUsagePurpose;
use server::{Manners, PASSWORD, Pki, Server};
use std::collections::BTreeMap;
use std::net::UdpSocket;
use std::time::Duration;
use tessera_load::{End, Engine, Plan, Report, Target, tls};
use tessera_proto::Secret;
use tessera_proto::session::Credentials;

const TOKEN: &str = "load-token-0001";
const GOOD: Manners =
    Manners { token: Some(TOKEN), token_uses: usize::MAX, loses_every: None, never_pushes: false };

fn target(pki: &Pki, server: std::net::SocketAddr, password: &str) -> Target {
    Target {
        server,
        tls: tls::client_config(pki.ca.as_bytes(), pki.cert.as_bytes(), pki.key.as_bytes()).unwrap(),
        credentials: Credentials { username: "alice".into(), password: Secret::new(password.into()) },
        limit: Duration::from_secs(60),
    }
}

fn count(concurrency: usize, count: u64) -> Plan {
    Plan { concurrency, end: End::Count(count), rate: None, reconnects: 0 }
}

fn run(target: Target, plan: Plan) -> Report {
    Engine::new(target, plan).unwrap().run().unwrap()
}

fn pki() -> Pki {
    Pki::new(ExtendedKeyUsagePurpose::ServerAuth)
}

fn failures(report: &Report) -> Vec<(&str, u64)> {
    report.failures.iter().map(|(why, count)| (why.as_str(), *count)).collect()
}

#[test]
fn every_login_has_its_own_port_gets_its_token_and_says_goodbye() {
    let pki = pki();
    let server = Server::start(&pki, GOOD);
    let report = run(target(&pki, server.address, PASSWORD), count(8, 40));
    assert_eq!((report.logins, report.password_logins, report.failed), (40, 40, 0), "{report}");
    assert_eq!(report.goodbyes_unanswered, 0);
    let latency = report.password_latency_ms;
    assert!(0.0 < latency.p50 && latency.p50 <= latency.p99 && latency.p99 <= latency.max);
    assert!(report.client_cpu_s > 0.0 && report.elapsed_s > 0.0);
    let seen = server.seen();
    assert_eq!(seen.passwords, vec![PASSWORD; 40]);
    assert_eq!((seen.distinct_addresses(), seen.goodbyes), (40, 40));
}

#[test]
fn comes_back_with_the_token() {
    let pki = pki();
    let server = Server::start(&pki, GOOD);
    let plan = Plan { reconnects: 3, ..count(1, 8) };
    let report = run(target(&pki, server.address, PASSWORD), plan);
    assert_eq!((report.password_logins, report.token_logins, report.failed), (2, 6, 0), "{report}");
    assert!(report.token_latency_ms.p50 > 0.0);
    let (p, t) = (PASSWORD, TOKEN);
    assert_eq!(server.seen().passwords, [p, t, t, t, p, t, t, t]);
}

#[test]
fn a_refused_token_is_a_failure_of_its_own_kind() {
    let pki = pki();
    let server = Server::start(&pki, Manners { token_uses: 1, ..GOOD });
    let plan = Plan { reconnects: 3, ..count(1, 4) };
    let report = run(target(&pki, server.address, PASSWORD), plan);
    assert_eq!((report.password_logins, report.token_logins), (2, 1), "{report}");
    assert_eq!(failures(&report), [("with a token: AUTH_FAILED,go away", 1)]);
}

#[test]
fn a_wrong_password_is_counted_by_the_servers_words() {
    let pki = pki();
    let server = Server::start(&pki, GOOD);
    let report = run(target(&pki, server.address, "battery staple"), count(2, 5));
    assert_eq!((report.logins, report.failed), (0, 5));
    assert_eq!(failures(&report), [("AUTH_FAILED,go away", 5)]);
}

#[test]
fn a_login_without_a_token_does_not_count() {
    let pki = pki();
    let server = Server::start(&pki, Manners { token: None, ..GOOD });
    let report = run(target(&pki, server.address, PASSWORD), count(2, 5));
    assert_eq!(report.logins, 0);
    assert_eq!(report.failures, BTreeMap::from([("no auth-token in PUSH_REPLY".to_owned(), 5)]));
    assert_eq!(server.seen().goodbyes, 5, "it leaves all the same");
}

#[test]
fn losses_are_made_good_by_the_protocol() {
    let pki = pki();
    let server = Server::start(&pki, Manners { loses_every: Some(13), ..GOOD });
    let report = run(target(&pki, server.address, PASSWORD), count(20, 20));
    assert_eq!((report.logins, report.failed), (20, 0), "{report}");
    assert!(server.seen().lost > 5);
    assert!(report.password_latency_ms.max > 900.0, "something was sent again: {report}");
}

#[test]
fn nobody_there_is_a_timeout_and_not_the_end() {
    let pki = pki();
    // A port that was ours a moment ago: nobody listens there, and the kernel says so.
    let address = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let target = Target { limit: Duration::from_millis(300), ..target(&pki, address, PASSWORD) };
    let report = run(target, count(3, 3));
    assert_eq!(report.logins, 0);
    assert_eq!(failures(&report), [("handshake timed out", 3)]);
}

#[test]
fn a_server_that_never_pushes_is_a_timeout() {
    let pki = pki();
    let server = Server::start(&pki, Manners { never_pushes: true, ..GOOD });
    let target = Target { limit: Duration::from_secs(2), ..target(&pki, server.address, PASSWORD) };
    let report = run(target, count(2, 2));
    assert_eq!(failures(&report), [("no PUSH_REPLY in time", 2)]);
}

#[test]
fn a_server_with_a_clients_certificate_is_refused() {
    let pki = Pki::new(ExtendedKeyUsagePurpose::ClientAuth);
    let server = Server::start(&pki, GOOD);
    let report = run(target(&pki, server.address, PASSWORD), count(1, 1));
    assert_eq!(failures(&report), [("TLS failed", 1)]);
    assert!(server.seen().passwords.is_empty(), "the password was not sent");
}

#[test]
fn a_server_of_another_ca_is_refused() {
    let (ours, theirs) = (pki(), pki());
    let server = Server::start(&theirs, GOOD);
    let report = run(target(&ours, server.address, PASSWORD), count(1, 1));
    assert_eq!(failures(&report), [("TLS failed", 1)]);
}

#[test]
fn a_rate_is_kept() {
    let pki = pki();
    let server = Server::start(&pki, GOOD);
    let plan = Plan { rate: Some(20.0), ..count(64, 11) };
    let report = run(target(&pki, server.address, PASSWORD), plan);
    assert_eq!(report.logins, 11, "{report}");
    assert!(report.elapsed_s >= 0.5, "the eleventh begins after half a second: {report}");
}

#[test]
fn a_run_of_some_seconds_ends() {
    let pki = pki();
    let server = Server::start(&pki, GOOD);
    let plan = Plan { end: End::After(Duration::from_secs(1)), ..count(4, 0) };
    let report = run(target(&pki, server.address, PASSWORD), plan);
    assert!(report.logins > 4 && report.failed == 0, "{report}");
    assert!((0.9..5.0).contains(&report.elapsed_s), "{report}");
}
