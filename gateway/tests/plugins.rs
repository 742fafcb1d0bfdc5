//! Plugins that behave and plugins that do not: real libraries, compiled here from `plugins/test-plugin.c` with the system's
//! header, and OpenVPN's own two. Needs root (users are changed), a C compiler, and Debian's `openvpn` and `libssl-dev`.

#![expect(clippy::unwrap_used, reason = "a test may fail by panic")]

use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use tempfile::TempDir;
use tesserad::clock;
use tesserad::hooks::Env;
use tesserad::plugins::{
    ClientKey, NoAnswer, PluginHandle, PluginKind, PluginOptions, PluginOutcome, PluginSpec, Plugins,
    StartError, Verdict, locate,
};

/// For calls that should not reach it, on a busy machine.
const LONG: Duration = Duration::from_secs(30);
/// For what should happen soon, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(20);
const NOBODY: u32 = 65534;
const SOURCE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/plugins/test-plugin.c");

struct Bench {
    dir: TempDir,
    options: PluginOptions,
}

impl Bench {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        // Plugins write into it as whoever they have become.
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o777)).unwrap();
        let mut env = Env::new();
        env.set("verb", "3").set("daemon", "1");
        let options = PluginOptions {
            env,
            user: None,
            group: None,
            open_timeout: PluginOptions::OPEN_TIMEOUT,
            call_timeout: LONG,
            queue: 100,
            host: env!("CARGO_BIN_EXE_tesserad").into(),
        };
        Self { dir, options }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Compiles the test plugin; `name` becomes the file's.
    fn plugin(&self, name: &str, flags: &[&str], args: &[&str]) -> PluginSpec {
        let file = self.path(name);
        let mut cc = Command::new("cc");
        cc.args(["-shared", "-fPIC", "-O1", "-I/usr/include/openvpn", "-o"]).arg(&file).arg(SOURCE);
        assert!(cc.args(flags).status().unwrap().success());
        PluginSpec {
            file,
            args: args.iter().map(OsString::from).collect(),
            place: format!("s.conf:7 {name}"),
        }
    }

    /// The test plugin of version 3 that records into `record`.
    fn recording(&self, args: &[&str]) -> PluginSpec {
        let record = format!("record={}", self.path("record").display());
        self.plugin("p.so", &[], &[&[record.as_str()], args].concat())
    }

    fn start(&self, specs: &[PluginSpec]) -> Plugins {
        Plugins::start(specs, &self.options).unwrap()
    }

    fn refusal(&self, spec: &PluginSpec) -> String {
        Plugins::start(std::slice::from_ref(spec), &self.options).unwrap_err().to_string()
    }

    fn record(&self) -> Vec<String> {
        fs::read_to_string(self.path("record")).unwrap_or_default().lines().map(str::to_owned).collect()
    }

    fn events(&self, of: &str) -> Vec<String> {
        self.record().into_iter().filter(|line| line.starts_with(of)).collect()
    }

    fn become_nobody(mut self) -> Self {
        self.options.user = Some("nobody".into());
        self.options.group = Some("nogroup".into());
        self
    }
}

fn user(name: &str) -> Env {
    let mut env = Env::new();
    env.set("username", name);
    env
}

async fn ask(plugins: &PluginHandle, kind: PluginKind, env: &Env) -> PluginOutcome {
    let mut replies = plugins.call(kind, Vec::new(), env, ClientKey(1)).await;
    assert_eq!(replies.len(), 1);
    replies.remove(0).outcome
}

async fn login(plugins: &PluginHandle, name: &str) -> PluginOutcome {
    ask(plugins, PluginKind::AuthUserPassVerify, &user(name)).await
}

fn is_yes(outcome: &PluginOutcome) -> bool {
    matches!(outcome, PluginOutcome::Success { .. })
}

fn no_answer(outcome: &PluginOutcome) -> Option<NoAnswer> {
    match outcome {
        PluginOutcome::NoAnswer(why) => Some(*why),
        _ => None,
    }
}

fn configs(outcome: &PluginOutcome) -> Vec<(String, String)> {
    let PluginOutcome::Success { returned } = outcome else { panic!("{outcome:?}") };
    returned.iter().map(|r| (r.name.clone(), String::from_utf8(r.value.expose().clone()).unwrap())).collect()
}

