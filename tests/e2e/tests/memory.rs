//! What the gateway keeps of passwords after a login: nothing, neither in its memory nor in its log.
//!
//! ```text
//!   client 0 ── 1,000 logins, each with a password of its own ──► gateway, its plugin hosts
//!   test ── all their writable memory (what a core dump holds) ──► grep
//! ```

use std::fs::File;
use std::io::Write as _;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tessera_e2e::harness::{Cli, Server, compile, pause};
use tessera_e2e::{OurClient, Outcome, Site};

const SOON: Duration = Duration::from_secs(30);
/// Logins under way at a time.
const AT_ONCE: usize = 4;
/// What all passwords consist of, besides their number. Whichever of it is left over, is found: freed memory loses its
/// first bytes to the allocator, and buffers are cut anywhere.
const PIECES: [&str; 4] = ["Qx7vKp2mZt9w", "Lr4nBd8sYh3j", "Gc6fWu1aVe5k", "Mj9tRb2xNz7q"];
/// The user who stays: what is found of it proves that memory is read.
const WITNESS: &str = "witness-of-the-living-5d1c";
/// Other threads may still hold what was in use a moment ago.
const SETTLE: Duration = Duration::from_secs(3);
/// No mapping of the gateway that is larger holds anything but address space.
const MAX_MAPPING: u64 = 1 << 30;

fn password(number: usize) -> String {
    let [a, b, c, d] = PIECES;
    format!("{number:04}-{a}{b}-{number:04}-{c}{d}")
}

/// Each piece as it is, and the middle of its base64 wherever that may begin: as answers to challenges are sent.
fn patterns() -> Vec<String> {
    let base64 = |text: &str| {
        const LETTERS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
        let whole = text.len() / 3 * 3;
        let bits = |chunk: &[u8]| chunk.iter().fold(0_usize, |bits, byte| bits << 8 | usize::from(*byte));
        text.as_bytes()[..whole]
            .chunks(3)
            .flat_map(|chunk| [18, 12, 6, 0].map(|shift| char::from(LETTERS[bits(chunk) >> shift & 63])))
            .collect::<String>()
    };
    let all = PIECES
        .iter()
        .flat_map(|piece| [(*piece).to_owned(), base64(piece), base64(&piece[1..]), base64(&piece[2..])]);
    all.collect()
}

/// Copies the memory that a process may write to into a file, as a core dump would. The process runs on meanwhile.
fn dump(process: u32, to: &Path) {
    let maps = std::fs::read_to_string(format!("/proc/{process}/maps")).expect("the mappings of a process");
    let memory = File::open(format!("/proc/{process}/mem")).expect("the memory of a process");
    let mut out = File::create(to).expect("a file for memory");
    let mut page = vec![0; 1 << 16];
    for line in maps.lines() {
        let mut words = line.split_whitespace();
        let (range, rights) = (words.next().expect("a range"), words.next().expect("rights"));
        if !rights.starts_with("rw") {
            continue;
        }
        let (from, to) = range.split_once('-').expect("a range");
        let [mut at, end] = [from, to].map(|text| u64::from_str_radix(text, 16).expect("an address"));
        if end - at > MAX_MAPPING {
            continue;
        }
        while at < end {
            let wanted = usize::try_from(end - at).expect("an address").min(page.len());
            match memory.read_at(&mut page[..wanted], at) {
                Ok(read) if read > 0 => {
                    out.write_all(&page[..read]).expect("write memory to a file");
                    at += read as u64;
                }
                // Devices, and what was unmapped meanwhile.
                _ => at += wanted as u64,
            }
        }
    }
}

/// What `grep` finds of `patterns` in a file, with what stands around it.
fn grep(patterns: &[String], file: &Path) -> Vec<String> {
    let expression = format!(".{{0,24}}({}).{{0,24}}", patterns.join("|").replace('+', "\\+"));
    let found =
        Command::new("grep").env("LC_ALL", "C").args(["-aoE", &expression]).arg(file).output().expect("grep");
    assert!(
        found.status.code().is_some_and(|code| code < 2),
        "grep: {}",
        String::from_utf8_lossy(&found.stderr)
    );
    String::from_utf8_lossy(&found.stdout).lines().map(|line| line.escape_debug().to_string()).collect()
}

/// The gateway and the processes that it made of itself.
fn family(process: u32) -> Vec<u32> {
    let tasks = std::fs::read_dir(format!("/proc/{process}/task")).expect("the threads of a process");
    let children = tasks.flat_map(|task| {
        let path = task.expect("a thread").path().join("children");
        std::fs::read_to_string(path)
            .unwrap_or_default()
            .split_whitespace()
            .map(str::to_owned)
            .collect::<Vec<_>>()
    });
    let children = children.map(|child| child.parse().expect("a process id")).collect::<Vec<u32>>();
    std::iter::once(process).chain(children.into_iter().flat_map(family)).collect()
}

/// Searches the log, and the memory of the whole family. The witness must be in the gateway's.
fn assert_forgotten(site: &Site, server: &Server) {
    pause(SETTLE);
    let log = server.process.log();
    assert!(log.contains("Peer Connection Initiated"), "the log says nothing about logins");
    assert!(!PIECES.iter().any(|piece| log.contains(piece)), "a password is in the log");
    let family = family(server.process.id());
    let mut found = Vec::new();
    for (index, process) in family.iter().enumerate() {
        let file = site.net.folder().join(format!("memory-{process}"));
        dump(*process, &file);
        if index == 0 {
            assert!(
                !grep(&[WITNESS.to_owned()], &file).is_empty(),
                "a living session was not found in memory"
            );
        }
        found.extend(grep(&patterns(), &file).into_iter().map(|text| format!("process {index}: {text}")));
        std::fs::remove_file(&file).expect("remove what was dumped");
    }
    let first = found.iter().take(40).cloned().collect::<Vec<_>>().join("\n");
    assert!(
        found.is_empty(),
        "{} leftovers of passwords in {} processes:\n{first}",
        found.len(),
        family.len()
    );
}

