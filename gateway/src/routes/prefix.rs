//! A network: an address and how many of its leading bits count.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Why an address and a length are no prefix.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadPrefix {
    /// Longer than the address.
    #[error("/{len} is longer than the address {addr}")]
    TooLong {
        /// The address.
        addr: IpAddr,
        /// The length.
        len: u8,
    },
    /// The address has bits beyond the length.
    #[error("{addr} has host bits beyond /{len}")]
    HostBits {
        /// The address.
        addr: IpAddr,
        /// The length.
        len: u8,
    },
}

/// A network of either family without host bits.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Prefix {
    addr: IpAddr,
    len: u8,
}

impl Prefix {
    /// The network `addr/len`.
    ///
    /// # Errors
    /// [`BadPrefix`] when `len` is above 32 (IPv4) or 128 (IPv6), or `addr` has bits beyond it.
    pub fn new(addr: IpAddr, len: u8) -> Result<Self, BadPrefix> {
        let prefix = Self { addr, len };
        if len > prefix.width() {
            return Err(BadPrefix::TooLong { addr, len });
        }
        if prefix.masked() != addr {
            return Err(BadPrefix::HostBits { addr, len });
        }
        Ok(prefix)
    }

    /// One address.
    #[must_use]
    pub const fn host(addr: IpAddr) -> Self {
        Self { addr, len: if addr.is_ipv4() { 32 } else { 128 } }
    }

    /// The address, without host bits.
    #[must_use]
    pub const fn addr(self) -> IpAddr {
        self.addr
    }

    /// How many leading bits count.
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "the length of a prefix, not of a collection")]
    pub const fn len(self) -> u8 {
        self.len
    }

    const fn width(self) -> u8 {
        if self.addr.is_ipv4() { 32 } else { 128 }
    }

    fn masked(self) -> IpAddr {
        match self.addr {
            IpAddr::V4(v4) => Ipv4Addr::from_bits(v4.to_bits() & mask4(self.len)).into(),
            IpAddr::V6(v6) => Ipv6Addr::from_bits(v6.to_bits() & mask6(self.len)).into(),
        }
    }
}

/// The `len` (0..=32) high bits.
#[inline]
pub(super) const fn mask4(len: u8) -> u32 {
    match len {
        0 => 0,
        len => u32::MAX << (32 - len as u32),
    }
}

/// The `len` (0..=128) high bits.
#[inline]
pub(super) const fn mask6(len: u8) -> u128 {
    match len {
        0 => 0,
        len => u128::MAX << (128 - len as u32),
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.addr, self.len)
    }
}

impl fmt::Debug for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn host_bits_and_lengths_are_checked() {
        let v4 = |text: &str| IpAddr::V4(text.parse().unwrap());
        let v6 = |text: &str| IpAddr::V6(text.parse().unwrap());
        for (addr, len) in [
            (v4("0.0.0.0"), 0),
            (v4("10.0.0.0"), 8),
            (v4("10.1.2.3"), 32),
            (v6("::"), 0),
            (v6("fd00::"), 64),
            (v6("fd00::1"), 128),
        ] {
            assert_eq!(Prefix::new(addr, len).unwrap().to_string(), format!("{addr}/{len}"));
        }
        for (addr, len) in [(v4("10.1.0.0"), 8), (v4("0.0.0.1"), 0), (v6("fd00::1"), 127), (v6("8000::"), 0)]
        {
            assert_eq!(Prefix::new(addr, len), Err(BadPrefix::HostBits { addr, len }));
        }
        for (addr, len) in [(v4("10.0.0.0"), 33), (v4("10.0.0.0"), 255), (v6("::"), 129)] {
            assert_eq!(Prefix::new(addr, len), Err(BadPrefix::TooLong { addr, len }));
        }
        assert_eq!(Prefix::host(v4("10.1.2.3")), Prefix::new(v4("10.1.2.3"), 32).unwrap());
    }
}
