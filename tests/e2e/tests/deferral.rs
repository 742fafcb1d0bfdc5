//! Verdicts that come later, by file: of the login, and of client-connect.
//!
//! ```text
//!   client 0 ── login ──► verify hook, exit 2 … auth_control_file 1 or 0
//!       └──────────────► connect hook, deferred file 2 … 1 or 0
//!       PUSH_REQUEST each 5 s meanwhile: nothing is pushed before both said yes
//! ```

use std::time::Duration;

use tessera_e2e::Site;
use tessera_e2e::harness::{Flavour, Server, Version, pause, ping};

const SOON: Duration = Duration::from_secs(30);

tessera_e2e::stock_clients!(
    accepted_later,
    refused_later,
    refused_with_a_reason,
    temporarily_refused,
    requests_meanwhile,
    two_results,
    result_after_the_client_left,
    never_decided,
    tesserad_only_nonsense_in_the_control_file,
    connect_accepted_later,
    connect_refused_later,
    disconnect_only_after_connect
);

fn accepted_later(version: Version) {
    let site = Site::new(1);
    let verify = site.hooks.script("verify", "(sleep 3; printf 1 >\"$auth_control_file\") & exit 2");
    let _server = Server::start(&site.net, &site.hooked_server(&verify));
    let mut client = site.login_client(0, version).start(&site.net, 0);
    site.hooks.wait("verify", 1, SOON);
    pause(Duration::from_secs(1));
    assert!(site.hooks.calls("connect").is_empty(), "client-connect ran before the login was decided");
    assert!(!client.process.logged(&["PUSH_REPLY"]), "something was pushed before the login was decided");
    client.wait_up();
    ping(&site.net.clients[0], "192.168.77.2");
    assert_eq!(site.hooks.calls("verify").len(), 1);
    assert_eq!(site.hooks.calls("connect").len(), 1);
}

fn refused_later(version: Version) {
    let site = Site::new(1);
    let body = "(sleep 2; echo 'account closed' >\"$auth_failed_reason_file\"; printf 0 >\"$auth_control_file\") &\n\
                exit 2";
    let verify = site.hooks.script("verify", body);
    let _server = Server::start(&site.net, &site.hooked_server(&verify));
    let mut client = site.login_client(0, version).start(&site.net, 0);
    client.process.wait_for(&["AUTH_FAILED,account closed"], SOON);
    client.process.wait_end(SOON);
    assert!(!client.process.logged(&["PUSH_REPLY"]), "something was pushed to a client that is not let in");
    assert!(site.hooks.calls("connect").is_empty(), "client-connect ran for a client that is not let in");
}

fn refused_with_a_reason(version: Version) {
    let site = Site::new(1);
    let verify = site.hooks.script("verify", "echo 'account closed' >\"$auth_failed_reason_file\"; exit 1");
    let _server = Server::start(&site.net, &site.hooked_server(&verify));
    let mut client = site.login_client(0, version).start(&site.net, 0);
    client.process.wait_for(&["AUTH_FAILED,account closed"], SOON);
    client.process.wait_end(SOON);
}

/// `TEMP` in the reason: the client keeps its login and comes again after the time it was told.
fn temporarily_refused(version: Version) {
    let site = Site::new(1);
    let body = "[ -e \"$0.again\" ] && exit 0; : >\"$0.again\"\n\
                echo 'TEMP[backoff 3]:busy' >\"$auth_failed_reason_file\"; exit 1";
    let verify = site.hooks.script("verify", body);
    let _server = Server::start(&site.net, &site.hooked_server(&verify));
    let mut client = site.login_client(0, version).start(&site.net, 0);
    client.process.wait_for(&["AUTH_FAILED,TEMP[backoff 3]:busy"], SOON);
    client.wait_up();
    assert_eq!(site.hooks.calls("verify").len(), 2);
}

/// The client asks for its options again and again while the login is open. Then it is refused.
fn requests_meanwhile(version: Version) {
    let site = Site::new(1);
    let verify = site.hooks.script("verify", "(sleep 13; printf 0 >\"$auth_control_file\") & exit 2");
    let _server = Server::start(&site.net, &site.hooked_server(&verify));
    let mut client = site.login_client(0, version).start(&site.net, 0);
    client.process.wait_for(&["AUTH_FAILED"], SOON);
    let asked = client.process.count("'PUSH_REQUEST'");
    assert!(asked >= 2, "the client asked only {asked} times");
    client.process.wait_end(SOON);
    assert!(!client.process.logged(&["PUSH_REPLY"]), "something was pushed to a client that is not let in");
    assert!(site.hooks.calls("connect").is_empty(), "client-connect ran for a client that is not let in");
}

/// The first word counts. Stock looks at the file only now and then, so the second comes when the client is in.
fn two_results(version: Version) {
    let site = Site::new(1);
    let body = "f=$auth_control_file; (sleep 2; printf 1 >\"$f\"\n\
                while [ ! -e \"$0.second\" ]; do sleep 0.2; done; printf 0 >\"$f\"; sleep 3; rm -f \"$f\") & exit 2";
    let verify = site.hooks.script("verify", body);
    let _server = Server::start(&site.net, &site.hooked_server(&verify));
    let client = site.login_client(0, version).connect(&site.net, 0);
    std::fs::write(format!("{verify}.second"), "").expect("a file beside the hook");
    pause(Duration::from_secs(6));
    ping(&site.net.clients[0], "192.168.77.2");
    assert!(!client.process.logged(&["AUTH_FAILED"]), "a second result undid the first");
    assert!(site.hooks.calls("disconnect").is_empty());
}

