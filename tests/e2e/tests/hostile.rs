//! What no stock client sends: names made to break out of scripts, and requests by the hundred.
//!
//! ```text
//!   our client ── user name, common name, peer-info ──► gateway ──► script, plugin, client-config-dir
//!                                                          └─✗─► canary
//! ```

use std::collections::BTreeMap;
use std::time::Duration;

use tessera_e2e::harness::{Call, Server, compile, pause};
use tessera_e2e::{OurClient, Outcome, Site};

const SOON: Duration = Duration::from_secs(20);
/// What the script and the plugin must be handed unchanged.
const HOSTILE_PASSWORD: &str = "'\"; `x` $(x) %s ~ * \\ ü";
/// Most variables that a client may set.
const MAX_PEER_KEYS: usize = 64;

/// Attempts to have `canary` made, to leave a folder, to set a variable, to be an option.
fn hostile_names(canary: &str) -> Vec<String> {
    let touch = format!("touch {canary}");
    vec![
        format!("'; {touch} #"),
        format!("\"; {touch} #"),
        format!("$({touch})"),
        format!("`{touch}`"),
        format!("() {{ :;}}; {touch}"),
        format!("a\n{touch}"),
        "a\nLD_PRELOAD=/x.so".to_owned(),
        "a\r\nenv x".to_owned(),
        format!("|{touch}"),
        "../outside".to_owned(),
        "..".to_owned(),
        ".".to_owned(),
        "/etc/passwd".to_owned(),
        "-rf /".to_owned(),
        "a=b".to_owned(),
        "%s%n${IFS}*?[a]~\\".to_owned(),
        "\u{e4}\u{1f600}\u{7f}\u{85}\t".to_owned(),
    ]
}

fn clean(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '_' } else { c }).collect()
}

/// What the plugin recorded of its calls of this type: one environment each.
fn plugin_calls(record: &str, of: &str) -> Vec<BTreeMap<String, String>> {
    let text = std::fs::read_to_string(record).expect("the plugin's record");
    let mut calls = Vec::new();
    let mut here = false;
    for line in text.lines() {
        match line.split_once(' ') {
            Some(("env", pair)) if here => {
                let (name, value) = pair.split_once('=').expect("NAME=value");
                let call: &mut BTreeMap<_, _> = calls.last_mut().expect("a call before its environment");
                call.insert(name.to_owned(), value.to_owned());
            }
            Some(("call", rest)) => {
                here = rest.split(' ').next() == Some(of);
                if here {
                    calls.push(BTreeMap::new());
                }
            }
            _ => {}
        }
    }
    calls
}

/// A folder of client files with one beside it that must not be read.
fn client_files(site: &Site) -> String {
    let folder = site.net.folder().join("ccd");
    std::fs::create_dir(&folder).expect("a folder");
    std::fs::write(folder.join("good"), "push \"route 10.96.0.0 255.255.0.0\"\n").expect("a file");
    site.net.write("outside", "push \"route 10.97.0.0 255.255.0.0\"\n");
    folder.display().to_string()
}

