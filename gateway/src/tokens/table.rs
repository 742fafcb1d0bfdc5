//! Numbers of slots by token: a hash table that costs a lookup one cache line.
//!
//! A line has fifteen entries; an entry is a slot and ten more bits of the token's id, so that one lookup in seventy looks
//! at a record in vain. An entry whose line is full goes to the next one that is not, and each line that it passes counts
//! it: a lookup goes on only behind a line that was passed.

/// Entries of a line.
const ENTRIES: usize = 15;

/// Bits of an entry that are the slot's number plus one; 0 is a free entry.
const SLOT_BITS: u32 = 22;
const SLOT: u32 = (1 << SLOT_BITS) - 1;

/// Most slots that can be told apart.
pub(super) const MAX_SLOTS: usize = SLOT as usize;

/// Lines double when they are filled to this many entries on average: one line in twenty is passed then.
const FULL: usize = 10;

#[derive(Debug, Clone, Copy, Default)]
#[repr(align(64))]
struct Line {
    /// Entries that found no room here and are further on.
    passed: u32,
    entries: [u32; ENTRIES],
}

/// By ids that are as good as random.
#[derive(Debug)]
pub(super) struct Table {
    /// As many as a power of two.
    lines: Vec<Line>,
    len: usize,
}

impl Default for Table {
    fn default() -> Self {
        Self { lines: vec![Line::default()], len: 0 }
    }
}

impl Table {
    /// Most bytes of an entry on average: lines have just doubled. The bound of a table in its middle.
    pub(super) const ENTRY_BYTES: usize = size_of::<Line>() * 2 / FULL;

    /// The slot of `id` that `is` the one.
    pub(super) fn find(&self, id: u64, mut is: impl FnMut(u32) -> bool) -> Option<u32> {
        let wanted = tag(id);
        for at in self.way(id) {
            let line = self.lines.get(at)?;
            for entry in line.entries {
                if entry & !SLOT == wanted && entry & SLOT != 0 && is((entry & SLOT) - 1) {
                    return Some((entry & SLOT) - 1);
                }
            }
            if line.passed == 0 {
                return None;
            }
        }
        None
    }

    /// Whether the table must grow before it takes one more.
    pub(super) fn is_full(&self) -> bool {
        self.len >= self.lines.len() * FULL
    }

    /// Twice as many lines, for `all` ids and their slots.
    pub(super) fn grow(&mut self, all: impl Iterator<Item = (u64, u32)>) {
        self.lines = vec![Line::default(); self.lines.len() * 2];
        self.len = 0;
        for (id, slot) in all {
            self.insert(id, slot);
        }
    }

    /// The caller has looked: the slot is not there, and the table is not full.
    pub(super) fn insert(&mut self, id: u64, slot: u32) {
        for at in self.way(id) {
            let Some(line) = self.lines.get_mut(at) else { return };
            if let Some(free) = line.entries.iter_mut().find(|entry| **entry == 0) {
                *free = tag(id) | (slot + 1);
                self.len += 1;
                return;
            }
            line.passed += 1;
        }
    }

    /// Forgets a slot that was inserted under `id`.
    pub(super) fn remove(&mut self, id: u64, slot: u32) {
        let wanted = tag(id) | (slot + 1);
        let holds = |line: &Line| line.entries.contains(&wanted);
        let Some(steps) = self.way(id).position(|at| self.lines.get(at).is_some_and(holds)) else { return };
        for (step, at) in self.way(id).take(steps + 1).enumerate() {
            let Some(line) = self.lines.get_mut(at) else { return };
            if step < steps {
                line.passed -= 1;
            } else if let Some(entry) = line.entries.iter_mut().find(|entry| **entry == wanted) {
                *entry = 0;
                self.len -= 1;
            }
        }
    }

    /// The lines where `id` may be, in order.
    fn way(&self, id: u64) -> impl Iterator<Item = usize> + use<> {
        let lines = self.lines.len();
        (0..lines).map(move |step| (id as usize).wrapping_add(step) & (lines - 1))
    }
}

/// Bits that choose neither the line nor, in the cache, the shard; where they stand in an entry.
const fn tag(id: u64) -> u32 {
    (id >> 32) as u32 & !SLOT
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_line_is_a_cache_line() {
        assert_eq!(size_of::<Line>(), 64);
    }

    #[test]
    fn a_thousand_of_one_line_are_found() {
        let mut table = Table::default();
        let all = || (0..1000u32).map(|slot| (u64::from(slot % 3) << 60, slot));
        let mut known = Vec::new();
        for (id, slot) in all() {
            if table.is_full() {
                table.grow(known.iter().copied());
            }
            table.insert(id, slot);
            known.push((id, slot));
        }
        assert!(all().all(|(id, slot)| table.find(id, |found| found == slot) == Some(slot)));
        all().filter(|(_, slot)| slot % 2 == 0).for_each(|(id, slot)| table.remove(id, slot));
        for (id, slot) in all() {
            assert_eq!(table.find(id, |found| found == slot).is_some(), slot % 2 == 1);
        }
        all().for_each(|(id, slot)| table.remove(id, slot));
        assert!(
            table.len == 0 && table.lines.iter().all(|line| line.passed == 0 && line.entries == [0; ENTRIES])
        );
    }

    proptest! {
        #[test]
        fn behaves_like_a_list(steps in prop::collection::vec((any::<bool>(), 0u64..5, 0u64..4, 0u32..200), 0..600)) {
            let (mut table, mut list) = (Table::default(), Vec::<(u64, u32)>::new());
            for (insert, line, tag, slot) in steps {
                let id = tag << 60 | line;
                match list.iter().position(|(_, known)| *known == slot) {
                    Some(at) if !insert => {
                        let (id, slot) = list.remove(at);
                        table.remove(id, slot);
                    }
                    None if insert => {
                        if table.is_full() {
                            table.grow(list.iter().copied());
                        }
                        table.insert(id, slot);
                        list.push((id, slot));
                    }
                    _ => {}
                }
                prop_assert_eq!(table.len, list.len());
                for (id, slot) in &list {
                    prop_assert_eq!(table.find(*id, |found| found == *slot), Some(*slot));
                }
            }
            let mut found = Vec::new();
            table.find(0, |slot| { found.push(slot); false });
            let mut expected: Vec<u32> = list.iter().filter(|(id, _)| *id == 0).map(|(_, slot)| *slot).collect();
            found.retain(|slot| expected.contains(slot));
            found.sort_unstable();
            expected.sort_unstable();
            prop_assert_eq!(found, expected);
        }
    }
}
