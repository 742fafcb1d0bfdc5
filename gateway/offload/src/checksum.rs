//! The Internet checksum (RFC 1071): sums of 16-bit words in one's complement.
//!
//! Such a sum does not depend on byte order, so words are added as the machine reads them and only put back as it writes them.
//! AVX2 does 32 bytes at a time; everything else gets eight, from code that any compiler makes wide.

#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::{
    __m256i, _mm_add_epi32, _mm_cvtsi128_si32, _mm_shuffle_epi32, _mm256_add_epi32, _mm256_castsi256_si128,
    _mm256_extracti128_si256, _mm256_loadu_si256, _mm256_madd_epi16, _mm256_set1_epi16, _mm256_setzero_si256,
    _mm256_storeu_si256, _mm256_xor_si256,
};

/// Shorter input is not worth the wide registers.
const WIDE_FROM: usize = 64;

/// The wide loops add in 32-bit lanes: two words of at most 2^15 each, for every 32 bytes, and all lanes at the end. That stays
/// below 2^31 within this many bytes.
#[cfg(target_arch = "x86_64")]
const WIDE_CHUNK: usize = 1 << 15;

/// A sum that is not folded yet. At most 2^31 bytes may go into one.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sum(u64);

impl Sum {
    /// The sum of nothing.
    pub const ZERO: Self = Self(0);

    /// The sum of `bytes`; an odd last byte counts as if a zero followed.
    #[inline]
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        #[cfg(target_arch = "x86_64")]
        if bytes.len() >= WIDE_FROM && is_x86_feature_detected!("avx2") {
            // SAFETY: the processor has AVX2. (The standard library asks it once and remembers.)
            return Self(unsafe { sum_avx2(bytes) });
        }
        Self(sum_portable(bytes))
    }

    /// Both together. The bytes of the first must have been even in number.
    #[inline]
    #[must_use]
    pub const fn plus(self, other: Self) -> Self {
        Self(self.0 + other.0)
    }

    /// With one more word, given as a number (a length, an id).
    #[inline]
    #[must_use]
    pub const fn word(self, word: u16) -> Self {
        Self(self.0 + word.to_be() as u64)
    }

    /// With one word taken out again.
    #[inline]
    #[must_use]
    pub const fn without_word(self, word: u16) -> Self {
        Self(self.0 + !word.to_be() as u64)
    }

    /// The sum in 16 bits, as the bytes that stand in a packet: what a partial checksum holds.
    #[inline]
    #[must_use]
    pub const fn partial(self) -> [u8; 2] {
        fold(self.0).to_ne_bytes()
    }

    /// The checksum as the bytes that stand in a packet.
    #[inline]
    #[must_use]
    pub const fn checksum(self) -> [u8; 2] {
        (!fold(self.0)).to_ne_bytes()
    }

    /// The checksum, where zero means that there is none (UDP) and all ones are its other name.
    #[inline]
    #[must_use]
    pub const fn checksum_nonzero(self) -> [u8; 2] {
        match self.checksum() {
            [0, 0] => [0xff, 0xff],
            sum => sum,
        }
    }

    /// Whether bytes that contain their checksum are intact.
    #[inline]
    #[must_use]
    pub const fn is_intact(self) -> bool {
        fold(self.0) == 0xffff
    }
}

/// Copies `from` over `to`, and gives its sum: one pass over the bytes.
///
/// # Panics
/// When the lengths differ.
#[inline]
pub fn copy_and_sum(from: &[u8], to: &mut [u8]) -> Sum {
    assert_eq!(from.len(), to.len(), "copying to a place of another size");
    #[cfg(target_arch = "x86_64")]
    if from.len() >= WIDE_FROM && is_x86_feature_detected!("avx2") {
        // SAFETY: the processor has AVX2.
        return Sum(unsafe { copy_avx2(from, to) });
    }
    Sum(copy_portable(from, to))
}

/// End-around carry until 16 bits are left. Zero only if every bit was.
#[inline]
const fn fold(sum: u64) -> u16 {
    let sum = (sum & 0xffff_ffff) + (sum >> 32);
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = (sum & 0xffff) + (sum >> 16);
    sum as u16
}

