//! A script and a plugin that both decide later: both must say yes, whoever is first.
//!
//! ```text
//!   client i ── user name ──► plugin: 1 or 0 after 2 s
//!       └────── password ───► script: 1 or 0 after 1 s or 4 s
//! ```

use std::time::Duration;

use tessera_e2e::Site;
use tessera_e2e::harness::{Server, Version, compile, ping};

const SOON: Duration = Duration::from_secs(40);

tessera_e2e::stock_clients!(both_decide_later);

/// User (what the plugin says), password (when the script says what), and whether that lets in.
const CASES: [(&str, &str, bool); 6] = [
    ("later", "1 0", false),
    ("later", "4 0", false),
    ("never", "1 1", false),
    ("never", "4 1", false),
    ("later", "1 1", true),
    ("later", "4 1", true),
];

fn both_decide_later(version: Version) {
    let site = Site::new(CASES.len());
    let plugin = compile(&site.net, "plugin.so", include_str!("plugin.c"));
    let body = "set -- $(sed -n 2p \"$last\"); f=$auth_control_file; (sleep $1; printf $2 >\"$f\") & exit 2";
    let verify = site.hooks.script("verify", body);
    let connect = site.hooks.script("connect", "exit 0");
    let config = site
        .server()
        .line(format!("plugin {plugin}"))
        .line(format!("auth-user-pass-verify {verify} via-file"))
        .line(format!("client-connect {connect}"));
    let _server = Server::start(&site.net, &config);
    let start = |index: usize| {
        let (user, password, _) = CASES[index];
        site.client(index, version).login(&site.net, user, password).start(&site.net, index)
    };
    // Each reads its login before the next one's is written.
    let mut clients = Vec::new();
    for index in 0..CASES.len() {
        clients.push(start(index));
        site.hooks.wait("verify", index + 1, SOON);
    }
    for (index, client) in clients.iter_mut().enumerate() {
        let (user, password, let_in) = CASES[index];
        if let_in {
            client.wait_up();
            ping(&site.net.clients[index], "192.168.77.2");
        } else {
            client.process.wait_for(&["AUTH_FAILED"], SOON);
            client.process.wait_end(SOON);
            let pushed = client.process.logged(&["PUSH_REPLY"]);
            assert!(!pushed, "{user}, {password}: something was pushed to a client that is not let in");
        }
    }
    let mut names: Vec<_> =
        site.hooks.calls("connect").iter().map(|call| call.var("common_name").to_owned()).collect();
    names.sort();
    assert_eq!(names, ["client-4", "client-5"], "client-connect ran for a client that is not let in");
}
