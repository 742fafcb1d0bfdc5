//! Authentication that answers later, and everything that can go wrong with three files.

use super::*;

const SOON: Duration = Duration::from_millis(1500);
/// Longer than the re-check.
const LATER: Duration = Duration::from_secs(6);

/// A script for `auth-user-pass-verify` with short names for its files.
fn auth(bench: &Bench, body: &str) -> AuthHook {
    let names = "C=$auth_control_file P=$auth_pending_file R=$auth_failed_reason_file";
    AuthHook { command: bench.script("verify", &format!("{names}\n{body}")), via: CredentialsVia::Env }
}

async fn verify(bench: &Bench, body: &str) -> AuthAnswer {
    let password = Secret::new("secret".to_owned());
    bench.hook.auth_user_pass_verify(&auth(bench, body), Env::new(), "alice", &password).await
}

async fn deferred(bench: &Bench, body: &str) -> Deferral {
    match verify(bench, body).await {
        AuthAnswer::Deferred(deferral) => deferral,
        other => panic!("{body}: {other:?}"),
    }
}

/// The paths of a deferral: control, pending, reason.
fn paths(deferral: &Deferral) -> [PathBuf; 3] {
    let mut env = Env::default();
    deferral.export(&mut env);
    ["auth_control_file", "auth_pending_file", "auth_failed_reason_file"]
        .map(|name| env.value(name).unwrap().into())
}

async fn next(deferral: &mut Deferral, within: Duration) -> Option<DeferredEvent> {
    tokio::time::timeout(within, deferral.next()).await.ok()
}

fn deny(reason: Option<&str>) -> DeferredEvent {
    DeferredEvent::Deny { reason: reason.map(str::to_owned) }
}

#[tokio::test]
async fn scripts_answer_later() {
    let bench = Bench::new(LIMIT, 4);
    for (body, expected) in [
        ("(sleep 0.3; echo 1 > $C) > /dev/null 2>&1 &\nexit 2", DeferredEvent::Allow),
        ("(sleep 0.3; echo 0 > $C) > /dev/null 2>&1 &\nexit 2", deny(None)),
        ("(sleep 0.3; echo locked > $R; printf 0 > $C) > /dev/null 2>&1 &\nexit 2", deny(Some("locked"))),
        ("echo 1 > $C\nexit 2", DeferredEvent::Allow),
        ("echo no > $R; echo 0 > $C\nexit 2", deny(Some("no"))),
        ("echo 2 > $C\nexit 2", deny(None)),
        ("echo yes > $C\nexit 2", deny(None)),
        ("printf '1\\n0\\n' > $C\nexit 2", deny(None)),
        ("ln -sf /etc/hostname $C\nexit 2", deny(None)),
        ("rm $C; mkfifo $C\nexit 2", deny(None)),
        ("printf '0\\ncrtext\\nx\\n' > $P\nexit 2", deny(None)),
        ("ln -sf /etc/passwd $P\nexit 2", deny(None)),
        ("head -c 100000 /dev/zero > $P\nexit 2", deny(None)),
    ] {
        let mut deferral = deferred(&bench, body).await;
        assert_eq!(next(&mut deferral, SOON).await, Some(expected), "{body}");
        assert_eq!(next(&mut deferral, SOON).await, Some(DeferredEvent::NoAnswer), "taken once");
        drop(deferral);
        bench.empty().await;
    }
    let stats = bench.kind(HookKind::AuthUserPassVerify);
    assert_eq!((stats.runs(), stats.failures(), stats.deferred()), (13, 11, 0));
}