/// Waits, without blocking the runtime.
async fn until(what: &str, mut done: impl FnMut() -> bool) {
    let limit = clock::now() + PATIENCE;
    while !done() {
        assert!(clock::now() < limit, "{what}: not within {PATIENCE:?}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

fn stat(pid: u32) -> Option<Vec<String>> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    Some(stat.rsplit(')').next()?.split_whitespace().map(str::to_owned).collect())
}

/// Whether a process runs; one that is dead and not yet reaped by its new parent does not.
fn runs(pid: u32) -> bool {
    stat(pid).is_some_and(|stat| !matches!(stat[0].as_str(), "Z" | "X"))
}

fn parent(pid: u32) -> u32 {
    stat(pid).unwrap()[1].parse().unwrap()
}

fn session(pid: u32) -> String {
    stat(pid).unwrap()[3].clone()
}

fn number_in(line: &str, name: &str) -> u32 {
    let value = line.split(' ').find_map(|word| word.strip_prefix(name)?.strip_prefix('=')).unwrap();
    value.parse().unwrap()
}

fn kill(pid: u32) {
    let pid = nix::unistd::Pid::from_raw(pid.cast_signed());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).unwrap();
}

#[tokio::test]
async fn all_three_versions() {
    for api in ["1", "2", "3"] {
        let bench = Bench::new();
        let record = format!("record={}", bench.path("record").display());
        let flag = format!("-DAPI={api}");
        let rules = ["5=deny@bob", "4=accept", "9=config:push \"auth-token T\"\\npush \"ping 7\""];
        let args = [&[record.as_str()], &rules[..]].concat();
        let plugins = bench.start(&[bench.plugin("p.so", &[flag.as_str()], &args)]);
        let handle = plugins.handle();
        assert!(is_yes(&login(&handle, "alice").await), "v{api}");
        assert!(matches!(login(&handle, "bob").await, PluginOutcome::Error));
        let argv = vec!["1".into(), "C=DE, CN=x".into()];
        let replies = handle.call(PluginKind::TlsVerify, argv, &Env::new(), ClientKey(1)).await;
        assert_eq!(Verdict::of(&replies), Verdict::Allow);
        let returned = ask(&handle, PluginKind::ClientConnectV2, &Env::new()).await;
        let want = [("config".to_owned(), "push \"auth-token T\"\npush \"ping 7\"".to_owned())];
        // The first version has nothing to return values with.
        assert_eq!(configs(&returned), if api == "1" { &[][..] } else { &want });
        drop(plugins);
        let record = bench.record();
        let depth = if api == "3" { "depth=1" } else { "depth=-1" };
        assert!(record.iter().any(|line| line.starts_with("call 4 ") && line.contains(depth)), "{record:?}");
        assert!(record[0].starts_with(&format!("open api={api} uid=0 ")), "{record:?}");
        assert_eq!(record.last().unwrap(), "close");
    }
}

#[tokio::test]
async fn several_are_asked_and_only_those_who_want() {
    let bench = Bench::new();
    let plugins = bench.start(&[
        bench.plugin("first.so", &[], &["5=accept", "10=deny@eve"]),
        bench.plugin("second.so", &[], &["mask=7"]),
        bench.plugin("third.so", &[], &["5=sleep:300", "5=deny@bob"]),
    ]);
    let handle = plugins.handle();
    assert!(handle.wants(PluginKind::TlsFinal) && handle.wants(PluginKind::ClientDisconnect));
    assert!(!handle.wants(PluginKind::Up) && !handle.wants(PluginKind::ClientConnectV2));
    let kind = PluginKind::AuthUserPassVerify;
    let replies = handle.call(kind, Vec::new(), &user("bob"), ClientKey(1)).await;
    let names: Vec<&str> = replies.iter().map(|reply| &*reply.plugin).collect();
    assert_eq!(names, ["first.so", "third.so"]);
    assert_eq!(Verdict::of(&replies), Verdict::Allow, "the first rule that fits counts");
    assert!(handle.call(PluginKind::Up, Vec::new(), &Env::new(), ClientKey::SERVER).await.is_empty());
    let last = handle.call(PluginKind::TlsFinal, Vec::new(), &user("eve"), ClientKey(1)).await;
    assert_eq!(Verdict::of(&last), Verdict::Deny, "the last veto");
    let counts = |stats: &tesserad::plugins::PluginStats, name| {
        let (_, kind) = stats.kinds().find(|(kind, _)| *kind == name).unwrap();
        (kind.runs(), kind.failures())
    };
    let stats: Vec<_> = handle.stats().collect();
    assert_eq!((counts(stats[0], "auth-user-pass-verify"), counts(stats[0], "tls-final")), ((1, 0), (1, 1)));
    assert_eq!(counts(stats[1], "client-disconnect"), (0, 0));
    let (_, third) = stats[2].kinds().find(|(kind, _)| *kind == "auth-user-pass-verify").unwrap();
    assert!(third.total_duration() >= Duration::from_millis(300));
    assert!(stats.iter().all(|stats| stats.in_queue.load(Relaxed) == 0 && stats.open.load(Relaxed)));
}

#[tokio::test]
async fn answers_come_later() {
    let bench = Bench::new();
    let rules =
        ["5=defer:300:1@alice", "5=defer:300:0", "9=defer", "14=config-after:2:push \"ping 9\"", "4=defer"];
    let plugins = bench.start(&[bench.plugin("p.so", &[], &rules)]);
    let handle = plugins.handle();
    for (name, answer) in [("alice", "1"), ("bob", "0")] {
        let file = bench.path(name);
        fs::write(&file, "").unwrap();
        let mut env = user(name);
        env.set("auth_control_file", file.to_str().unwrap());
        let outcome = ask(&handle, PluginKind::AuthUserPassVerify, &env).await;
        assert!(matches!(outcome, PluginOutcome::Deferred), "{outcome:?}");
        assert_eq!(fs::read_to_string(&file).unwrap(), "");
        until("the answer", || fs::read_to_string(&file).unwrap() == answer).await;
    }
    let first = ask(&handle, PluginKind::ClientConnectV2, &Env::new()).await;
    assert!(matches!(first, PluginOutcome::Deferred));
    for _ in 0..2 {
        let again = ask(&handle, PluginKind::ClientConnectDeferV2, &Env::new()).await;
        assert!(matches!(again, PluginOutcome::Deferred));
    }
    let at_last = ask(&handle, PluginKind::ClientConnectDeferV2, &Env::new()).await;
    assert_eq!(configs(&at_last), [("config".to_owned(), "push \"ping 9\"".to_owned())]);
    let elsewhere = ask(&handle, PluginKind::TlsVerify, &Env::new()).await;
    assert_eq!(no_answer(&elsewhere), Some(NoAnswer::Unknown(2)), "nobody defers a certificate");
}

#[tokio::test]
async fn a_crash_costs_one_call() {
    let bench = Bench::new();
    let plugins = bench.start(&[bench.recording(&["5=crash@mallory", "5=exit@eve", "5=garbage@gus"])]);
    let handle = plugins.handle();
    assert!(is_yes(&login(&handle, "alice").await));
    let (crash, next) = tokio::join!(login(&handle, "mallory"), login(&handle, "alice"));
    assert_eq!(no_answer(&crash), Some(NoAnswer::Crashed));
    assert!(is_yes(&next), "it waited for the restart: {next:?}");
    assert_eq!(no_answer(&login(&handle, "eve").await), Some(NoAnswer::Crashed));
    // The second restart comes after a second.
    assert!(is_yes(&login(&handle, "alice").await));
    assert_eq!(no_answer(&login(&handle, "gus").await), Some(NoAnswer::Unknown(42)));
    assert!(is_yes(&login(&handle, "alice").await), "a strange number ends nothing");
    assert_eq!(handle.stats().next().unwrap().restarts.load(Relaxed), 2);
    assert_eq!(bench.events("open").len(), 3);
    // From the third death on the wait is longer than calls wait.
    login(&handle, "mallory").await;
    assert_eq!(no_answer(&login(&handle, "alice").await), Some(NoAnswer::NotOpen));
    until("the third restart", || bench.events("open").len() == 4).await;
    until("open again", || handle.stats().next().unwrap().open.load(Relaxed)).await;
    assert!(is_yes(&login(&handle, "alice").await));
}

#[tokio::test]
async fn what_hangs_is_killed() {
    let mut bench = Bench::new();
    bench.options.call_timeout = Duration::from_secs(1);
    let plugins =
        bench.start(&[bench.recording(&["5=hang@mallory"]), bench.plugin("other.so", &[], &["10=accept"])]);
    let handle = plugins.handle();
    let pid = number_in(&bench.events("open")[0], "pid");
    let start = clock::now();
    let (hung, next, other) = tokio::join!(login(&handle, "mallory"), login(&handle, "alice"), async {
        let other = ask(&handle, PluginKind::TlsFinal, &user("alice")).await;
        (other, clock::now().saturating_duration_since(start))
    });
    assert_eq!(no_answer(&hung), Some(NoAnswer::Timeout));
    assert!(is_yes(&next), "{next:?}");
    assert!(
        is_yes(&other.0) && other.1 < Duration::from_millis(900),
        "others wait for nothing: {:?}",
        other.1
    );
    assert!(!runs(pid));
    let stats = handle.stats().next().unwrap();
    let (_, kind) = stats.kinds().find(|(kind, _)| *kind == "auth-user-pass-verify").unwrap();
    assert_eq!((kind.timeouts(), stats.restarts.load(Relaxed)), (1, 1));
}

#[tokio::test]
async fn a_destructor_that_hangs_is_a_hang() {
    // The test plugin has no rules for its destructor.
    let mut bench = Bench::new();
    bench.options.call_timeout = Duration::from_secs(1);
    let source = bench.path("hang.c");
    let code = r#"
        #include <unistd.h>
        void *openvpn_plugin_open_v1(unsigned *mask, const char **argv, const char **envp) { *mask = 1 << 5; return mask; }
        int openvpn_plugin_func_v1(void *handle, int type, const char **argv, const char **envp) { return 0; }
        void *openvpn_plugin_client_constructor_v1(void *handle) { return handle; }
        void openvpn_plugin_client_destructor_v1(void *handle, void *client) { for (;;) pause(); }
        void openvpn_plugin_close_v1(void *handle) {}
    "#;
    fs::write(&source, code).unwrap();
    let file = bench.path("hang.so");
    let mut cc = Command::new("cc");
    assert!(cc.args(["-shared", "-fPIC", "-o"]).arg(&file).arg(&source).status().unwrap().success());
    let plugins = bench.start(&[PluginSpec { file, args: Vec::new(), place: "here".into() }]);
    let handle = plugins.handle();
    assert!(is_yes(&login(&handle, "alice").await));
    handle.forget(ClientKey(1));
    assert!(is_yes(&login(&handle, "alice").await));
    assert_eq!(handle.stats().next().unwrap().restarts.load(Relaxed), 1);
    let start = clock::now();
    drop(plugins);
    assert!(clock::now().saturating_duration_since(start) < PATIENCE, "its end is not waited for");
}

#[tokio::test]
async fn the_queue_is_bounded() {
    let mut bench = Bench::new();
    bench.options.queue = 3;
    let plugins = bench.start(&[bench.plugin("p.so", &[], &["5=sleep:300"])]);
    let handle = plugins.handle();
    let one = || login(&handle, "alice");
    let (a, b, c, d) = tokio::join!(one(), one(), one(), one());
    assert!(is_yes(&a) && is_yes(&b) && is_yes(&c));
    assert_eq!(no_answer(&d), Some(NoAnswer::QueueFull));
    let stats = handle.stats().next().unwrap();
    assert_eq!((stats.rejected.load(Relaxed), stats.in_queue.load(Relaxed)), (1, 0));
}

#[tokio::test]
async fn nobody_waits_nobody_is_called() {
    let bench = Bench::new();
    let plugins = bench.start(&[bench.recording(&["5=sleep:500", "7=accept"])]);
    let handle = plugins.handle();
    let gone = |kind| {
        let handle = handle.clone();
        tokio::spawn(async move { ask(&handle, kind, &user("gone")).await })
    };
    let first = gone(PluginKind::AuthUserPassVerify);
    until("the first call", || bench.events("call 5").len() == 1).await;
    let others = [gone(PluginKind::AuthUserPassVerify), gone(PluginKind::ClientDisconnect)];
    tokio::time::sleep(Duration::from_millis(100)).await;
    others.iter().for_each(tokio::task::JoinHandle::abort);
    assert!(is_yes(&first.await.unwrap()));
    until("the books", || bench.events("call 7").len() == 1).await;
    assert_eq!(bench.events("call 5").len(), 1, "a login that was given up");
}

#[test]
fn what_cannot_be_opened_refuses_the_start() {
    let mut bench = Bench::new();
    let missing = PluginSpec { file: bench.path("none.so"), args: Vec::new(), place: "s.conf:3".into() };
    let text = bench.refusal(&missing);
    assert!(text.starts_with("s.conf:3: plugin /") && text.contains("No such file"), "{text}");
    let garbage = bench.path("garbage.so");
    fs::write(&garbage, "hello").unwrap();
    let text = bench.refusal(&PluginSpec { file: garbage, ..missing.clone() });
    assert!(text.contains("it cannot be loaded"), "{text}");
    let (source, empty) = (bench.path("empty.c"), bench.path("empty.so"));
    fs::write(&source, "int nothing;\n").unwrap();
    let mut cc = Command::new("cc");
    assert!(cc.args(["-shared", "-fPIC", "-o"]).arg(&empty).arg(&source).status().unwrap().success());
    let text = bench.refusal(&PluginSpec { file: empty, ..missing });
    assert!(
        text.contains("it is no OpenVPN plugin: openvpn_plugin_open_v1 (or v2, v3) is missing"),
        "{text}"
    );
    let text = bench.refusal(&bench.plugin("new.so", &["-DMIN_VERSION=4"], &["5=accept"]));
    assert!(text.contains("it needs version 4 of the plugin interface, this is 3"), "{text}");
    drop(bench.start(&[bench.plugin("old.so", &["-DMIN_VERSION=3"], &["5=accept"])]));
    for (flag, action, why) in [
        ("-DAPI=1", "open=fail", "it refuses to open (openvpn_plugin_open returned no handle)"),
        ("-DAPI=3", "open=fail", "it refuses to open (openvpn_plugin_open_v3 returned 1)"),
        ("-DAPI=2", "open=crash", "its process died while it was opened: signal 11"),
        ("-DAPI=2", "open=stray-mask", "it wants calls that are not known here (type mask 0x100020)"),
    ] {
        let text = bench.refusal(&bench.plugin("p.so", &[flag], &["5=accept", action]));
        assert!(text.ends_with(why) && text.contains("p.so: "), "{text}");
    }
    bench.options.open_timeout = Duration::from_secs(1);
    let text = bench.refusal(&bench.plugin("p.so", &[], &["5=accept", "open=hang"]));
    assert!(text.ends_with("p.so: it did not open within 1 s"), "{text}");
    bench.options.open_timeout = PluginOptions::OPEN_TIMEOUT;
    let good = bench.plugin("good.so", &[], &["5=accept"]);
    let mut options = bench.options.clone();
    options.user = Some("no-such-user".into());
    let error = Plugins::start(&[good], &options).unwrap_err();
    assert_eq!(error, StartError::Other("user no-such-user: unknown".into()));
    assert!(Plugins::start(&[], &options).is_ok(), "without plugins nothing matters");
}

#[tokio::test]
async fn one_that_does_not_open_again_gives_no_answers_until_it_does() {
    let bench = Bench::new();
    let broken = bench.path("broken");
    let rule = format!("open=crash-if={}", broken.display());
    let plugins = bench.start(&[bench.recording(&["5=crash@mallory", &rule])]);
    let handle = plugins.handle();
    fs::write(&broken, "").unwrap();
    assert_eq!(no_answer(&login(&handle, "mallory").await), Some(NoAnswer::Crashed));
    assert_eq!(no_answer(&login(&handle, "alice").await), Some(NoAnswer::NotOpen));
    let start = clock::now();
    assert_eq!(no_answer(&login(&handle, "alice").await), Some(NoAnswer::NotOpen));
    assert!(clock::now().saturating_duration_since(start) < Duration::from_secs(1), "told at once");
    fs::remove_file(&broken).unwrap();
    until("open again", || handle.stats().next().unwrap().open.load(Relaxed)).await;
    assert!(is_yes(&login(&handle, "alice").await));
}

/// A library that was replaced by one that checks nothing must not turn the check off.
#[tokio::test]
async fn one_that_comes_back_with_fewer_calls_is_not_open() {
    let bench = Bench::new();
    let (source, once, file) = (bench.path("less.c"), bench.path("once"), bench.path("less.so"));
    let code = format!(
        r#"
        #include <fcntl.h>
        #include <stdlib.h>
        void *openvpn_plugin_open_v1(unsigned *mask, const char **argv, const char **envp) {{
            *mask = open("{}", O_CREAT | O_EXCL, 0600) < 0 ? 1 << 10 : 1 << 5 | 1 << 10; return mask; }}
        int openvpn_plugin_func_v1(void *handle, int type, const char **argv, const char **envp) {{ abort(); }}
        void openvpn_plugin_close_v1(void *handle) {{}}
    "#,
        once.display()
    );
    fs::write(&source, code).unwrap();
    let mut cc = Command::new("cc");
    assert!(cc.args(["-shared", "-fPIC", "-o"]).arg(&file).arg(&source).status().unwrap().success());
    let plugins = bench.start(&[PluginSpec { file, args: Vec::new(), place: "here".into() }]);
    let handle = plugins.handle();
    assert_eq!(no_answer(&login(&handle, "alice").await), Some(NoAnswer::Crashed));
    let stats = handle.stats().next().unwrap();
    until("the restarts", || stats.restarts.load(Relaxed) >= 2).await;
    assert!(handle.wants(PluginKind::AuthUserPassVerify) && !stats.open.load(Relaxed));
    assert_eq!(no_answer(&login(&handle, "alice").await), Some(NoAnswer::NotOpen));
}

/// One of two puts its answer off and has no function for the second question: the other's yes does not speak for it.
#[tokio::test]
async fn who_must_be_asked_and_cannot_gives_no_answer() {
    let bench = Bench::new();
    let plugins = bench.start(&[
        bench.plugin("a.so", &[], &["9=defer"]),
        bench.plugin("b.so", &[], &["9=accept", "14=accept"]),
    ]);
    let handle = plugins.handle();
    let env = user("alice");
    let first = handle.call(PluginKind::ClientConnectV2, Vec::new(), &env, ClientKey(1)).await;
    assert!(matches!(first[0].outcome, PluginOutcome::Deferred) && is_yes(&first[1].outcome));
    assert_eq!((first[0].place, first[1].place), (0, 1));
    let each = |_| (Vec::new(), std::sync::Arc::new(env.clone()));
    let again = handle.call_at(&[0], PluginKind::ClientConnectDeferV2, ClientKey(1), each).await;
    assert_eq!(Verdict::of(&again), Verdict::NoAnswer);
    assert_eq!(no_answer(&again[0].outcome), Some(NoAnswer::NotWanted));
}

#[tokio::test]
async fn books_are_kept_whatever_the_load() {
    let mut bench = Bench::new();
    bench.options.queue = 1;
    let plugins = bench.start(&[bench.recording(&["5=sleep:300", "7=accept"])]);
    let handle = plugins.handle();
    let gone = user("alice");
    let (_, left) = tokio::join!(login(&handle, "alice"), ask(&handle, PluginKind::ClientDisconnect, &gone));
    assert!(is_yes(&left), "{left:?}");
}

#[tokio::test]
async fn one_context_for_each_client() {
    let bench = Bench::new();
    let plugins = bench.start(&[bench.recording(&["5=accept", "7=accept", "0=accept"])]);
    let handle = plugins.handle();
    let call = |kind, client| {
        let handle = handle.clone();
        async move { handle.call(kind, Vec::new(), &Env::new(), client).await }
    };
    call(PluginKind::Up, ClientKey::SERVER).await;
    for client in [10, 11, 10] {
        call(PluginKind::AuthUserPassVerify, ClientKey(client)).await;
    }
    call(PluginKind::ClientDisconnect, ClientKey(10)).await;
    handle.forget(ClientKey(10));
    handle.forget(ClientKey(99));
    call(PluginKind::AuthUserPassVerify, ClientKey(11)).await;
    drop(plugins);
    let seen: Vec<String> = bench
        .record()
        .iter()
        .filter(|line| !line.starts_with("arg") && !line.starts_with("open"))
        .map(|line| line.split(" depth").next().unwrap().to_owned())
        .collect();
    let want = [
        "construct 0",
        "call 0 client=0",
        "construct 1",
        "call 5 client=1",
        "construct 2",
        "call 5 client=2",
        "call 5 client=1",
        "call 7 client=1",
        "destroy 1",
        "call 5 client=2",
        "destroy 2",
        "destroy 0",
        "close",
    ];
    assert_eq!(seen, want);
}

#[tokio::test]
async fn arguments_and_environment_arrive_exactly() {
    let bench = Bench::new();
    let plugins =
        bench.start(&[bench.recording(&["record-env", "8=accept", "5=accept", "", "a b'\"$(id)`\\"])]);
    let handle = plugins.handle();
    let opened = bench.record();
    let args: Vec<&str> = opened.iter().filter_map(|line| line.strip_prefix("arg ")).collect();
    assert_eq!(args[0], bench.path("p.so").to_str().unwrap());
    assert_eq!(args[2..], ["record-env", "8=accept", "5=accept", "", "a b'\"$(id)`\\"]);
    assert!(opened.contains(&"env verb=3".to_owned()));
    assert!(opened.contains(&"env daemon=0".to_owned()), "a host is no daemon");
    fs::remove_file(bench.path("record")).unwrap();
    let mut env = Env::default();
    env.set("username", "x'\"; $(touch /tmp/owned) `id` \\ %s %n")
        .set("password", "p=w\nLD_PRELOAD=/x.so\0y");
    for i in 0..300 {
        env.set(&format!("UV_{i:03}"), "v".repeat(100));
    }
    let argv: Vec<OsString> = ["add", "10.8.0.2", "it's $(me)"].map(OsString::from).to_vec();
    let replies = handle.call(PluginKind::LearnAddress, argv, &env, ClientKey(3)).await;
    assert_eq!(Verdict::of(&replies), Verdict::Allow);
    let record = bench.record();
    let args: Vec<&str> = record.iter().filter_map(|line| line.strip_prefix("arg ")).collect();
    assert_eq!(args, [bench.path("p.so").to_str().unwrap(), "add", "10.8.0.2", "it's $(me)"]);
    let vars: Vec<&str> = record.iter().filter_map(|line| line.strip_prefix("env ")).collect();
    assert_eq!(vars.len(), 302);
    assert!(vars.contains(&"username=x'\"; $(touch /tmp/owned) `id` \\ %s %n"));
    assert!(vars.contains(&"password=p=w_LD_PRELOAD=/x.so_y"));
    assert_eq!(vars.iter().filter(|var| var.starts_with("UV_")).count(), 300);
    // What does not fit is said, and harms nothing.
    env.set("peer_cert", "x".repeat(300_000));
    assert_eq!(
        no_answer(&ask(&handle, PluginKind::AuthUserPassVerify, &env).await),
        Some(NoAnswer::CannotBeAsked)
    );
    env.set("peer_cert", "x".repeat(200_000));
    assert!(is_yes(&ask(&handle, PluginKind::AuthUserPassVerify, &env).await), "nearly the limit");
}

#[tokio::test]
async fn too_much_coming_back_is_no_answer() {
    let bench = Bench::new();
    let plugins = bench.start(&[bench.plugin("p.so", &[], &["9=huge@h", "9=many@m", "9=config:x"])]);
    let handle = plugins.handle();
    for name in ["h", "m"] {
        let outcome = ask(&handle, PluginKind::ClientConnectV2, &user(name)).await;
        assert_eq!(no_answer(&outcome), Some(NoAnswer::CannotBeTaken));
    }
    let fine = ask(&handle, PluginKind::ClientConnectV2, &user("x")).await;
    assert_eq!(configs(&fine), [("config".to_owned(), "x".to_owned())]);
    assert_eq!(handle.stats().next().unwrap().restarts.load(Relaxed), 0);
    let printed = format!("{fine:?}");
    assert!(printed.contains("[redacted]"), "values may be tokens: {printed}");
}

#[tokio::test]
async fn a_process_of_its_own_with_nothing_of_the_gateway() {
    let bench = Bench::new().become_nobody();
    let secret = fs::File::open("/etc/hostname").unwrap();
    nix::fcntl::fcntl(&secret, nix::fcntl::FcntlArg::F_SETFD(nix::fcntl::FdFlag::empty())).unwrap();
    let plugins = bench.start(&[bench.recording(&["5=accept"])]);
    let handle = plugins.handle();
    assert!(is_yes(&login(&handle, "alice").await));
    let opened = bench.events("open")[0].clone();
    assert_eq!(number_in(&opened, "uid"), 0, "opened with the gateway's privileges");
    assert_eq!(number_in(&bench.events("call 5")[0], "uid"), NOBODY, "called without");
    let child = number_in(&opened, "pid");
    let supervisor = parent(child);
    assert_eq!(parent(supervisor), std::process::id());
    let mut sessions = [child, supervisor, std::process::id()].map(session).to_vec();
    sessions.dedup();
    assert_eq!(sessions.len(), 3);
    let status = |pid: u32, field: &str| -> Vec<String> {
        let text = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix(field)).unwrap();
        line.split_whitespace().map(str::to_owned).collect()
    };
    let nobody = vec![NOBODY.to_string(); 4];
    assert_eq!((status(child, "Uid:"), status(child, "Gid:")), (nobody.clone(), nobody));
    assert_eq!(status(child, "Groups:"), [NOBODY.to_string()]);
    assert_eq!(status(supervisor, "Uid:")[0], "0");
    let descriptors = |pid: u32| -> Vec<String> {
        let mut all: Vec<String> = fs::read_dir(format!("/proc/{pid}/fd"))
            .unwrap()
            .map(|entry| fs::read_link(entry.unwrap().path()).unwrap().display().to_string())
            .map(|link| link.split(':').next().unwrap().to_owned())
            .collect();
        all.sort();
        all
    };
    assert_eq!(descriptors(child), ["/dev/null", "pipe", "pipe", "socket"]);
    assert_eq!(descriptors(supervisor), ["/dev/null", "anon_inode", "pipe", "pipe", "socket"]);
    let oom = |pid: u32| fs::read_to_string(format!("/proc/{pid}/oom_score_adj")).unwrap();
    assert_eq!(oom(child).trim(), "500");
    let limits = fs::read_to_string(format!("/proc/{child}/limits")).unwrap();
    let core = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap();
    assert_eq!(core.split_whitespace().skip(4).take(2).collect::<Vec<_>>(), ["0", "0"]);
    let argv = fs::read_to_string(format!("/proc/{supervisor}/cmdline")).unwrap();
    assert!(argv.starts_with("tesserad\0--plugin-host\0") && argv.len() < 40, "{argv:?}");
    drop(secret);
    drop(plugins);
    assert!(!runs(child) && !runs(supervisor));
}

