//! Packets made one field at a time, and segmentation as the words say it: what the tests compare with.

#![expect(dead_code, reason = "each test file uses its part")]

use tessera_offload::VnetHeader;

pub(crate) const TCP: u8 = 6;
pub(crate) const UDP: u8 = 17;
pub(crate) const FIN: u8 = 0x01;
pub(crate) const SYN: u8 = 0x02;
pub(crate) const RST: u8 = 0x04;
pub(crate) const PSH: u8 = 0x08;
pub(crate) const ACK: u8 = 0x10;
pub(crate) const URG: u8 = 0x20;
pub(crate) const ECE: u8 = 0x40;
pub(crate) const CWR: u8 = 0x80;

/// A packet, field by field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Spec {
    pub(crate) v6: bool,
    pub(crate) tcp: bool,
    /// The last byte of the addresses.
    pub(crate) source: u8,
    pub(crate) destination: u8,
    /// The networks of the addresses.
    pub(crate) networks: (u8, u8),
    pub(crate) ports: (u16, u16),
    /// TOS or traffic class.
    pub(crate) tos: u8,
    pub(crate) hops: u8,
    pub(crate) label: u32,
    pub(crate) id: u16,
    pub(crate) df: bool,
    pub(crate) ip_options: Vec<u8>,
    /// IPv6: a destination options header.
    pub(crate) extension: bool,
    pub(crate) sequence: u32,
    pub(crate) acknowledgement: u32,
    pub(crate) flags: u8,
    pub(crate) window: u16,
    pub(crate) urgent: u16,
    pub(crate) tcp_options: Vec<u8>,
    pub(crate) payload: Vec<u8>,
}

impl Spec {
    pub(crate) fn new(v6: bool, tcp: bool, payload: usize) -> Self {
        Self {
            v6,
            tcp,
            source: 2,
            destination: 1,
            networks: (8, 8),
            ports: (40_000, 443),
            tos: 0,
            hops: 64,
            label: 0x12345,
            id: 7,
            df: true,
            ip_options: Vec::new(),
            extension: false,
            sequence: 1000,
            acknowledgement: 99,
            flags: ACK,
            window: 512,
            urgent: 0,
            tcp_options: vec![1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 2],
            payload: (0..payload).map(|i| (i * 31 % 253) as u8).collect(),
        }
    }

    /// Where the transport header starts.
    pub(crate) fn transport(&self) -> usize {
        match self.v6 {
            true if self.extension => 48,
            true => 40,
            false => 20 + self.ip_options.len(),
        }
    }

    pub(crate) fn header(&self) -> usize {
        self.transport() + if self.tcp { 20 + self.tcp_options.len() } else { 8 }
    }

    fn addresses(&self) -> (Vec<u8>, Vec<u8>) {
        let address = |network, last| {
            if self.v6 {
                [&[0xfd, 0, 0, 0, 0, 0, 0, network, 0, 0, 0, 0, 0, 0, 0][..], &[last]].concat()
            } else {
                vec![10, network, 0, last]
            }
        };
        (address(self.networks.0, self.source), address(self.networks.1, self.destination))
    }

    fn protocol(&self) -> u8 {
        if self.tcp { TCP } else { UDP }
    }

    fn pseudo_header(&self, length: usize) -> Vec<u8> {
        let (source, destination) = self.addresses();
        [&source[..], &destination, &(length as u32).to_be_bytes(), &[0, 0, 0, self.protocol()]].concat()
    }

    /// The packet with `checksum` in place of the right one.
    fn with_checksum(&self, checksum: [u8; 2]) -> Vec<u8> {
        let mut transport = Vec::new();
        transport.extend(self.ports.0.to_be_bytes());
        transport.extend(self.ports.1.to_be_bytes());
        if self.tcp {
            transport.extend(self.sequence.to_be_bytes());
            transport.extend(self.acknowledgement.to_be_bytes());
            transport.push((5 + self.tcp_options.len() as u8 / 4) << 4);
            transport.push(self.flags);
            transport.extend(self.window.to_be_bytes());
            transport.extend(checksum);
            transport.extend(self.urgent.to_be_bytes());
            transport.extend(&self.tcp_options);
        } else {
            transport.extend((8 + self.payload.len() as u16).to_be_bytes());
            transport.extend(checksum);
        }
        transport.extend(&self.payload);

        let (source, destination) = self.addresses();
        let mut packet = Vec::new();
        if self.v6 {
            let extension: &[u8] = if self.extension { &[self.protocol(), 0, 1, 4, 0, 0, 0, 0] } else { &[] };
            packet.extend((6u32 << 28 | u32::from(self.tos) << 20 | self.label).to_be_bytes());
            packet.extend(((extension.len() + transport.len()) as u16).to_be_bytes());
            packet.push(if self.extension { 60 } else { self.protocol() });
            packet.push(self.hops);
            packet.extend(source);
            packet.extend(destination);
            packet.extend(extension);
        } else {
            packet.push(0x45 + self.ip_options.len() as u8 / 4);
            packet.push(self.tos);
            packet.extend(((20 + self.ip_options.len() + transport.len()) as u16).to_be_bytes());
            packet.extend(self.id.to_be_bytes());
            packet.extend(if self.df { [0x40, 0] } else { [0, 0] });
            packet.push(self.hops);
            packet.push(self.protocol());
            packet.extend([0, 0]);
            packet.extend(source);
            packet.extend(destination);
            packet.extend(&self.ip_options);
            fix_ip_checksum(&mut packet);
        }
        packet.extend(transport);
        packet
    }

