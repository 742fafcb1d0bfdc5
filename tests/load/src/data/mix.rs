//! Sizes of inner packets, and which comes when.

use super::DataError;
use std::fmt;
use std::str::FromStr;

/// Smallest inner packet: IP, UDP, and what this program writes behind them.
pub const SMALLEST: u16 = super::packet::SMALLEST as u16;
/// Largest inner packet: what an Ethernet frame takes, less outer headers and the data channel's.
pub const LARGEST: u16 = 1420;
/// Twelve packets, the small ones spread between the others: 7 × 64, 4 × 594, 1 × 1400.
const IMIX: [u16; 12] = [64, 594, 64, 64, 594, 64, 1400, 64, 594, 64, 594, 64];
/// Most bytes of a train: with its headers it must stay below 64 KiB, or the first device cuts it up in software.
const TRAIN_BYTES: usize = 65_400;
/// Most segments of a train that every kernel with UDP_SEGMENT takes.
pub const TRAIN_SEGMENTS: u16 = 64;

/// The sizes of a run, in bytes of the inner IP packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sizes {
    /// All are this long.
    One(u16),
    /// 7 : 4 : 1 of 64, 594 and 1400 bytes, in packets.
    Imix,
}

impl Sizes {
    /// The length of the packets of a peer's train number `round`. Peers are out of step, so that all sizes are under way
    /// at all times.
    #[must_use]
    pub fn length(self, peer: usize, round: usize) -> u16 {
        match self {
            Self::One(length) => length,
            Self::Imix => IMIX.get(peer.wrapping_add(round) % IMIX.len()).copied().unwrap_or(SMALLEST),
        }
    }

    /// All lengths that there are.
    #[must_use]
    pub const fn lengths(&self) -> &[u16] {
        match self {
            Self::One(length) => std::slice::from_ref(length),
            Self::Imix => &[64, 594, 1400],
        }
    }

    /// The longest.
    #[must_use]
    pub const fn longest(self) -> u16 {
        match self {
            Self::One(length) => length,
            Self::Imix => 1400,
        }
    }

    /// Bytes of the average packet.
    #[must_use]
    pub fn mean(self) -> f64 {
        match self {
            Self::One(length) => f64::from(length),
            Self::Imix => IMIX.iter().map(|length| f64::from(*length)).sum::<f64>() / IMIX.len() as f64,
        }
    }

    /// Segments of a train, of `wanted`: the longest packets, with `overhead` bytes more each, must fit one system call.
    /// Trains of all sizes have equally many, so that the mix is one of packets.
    #[must_use]
    pub fn train(self, wanted: u16, overhead: usize) -> u16 {
        let fitting = TRAIN_BYTES / (usize::from(self.longest()).saturating_add(overhead)).max(1);
        u16::try_from(fitting).unwrap_or(TRAIN_SEGMENTS).min(wanted).clamp(1, TRAIN_SEGMENTS)
    }
}

impl FromStr for Sizes {
    type Err = DataError;

    fn from_str(text: &str) -> Result<Self, DataError> {
        if text == "imix" {
            return Ok(Self::Imix);
        }
        match text.parse() {
            Ok(length @ SMALLEST..=LARGEST) => Ok(Self::One(length)),
            _ => Err(DataError::Plan(format!(
                "size {text:?}: 'imix', or a number of bytes from {SMALLEST} to {LARGEST}"
            ))),
        }
    }
}

impl fmt::Display for Sizes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::One(length) => write!(f, "{length}"),
            Self::Imix => f.write_str("imix"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_peer_gets_the_mix() {
        for peer in 0..25 {
            let lengths: Vec<u16> = (0..12).map(|round| Sizes::Imix.length(peer, round)).collect();
            let count = |length| lengths.iter().filter(|found| **found == length).count();
            assert_eq!((count(64), count(594), count(1400)), (7, 4, 1), "peer {peer}");
        }
    }

    #[test]
    fn a_round_has_all_sizes() {
        let lengths: Vec<u16> = (0..12).map(|peer| Sizes::Imix.length(peer, 5)).collect();
        assert!(Sizes::Imix.lengths().iter().all(|length| lengths.contains(length)), "{lengths:?}");
        assert!(lengths.iter().all(|length| Sizes::Imix.lengths().contains(length)), "{lengths:?}");
    }

    #[test]
    fn the_mean_is_that_of_the_internet() {
        assert!((Sizes::Imix.mean() - (7.0 * 64.0 + 4.0 * 594.0 + 1400.0) / 12.0).abs() < 1e-9);
    }

    #[test]
    fn trains_fit_one_system_call() {
        assert_eq!(Sizes::One(64).train(64, 24), 64);
        assert_eq!(Sizes::One(1400).train(64, 24), 45);
        assert_eq!(Sizes::Imix.train(64, 24), 45);
        assert_eq!(Sizes::One(1400).train(1, 24), 1);
        assert_eq!(Sizes::One(1400).train(0, 24), 1);
    }

    #[test]
    fn sizes_have_names() {
        for text in ["imix", "64", "1400", "52"] {
            assert_eq!(text.parse::<Sizes>().unwrap().to_string(), text);
        }
        for text in ["", "51", "1421", "IMIX", "-1", "64.0"] {
            assert!(text.parse::<Sizes>().is_err(), "{text}");
        }
    }
}
