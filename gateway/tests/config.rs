//! Whole configurations, good and bad: what is accepted, what is refused, and that the refusal names the place.

#![expect(clippy::unwrap_used, reason = "a test may fail by panic")]

use std::fs;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use tesserad::cli::{self, Invocation, Output};
use tesserad::config::{
    CertificatePolicy, Compression, Config, CookieMode, KeyDirection, MssFix, Protocol, Report, Source,
    TlsVersion, Verdict, Wrap, load_text,
};

/// The least that makes a server.
const BASE: &str = "server 10.8.0.0 255.255.255.0\ndev tun\nca ca.crt\ncert s.crt\nkey s.key\n";

fn load(text: &str) -> (Config, Report) {
    load_text("t.conf", text, Path::new("/etc/vpn")).unwrap()
}

fn accepted(text: &str) -> Config {
    let (config, report) = load(text);
    assert!(!report.refused(), "{text}\n{}", report.table());
    config
}

fn with(lines: &str) -> Config {
    accepted(&format!("{BASE}{lines}"))
}

/// All findings of a text, of whatever stage.
fn findings(text: &[u8]) -> (bool, String) {
    match load_text("t.conf", text, Path::new("/etc/vpn")) {
        Ok((_, report)) => (report.refused(), report.table()),
        Err(problems) => (true, problems.iter().map(|problem| format!("{problem}\n")).collect()),
    }
}

#[test]
fn tokens_and_their_times() {
    let token = |lines: &str| with(&format!("auth-file u\n{lines}")).auth.gen_token.unwrap();
    let plain = token("auth-gen-token\n");
    assert_eq!((plain.lifetime, plain.renewal), (None, Duration::from_secs(3600)));
    assert_eq!(token("auth-gen-token 0\nreneg-sec 600\n").renewal, Duration::from_secs(600));
    let external =
        token("auth-gen-token 3600 600 external-auth\nauth-gen-token-secret a\nauth-gen-token-secret b\n");
    assert_eq!(external.lifetime, Some(Duration::from_secs(3600)));
    assert_eq!((external.renewal, external.external_auth), (Duration::from_secs(600), true));
    assert_eq!(external.secrets.len(), 2);
    assert!(token("auth-gen-token 60 external-auth\n").external_auth);
    assert_eq!(token("auth-gen-token\nreneg-sec 0\n").renewal, Duration::from_secs(3600));
    assert_eq!(token("auth-gen-token\nreneg-sec 20\n").renewal, Duration::from_secs(120), "two hand-windows");
}

#[test]
fn plugins_with_one_argument_have_it_split() {
    let config = with("plugin auth.so \"login login USERNAME\"\nplugin ./x.so a \"b c\"\n");
    let [first, second] = &config.hooks.plugins[..] else { panic!() };
    assert_eq!((first.file.to_str(), first.args.len()), (Some("/etc/vpn/auth.so"), 3), "it is nowhere else");
    assert_eq!(second.file, Path::new("/etc/vpn/./x.so"));
    assert_eq!(second.args, ["a", "b c"]);
}

/// Listeners of both transports.
#[test]
fn udp_and_tcp_side_by_side() {
    let of = with;
    let listeners = |lines: &str| -> Vec<(Protocol, String, bool)> {
        let listeners = of(lines).listeners;
        listeners.iter().map(|l| (l.protocol, l.address.to_string(), l.ipv4_fallback)).collect()
    };
    use Protocol::{Tcp, Udp};
    for proto in ["tcp", "tcp-server"] {
        assert_eq!(listeners(&format!("proto {proto}\n")), [(Tcp, "[::]:1194".to_owned(), true)]);
    }
    for proto in ["tcp4", "tcp4-server"] {
        let only = [(Tcp, "0.0.0.0:443".to_owned(), false)];
        assert_eq!(listeners(&format!("proto {proto}\nport 443\n")), only);
    }
    assert_eq!(listeners("proto tcp6-server\n"), [(Tcp, "[::]:1194".to_owned(), false)]);
    // The same address and port for both, and a proto for those that name none.
    let both = listeners("port 443\nproto tcp-server\nlocal * 443 udp\nlocal *\nlocal 192.0.2.1 1194 udp4\n");
    let expected = [
        (Udp, "[::]:443".to_owned(), true),
        (Tcp, "[::]:443".to_owned(), true),
        (Udp, "192.0.2.1:1194".to_owned(), false),
    ];
    assert_eq!(both, expected);

    let shared = of("proto tcp\ntcp-queue-limit 100\nport-share web.example 8443 origins\n").transport;
    assert_eq!(shared.tcp_queue_limit, 100);
    let share = shared.port_share.unwrap();
    assert_eq!((&share.host[..], share.port), ("web.example", 8443));
    assert_eq!(share.directory.as_deref(), Some(Path::new("/etc/vpn/origins")));
    assert_eq!(with("").transport.tcp_queue_limit, 64);
}

