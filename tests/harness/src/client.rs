//! Stock OpenVPN clients.

use std::time::Duration;

use nix::sys::signal::Signal;

use crate::management::Management;
use crate::pki::Identity;
use crate::process::Process;
use crate::server::peer;
use crate::topology::{Net, PORT};

/// How long a healthy connect may take, also on a busy machine: two retransmissions and two push requests.
const UP_LIMIT: Duration = Duration::from_secs(30);

/// Which stock client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    /// 2.5, the last that derives data keys by the PRF.
    V2_5,
    /// 2.6.
    V2_6,
    /// 2.7.
    V2_7,
}

impl Version {
    fn program(self) -> &'static str {
        match self {
            Self::V2_5 => "openvpn-2.5",
            Self::V2_6 => "openvpn-2.6",
            Self::V2_7 => "openvpn-2.7",
        }
    }
}

/// A client config under construction.
#[derive(Debug, Clone)]
pub struct ClientConfig {
    version: Version,
    managed: bool,
    lines: Vec<String>,
}

impl ClientConfig {
    /// For client `index` of the net: UDP over IPv4 to the gateway, `ca` checked, no certificate and no login yet.
    #[must_use]
    pub fn new(net: &Net, index: usize, version: Version) -> Self {
        let ca = net.folder().join("ca.crt");
        let text = format!(
            "client\ndev tun0\nnobind\npersist-key\npersist-tun\nremote 10.91.{index}.1 {PORT} udp4\n\
             ca {}\nremote-cert-tls server\nconnect-retry 1 4\nverb 4",
            ca.display()
        );
        Self { version, managed: false, lines: text.lines().map(|line| line.trim().to_owned()).collect() }
    }

    /// Adds a directive.
    #[must_use]
    pub fn line(mut self, line: impl Into<String>) -> Self {
        self.lines.push(line.into());
        self
    }

    /// Replaces a directive.
    #[must_use]
    pub fn with(mut self, name: &str, value: &str) -> Self {
        self.lines.retain(|line| line.split_whitespace().next() != Some(name));
        self.line(format!("{name} {value}"))
    }

    /// Uses a certificate and its key.
    #[must_use]
    pub fn identity(self, net: &Net, identity: &Identity) -> Self {
        let base = format!("{}-{}", identity.name, identity.serial);
        let certificate = net.write(&format!("{base}.crt"), &identity.certificate);
        let key = net.write(&format!("{base}.key"), &identity.key);
        self.with("cert", &certificate).with("key", &key)
    }

    /// Logs in with user and password.
    #[must_use]
    pub fn login(self, net: &Net, user: &str, password: &str) -> Self {
        let file = net.write(&format!("{user}.login"), &format!("{user}\n{password}\n"));
        self.with("auth-user-pass", &file)
    }

    /// Asks for its login over the management interface, each time that one is needed: the test is the user.
    /// [`Client::management`] is the other end.
    #[must_use]
    pub fn managed(mut self) -> Self {
        self.managed = true;
        self.line("auth-user-pass").line("auth-retry interact")
    }

    /// Announces these ways of a second factor, as a graphical client does (`crtext`, `webauth`, `openurl`).
    #[must_use]
    pub fn announces(self, methods: &str) -> Self {
        self.line(format!("setenv IV_SSO {methods}"))
    }

    /// Reaches the gateway where it is, but over `protocol`: `udp4`, or `tcp4-client`.
    #[must_use]
    pub fn over(mut self, protocol: &str) -> Self {
        for line in self.lines.iter_mut().filter(|line| line.starts_with("remote ")) {
            let (address, _) = line.rsplit_once(' ').expect("remote ADDRESS PORT PROTOCOL");
            *line = format!("{address} {protocol}");
        }
        self
    }

    /// Connects to another address and port, for example a relay's; `protocol` is `udp4`, `udp6`, `tcp4-client` or
    /// `tcp6-client`.
    #[must_use]
    pub fn remote(self, address: &str, port: u16, protocol: &str) -> Self {
        self.with("remote", &format!("{address} {port} {protocol}"))
    }