#[tokio::test]
async fn exit_codes_and_files_that_contradict_each_other_are_a_no() {
    let bench = Bench::new(LIMIT, 4);
    for (body, expected) in [
        ("echo 1 > $C; exit 0", Some(None)),
        ("printf '30\\ncrtext\\nCR_TEXT::x\\n' > $P; exit 0", Some(None)),
        ("echo 0 > $C; exit 0", None),
        ("echo why > $R; echo x > $C; exit 0", None),
        ("echo 1 > $C; exit 1", None),
        ("echo 1 > $C; exit 3", None),
        ("printf '30\\ncrtext\\n' > $P; exit 2", None),
        ("printf '30' > $P; exit 2", None),
    ] {
        match (verify(&bench, body).await, expected) {
            (AuthAnswer::Allow, Some(None::<()>)) | (AuthAnswer::Deny { .. }, None) => {}
            (other, _) => panic!("{body}: {other:?}"),
        }
    }
    let stats = bench.kind(HookKind::AuthUserPassVerify);
    assert_eq!((stats.runs(), stats.failures()), (8, 6));
    for (body, expected) in [
        ("echo 'account locked' > $R; exit 1", Some("account locked")),
        ("printf 'one\\ntwo\\r\\n\\033[31m' > $R; exit 1", Some("one two _[31m")),
        ("echo TEMP[backoff 5]:later > $R; exit 7", Some("TEMP[backoff 5]:later")),
        (": > $R; exit 1", None),
        ("ln -sf /etc/passwd $R; exit 1", None),
    ] {
        let AuthAnswer::Deny { reason } = verify(&bench, body).await else { panic!("{body}") };
        assert_eq!(reason.as_deref(), expected, "{body}");
    }
    for body in ["echo 1 > $C; kill -9 $$", "echo 0 > $C; echo x > $R; kill -TERM $$"] {
        assert!(matches!(verify(&bench, body).await, AuthAnswer::NoAnswer), "{body}");
    }
    let hasty = Bench::new(Duration::from_millis(300), 4);
    assert!(matches!(verify(&hasty, "echo 1 > $C; sleep 20").await, AuthAnswer::NoAnswer), "ran out of time");
    bench.empty().await;
}

#[tokio::test]
async fn clients_are_asked_for_more() {
    let bench = Bench::new(LIMIT, 4);
    for body in [
        "printf '300\\ncrtext\\nCR_TEXT:R,E:Enter OTP' > $P; exit 2",
        "(sleep 0.3; echo 300 > $P; echo crtext >> $P; echo 'CR_TEXT:R,E:Enter OTP' >> $P) > /dev/null 2>&1 &\nexit 2",
        "(exec 3> $P; printf '300\\ncrtext\\nCR_TEXT:R,E:Ent' >&3; sleep 0.5; printf 'er OTP' >&3; sleep 8) > /dev/null 2>&1 &\nexit 2",
    ] {
        let mut deferral = deferred(&bench, body).await;
        let Some(DeferredEvent::Pending(asked)) = next(&mut deferral, Duration::from_secs(9)).await else {
            panic!("{body}");
        };
        assert_eq!((asked.timeout, asked.method.as_str()), (Duration::from_secs(300), "crtext"));
        assert_eq!(asked.extra, "CR_TEXT:R,E:Enter OTP", "{body}");
        let [control, pending, reason] = paths(&deferral);
        fs::write(&pending, "5\nwebauth\nother\n").unwrap();
        assert_eq!(next(&mut deferral, Duration::from_millis(300)).await, None, "it asks once");
        fs::write(&reason, "wrong code\n").unwrap();
        assert_eq!(deferral.reason().await.as_deref(), Some("wrong code"));
        fs::write(&control, "0").unwrap();
        assert_eq!(next(&mut deferral, SOON).await, Some(deny(Some("wrong code"))));
    }
}

#[tokio::test]
async fn a_response_goes_to_the_script_and_its_verdict_comes_by_the_files() {
    let bench = Bench::new(LIMIT, 4);
    let body = "for f; do :; done\n[ \"$(cat \"$f\")\" = \"$(cat $D/expected)\" ] && [ $# = 1 ] && [ \"$(wc -l < \"$f\")\" = 1 ] \
        && [ \"$script_type\" = client-crresponse ] && [ \"$(stat -c %a \"$f\")\" = 600 ] || exit 1\n\
        (sleep 0.2; echo 1 > $auth_control_file) > /dev/null 2>&1 &\nexit 0";
    let crresponse = bench.script("response", body);
    let respond = async |deferral: &Deferral, response: &str| {
        bench
            .hook
            .client_crresponse(&crresponse, Env::new(), &Secret::new(response.to_owned()), deferral)
            .await
    };
    fs::write(bench.path("expected"), "MTIzNDU2").unwrap();
    let mut deferral = deferred(&bench, "exit 2").await;
    assert_eq!(respond(&deferral, "MTIzNDU2").await, Answer::Allow);
    assert_eq!(next(&mut deferral, SOON).await, Some(DeferredEvent::Allow));

    let mut deferral = deferred(&bench, "exit 2").await;
    assert_eq!(respond(&deferral, "d3Jvbmc=").await, Answer::Deny);
    assert_eq!(respond(&deferral, &"A".repeat(3000)).await, Answer::Deny);
    assert_eq!(next(&mut deferral, Duration::from_millis(300)).await, None, "a response alone is no verdict");
    let deaf = bench.script("deaf", "kill -9 $$");
    let response = Secret::new("MTIzNDU2".to_owned());
    assert_eq!(bench.hook.client_crresponse(&deaf, Env::new(), &response, &deferral).await, Answer::NoAnswer);
    let stats = bench.kind(HookKind::ClientCrresponse);
    assert_eq!((stats.runs(), stats.failures()), (3, 2));
}

