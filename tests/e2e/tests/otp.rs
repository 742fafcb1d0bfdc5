//! The gateway's own users and one-time codes: asked once, in each of the four ways; from then on the token counts.
//!
//! ```text
//!   client 0 ── password and code ──► gateway (auth-file) ──► auth-token
//!       └── token at renegotiations, at SIGUSR1 ──► gateway: nobody is asked again
//! ```

use std::time::Duration;

use tessera_e2e::harness::{Cli, Client, NewUser, Server, Version, ping, scrv1, totp, unix_time};
use tessera_e2e::{PASSWORD, Site};

const SOON: Duration = Duration::from_secs(30);
const USER: &str = "alice";

tessera_e2e::stock_clients!(
    tesserad_only_code_behind_the_password,
    tesserad_only_static_challenge,
    tesserad_only_dynamic_challenge,
    tesserad_only_asked_within_the_login,
    tesserad_only_asked_once,
    tesserad_only_wrong_answers,
    tesserad_only_code_counts_once,
    tesserad_only_password_alone,
    tesserad_only_counter
);

/// A site, its gateway and the command, with one user who needs codes.
struct Accounts {
    alice: NewUser,
    _server: Server,
    site: Site,
    cli: Cli,
}

impl Accounts {
    fn new(clients: usize) -> Self {
        let site = Site::new(clients);
        let cli = Cli::new(&site.net);
        let server = Server::start(&site.net, &site.account_server(&cli));
        let alice = cli.add_user(USER, PASSWORD, true);
        assert!(
            alice.uri.starts_with("otpauth://totp/") && alice.uri.contains(&alice.secret),
            "{}",
            alice.uri
        );
        Self { alice, _server: server, site, cli }
    }

    fn code(&self) -> String {
        totp(&self.alice.secret, unix_time())
    }

    /// The tunnel works; two renegotiations and a reconnect later it does too, and the user was asked `prompts` times.
    fn stays(&self, client: &mut Client, prompts: usize) {
        let done = client.process.count("Control Channel: TLSv1");
        for round in 1..=2 {
            client.wait_negotiations(done + round, SOON);
            ping(&self.site.net.clients[0], "192.168.77.2");
        }
        client.reconnect();
        ping(&self.site.net.clients[0], "192.168.77.2");
        assert!(prompts == 0 || client.management().prompts() == prompts, "the user was asked again");
    }
}

fn tesserad_only_code_behind_the_password(version: Version) {
    let accounts = Accounts::new(1);
    let site = &accounts.site;
    let password = format!("{PASSWORD}{}", accounts.code());
    let config = site.client(0, version).login(&site.net, USER, &password).line("reneg-sec 5");
    let mut client = config.connect(&site.net, 0);
    accounts.stays(&mut client, 0);
    assert!(!client.process.logged(&["AUTH_FAILED"]));
}

fn tesserad_only_static_challenge(version: Version) {
    let accounts = Accounts::new(1);
    let site = &accounts.site;
    let config = site.client(0, version).managed().line("static-challenge Code 1").line("reneg-sec 5");
    let mut client = config.start(&site.net, 0);
    client.management().login(1, USER, &scrv1(PASSWORD, &accounts.code()), SOON);
    client.wait_up();
    accounts.stays(&mut client, 1);
}

/// The state and the question of the `nth` refusal that asks for a code.
fn asked(client: &Client, nth: usize) -> String {
    let line = client.management().wait_nth(">PASSWORD:Verification Failed: 'Auth' ['CRV1:", nth, SOON);
    let challenge = line.split_once("['CRV1:").expect("just found").1.trim_end_matches("']");
    let mut parts = challenge.splitn(4, ':');
    assert!(parts.next().is_some_and(|flags| flags.contains('R')), "{line}");
    let state = parts.next().expect("a state").to_owned();
    assert_eq!(parts.next(), Some("YWxpY2U="), "the user's name in base64");
    assert!(parts.next().is_some_and(|question| !question.is_empty()), "{line}");
    state
}

fn tesserad_only_dynamic_challenge(version: Version) {
    let accounts = Accounts::new(1);
    let site = &accounts.site;
    let mut client = site.client(0, version).managed().line("reneg-sec 5").start(&site.net, 0);
    client.management().login(1, USER, PASSWORD, SOON);
    let state = asked(&client, 1);
    client.management().login(2, USER, &format!("CRV1::{state}::{}", accounts.code()), SOON);
    client.wait_up();
    accounts.stays(&mut client, 2);
}

fn tesserad_only_asked_within_the_login(version: Version) {
    let accounts = Accounts::new(1);
    let site = &accounts.site;
    let config = site.client(0, version).managed().announces("crtext").line("reneg-sec 5");
    let mut client = config.start(&site.net, 0);
    client.management().login(1, USER, PASSWORD, SOON);
    let question = client.management().challenge(1, &accounts.code(), SOON);
    assert!(question.starts_with("R"), "an answer is wanted: {question}");
    client.wait_up();
    accounts.stays(&mut client, 1);
    assert_eq!(client.management().count("CR_TEXT"), 1);
}