#[test]
fn nodelay_is_pushed_where_there_is_tcp() {
    let pushed = "socket-flags TCP_NODELAY".to_owned();
    let (config, report) = load(&format!("{BASE}proto tcp\ntcp-nodelay\n"));
    assert!(config.push.contains(&pushed));
    assert!(!report.table().contains("tcp-nodelay has no effect"));
    let (config, report) = load(&format!("{BASE}tcp-nodelay\nsocket-flags TCP_NODELAY\ntcp-queue-limit 9\n"));
    assert!(!report.refused() && !config.push.contains(&pushed));
    for name in ["tcp-nodelay", "socket-flags", "tcp-queue-limit"] {
        assert!(report.table().contains(&format!("{name} has no effect: no listener is TCP")), "{name}");
    }
    assert!(!load(&format!("{BASE}proto tcp\nsocket-flags TCP_NODELAY\n")).0.push.contains(&pushed));
}

#[test]
fn macros_become_what_openvpn_makes_of_them() {
    let config = with("server-ipv6 fd00:1::/64\nkeepalive 10 60\n");
    let network = &config.network;
    let own = network.ifconfig.unwrap();
    assert_eq!((own.local, own.prefix), (Ipv4Addr::new(10, 8, 0, 1), 24));
    let pool = network.pool.unwrap();
    assert_eq!((pool.first, pool.last), (Ipv4Addr::new(10, 8, 0, 2), Ipv4Addr::new(10, 8, 0, 254)));
    assert_eq!((pool.netmask, pool.len()), (Ipv4Addr::new(255, 255, 255, 0), 253));
    let own6 = network.ifconfig6.unwrap();
    assert_eq!(own6.local, "fd00:1::1".parse::<Ipv6Addr>().unwrap());
    assert_eq!(own6.remote, "fd00:1::2".parse::<Ipv6Addr>().unwrap());
    let pool6 = network.pool6.unwrap();
    assert_eq!((pool6.first, pool6.prefix), ("fd00:1::1000".parse().unwrap(), 64));
    assert_eq!(pool6.len(), 1 << 24);
    assert_eq!(config.timers.ping, Some(Duration::from_secs(10)));
    assert_eq!(config.timers.ping_restart, Some(Duration::from_secs(120)));
    let expected = ["topology subnet", "route-gateway 10.8.0.1", "tun-ipv6", "ping 10", "ping-restart 60"];
    assert_eq!(config.push, expected);
}

#[test]
fn small_ipv6_networks_begin_at_two() {
    let pool = with("server-ipv6 fd00:1::/120\n").network.pool6.unwrap();
    assert_eq!((pool.first, pool.len()), ("fd00:1::2".parse().unwrap(), 254));
}

#[test]
fn the_long_form_is_the_macro() {
    let long = "mode server\ntls-server\nifconfig 10.8.0.1 255.255.255.0\nifconfig-pool 10.8.0.2 10.8.0.254\n\
                push \"route-gateway 10.8.0.1\"\nca a\ncert b\nkey c\n";
    let (long, short) = (accepted(long), with(""));
    assert_eq!(long.network.pool, short.network.pool);
    assert_eq!(long.network.ifconfig, short.network.ifconfig);
    let sorted = |config: &Config| {
        let mut push = config.push.clone();
        push.sort();
        push
    };
    assert_eq!(sorted(&long), sorted(&short));
}