#[tokio::test]
async fn privileges_are_kept_for_the_device_and_no_longer() {
    let bench = Bench::new().become_nobody();
    let late = bench.path("late-record");
    let plugins = bench.start(&[
        bench.recording(&["0=accept", "2=accept", "5=crash@mallory", "1=accept"]),
        bench.plugin("late.so", &["-DINIT_POINT=4"], &[&format!("record={}", late.display()), "5=accept"]),
    ]);
    let handle = plugins.handle();
    let call = |kind| {
        let handle = handle.clone();
        async move { handle.call(kind, vec!["tun0".into()], &user("x"), ClientKey::SERVER).await }
    };
    call(PluginKind::Up).await;
    call(PluginKind::RouteUp).await;
    handle.call(PluginKind::AuthUserPassVerify, Vec::new(), &user("mallory"), ClientKey(1)).await;
    // Opened again as root, and told about the device again, before anything else.
    let replies = handle.call(PluginKind::AuthUserPassVerify, Vec::new(), &user("alice"), ClientKey(2)).await;
    assert_eq!(Verdict::of(&replies), Verdict::Allow, "{replies:?}");
    call(PluginKind::Down).await;
    handle.call(PluginKind::AuthUserPassVerify, Vec::new(), &user("mallory"), ClientKey(1)).await;
    handle.call(PluginKind::AuthUserPassVerify, Vec::new(), &user("alice"), ClientKey(2)).await;
    let seen: Vec<(String, u32)> = bench
        .record()
        .iter()
        .filter(|line| line.starts_with("open") || line.starts_with("call"))
        .map(|line| (line.split(' ').take(2).collect::<Vec<_>>().join(" "), number_in(line, "uid")))
        .collect();
    let seen: Vec<(&str, u32)> = seen.iter().map(|(what, uid)| (what.as_str(), *uid)).collect();
    let once = [("open api=3", 0), ("call 0", 0), ("call 2", 0), ("call 5", NOBODY)];
    let again = [&once[..], &[("call 1", NOBODY), ("call 5", NOBODY)]].concat();
    let without_device = [("open api=3", 0), ("call 5", NOBODY)];
    assert_eq!(seen, [&once[..], &again[..], &without_device[..]].concat());
    let late = fs::read_to_string(late).unwrap();
    assert_eq!(number_in(late.lines().next().unwrap(), "uid"), NOBODY, "opened when it asked to be: {late}");
}

