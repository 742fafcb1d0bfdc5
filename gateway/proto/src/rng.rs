//! Randomness as an argument.

/// Source of unpredictable bytes. The gateway hands in the operating system's; simulations hand in a seeded one.
pub trait Rng: Send {
    /// Fills `out`. A source that cannot deliver must not return.
    fn fill(&mut self, out: &mut [u8]);
}

/// An array of random bytes.
pub fn bytes<const N: usize>(rng: &mut dyn Rng) -> [u8; N] {
    let mut out = [0; N];
    rng.fill(&mut out);
    out
}

/// A number in `0..bound` (0 when `bound` is 0), close enough to uniform for jitter.
pub fn below(rng: &mut dyn Rng, bound: u64) -> u64 {
    u64::from_be_bytes(bytes(rng)).checked_rem(bound).unwrap_or(0)
}