#[test]
fn values_land_where_they_belong() {
    assert_eq!(with("").listeners[0].address.to_string(), "[::]:1194");
    assert!(with("").listeners[0].ipv4_fallback);
    assert_eq!(with("proto udp4\nport 443\n").listeners[0].address.to_string(), "0.0.0.0:443");
    let two = with("port 1\nlocal 192.0.2.1\nlocal 2001:db8::1 5 udp6\n");
    let addresses: Vec<String> = two.listeners.iter().map(|listener| listener.address.to_string()).collect();
    assert_eq!(addresses, ["192.0.2.1:1", "[2001:db8::1]:5"]);
    assert_eq!(with("mssfix 1300\n").transport.mssfix, MssFix::Payload(1300));
    assert_eq!(with("mssfix 1400 mtu\n").transport.mssfix, MssFix::Mtu(1400));
    assert_eq!(with("mssfix 0\n").transport.mssfix, MssFix::Off);
    assert_eq!(with("").transport.mssfix, MssFix::Mtu(1492));
    assert_eq!(with("tun-mtu 1400\n").transport.mssfix, MssFix::Fixed(1400));
    assert_eq!(with("max-packet-size 1200\n").transport.mssfix, MssFix::Mtu(1200));
    let timers = with("reneg-sec 1000\n").timers;
    assert_eq!(
        (timers.reneg_min, timers.reneg_max),
        (Some(Duration::from_secs(900)), Some(Duration::from_secs(1000)))
    );
    assert_eq!(with("reneg-sec 0\n").timers.reneg_max, None);
    let names = |config: &Config| config.crypto.data_ciphers.iter().map(|c| c.name()).collect::<Vec<_>>();
    assert_eq!(names(&with("data-ciphers ?X:aes-128-gcm:DEFAULT\n"))[..2], ["AES-128-GCM", "AES-256-GCM"]);
    assert_eq!(names(&with("ncp-ciphers AES-256-GCM:AES-256-CBC\n")), ["AES-256-GCM"]);
    assert_eq!(with("compress migrate\n").crypto.compression, Compression::Migrate);
    assert_eq!(with("comp-lzo no\n").crypto.compression, Compression::CompLzoNo);
    assert_eq!(with("tls-version-min 1.0\n").tls.version_min, TlsVersion::V12);
    assert_eq!(with("push-peer-info\nverb 4\nverb 3\n").process.verb, 3, "the last one wins");
    assert_eq!(with("tls-groups X25519:secp521r1:prime256v1\n").tls.groups, ["X25519", "secp256r1"]);
    assert_eq!(
        with("tls-cipher TLS-ECDHE-RSA-WITH-AES-256-GCM-SHA384:TLS-DHE-RSA-WITH-AES-256-CBC-SHA\n")
            .tls
            .ciphers,
        ["TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384"]
    );
    assert_eq!(with("tls-cipher DEFAULT:!ECDHE-RSA-AES128-GCM-SHA256\n").tls.ciphers.len(), 5);
    assert_eq!(with("route 10.1.2.3 255.255.255.0\n").network.routes[0].network, Ipv4Addr::new(10, 1, 2, 0));
    assert_eq!(with("ifconfig-pool-persist ipp.txt 0\n").network.persist.unwrap().interval, None);
    assert_eq!(with("token-lifetime 0\n").tessera.token_lifetime, None);
    let Some(Source::File(ca)) = with("").tls.ca else { panic!() };
    assert_eq!(ca, PathBuf::from("/etc/vpn/ca.crt"));
}

#[test]
fn wrapping() {
    let Wrap::TlsAuth { direction, .. } = with("tls-auth ta.key 0\n").wrap else { panic!() };
    assert_eq!(direction, KeyDirection::Normal);
    let old = with("tls-auth [inline] 0\n<tls-auth>\nkey\n</tls-auth>\n");
    let Wrap::TlsAuth { direction, key: Source::Inline(_) } = old.wrap else { panic!() };
    assert_eq!(direction, KeyDirection::Normal);
    let Wrap::TlsAuth { direction, .. } = with("<tls-auth>\nkey\n</tls-auth>\nkey-direction 0\n").wrap else {
        panic!()
    };
    assert_eq!(direction, KeyDirection::Normal);
    let Wrap::TlsCryptV2 { cookie, max_age, .. } =
        with("tls-crypt-v2 k allow-noncookie\ntls-crypt-v2-max-age 2\n").wrap
    else {
        panic!()
    };
    assert_eq!((cookie, max_age), (CookieMode::AllowNoncookie, Some(Duration::from_secs(172_800))));
}

#[test]
fn hooks_are_split_and_their_paths_are_whole() {
    let config = with(
        "script-security 3\nauth-user-pass-verify \"bin/auth 'two words'\" via-env\n\
         client-connect /bin/true\nverify-client-cert none\nusername-as-common-name\n",
    );
    let hook = config.hooks.auth_user_pass_verify.unwrap();
    assert_eq!(hook.command.argv, ["/etc/vpn/bin/auth", "two words"]);
    assert_eq!(hook.command.place.to_string(), "t.conf:7:1");
    assert_eq!(config.auth.certificates, CertificatePolicy::None);
}

#[test]
fn secrets_do_not_show() {
    let config = with("<tls-crypt>\nhunter2\n</tls-crypt>\nsetenv API_KEY hunter2\n");
    let json = serde_json::to_string(&config).unwrap();
    for shown in [format!("{config:?}"), json] {
        assert!(!shown.contains("hunter2") && shown.contains("[redacted]"), "{shown}");
    }
    let (_, report) = load(&format!("{BASE}push \"auth-token hunter2\"\nsetenv 1x hunter2\n"));
    assert!(report.refused());
    assert!(!report.table().contains("hunter2") && !report.json().unwrap().contains("hunter2"));
}