/// User names that become common names and names of files, with 300 variables of the client's own.
#[test]
fn tesserad_only_user_names() {
    let site = Site::new(1);
    let canary = site.net.folder().join("canary").display().to_string();
    let record = site.net.write("plugin.record", "");
    let source = include_str!("../../../gateway/tests/plugins/test-plugin.c");
    let source = source.replace("<openvpn-plugin.h>", "<openvpn/openvpn-plugin.h>");
    let plugin = compile(&site.net, "plugin.so", &source);
    let config = site
        .hooked_server(&site.hooks.script("verify", "exit 0"))
        .line(format!("plugin {plugin} record={record} record-env mask=5,6,9"))
        .line(format!("client-config-dir {}", client_files(&site)))
        .line("username-as-common-name");
    let server = Server::start(&site.net, &config);
    let names = hostile_names(&canary);
    let info: String = (0..300).map(|i| format!("UV_K{i}=$(x)\n")).collect();
    let more = format!("UV_Q='\"`touch {canary}`\nLD_PRELOAD=/x.so\nPATH=/evil\nusername=root\nUV_;x=1\n");
    let client = OurClient::new(&site, 0, &site.identity(0)).peer_info(&(more + &info));
    let (good, outcome) = client.login(&site, "good", HOSTILE_PASSWORD, SOON);
    assert_eq!(outcome, Outcome::In);
    assert!(good.options.iter().any(|option| option.contains("10.96.0.0")), "a good name has no file");
    good.leave();
    for name in &names {
        let (session, outcome) = client.login(&site, name, HOSTILE_PASSWORD, SOON);
        assert_eq!(outcome, Outcome::In, "{name:?}");
        let options = &session.options;
        assert!(!options.iter().any(|option| option.contains("10.9")), "{name:?} has a file: {options:?}");
        session.leave();
    }
    let all: Vec<String> =
        std::iter::once("good").chain(names.iter().map(String::as_str)).map(clean).collect();
    let verify = site.hooks.calls("verify");
    let connect = site.hooks.wait("connect", all.len(), SOON);
    site.hooks.wait("disconnect", all.len(), SOON);
    let by_plugin = plugin_calls(&record, "5");
    assert_eq!((verify.len(), by_plugin.len(), connect.len()), (all.len(), all.len(), all.len()));
    for (name, (script, plugin)) in all.iter().zip(verify.iter().zip(&by_plugin)) {
        let file = script.file.as_ref().expect("a file with user and password");
        assert_eq!(file.lines().collect::<Vec<_>>(), [name.as_str(), HOSTILE_PASSWORD]);
        assert_eq!(script.var("username"), name);
        assert_eq!(plugin.get("username"), Some(name));
        assert_eq!(plugin.get("password").map(String::as_str), Some(HOSTILE_PASSWORD));
        for env in [&script.env, plugin] {
            unharmed(name, env);
        }
    }
    for (name, Call { env, args, .. }) in all.iter().zip(&connect) {
        assert_eq!(env.get("common_name"), Some(name));
        assert_eq!(args.len(), 1, "{args:?}");
        unharmed(name, env);
    }
    assert!(!std::path::Path::new(&canary).exists(), "something of a client's was run");
    let foreign = |line: &&str| line.starts_with("touch ") || line.starts_with("LD_PRELOAD");
    assert_eq!(server.process.log().lines().find(foreign), None, "a name has lines of its own in the log");
}

/// Nothing of the client's is where it must not be.
fn unharmed(name: &str, env: &BTreeMap<String, String>) {
    assert!(!env.contains_key("LD_PRELOAD"), "{name}: {env:?}");
    assert_ne!(env.get("PATH").map(String::as_str), Some("/evil"), "{name}");
    let own: Vec<_> = env.keys().filter(|key| key.starts_with("UV_") || key.starts_with("IV_")).collect();
    assert!(own.len() <= MAX_PEER_KEYS, "{name}: {} variables", own.len());
    let letters = |key: &&&String| !key.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    assert_eq!(own.iter().find(letters), None, "{name}");
}

