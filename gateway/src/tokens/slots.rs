//! One shard of the cache: records in a slab, found by their hash.

use std::sync::Arc;

use super::binding::{Binding, BindingTag};
use super::hash::{TokenHash, TokenId};
use super::record::{Lineage, TokenInfo, UnixSeconds, ValidToken};
use super::slab::Slab;
use super::table::Table;

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
    /// By [`TokenId`].
    table: Table,
    records: Slab<Option<Record>>,
    free: Vec<u32>,
}

impl Slots {
    /// Bytes that a record costs here.
    pub(super) const RECORD_BYTES: usize = size_of::<Option<Record>>() + Table::ENTRY_BYTES;

    pub(super) fn find(&self, hash: &TokenHash) -> Option<(u32, &Record)> {
        let slot = self.table.find(hash.id().0, |slot| self.is(slot, hash))?;
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
        let mut named = Vec::new();
        self.table.find(id.0, |slot| {
            if self.get(slot).is_some_and(|record| record.hash.id() == id) {
                named.push(slot);
            }
            false
        });
        named
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
        if self.table.is_full() {
            let all = (0..).zip(self.records.iter());
            self.table.grow(all.filter_map(|(slot, record)| Some((record.as_ref()?.hash.id().0, slot))));
        }
        self.table.insert(id.0, slot);
        if let Some(place) = self.records.get_mut(slot) {
            *place = Some(record);
        }
        slot
    }

    pub(super) fn remove(&mut self, slot: u32) -> Option<Record> {
        let record = self.records.get_mut(slot)?.take()?;
        self.table.remove(record.hash.id().0, slot);
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