#[tokio::test]
async fn nobody_answers_for_another() {
    let bench = Bench::new(LIMIT, 4);
    let mut script = deferred(&bench, "exit 2").await;
    let mut plugin = bench.hook.deferral().await.unwrap();
    let mut other = bench.hook.deferral().await.unwrap();
    let all: Vec<PathBuf> = [paths(&script), paths(&plugin), paths(&other)].concat();
    assert_eq!(all.iter().collect::<std::collections::HashSet<_>>().len(), 9, "nine different files");
    for path in &all {
        let meta = fs::metadata(path).unwrap();
        assert_eq!((meta.len(), meta.permissions().mode() & 0o777), (0, 0o600));
    }
    assert_eq!(bench.handle.stats().plugins_deferred(), 2);
    fs::write(&paths(&plugin)[0], "1").unwrap();
    assert_eq!(next(&mut plugin, SOON).await, Some(DeferredEvent::Allow));
    assert_eq!(next(&mut script, Duration::from_millis(300)).await, None);
    fs::write(&paths(&script)[0], "0").unwrap();
    assert_eq!(next(&mut script, SOON).await, Some(deny(None)));
    assert_eq!(next(&mut other, LATER).await, None, "not even at the re-check");
    drop((script, plugin, other));
    bench.empty().await;
    assert_eq!(bench.handle.stats().plugins_deferred(), 0);
}

#[tokio::test]
async fn plugins_conclude_as_scripts_do() {
    let bench = Bench::new(LIMIT, 4);
    let with = async |written: &str, returned: Returned| {
        let deferral = bench.hook.deferral().await.unwrap();
        let [control, _, reason] = paths(&deferral);
        fs::write(&reason, "words").unwrap();
        fs::write(&control, written).unwrap();
        deferral.conclude(returned).await
    };
    assert!(matches!(with("", Returned::Success).await, AuthAnswer::Allow));
    assert!(matches!(with("1", Returned::Success).await, AuthAnswer::Allow));
    for (written, returned) in
        [("0", Returned::Success), ("7", Returned::Success), ("", Returned::Error), ("1", Returned::Error)]
    {
        let AuthAnswer::Deny { reason } = with(written, returned).await else {
            panic!("{written} {returned:?}")
        };
        assert_eq!(reason.as_deref(), Some("words"));
    }
    let AuthAnswer::Deferred(mut deferral) = with("1", Returned::Deferred).await else { panic!("deferred") };
    assert_eq!(next(&mut deferral, SOON).await, Some(DeferredEvent::Allow));
}

#[tokio::test]
async fn what_comes_after_the_verdict_or_the_login_means_nothing() {
    let bench = Bench::new(LIMIT, 4);
    let mut deferral = deferred(&bench, "exit 2").await;
    let files = paths(&deferral);
    fs::write(&files[0], "0").unwrap();
    // Not taken yet, and changed meanwhile: the first verdict is the only one.
    let looked = deferral.reason().await;
    assert_eq!(looked, None);
    tokio::time::sleep(Duration::from_millis(300)).await;
    fs::write(&files[0], "1").unwrap();
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(next(&mut deferral, SOON).await, Some(deny(None)));
    assert_eq!(next(&mut deferral, LATER).await, Some(DeferredEvent::NoAnswer));
    drop(deferral);
    bench.empty().await;
    for path in &files {
        fs::write(path, "1").unwrap();
    }
    bench.empty().await;
}

#[tokio::test]
async fn files_in_their_place_by_every_way_of_writing() {
    let bench = Bench::new(LIMIT, 4);
    let mut deferral = deferred(&bench, "exit 2").await;
    let [control, ..] = paths(&deferral);
    let new = bench.files.join("mine");
    fs::write(&new, "1").unwrap();
    fs::rename(&new, &control).unwrap();
    assert_eq!(next(&mut deferral, SOON).await, Some(DeferredEvent::Allow));

    let mut deferral = deferred(&bench, "exit 2").await;
    let [control, ..] = paths(&deferral);
    let mut open = fs::OpenOptions::new().write(true).open(&control).unwrap();
    std::io::Write::write_all(&mut open, b"1").unwrap();
    assert_eq!(next(&mut deferral, LATER).await, Some(DeferredEvent::Allow), "although it stays open");

    let mut deferral = deferred(&bench, "exit 2").await;
    let [control, ..] = paths(&deferral);
    fs::remove_file(&control).unwrap();
    assert_eq!(next(&mut deferral, LATER).await, None, "a file that is not there says nothing");
    fs::write(&control, "1").unwrap();
    assert_eq!(next(&mut deferral, SOON).await, Some(DeferredEvent::Allow));
}