/// The gateway of the next test. It does not end by itself.
#[test]
#[ignore = "started by what_belongs_to_a_gateway_dies_with_it"]
fn gateway_to_be_killed() {
    let record = std::env::var("TESSERA_TEST_RECORD").unwrap();
    let bench = Bench::new().become_nobody();
    let plugins =
        bench.start(&[bench.plugin("p.so", &[], &[&format!("record={record}"), "5=accept", "10=hang"])]);
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let handle = plugins.handle();
    // From here on it could not even signal its hosts.
    nix::unistd::setgid(nix::unistd::Gid::from_raw(NOBODY)).unwrap();
    nix::unistd::setuid(nix::unistd::Uid::from_raw(NOBODY)).unwrap();
    runtime.block_on(async {
        login(&handle, "alice").await;
        if std::env::var_os("TESSERA_TEST_HANG").is_some() {
            ask(&handle, PluginKind::TlsFinal, &user("alice")).await;
        }
        tokio::time::sleep(LONG).await;
    });
}

#[tokio::test]
async fn what_belongs_to_a_gateway_dies_with_it() {
    for hang in [false, true] {
        let bench = Bench::new();
        let mut command = Command::new(std::env::current_exe().unwrap());
        command
            .args(["--exact", "gateway_to_be_killed", "--include-ignored"])
            .env("TESSERA_TEST_RECORD", bench.path("record"))
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        if hang {
            command.env("TESSERA_TEST_HANG", "1");
        }
        let mut gateway = command.spawn().unwrap();
        let call = if hang { "call 10" } else { "call 5" };
        until("the gateway to work", || !bench.events(call).is_empty()).await;
        let child = number_in(&bench.events("open")[0], "pid");
        let supervisor = parent(child);
        assert_eq!(parent(supervisor), gateway.id());
        assert!(runs(child) && runs(supervisor));
        gateway.kill().unwrap();
        gateway.wait().unwrap();
        until("the plugin's end", || !runs(child) && !runs(supervisor)).await;
        assert_eq!(bench.events("close").len(), usize::from(!hang), "closed in order where it listens");
    }
}