/// Lines added to the base, and what the refusal must say.
const BAD: &[(&str, &str)] = &[
    ("prot udp", "t.conf:6:1  refused   prot    'prot' is not a directive (hint: did you mean 'proto'?)"),
    ("wholly-other-thing 1", "ignore-unknown-option NAME"),
    ("port", "port needs at least 1 argument, it has 0"),
    ("port 0", "t.conf:6:6"),
    ("port 65536", "is not a whole number from 1 to 65535"),
    ("port 1194 1195", "takes at most 1 argument"),
    ("port eleven", "'eleven' is not a whole number"),
    ("proto tcp-client", "'tcp-client' is for clients (hint: use 'tcp-server')"),
    ("proto tcp5", "'tcp5' is not one of"),
    (
        "proto udp6\nlocal 192.0.2.1",
        "192.0.2.1 is not an IPv6 address, and its proto serves no other (hint: use the proto without a number)",
    ),
    ("local 192.0.2.1 1 tcp6-server", "the address is of the other family"),
    ("local 192.0.2.1 1 tcp\nlocal 192.0.2.1 1 tcp-server", "192.0.2.1:1 is listened on twice"),
    ("port-share 127.0.0.1 443", "port-share without a TCP listener"),
    ("proto tcp\nport-share 127.0.0.1", "port-share needs at least 2 arguments"),
    ("proto tcp\nport-share 127.0.0.1 0", "is not a whole number from 1 to 65535"),
    ("proto tcp\nport-share \"\" 1", "the host is empty"),
    ("proto tcp\nport 443\nport-share 127.0.0.1 443", "port-share leads back to the gateway"),
    (
        "proto tcp\nport 443\nlocal 192.0.2.1\nport-share 192.0.2.1 443",
        "port-share leads back to the gateway",
    ),
    ("tcp-queue-limit 0", "is not a whole number from 1 to 4096"),
    ("socket-flags TCP_NODELAY TCP_CORK", "'TCP_CORK' is not one of: TCP_NODELAY"),
    ("proto icmp", "'icmp' is not one of"),
    ("dev tap0", "ethernet (tap) is not supported"),
    ("dev abcdefghijklmnop", "is not a device name"),
    ("dev a/b", "is not a device name"),
    ("dev-type tap", "device type 'tap'"),
    ("topology net30", "use 'topology subnet'"),
    ("topology p2p", "not in this release"),
    ("topology ring", "'ring' is not a topology"),
    ("server 10.8.0.0 255.0.255.0", "is not a netmask"),
    ("server 10.8.0.5 255.255.255.0", "write 10.8.0.0"),
    ("server 10.8.0.0 255.255.255.255", "between /8 and /30"),
    ("server ten 255.255.255.0", "'ten' is not an IPv4 address"),
    ("server-ipv6 fd00::/32", "between /64 and /124"),
    ("server-ipv6 fd00::5/64", "write fd00::/64"),
    ("server-ipv6 fd00::", "is not an IPv6 network"),
    ("server-bridge", "ethernet bridging"),
    ("ifconfig 10.9.0.1 255.255.255.0", "ifconfig and server both set the addresses"),
    ("ifconfig-pool 10.8.0.2 10.8.0.9", "ifconfig-pool and server both set the addresses"),
    ("ifconfig-pool 10.8.0.9 10.8.0.2", "before it begins"),
    ("ifconfig-push 10.8.0.9 255.255.255.0", "client-config-dir"),
    ("iroute 10.0.0.0", "client-config-dir"),
    ("keepalive 10 15", "at least twice"),
    ("keepalive 10 90000", "from 1 to 86400"),
    ("keepalive 10 60\nping 5", "keepalive and ping set the same timer"),
    ("max-clients 0", "from 1 to 16777215"),
    ("max-clients 1000000000", "from 1 to 16777215"),
    ("push \"auth-token x\"", "the same token"),
    ("push \"a,b\"", "neither commas"),
    ("push", "needs at least 1 argument"),
    ("route example.org", "names are not resolved"),
    ("route 10.0.0.0 255.0.0.0 net_gateway", "around the tunnel"),
    ("cipher none", "in clear"),
    ("cipher ROT13", "'ROT13' is not a cipher"),
    ("data-ciphers BF-CBC", "none of 'BF-CBC' is spoken"),
    ("data-ciphers AES-256-GCM:FOO", "'FOO' is not a cipher"),
    ("data-ciphers none", "in clear"),
    ("tls-version-max 1.1", "never spoken"),
    ("tls-version-min 1.3\ntls-version-max 1.2", "tls-version-max is below"),
    ("tls-version-min 2.0", "is not one of: 1.2, 1.3"),
    ("tls-cipher TLS-DHE-RSA-WITH-AES-256-CBC-SHA", "nothing in"),
    ("tls-groups secp521r1", "supported are X25519"),
    ("tls-cert-profile suiteb", "not supported"),
    ("comp-lzo yes", "compress migrate"),
    ("comp-lzo", "compress migrate"),
    ("compress lz4-v2", "compress migrate"),
    ("allow-compression maybe", "is not one of: no, asym, yes"),
    ("fragment 1300", "use 'mssfix'"),
    ("secret static.key", "no forward secrecy"),
    ("ncp-disable", "data-ciphers"),
    ("no-replay", "cannot be turned off"),
    ("replay-window 0", "drops every packet"),
    ("tls-auth a 0\ntls-crypt b", "tls-auth and tls-crypt exclude each other"),
    ("tls-crypt a\ntls-crypt-v2 b", "tls-crypt and tls-crypt-v2 exclude each other"),
    ("tls-auth [inline] 0", "without a block"),
    ("tls-auth a 2", "is not one of: 0, 1"),
    ("tls-auth a 0\nauth MD5", "'MD5' is not supported for tls-auth"),
    ("tls-crypt-v2 a sometimes", "is not one of: force-cookie, allow-noncookie"),
    ("tls-crypt-v2-max-age 3", "without tls-crypt-v2"),
    ("remote-cert-tls server", "write 'remote-cert-tls client'"),
    ("peer-fingerprint AB:CD", "32 bytes"),
    ("<peer-fingerprint>\n# none\n</peer-fingerprint>", "the list is empty"),
    ("<port>\n1\n</port>", "cannot be written as a block"),
    ("crl-verify crls dir", "directory of revoked serials"),
    ("verify-x509-name \"\"", "everybody would pass"),
    ("client-connect /bin/true", "script-security 2"),
    ("script-security 1\nclient-connect /bin/true", "not run below script-security 2"),
    ("script-security 2\nauth-user-pass-verify /bin/true via-env", "needs script-security 3"),
    ("script-security 2\nauth-user-pass-verify /bin/true", "needs at least 2 arguments"),
    ("script-security 2\nclient-connect \"/bin/x 'a\"", "never closed"),
    ("script-security 4", "is not one of"),
    ("ccd-exclusive", "without client-config-dir"),
    ("verify-client-cert none", "nothing checks one"),
    ("client-cert-not-required", "nothing checks one"),
    ("username-as-common-name", "nothing checks user names"),
    ("auth-user-pass-optional", "nothing checks passwords"),
    ("auth-gen-token", "nothing checks passwords"),
    ("auth-file u\nauth-gen-token x", "is not a whole number"),
    ("auth-file u\nauth-gen-token 0 60", "less than twice hand-window (120 s)"),
    ("auth-file u\nauth-gen-token 0 0 internal", "is the only word behind"),
    ("auth-gen-token-secret k", "without auth-gen-token"),
    ("auth-file u\ntoken-bind certificate", "token-bind without auth-gen-token"),
    ("auth-file u\nauth-gen-token\ntoken-bind name", "is not one of: user, certificate"),
    ("auth-file u\nverify-client-cert none\nauth-gen-token\ntoken-bind certificate", "but clients have none"),
    ("plugin \"\"", "the file name is empty"),
    ("plugin x.so \"a 'b\"", "never closed"),
    ("auth-pam ../login", "is not the name of a PAM service"),
    ("otp-issuer \"\"", "printable characters"),
    ("client-crresponse /bin/true", "not run below script-security 2"),
    ("store \"\"", "'memory' or a directory"),
    ("management 127.0.0.1 7505", "management interface is not in this release"),
    ("chroot /var/empty", "RootDirectory="),
    ("up /bin/true", "ExecStartPost"),
    ("remote vpn.example.org", "a client's directive"),
    ("client", "a client's directive"),
    ("local vpn.example.org", "names are not resolved"),
    ("local 192.0.2.1\nlocal 192.0.2.1", "listened on twice"),
    ("local 192.0.2.1\nproto udp6", "is not an IPv6 address"),
    ("datapath xdp", "the rung 'xdp' is not in this release"),
    ("workers 0", "or write 'auto'"),
    ("io kqueue", "is not one of: auto, uring, epoll"),
    ("token-verify maybe", "is not one of: hook, cache"),
    ("setenv 1x y", "is not the name of a variable"),
    ("setenv opt", "setenv opt without a directive"),
    ("cd /nonexistent/x", "is not a directory"),
    ("config /nonexistent/x.conf", "cannot read '/nonexistent/x.conf'"),
    ("push \"route 1", "t.conf:6:6: error: the double quote is never closed"),
    ("dev tun\\n", "a backslash may stand only"),
    ("<ca>\nx", "the block <ca> is never closed"),
    ("verb\0 3", "NUL"),
];

