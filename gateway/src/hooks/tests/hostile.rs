//! Names and texts that clients choose, and programs that do more than they should.

use super::*;

#[tokio::test]
async fn the_environment_is_the_allow_list() {
    let bench = Bench::new(LIMIT, 4);
    let hostile = "UV_A='; touch pwned #\nUV_B=$(touch pwned)\nUV_C=`touch pwned`\nUV_D=() { :;}; touch pwned\nIDS=1\nLD_PRELOAD=/x.so\nUV_X=\nLD_PRELOAD=/y.so\nBASH_ENV=/x\n";
    let mut env = Env::new();
    env.set("common_name", "cn\nLD_PRELOAD=/z.so")
        .set_peer(Peer::Trusted("[::ffff:192.0.2.7]:4000".parse().unwrap()))
        .set_peer_info(&PeerInfo::parse(hostile));
    let command = bench.program("env.py", "#!/usr/bin/python3 -I\nimport sys\nopen(sys.argv[-1], 'wb').write(open('/proc/self/environ', 'rb').read())\n");
    let written = bench.hook.client_connect(&command, env).await.unwrap();
    let text = String::from_utf8(written.to_vec()).unwrap();
    let mut seen: Vec<&str> = text.split_terminator('\0').collect();
    seen.sort_unstable();
    let names: Vec<&str> = seen.iter().map(|pair| pair.split('=').next().unwrap()).collect();
    assert_eq!(
        names,
        [
            "PATH",
            "UV_A",
            "UV_B",
            "UV_C",
            "UV_D",
            "UV_X",
            "client_connect_config_file",
            "client_connect_deferred_file",
            "common_name",
            "script_type",
            "trusted_ip",
            "trusted_port",
            "untrusted_ip",
            "untrusted_port",
        ]
    );
    assert!(seen.contains(&"UV_B=__touch_pwned)"), "{seen:?}");
    assert!(seen.contains(&"common_name=cn_LD_PRELOAD=/z.so"));
    assert!(seen.contains(&"trusted_ip=192.0.2.7"));
}

#[tokio::test]
async fn credentials_reach_the_hook_and_nothing_else() {
    let bench = Bench::new(LIMIT, 4);
    let hostile = [
        "'; touch pwned #",
        "$(touch pwned)",
        "`touch pwned`",
        "() { :;}; touch pwned",
        "-rf",
        "a\nb",
        "\u{e4}\u{1f600}",
    ];
    for user in hostile {
        fs::write(bench.path("user"), user.replace('\n', "_")).unwrap();
        let body = "[ \"$(cat $D/user)\" = \"$username\" ] && [ \"$password\" = 'p w' ] && [ $# = 0 ] && [ \"$script_type\" = user-pass-verify ]";
        assert_eq!(bench.verify(CredentialsVia::Env, body, user, "p w").await, Answer::Allow, "{user:?}");
        let body = "for f; do :; done\n[ \"$(sed -n 1p \"$f\")\" = \"$(cat $D/user)\" ] && [ \"$(sed -n 2p \"$f\")\" = 'p_w' ] \
            && [ \"$(wc -l < \"$f\")\" = 2 ] && [ \"$(stat -c %a \"$f\")\" = 600 ] && [ -z \"${password+x}\" ]";
        assert_eq!(bench.verify(CredentialsVia::File, body, user, "p\nw").await, Answer::Allow, "{user:?}");
        bench.empty().await;
    }
    assert!(!bench.path("pwned").exists() && !Path::new("pwned").exists());
}

#[tokio::test]
async fn hostile_text_stays_text_in_every_hook() {
    let bench = Bench::new(LIMIT, 4);
    let canary = bench.path("pwned");
    let touch = format!("touch {}", canary.display());
    let texts = [
        format!("'; {touch} #"),
        format!("\"; {touch} #"),
        format!("$({touch})"),
        format!("`{touch}`"),
        format!("() {{ :;}}; {touch}"),
        format!("a\n{touch}\nLD_PRELOAD=/x.so"),
        format!("a\0{touch}"),
        format!("|{touch}"),
        "../../../etc/passwd".into(),
        "..".into(),
        "-rf /".into(),
        "%s%n${IFS}*?[a]~\\".into(),
        "\u{e4}\u{1f600}\u{7f}\u{85}\r\t".into(),
    ];
    // bash, because it is the one that once ran functions out of its environment.
    let body =
        "#!/bin/bash\n{ printf '%s\\0' \"$@\"; echo; cat /proc/self/environ; } > \"${0%/*}/out\"\nexit 0\n";
    let dump = bench.program("dump", body);
    let auth = AuthHook { command: dump.clone(), via: CredentialsVia::Env };
    for text in &texts {
        let clean: String = text.chars().map(|c| if c.is_control() { '_' } else { c }).collect();
        let mut env = Env::new();
        let info: String = (0..300).map(|i| format!("UV_K{i}={text}\n")).collect();
        env.set("common_name", text.as_str())
            .set("X509_0_CN", text.as_str())
            .set_peer_info(&PeerInfo::parse(&info));
        let out = || String::from_utf8(fs::read(bench.path("out")).unwrap()).unwrap();
        let has = |pair: &str| out().split(['\0', '\n']).any(|line| line == pair);
        let password = Secret::new(text.clone());
        let hook = &bench.hook;

        let answer = hook.auth_user_pass_verify(&auth, env.clone(), text, &password).await;
        assert!(matches!(answer, AuthAnswer::Allow), "{text:?}: {answer:?}");
        for name in ["username", "password", "common_name", "X509_0_CN"] {
            assert!(has(&format!("{name}={clean}")), "{text:?}: {}", out());
        }
        assert!(out().split('\0').filter(|pair| pair.starts_with("UV_")).count() <= 64);
        assert!(!has("LD_PRELOAD=/x.so"));
        assert!(hook.client_connect(&dump, env.clone()).await.is_ok());
        assert_eq!(
            hook.learn_address(&dump, env.clone(), "add", "10.8.0.2", Some(text)).await,
            Answer::Allow
        );
        assert!(has(&clean), "{text:?}: {}", out());
        assert_eq!(hook.tls_verify(&dump, env.clone(), 0, text).await, Answer::Allow);
        hook.client_disconnect(&dump, env.clone()).await;
        let deferral = hook.deferral().await.unwrap();
        assert_eq!(hook.client_crresponse(&dump, env, &password, &deferral).await, Answer::Allow);
    }
    assert!(!canary.exists());
    bench.empty().await;
}

