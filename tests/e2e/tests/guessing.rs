//! Wrong passwords by the hundred for one user, whose token keeps working.
//!
//! ```text
//!   load client ── alice, wrong password ── as quickly as it can ──► gateway (own users, tokens)
//!   our client ─── alice, her token ── renegotiates, comes back, from the same address ──┘
//! ```

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tessera_e2e::harness::{Cli, PORT, Server};
use tessera_e2e::{OurClient, Outcome, PASSWORD, Site};
use tessera_load::{End, Engine, Plan, Target, tls};
use tessera_proto::Secret;
use tessera_proto::session::Credentials;

const SOON: Duration = Duration::from_secs(20);
/// So many guesses, in turns: each is a whole login, and a busy machine does fewer in the time that a test has.
const GUESSES: u64 = 10_000;
const TURN: Duration = Duration::from_secs(5);
const TURNS: usize = 9;
/// Guesses under way at a time.
const AT_ONCE: usize = 32;
/// Fewer than this would be no storm, on whatever machine.
const LEAST: u64 = 100;

/// Guesses from the namespace of client 0, and says so when it is `over`. Gives how many were refused and how many let in.
fn guess(site: &Site, over: Arc<AtomicBool>) -> std::thread::JoinHandle<(u64, u64)> {
    let identity = site.pki.client("mallory", 666);
    let pem = [site.pki.ca.clone(), identity.certificate, identity.key];
    site.net.clients[0].spawn(move || {
        let [ca, certificate, key] = pem.each_ref().map(String::as_bytes);
        let target = Target {
            server: format!("10.91.0.1:{PORT}").parse().expect("an address"),
            tls: tls::client_config(ca, certificate, key).expect("a TLS configuration"),
            credentials: Credentials { username: "alice".into(), password: Secret::new("guess-4e1b".into()) },
            limit: SOON,
        };
        let plan = Plan { concurrency: AT_ONCE, end: End::After(TURN), rate: None, reconnects: 0 };
        let (mut refused, mut let_in) = (0, 0);
        for _ in 0..TURNS {
            let report = Engine::new(target.clone(), plan).and_then(Engine::run).expect("a run of guesses");
            refused += report.failed;
            let_in += report.logins;
            if refused >= GUESSES {
                break;
            }
        }
        over.store(true, Ordering::Release);
        (refused, let_in)
    })
}

#[test]
fn tesserad_only_storm_of_wrong_passwords() {
    let site = Site::new(1);
    let cli = Cli::new(&site.net);
    let config = site.account_server(&cli).line("connect-freq-initial 100000 10").with("verb", "3");
    let _server = Server::start(&site.net, &config);
    cli.add_user("alice", PASSWORD, false);
    let client = OurClient::new(&site, 0, &site.identity(0));
    let (mut session, outcome) = client.login(&site, "alice", PASSWORD, SOON);
    assert_eq!(outcome, Outcome::In);

    let over = Arc::new(AtomicBool::new(false));
    let guesses = guess(&site, Arc::clone(&over));
    let (mut renegotiations, mut reconnects) = (0, 0);
    while !over.load(Ordering::Acquire) {
        session.run(Duration::from_millis(500));
        assert!(session.renegotiate(SOON), "the token was refused: {:?}", session.decided());
        renegotiations += 1;
        let token = session.token();
        session.leave();
        let (again, outcome) = client.login(&site, "alice", &token, SOON);
        assert_eq!(outcome, Outcome::In, "reconnect {reconnects} with the token");
        session = again;
        reconnects += 1;
    }
    let (refused, let_in) = guesses.join().expect("the guesses' thread");
    println!("{refused} guesses, {renegotiations} renegotiations, {reconnects} reconnects");
    assert_eq!(let_in, 0, "a guess was let in");
    assert!(refused >= LEAST, "only {refused} guesses");
    assert!(
        renegotiations >= 3 && reconnects >= 3,
        "{renegotiations} renegotiations, {reconnects} reconnects"
    );

    // The storm was seen as one: the right password from here has to wait, the token does not.
    let (_refused, outcome) = client.login(&site, "alice", PASSWORD, SOON);
    assert!(matches!(outcome, Outcome::Refused(_)), "{outcome:?}: nobody was locked out");
    assert!(session.renegotiate(SOON), "the token was refused: {:?}", session.decided());
    session.leave();
}
