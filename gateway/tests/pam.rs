//! PAM by way of the helper: real modules of the host, and one of our own that asks, blocks and crashes at will. Services are
//! in a directory of the test, never in `/etc/pam.d`.

#![expect(clippy::unwrap_used, reason = "a test may fail by panic")]

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_util::future::join_all;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tessera_proto::Secret;
use tesserad::clock;
use tesserad::pam::{HELPER_WORD, MAX_RUNNING, Pam, PamDecision, PamOptions};

const PROGRAM: &str = env!("CARGO_BIN_EXE_tesserad");
/// What a busy machine may take for what takes milliseconds.
const PATIENCE: Duration = Duration::from_secs(30);

/// Our module, compiled once.
fn module() -> &'static Path {
    static MODULE: OnceLock<(tempfile::TempDir, PathBuf)> = OnceLock::new();
    let (_, path) = MODULE.get_or_init(|| {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pam_tessera_test.so");
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/pam/module.c");
        let built =
            Command::new("cc").args(["-shared", "-fPIC", "-o"]).arg(&path).arg(source).status().unwrap();
        assert!(built.success());
        (dir, path)
    });
    path
}

struct Bench {
    pam: Pam,
    dir: tempfile::TempDir,
}

impl Bench {
    /// A service of these lines; `MODULE` is ours.
    fn new(lines: &str) -> Self {
        Self::with_timeout(lines, PATIENCE)
    }

    fn with_timeout(lines: &str, timeout: Duration) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let lines = lines.replace("MODULE", module().to_str().unwrap());
        fs::write(dir.path().join("vpn"), lines).unwrap();
        let pam = Pam::start(PamOptions { timeout, ..options("vpn", dir.path()) }).unwrap();
        Self { pam, dir }
    }

    async fn verify(&self, user: &str, answers: &[&str]) -> PamDecision {
        let answers = answers.iter().map(|answer| Secret::new((*answer).to_owned())).collect();
        self.pam.verify(user, answers, "2001:db8::7".parse().unwrap()).await
    }

    fn ask(&self, user: &str, answers: &[&str]) -> PamDecision {
        block_on(self.verify(user, answers))
    }

    fn helper(&self) -> u32 {
        self.pam.stats().helper.load(Ordering::Relaxed)
    }

    /// To be signalled: never 0, which would be our own group.
    fn helper_pid(&self) -> Pid {
        let helper = self.helper();
        assert!(helper > 1, "there is a helper");
        Pid::from_raw(helper.cast_signed())
    }
}