#[test]
fn bad_configurations_are_refused_with_place_and_reason() {
    assert!(BAD.len() >= 100);
    for (lines, expected) in BAD {
        let (refused, said) = findings(format!("{BASE}{lines}\n").as_bytes());
        assert!(refused, "accepted: {lines}\n{said}");
        assert!(said.contains(expected), "{lines}: wanted {expected:?} in\n{said}");
        assert!(said.contains("t.conf:") || said.contains("configuration:"), "no place: {said}");
    }
}

#[test]
fn whole_texts_that_are_no_configuration() {
    let cases: &[(&[u8], &str)] = &[
        (b"", "this is not a server configuration"),
        (b"dev tun\nca a\ncert b\nkey c\n", "this is not a server configuration"),
        (b"server 10.8.0.0 255.255.255.0\nca a\nkey c\n", "the gateway has no certificate"),
        (b"server 10.8.0.0 255.255.255.0\nca a\ncert b\n", "the gateway has no private key"),
        (b"server 10.8.0.0 255.255.255.0\ncert b\nkey c\n", "which clients' certificates are trusted"),
        (b"mode server\ntls-server\nifconfig-pool 10.8.0.2 10.8.0.9\n", "without the gateway's own address"),
        (
            b"mode server\ntls-server\nifconfig 10.8.0.5 255.255.255.0\nifconfig-pool 10.8.0.2 10.8.0.9\n",
            "holds the gateway's own address",
        ),
        (
            b"mode server\ntls-server\nifconfig 10.8.0.1 255.255.255.0\nifconfig-pool 10.9.0.2 10.9.0.9\n",
            "is not in 10.8.0.0/24",
        ),
        (
            b"mode server\ntls-server\nifconfig 10.8.0.1 255.255.255.0\nifconfig-pool 10.8.0.2 10.8.0.255\n",
            "first or last address",
        ),
        (b"\xff\xfes\0e\0", "UTF-16"),
        (b"\x7fELF\x02\x01\x01\0\0", "NUL"),
    ];
    for (text, expected) in cases {
        let (refused, said) = findings(text);
        assert!(refused && said.contains(expected), "wanted {expected:?} in\n{said}");
    }
    let (refused, said) = findings(&b"# x\n".repeat(3_000_000));
    assert!(refused && said.contains("the limit is"), "{said}");
}

