//! Where a datagram came from and which of our addresses it was sent to.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

/// Our side of a datagram: the address the peer spoke to, so that the answer leaves from the same one.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct LocalAddr {
    /// The local address; `None` lets the kernel choose by its routing table.
    pub ip: Option<IpAddr>,
    /// Index of the interface the datagram came in on; 0 if unknown. Only used on sends from a link-local address:
    /// anything else follows the routing table, so that asymmetric routing keeps working.
    pub ifindex: u32,
}

/// Both ends of a datagram. Addresses of dual-stack sockets are normalised: IPv4 is always `V4`, never v4-mapped.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Path {
    /// The peer's address and port.
    pub remote: SocketAddr,
    /// Our address.
    pub local: LocalAddr,
}

impl Path {
    /// A path to `remote` from whatever local address the kernel picks.
    #[must_use]
    pub fn to(remote: SocketAddr) -> Self {
        Self { remote: normalise(remote), local: LocalAddr::default() }
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.local.ip {
            Some(ip) => write!(f, "{} (via {ip})", self.remote),
            None => write!(f, "{}", self.remote),
        }
    }
}

/// Turns a v4-mapped IPv6 socket address into the IPv4 address it stands for; leaves every other address alone.
#[must_use]
pub fn normalise(addr: SocketAddr) -> SocketAddr {
    SocketAddr::new(addr.ip().to_canonical(), addr.port()).with_scope_of(addr)
}

/// Keeps the scope of link-local IPv6 addresses.
trait WithScope {
    fn with_scope_of(self, from: SocketAddr) -> SocketAddr;
}

impl WithScope for SocketAddr {
    fn with_scope_of(mut self, from: SocketAddr) -> SocketAddr {
        if let (SocketAddr::V6(to), SocketAddr::V6(from)) = (&mut self, from) {
            to.set_scope_id(from.scope_id());
        }
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn v4_mapped_becomes_v4_and_scopes_survive() {
        let mapped: SocketAddr = "[::ffff:192.0.2.7]:1194".parse().unwrap();
        assert_eq!(normalise(mapped), "192.0.2.7:1194".parse().unwrap());
        let scoped: SocketAddr = "[fe80::1%3]:9".parse().unwrap();
        assert_eq!(normalise(scoped), scoped);
        assert_eq!(Path::to(mapped).remote, "192.0.2.7:1194".parse().unwrap());
    }
}