/// Adds 32-bit words, which is the same in one's complement; up to 2^32 of them fit.
#[inline]
fn sum_portable(bytes: &[u8]) -> u64 {
    let (eights, rest) = bytes.as_chunks::<8>();
    let mut sum = 0;
    for eight in eights {
        let word = u64::from_ne_bytes(*eight);
        sum += (word & 0xffff_ffff) + (word >> 32);
    }
    sum + sum_rest(rest)
}

#[inline]
fn copy_portable(from: &[u8], to: &mut [u8]) -> u64 {
    let (eights, rest) = from.as_chunks::<8>();
    let (places, end) = to.as_chunks_mut::<8>();
    let mut sum = 0;
    for (eight, place) in eights.iter().zip(places) {
        let word = u64::from_ne_bytes(*eight);
        sum += (word & 0xffff_ffff) + (word >> 32);
        *place = *eight;
    }
    end.copy_from_slice(rest);
    sum + sum_rest(rest)
}

/// The sum of fewer than eight bytes.
#[inline]
fn sum_rest(rest: &[u8]) -> u64 {
    let (fours, rest) = rest.as_chunks::<4>();
    let (twos, rest) = rest.as_chunks::<2>();
    let four = fours.first().map_or(0, |four| u32::from_ne_bytes(*four));
    let two = twos.first().map_or(0, |two| u16::from_ne_bytes(*two));
    let one = rest.first().map_or(0, |one| u16::from_ne_bytes([*one, 0]));
    u64::from(four) + u64::from(two) + u64::from(one)
}

/// Adds the words of a vector to the lanes, each less 2^15: the instruction that adds pairs of words takes them as signed.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
#[inline]
fn accumulate(lanes: __m256i, words: __m256i) -> __m256i {
    let signed = _mm256_xor_si256(words, _mm256_set1_epi16(i16::MIN));
    _mm256_add_epi32(lanes, _mm256_madd_epi16(signed, _mm256_set1_epi16(1)))
}

