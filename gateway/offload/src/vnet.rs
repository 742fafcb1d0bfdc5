//! `struct virtio_net_hdr` as a TUN device speaks it.

/// Length of the header in front of each packet (`TUNSETVNETHDRSZ` can make it longer; ten is the default).
pub const VNET_LEN: usize = 10;

/// `flags`: the checksum at `csum_start + csum_offset` holds the pseudo-header's sum; the rest is to be added.
pub(crate) const NEEDS_CSUM: u8 = 1;

/// `gso_type`: one packet, as it is.
pub(crate) const GSO_NONE: u8 = 0;
/// `gso_type`: TCP over IPv4.
pub(crate) const GSO_TCPV4: u8 = 1;
/// `gso_type`: TCP over IPv6.
pub(crate) const GSO_TCPV6: u8 = 4;
/// `gso_type`: UDP datagrams of one size, over either IP version.
pub(crate) const GSO_UDP_L4: u8 = 5;
/// Bit of `gso_type`: the first segment carries CWR. It says nothing that the TCP flags do not.
pub(crate) const GSO_ECN: u8 = 0x80;

/// The header in front of a packet. Its numbers are in the machine's byte order, which is what a TUN device uses unless
/// `TUNSETVNETLE` or `TUNSETVNETBE` told it otherwise.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct VnetHeader {
    /// `VIRTIO_NET_HDR_F_*`.
    pub flags: u8,
    /// `VIRTIO_NET_HDR_GSO_*`.
    pub gso_type: u8,
    /// Length of the IP and transport headers: a hint, on which nothing depends.
    pub hdr_len: u16,
    /// Payload bytes of each segment but the last.
    pub gso_size: u16,
    /// Where the bytes to be summed start: the transport header.
    pub csum_start: u16,
    /// Where in the transport header the checksum stands.
    pub csum_offset: u16,
}

impl VnetHeader {
    /// One packet, complete as it is.
    pub const PLAIN: Self =
        Self { flags: 0, gso_type: GSO_NONE, hdr_len: 0, gso_size: 0, csum_start: 0, csum_offset: 0 };

    /// Reads the header that `bytes` start with; `None` if they are too few.
    #[inline]
    #[must_use]
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let [flags, gso_type, a, b, c, d, e, f, g, h] = *bytes.first_chunk::<VNET_LEN>()?;
        Some(Self {
            flags,
            gso_type,
            hdr_len: u16::from_ne_bytes([a, b]),
            gso_size: u16::from_ne_bytes([c, d]),
            csum_start: u16::from_ne_bytes([e, f]),
            csum_offset: u16::from_ne_bytes([g, h]),
        })
    }

    /// The header as the device takes it.
    #[inline]
    #[must_use]
    pub fn to_bytes(self) -> [u8; VNET_LEN] {
        let [a, b] = self.hdr_len.to_ne_bytes();
        let [c, d] = self.gso_size.to_ne_bytes();
        let [e, f] = self.csum_start.to_ne_bytes();
        let [g, h] = self.csum_offset.to_ne_bytes();
        [self.flags, self.gso_type, a, b, c, d, e, f, g, h]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn plain_is_all_zero_and_short_input_is_none() {
        assert_eq!(VnetHeader::PLAIN.to_bytes(), [0; VNET_LEN]);
        assert_eq!(VnetHeader::parse(&[0; VNET_LEN]), Some(VnetHeader::PLAIN));
        assert_eq!(VnetHeader::parse(&[0; VNET_LEN - 1]), None);
    }

    proptest! {
        #[test]
        fn parses_what_it_writes(bytes in any::<[u8; VNET_LEN]>()) {
            prop_assert_eq!(VnetHeader::parse(&bytes).unwrap().to_bytes(), bytes);
        }
    }
}
