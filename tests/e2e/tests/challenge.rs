//! Second factors by script: the question asked beforehand, by a refusal, and within the login.
//!
//! ```text
//!   static    client ── SCRV1:password:code ──────────────────► verify hook
//!   dynamic   client ── password ► hook ► AUTH_FAILED,CRV1:… ── CRV1::state::code ► hook
//!   pending   client ── password ► hook ► INFO_PRE,CR_TEXT:… ── CR_RESPONSE,code ► crresponse hook
//! ```

use std::time::Duration;

use tessera_e2e::harness::{Client, Server, ServerConfig, Version, pause, ping, scrv1};
use tessera_e2e::{PASSWORD, Site};

const SOON: Duration = Duration::from_secs(30);
const USER: &str = "user-0";
const CODE: &str = "424242";

tessera_e2e::stock_clients!(
    asked_beforehand,
    asked_by_a_refusal,
    asked_within_the_login,
    wrong_answer,
    answer_decided_later,
    client_that_cannot_be_asked,
    link_to_open,
    page_to_log_in
);

fn asked_beforehand(version: Version) {
    let site = Site::new(1);
    // base64 of PASSWORD and CODE
    let verify =
        site.hooks.script("verify", "[ \"$(sed -n 2p \"$last\")\" = SCRV1:b3BlbiBzZXNhbWU=:NDI0MjQy ]");
    let _server = Server::start(&site.net, &site.hooked_server(&verify));
    let config = site.client(0, version).managed().line("static-challenge \"Your code\" 1");
    let mut client = config.start(&site.net, 0);
    let asked = client.management().login(1, USER, &scrv1(PASSWORD, CODE), SOON);
    assert!(asked.contains("SC:1,Your code"), "{asked}");
    client.wait_up();
    assert_eq!(client.management().prompts(), 1);
}

fn asked_by_a_refusal(version: Version) {
    let site = Site::new(1);
    let body = "case \"$(sed -n 2p \"$last\")\" in\n\
                'CRV1::state-17::424242') exit 0;;\n\
                'open sesame') echo 'CRV1:R,E:state-17:dXNlci0w:Your code' >\"$auth_failed_reason_file\";;\n\
                esac; exit 1";
    let verify = site.hooks.script("verify", body);
    let _server = Server::start(&site.net, &site.hooked_server(&verify));
    let mut client = site.client(0, version).managed().start(&site.net, 0);
    let management = client.management();
    management.login(1, USER, PASSWORD, SOON);
    management.wait_nth(
        ">PASSWORD:Verification Failed: 'Auth' ['CRV1:R,E:state-17:dXNlci0w:Your code']",
        1,
        SOON,
    );
    management.login(2, USER, &format!("CRV1::state-17::{CODE}"), SOON);
    client.wait_up();
    assert_eq!(client.management().prompts(), 2);
    ping(&site.net.clients[0], "192.168.77.2");
}

/// A login that stays open for an answer: `method` and `extra` are what the client is told.
fn pending_server(site: &Site, method: &str, extra: &str, answer: &str) -> ServerConfig {
    let body = format!("printf '60\\n{method}\\n{extra}\\n' >\"$auth_pending_file\"; exit 2");
    let verify = site.hooks.script("verify", &body);
    let answer = site.hooks.script("answer", answer);
    site.hooked_server(&verify).line(format!("client-crresponse {answer}"))
}

/// The question arrives, is answered with `code`.
fn answered(site: &Site, version: Version, code: &str) -> Client {
    let client = site.client(0, version).managed().announces("crtext").start(&site.net, 0);
    client.management().login(1, USER, PASSWORD, SOON);
    assert_eq!(client.management().challenge(1, code, SOON), "R,E:Your code");
    assert!(
        client.process.logged(&["AUTH_PENDING received", "to 60s"]),
        "the client is told how long it may take"
    );
    assert!(site.hooks.calls("connect").is_empty(), "client-connect ran before the login was decided");
    client
}

