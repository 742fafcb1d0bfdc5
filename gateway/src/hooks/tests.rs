//! Hooks that behave and hooks that do not: real scripts, real processes.

mod connect;
mod deferral;
mod hostile;

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tempfile::TempDir;
use tessera_proto::Secret;
use tessera_proto::peer_info::PeerInfo;
use zeroize::Zeroizing;

use super::*;
use crate::config::{AuthHook, CredentialsVia, HookCommand, Place};

const LIMIT: Duration = Duration::from_secs(20);

/// Whole calls, for tests that are not about what is owed.
impl Hook {
    async fn client_connect(&self, command: &HookCommand, env: Env) -> Result<Zeroizing<Vec<u8>>, Answer> {
        Ok(self.start_client_connect(command, env, None).answer().await?.written)
    }

    async fn client_disconnect(&self, command: &HookCommand, env: Env) {
        self.owe_client_disconnect(command, env).run(&Totals::default()).await;
    }
}

struct Bench {
    dir: TempDir,
    hook: Hook,
    handle: HookHandle,
    files: PathBuf,
    runner: Option<HookRunner>,
}

impl Bench {
    fn new(timeout: Duration, concurrency: usize) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let files = HookDir::create(dir.path()).unwrap();
        Self::with_files(timeout, concurrency, dir, &files)
    }

    fn with_files(timeout: Duration, concurrency: usize, dir: TempDir, files: &Arc<HookDir>) -> Self {
        let path = files.path().to_owned();
        let (handle, runner) =
            HookRunner::start(HookLimits { timeout, concurrency }, Arc::clone(files)).unwrap();
        Self { dir, hook: Hook::new(handle.clone()), handle, files: path, runner: Some(runner) }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// A shell script; `$D` in it is the directory of this test.
    fn script(&self, name: &str, body: &str) -> HookCommand {
        let body = format!("#!/bin/sh\nD='{}'\n{body}\n", self.dir.path().display());
        self.program(name, &body)
    }

    fn program(&self, name: &str, body: &str) -> HookCommand {
        let path = self.path(name);
        fs::write(&path, body).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        command(&path)
    }

    async fn connect(&self, body: &str) -> Result<Vec<u8>, Answer> {
        let command = self.script("connect", body);
        let written = self.hook.client_connect(&command, Env::new()).await;
        self.empty().await;
        written.map(|text| text.to_vec())
    }

    async fn verify(&self, via: CredentialsVia, body: &str, user: &str, password: &str) -> Answer {
        let hook = AuthHook { command: self.script("verify", body), via };
        let password = Secret::new(password.to_owned());
        match self.hook.auth_user_pass_verify(&hook, Env::new(), user, &password).await {
            AuthAnswer::Allow => Answer::Allow,
            AuthAnswer::Deny { reason: None } => Answer::Deny,
            AuthAnswer::NoAnswer => Answer::NoAnswer,
            other => panic!("{other:?}"),
        }
    }

    fn kind(&self, kind: HookKind) -> &KindStats {
        self.handle.stats().kind(kind)
    }

    fn sum(&self, count: fn(&KindStats) -> u64) -> u64 {
        self.handle.stats().kinds().map(|(_, stats)| count(stats)).sum()
    }

    /// Waits until the directory holds no file.
    async fn empty(&self) {
        let left = || fs::read_dir(&self.files).unwrap().flatten().map(|entry| entry.file_name()).next();
        let started = now();
        while let Some(name) = left() {
            assert!(now() - started < LIMIT, "{} stays behind", name.display());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let until = now() + LIMIT;
    while !holds() {
        assert!(now() < until, "{what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

fn command(path: &Path) -> HookCommand {
    HookCommand { argv: vec![path.to_str().unwrap().to_owned()], place: Place::Whole }
}

fn now() -> Instant {
    crate::clock::now()
}

fn pid_in(path: &Path) -> u32 {
    fs::read_to_string(path).unwrap().trim().parse().unwrap()
}

/// Whether a process runs; one that is dead and not yet reaped by its new parent does not.
fn runs(pid: u32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat"))
        .is_ok_and(|stat| !stat.rsplit(')').next().unwrap().trim_start().starts_with(['Z', 'X']))
}

#[tokio::test]
async fn exit_codes_and_signals() {
    let bench = Bench::new(LIMIT, 4);
    let cases = [
        ("exit 0", Answer::Allow),
        ("exit 1", Answer::Deny),
        ("exit 77", Answer::Deny),
        ("exit 255", Answer::Deny),
        ("kill -9 $$", Answer::NoAnswer),
        ("kill -SEGV $$", Answer::NoAnswer),
    ];
    for (body, expected) in cases {
        let answer = bench.verify(CredentialsVia::Env, body, "u", "p").await;
        assert_eq!(answer, expected, "{body}");
    }
    let (name, stats) = bench.handle.stats().kinds().next().unwrap();
    assert_eq!((name, stats.runs(), stats.failures(), stats.timeouts()), ("auth-user-pass-verify", 6, 5, 0));
    assert_eq!((stats.queued(), stats.running(), stats.deferred()), (0, 0, 0));
    assert_eq!(stats.durations().last().unwrap().1, 6);
    assert!(stats.total_duration() > Duration::ZERO);
    let refuse = bench.script("two", "exit 2");
    assert_eq!(
        bench.hook.tls_verify(&refuse, Env::new(), 0, "CN=x").await,
        Answer::Deny,
        "only one kind defers"
    );
    assert_eq!(bench.hook.client_connect(&refuse, Env::new()).await.unwrap_err(), Answer::Deny);
}

#[tokio::test]
async fn programs_that_cannot_be_run_are_no_answer() {
    let bench = Bench::new(LIMIT, 4);
    let plain = bench.script("plain", "exit 0");
    fs::set_permissions(&plain.argv[0], fs::Permissions::from_mode(0o644)).unwrap();
    let busy = bench.script("busy", "exit 0");
    let _open = fs::OpenOptions::new().append(true).open(&busy.argv[0]).unwrap();
    let no_interpreter = bench.program("odd", "#!/nonexistent/sh\nexit 0\n");
    let rubbish = bench.program("rubbish", "\u{1}\u{2}\u{3}");
    let relative = HookCommand { argv: vec!["true".into()], place: Place::Whole };
    for command in [command(&bench.path("deleted")), plain, busy, no_interpreter, rubbish, relative] {
        let answer = bench.hook.client_connect(&command, Env::new()).await;
        assert_eq!(answer.unwrap_err(), Answer::NoAnswer, "{}", command.argv[0]);
    }
}

#[tokio::test]
async fn a_program_that_is_busy_for_a_moment_is_tried_again() {
    let bench = Bench::new(LIMIT, 4);
    let busy = bench.script("busy", "exit 0");
    let open = fs::OpenOptions::new().append(true).open(&busy.argv[0]).unwrap();
    let closer = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(30));
        drop(open);
    });
    assert!(bench.hook.client_connect(&busy, Env::new()).await.is_ok());
    closer.join().unwrap();
}

#[tokio::test]
async fn a_hung_hook_is_killed_with_its_group() {
    let bench = Bench::new(Duration::from_millis(400), 4);
    let started = now();
    let body = "trap '' TERM\n(trap '' TERM; while :; do sleep 1; done) &\necho $! > $D/child\necho $$ > $D/leader\nwhile :; do sleep 1; done";
    assert_eq!(bench.connect(body).await, Err(Answer::NoAnswer));
    let took = now() - started;
    assert!(took >= Duration::from_millis(2400), "SIGTERM came first: {took:?}");
    assert!(took < Duration::from_secs(6), "{took:?}");
    for name in ["child", "leader"] {
        let pid = pid_in(&bench.path(name));
        let until = now() + Duration::from_secs(2);
        while runs(pid) && now() < until {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        assert!(!runs(pid), "{name} {pid} still runs");
    }
    assert_eq!(bench.sum(KindStats::timeouts), 1);
}

#[tokio::test]
async fn a_hung_hook_that_heeds_sigterm_takes_its_deaf_child_along() {
    let bench = Bench::new(Duration::from_millis(400), 4);
    let started = now();
    let body = "(trap '' TERM; while :; do sleep 1; done) &\necho $! > $D/child\nwait";
    assert_eq!(bench.connect(body).await, Err(Answer::NoAnswer));
    assert!(now() - started < Duration::from_millis(2000), "the leader was not waited for in vain");
    let pid = pid_in(&bench.path("child"));
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(!runs(pid));
}

#[tokio::test]
async fn a_daemon_that_holds_the_output_holds_up_nobody() {
    let bench = Bench::new(LIMIT, 4);
    let fds = || fs::read_dir("/proc/self/fd").unwrap().count();
    let started = now();
    let body = "(setsid sleep 15 & echo $! > $D/daemon.$$)\necho 'push \"x\"' > \"$1\"\nexit 0";
    for _ in 0..5 {
        assert_eq!(bench.connect(body).await.unwrap(), b"push \"x\"\n");
    }
    assert!(now() - started < Duration::from_secs(8));
    assert!(fds() < 200, "no descriptor is kept for them");
    let mut daemons = 0;
    for entry in fs::read_dir(bench.dir.path()).unwrap().flatten() {
        if entry.file_name().to_string_lossy().starts_with("daemon.") {
            let pid = pid_in(&entry.path());
            assert!(runs(pid), "what a hook left behind on purpose is not touched");
            nix::sys::signal::kill(
                nix::unistd::Pid::from_raw(pid.cast_signed()),
                nix::sys::signal::Signal::SIGKILL,
            )
            .unwrap();
            daemons += 1;
        }
    }
    assert_eq!(daemons, 5);
}

#[tokio::test]
async fn ten_megabytes_of_output_do_not_block() {
    let bench = Bench::new(LIMIT, 4);
    let body = "head -c 10000000 /dev/zero\nhead -c 10000000 /dev/zero >&2\nprintf done > \"$1\"";
    assert_eq!(bench.connect(body).await.unwrap(), b"done");
}

#[tokio::test]
async fn what_client_connect_may_write() {
    let bench = Bench::new(LIMIT, 4);
    assert_eq!(bench.connect("exit 0").await.unwrap(), b"");
    assert_eq!(bench.connect("[ -f \"$client_connect_config_file\" ] && [ \"$1\" = \"$client_connect_config_file\" ] && [ ! -s \"$1\" ] && [ \"$script_type\" = client-connect ] && stat -c %a \"$1\" > \"$1\"").await.unwrap(), b"600\n");
    assert_eq!(bench.connect("head -c 65536 /dev/zero > \"$1\"").await.unwrap().len(), 65536);
    for body in [
        "head -c 1048576 /dev/zero > \"$1\"",
        "rm \"$1\"; ln -s /etc/passwd \"$1\"",
        "rm \"$1\"; mkfifo \"$1\"",
        "rm \"$1\"",
        "echo 'push x' > \"$1\"; exit 1",
    ] {
        assert_eq!(bench.connect(body).await, Err(Answer::Deny), "{body}");
    }
    assert_eq!(bench.connect("echo new > \"$1.new\"; mv \"$1.new\" \"$1\"").await.unwrap(), b"new\n");
}

#[tokio::test]
async fn children_have_three_descriptors_and_a_group_of_their_own() {
    let bench = Bench::new(LIMIT, 4);
    // Descriptors of ours without CLOEXEC, as a careless library would leave them.
    let leak = fs::File::open("/dev/null").unwrap();
    nix::fcntl::fcntl(&leak, nix::fcntl::FcntlArg::F_SETFD(nix::fcntl::FdFlag::empty())).unwrap();
    let body = "#!/usr/bin/env python3\nimport os, sys\n\
        fds = {int(f): os.readlink('/proc/self/fd/' + f) for f in os.listdir('/proc/self/fd') if os.path.lexists('/proc/self/fd/' + f)}\n\
        text = ' '.join(f'{n}' for n in sorted(fds)) + ' ' + fds[0]\n\
        text += f' {os.getpid() == os.getpgrp() == os.getsid(0)} ' + open('/proc/self/oom_score_adj').read().strip()\n\
        open(sys.argv[-1], 'w').write(text)\n";
    let python = bench.program("fds.py", body);
    let written = bench.hook.client_connect(&python, Env::new()).await.unwrap();
    assert_eq!(String::from_utf8(written.to_vec()).unwrap(), "0 1 2 /dev/null True 500");
    let listed = bench.connect("ls -l /proc/self/fd > \"$1\"").await.unwrap();
    let listed = String::from_utf8(listed).unwrap();
    // 3 is the directory that ls itself reads.
    let numbers: Vec<&str> =
        listed.lines().filter_map(|line| line.split(" -> ").next()?.split(' ').next_back()).collect();
    assert_eq!(&numbers[1..], ["0", "1", "2", "3"], "{listed}");
}

#[tokio::test]
async fn arguments_of_the_other_hooks() {
    let bench = Bench::new(LIMIT, 4);
    let dump = bench.script("dump", "printf '%s|' \"$script_type\" \"$@\" > $D/out\n[ -z \"$metadata_file\" ] || { printf '%s|' \"$metadata_type\"; cat \"$metadata_file\"; } >> $D/out");
    let out = || fs::read_to_string(bench.path("out")).unwrap();
    let hook = &bench.hook;
    assert_eq!(
        hook.learn_address(&dump, Env::new(), "add", "10.7.0.0/16", Some("a\tb")).await,
        Answer::Allow
    );
    assert_eq!(out(), "learn-address|add|10.7.0.0/16|a_b|");
    hook.learn_address(&dump, Env::new(), "delete", "10.8.0.2", None).await;
    assert_eq!(out(), "learn-address|delete|10.8.0.2|");
    hook.tls_verify(&dump, Env::new(), 1, "-CN=x").await;
    assert_eq!(out(), "tls-verify|1|_CN=x|");
    hook.client_disconnect(&dump, Env::new()).await;
    assert_eq!(out(), "client-disconnect|");
    hook.tls_crypt_v2_verify(&dump, Env::new(), 0, b"hello").await;
    assert_eq!(out(), "tls-crypt-v2-verify|0|hello");
}

#[tokio::test]
async fn a_sleeper_delays_nobody_while_there_are_slots() {
    let bench = Bench::new(LIMIT, 2);
    let sleeper = bench.script("sleeper", "sleep 8");
    let fast = bench.script("fast", "exit 0");
    let started = now();
    let hook = bench.hook.clone();
    let slow = tokio::spawn(async move { hook.client_connect(&sleeper, Env::new()).await.map(|_| ()) });
    let runs = (0..100).map(|_| bench.hook.client_connect(&fast, Env::new()));
    for answer in futures_util::future::join_all(runs).await {
        assert!(answer.is_ok());
    }
    assert!(now() - started < Duration::from_secs(7), "one slot is enough for all of them");
    assert!(!slow.is_finished());
    drop(bench);
    assert_eq!(slow.await.unwrap(), Err(Answer::NoAnswer));
}

#[tokio::test]
async fn the_queue_is_bounded_and_the_stop_is_quick() {
    let mut bench = Bench::new(LIMIT, 1);
    let sleeper = bench.script("sleeper", "echo $$ > $D/pid; exec sleep 60");
    let mut waiting = tokio::task::JoinSet::new();
    for _ in 0..runner::QUEUE + 50 {
        let (hook, sleeper) = (bench.hook.clone(), sleeper.clone());
        waiting.spawn(async move { hook.client_connect(&sleeper, Env::new()).await.map(|_| ()) });
    }
    let until = now() + Duration::from_secs(10);
    while (bench.sum(KindStats::rejected) == 0 || !bench.path("pid").exists()) && now() < until {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let stats = bench.kind(HookKind::ClientConnect);
    let rejected = stats.rejected();
    assert!((1..=50).contains(&rejected), "{rejected}");
    assert!(stats.queued() >= runner::QUEUE as u64 - 1 && stats.running() == 1, "{stats:?}");
    let started = now();
    let runner = bench.runner.take();
    tokio::task::spawn_blocking(move || drop(runner)).await.unwrap();
    assert!(now() - started < Duration::from_secs(4), "although we still have a handle");
    while let Some(answer) = waiting.join_next().await {
        assert_eq!(answer.unwrap(), Err(Answer::NoAnswer));
    }
    assert!(!runs(pid_in(&bench.path("pid"))));
    assert_eq!((bench.sum(KindStats::queued), bench.sum(KindStats::running)), (0, 0));
    let late = bench.hook.client_connect(&sleeper, Env::new()).await;
    assert_eq!(late.unwrap_err(), Answer::NoAnswer);
}

#[tokio::test]
async fn a_login_that_gave_up_starts_nothing_but_farewells_are_held() {
    let bench = Bench::new(LIMIT, 1);
    let sleeper = bench.script("sleeper", "sleep 1");
    let touch = bench.script("touch", "touch $D/$script_type");
    let hook = bench.hook.clone();
    let first = tokio::spawn(async move { hook.client_connect(&sleeper, Env::new()).await.map(|_| ()) });
    tokio::time::sleep(Duration::from_millis(100)).await;
    let soon = Duration::from_millis(50);
    assert!(tokio::time::timeout(soon, bench.hook.client_connect(&touch, Env::new())).await.is_err());
    assert!(tokio::time::timeout(soon, bench.hook.client_disconnect(&touch, Env::new())).await.is_err());
    assert_eq!(first.await.unwrap(), Ok(()));
    assert!(bench.connect("exit 0").await.is_ok(), "comes after both");
    assert!(!bench.path("client-connect").exists());
    assert!(bench.path("client-disconnect").exists());
}

#[tokio::test]
async fn a_file_that_is_given_up_goes() {
    let parent = tempfile::tempdir().unwrap();
    let file = ConnectFile::create(HookDir::create(parent.path()).unwrap()).await.unwrap();
    let path = file.path().to_owned();
    assert!(path.exists());
    drop(file);
    let end = crate::clock::now() + LIMIT;
    while path.exists() {
        assert!(crate::clock::now() < end, "it stays");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
