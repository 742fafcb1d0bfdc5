//! The gateway under test, or stock OpenVPN in its place.

use std::path::PathBuf;
use std::time::Duration;

use crate::command::run;
use crate::pki::{Identity, Pki};
use crate::process::Process;
use crate::topology::{Net, PORT};

/// How long a server may take to be ready: the kernel checks BPF programs, one test at a time.
const START_LIMIT: Duration = Duration::from_secs(60);

/// Which server is tested.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flavour {
    /// Ours.
    Tesserad,
    /// Stock OpenVPN 2.6: proves that a case asks nothing but what stock does.
    Stock,
}

impl Flavour {
    /// As `TESSERA_E2E_SERVER` says: `tesserad` (also when unset) or `openvpn`.
    #[must_use]
    pub fn chosen() -> Self {
        match std::env::var("TESSERA_E2E_SERVER").as_deref() {
            Err(_) | Ok("tesserad") => Self::Tesserad,
            Ok("openvpn") => Self::Stock,
            Ok(other) => panic!("TESSERA_E2E_SERVER is {other:?}: it may be tesserad or openvpn"),
        }
    }
}

/// A server config under construction: the very text that either server reads.
#[derive(Debug, Clone)]
pub struct ServerConfig {
    lines: Vec<String>,
}

impl ServerConfig {
    /// `server 10.8.0.0/24` and `fd08::/64` on UDP, with a certificate of `pki`; the certificate alone lets a client in.
    #[must_use]
    pub fn new(net: &Net, pki: &Pki) -> Self {
        let Identity { certificate, key, .. } = pki.server("gateway.test");
        let ca = net.write("ca.crt", &pki.ca);
        let certificate = net.write("server.crt", &certificate);
        let key = net.write("server.key", &key);
        let text = format!(
            "dev tun0\nproto udp\nport {PORT}\ntopology subnet\n\
             server 10.8.0.0 255.255.255.0\nserver-ipv6 fd08::/64\n\
             ca {ca}\ncert {certificate}\nkey {key}\ndh none\n\
             keepalive 10 60\nverb 4\nscript-security 3\n\
             push \"route 192.168.77.0 255.255.255.0\"\npush \"route-ipv6 fd77::/64\""
        );
        Self { lines: text.lines().map(|line| line.trim().to_owned()).collect() }
    }

    /// Adds a directive.
    #[must_use]
    pub fn line(mut self, line: impl Into<String>) -> Self {
        self.lines.push(line.into());
        self
    }

    /// Adds a directive of Tessera's own, which OpenVPN is told to ignore.
    #[must_use]
    pub fn own(self, name: &str, value: &str) -> Self {
        self.line(format!("ignore-unknown-option {name}")).line(format!("{name} {value}"))
    }

    /// Removes every directive of this name.
    #[must_use]
    pub fn without(mut self, name: &str) -> Self {
        self.lines.retain(|line| line.split_whitespace().next() != Some(name));
        self
    }

    /// Replaces a directive.
    #[must_use]
    pub fn with(self, name: &str, value: &str) -> Self {
        self.without(name).line(format!("{name} {value}"))
    }
}

/// A running server.
#[derive(Debug)]
pub struct Server {
    /// Its process and log.
    pub process: Process,
}

impl Server {
    /// Starts the chosen server and waits until it is ready.
    #[must_use]
    pub fn start(net: &Net, config: &ServerConfig) -> Self {
        Self::start_as(net, config, Flavour::chosen())
    }

    /// As [`Server::start`], whichever server was chosen. A second server at the same time needs a config of its own
    /// (`dev`, `port`, `server`).
    #[must_use]
    pub fn start_as(net: &Net, config: &ServerConfig, flavour: Flavour) -> Self {
        let mut server = Self::launch(net, config, flavour, &[]);
        server.process.wait_for(&["Initialization Sequence Completed"], START_LIMIT);
        server
    }

