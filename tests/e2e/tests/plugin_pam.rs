//! OpenVPN's own PAM plugin, unmodified: a password, a password with a one-time code, and both of the plugin's modes.
//!
//! ```text
//!   client 0 ── password [code] ──► openvpn-plugin-auth-pam.so ──► /etc/pam.d/… ──► pam_exec, pam_oath
//! ```

use std::time::Duration;

use tessera_e2e::harness::{PamService, Server, ServerConfig, Version, ping, scrv1, totp, unix_time};
use tessera_e2e::{PASSWORD, Site};

const SOON: Duration = Duration::from_secs(30);
const USER: &str = "user-0";
const PLUGIN: &str = "/usr/lib/openvpn/openvpn-plugin-auth-pam.so";
/// The same secret twice: as `pam_oath` and as an authenticator app reads it.
const SECRET_HEX: &str = "3132333435363738393031323334353637383930";
const SECRET: &str = "GEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQ";

/// What PAM's password step does.
const CHECK: &str = "[ \"$PAM_USER:$secret\" = 'user-0:open sesame' ]";

tessera_e2e::stock_clients!(password, password_deferred, slow_password_deferred, code, plugin_and_script);

fn pam_server(site: &Site, service: &PamService, mapping: &str) -> ServerConfig {
    let connect = site.hooks.script("connect", "exit 0");
    site.server()
        .line(format!("plugin {PLUGIN} \"{} {mapping}\"", service.name()))
        .line(format!("client-connect {connect}"))
}

fn password(version: Version) {
    let site = Site::new(1);
    let service = PamService::new(&site.net, CHECK, &[]);
    right_and_wrong(&site, &pam_server(&site, &service, "login USERNAME password PASSWORD"), version);
}

fn password_deferred(version: Version) {
    let site = Site::new(1);
    let service = PamService::new(&site.net, CHECK, &[]);
    let config = pam_server(&site, &service, "login USERNAME password PASSWORD");
    right_and_wrong(&site, &config.line("setenv deferred_auth_pam 1"), version);
}

fn right_and_wrong(site: &Site, config: &ServerConfig, version: Version) {
    let server = Server::start(&site.net, config);
    let mut client = site.client(0, version).login(&site.net, USER, "wrong-9f3c").start(&site.net, 0);
    client.process.wait_for(&["AUTH_FAILED"], SOON);
    client.process.wait_end(SOON);
    assert!(site.hooks.calls("connect").is_empty(), "client-connect ran for a client that is not let in");
    drop(client);
    let _client = site.login_client(0, version).connect(&site.net, 0);
    ping(&site.net.clients[0], "192.168.77.2");
    assert_eq!(site.hooks.calls("connect").len(), 1);
    assert!(!server.process.log().contains("wrong-9f3c"), "a password is in the gateway's log");
}

/// In its deferred mode the plugin answers by file, and others are served meanwhile.
fn slow_password_deferred(version: Version) {
    let site = Site::new(2);
    let slow = format!("[ \"$PAM_USER\" = user-0 ] && {{ sleep 5; {CHECK}; exit; }}; exit 0");
    let service = PamService::new(&site.net, &slow, &[]);
    let config = pam_server(&site, &service, "login USERNAME password PASSWORD");
    let _server = Server::start(&site.net, &config.line("setenv deferred_auth_pam 1"));
    let mut waiting = site.login_client(0, version).start(&site.net, 0);
    waiting.process.wait_for(&["Peer Connection Initiated"], SOON);
    let _other = site.login_client(1, version).connect(&site.net, 1);
    assert!(!waiting.process.logged(&["PUSH_REPLY"]), "the slow login was over before the other one");
    waiting.wait_up();
}

/// The code is asked for by the client, and reaches the second question of PAM.
fn code(version: Version) {
    let site = Site::new(1);
    let service = PamService::new(&site.net, CHECK, &[(USER, SECRET_HEX)]);
    let config = pam_server(&site, &service, "login USERNAME password PASSWORD one-time OTP");
    let _server = Server::start(&site.net, &config);
    let config = site.client(0, version).managed().line("static-challenge \"Your code\" 1");
    let mut client = config.start(&site.net, 0);
    let management = client.management();
    let asked = management.login(1, USER, &scrv1(PASSWORD, "000000"), SOON);
    assert!(asked.contains("SC:1,Your code"), "{asked}");
    management.wait_nth(">PASSWORD:Verification Failed: 'Auth'", 1, SOON);
    let code = totp(SECRET, unix_time());
    management.login(2, USER, &scrv1("wrong-9f3c", &code), SOON);
    management.wait_nth(">PASSWORD:Verification Failed: 'Auth'", 2, SOON);
    assert!(site.hooks.calls("connect").is_empty(), "client-connect ran for a client that is not let in");
    // pam_oath was asked although the password was wrong: that code is spent, the next is not.
    management.login(3, USER, &scrv1(PASSWORD, &totp(SECRET, unix_time() + 30)), SOON);
    client.wait_up();
    ping(&site.net.clients[0], "192.168.77.2");
}

/// Plugin and script both have to say yes.
fn plugin_and_script(version: Version) {
    let site = Site::new(1);
    let service = PamService::new(&site.net, CHECK, &[]);
    let verify = site.hooks.script("verify", "exit 1");
    let config = pam_server(&site, &service, "login USERNAME password PASSWORD")
        .line(format!("auth-user-pass-verify {verify} via-file"));
    let _server = Server::start(&site.net, &config);
    let mut client = site.login_client(0, version).start(&site.net, 0);
    client.process.wait_for(&["AUTH_FAILED"], SOON);
    drop(client);
    site.hooks.script("verify", "exit 0");
    let mut client = site.client(0, version).login(&site.net, USER, "wrong-9f3c").start(&site.net, 0);
    client.process.wait_for(&["AUTH_FAILED"], SOON);
    drop(client);
    let _client = site.login_client(0, version).connect(&site.net, 0);
}