#[tokio::test]
async fn each_login_hook_sees_exactly_these_variables() {
    let bench = Bench::new(LIMIT, 4);
    let body = "#!/usr/bin/python3 -I\nimport os\nopen(os.path.dirname(__file__) + '/out', 'wb').write(open('/proc/self/environ', 'rb').read())\n";
    let dump = bench.program("env.py", body);
    let auth = AuthHook { command: dump.clone(), via: CredentialsVia::File };
    let mut env = Env::new();
    env.set("common_name", "alice")
        .set_peer(Peer::Untrusted("192.0.2.7:4000".parse().unwrap()))
        .set_peer_info(&PeerInfo::parse("IV_VER=2.6.12\nUV_X=1\nIV_GUI_VER=x y\nHOME=/x\n"));
    let seen = || {
        let text = fs::read_to_string(bench.path("out")).unwrap();
        let mut pairs: Vec<String> = text.split_terminator('\0').map(str::to_owned).collect();
        pairs.sort_unstable();
        pairs
    };
    let files = bench.files.display();
    let path = |name: &str, file: &str, number: u32| format!("{name}={files}/{file}-{number}");
    let common = |script_type: &str| {
        let script_type = format!("script_type={script_type}");
        [
            "IV_GUI_VER=x_y",
            "IV_VER=2.6.12",
            "UV_X=1",
            "common_name=alice",
            "untrusted_ip=192.0.2.7",
            "untrusted_port=4000",
        ]
        .into_iter()
        .map(str::to_owned)
        .chain([format!("PATH={PATH}"), script_type])
        .collect::<Vec<_>>()
    };
    let check = |script_type: &str, more: &[String]| {
        let mut expected = common(script_type);
        expected.extend_from_slice(more);
        expected.sort_unstable();
        assert_eq!(seen(), expected);
    };
    let secret = Secret::new("hunter2".to_owned());
    let answer = bench.hook.auth_user_pass_verify(&auth, env.clone(), "al", &secret).await;
    assert!(matches!(answer, AuthAnswer::Allow));
    let auth_files = |first: u32| {
        ["auth_control_file", "auth_pending_file", "auth_failed_reason_file"]
            .into_iter()
            .zip(["auth-control", "auth-pending", "auth-reason"])
            .zip(first..)
            .map(|((name, file), number)| path(name, file, number))
            .collect::<Vec<_>>()
    };
    // The first file is that of the credentials.
    check("user-pass-verify", &[auth_files(1), vec!["username=al".into()]].concat());
    let deferral = bench.hook.deferral().await.unwrap();
    bench.hook.client_crresponse(&dump, env.clone(), &secret, &deferral).await;
    check("client-crresponse", &auth_files(4));
    bench.hook.client_connect(&dump, env).await.unwrap();
    let connect =
        [("client_connect_config_file", "connect", 8), ("client_connect_deferred_file", "deferred", 9)];
    check("client-connect", &connect.map(|(name, file, number)| path(name, file, number)));
}

#[tokio::test]
async fn a_storm_of_short_lives_leaves_no_zombies() {
    let bench = Bench::new(LIMIT, 16);
    let body =
        "echo $$ >> $D/pids\n(true &) ; (exec setsid true &)\n[ $(($$ % 3)) = 0 ] && kill -9 $$\nexit 0";
    let script = bench.script("storm", body);
    let runs = (0..300).map(|_| bench.hook.client_connect(&script, Env::new()));
    for answer in futures_util::future::join_all(runs).await {
        assert!(matches!(answer, Ok(_) | Err(Answer::NoAnswer)), "{answer:?}");
    }
    let pids = fs::read_to_string(bench.path("pids")).unwrap();
    assert_eq!(pids.lines().count(), 300);
    // A number may be another's by now; a dead child of ours would be in the table with us as its parent.
    let ours = std::process::id().to_string();
    let dead_child = |pid: &str| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let rest = stat.rsplit(')').next().unwrap_or_default().to_owned();
        let mut words = rest.split_whitespace();
        words.next() == Some("Z") && words.next() == Some(&ours)
    };
    assert!(!pids.lines().any(dead_child));
    assert_eq!(bench.kind(HookKind::ClientConnect).runs(), 300);
}