#[tokio::test]
async fn without_its_supervisor_a_plugin_is_no_more() {
    let bench = Bench::new().become_nobody();
    let plugins = bench.start(&[bench.recording(&["5=accept"])]);
    let handle = plugins.handle();
    let child = number_in(&bench.events("open")[0], "pid");
    kill(parent(child));
    until("the plugin's end", || !runs(child)).await;
    assert!(no_answer(&login(&handle, "alice").await).is_some());
    assert_eq!(no_answer(&login(&handle, "alice").await), Some(NoAnswer::NotOpen));
    let start = clock::now();
    drop(plugins);
    assert!(clock::now().saturating_duration_since(start) < Duration::from_secs(4));
    assert_eq!(
        handle.call(PluginKind::AuthUserPassVerify, Vec::new(), &Env::new(), ClientKey(1)).await.len(),
        1,
        "a handle that is left over answers"
    );
}

#[tokio::test]
async fn signals_for_the_gateway_do_not_end_plugins() {
    let bench = Bench::new();
    let plugins = bench.start(&[bench.recording(&["5=accept"])]);
    let child = number_in(&bench.events("open")[0], "pid");
    for pid in [child, parent(child)] {
        for signal in ["-TERM", "-INT", "-HUP", "-USR1", "-USR2"] {
            assert!(Command::new("kill").args([signal, &pid.to_string()]).status().unwrap().success());
        }
    }
    assert!(is_yes(&login(&plugins.handle(), "alice").await));
    assert_eq!(plugins.handle().stats().next().unwrap().restarts.load(Relaxed), 0);
}