const CHECK: &str = "[ \"$(base64 -d <\"$last\")\" = 424242 ] && printf 1 >\"$auth_control_file\"";

fn asked_within_the_login(version: Version) {
    let site = Site::new(1);
    let config = pending_server(&site, "crtext", "CR_TEXT:R,E:Your code", CHECK);
    let _server = Server::start(&site.net, &config);
    let mut client = answered(&site, version, CODE);
    client.wait_up();
    ping(&site.net.clients[0], "192.168.77.2");
    let call = site.hooks.calls("answer").remove(0);
    assert_eq!(call.file.as_deref().map(str::trim_end), Some("NDI0MjQy"), "the response as it was sent");
    assert_eq!(call.var("script_type"), "client-crresponse");
    assert_eq!(call.var("common_name"), "client-0");
    assert_eq!(site.hooks.calls("verify").len(), 1);
    assert_eq!(client.management().prompts(), 1);
}

fn wrong_answer(version: Version) {
    let site = Site::new(1);
    let config = pending_server(&site, "crtext", "CR_TEXT:R,E:Your code", CHECK);
    let _server = Server::start(&site.net, &config);
    let mut client = answered(&site, version, "000000");
    client.process.wait_for(&["AUTH_FAILED"], SOON);
    assert!(!client.process.logged(&["PUSH_REPLY"]), "something was pushed to a client that is not let in");
    assert!(site.hooks.calls("connect").is_empty(), "client-connect ran for a client that is not let in");
}

fn answer_decided_later(version: Version) {
    let site = Site::new(1);
    let later = "(sleep 3; printf 1 >\"$auth_control_file\") & exit 0";
    let config = pending_server(&site, "crtext", "CR_TEXT:R,E:Your code", later);
    let _server = Server::start(&site.net, &config);
    let mut client = answered(&site, version, CODE);
    client.wait_up();
    ping(&site.net.clients[0], "192.168.77.2");
}

/// Who does not announce the method is refused, and never asked.
fn client_that_cannot_be_asked(version: Version) {
    let site = Site::new(1);
    let config = pending_server(&site, "crtext", "CR_TEXT:R,E:Your code", CHECK);
    let _server = Server::start(&site.net, &config);
    let mut client = site.login_client(0, version).start(&site.net, 0);
    client.process.wait_for(&["AUTH_FAILED"], SOON);
    assert!(!client.process.logged(&["AUTH_PENDING"]) && !client.process.logged(&["CR_TEXT"]));
    assert!(!client.process.logged(&["PUSH_REPLY"]), "something was pushed to a client that is not let in");
}

fn link_to_open(version: Version) {
    elsewhere(version, "openurl", "OPEN_URL:https://login.test/a?b=c&d=%31");
}

fn page_to_log_in(version: Version) {
    elsewhere(version, "webauth", "WEB_AUTH:hidden:https://login.test/a");
}

/// The client is shown a link; somebody else decides.
fn elsewhere(version: Version, method: &str, text: &str) {
    let site = Site::new(1);
    let body = format!(
        "printf '60\\n{method}\\n%s\\n' '{text}' >\"$auth_pending_file\"\n\
         (while [ ! -e \"$0.done\" ]; do sleep 0.2; done; printf 1 >\"$auth_control_file\") & exit 2"
    );
    let verify = site.hooks.script("verify", &body);
    let _server = Server::start(&site.net, &site.hooked_server(&verify));
    let mut client = site.client(0, version).managed().announces("webauth,openurl").start(&site.net, 0);
    client.management().login(1, USER, PASSWORD, SOON);
    let told = client.management().wait_nth(">INFOMSG:", 1, SOON);
    assert_eq!(told, format!(">INFOMSG:{text}"));
    pause(Duration::from_secs(1));
    assert!(!client.process.logged(&["PUSH_REPLY"]), "something was pushed before the login was decided");
    std::fs::write(format!("{verify}.done"), "").expect("a file beside the hook");
    client.wait_up();
    ping(&site.net.clients[0], "192.168.77.2");
}
