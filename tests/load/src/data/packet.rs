//! Inner packets: IPv4 and UDP around a payload that says which packet it is.
//!
//! ```text
//!  IPv4(20) │ UDP(8) │ mark(4) stream(4) sequence(8) stamp(8) │ filler
//! ```

use std::net::SocketAddrV4;

/// Bytes of the IPv4 and UDP headers.
pub const HEADERS: usize = 28;
/// Bytes of the payload before its filler.
pub const PAYLOAD: usize = 24;
/// The shortest packet.
pub const SMALLEST: usize = HEADERS + PAYLOAD;
/// Starts every payload of this program.
const MARK: [u8; 4] = *b"TsLd";
/// IPv4 without options, ten hops fewer than the usual 64: whoever dumps packets tells ours apart.
const TTL: u8 = 54;
const UDP: u8 = 17;
/// Do not fragment.
const DF: u16 = 0x4000;

/// What a payload says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Payload {
    /// Which stream it belongs to.
    pub stream: u32,
    /// Its number in the stream, from 0.
    pub sequence: u64,
    /// When it was sent, in nanoseconds of the monotonic clock; 0 in what is no probe.
    pub stamp: u64,
}

impl Payload {
    /// Reads it; `None` when this is not one of ours.
    #[inline]
    #[must_use]
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let (mark, rest) = bytes.split_first_chunk::<4>()?;
        let (stream, rest) = rest.split_first_chunk::<4>()?;
        let (sequence, rest) = rest.split_first_chunk::<8>()?;
        let stamp = rest.first_chunk::<8>()?;
        (*mark == MARK).then(|| Self {
            stream: u32::from_be_bytes(*stream),
            sequence: u64::from_be_bytes(*sequence),
            stamp: u64::from_be_bytes(*stamp),
        })
    }

    /// Writes it; `out` has [`PAYLOAD`] bytes at least, and its filler is left alone.
    #[inline]
    pub fn write(&self, out: &mut [u8]) {
        if let Some(head) = out.first_chunk_mut::<PAYLOAD>() {
            head[..4].copy_from_slice(&MARK);
            head[4..8].copy_from_slice(&self.stream.to_be_bytes());
            head[8..16].copy_from_slice(&self.sequence.to_be_bytes());
            head[16..].copy_from_slice(&self.stamp.to_be_bytes());
        }
    }
}

/// Fills what stands behind the payload's head: bytes that can be checked at the other end.
pub fn fill(payload: &mut [u8]) {
    for (place, byte) in payload.iter_mut().enumerate().skip(PAYLOAD) {
        *byte = filler(place);
    }
}

const fn filler(place: usize) -> u8 {
    (place as u8).wrapping_mul(31) ^ 0x5a
}

/// All but sequence and stamp of a stream's packets of one length.
#[derive(Debug, Clone)]
pub struct Template {
    bytes: Vec<u8>,
    stream: u32,
    /// Of everything that the UDP checksum covers, with sequence and stamp 0.
    sum: u32,
}

impl Template {
    /// For packets of `length` bytes ([`SMALLEST`] at least).
    #[must_use]
    pub fn new(from: SocketAddrV4, to: SocketAddrV4, stream: u32, length: u16) -> Self {
        let length = length.max(SMALLEST as u16);
        let udp_length = length.saturating_sub(20);
        let mut bytes = vec![0; usize::from(length)];
        let mut put = |at: usize, part: &[u8]| bytes[at..at + part.len()].copy_from_slice(part);
        put(0, &[0x45]);
        put(2, &length.to_be_bytes());
        put(6, &DF.to_be_bytes());
        put(8, &[TTL, UDP]);
        put(12, &from.ip().octets());
        put(16, &to.ip().octets());
        put(20, &from.port().to_be_bytes());
        put(22, &to.port().to_be_bytes());
        put(24, &udp_length.to_be_bytes());
        let header_sum = finish(sum(&bytes[..20]));
        bytes[10..12].copy_from_slice(&header_sum.to_be_bytes());
        Payload { stream, sequence: 0, stamp: 0 }.write(&mut bytes[HEADERS..]);
        fill(&mut bytes[HEADERS..]);
        let sum = sum(&bytes[12..]) + u32::from(UDP) + u32::from(udp_length);
        Self { bytes, stream, sum }
    }

    /// Writes one packet into `out`, which is as long as the template's packets.
    #[inline]
    pub fn write(&self, sequence: u64, stamp: u64, out: &mut [u8]) {
        out.copy_from_slice(&self.bytes);
        Payload { stream: self.stream, sequence, stamp }.write(&mut out[HEADERS..]);
        let checksum = match finish(self.sum + words(sequence) + words(stamp)) {
            // 0 would say that there is none.
            0 => 0xffff,
            sum => sum,
        };
        out[26..28].copy_from_slice(&checksum.to_be_bytes());
    }
}

