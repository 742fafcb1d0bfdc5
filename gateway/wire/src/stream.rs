//! Packets in a TCP stream: two bytes of length (big-endian), then the packet, without gaps.
//!
//! ```text
//!  | length | packet … | length | packet … |
//!      2      1..=max
//! ```
//!
//! A stream has no marks to find the next packet by: after one wrong length it is lost, and whoever reads it must hang up.

use crate::cursor::Truncated;
use crate::opcode::Opcode;

/// Bytes of a length.
pub const LENGTH_LEN: usize = 2;

/// A length of zero, or over the limit: the stream is broken from here on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BadLength(pub u16);

impl core::fmt::Display for BadLength {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "no packet has a length of {} bytes here", self.0)
    }
}

impl core::error::Error for BadLength {}

/// The two bytes in front of a packet of so many bytes; `None` for what no frame can hold (0, and over 65,535).
#[inline]
pub fn length_bytes(packet: usize) -> Option<[u8; LENGTH_LEN]> {
    u16::try_from(packet).ok().filter(|len| *len > 0).map(u16::to_be_bytes)
}

/// Cuts a byte stream into its packets, in one buffer: bytes are written into [`FrameReader::spare`] and reported with
/// [`FrameReader::advance`]; whole packets come out of [`FrameReader::next_frame`] in place.
///
/// A broken stream stays broken until [`FrameReader::clear`].
#[derive(Debug)]
pub struct FrameReader<B> {
    buffer: B,
    /// What waits in the buffer: `start <= end <= buffer.len()`.
    start: usize,
    end: usize,
    max: u16,
}

impl<B: AsRef<[u8]> + AsMut<[u8]>> FrameReader<B> {
    /// Reads packets of 1 to `max` bytes.
    ///
    /// # Errors
    /// The buffer has no room for the longest packet with its length, or `max` is 0.
    pub fn new(buffer: B, max: u16) -> Result<Self, Truncated> {
        if max == 0 || buffer.as_ref().len() < longest(max) {
            return Err(Truncated);
        }
        Ok(Self { buffer, start: 0, end: 0, max })
    }

    /// Where the next bytes of the stream go. Moves what waits to the front of the buffer if a packet might not fit behind
    /// it. Never empty once [`FrameReader::next_frame`] has said `None`.
    pub fn spare(&mut self) -> &mut [u8] {
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
        }
        let buffer = self.buffer.as_mut();
        if buffer.len().saturating_sub(self.start) < longest(self.max) {
            buffer.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end.saturating_sub(self.start));
        }
        buffer.get_mut(self.end..).unwrap_or_default()
    }

    /// The first `read` bytes of [`FrameReader::spare`] have been written; more than there was room for counts as all of it.
    pub fn advance(&mut self, read: usize) {
        self.end = self.end.saturating_add(read).min(self.buffer.as_ref().len());
    }

    /// Appends bytes of the stream, whole or not at all.
    ///
    /// # Errors
    /// There is no room for them.
    pub fn push(&mut self, bytes: &[u8]) -> Result<(), Truncated> {
        self.spare().get_mut(..bytes.len()).ok_or(Truncated)?.copy_from_slice(bytes);
        self.advance(bytes.len());
        Ok(())
    }

    /// Whether a whole packet waits.
    ///
    /// # Errors
    /// As [`FrameReader::next_frame`].
    pub fn has_frame(&self) -> Result<bool, BadLength> {
        Ok(self.frame_len()?.is_some())
    }

    /// The next whole packet, without its length; `None` when more bytes are needed first.
    ///
    /// # Errors
    /// The next length is 0 or over the limit. It is seen as soon as its two bytes are there, and again with every call.
    pub fn next_frame(&mut self) -> Result<Option<&mut [u8]>, BadLength> {
        let Some(length) = self.frame_len()? else {
            return Ok(None);
        };
        let from = self.start.saturating_add(LENGTH_LEN);
        let to = from.saturating_add(length);
        self.start = to;
        Ok(self.buffer.as_mut().get_mut(from..to))
    }

    /// What has been written and has not come out as packets: once [`FrameReader::next_frame`] has said `None`, the
    /// beginning of one packet.
    pub fn rest(&self) -> &[u8] {
        self.buffer.as_ref().get(self.start..self.end).unwrap_or_default()
    }

    /// Forgets what waits, and that the stream was broken.
    pub fn clear(&mut self) {
        (self.start, self.end) = (0, 0);
    }

    /// The length of the next packet, if all of it is there.
    fn frame_len(&self) -> Result<Option<usize>, BadLength> {
        let Some((length, behind)) = self.rest().split_first_chunk::<LENGTH_LEN>() else {
            return Ok(None);
        };
        let length = u16::from_be_bytes(*length);
        if length == 0 || length > self.max {
            return Err(BadLength(length));
        }
        Ok(Some(usize::from(length)).filter(|length| behind.len() >= *length))
    }
}

/// The longest packet with its length.
const fn longest(max: u16) -> usize {
    LENGTH_LEN.saturating_add(max as usize)
}

