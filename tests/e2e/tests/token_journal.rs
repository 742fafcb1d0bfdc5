//! `store`: what the gateway knows about tokens outlives its process, however that ends.
//!
//! ```text
//!   client 0 ── token ──► gateway ──✗ kill -9   gateway ◄── journal
//!       └── token ──────────────────────────────► gateway: no hook is asked
//! ```

use std::time::Duration;

use nix::sys::signal::Signal;
use tessera_e2e::harness::{Cli, Server, ServerConfig, Version, pause, ping};
use tessera_e2e::{PASSWORD, Site};

tessera_e2e::stock_clients!(
    tesserad_only_pushed_token_after_kill,
    tesserad_only_pushed_token_after_stop,
    tesserad_only_revocation_after_kill
);

/// `token-verify cache` with a journal.
fn journaled(site: &Site, config: ServerConfig) -> ServerConfig {
    let store = site.net.folder().join("store");
    std::fs::create_dir_all(&store).expect("a folder for the store");
    config.own("token-verify", "cache").own("store", store.to_str().expect("a UTF-8 path"))
}

fn tesserad_only_pushed_token_after_kill(version: Version) {
    outlives(version, |server| server.process.kill());
}

fn tesserad_only_pushed_token_after_stop(version: Version) {
    outlives(version, |server| {
        server.process.stop();
    });
}

fn outlives(version: Version, end: impl Fn(&mut Server)) {
    let site = Site::new(1);
    let config = journaled(&site, site.login_server());
    let mut server = Server::start(&site.net, &config);
    let mut client = site.login_client(0, version).connect(&site.net, 0);
    ping(&site.net.clients[0], "192.168.77.2");
    for _ in 0..2 {
        // The journal is written by a thread of its own.
        pause(Duration::from_secs(1));
        end(&mut server);
        server = Server::start(&site.net, &config);
        client.reconnect();
        ping(&site.net.clients[0], "192.168.77.2");
    }
    assert_eq!(site.passwords_seen(), [PASSWORD], "the hook is asked at the login only");
}

/// A token that was killed stays dead.
fn tesserad_only_revocation_after_kill(version: Version) {
    let site = Site::new(1);
    let cli = Cli::new(&site.net);
    let config = journaled(&site, site.login_server()).own("control-socket", cli.socket());
    let mut server = Server::start(&site.net, &config);
    let mut client = site.login_client(0, version).connect(&site.net, 0);
    // The client stands still and learns of nothing.
    client.process.signal(Signal::SIGSTOP);
    // Where tokens are not in the cache, the hook decides: it takes the password only.
    site.accepting(&[PASSWORD]);
    // What was revoked is dead, also when it is pushed once more.
    site.hooks.script("connect", "echo 'push \"auth-token TESSERA_TOKEN_other-51c8\"' >\"$last\"");
    cli.run("token revoke --user user-0");
    pause(Duration::from_secs(1));
    server.process.kill();
    let _server = Server::start(&site.net, &config);
    client.process.signal(Signal::SIGCONT);
    client.reconnect();
    let seen = site.passwords_seen();
    assert_eq!(seen.last().map(String::as_str), Some(PASSWORD), "the token has let it in");
    assert!(seen.iter().filter(|word| *word == PASSWORD).count() == 2, "{} questions", seen.len());
}