/// Ten renegotiations and a reconnect.
fn tesserad_only_asked_once(version: Version) {
    let accounts = Accounts::new(1);
    let site = &accounts.site;
    let config = site.client(0, version).managed().announces("crtext").line("reneg-sec 5");
    let mut client = config.start(&site.net, 0);
    client.management().login(1, USER, PASSWORD, SOON);
    client.management().challenge(1, &accounts.code(), SOON);
    client.wait_up();
    for round in 1..=10 {
        client.wait_negotiations(1 + round, SOON);
        ping(&site.net.clients[0], "192.168.77.2");
    }
    client.reconnect();
    ping(&site.net.clients[0], "192.168.77.2");
    assert_eq!(client.management().prompts(), 1);
    assert_eq!(client.management().count("CR_TEXT"), 1);
    assert_eq!(site.hooks.calls("connect").len(), 2);
}

fn tesserad_only_wrong_answers(version: Version) {
    let accounts = Accounts::new(1);
    let site = &accounts.site;
    let mut client = site.client(0, version).managed().start(&site.net, 0);
    client.management().login(1, USER, "wrong-9f3c", SOON);
    client.management().wait_nth(">PASSWORD:Verification Failed: 'Auth'", 1, SOON);
    assert_eq!(client.management().count("CRV1"), 0, "who does not know the password is asked for no code");
    client.management().login(2, USER, PASSWORD, SOON);
    let state = asked(&client, 1);
    let wrong = if accounts.code() == "000000" { "111111" } else { "000000" };
    client.management().login(3, USER, &format!("CRV1::{state}::{wrong}"), SOON);
    client.management().wait_nth(">PASSWORD:Verification Failed: 'Auth'", 3, SOON);
    // A state is good for one answer, also for a right one.
    client.management().login(4, USER, &format!("CRV1::{state}::{}", accounts.code()), SOON);
    client.management().wait_nth(">PASSWORD:Verification Failed: 'Auth'", 4, SOON);
    assert!(!client.process.logged(&["PUSH_REPLY"]), "something was pushed to a client that is not let in");
    client.management().login(
        5,
        USER,
        &scrv1(PASSWORD, &totp(&accounts.alice.secret, unix_time() + 30)),
        SOON,
    );
    client.wait_up();
}

/// Whoever has seen a code typed in cannot use it.
fn tesserad_only_code_counts_once(version: Version) {
    let accounts = Accounts::new(2);
    let site = &accounts.site;
    let code = accounts.code();
    let password = format!("{PASSWORD}{code}");
    let _client = site.client(0, version).login(&site.net, USER, &password).connect(&site.net, 0);
    let mut other = site.client(1, version).login(&site.net, USER, &password).start(&site.net, 1);
    other.process.wait_for(&["AUTH_FAILED"], SOON);
    assert!(!other.process.logged(&["PUSH_REPLY"]), "something was pushed to a client that is not let in");
}

/// A user without codes needs none, and one with codes does not get in without.
fn tesserad_only_password_alone(version: Version) {
    let accounts = Accounts::new(2);
    let site = &accounts.site;
    accounts.cli.add_user("bob", PASSWORD, false);
    let mut alice = site.client(0, version).login(&site.net, USER, PASSWORD).start(&site.net, 0);
    alice.process.wait_for(&["AUTH_FAILED"], SOON);
    assert!(!alice.process.logged(&["PUSH_REPLY"]), "something was pushed to a client that is not let in");
    let _bob = site.client(1, version).login(&site.net, "bob", PASSWORD).connect(&site.net, 1);
    ping(&site.net.clients[1], "192.168.77.2");
}

/// Codes by a counter: a few that nobody typed in may be skipped, none counts twice, nor one before it.
fn tesserad_only_counter(version: Version) {
    let site = Site::new(2);
    let cli = Cli::new(&site.net);
    let _server = Server::start(&site.net, &site.account_server(&cli));
    let added =
        cli.run_with(&format!("user add {USER} --otp=hotp --password-stdin"), &format!("{PASSWORD}\n"));
    let otp = &added["credentials"]["otp"];
    let secret = otp["secret"].as_str().expect("a secret");
    assert!(otp["uri"].as_str().is_some_and(|uri| uri.starts_with("otpauth://hotp/")), "{added}");
    // A code by the clock is one by a counter of half minutes.
    let password = |counter: u64| format!("{PASSWORD}{}", totp(secret, counter * 30));
    let config = |index, counter| site.client(index, version).login(&site.net, USER, &password(counter));
    let mut client = config(0, 3).line("reneg-sec 5").connect(&site.net, 0);
    client.wait_negotiations(2, SOON);
    client.reconnect();
    ping(&site.net.clients[0], "192.168.77.2");
    assert!(!client.process.logged(&["AUTH_FAILED"]), "the token was not taken");
    // The same, one before it, and one too far ahead.
    for counter in [3, 2, 14] {
        let mut other = config(1, counter).start(&site.net, 1);
        other.process.wait_for(&["AUTH_FAILED"], SOON);
        other.process.wait_end(SOON);
        assert!(!other.process.logged(&["PUSH_REPLY"]), "let in with code {counter}");
    }
    let _other = config(1, 13).connect(&site.net, 1);
    ping(&site.net.clients[1], "192.168.77.2");
}