    /// Starts our gateway by a command in front of it (`setpriv …`), and does not wait.
    #[must_use]
    pub fn launch_by(net: &Net, config: &ServerConfig, before: &[&str]) -> Self {
        Self::launch(net, config, Flavour::Tesserad, before)
    }

    fn launch(net: &Net, config: &ServerConfig, flavour: Flavour, before: &[&str]) -> Self {
        let serial = std::fs::read_dir(net.folder()).expect("the test's folder").count();
        let file = net.write(&format!("server-{serial}.conf"), &(config.lines.join("\n") + "\n"));
        let (title, program) = match flavour {
            Flavour::Tesserad => ("gateway", tesserad()),
            Flavour::Stock => ("stock gateway", peer("openvpn-2.6")),
        };
        let program = program.to_str().expect("a UTF-8 path").to_owned();
        let log = net.folder().join(format!("server-{serial}.log"));
        let rung = std::env::var("TESSERA_E2E_DATAPATH").ok().filter(|_| flavour == Flavour::Tesserad);
        let mut argv = [before, &[program.as_str(), "--config", &file]].concat();
        // A case that chooses its rung itself keeps it: what comes last counts.
        if let Some(rung) = &rung
            && !config.lines.iter().any(|line| line.starts_with("datapath "))
        {
            argv.extend(["--datapath", rung]);
        }
        Self { process: Process::start(title, &net.gateway, &argv, &log) }
    }
}

/// The gateway's binary: beside the test's own folder of binaries, or where `TESSERA_E2E_TESSERAD` says.
fn tesserad() -> PathBuf {
    built("tesserad", "TESSERA_E2E_TESSERAD")
}

/// A binary of ours: beside the test's own folder of binaries, or where the environment says.
pub(crate) fn built(name: &str, variable: &str) -> PathBuf {
    let path = std::env::var_os(variable).map_or_else(
        || {
            let own = std::env::current_exe().expect("the path of this program");
            own.ancestors().nth(2).expect("target/<profile>/deps/<test>").join(name)
        },
        PathBuf::from,
    );
    assert!(path.exists(), "no {}: `cargo build -p {name}` first", path.display());
    path
}

/// A program that `tests/peers` prepared.
pub(crate) fn peer(name: &str) -> PathBuf {
    let folder = std::env::var_os("TESSERA_PEERS").map_or_else(
        || {
            let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from).or_else(|| {
                let home = std::env::var_os("HOME").map(PathBuf::from);
                home.map(|home| home.join(".cache"))
            });
            cache.expect("HOME or XDG_CACHE_HOME").join("tessera-peers")
        },
        PathBuf::from,
    );
    let path = folder.join(name);
    assert!(path.exists(), "no {}: run tests/peers first", path.display());
    path
}

/// Makes a key with `openvpn --genkey KIND` into the test's folder (`secret`, `tls-crypt-v2-server`, `auth-token`), or with
/// `server_key` a `tls-crypt-v2-client` key wrapped by it. Gives its path.
pub fn genkey(net: &Net, kind: &str, name: &str, server_key: Option<&str>) -> String {
    let program = peer("openvpn-2.6");
    let program = program.to_str().expect("a UTF-8 path");
    let path = net.folder().join(name);
    let path = path.to_str().expect("a UTF-8 path").to_owned();
    let mut argv = vec![program];
    if let Some(key) = server_key {
        argv.extend(["--tls-crypt-v2", key]);
    }
    argv.extend(["--genkey", kind, &path]);
    run(&argv);
    path
}

/// Compiles a plugin from C into the test's folder and gives its path.
pub fn compile(net: &Net, name: &str, source: &str) -> String {
    let file = net.write(&format!("{name}.c"), source);
    let path = net.folder().join(name);
    let path = path.to_str().expect("a UTF-8 path").to_owned();
    run(&["cc", "-shared", "-fPIC", "-O1", "-Wall", "-Werror", "-o", &path, &file]);
    path
}
