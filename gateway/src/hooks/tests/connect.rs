//! `client-connect` that answers later, and the `client-disconnect` that it entails.

use super::*;

/// A hook that puts its answer off, and does `later` in the background.
fn deferring(later: &str) -> String {
    format!(
        "echo 2 > \"$client_connect_deferred_file\"\nF=$client_connect_deferred_file\n(sleep 0.4; {later}) > /dev/null 2>&1 &\nexit 0"
    )
}

#[tokio::test]
async fn client_connect_may_put_its_answer_off() {
    let bench = Bench::new(LIMIT, 4);
    let defer = |later: &str| deferring(&format!("echo 'push x' > \"$1\"; {later}"));
    let yes = bench.connect(&defer("echo 1 > \"$client_connect_deferred_file\"")).await;
    assert_eq!(yes.unwrap(), b"push x\n", "what was written in the meantime counts");
    let no = bench.connect(&defer("echo 0 > \"$client_connect_deferred_file\"")).await;
    assert_eq!(no.unwrap_err(), Answer::Deny);
    let stats = bench.kind(HookKind::ClientConnect);
    assert_eq!((stats.runs(), stats.failures(), stats.timeouts(), stats.deferred()), (2, 1, 0, 0));
    let impatient = Bench::new(Duration::from_millis(600), 4);
    assert_eq!(impatient.connect(&defer("true")).await.unwrap_err(), Answer::NoAnswer, "never answered");
    let stats = impatient.kind(HookKind::ClientConnect);
    assert_eq!((stats.runs(), stats.failures(), stats.timeouts(), stats.deferred()), (1, 1, 1, 0));
}

#[tokio::test]
async fn deferred_answers_that_are_none_are_refusals() {
    let bench = Bench::new(LIMIT, 4);
    for later in [
        "echo yes > $F",
        "printf '1\\n0\\n' > $F",
        "echo 3 > $F",
        "ln -sf /etc/passwd $F",
        "echo 1 > $D/yes; ln -sf $D/yes $F",
        "rm $F; mkfifo $F",
        "rm $F; mkdir $F",
    ] {
        assert_eq!(bench.connect(&deferring(later)).await, Err(Answer::Deny), "{later}");
    }
    for at_once in
        ["echo 0 > $F", "echo x > $F", "printf '2\\n1\\n' > $F", "rm $F; mkfifo $F", "ln -sf /dev/null $F"]
    {
        let body = format!("F=$client_connect_deferred_file\n{at_once}");
        assert_eq!(bench.connect(&body).await, Err(Answer::Deny), "{at_once}");
    }
    assert!(bench.connect("rm \"$client_connect_deferred_file\"").await.is_ok(), "as if nothing was written");
}

#[tokio::test]
async fn deferred_answers_written_oddly_still_count_once() {
    let bench = Bench::new(LIMIT, 4);
    for later in [
        "echo 2 > $F; : > $F; sleep 0.2; echo 2 > $F; sleep 0.2; echo 1 > $F; echo 1 >> $F",
        "exec 3> $F; echo 1 >&3; sleep 3",
        "echo 1 > $F.new; mv $F.new $F",
        "rm $F; sleep 0.2; echo 1 > $F",
        "echo 1 > $F; sleep 0.3; echo 0 > $F",
    ] {
        assert!(bench.connect(&deferring(later)).await.is_ok(), "{later}");
    }
    let started = now();
    assert!(bench.connect(&deferring("printf 1 > $F")).await.is_ok());
    assert!(now() - started < Duration::from_millis(1500), "noticed at once");
    // The one that contradicted itself after the fact left nothing behind, either.
    tokio::time::sleep(Duration::from_millis(500)).await;
    bench.empty().await;
}

#[tokio::test]
async fn who_waits_for_an_answer_holds_no_slot() {
    let bench = Bench::new(LIMIT, 1);
    let command = bench.script("defer", &deferring("while [ ! -e $D/go ]; do sleep 0.1; done; echo 1 > $F"));
    let mut waiting: Vec<Connecting> =
        (0..5).map(|_| bench.hook.start_client_connect(&command, Env::new(), None)).collect();
    eventually("all five wait", || bench.kind(HookKind::ClientConnect).deferred() == 5).await;
    let fast = bench.script("fast", "exit 0");
    assert!(
        bench.hook.client_connect(&fast, Env::new()).await.is_ok(),
        "although only one may run at a time"
    );
    fs::write(bench.path("go"), "").unwrap();
    for connecting in &mut waiting {
        assert!(connecting.answer().await.is_ok());
        assert_eq!(connecting.answer().await.unwrap_err(), Answer::NoAnswer, "it was taken");
    }
    assert_eq!(bench.kind(HookKind::ClientConnect).deferred(), 0);
}

/// A `client-connect` and a `client-disconnect` that write what happens into `log`.
struct Pair {
    bench: Bench,
    disconnect: HookCommand,
}

impl Pair {
    fn new() -> Self {
        let bench = Bench::new(LIMIT, 4);
        let body = "sleep 0.2\necho \"disconnect $common_name $bytes_received $bytes_sent $time_duration $script_type \
            ${client_connect_config_file-none}\" >> $D/log";
        let disconnect = bench.script("disconnect", body);
        Self { bench, disconnect }
    }

    fn start(&self, name: &str, body: &str) -> Connecting {
        let command = self.bench.script(name, &format!("echo connect $common_name >> $D/log\n{body}"));
        let mut env = Env::new();
        env.set("common_name", name);
        self.bench.hook.start_client_connect(&command, env, Some(&self.disconnect))
    }

    fn log(&self) -> Vec<String> {
        fs::read_to_string(self.bench.path("log")).unwrap_or_default().lines().map(str::to_owned).collect()
    }