    /// The whole packet, as its sender would make it.
    pub(crate) fn build(&self) -> Vec<u8> {
        let blank = self.with_checksum([0, 0]);
        let transport = &blank[self.transport()..];
        let sum = !ones_sum(&[&self.pseudo_header(transport.len()), transport].concat());
        let sum = if !self.tcp && sum == 0 { 0xffff } else { sum };
        self.with_checksum(sum.to_be_bytes())
    }

    /// A super-packet of segments of `size`, as the device would give it.
    pub(crate) fn build_super(&self, size: u16) -> (VnetHeader, Vec<u8>) {
        let length = self.header() - self.transport() + self.payload.len();
        let packet = self.with_checksum(ones_sum(&self.pseudo_header(length)).to_be_bytes());
        let gso_type = match (self.tcp, self.v6) {
            (true, false) => 1,
            (true, true) => 4,
            (false, _) => 5,
        };
        let cwr = if self.tcp && self.flags & CWR != 0 { 0x80 } else { 0 };
        let header = VnetHeader {
            flags: 1,
            gso_type: gso_type | cwr,
            hdr_len: self.header() as u16,
            gso_size: size,
            csum_start: self.transport() as u16,
            csum_offset: if self.tcp { 16 } else { 6 },
        };
        (header, packet)
    }

    /// The segments that it stands for.
    pub(crate) fn segments(&self, size: u16) -> Vec<Vec<u8>> {
        let pieces: Vec<&[u8]> = if self.payload.is_empty() {
            vec![&[]]
        } else {
            self.payload.chunks(usize::from(size)).collect()
        };
        let mut made = Vec::new();
        for (index, piece) in pieces.iter().enumerate() {
            let mut spec = self.clone();
            spec.payload = piece.to_vec();
            spec.id = self.id.wrapping_add(index as u16);
            spec.sequence = self.sequence.wrapping_add(index as u32 * u32::from(size));
            if index > 0 {
                spec.flags &= !CWR;
            }
            if index + 1 < pieces.len() {
                spec.flags &= !(FIN | PSH);
            }
            made.push(spec.build());
        }
        made
    }
}

/// The sum of 16-bit words in one's complement.
pub(crate) fn ones_sum(bytes: &[u8]) -> u16 {
    let mut sum = 0u32;
    for pair in bytes.chunks(2) {
        sum += u32::from(u16::from_be_bytes([pair[0], *pair.get(1).unwrap_or(&0)]));
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

/// Writes the IPv4 header's checksum.
pub(crate) fn fix_ip_checksum(packet: &mut [u8]) {
    let len = usize::from(packet[0] & 15) * 4;
    packet[10..12].fill(0);
    let sum = !ones_sum(&packet[..len]);
    packet[10..12].copy_from_slice(&sum.to_be_bytes());
}

/// Whether all checksums of a TCP or UDP packet without extension headers are right.
pub(crate) fn is_intact(packet: &[u8]) -> bool {
    let (addresses, protocol, transport) = if packet[0] >> 4 == 4 {
        let len = usize::from(packet[0] & 15) * 4;
        if ones_sum(&packet[..len]) != 0xffff {
            return false;
        }
        (&packet[12..20], packet[9], &packet[len..])
    } else {
        (&packet[8..40], packet[6], &packet[40..])
    };
    let pseudo =
        [addresses, &(transport.len() as u32).to_be_bytes(), &[0, 0, 0, protocol], transport].concat();
    ones_sum(&pseudo) == 0xffff
}