fn result_after_the_client_left(version: Version) {
    let site = Site::new(1);
    let verify = site.hooks.script("verify", "(sleep 4; printf 1 >\"$auth_control_file\") & exit 2");
    let _server = Server::start(&site.net, &site.hooked_server(&verify).line("hand-window 8"));
    let mut client = site.login_client(0, version).start(&site.net, 0);
    site.hooks.wait("verify", 1, SOON);
    client.process.kill();
    pause(Duration::from_secs(10));
    assert!(site.hooks.calls("disconnect").len() <= site.hooks.calls("connect").len());
    site.hooks.script("verify", "exit 0");
    let _client = site.login_client(0, version).connect(&site.net, 0);
    ping(&site.net.clients[0], "192.168.77.2");
}

/// Nobody ever decides: the client gets nothing, and the gateway does not wait for ever.
fn never_decided(version: Version) {
    let site = Site::new(1);
    let verify = site.hooks.script("verify", "exit 2");
    let _server = Server::start(&site.net, &site.hooked_server(&verify).line("hand-window 6"));
    let mut client = site.login_client(0, version).start(&site.net, 0);
    client.process.wait_for(&["AUTH_FAILED"], SOON);
    assert!(!client.process.logged(&["PUSH_REPLY"]), "something was pushed before the login was decided");
    assert!(site.hooks.calls("connect").is_empty(), "client-connect ran before the login was decided");
}

/// What is neither 1 nor 0 is a no, and a yes behind it comes too late. (A stock server goes on waiting.)
fn tesserad_only_nonsense_in_the_control_file(version: Version) {
    let site = Site::new(1);
    let body = "f=$auth_control_file; (sleep 1; printf maybe >\"$f\"; sleep 4; printf 1 >\"$f\") & exit 2";
    let verify = site.hooks.script("verify", body);
    let _server = Server::start(&site.net, &site.hooked_server(&verify));
    let mut client = site.login_client(0, version).start(&site.net, 0);
    site.hooks.wait("verify", 1, SOON);
    pause(Duration::from_secs(3));
    client.process.wait_for(&["AUTH_FAILED"], SOON);
    pause(Duration::from_secs(4));
    assert!(!client.process.logged(&["PUSH_REPLY"]), "something was pushed to a client that was refused");
}

fn connect_accepted_later(version: Version) {
    let site = Site::new(1);
    let body = "printf 2 >\"$client_connect_deferred_file\"\n\
                (sleep 3; echo 'push \"route 10.99.0.0 255.255.0.0\"' >\"$last\"\n\
                 printf 1 >\"$client_connect_deferred_file\") & exit 0";
    let connect = site.hooks.script("connect", body);
    let disconnect = site.hooks.script("disconnect", "exit 0");
    let config = site
        .server()
        .line(format!("client-connect {connect}"))
        .line(format!("client-disconnect {disconnect}"));
    let _server = Server::start(&site.net, &config);
    let mut client = site.client(0, version).line("explicit-exit-notify 1").start(&site.net, 0);
    site.hooks.wait("connect", 1, SOON);
    pause(Duration::from_secs(1));
    assert!(!client.process.logged(&["PUSH_REPLY"]), "something was pushed before client-connect was done");
    client.wait_up();
    assert_eq!(client.pushed("route 10.99.0.0").as_deref(), Some("255.255.0.0"));
    ping(&site.net.clients[0], "192.168.77.2");
    client.process.stop();
    site.hooks.wait("disconnect", 1, SOON);
    pause(Duration::from_secs(2));
    assert_eq!(site.hooks.calls("disconnect").len(), 1);
    assert_eq!(site.hooks.calls("connect").len(), 1);
}

fn connect_refused_later(version: Version) {
    let site = Site::new(1);
    let body = "printf 2 >\"$client_connect_deferred_file\"\n\
                (sleep 2; printf 0 >\"$client_connect_deferred_file\") & exit 0";
    let connect = site.hooks.script("connect", body);
    let disconnect = site.hooks.script("disconnect", "exit 0");
    let config = site
        .server()
        .line(format!("client-connect {connect}"))
        .line(format!("client-disconnect {disconnect}"));
    let _server = Server::start(&site.net, &config);
    let mut client = site.client(0, version).start(&site.net, 0);
    client.process.wait_for(&["AUTH_FAILED"], SOON);
    client.process.wait_end(SOON);
    assert!(!client.process.logged(&["PUSH_REPLY"]), "something was pushed to a client that is not let in");
    // Stock says farewell to whoever client-connect put off and then refused; we do not.
    if Flavour::chosen() == Flavour::Tesserad {
        pause(Duration::from_secs(2));
        assert!(
            site.hooks.calls("disconnect").is_empty(),
            "client-disconnect ran for a client that was not let in"
        );
    }
}

/// Exactly one farewell for each client-connect that said yes, none for one that said no.
fn disconnect_only_after_connect(version: Version) {
    let site = Site::new(1);
    let verify = site.hooks.script("verify", "exit 0");
    let config = site.hooked_server(&verify);
    let _server = Server::start(&site.net, &config);
    site.hooks.script("connect", "exit 1");
    let mut client = site.login_client(0, version).start(&site.net, 0);
    client.process.wait_end(SOON);
    site.hooks.script("connect", "exit 0");
    let mut client = site.login_client(0, version).line("explicit-exit-notify 1").connect(&site.net, 0);
    client.reconnect();
    client.process.stop();
    site.hooks.wait("disconnect", 2, SOON);
    pause(Duration::from_secs(2));
    assert_eq!(site.hooks.calls("connect").len(), 3);
    assert_eq!(site.hooks.calls("disconnect").len(), 2);
}