/// Certificates made out to hostile names, without a user name.
#[test]
fn tesserad_only_common_names() {
    let site = Site::new(1);
    let canary = site.net.folder().join("canary").display().to_string();
    let tls_verify = site.hooks.script("tls-verify", "exit 0");
    let config = site
        .server()
        .line(format!("tls-verify {tls_verify}"))
        .line(format!("client-connect {}", site.hooks.script("connect", "exit 0")))
        .line(format!("client-disconnect {}", site.hooks.script("disconnect", "exit 0")))
        .line(format!("client-config-dir {}", client_files(&site)));
    let _server = Server::start(&site.net, &config);
    // What could forge lines is no name: the handshake ends there.
    let (bad, names): (Vec<_>, Vec<_>) =
        hostile_names(&canary).into_iter().partition(|name| name.contains(char::is_control));
    let with_name =
        |serial: usize, name: &str| OurClient::new(&site, 0, &site.pki.client(name, serial as u64));
    for (serial, name) in bad.iter().enumerate() {
        let (_session, outcome) = with_name(500 + serial, name).login(&site, "", "", SOON);
        assert!(matches!(outcome, Outcome::Over(_)), "{name:?}: {outcome:?}");
    }
    assert!(
        site.hooks.calls("tls-verify").is_empty(),
        "a hook was asked about a name with control characters"
    );
    for (serial, name) in names.iter().enumerate() {
        let (session, outcome) = with_name(600 + serial, name).login(&site, "", "", SOON);
        assert_eq!(outcome, Outcome::In, "{name:?}");
        assert!(!session.options.iter().any(|option| option.contains("10.9")), "{name:?} has a file");
        session.leave();
    }
    let connect = site.hooks.wait("connect", names.len(), SOON);
    for (name, call) in names.iter().zip(&connect) {
        assert_eq!(call.var("common_name"), name);
        assert_eq!(call.args.len(), 1, "{:?}", call.args);
        unharmed(name, &call.env);
    }
    for call in site.hooks.calls("tls-verify") {
        assert_eq!(call.args.len(), 2, "{:?}", call.args);
        assert!(!call.args.iter().any(|arg| arg.contains('\n')), "{:?}", call.args);
        unharmed("tls-verify", &call.env);
    }
    assert!(!std::path::Path::new(&canary).exists(), "something of a client's was run");
}

/// A NUL would end the text for some readers and not for others: nobody is shown it.
#[test]
fn tesserad_only_nul() {
    let site = Site::new(1);
    let _server = Server::start(&site.net, &site.hooked_server(&site.hooks.script("verify", "exit 0")));
    let client = OurClient::new(&site, 0, &site.identity(0));
    for (user, password) in [("root\0x", "p"), ("alice", "p\0x"), ("\0", "p")] {
        let (_session, outcome) = client.login(&site, user, password, Duration::from_secs(6));
        assert_ne!(outcome, Outcome::In, "{user:?} {password:?}");
    }
    assert!(site.hooks.calls("verify").is_empty(), "a hook was asked about half a name");
    let (session, outcome) = client.login(&site, "alice", "p", SOON);
    assert_eq!(outcome, Outcome::In, "the next one is served");
    session.leave();
}

/// A hundred requests while the login is open, and then a no: not a byte is pushed.
#[test]
fn tesserad_only_storm_of_requests() {
    let site = Site::new(1);
    // The file with the password is gone when the script has ended.
    let body = "v=$(sed -n 2p \"$last\"); f=$auth_control_file; (sleep 7; printf $v >\"$f\") & exit 2";
    let config = site.hooked_server(&site.hooks.script("verify", body));
    let _server = Server::start(&site.net, &config);
    let client = OurClient::new(&site, 0, &site.identity(0));
    for (password, let_in) in [("0", false), ("1", true)] {
        let mut session = client.start(&site, "alice", password);
        // TLS must be through before there is anything to ask for.
        let asked = 1 + usize::from(let_in);
        for _ in 0..400 {
            if site.hooks.calls("verify").len() < asked {
                session.run(Duration::from_millis(50));
            }
        }
        assert_eq!(site.hooks.calls("verify").len(), asked);
        for _ in 0..100 {
            session.request_push();
            session.run(Duration::from_millis(15));
        }
        assert_eq!(*session.decided(), Outcome::Open, "something came before the login was decided");
        let outcome = session.outcome(SOON);
        if let_in {
            assert_eq!(outcome, Outcome::In);
            assert_eq!(session.replies, 1, "one answer to all requests");
            session.leave();
        } else {
            assert!(matches!(outcome, Outcome::Refused(_)), "{outcome:?}");
            session.run(Duration::from_secs(2));
            assert_eq!(session.replies, 0, "something was pushed to a client that is not let in");
            assert!(session.token.is_none() && session.options.is_empty());
            assert!(
                site.hooks.calls("connect").is_empty(),
                "client-connect ran for a client that is not let in"
            );
        }
    }
    pause(Duration::from_secs(1));
    assert_eq!(site.hooks.calls("verify").len(), 2);
}