#[test]
fn all_problems_come_at_once() {
    let (_, report) = load("prot udp\nport 0\nup x\nverify-client-cert none\n");
    assert_eq!(report.errors().len(), 3 + 4, "{}", report.table());
}

#[test]
fn nothing_is_left_out_in_silence() {
    let (_, report) = load(&format!(
        "{BASE}dh dh.pem\nfast-io\nstatus s.log\nignore-unknown-option foo\nfoo 1\n\
        setenv opt bar 2\nverb 3\nverb 4\nfloat\npersist-tun\nca [inline]\n<ca>\nx\n</ca>\n"
    ));
    assert!(!report.refused(), "{}", report.table());
    let ignored: Vec<&str> = report
        .directives
        .iter()
        .filter(|row| row.verdict == Verdict::Ignored)
        .inspect(|row| assert!(row.note.as_ref().is_some_and(|note| note.len() > 10), "{row:?}"))
        .map(|row| row.directive.as_str())
        .collect();
    assert_eq!(
        ignored,
        ["ca", "dh", "fast-io", "status", "foo", "bar", "verb", "float", "persist-tun", "ca"]
    );
}

#[test]
fn files_include_files_but_not_without_end() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path();
    fs::create_dir(path.join("sub")).unwrap();
    fs::write(path.join("sub/more.conf"), "port 7\nkey in-sub.key\n").unwrap();
    let text = format!("{BASE}cd sub\nconfig more.conf\n");
    let (config, report) = load_text("t.conf", text, path).unwrap();
    assert!(!report.refused(), "{}", report.table());
    assert_eq!(config.listeners[0].address.port(), 7);
    assert_eq!(config.tls.key.unwrap().path().unwrap(), path.join("sub/in-sub.key"));
    fs::write(path.join("loop.conf"), "config loop.conf\n").unwrap();
    let (_, report) = load_text("t.conf", "config loop.conf\n", path).unwrap();
    assert!(report.table().contains("does a file include itself?"), "{}", report.table());
    fs::write(path.join("bomb.conf"), "config bomb.conf\n".repeat(10)).unwrap();
    let (_, report) = load_text("t.conf", "config bomb.conf\n", path).unwrap();
    assert!(report.refused());
}