#[test]
fn only_a_gateway_starts_hosts() {
    for number in ["0", "1", "77"] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tesserad"));
        let output = command.args(["--plugin-host", number]).output().unwrap();
        assert_eq!(output.status.code(), Some(1));
        assert!(String::from_utf8_lossy(&output.stderr).contains("plugin host: the gateway left no socket"));
    }
}

#[tokio::test]
async fn down_root_runs_its_script_as_root() {
    let bench = Bench::new().become_nobody();
    let script = bench.path("down.sh");
    let out = bench.path("out");
    fs::write(&script, format!("#!/bin/sh\necho \"$(id -u) $@\" >> '{}'\n", out.display())).unwrap();
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
    let file = locate("openvpn-plugin-down-root.so", Path::new("/"));
    let args = vec![OsString::from(&script), "word".into()];
    let plugins = bench.start(&[PluginSpec { file, args, place: "here".into() }]);
    let handle = plugins.handle();
    let call = |kind| {
        let handle = handle.clone();
        async move { Verdict::of(&handle.call(kind, vec!["tun0".into()], &Env::new(), ClientKey::SERVER).await) }
    };
    assert!(handle.wants(PluginKind::Up) && handle.wants(PluginKind::Down));
    assert_eq!(call(PluginKind::Up).await, Verdict::Allow);
    assert_eq!(call(PluginKind::Down).await, Verdict::Allow);
    assert_eq!(fs::read_to_string(&out).unwrap().trim(), "0 word");
}