#[tokio::test]
async fn no_other_user_can_answer() {
    // Only root can become another user; CI runs as root, and elsewhere the modes alone are looked at.
    let bench = Bench::new(LIMIT, 4);
    let mut deferral = deferred(&bench, "exit 2").await;
    let [control, ..] = paths(&deferral);
    assert_eq!(fs::metadata(&bench.files).unwrap().permissions().mode() & 0o777, 0o700);
    if nix::unistd::geteuid().is_root() {
        fs::set_permissions(bench.dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let mut other = std::process::Command::new("/bin/sh");
        std::os::unix::process::CommandExt::uid(&mut other, 65_534);
        let line = "echo 1 > \"$1\"; echo 1 > \"${1%/*}/x\"; mv /etc/hostname \"$1\"";
        other.args(["-c", line, "sh", control.to_str().unwrap()]).stderr(std::process::Stdio::null());
        assert!(!other.status().unwrap().success());
        assert_eq!(next(&mut deferral, LATER).await, None);
    }
    assert_eq!(fs::metadata(&control).unwrap().len(), 0);
}

#[tokio::test]
async fn deferrals_hold_no_slot_and_their_number_is_bounded() {
    // In memory, as an operator would have it: twelve thousand files take a minute on a slow disk.
    let files = HookDir::create(Path::new("/dev/shm")).unwrap();
    let bench = Bench::with_files(LIMIT, 1, tempfile::tempdir().unwrap(), &files);
    drop(files);
    let waiting = [deferred(&bench, "exit 2").await, deferred(&bench, "exit 2").await];
    assert_eq!(bench.kind(HookKind::AuthUserPassVerify).deferred(), 2);
    let mut plugins = Vec::new();
    for _ in 0..runner::DEFERRALS - 2 {
        plugins.push(bench.hook.deferral().await.unwrap());
    }
    assert!(matches!(bench.hook.deferral().await, Err(DeferralError::Full)));
    assert!(matches!(verify(&bench, "exit 2").await, AuthAnswer::NoAnswer), "no answer is not a no");
    assert!(matches!(verify(&bench, "exit 0").await, AuthAnswer::Allow), "an answer at once needs no place");
    let defer = "echo 2 > \"$client_connect_deferred_file\"";
    let connect = bench.script("connect", defer);
    assert_eq!(bench.hook.client_connect(&connect, Env::new()).await.unwrap_err(), Answer::NoAnswer);
    assert_eq!(bench.kind(HookKind::AuthUserPassVerify).rejected(), 1);
    drop(waiting);
    drop(deferred(&bench, "exit 2").await);
    // All of them together are still heard.
    for deferral in &plugins {
        fs::write(&paths(deferral)[0], "1").unwrap();
    }
    for deferral in &mut plugins {
        assert_eq!(next(deferral, LATER).await, Some(DeferredEvent::Allow));
    }
    drop(plugins);
    bench.empty().await;
}

#[tokio::test]
async fn when_the_gateway_stops_there_is_no_answer() {
    let mut bench = Bench::new(LIMIT, 4);
    let mut deferral = deferred(&bench, "exit 2").await;
    let connect = bench.script("connect", "echo 2 > \"$client_connect_deferred_file\"");
    let mut connecting = bench.hook.start_client_connect(&connect, Env::new(), None);
    eventually("it waits", || bench.kind(HookKind::ClientConnect).deferred() == 1).await;
    let runner = bench.runner.take();
    let started = now();
    tokio::task::spawn_blocking(move || drop(runner)).await.unwrap();
    assert!(now() - started < SOON, "nobody is waited for");
    assert_eq!(next(&mut deferral, SOON).await, Some(DeferredEvent::NoAnswer));
    assert_eq!(connecting.answer().await.unwrap_err(), Answer::NoAnswer);
    assert_eq!(deferral.reason().await, None);
    assert!(matches!(bench.hook.deferral().await, Err(DeferralError::Stopped)));
    assert!(matches!(deferral.conclude(Returned::Success).await, AuthAnswer::NoAnswer), "never a yes");
}
