//! Messages inside the encrypted channel that are not IP packets.

/// Keeps the peer's timers quiet; never reaches the TUN.
pub const PING: [u8; 16] =
    [0x2a, 0x18, 0x7b, 0xf3, 0x64, 0x1e, 0xb4, 0xcb, 0x07, 0xed, 0x2d, 0x0a, 0x98, 0x1f, 0xc7, 0x48];

/// Start of every options-consistency-check message; the operation follows.
const OCC: [u8; 16] =
    [0x28, 0x7f, 0x34, 0x6b, 0xd4, 0xef, 0x7a, 0x81, 0x2d, 0x56, 0xb8, 0xd3, 0xaf, 0xc5, 0x45, 0x9c];

/// The OCC operation of a peer that leaves.
const OP_EXIT: u8 = 6;

/// The message of a peer that leaves (`explicit-exit-notify` without `cc-exit`).
pub const OCC_EXIT: [u8; 17] = {
    let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] = OCC;
    [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p, OP_EXIT]
};

/// A plaintext, by what it is.
#[derive(Debug, PartialEq, Eq)]
pub enum InBand<'a> {
    /// The peer leaves.
    Exit,
    /// Another OCC operation; nothing of today's needs an answer.
    Occ(u8),
    /// An inner packet (or rubbish that claims to be one).
    Packet(&'a mut [u8]),
    /// Keep-alive.
    Ping,
}

impl<'a> InBand<'a> {
    /// Tells the kinds apart by their first bytes; no IP packet starts like a message.
    #[inline]
    pub fn classify(plain: &'a mut [u8]) -> Self {
        match plain.first() {
            Some(0x2a) if *plain == PING => Self::Ping,
            Some(0x28) => match plain.strip_prefix(&OCC) {
                Some(&[OP_EXIT, ..]) => Self::Exit,
                Some(&[op, ..]) => Self::Occ(op),
                _ => Self::Packet(plain),
            },
            _ => Self::Packet(plain),
        }
    }
}