fn options(service: &str, confdir: &Path) -> PamOptions {
    PamOptions {
        confdir: Some(confdir.to_owned()),
        program: Some(PROGRAM.into()),
        ..PamOptions::new(service)
    }
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

/// Begins a login and gives it up; whether it was still under way.
fn give_up(bench: &Bench) -> bool {
    let login = async {
        tokio::time::timeout(Duration::from_millis(300), bench.verify("alice", &["ok"])).await.is_err()
    };
    block_on(login)
}

fn need(prompt: &str, echo: bool) -> PamDecision {
    PamDecision::NeedMore { prompt: prompt.to_owned(), echo }
}

/// Processes whose parent this is.
fn children(parent: u32) -> usize {
    let stat = |entry: fs::DirEntry| fs::read_to_string(entry.path().join("stat")).ok();
    let stats = fs::read_dir("/proc").unwrap().flatten().filter_map(stat);
    let parents = stats.filter_map(|stat| stat.rsplit(')').next()?.split_whitespace().nth(1)?.parse().ok());
    parents.filter(|of: &u32| *of == parent).count()
}

fn wait_for(what: &str, done: impl Fn() -> bool) {
    let end = clock::now() + PATIENCE;
    while !done() {
        assert!(clock::now() < end, "{what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn yes_and_no_of_the_hosts_modules() {
    let yes = Bench::new("auth required pam_permit.so\naccount required pam_permit.so\n");
    assert_eq!(yes.ask("alice", &["x"]), PamDecision::Allow);
    let no = Bench::new("auth required pam_deny.so\naccount required pam_permit.so\n");
    assert_eq!(no.ask("alice", &["x"]), PamDecision::Deny);
    let account = Bench::new("auth required pam_permit.so\naccount required pam_deny.so\n");
    assert_eq!(account.ask("alice", &["x"]), PamDecision::Deny, "authenticated, and not allowed in");
    let missing = Bench::new("auth required pam_is_not_there.so\naccount required pam_permit.so\n");
    assert!(matches!(missing.ask("alice", &["x"]), PamDecision::NoAnswer(_)));
    assert_eq!(yes.pam.stats().allowed.load(Ordering::Relaxed), 1);
    for (user, answers) in [("", &["x"][..]), ("a\nb", &["x"]), ("a\0", &["x"]), ("a", &[]), ("a", &["x\0y"])]
    {
        assert_eq!(yes.ask(user, answers), PamDecision::Deny, "{user:?} is not even asked about");
    }
}

#[test]
fn a_program_sees_password_user_and_address() {
    let dir = tempfile::tempdir().unwrap();
    let script = dir.path().join("check");
    let text = "#!/bin/sh\nIFS= read -r password\n\
        [ \"$PAM_USER $PAM_RHOST $PAM_TTY $PAM_SERVICE\" = \"alice 2001:db8::7 tessera vpn\" ] || exit 9\n\
        [ \"$password\" = 'hunter 2$(id)' ]\n";
    fs::write(&script, text).unwrap();
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
    let bench = Bench::new(&format!(
        "auth required pam_exec.so expose_authtok {}\naccount required pam_permit.so\n",
        script.display()
    ));
    assert_eq!(bench.ask("alice", &["hunter 2$(id)"]), PamDecision::Allow);
    assert_eq!(bench.ask("alice", &["hunter2"]), PamDecision::Deny);
    assert_eq!(bench.ask("alice; id", &["hunter 2$(id)"]), PamDecision::Deny);
    assert_eq!(bench.ask("alice", &["hunter 2$(id)"]), PamDecision::Allow);
}

#[test]
fn more_questions_than_answers() {
    let bench = Bench::new(
        "auth required MODULE off:Password:=secret info:Look_at^[31m_your_phone on:Code?=123 off:PIN=9 item:4=2001:db8::7\n\
         account required pam_permit.so\n",
    );
    let code = need("Look at [31m your phone Code?", true);
    assert_eq!(bench.ask("alice", &["secret"]), code);
    let pin = bench.ask("alice", &["secret", "123"]);
    assert!(
        matches!(&pin, PamDecision::NeedMore { prompt, echo: false } if prompt.ends_with("PIN")),
        "{pin:?}"
    );
    assert_eq!(bench.ask("alice", &["secret", "123", "9"]), PamDecision::Allow);
    assert_eq!(bench.ask("alice", &["secret", "124", "9"]), PamDecision::Deny);
    assert_eq!(bench.ask("alice", &["wrong"]), PamDecision::Deny);
    assert_eq!(bench.pam.stats().asked.load(Ordering::Relaxed), 2);
    // The password belongs to the first prompt that hides it, also where another comes before.
    let swapped =
        Bench::new("auth required MODULE on:Code=123 off:Password=secret\naccount required pam_permit.so\n");
    assert_eq!(swapped.ask("alice", &["secret"]), need("Code", true));
    assert_eq!(swapped.ask("alice", &["secret", "123"]), PamDecision::Allow);
}

#[test]
fn faults_are_no_refusals() {
    for (code, refused) in
        [(7, true), (10, true), (12, true), (13, true), (9, false), (3, false), (26, false)]
    {
        let bench =
            Bench::new(&format!("auth required MODULE code:{code}\naccount required pam_permit.so\n"));
        let decision = bench.ask("alice", &["x"]);
        assert_eq!(decision == PamDecision::Deny, refused, "{code}: {decision:?}");
        assert_eq!(matches!(decision, PamDecision::NoAnswer(_)), !refused, "{code}: {decision:?}");
    }
}

#[test]
fn a_module_that_crashes_harms_its_own_login() {
    let bench = Bench::new("auth required MODULE off:P=ok\naccount required MODULE crash\n");
    let PamDecision::NoAnswer(why) = bench.ask("alice", &["ok"]) else { panic!() };
    assert!(why.contains("SIGABRT"), "{why}");
    assert_eq!(bench.ask("alice", &["wrong"]), PamDecision::Deny, "the helper lives");
    assert_eq!(bench.pam.stats().lost.load(Ordering::Relaxed), 0);
}

#[test]
fn a_module_that_hangs_is_ended() {
    let bench = Bench::with_timeout(
        "auth required MODULE off:P=ok sleep:1000\naccount required pam_permit.so\n",
        Duration::from_secs(2),
    );
    let (hung, quick) =
        block_on(async { tokio::join!(bench.verify("alice", &["ok"]), bench.verify("bob", &["wrong"])) });
    assert!(matches!(&hung, PamDecision::NoAnswer(why) if why.contains("within 2 s")), "{hung:?}");
    assert_eq!(quick, PamDecision::Deny, "nobody waits for it");
    let helper = bench.helper();
    wait_for("its process is ended", || children(helper) == 0);
    // A client that leaves frees the place, too.
    let left = give_up(&bench);
    assert!(left, "it hangs");
    wait_for("its process is ended", || children(helper) == 0);
}

#[test]
fn many_at_a_time() {
    let bench = Bench::new("auth required MODULE off:P=ok sleep:1\naccount required pam_permit.so\n");
    let helper = bench.helper();
    let count = MAX_RUNNING + 8;
    let (decisions, most) = block_on(async {
        let all = join_all((0..count).map(|_| bench.verify("alice", &["ok"])));
        tokio::pin!(all);
        let mut most = 0;
        loop {
            tokio::select! {
                decisions = &mut all => return (decisions, most),
                () = tokio::time::sleep(Duration::from_millis(50)) => most = most.max(children(helper)),
            }
        }
    });
    assert_eq!(decisions, vec![PamDecision::Allow; count]);
    assert!((2..=2 * MAX_RUNNING).contains(&most), "{most} at a time");
}

#[test]
fn a_helper_that_dies_is_replaced() {
    let bench = Bench::new("auth required MODULE off:P=ok sleep:2\naccount required pam_permit.so\n");
    let first = bench.helper();
    let decision = block_on(async {
        let login = bench.verify("alice", &["ok"]);
        tokio::pin!(login);
        let early = tokio::time::timeout(Duration::from_millis(500), &mut login).await;
        assert!(early.is_err());
        kill(bench.helper_pid(), Signal::SIGKILL).unwrap();
        login.await
    });
    assert!(matches!(decision, PamDecision::NoAnswer(_)), "{decision:?}");
    assert!(matches!(bench.ask("alice", &["ok"]), PamDecision::NoAnswer(_)), "while there is none");
    wait_for("another is started", || ![0, first].contains(&bench.helper()));
    assert_eq!(bench.ask("alice", &["ok"]), PamDecision::Allow);
    assert_eq!(bench.pam.stats().lost.load(Ordering::Relaxed), 1);
}

#[test]
fn the_helper_shows_nothing_and_ends_with_us() {
    let bench = Bench::new("auth required MODULE off:P=ok sleep:1000\naccount required pam_permit.so\n");
    let helper = bench.helper();
    let process = PathBuf::from(format!("/proc/{helper}"));
    let argv = fs::read(process.join("cmdline")).unwrap();
    assert_eq!(argv, format!("{PROGRAM}\0{HELPER_WORD}\0").into_bytes());
    kill(bench.helper_pid(), Signal::SIGTERM).unwrap();
    assert!(give_up(&bench));
    assert!(process.exists(), "a signal to all processes of the gateway does not end it early");
    let Bench { pam, dir } = bench;
    drop(pam);
    assert!(!process.exists());
    drop(dir);
    let help = Command::new(PROGRAM).arg("--help").output().unwrap();
    assert!(!String::from_utf8(help.stdout).unwrap().contains(HELPER_WORD));
    let by_hand = Command::new(PROGRAM).arg(HELPER_WORD).stdin(Stdio::null()).output().unwrap();
    assert_eq!(by_hand.status.code(), Some(64));
}

#[test]
fn what_cannot_start_says_so() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("vpn"), "auth required pam_permit.so\n").unwrap();
    for (service, why) in
        [("other", "no service"), ("../vpn", "cannot be the name"), ("", "cannot be the name")]
    {
        let error = Pam::start(options(service, dir.path())).unwrap_err().to_string();
        assert!(error.contains(why), "{error}");
    }
    let program = Some(PathBuf::from("/bin/true"));
    let error = Pam::start(PamOptions { program, ..options("vpn", dir.path()) }).unwrap_err().to_string();
    assert!(error.contains("ended at once") || error.contains("does not listen"), "{error}");
    let program = Some(dir.path().join("none"));
    let error = Pam::start(PamOptions { program, ..options("vpn", dir.path()) }).unwrap_err().to_string();
    assert!(error.contains("cannot be started"), "{error}");
}
