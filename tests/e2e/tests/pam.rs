//! `auth-pam SERVICE`: PAM without a plugin, in a process of its own.
//!
//! ```text
//!   client 0 ── password ──► gateway ──► helper ──► /etc/pam.d/SERVICE ──► pam_exec
//! ```

use std::time::Duration;

use tessera_e2e::harness::{PamService, Server, ServerConfig, Version, ping};
use tessera_e2e::{PASSWORD, Site};

const SOON: Duration = Duration::from_secs(30);
const USER: &str = "user-0";
const CHECK: &str = "[ \"$PAM_USER:$secret\" = 'user-0:open sesame' ]";

tessera_e2e::stock_clients!(tesserad_only_password, tesserad_only_slow, tesserad_only_token_after_pam);

fn pam_server(site: &Site, service: &PamService) -> ServerConfig {
    let connect = site.hooks.script("connect", "exit 0");
    site.server().own("auth-pam", service.name()).line(format!("client-connect {connect}"))
}

fn tesserad_only_password(version: Version) {
    let site = Site::new(1);
    let service = PamService::new(&site.net, CHECK, &[]);
    let server = Server::start(&site.net, &pam_server(&site, &service));
    for (user, password) in [(USER, "wrong-9f3c"), ("user-1", PASSWORD)] {
        let mut client = site.client(0, version).login(&site.net, user, password).start(&site.net, 0);
        client.process.wait_for(&["AUTH_FAILED"], SOON);
        assert!(
            !client.process.logged(&["PUSH_REPLY"]),
            "something was pushed to a client that is not let in"
        );
    }
    assert!(site.hooks.calls("connect").is_empty(), "client-connect ran for a client that is not let in");
    let _client = site.login_client(0, version).connect(&site.net, 0);
    ping(&site.net.clients[0], "192.168.77.2");
    assert!(!server.process.log().contains("wrong-9f3c"), "a password is in the gateway's log");
}

/// PAM takes its time over one user; another one is let in meanwhile.
fn tesserad_only_slow(version: Version) {
    let site = Site::new(2);
    let slow = format!("[ \"$PAM_USER\" = user-0 ] && {{ sleep 5; {CHECK}; exit; }}; exit 0");
    let service = PamService::new(&site.net, &slow, &[]);
    let _server = Server::start(&site.net, &pam_server(&site, &service));
    let mut waiting = site.login_client(0, version).start(&site.net, 0);
    waiting.process.wait_for(&["Peer Connection Initiated"], SOON);
    let _other = site.login_client(1, version).connect(&site.net, 1);
    assert!(!waiting.process.logged(&["PUSH_REPLY"]), "the slow login was over before the other one");
    waiting.wait_up();
}

/// A generated token takes the password's place: PAM is asked once.
fn tesserad_only_token_after_pam(version: Version) {
    let site = Site::new(1);
    let asked = site.net.folder().join("asked");
    let count = format!("echo asked >>{}; {CHECK}", asked.display());
    let service = PamService::new(&site.net, &count, &[]);
    let _server = Server::start(&site.net, &pam_server(&site, &service).line("auth-gen-token 0"));
    let mut client = site.login_client(0, version).line("reneg-sec 5").connect(&site.net, 0);
    client.wait_negotiations(3, SOON);
    client.reconnect();
    ping(&site.net.clients[0], "192.168.77.2");
    assert_eq!(std::fs::read_to_string(&asked).expect("PAM's record"), "asked\n");
}
