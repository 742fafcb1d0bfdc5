//! The device, the addresses, the pools and the routes.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;
use std::time::Duration;

use serde::Serialize;

use super::optional_seconds;

/// How clients share the virtual network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Topology {
    /// Every client has one address and the netmask of the whole network.
    #[default]
    Subnet,
}

/// What stands behind `dev`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum DeviceKind {
    /// A TUN device.
    #[default]
    Tun,
    /// No device (`dev null`): packets end in the gateway, or go to other clients.
    Null,
}

/// The TUN device.
#[derive(Debug, Clone, Serialize)]
pub struct Device {
    /// Name; `None`: the kernel picks `tunN`.
    pub name: Option<String>,
    /// Kind.
    pub kind: DeviceKind,
    /// Device node that is opened.
    pub node: PathBuf,
    /// MTU of the device in bytes, 100…65535.
    pub mtu: u16,
    /// Length of the transmit queue in packets; `None`: the kernel's.
    pub txqueuelen: Option<u32>,
    /// Leave addresses alone (`ifconfig-noexec`).
    pub ifconfig_noexec: bool,
    /// Leave routes alone (`route-noexec`).
    pub route_noexec: bool,
}

impl Default for Device {
    fn default() -> Self {
        Self {
            name: None,
            kind: DeviceKind::Tun,
            node: PathBuf::from("/dev/net/tun"),
            mtu: 1500,
            txqueuelen: None,
            ifconfig_noexec: false,
            route_noexec: false,
        }
    }
}

/// The gateway's own IPv4 address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Ifconfig4 {
    /// Address of the device.
    pub local: Ipv4Addr,
    /// Length of the netmask in bits, 0…32.
    pub prefix: u8,
}

impl Ifconfig4 {
    /// The netmask.
    pub const fn netmask(self) -> Ipv4Addr {
        mask4(self.prefix)
    }

    /// The first address of the network.
    pub const fn network(self) -> Ipv4Addr {
        Ipv4Addr::from_bits(self.local.to_bits() & self.netmask().to_bits())
    }

    /// The last address of the network.
    pub const fn broadcast(self) -> Ipv4Addr {
        Ipv4Addr::from_bits(self.local.to_bits() | !self.netmask().to_bits())
    }

    /// Whether the address is in the network.
    pub const fn contains(self, address: Ipv4Addr) -> bool {
        address.to_bits() & self.netmask().to_bits() == self.network().to_bits()
    }
}

/// The netmask with `prefix` ones (at most 32).
pub(crate) const fn mask4(prefix: u8) -> Ipv4Addr {
    match u32::MAX.checked_shl(32 - prefix as u32) {
        Some(bits) => Ipv4Addr::from_bits(bits),
        None => Ipv4Addr::UNSPECIFIED,
    }
}

/// The gateway's own IPv6 address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Ifconfig6 {
    /// Address of the device.
    pub local: Ipv6Addr,
    /// Length of the prefix in bits, 0…128.
    pub prefix: u8,
    /// The second address of the `ifconfig-ipv6` directive, which clients get as their gateway's.
    pub remote: Ipv6Addr,
}

impl Ifconfig6 {
    /// The first address of the network.
    pub const fn network(self) -> Ipv6Addr {
        match u128::MAX.checked_shl(128 - self.prefix as u32) {
            Some(mask) => Ipv6Addr::from_bits(self.local.to_bits() & mask),
            None => Ipv6Addr::UNSPECIFIED,
        }
    }

    /// Whether the address is in the network.
    pub const fn contains(self, address: Ipv6Addr) -> bool {
        Self { local: address, ..self }.network().to_bits() == self.network().to_bits()
    }
}

/// IPv4 addresses for clients: `first..=last`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Pool4 {
    /// First address.
    pub first: Ipv4Addr,
    /// Last address (inclusive).
    pub last: Ipv4Addr,
    /// Netmask that clients are given.
    pub netmask: Ipv4Addr,
}

impl Pool4 {
    /// Number of addresses, at least 1.
    pub const fn len(self) -> u32 {
        self.last.to_bits() - self.first.to_bits() + 1
    }

    /// Never: a pool has at least one address.
    pub const fn is_empty(self) -> bool {
        false
    }
}

/// IPv6 addresses for clients: as many from `first` upward as the prefix holds (at most 2^24, the peer-id space).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Pool6 {
    /// First address.
    pub first: Ipv6Addr,
    /// Length of the prefix that clients are given, in bits.
    pub prefix: u8,
}

impl Pool6 {
    /// Most addresses that any pool yields: there are no more peer-ids.
    pub const MAX_LEN: u32 = 1 << 24;

    /// Number of addresses from `first` to the end of the prefix, at most [`Self::MAX_LEN`].
    pub fn len(self) -> u32 {
        let host = u128::MAX.checked_shr(u32::from(self.prefix)).unwrap_or(0);
        let left = host - (self.first.to_bits() & host);
        u32::try_from(left).map_or(Self::MAX_LEN, |left| left.saturating_add(1).min(Self::MAX_LEN))
    }

    /// Never: a pool has at least one address.
    pub const fn is_empty(self) -> bool {
        false
    }
}

/// The file that remembers which name had which address.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PoolPersist {
    /// The file: lines `cn,ipv4[,ipv6]`.
    pub file: PathBuf,
    /// How often it is rewritten, in seconds; `None` (0 in the file): it is only read.
    #[serde(serialize_with = "optional_seconds")]
    pub interval: Option<Duration>,
}

/// A kernel route into the tunnel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Route4 {
    /// First address of the target network.
    pub network: Ipv4Addr,
    /// Length of its netmask in bits.
    pub prefix: u8,
    /// Gateway; `None`: the device.
    pub gateway: Option<Ipv4Addr>,
    /// Metric; `None`: the kernel's.
    pub metric: Option<u32>,
}

/// A kernel route into the tunnel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Route6 {
    /// First address of the target network.
    pub network: Ipv6Addr,
    /// Length of its prefix in bits.
    pub prefix: u8,
    /// Gateway; `None`: the device.
    pub gateway: Option<Ipv6Addr>,
    /// Metric; `None`: the kernel's.
    pub metric: Option<u32>,
}

/// Addresses, pools and routes.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Network {
    /// Topology.
    pub topology: Topology,
    /// The gateway's IPv4 address.
    pub ifconfig: Option<Ifconfig4>,
    /// The gateway's IPv6 address.
    pub ifconfig6: Option<Ifconfig6>,
    /// IPv4 pool; `None`: clients without `ifconfig-push` get no IPv4 address.
    pub pool: Option<Pool4>,
    /// IPv6 pool; `None`: clients without `ifconfig-ipv6-push` get no IPv6 address.
    pub pool6: Option<Pool6>,
    /// Address memory.
    pub persist: Option<PoolPersist>,
    /// Kernel routes to the device.
    pub routes: Vec<Route4>,
    /// Kernel routes to the device.
    pub routes6: Vec<Route6>,
    /// Packets between clients are switched inside the gateway.
    pub client_to_client: bool,
}
