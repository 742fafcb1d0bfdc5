//! The forms a login may take: password by environment, nothing at all, a certificate that may be missing.
//!
//! ```text
//!   client 0 ── certificate? password? ──► gateway ── via-env ──► verify hook
//! ```

use std::time::Duration;

use tessera_e2e::harness::{Server, Version, pause, ping};
use tessera_e2e::{PASSWORD, Site};

tessera_e2e::stock_clients!(
    password_by_environment,
    no_password_where_it_is_optional,
    no_password_is_refused
);

fn password_by_environment(version: Version) {
    let site = Site::new(1);
    let verify = site.hooks.script("env", &format!("[ \"$username:$password\" = 'user-0:{PASSWORD}' ]"));
    let server = site
        .server()
        .with("script-security", "3")
        .line(format!("auth-user-pass-verify {verify} via-env"))
        .line("verify-client-cert optional");
    let _server = Server::start(&site.net, &server);
    let _client = site.login_client(0, version).connect(&site.net, 0);
    ping(&site.net.clients[0], "192.168.77.2");
    let call = site.hooks.calls("env").remove(0);
    assert_eq!(call.var("script_type"), "user-pass-verify");
    assert!(call.args.is_empty(), "the password is in no argument: {:?}", call.args);
}

fn no_password_where_it_is_optional(version: Version) {
    let site = Site::new(1);
    let verify = site.hooks.script("empty", "[ -z \"$(sed -n 1p \"$last\")$(sed -n 2p \"$last\")\" ]");
    let server = site
        .server()
        .line(format!("auth-user-pass-verify {verify} via-file"))
        .line("auth-user-pass-optional");
    let _server = Server::start(&site.net, &server);
    let _client = site.client(0, version).connect(&site.net, 0);
    ping(&site.net.clients[0], "192.168.77.2");
}

fn no_password_is_refused(version: Version) {
    let site = Site::new(1);
    let _server = Server::start(&site.net, &site.login_server());
    let client = site.client(0, version).start(&site.net, 0);
    pause(Duration::from_secs(4));
    assert!(!client.process.logged(&["Initialization Sequence Completed"]), "nobody logs in with nothing");
    assert!(site.hooks.calls("verify").is_empty(), "there is nothing to ask the hook about");
}