/// Logs in as `user-N` with password N for each number, a few at a time. Gives how many were let in.
fn log_in(site: &Site, client: &OurClient, count: usize, goodbye: bool) -> usize {
    let (next, let_in) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let sockets = client.sockets(site, count);
    std::thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                while let Some(socket) = sockets.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let number =
                        sockets.iter().position(|other| std::ptr::eq(other, socket)).expect("its own");
                    let socket = socket.try_clone().expect("a second handle");
                    let mut session = client.start_on(socket, &format!("user-{number}"), &password(number));
                    let_in.fetch_add(usize::from(session.outcome(SOON) == Outcome::In), Ordering::Relaxed);
                    if goodbye {
                        session.leave();
                    }
                }
            });
        }
    });
    let_in.into_inner()
}

/// Through a script with a file, and a plugin with its environment.
#[test]
fn tesserad_only_thousand_passwords() {
    let site = Site::new(1);
    let plugin = compile(&site.net, "plugin.so", include_str!("plugin.c"));
    let config = site
        .server()
        .line("auth-user-pass-verify /usr/bin/true via-file")
        .line(format!("plugin {plugin}"))
        .line("auth-gen-token 0")
        .line("duplicate-cn")
        .line("connect-freq-initial 100000 10")
        .with("verb", "3");
    let server = Server::start(&site.net, &config);
    let client = OurClient::new(&site, 0, &site.identity(0));
    let (_witness, outcome) = client.login(&site, WITNESS, &password(9999), SOON);
    assert_eq!(outcome, Outcome::In);
    assert_eq!(log_in(&site, &client, 1000, true), 1000);
    assert_forgotten(&site, &server);
}

/// Through a script's environment; and wrong ones. With all that the gateway can say in its log.
#[test]
fn tesserad_only_passwords_in_the_environment() {
    let site = Site::new(1);
    let verify = site.hooks.script("verify", &format!("[ \"$username\" = {WITNESS} ]"));
    let config = site
        .server()
        .line(format!("auth-user-pass-verify {verify} via-env"))
        .line("duplicate-cn")
        .line("connect-freq-initial 100000 10")
        .with("verb", "11");
    let server = Server::start(&site.net, &config);
    let client = OurClient::new(&site, 0, &site.identity(0));
    let (_witness, outcome) = client.login(&site, WITNESS, &password(9999), SOON);
    assert_eq!(outcome, Outcome::In);
    assert_eq!(log_in(&site, &client, 100, false), 0);
    assert_forgotten(&site, &server);
}

/// Of users of the gateway's own file, who are added over the control socket.
#[test]
fn tesserad_only_passwords_of_own_users() {
    let site = Site::new(1);
    let cli = Cli::new(&site.net);
    let config = site
        .account_server(&cli)
        .without("client-connect")
        .without("client-disconnect")
        .line("duplicate-cn")
        .line("connect-freq-initial 100000 10")
        .with("verb", "11");
    let server = Server::start(&site.net, &config);
    cli.add_user(WITNESS, &password(9999), false);
    for number in 0..20 {
        cli.add_user(&format!("user-{number}"), &password(number), false);
    }
    let client = OurClient::new(&site, 0, &site.identity(0));
    let (_witness, outcome) = client.login(&site, WITNESS, &password(9999), SOON);
    assert_eq!(outcome, Outcome::In);
    // Half of them exist.
    assert_eq!(log_in(&site, &client, 40, true), 20);
    assert_forgotten(&site, &server);
}

/// All that the gateway can say, about passwords and tokens that are right and wrong.
#[test]
fn tesserad_only_nothing_in_the_log() {
    let site = Site::new(1);
    let (config, _) = site.token_server("0");
    site.accepting(&[&password(1)]);
    let config = config.with("verb", "11");
    let server = Server::start(&site.net, &config);
    let client = OurClient::new(&site, 0, &site.identity(0));
    let (session, outcome) = client.login(&site, WITNESS, &password(2), SOON);
    assert!(matches!(outcome, Outcome::Refused(_)), "{outcome:?}");
    drop(session);
    let (mut session, outcome) = client.login(&site, WITNESS, &password(1), SOON);
    assert_eq!(outcome, Outcome::In);
    let first = session.token();
    assert!(session.renegotiate(SOON));
    let second = session.token();
    session.leave();
    let (session, outcome) = client.login(&site, WITNESS, &second, SOON);
    assert_eq!(outcome, Outcome::In);
    session.leave();
    let (mut forged, mut middle) = (second.clone().into_bytes(), String::new());
    forged[40] = if forged[40] == b'A' { b'B' } else { b'A' };
    let forged = String::from_utf8(forged).expect("still ASCII");
    let (_session, outcome) = client.login(&site, WITNESS, &forged, SOON);
    assert!(matches!(outcome, Outcome::Refused(_)), "{outcome:?}");
    pause(Duration::from_secs(1));
    let log = server.process.log();
    assert!(log.contains(WITNESS), "the log says nothing about logins");
    for piece in PIECES {
        assert!(!log.contains(piece), "a password is in the log");
    }
    for token in [first, second, forged] {
        token[60..].clone_into(&mut middle);
        assert!(!log.contains(&token) && !log.contains(&middle), "a token is in the log");
    }
    assert!(!log.contains("SESS_ID_AT_"), "a token is in the log");
}