/// Configurations in the manner of common installers and guides: each must be taken as it is.
const SAMPLES: &[(&str, &str)] = &[
    (
        "road warrior by a script",
        "local 192.0.2.10\nport 1194\nproto udp\ndev tun\nca ca.crt\ncert server.crt\nkey server.key\ndh dh.pem\n\
         auth SHA512\ntls-crypt tc.key\ntopology subnet\nserver 10.8.0.0 255.255.255.0\n\
         push \"redirect-gateway def1 bypass-dhcp\"\nifconfig-pool-persist ipp.txt\n\
         push \"dhcp-option DNS 9.9.9.9\"\npush \"block-outside-dns\"\nkeepalive 10 120\nuser nobody\n\
         group nogroup\npersist-key\npersist-tun\nverb 3\ncrl-verify crl.pem\nexplicit-exit-notify\n",
    ),
    (
        "hardened script with IPv6",
        "port 1194\nproto udp6\ndev tun\nuser nobody\ngroup nogroup\npersist-key\npersist-tun\nkeepalive 10 120\n\
         topology subnet\nserver 10.8.0.0 255.255.255.0\nifconfig-pool-persist ipp.txt\n\
         push \"dhcp-option DNS 94.140.14.14\"\npush \"redirect-gateway def1 bypass-dhcp\"\n\
         server-ipv6 fd42:42:42:42::/112\ntun-ipv6\npush tun-ipv6\npush \"route-ipv6 2000::/3\"\n\
         push \"redirect-gateway ipv6\"\ndh none\ntls-groups prime256v1\ntls-crypt-v2 tls-crypt-v2.key\n\
         crl-verify crl.pem\nca ca.crt\ncert s.crt\nkey s.key\nauth SHA256\ncipher AES-128-GCM\n\
         ignore-unknown-option data-ciphers\ndata-ciphers AES-128-GCM\nncp-ciphers AES-128-GCM\ntls-server\n\
         tls-version-min 1.2\nremote-cert-tls client\n\
         tls-cipher TLS-ECDHE-ECDSA-WITH-AES-128-GCM-SHA256\nclient-config-dir ccd\nstatus status.log\nverb 3\n",
    ),
    (
        "container",
        "server 192.168.255.0 255.255.255.0\nverb 3\nkey /etc/openvpn/pki/private/vpn.key\n\
         ca /etc/openvpn/pki/ca.crt\ncert /etc/openvpn/pki/issued/vpn.crt\ndh /etc/openvpn/pki/dh.pem\n\
         tls-auth /etc/openvpn/pki/ta.key\nkey-direction 0\nkeepalive 10 60\npersist-key\npersist-tun\n\n\
         proto udp\nport 1194\ndev tun0\nstatus /tmp/openvpn-status.log\n\nuser nobody\ngroup nogroup\n\
         comp-lzo no\n\n### Routes\nroute 192.168.254.0 255.255.255.0\n\n### Push\n\
         push \"block-outside-dns\"\npush \"dhcp-option DNS 8.8.8.8\"\npush \"comp-lzo no\"\n",
    ),
    (
        "the old sample, with CRLF",
        ";local a.b.c.d\r\nport 1194\r\nproto udp\r\ndev tun\r\nca ca.crt\r\ncert server.crt\r\nkey server.key  # \
         keep\r\ndh dh2048.pem\r\ntopology subnet\r\nserver 10.8.0.0 255.255.255.0\r\n\
         ifconfig-pool-persist ipp.txt\r\n;push \"route 192.168.10.0 255.255.255.0\"\r\nkeepalive 10 120\r\n\
         tls-auth ta.key 0\r\ncipher AES-256-CBC\r\nmax-clients 100\r\npersist-key\r\npersist-tun\r\n\
         status openvpn-status.log\r\nlog-append openvpn.log\r\nverb 3\r\nmute 20\r\nexplicit-exit-notify 1\r\n",
    ),
    (
        "one-time passwords without certificates",
        "proto udp4\ndev tun\nserver 10.9.0.0 255.255.0.0\nca ca\ncert c\nkey k\nverify-client-cert none\n\
         username-as-common-name\nscript-security 3\nauth-user-pass-verify \"/usr/local/bin/otp --strict\" via-env\n\
         client-connect /usr/local/bin/token\nclient-disconnect /usr/local/bin/gone\nlearn-address /bin/la\n\
         setenv LDAP_URI ldaps://ldap\ntmp-dir /dev/shm\nreneg-sec 36000\nhand-window 120\nduplicate-cn\n\
         sndbuf 0\nrcvbuf 0\npush \"sndbuf 393216\"\ntoken-verify cache\nauth-user-pass-optional\n",
    ),
    (
        "fingerprints, the long form",
        "mode server\ntls-server\ndev tun\ntopology subnet\nifconfig 10.7.0.1 255.255.255.0\n\
         ifconfig-pool 10.7.0.10 10.7.0.99 255.255.255.0\npush \"topology subnet\"\n<cert>\nx\n</cert>\n\
         <key>\ny\n</key>\n<peer-fingerprint>\n\
         00:11:22:33:44:55:66:77:88:99:aa:bb:cc:dd:ee:ff:00:11:22:33:44:55:66:77:88:99:aa:bb:cc:dd:ee:ff\n\
         </peer-fingerprint>\nping 10\nping-restart 120\ninactive 3600 1000\nsession-timeout 86400\n",
    ),
];