/// Runs hosts with a PAM service of this test's own, in a mount namespace of their own.
fn with_pam_services(bench: &mut Bench, services: &[(&str, String)]) {
    let folder = bench.path("pam.d");
    fs::create_dir(&folder).unwrap();
    for (name, text) in services {
        fs::write(folder.join(name), text).unwrap();
    }
    let host = bench.path("host");
    let text = format!(
        "#!/bin/sh\nexec unshare --mount sh -c 'mount --bind \"$0\" /etc/pam.d && exec \"$@\"' '{}' '{}' \"$@\"\n",
        folder.display(),
        env!("CARGO_BIN_EXE_tesserad")
    );
    fs::write(&host, text).unwrap();
    fs::set_permissions(&host, fs::Permissions::from_mode(0o755)).unwrap();
    bench.options.host = host;
}

#[tokio::test]
async fn auth_pam_checks_passwords() {
    let mut bench = Bench::new().become_nobody();
    let check = bench.path("check.sh");
    let text = "#!/bin/sh\npassword=$(tr -d '\\0')\n[ \"$PAM_USER\" = alice ] && [ \"$password\" = 'pa ss$(id)' ] && [ \"$(id -u)\" = 0 ]\n";
    fs::write(&check, text).unwrap();
    fs::set_permissions(&check, fs::Permissions::from_mode(0o755)).unwrap();
    let service = format!(
        "auth required pam_exec.so quiet expose_authtok {}\naccount required pam_permit.so\n",
        check.display()
    );
    with_pam_services(&mut bench, &[("tessera-test", service)]);
    let file = locate("openvpn-plugin-auth-pam.so", Path::new("/"));
    let plugins =
        bench.start(&[PluginSpec { file, args: vec!["tessera-test".into()], place: "here".into() }]);
    let handle = plugins.handle();
    assert!(handle.wants(PluginKind::AuthUserPassVerify));
    let credentials = |name: &str, password: &str| {
        let mut env = user(name);
        env.set("password", password).set("untrusted_ip", "192.0.2.1").set("common_name", "cn");
        env
    };
    let kind = PluginKind::AuthUserPassVerify;
    assert!(is_yes(&ask(&handle, kind, &credentials("alice", "pa ss$(id)")).await));
    assert!(matches!(ask(&handle, kind, &credentials("alice", "wrong")).await, PluginOutcome::Error));
    assert!(matches!(ask(&handle, kind, &credentials("bob", "pa ss$(id)")).await, PluginOutcome::Error));
    for (password, answer) in [("pa ss$(id)", "1"), ("wrong", "0")] {
        let file = bench.path(&format!("control-{answer}"));
        fs::write(&file, "").unwrap();
        let mut env = credentials("alice", password);
        env.set("deferred_auth_pam", "1").set("auth_control_file", file.to_str().unwrap());
        assert!(matches!(ask(&handle, kind, &env).await, PluginOutcome::Deferred));
        until("PAM's answer", || fs::read_to_string(&file).unwrap() == answer).await;
    }
}

