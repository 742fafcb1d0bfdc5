//! One shard of the cache: records in a slab, found by their hash.

use std::sync::Arc;

use hashbrown::HashTable;

use super::binding::{Binding, BindingTag};
use super::hash::{TokenHash, TokenId};
use super::record::{Lineage, TokenInfo, UnixSeconds, ValidToken};
use super::slab::Slab;

/// Set in [`Record::issued`] for a revoked token. Seconds since 1970 do not come near it.
const REVOKED: u64 = 1 << 63;

/// What is kept of a token: a cache line, which is all that a check goes to for a valid one.
#[derive(Debug, Clone)]
#[repr(align(64))]
pub(super) struct Record {
    hash: TokenHash,
    tag: BindingTag,
    binding: Arc<Binding>,
    lineage: Lineage,
    issued: u64,
    pub(super) expires: UnixSeconds,
}

impl Record {
    pub(super) fn new(hash: TokenHash, tag: BindingTag, info: TokenInfo, revoked: bool) -> Self {
        let issued = info.issued.0 & !REVOKED | if revoked { REVOKED } else { 0 };
        Self { hash, tag, binding: info.binding, lineage: info.lineage, issued, expires: info.expires }
    }

    pub(super) const fn hash(&self) -> TokenHash {
        self.hash
    }

    pub(super) fn binding(&self) -> &Binding {
        &self.binding
    }

    pub(super) const fn lineage(&self) -> Lineage {
        self.lineage
    }

    pub(super) const fn issued(&self) -> UnixSeconds {
        UnixSeconds(self.issued & !REVOKED)
    }

    pub(super) const fn is_revoked(&self) -> bool {
        self.issued & REVOKED != 0
    }

    /// Whether that is new.
    pub(super) const fn revoke(&mut self) -> bool {
        let new = !self.is_revoked();
        self.issued |= REVOKED;
        new
    }

    pub(super) fn rebind(&mut self, binding: Arc<Binding>) {
        self.binding = binding;
    }

    /// Whether a client that has this tag is the one that the token is for.
    pub(super) fn is_for(&self, tag: &BindingTag) -> bool {
        self.tag == *tag
    }

    pub(super) const fn valid(&self) -> ValidToken {
        ValidToken { lineage: self.lineage, issued: self.issued(), expires: self.expires }
    }

    pub(super) fn info(&self) -> TokenInfo {
        TokenInfo {
            binding: Arc::clone(&self.binding),
            lineage: self.lineage,
            issued: self.issued(),
            expires: self.expires,
        }
    }
}

/// A slot's number stands for its record as long as the record is there; the cache's index lock sees to it that nobody
/// keeps one longer.
#[derive(Debug, Default)]
pub(super) struct Slots {
    /// By [`TokenId`], which is as good as random: numbers of slots.
    table: HashTable<u32>,
    records: Slab<Option<Record>>,
    free: Vec<u32>,
}

impl Slots {
    /// Bytes that a record costs here: its place, and five bytes for each bucket of a table that is between seven
    /// sixteenths and seven eighths full.
    pub(super) const RECORD_BYTES: usize = size_of::<Option<Record>>() + 12;

    pub(super) fn find(&self, hash: &TokenHash) -> Option<(u32, &Record)> {
        let slot = *self.table.find(hash.id().0, |slot| self.is(*slot, hash))?;
        self.get(slot).map(|record| (slot, record))
    }

    pub(super) fn get(&self, slot: u32) -> Option<&Record> {
        self.records.get(slot)?.as_ref()
    }

    pub(super) fn get_mut(&mut self, slot: u32) -> Option<&mut Record> {
        self.records.get_mut(slot)?.as_mut()
    }

    /// Slots of the tokens that are named `id`: one, but for a chance of one in 2^64.
    pub(super) fn named(&self, id: TokenId) -> Vec<u32> {
        let is = |slot: u32| self.get(slot).is_some_and(|record| record.hash.id() == id);
        self.table.iter_hash(id.0).copied().filter(|slot| is(*slot)).collect()
    }

    /// The caller has looked: the hash is not there.
    pub(super) fn insert(&mut self, record: Record) -> u32 {
        let id = record.hash.id();
        let slot = match self.free.pop() {
            Some(slot) => slot,
            None => {
                self.records.push(None);
                // MAX_ENTRIES keeps numbers of slots far below 2^32.
                (self.records.len() - 1) as u32
            }
        };
        if let Some(place) = self.records.get_mut(slot) {
            *place = Some(record);
        }
        let records = &self.records;
        self.table.insert_unique(id.0, slot, |slot| {
            records.get(*slot).and_then(Option::as_ref).map_or(0, |record| record.hash.id().0)
        });
        slot
    }

    pub(super) fn remove(&mut self, slot: u32) -> Option<Record> {
        let record = self.records.get_mut(slot)?.take()?;
        if let Ok(entry) = self.table.find_entry(record.hash.id().0, |other| *other == slot) {
            entry.remove();
        }
        self.free.push(slot);
        Some(record)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Record> {
        self.records.iter().flatten()
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Record> {
        self.records.iter_mut().flatten()
    }

    fn is(&self, slot: u32, hash: &TokenHash) -> bool {
        self.get(slot).is_some_and(|record| record.hash == *hash)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_a_cache_line() {
        assert_eq!(size_of::<Option<Record>>(), 64);
    }
}