    /// Starts it in the namespace of client `index`, without waiting for anything.
    #[must_use]
    pub fn start(&self, net: &Net, index: usize) -> Client {
        let serial = std::fs::read_dir(net.folder()).expect("the test's folder").count();
        let file = net.write(&format!("client-{index}-{serial}.conf"), &(self.lines.join("\n") + "\n"));
        let log = net.folder().join(format!("client-{index}-{serial}.log"));
        let ns = net.clients.get(index).expect("that many clients");
        let program = peer(self.version.program());
        let program = program.to_str().expect("a UTF-8 path");
        let title = format!("client {index} ({})", self.version.program());
        let socket = net.folder().join(format!("client-{index}-{serial}.sock"));
        let mut argv = vec![program, "--config", &file];
        if self.managed {
            let path = socket.to_str().expect("a UTF-8 path");
            argv.extend(["--management", path, "unix", "--management-query-passwords"]);
        }
        let process = Process::start(&title, ns, &argv, &log);
        Client { process, management: self.managed.then(|| Management::connect(&title, &socket)) }
    }

    /// Starts it and waits until the tunnel is up.
    #[must_use]
    pub fn connect(&self, net: &Net, index: usize) -> Client {
        let mut client = self.start(net, index);
        client.wait_up();
        client
    }
}

/// A running client.
#[derive(Debug)]
pub struct Client {
    /// Its process and log.
    pub process: Process,
    management: Option<Management>,
}

impl Client {
    /// The management interface of a [`ClientConfig::managed`] client.
    #[must_use]
    pub fn management(&self) -> &Management {
        self.management.as_ref().expect("a client that is managed")
    }

    /// Waits until the tunnel is up for the first time.
    pub fn wait_up(&mut self) {
        self.process.wait_for(&["Initialization Sequence Completed"], UP_LIMIT);
    }

    /// Waits until the tunnel is up (again) after `mark`.
    pub fn wait_up_from(&mut self, mark: usize) {
        self.process.wait_from(mark, &["Initialization Sequence Completed"], UP_LIMIT);
    }

    /// SIGUSR1: reconnect with what the client remembers.
    pub fn reconnect(&mut self) {
        let mark = self.process.mark();
        self.process.signal(Signal::SIGUSR1);
        self.wait_up_from(mark);
    }

    /// Waits until `count` TLS negotiations were completed in all (the first connect is one).
    pub fn wait_negotiations(&mut self, count: usize, limit: Duration) {
        let what = format!("{count} completed TLS negotiations");
        crate::clock::eventually(&what, limit, || {
            (self.process.count("Control Channel: TLSv1") >= count).then_some(())
        });
    }

    /// The value of a pushed option in the last `PUSH_REPLY`, for example `peer-id` or `auth-token`.
    #[must_use]
    pub fn pushed(&self, option: &str) -> Option<String> {
        let log = self.process.log();
        let line = log.lines().rev().find(|line| line.contains("'PUSH_REPLY,"))?;
        let options = line.split_once("'PUSH_REPLY,")?.1.trim_end().trim_end_matches('\'');
        options.split(',').find_map(|part| part.strip_prefix(option)?.strip_prefix(' ').map(str::to_owned))
    }

    /// The IPv4 address that was pushed.
    #[must_use]
    pub fn address(&self) -> String {
        let ifconfig = self.pushed("ifconfig").expect("a pushed ifconfig");
        ifconfig.split_whitespace().next().expect("an address").to_owned()
    }

    /// The IPv6 address that was pushed.
    #[must_use]
    pub fn address_v6(&self) -> String {
        let ifconfig = self.pushed("ifconfig-ipv6").expect("a pushed ifconfig-ipv6");
        ifconfig.split(['/', ' ']).next().expect("an address").to_owned()
    }
}