#[test]
fn what_plugins_say_is_logged() {
    use std::io::Write;
    use std::sync::{Arc, Mutex};
    #[derive(Clone, Default)]
    struct Sink(Arc<Mutex<Vec<u8>>>);
    impl Write for Sink {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let sink = Sink::default();
    let made = sink.clone();
    let log = tracing_subscriber::fmt().with_ansi(false).with_writer(move || made.clone()).finish();
    // The thread that serves plugins logs for the whole process. No other test here sets a log.
    tracing::subscriber::set_global_default(log).unwrap();
    let bench = Bench::new();
    let plugins = bench.start(&[bench.plugin("chatty.so", &[], &["5=log:a\u{1b}[31m%s"])]);
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    assert!(is_yes(&runtime.block_on(login(&plugins.handle(), "alice"))));
    drop(plugins);
    let text = String::from_utf8(sink.0.lock().unwrap().clone()).unwrap();
    let of_it: Vec<&str> = text.lines().filter(|line| line.contains("chatty.so")).collect();
    let has = |level: &str, what: &str| of_it.iter().any(|line| line.contains(level) && line.contains(what));
    assert!(has("INFO", "stdout a_[31m%s"), "{text}");
    assert!(has("INFO", "stderr a_[31m%s"), "{text}");
    assert!(has("WARN", "TEST: callback a_[31m%s 7"), "{text}");
    assert!(has("INFO", "plugin is open, for: auth-user-pass-verify"), "{text}");
}

#[test]
fn a_uring_runtime_can_call() {
    let bench = Bench::new();
    let plugins = bench.start(&[bench.plugin("p.so", &[], &["5=sleep:50"])]);
    let handle = plugins.handle();
    let start = clock::now();
    assert!(is_yes(&tokio_uring::start(async move { login(&handle, "alice").await })));
    assert!(clock::now().saturating_duration_since(start) < PATIENCE);
}

#[tokio::test]
async fn calls_are_quick() {
    let bench = Bench::new();
    let plugins = bench.start(&[bench.plugin("p.so", &[], &["5=accept"])]);
    let handle = plugins.handle();
    let start = clock::now();
    for _ in 0..2000 {
        assert!(is_yes(&login(&handle, "alice").await));
    }
    let took = clock::now().saturating_duration_since(start);
    println!("{:?} for each call", took / 2000);
    assert!(took < PATIENCE);
}
