//! Bounds-checked reading and writing; the only slicing in the codec.

/// The buffer ended before the value did (reading), or has no room for it (writing).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Truncated;

impl core::fmt::Display for Truncated {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("buffer too short")
    }
}

impl core::error::Error for Truncated {}

/// Takes values off the front of a byte slice, big-endian.
#[derive(Debug, Clone, Copy)]
pub struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    /// Starts at the first byte of `bytes`.
    #[inline]
    pub const fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    /// Everything not taken yet.
    #[inline]
    pub const fn rest(&self) -> &'a [u8] {
        self.rest
    }

    /// True when every byte has been taken.
    #[inline]
    pub const fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    /// Takes `n` bytes.
    #[inline]
    pub fn bytes(&mut self, n: usize) -> Result<&'a [u8], Truncated> {
        let (head, tail) = self.rest.split_at_checked(n).ok_or(Truncated)?;
        self.rest = tail;
        Ok(head)
    }

    /// Takes an array of `N` bytes.
    #[inline]
    pub fn array<const N: usize>(&mut self) -> Result<[u8; N], Truncated> {
        let (head, tail) = self.rest.split_first_chunk::<N>().ok_or(Truncated)?;
        self.rest = tail;
        Ok(*head)
    }

    /// Takes one byte.
    #[inline]
    pub fn u8(&mut self) -> Result<u8, Truncated> {
        let [byte] = self.array::<1>()?;
        Ok(byte)
    }

    /// Takes a big-endian `u16`.
    #[inline]
    pub fn u16(&mut self) -> Result<u16, Truncated> {
        self.array().map(u16::from_be_bytes)
    }

    /// Takes a big-endian `u32`.
    #[inline]
    pub fn u32(&mut self) -> Result<u32, Truncated> {
        self.array().map(u32::from_be_bytes)
    }
}

/// Appends values to a fixed byte slice, big-endian.
#[derive(Debug)]
pub struct Writer<'a> {
    buf: &'a mut [u8],
    len: usize,
}

impl<'a> Writer<'a> {
    /// Starts at the first byte of `buf`.
    #[inline]
    pub const fn new(buf: &'a mut [u8]) -> Self {
        Self { buf, len: 0 }
    }

    /// How many bytes have been written.
    #[inline]
    pub const fn len(&self) -> usize {
        self.len
    }

    /// True when nothing has been written.
    #[inline]
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Appends `bytes` whole, or nothing.
    #[inline]
    pub fn bytes(&mut self, bytes: &[u8]) -> Result<(), Truncated> {
        let end = self.len.checked_add(bytes.len()).ok_or(Truncated)?;
        self.buf.get_mut(self.len..end).ok_or(Truncated)?.copy_from_slice(bytes);
        self.len = end;
        Ok(())
    }

    /// Appends one byte.
    #[inline]
    pub fn u8(&mut self, value: u8) -> Result<(), Truncated> {
        self.bytes(&[value])
    }

    /// Appends a big-endian `u16`.
    #[inline]
    pub fn u16(&mut self, value: u16) -> Result<(), Truncated> {
        self.bytes(&value.to_be_bytes())
    }

    /// Appends a big-endian `u32`.
    #[inline]
    pub fn u32(&mut self, value: u32) -> Result<(), Truncated> {
        self.bytes(&value.to_be_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_in_order_and_stops_at_the_end() {
        let mut r = Reader::new(&[1, 2, 3, 4, 5, 6, 7]);
        assert_eq!(r.u8(), Ok(1));
        assert_eq!(r.u16(), Ok(0x0203));
        assert_eq!(r.u32(), Ok(0x0405_0607));
        assert!(r.is_empty());
        assert_eq!(r.u8(), Err(Truncated));
    }

    #[test]
    fn a_failed_read_takes_nothing() {
        let mut r = Reader::new(&[1, 2]);
        assert_eq!(r.u32(), Err(Truncated));
        assert_eq!(r.rest(), &[1, 2]);
    }

    #[test]
    fn a_failed_write_changes_nothing() {
        let mut buf = [0u8; 3];
        let mut w = Writer::new(&mut buf);
        w.u16(0x0102).unwrap();
        assert_eq!(w.u16(0x0304), Err(Truncated));
        assert_eq!(w.len(), 2);
        w.u8(9).unwrap();
        assert_eq!(buf, [1, 2, 9]);
    }
}