/// All lanes together, and what [`accumulate`] had taken from each word of `blocks` blocks.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
#[inline]
fn gather(lanes: __m256i, blocks: usize) -> u64 {
    let four = _mm_add_epi32(_mm256_castsi256_si128(lanes), _mm256_extracti128_si256::<1>(lanes));
    let two = _mm_add_epi32(four, _mm_shuffle_epi32::<0b01_00_11_10>(four));
    let one = _mm_add_epi32(two, _mm_shuffle_epi32::<0b10_11_00_01>(two));
    let taken = (blocks as i64) * 32 * (1 << 15);
    (taken + i64::from(_mm_cvtsi128_si32(one))) as u64
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn sum_avx2(bytes: &[u8]) -> u64 {
    let mut sum = 0;
    for chunk in bytes.chunks(WIDE_CHUNK) {
        let (blocks, rest) = chunk.as_chunks::<64>();
        let (mut even, mut odd) = (_mm256_setzero_si256(), _mm256_setzero_si256());
        for block in blocks {
            let at = block.as_ptr().cast::<__m256i>();
            // SAFETY: the block's first 32 bytes; no alignment is asked for.
            let first = unsafe { _mm256_loadu_si256(at) };
            // SAFETY: `block` has 64 bytes, so the second vector starts inside.
            let at = unsafe { at.add(1) };
            // SAFETY: the block's last 32 bytes.
            let second = unsafe { _mm256_loadu_si256(at) };
            even = accumulate(even, first);
            odd = accumulate(odd, second);
        }
        sum += gather(_mm256_add_epi32(even, odd), blocks.len()) + sum_portable(rest);
    }
    sum
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn copy_avx2(from: &[u8], to: &mut [u8]) -> u64 {
    let mut sum = 0;
    for (chunk, place) in from.chunks(WIDE_CHUNK).zip(to.chunks_mut(WIDE_CHUNK)) {
        let (blocks, rest) = chunk.as_chunks::<64>();
        let (places, end) = place.as_chunks_mut::<64>();
        let (mut even, mut odd) = (_mm256_setzero_si256(), _mm256_setzero_si256());
        for (block, place) in blocks.iter().zip(places) {
            let at = block.as_ptr().cast::<__m256i>();
            let out = place.as_mut_ptr().cast::<__m256i>();
            // SAFETY: the block's first 32 bytes; no alignment is asked for.
            let first = unsafe { _mm256_loadu_si256(at) };
            // SAFETY: `block` has 64 bytes, so the second vector starts inside.
            let at = unsafe { at.add(1) };
            // SAFETY: the block's last 32 bytes.
            let second = unsafe { _mm256_loadu_si256(at) };
            // SAFETY: the place's first 32 bytes.
            unsafe { _mm256_storeu_si256(out, first) };
            // SAFETY: `place` has 64 bytes, so the second vector starts inside.
            let out = unsafe { out.add(1) };
            // SAFETY: the place's last 32 bytes.
            unsafe { _mm256_storeu_si256(out, second) };
            even = accumulate(even, first);
            odd = accumulate(odd, second);
        }
        sum += gather(_mm256_add_epi32(even, odd), blocks.len()) + copy_portable(rest, end);
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// One word at a time, as RFC 1071 says it.
    fn by_the_book(bytes: &[u8]) -> u16 {
        let mut sum = 0u32;
        for pair in bytes.chunks(2) {
            sum += u32::from(u16::from_be_bytes([pair[0], *pair.get(1).unwrap_or(&0)]));
            sum = (sum & 0xffff) + (sum >> 16);
        }
        !(sum as u16)
    }

    fn all_ways(bytes: &[u8]) {
        let expected = by_the_book(bytes).to_be_bytes();
        let mut copy = vec![0xa5; bytes.len()];
        assert_eq!(Sum::of(bytes).checksum(), expected);
        assert_eq!(copy_and_sum(bytes, &mut copy).checksum(), expected);
        assert_eq!(copy, bytes);
        copy.fill(0x5a);
        assert_eq!(Sum(sum_portable(bytes)).checksum(), expected);
        assert_eq!(Sum(copy_portable(bytes, &mut copy)).checksum(), expected);
        assert_eq!(copy, bytes);
    }

    #[test]
    fn the_example_of_rfc_1071() {
        let bytes = [0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7];
        assert_eq!(Sum::of(&bytes).partial(), [0xdd, 0xf2]);
        assert_eq!(Sum::of(&bytes).checksum(), [0x22, 0x0d]);
    }

    #[test]
    fn all_lengths_and_the_largest_sums() {
        let bytes: Vec<u8> = (0..400u32).map(|i| (i * 151 % 251) as u8).collect();
        for len in 0..bytes.len() {
            all_ways(&bytes[..len]);
            all_ways(&vec![0xff; len]);
            all_ways(&vec![0; len]);
        }
        for len in [(1 << 15) - 1, (1 << 15) + 65, 65_535, 65_536, 600_001] {
            for byte in [0, 0x7f, 0x80, 0xff] {
                all_ways(&vec![byte; len]);
            }
        }
    }

    #[test]
    fn words_go_in_and_out() {
        let sum = Sum::of(&[1, 2, 3, 4]).word(0x0506);
        assert_eq!(sum.partial(), Sum::of(&[1, 2, 3, 4, 5, 6]).partial());
        assert_eq!(sum.without_word(0x0304).partial(), Sum::of(&[1, 2, 5, 6]).partial());
        assert_eq!(Sum::of(&[0xff, 0xff]).checksum_nonzero(), [0xff, 0xff]);
        assert!(Sum::of(&[0x12, 0x34, 0xed, 0xcb]).is_intact() && !Sum::of(&[0, 0]).is_intact());
    }

    proptest! {
        #[test]
        fn every_way_gives_the_same(bytes in prop::collection::vec(any::<u8>(), 0..3000), skip in 0usize..40) {
            all_ways(&bytes[skip.min(bytes.len())..]);
        }
    }
}
