//! A plugin of version 3 that decides by the user's name: at once, later, by a veto; that crashes and hangs.
//!
//! ```text
//!   client 0 ── user name ──► plugin (yes, no, later, veto, crash, hang)
//!       ◄── route and token from its client-connect
//! ```

use std::time::Duration;

use tessera_e2e::Site;
use tessera_e2e::harness::{Client, Server, ServerConfig, Version, compile, ping};

const SOON: Duration = Duration::from_secs(40);

tessera_e2e::stock_clients!(
    accepts_and_configures,
    refuses,
    decides_later,
    vetoes_at_the_end,
    one_defers_and_a_script_refuses,
    tesserad_only_crash,
    tesserad_only_hang
);

fn plugin_server(site: &Site) -> ServerConfig {
    let plugin = compile(&site.net, "plugin.so", include_str!("plugin.c"));
    site.server().line(format!("plugin {plugin}"))
}

fn as_user(site: &Site, index: usize, user: &str, version: Version) -> Client {
    site.client(index, version).login(&site.net, user, "any").start(&site.net, index)
}

fn accepts_and_configures(version: Version) {
    let site = Site::new(1);
    let _server = Server::start(&site.net, &plugin_server(&site));
    let mut client = as_user(&site, 0, "yes", version);
    client.wait_up();
    assert_eq!(client.pushed("route 10.98.0.0").as_deref(), Some("255.255.0.0"));
    assert!(client.process.logged(&["PUSH_REPLY", "auth-token"]), "the plugin's token was not pushed");
    ping(&site.net.clients[0], "192.168.77.2");
}

fn refuses(version: Version) {
    let site = Site::new(1);
    let _server = Server::start(&site.net, &plugin_server(&site));
    refused(&mut as_user(&site, 0, "no", version));
    as_user(&site, 0, "yes", version).wait_up();
}

fn refused(client: &mut Client) {
    client.process.wait_for(&["AUTH_FAILED"], SOON);
    assert!(!client.process.logged(&["PUSH_REPLY"]), "something was pushed to a client that is not let in");
}

fn decides_later(version: Version) {
    let site = Site::new(2);
    let _server = Server::start(&site.net, &plugin_server(&site));
    let mut yes = as_user(&site, 0, "later", version);
    let mut no = as_user(&site, 1, "never", version);
    yes.wait_up();
    refused(&mut no);
}

fn vetoes_at_the_end(version: Version) {
    let site = Site::new(1);
    let _server = Server::start(&site.net, &plugin_server(&site));
    let mut client = as_user(&site, 0, "veto", version);
    refused(&mut client);
    drop(client);
    as_user(&site, 0, "yes", version).wait_up();
}

/// Everybody who is asked must say yes, whoever answers last.
fn one_defers_and_a_script_refuses(version: Version) {
    let site = Site::new(1);
    let verify = site.hooks.script("verify", "exit 1");
    let config = plugin_server(&site).line(format!("auth-user-pass-verify {verify} via-file"));
    let _server = Server::start(&site.net, &config);
    refused(&mut as_user(&site, 0, "later", version));
    site.hooks.script("verify", "exit 0");
    as_user(&site, 0, "later", version).wait_up();
    refused(&mut as_user(&site, 0, "never", version));
}

/// A plugin that dies in the middle of a login lets nobody in, refuses nobody for good, and harms no one else.
fn tesserad_only_crash(version: Version) {
    let site = Site::new(2);
    let _server = Server::start(&site.net, &plugin_server(&site));
    let mut other = as_user(&site, 1, "yes", version);
    other.wait_up();
    let mut client = as_user(&site, 0, "crash", version);
    client.process.wait_for(&["AUTH_FAILED,TEMP"], SOON);
    assert!(!client.process.logged(&["PUSH_REPLY"]), "something was pushed to a client that is not let in");
    drop(client);
    ping(&site.net.clients[1], "192.168.77.2");
    assert!(!other.process.logged(&["AUTH_FAILED"]), "a client that was in has felt the crash");
    // While the plugin is started again a login may be put off; then it is let in.
    as_user(&site, 0, "yes", version).wait_up();
}

fn tesserad_only_hang(version: Version) {
    let site = Site::new(2);
    let _server = Server::start(&site.net, &plugin_server(&site).own("hook-timeout", "4"));
    let mut other = as_user(&site, 1, "yes", version);
    other.wait_up();
    let mut client = as_user(&site, 0, "hang", version);
    client.process.wait_for(&["AUTH_FAILED,TEMP"], SOON);
    assert!(!client.process.logged(&["PUSH_REPLY"]), "something was pushed to a client that is not let in");
    drop(client);
    ping(&site.net.clients[1], "192.168.77.2");
    as_user(&site, 0, "yes", version).wait_up();
}