    async fn ended(&self, runs: u64) {
        let stats = self.bench.handle.stats();
        let all = |count: fn(&KindStats) -> u64| stats.kinds().map(|(_, kind)| count(kind)).sum::<u64>();
        eventually("all hooks ended", || {
            let busy = all(KindStats::queued) + all(KindStats::running) + all(KindStats::deferred);
            all(KindStats::runs) >= runs && busy == 0
        })
        .await;
        // Time for one too many.
        tokio::time::sleep(Duration::from_millis(300)).await;
        assert_eq!(all(KindStats::runs), runs);
    }
}

#[tokio::test]
async fn a_client_that_stays_is_said_goodbye_to_once() {
    let pair = Pair::new();
    let connected = pair.start("alice", "echo 'push x' > \"$1\"").answer().await.unwrap();
    assert_eq!(*connected.written, *b"push x\n");
    let mut farewell = connected.farewell.unwrap();
    let mut env = Env::new();
    env.set("common_name", "alice2");
    farewell.set_env(env);
    farewell.run(&Totals { received: 1, sent: 2, duration: 3 }).await;
    assert_eq!(pair.log(), ["connect alice", "disconnect alice2 1 2 3 client-disconnect none"]);
    pair.ended(2).await;
}

#[tokio::test]
async fn a_client_that_leaves_meanwhile_is_said_goodbye_to_if_the_hook_said_yes() {
    let goodbye = |name: &str| format!("disconnect {name} 0 0 0 client-disconnect none");
    for (body, yes) in [
        ("sleep 0.4", true),
        ("sleep 0.4; exit 1", false),
        ("sleep 0.4; kill -9 $$", false),
        (&deferring("echo 1 > $F"), true),
        (&deferring("echo 0 > $F"), false),
        (&deferring("echo x > $F"), false),
    ] {
        // The login waits in the background for the end of it all.
        let pair = Pair::new();
        let mut connecting = pair.start("alice", body);
        let soon = Duration::from_millis(100);
        assert!(tokio::time::timeout(soon, connecting.answer()).await.is_err());
        connecting.abandon().await;
        let expected = if yes {
            vec!["connect alice".to_owned(), goodbye("alice")]
        } else {
            vec!["connect alice".to_owned()]
        };
        assert_eq!(pair.log(), expected, "{body}");
        pair.ended(1 + u64::from(yes)).await;

        // The login is gone without a word.
        let pair = Pair::new();
        let mut connecting = pair.start("alice", body);
        assert!(tokio::time::timeout(soon, connecting.answer()).await.is_err());
        drop(connecting);
        pair.ended(1 + u64::from(yes)).await;
        assert_eq!(pair.log(), expected, "{body}");
    }
}

#[tokio::test]
async fn a_yes_that_nobody_took_or_kept_is_answered_too() {
    let pair = Pair::new();
    // It has answered, and nobody has read that.
    let connecting = pair.start("unread", "exit 0");
    pair.ended(1).await;
    drop(connecting);
    pair.ended(2).await;
    // It was read, and then the login failed in some other way.
    drop(pair.start("unkept", "exit 0").answer().await.unwrap());
    pair.ended(4).await;
    // It said yes, and wrote what cannot be used.
    let mut connecting = pair.start("unusable", "rm \"$1\"");
    assert_eq!(connecting.answer().await.unwrap_err(), Answer::Deny);
    let goodbyes: Vec<String> =
        pair.log().into_iter().filter(|line| line.starts_with("disconnect")).collect();
    let expected = ["unread", "unkept", "unusable"]
        .map(|name| format!("disconnect {name} 0 0 0 client-disconnect none"));
    assert_eq!(goodbyes, expected);
    pair.ended(6).await;
}

#[tokio::test]
async fn what_was_never_begun_needs_no_goodbye() {
    let pair = Pair::new();
    let sleeper = pair.bench.script("sleeper", "sleep 0.5");
    let blockers: Vec<Connecting> =
        (0..4).map(|_| pair.bench.hook.start_client_connect(&sleeper, Env::new(), None)).collect();
    eventually("all slots are taken", || pair.bench.kind(HookKind::ClientConnect).running() == 4).await;
    drop(pair.start("alice", "exit 0"));
    drop(blockers);
    pair.ended(4).await;
    assert!(pair.log().is_empty());
}

#[tokio::test]
async fn the_order_of_one_name_is_kept() {
    let pair = Arc::new(Pair::new());
    let name = Arc::new(tokio::sync::Mutex::new(()));
    let mut logins = tokio::task::JoinSet::new();
    for i in 0..6 {
        let (pair, name) = (Arc::clone(&pair), Arc::clone(&name));
        logins.spawn(async move {
            // The directory gives a name to one login at a time; it is held until the farewell is over.
            let _held = name.lock().await;
            let mut connecting = pair.start(&format!("n{i}"), "sleep 0.1");
            let patience = Duration::from_millis(if i % 2 == 0 { 30 } else { 10_000 });
            match tokio::time::timeout(patience, connecting.answer()).await {
                Err(_) => connecting.abandon().await,
                Ok(connected) => connected.unwrap().farewell.unwrap().run(&Totals::default()).await,
            }
        });
    }
    while let Some(done) = logins.join_next().await {
        done.unwrap();
    }
    let log = pair.log();
    assert_eq!(log.len(), 12);
    for both in log.chunks(2) {
        let word = |line: &str, n: usize| line.split(' ').nth(n).unwrap().to_owned();
        assert_eq!((word(&both[0], 0), word(&both[1], 0)), ("connect".into(), "disconnect".into()));
        assert_eq!(word(&both[0], 1), word(&both[1], 1));
    }
}
