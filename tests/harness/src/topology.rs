//! Clients, gateway and a LAN host, joined by veth pairs.

use std::path::Path;

use tempfile::TempDir;

use crate::netns::Namespace;

/// The port of the gateway in every test.
pub const PORT: u16 = 1194;

/// One test's network. Client *i* reaches the gateway at `10.91.i.1` and `fd91:0:0:i::1`, itself being `.2`; the LAN
/// host is `192.168.77.2` and `fd77::2`, with routes for the tunnel's networks (`10.8.0.0/16`, `fd08::/48`) to the
/// gateway, and for `10.66.0.0/16` (networks behind clients).
#[derive(Debug)]
pub struct Net {
    /// The gateway's namespace.
    pub gateway: Namespace,
    /// The LAN host's namespace.
    pub lan: Namespace,
    /// The clients' namespaces.
    pub clients: Vec<Namespace>,
    folder: TempDir,
}

impl Net {
    /// Makes the network with `clients` clients (at most 200).
    #[must_use]
    pub fn new(clients: usize) -> Self {
        assert!(clients <= 200, "addresses are made from one byte");
        let folder = tempfile::Builder::new().prefix("tessera-e2e-").tempdir().expect("a temporary folder");
        let gateway = Namespace::new("gw");
        let lan = Namespace::new("lan");
        join(&gateway, "lan0", &lan, "eth0");
        address(&gateway, "lan0", "192.168.77.1/24", "fd77::1/64");
        address(&lan, "eth0", "192.168.77.2/24", "fd77::2/64");
        lan.ip("route add 10.8.0.0/16 via 192.168.77.1");
        lan.ip("route add 10.66.0.0/16 via 192.168.77.1");
        lan.ip("-6 route add fd08::/48 via fd77::1");
        for key in ["ipv4.ip_forward", "ipv6.conf.all.forwarding"] {
            gateway.run(&["sysctl", "-q", "-w", &format!("net.{key}=1")]);
        }
        let clients = (0..clients)
            .map(|i| {
                let client = Namespace::new(&format!("c{i}"));
                join(&gateway, &format!("c{i}"), &client, "eth0");
                address(
                    &gateway,
                    &format!("c{i}"),
                    &format!("10.91.{i}.1/24"),
                    &format!("fd91:0:0:{i:x}::1/64"),
                );
                address(&client, "eth0", &format!("10.91.{i}.2/24"), &format!("fd91:0:0:{i:x}::2/64"));
                client
            })
            .collect();
        Self { gateway, lan, clients, folder }
    }

    /// A folder that lives as long as the test.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Writes a file into the test's folder and gives its path.
    pub fn write(&self, name: &str, content: &str) -> String {
        let path = self.folder().join(name);
        std::fs::write(&path, content).unwrap_or_else(|e| panic!("cannot write {}: {e}", path.display()));
        path.to_str().expect("a UTF-8 path").to_owned()
    }
}

/// A veth pair between two namespaces, both ends up.
fn join(a: &Namespace, a_name: &str, b: &Namespace, b_name: &str) {
    a.ip(&format!("link add {a_name} type veth peer name {b_name} netns {}", b.name()));
    a.ip(&format!("link set {a_name} up"));
    b.ip(&format!("link set {b_name} up"));
}

fn address(ns: &Namespace, link: &str, v4: &str, v6: &str) {
    ns.ip(&format!("addr add {v4} dev {link}"));
    // Nobody else is on the link: without duplicate detection the address works at once.
    ns.ip(&format!("addr add {v6} dev {link} nodad"));
}