#[test]
fn samples_are_taken_as_they_are() {
    for (name, text) in SAMPLES {
        let (_, report) = load(text);
        assert!(!report.refused(), "{name}\n{}", report.table());
    }
}

/// A directory with everything the example configuration names.
fn example() -> tempfile::TempDir {
    use std::os::unix::fs::PermissionsExt as _;
    let directory = tempfile::tempdir().unwrap();
    for name in ["ca.crt", "server.crt", "server.key", "tls-crypt-v2-server.key", "auth.sh", "connect.sh"] {
        let path = directory.path().join(name);
        fs::write(&path, "x").unwrap();
        let mode = if name.ends_with(".sh") { 0o755 } else { 0o600 };
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
    }
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/config/server.conf");
    fs::copy(source, directory.path().join("server.conf")).unwrap();
    directory
}

fn check(directory: &Path) -> Report {
    let words = ["--check", "--config", "server.conf"].map(str::to_owned);
    match cli::parse(words, directory).unwrap() {
        Invocation::Check(report, Output::Table) => report,
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_example_is_accepted_fully() {
    let directory = example();
    let report = check(directory.path());
    assert!(!report.refused() && report.problems.is_empty(), "{}", report.table());
    let left_out: Vec<_> = report.directives.iter().filter(|row| row.verdict == Verdict::Ignored).collect();
    let names: Vec<_> = left_out.iter().map(|row| row.directive.as_str()).collect();
    assert_eq!(names, ["persist-tun", "persist-key"]);
}

#[test]
fn the_machine_is_looked_at() {
    use std::os::unix::fs::PermissionsExt as _;
    let directory = example();
    let path = directory.path();
    fs::set_permissions(path.join("server.key"), fs::Permissions::from_mode(0o644)).unwrap();
    let report = check(path);
    assert!(!report.refused(), "{}", report.table());
    assert!(report.table().contains("warning: key: everybody can read"), "{}", report.table());
    fs::set_permissions(path.join("auth.sh"), fs::Permissions::from_mode(0o644)).unwrap();
    fs::remove_file(path.join("ca.crt")).unwrap();
    let mut text = fs::read_to_string(path.join("server.conf")).unwrap();
    text.push_str("user no-such-user-here\nclient-config-dir no-ccd\nlog nowhere/x.log\n");
    fs::write(path.join("server.conf"), text).unwrap();
    let table = check(path).table();
    for expected in [
        "ca: cannot read",
        "is not a program",
        "there is no user 'no-such-user-here'",
        "no-ccd' is not a directory",
        "nowhere' does not exist",
    ] {
        assert!(table.contains(expected), "wanted {expected:?} in\n{table}");
    }
}

#[test]
fn files_beside_the_configuration_are_hinted_at() {
    let directory = example();
    let elsewhere = tempfile::tempdir().unwrap();
    let file = directory.path().join("server.conf").display().to_string();
    let words = ["--check".to_owned(), file];
    let Invocation::Check(report, _) = cli::parse(words, elsewhere.path()).unwrap() else { panic!() };
    let hint = format!("use 'cd {}'", directory.path().display());
    assert!(report.refused() && report.table().contains(&hint), "{}", report.table());
}

#[test]
fn the_binary_answers_by_its_exit_code() {
    let run = |directory: &Path, words: &[&str]| {
        let out = std::process::Command::new(env!("CARGO_BIN_EXE_tesserad"))
            .args(words)
            .current_dir(directory)
            .output()
            .unwrap();
        (
            out.status.code().unwrap(),
            String::from_utf8(out.stdout).unwrap(),
            String::from_utf8(out.stderr).unwrap(),
        )
    };
    let directory = example();
    let path = directory.path();
    let (code, out, _) = run(path, &["--check", "server.conf"]);
    assert_eq!(code, 0, "{out}");
    assert!(out.contains("server.conf:6:1") && out.contains("0 refused"), "{out}");
    fs::write(path.join("bad.conf"), "prot udp\nup x\n").unwrap();
    let (code, out, _) = run(path, &["--check", "bad.conf", "-o", "json"]);
    assert_eq!(code, 78);
    let json: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!(json["accepted"], false);
    assert_eq!(json["directives"][1]["place"], "bad.conf:1:1");
    assert_eq!(json["directives"][1]["verdict"], "refused");
    assert_eq!(json["directives"][1]["hint"], "did you mean 'proto'?");
    let (code, _, err) = run(path, &["bad.conf"]);
    assert_eq!(code, 78);
    assert!(err.contains("bad.conf:2:1: error: up"), "{err}");
    assert_eq!(run(path, &[]).0, 64);
    assert_eq!(run(path, &["--version"]).1, format!("tesserad {}\n", env!("CARGO_PKG_VERSION")));
}