/// Why an inner packet is not what it should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flaw {
    /// Not IPv4 with UDP, or not as long as it says.
    Form,
    /// A checksum is wrong.
    Checksum,
    /// The payload is not as it was sent.
    Payload,
}

/// Checks a whole packet: form, both checksums, every byte of the payload. Gives its destination and what it says.
///
/// # Errors
/// The first flaw found.
pub fn verify(packet: &[u8]) -> Result<([u8; 4], Payload), Flaw> {
    let length = packet.len();
    let says =
        |at: usize| packet.get(at..at + 2).map_or(0, |b| usize::from(u16::from_be_bytes([b[0], b[1]])));
    if length < SMALLEST || packet[0] != 0x45 || packet[9] != UDP || says(2) != length {
        return Err(Flaw::Form);
    }
    let udp_length = length - 20;
    if says(24) != udp_length {
        return Err(Flaw::Form);
    }
    let pseudo = u32::from(UDP) + udp_length as u32;
    if finish(sum(&packet[..20])) != 0 || finish(sum(&packet[12..]) + pseudo) != 0 {
        return Err(Flaw::Checksum);
    }
    let payload = &packet[HEADERS..];
    let parsed = Payload::parse(payload).ok_or(Flaw::Payload)?;
    if payload.iter().enumerate().skip(PAYLOAD).any(|(place, byte)| *byte != filler(place)) {
        return Err(Flaw::Payload);
    }
    Ok(([packet[16], packet[17], packet[18], packet[19]], parsed))
}

/// The sum of big-endian 16-bit words. Packets here are short enough for 32 bits.
fn sum(bytes: &[u8]) -> u32 {
    let pairs = bytes.chunks_exact(2);
    let rest = pairs.remainder().first().map_or(0, |last| u32::from(*last) << 8);
    pairs.map(|pair| u32::from(pair[0]) << 8 | u32::from(pair[1])).sum::<u32>() + rest
}

#[inline]
const fn words(value: u64) -> u32 {
    ((value >> 48) + (value >> 32 & 0xffff) + (value >> 16 & 0xffff) + (value & 0xffff)) as u32
}

const fn finish(mut sum: u32) -> u16 {
    while sum > 0xffff {
        sum = (sum >> 16) + (sum & 0xffff);
    }
    !(sum as u16)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn template(length: u16) -> Template {
        Template::new("10.8.0.2:4001".parse().unwrap(), "192.0.2.9:5001".parse().unwrap(), 7, length)
    }

    #[test]
    fn packets_are_valid_and_say_what_they_are() {
        for length in [52, 64, 65, 594, 1400, 1420] {
            let template = template(length);
            for (sequence, stamp) in
                [(0, 0), (1, 0), (0xffff, 1), (u64::MAX, u64::MAX), (1 << 40, 12_345_678_901)]
            {
                let mut packet = vec![0; usize::from(length)];
                template.write(sequence, stamp, &mut packet);
                let (to, payload) = verify(&packet).unwrap();
                assert_eq!((to, payload), ([192, 0, 2, 9], Payload { stream: 7, sequence, stamp }));
            }
        }
    }

    #[test]
    fn a_known_checksum() {
        // The IPv4 header of RFC 1071's method, computed by hand: 45000034 00004000 3611xxxx 0a080002 c0000209.
        let mut packet = [0; 52];
        template(52).write(0, 0, &mut packet);
        let words: u32 = 0x4500 + 0x34 + 0x4000 + 0x3611 + 0x0a08 + 0x0002 + 0xc000 + 0x0209;
        let want = !((words & 0xffff) as u16 + (words >> 16) as u16);
        assert_eq!(u16::from_be_bytes([packet[10], packet[11]]), want);
    }

    #[test]
    fn every_changed_byte_is_seen() {
        let mut good = [0; 100];
        template(100).write(99, 0, &mut good);
        for place in 0..good.len() {
            let mut bad = good;
            bad[place] ^= 0x10;
            assert!(verify(&bad).is_err(), "byte {place}");
        }
        assert_eq!(verify(&good[..99]), Err(Flaw::Form));
        assert_eq!(verify(&[]), Err(Flaw::Form));
    }

    #[test]
    fn strangers_are_told_apart() {
        assert_eq!(Payload::parse(b"TsLd"), None);
        assert_eq!(Payload::parse(&[0; 64]), None);
    }
}