/// What the first bytes of a stream say about who is at its other end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Opening {
    /// Too few bytes to tell.
    Unknown,
    /// It begins as an OpenVPN client does.
    OpenVpn,
    /// No OpenVPN client begins like this.
    Foreign,
}

/// Lengths of a client's first packet without a wrapped key: from the shortest (nothing but the header) to what OpenVPN takes.
const RESET_V2: core::ops::RangeInclusive<u16> = 14..=255;
/// Lengths of a first packet with a wrapped key of 290 to 1,024 bytes behind it.
const RESET_V3: core::ops::RangeInclusive<u16> = 336..=1278;

/// Judges the first bytes of a stream by OpenVPN's own rule (`port-share`): a plausible length, then a reset of the first key.
/// One byte can be enough to rule it out; three settle it.
pub fn opening(first: &[u8]) -> Opening {
    let plausible = |low: u16, high: u16| {
        let overlaps = |known: &core::ops::RangeInclusive<u16>| low <= *known.end() && high >= *known.start();
        (overlaps(&RESET_V2), overlaps(&RESET_V3))
    };
    let verdict = |plausible| if plausible { Opening::Unknown } else { Opening::Foreign };
    match *first {
        [] => Opening::Unknown,
        [high] => {
            let (v2, v3) = plausible(u16::from_be_bytes([high, 0]), u16::from_be_bytes([high, 0xff]));
            verdict(v2 || v3)
        }
        [high, low] => {
            let length = u16::from_be_bytes([high, low]);
            let (v2, v3) = plausible(length, length);
            verdict(v2 || v3)
        }
        [high, low, opcode, ..] => {
            let length = u16::from_be_bytes([high, low]);
            let (v2, v3) = plausible(length, length);
            let reset = |kind: Opcode| opcode == kind.number() << 3;
            if v2 && reset(Opcode::HardResetClientV2) || v3 && reset(Opcode::HardResetClientV3) {
                Opening::OpenVpn
            } else {
                Opening::Foreign
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_are_checked_as_soon_as_they_are_there() {
        for (bytes, bad) in [([0, 0], 0), ([0, 11], 11), ([0xff, 0xff], 0xffff)] {
            let mut reader = FrameReader::new([0; 12], 10).unwrap();
            reader.push(&bytes[..1]).unwrap();
            assert_eq!(reader.next_frame(), Ok(None));
            reader.push(&bytes[1..]).unwrap();
            assert_eq!(reader.next_frame(), Err(BadLength(bad)));
            let _ = reader.push(&[0, 1, 7]);
            assert_eq!(reader.next_frame(), Err(BadLength(bad)), "it stays broken");
            reader.clear();
            reader.push(&[0, 1, 7]).unwrap();
            assert_eq!(reader.next_frame(), Ok(Some(&mut [7][..])));
        }
    }

    #[test]
    fn the_longest_packet_fits_behind_any_other() {
        let mut reader = FrameReader::new([0; 12], 10).unwrap();
        for first in 1..=10u8 {
            reader.push(&[0, first]).unwrap();
            reader.push(&[1; 10][..usize::from(first)]).unwrap();
            assert_eq!(reader.next_frame().unwrap().map(|frame| frame.len()), Some(first.into()));
            for byte in [0, 10, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2] {
                assert_eq!(reader.next_frame(), Ok(None));
                assert!(!reader.spare().is_empty());
                reader.push(&[byte]).unwrap();
            }
            assert_eq!(reader.next_frame(), Ok(Some(&mut [2; 10][..])));
            assert_eq!(reader.push(&[0; 13]), Err(Truncated));
            assert_eq!(reader.rest(), []);
        }
    }

    #[test]
    fn a_buffer_must_hold_a_packet() {
        assert!(FrameReader::new([0; 11], 10).is_err());
        assert!(FrameReader::new([0; 12], 0).is_err());
        assert_eq!(length_bytes(0), None);
        assert_eq!(length_bytes(65_536), None);
        assert_eq!(length_bytes(258), Some([1, 2]));
    }

    #[test]
    fn who_is_there() {
        use Opening::{Foreign, OpenVpn, Unknown};
        let cases: [(&[u8], Opening); 18] = [
            (&[], Unknown),
            (&[0], Unknown),
            (&[4], Unknown),
            (&[5], Foreign),
            (b"G", Foreign),
            (b"\x16", Foreign),
            (&[0, 13], Foreign),
            (&[0, 14], Unknown),
            (&[0, 255], Unknown),
            (&[1, 0], Foreign),
            (&[1, 80], Unknown),
            (&[4, 255], Foreign),
            (&[0, 14, 7 << 3], OpenVpn),
            (&[0, 54, 7 << 3, 1, 2, 3], OpenVpn),
            (&[0, 54, 7 << 3 | 1], Foreign),
            (&[0, 54, 10 << 3], Foreign),
            (&[1, 80, 10 << 3], OpenVpn),
            (&[1, 80, 7 << 3], Foreign),
        ];
        for (bytes, verdict) in cases {
            assert_eq!(opening(bytes), verdict, "{bytes:?}");
        }
    }
}
