//! Values by number, in chunks that never move: nothing is copied under a lock when one more comes, and growth leaves no
//! holes behind.

/// Values of a chunk.
const CHUNK: usize = 256;

#[derive(Debug)]
pub(super) struct Slab<T>(Vec<Vec<T>>);

impl<T> Default for Slab<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<T> Slab<T> {
    pub(super) fn len(&self) -> usize {
        let before = self.0.len().saturating_sub(1) * CHUNK;
        before + self.0.last().map_or(0, Vec::len)
    }

    pub(super) fn push(&mut self, value: T) {
        match self.0.last_mut() {
            Some(chunk) if chunk.len() < CHUNK => chunk.push(value),
            _ => {
                let mut chunk = Vec::with_capacity(CHUNK);
                chunk.push(value);
                self.0.push(chunk);
            }
        }
    }

    pub(super) fn get(&self, number: u32) -> Option<&T> {
        self.0.get(number as usize / CHUNK)?.get(number as usize % CHUNK)
    }

    pub(super) fn get_mut(&mut self, number: u32) -> Option<&mut T> {
        self.0.get_mut(number as usize / CHUNK)?.get_mut(number as usize % CHUNK)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &T> {
        self.0.iter().flatten()
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut T> {
        self.0.iter_mut().flatten()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_in_order_over_chunks() {
        let mut slab = Slab::default();
        for number in 0..3 * CHUNK as u32 {
            assert_eq!((slab.len(), slab.get(number)), (number as usize, None));
            slab.push(number);
            assert_eq!(slab.get(number), Some(&number));
            assert_eq!(slab.get_mut(number + 1), None);
        }
        assert!(slab.iter().copied().eq(0..3 * CHUNK as u32));
    }
}
