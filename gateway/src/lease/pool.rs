//! The address pool: no address has two holders, and a client that comes back gets its old one when it is free.
//!
//! IPv4 and IPv6 go together: entry `i` of the pool is `v4 start + i` and `v6 base + i`.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use tessera_ebpf_common::PeerIdLayout;
use tessera_ebpf_common::steer::worker_of_address;

/// Most entries of a pool: a /16, which is what OpenVPN allows. It bounds the memory of a pool to a few MiB.
pub const MAX_POOL_SIZE: u32 = 65_536;

/// Why a pool cannot be made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PoolError {
    /// The range runs backwards.
    #[error("pool start {0} is above pool end {1}")]
    Backwards(Ipv4Addr, Ipv4Addr),
    /// The range has more than [`MAX_POOL_SIZE`] addresses.
    #[error("pool {0} - {1} has more than {MAX_POOL_SIZE} addresses")]
    TooLarge(Ipv4Addr, Ipv4Addr),
    /// Not a prefix length.
    #[error("/{0} is not an IPv6 prefix length")]
    BadPrefix(u8),
}

/// Why there is no lease.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LeaseError {
    /// Every address is held. The client may try again later; it is not the client's fault.
    #[error("the address pool is exhausted ({0} addresses)")]
    PoolExhausted(u32),
    /// A static address that somebody else holds, or that is the gateway's own.
    #[error("address {0} is in use")]
    AddressInUse(IpAddr),
}

/// What a client should get.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LeaseRequest<'a> {
    /// Whose old address is wanted again; `None` where common names do not tell clients apart (`duplicate-cn`).
    pub common_name: Option<&'a str>,
    /// `ifconfig-push`: exactly this address. The client then takes nothing from the pool.
    pub static_v4: Option<Ipv4Addr>,
    /// `ifconfig-ipv6-push`: exactly this address in place of the pool's.
    pub static_v6: Option<Ipv6Addr>,
    /// Of addresses that nobody is remembered for, rather one that names this worker.
    pub worker: Option<usize>,
}

/// The addresses that one client holds. Only [`AddressPool::release`] gives them back.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "a lease that is dropped is never free again: give it back with AddressPool::release"]
pub struct Lease {
    v4: Option<Ipv4Addr>,
    v6: Option<Ipv6Addr>,
    /// The entry of the pool that it holds.
    entry: Option<u32>,
    /// The static addresses that it holds.
    statics: [Option<IpAddr>; 2],
}

impl Lease {
    /// The client's IPv4 address in the tunnel.
    #[must_use]
    pub const fn v4(&self) -> Option<Ipv4Addr> {
        self.v4
    }

    /// The client's IPv6 address in the tunnel.
    #[must_use]
    pub const fn v6(&self) -> Option<Ipv6Addr> {
        self.v6
    }
}

/// Who had which addresses last.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hint {
    /// The client.
    pub common_name: String,
    /// Its IPv4 address.
    pub v4: Option<Ipv4Addr>,
    /// Its IPv6 address.
    pub v6: Option<Ipv6Addr>,
}

/// Why a [`Hint`] was not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HintRefused {
    /// Neither address is one of this pool, or the two are not one entry.
    #[error("the addresses are not an entry of this pool")]
    NotInPool,
    /// Another client is remembered for it.
    #[error("the address belongs to another client")]
    Taken,
    /// The client is remembered with another address.
    #[error("the client has another address")]
    Repeated,
}

/// Addresses for clients. All operations take O(log n) or less, none scans the pool.
#[derive(Debug)]
pub struct AddressPool {
    v4_start: Option<Ipv4Addr>,
    v6_base: Option<Ipv6Addr>,
    entries: Vec<Entry>,
    /// Free and remembered for nobody: handed out lowest first.
    fresh: BTreeSet<u32>,
    /// Free and remembered for a client, by the time of release: the longest unused is the first to be given away.
    remembered: BTreeMap<u64, u32>,
    by_name: HashMap<Arc<str>, u32>,
    statics: HashSet<IpAddr>,
    releases: u64,
    hint_generation: u64,
}

/// One entry. It is free when it is not leased and `blocked` is 0; then it is either in `fresh` or in `remembered`.
#[derive(Debug, Clone, Default)]
struct Entry {
    leased: bool,
    /// How many static addresses lie on it: 0..=2.
    blocked: u8,
    name: Option<Arc<str>>,
    /// Its key in `remembered`.
    released: u64,
}

impl AddressPool {
    /// A pool of the IPv4 addresses `start..=end`, and, when `v6` is given, of as many IPv6 addresses from `base` on as
    /// the prefix length leaves room for. Without an IPv4 range the prefix alone sets the size. With neither, the pool
    /// is empty and only keeps static addresses apart.
    ///
    /// # Errors
    /// [`PoolError`] when the range is backwards or too large, or the prefix length is above 128.
    pub fn new(v4: Option<(Ipv4Addr, Ipv4Addr)>, v6: Option<(Ipv6Addr, u8)>) -> Result<Self, PoolError> {
        let v4_size = v4.map(|(start, end)| range_size(start, end)).transpose()?;
        let v6_size = v6.map(|(base, prefix)| room_in_prefix(base, prefix)).transpose()?;
        let size = match (v4_size, v6_size) {
            (Some(v4), Some(v6)) => v4.min(v6),
            (Some(size), None) | (None, Some(size)) => size,
            (None, None) => 0,
        };
        Ok(Self {
            v4_start: v4.map(|(start, _)| start),
            v6_base: v6.map(|(base, _)| base),
            entries: vec![Entry::default(); size as usize],
            fresh: (0..size).collect(),
            remembered: BTreeMap::new(),
            by_name: HashMap::new(),
            statics: HashSet::new(),
            releases: 0,
            hint_generation: 0,
        })
    }

    /// Number of entries, free or not.
    #[must_use]
    pub fn size(&self) -> u32 {
        u32::try_from(self.entries.len()).expect("at most MAX_POOL_SIZE")
    }

    /// Number of entries that can be handed out now.
    #[must_use]
    pub fn free(&self) -> u32 {
        u32::try_from(self.fresh.len() + self.remembered.len()).expect("at most MAX_POOL_SIZE")
    }

    /// Leases addresses: the static ones as they are; from the pool the entry that the client had last, else the lowest
    /// that nobody is remembered for (and that names the wanted worker, if one of the next few does), else the one that was released longest ago.
    ///
    /// # Errors
    /// [`LeaseError`]; then nothing has changed.
    pub fn acquire(&mut self, request: LeaseRequest<'_>, layout: PeerIdLayout) -> Result<Lease, LeaseError> {
        let statics = [request.static_v4.map(IpAddr::V4), request.static_v6.map(IpAddr::V6)];
        if let Some(used) = statics.iter().flatten().find(|address| !self.is_unused(**address)) {
            return Err(LeaseError::AddressInUse(*used));
        }
        for address in statics.iter().flatten() {
            self.block(*address);
        }
        let wants_pool =
            request.static_v4.is_none() && !(self.v4_start.is_none() && request.static_v6.is_some());
        let entry = if wants_pool {
            let Some(entry) = self.choose(request.common_name, request.worker, layout) else {
                for address in statics.iter().flatten() {
                    self.unblock(*address);
                }
                return Err(LeaseError::PoolExhausted(self.size()));
            };
            self.lease(entry, request.common_name);
            Some(entry)
        } else {
            None
        };
        Ok(Lease {
            v4: request.static_v4.or_else(|| self.v4_of(entry?)),
            v6: request.static_v6.or_else(|| self.v6_of(entry?)),
            entry,
            statics,
        })
    }

    /// Takes `address` out of the pool for good: it is the gateway's own.
    ///
    /// # Errors
    /// [`LeaseError::AddressInUse`] when a client holds it.
    pub fn exclude(&mut self, address: IpAddr) -> Result<(), LeaseError> {
        if !self.is_unused(address) {
            return Err(LeaseError::AddressInUse(address));
        }
        self.block(address);
        Ok(())
    }

    /// Gives the addresses of a lease back. The client stays remembered for its entry of the pool.
    #[expect(clippy::needless_pass_by_value, reason = "a lease that was given back must not be usable")]
    pub fn release(&mut self, lease: Lease) {
        for address in lease.statics.iter().flatten() {
            self.unblock(*address);
        }
        if let Some(entry) = lease.entry {
            self.entries[entry as usize].leased = false;
            self.make_available(entry);
        }
    }

    /// Remembers from a former run that a client had these addresses.
    ///
    /// # Errors
    /// [`HintRefused`]; then nothing has changed.
    pub fn remember(&mut self, hint: &Hint) -> Result<(), HintRefused> {
        let by_v4 = hint.v4.and_then(|v4| self.entry_of(IpAddr::V4(v4)));
        let by_v6 = hint.v6.and_then(|v6| self.entry_of(IpAddr::V6(v6)));
        let entry = match (by_v4, by_v6) {
            (Some(a), Some(b)) if a == b => a,
            // One family of the pool was added, removed or moved since: the other still names the entry.
            (Some(entry), None) | (None, Some(entry)) => entry,
            _ => return Err(HintRefused::NotInPool),
        };
        if self.by_name.contains_key(hint.common_name.as_str()) {
            return Err(HintRefused::Repeated);
        }
        if self.entries[entry as usize].name.is_some() {
            return Err(HintRefused::Taken);
        }
        self.withdraw(entry);
        self.rename(entry, Some(&hint.common_name));
        self.make_available(entry);
        Ok(())
    }

    /// Everything that is remembered, in the order of the addresses.
    pub fn hints(&self) -> impl Iterator<Item = Hint> {
        (0..).zip(&self.entries).filter_map(|(index, entry)| {
            let common_name = entry.name.as_ref()?.as_ref().to_owned();
            Some(Hint { common_name, v4: self.v4_of(index), v6: self.v6_of(index) })
        })
    }

    /// Grows whenever [`Self::hints`] would give something else than before.
    #[must_use]
    pub const fn hint_generation(&self) -> u64 {
        self.hint_generation
    }

    fn v4_of(&self, entry: u32) -> Option<Ipv4Addr> {
        Some(Ipv4Addr::from_bits(self.v4_start?.to_bits() + entry))
    }

    fn v6_of(&self, entry: u32) -> Option<Ipv6Addr> {
        Some(Ipv6Addr::from_bits(self.v6_base?.to_bits() + u128::from(entry)))
    }

    fn entry_of(&self, address: IpAddr) -> Option<u32> {
        let index = match address {
            IpAddr::V4(v4) => v4.to_bits().checked_sub(self.v4_start?.to_bits())?,
            IpAddr::V6(v6) => u32::try_from(v6.to_bits().checked_sub(self.v6_base?.to_bits())?).ok()?,
        };
        (index < self.size()).then_some(index)
    }

    /// Whether `address` can become somebody's static address. An entry in use holds both of its addresses.
    fn is_unused(&self, address: IpAddr) -> bool {
        let leased = self.entry_of(address).is_some_and(|entry| self.entries[entry as usize].leased);
        !leased && !self.statics.contains(&address)
    }

    fn block(&mut self, address: IpAddr) {
        self.statics.insert(address);
        if let Some(entry) = self.entry_of(address) {
            self.withdraw(entry);
            self.entries[entry as usize].blocked += 1;
        }
    }

    fn unblock(&mut self, address: IpAddr) {
        self.statics.remove(&address);
        if let Some(entry) = self.entry_of(address) {
            self.entries[entry as usize].blocked -= 1;
            self.make_available(entry);
        }
    }

    fn choose(&self, name: Option<&str>, worker: Option<usize>, layout: PeerIdLayout) -> Option<u32> {
        let names_worker = |entry: &&u32| {
            let address = self.v4_of(**entry).map(IpAddr::V4).or(self.v6_of(**entry).map(IpAddr::V6));
            worker.zip(address).is_none_or(|(worker, a)| worker_of_address(a, layout) as usize == worker)
        };
        // Neighbours name different workers: one of the next few fits, unless few are left.
        let look = 2 * layout.workers() as usize;
        name.and_then(|name| self.by_name.get(name).copied())
            .filter(|entry| self.entries[*entry as usize].is_free())
            .or_else(|| self.fresh.iter().take(look).find(names_worker).copied())
            .or_else(|| self.fresh.first().copied())
            .or_else(|| self.remembered.first_key_value().map(|(_, entry)| *entry))
    }

    fn lease(&mut self, entry: u32, name: Option<&str>) {
        self.withdraw(entry);
        self.entries[entry as usize].leased = true;
        self.rename(entry, name);
    }

    /// Takes `entry` off the free lists, if it is on one.
    fn withdraw(&mut self, entry: u32) {
        self.fresh.remove(&entry);
        let released = self.entries[entry as usize].released;
        if self.remembered.get(&released) == Some(&entry) {
            self.remembered.remove(&released);
        }
    }

    /// Puts `entry` on the free list where it belongs, if it is free.
    fn make_available(&mut self, entry: u32) {
        let state = &mut self.entries[entry as usize];
        if !state.is_free() {
            return;
        }
        if state.name.is_none() {
            self.fresh.insert(entry);
            return;
        }
        self.releases += 1;
        state.released = self.releases;
        self.remembered.insert(self.releases, entry);
    }

    /// Makes `name` the one that `entry` is remembered for, and `entry` the only one that is remembered for `name`.
    fn rename(&mut self, entry: u32, name: Option<&str>) {
        if self.entries[entry as usize].name.as_deref() == name {
            return;
        }
        self.hint_generation += 1;
        if let Some(former) = self.entries[entry as usize].name.take() {
            self.by_name.remove(&former);
        }
        let Some(name) = name else { return };
        let name: Arc<str> = Arc::from(name);
        if let Some(other) = self.by_name.insert(Arc::clone(&name), entry) {
            // The client moves; its former entry is held by another session of the same name, or blocked.
            self.withdraw(other);
            self.entries[other as usize].name = None;
            self.make_available(other);
        }
        self.entries[entry as usize].name = Some(name);
    }
}

impl Entry {
    const fn is_free(&self) -> bool {
        !self.leased && self.blocked == 0
    }
}

fn range_size(start: Ipv4Addr, end: Ipv4Addr) -> Result<u32, PoolError> {
    let span = end.to_bits().checked_sub(start.to_bits()).ok_or(PoolError::Backwards(start, end))?;
    if span >= MAX_POOL_SIZE {
        return Err(PoolError::TooLarge(start, end));
    }
    Ok(span + 1)
}

/// How many addresses from `base` to the end of its prefix, up to [`MAX_POOL_SIZE`].
fn room_in_prefix(base: Ipv6Addr, prefix: u8) -> Result<u32, PoolError> {
    if prefix > 128 {
        return Err(PoolError::BadPrefix(prefix));
    }
    let host_mask = u128::MAX.checked_shr(u32::from(prefix)).unwrap_or(0);
    let left = host_mask - (base.to_bits() & host_mask);
    let most = MAX_POOL_SIZE - 1;
    Ok(u32::try_from(left).map_or(most, |left| left.min(most)) + 1)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    fn one_worker() -> PeerIdLayout {
        PeerIdLayout::new(1).unwrap()
    }

    fn v4(last: u8) -> Ipv4Addr {
        Ipv4Addr::new(10, 8, 0, last)
    }

    fn v6(last: u16) -> Ipv6Addr {
        Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, last)
    }

    fn pool(first: u8, last: u8) -> AddressPool {
        AddressPool::new(Some((v4(first), v4(last))), Some((v6(0x1000), 64))).unwrap()
    }

    fn named(name: &str) -> LeaseRequest<'_> {
        LeaseRequest { common_name: Some(name), ..LeaseRequest::default() }
    }

    #[test]
    fn both_families_go_together_lowest_first() {
        let mut pool = pool(2, 254);
        assert_eq!((pool.size(), pool.free()), (253, 253));
        let a = pool.acquire(named("a"), one_worker()).unwrap();
        let b = pool.acquire(LeaseRequest::default(), one_worker()).unwrap();
        assert_eq!((a.v4(), a.v6()), (Some(v4(2)), Some(v6(0x1000))));
        assert_eq!((b.v4(), b.v6()), (Some(v4(3)), Some(v6(0x1001))));
        assert_eq!(pool.free(), 251);
    }

    #[test]
    fn a_client_gets_its_old_address_while_others_come_and_go() {
        let mut pool = pool(2, 5);
        let a = pool.acquire(named("a"), one_worker()).unwrap();
        let b = pool.acquire(named("b"), one_worker()).unwrap();
        pool.release(a);
        pool.release(b);
        // Entries without a memory go first.
        let c = pool.acquire(named("c"), one_worker()).unwrap();
        assert_eq!(c.v4(), Some(v4(4)));
        let a = pool.acquire(named("a"), one_worker()).unwrap();
        assert_eq!(a.v4(), Some(v4(2)));
        let d = pool.acquire(named("d"), one_worker()).unwrap();
        assert_eq!(d.v4(), Some(v4(5)));
        // Nothing but b's is left.
        let e = pool.acquire(named("e"), one_worker()).unwrap();
        assert_eq!(e.v4(), Some(v4(3)));
        assert_eq!(pool.acquire(named("b"), one_worker()), Err(LeaseError::PoolExhausted(4)));
        pool.release(e);
        pool.release(a);
        // Of the remembered, the longest unused is given away first.
        assert_eq!(pool.acquire(named("f"), one_worker()).unwrap().v4(), Some(v4(3)));
    }

    #[test]
    fn a_second_session_of_a_name_gets_another_address() {
        let mut pool = pool(2, 5);
        let first = pool.acquire(named("a"), one_worker()).unwrap();
        let second = pool.acquire(named("a"), one_worker()).unwrap();
        assert_ne!(first.v4(), second.v4());
        pool.release(first);
        pool.release(second);
        assert_eq!(pool.free(), 4);
        assert_eq!(pool.hints().count(), 1);
    }

    #[test]
    fn static_addresses_are_held_alone() {
        let mut pool = pool(2, 4);
        let fixed = |last| LeaseRequest { static_v4: Some(v4(last)), ..LeaseRequest::default() };
        let a = pool.acquire(fixed(2), one_worker()).unwrap();
        assert_eq!((a.v4(), a.v6()), (Some(v4(2)), None));
        assert_eq!(pool.acquire(fixed(2), one_worker()), Err(LeaseError::AddressInUse(v4(2).into())));
        let b = pool.acquire(named("b"), one_worker()).unwrap();
        assert_eq!(b.v4(), Some(v4(3)));
        assert_eq!(pool.acquire(fixed(3), one_worker()), Err(LeaseError::AddressInUse(v4(3).into())));
        // Outside the pool they are kept apart too.
        let outside = pool.acquire(fixed(200), one_worker()).unwrap();
        assert_eq!(pool.acquire(fixed(200), one_worker()), Err(LeaseError::AddressInUse(v4(200).into())));
        pool.release(a);
        pool.release(outside);
        let again = pool.acquire(fixed(200), one_worker()).unwrap();
        assert_eq!(again.v4(), Some(v4(200)));
        assert_eq!(pool.acquire(named("c"), one_worker()).unwrap().v4(), Some(v4(2)));
    }

    #[test]
    fn a_refused_request_changes_nothing() {
        let mut pool = pool(2, 2);
        let held = pool.acquire(named("a"), one_worker()).unwrap();
        let request = LeaseRequest { static_v6: Some(v6(9)), ..named("b") };
        assert_eq!(pool.acquire(request, one_worker()), Err(LeaseError::PoolExhausted(1)));
        pool.release(held);
        let lease = pool.acquire(request, one_worker()).unwrap();
        assert_eq!((lease.v4(), lease.v6()), (Some(v4(2)), Some(v6(9))));
    }

    #[test]
    fn the_gateways_own_address_is_never_handed_out() {
        let mut pool = pool(1, 2);
        pool.exclude(v4(1).into()).unwrap();
        let only = pool.acquire(named("a"), one_worker()).unwrap();
        assert_eq!(only.v4(), Some(v4(2)));
        assert_eq!(pool.acquire(named("b"), one_worker()), Err(LeaseError::PoolExhausted(2)));
        let request = LeaseRequest { static_v4: Some(v4(1)), ..LeaseRequest::default() };
        assert_eq!(pool.acquire(request, one_worker()), Err(LeaseError::AddressInUse(v4(1).into())));
        assert_eq!(pool.exclude(v4(2).into()), Err(LeaseError::AddressInUse(v4(2).into())));
    }

    #[test]
    fn odd_ranges() {
        assert_eq!(
            AddressPool::new(Some((v4(9), v4(2))), None).unwrap_err(),
            PoolError::Backwards(v4(9), v4(2))
        );
        let (low, high) = (Ipv4Addr::UNSPECIFIED, Ipv4Addr::BROADCAST);
        assert_eq!(AddressPool::new(Some((low, high)), None).unwrap_err(), PoolError::TooLarge(low, high));
        assert_eq!(AddressPool::new(None, Some((v6(0), 129))).unwrap_err(), PoolError::BadPrefix(129));
        assert_eq!(AddressPool::new(None, None).unwrap().size(), 0);
        assert_eq!(AddressPool::new(None, Some((v6(0xfffe), 112))).unwrap().size(), 2);
        assert_eq!(AddressPool::new(None, Some((v6(1), 128))).unwrap().size(), 1);
        assert_eq!(AddressPool::new(None, Some((v6(0), 0))).unwrap().size(), MAX_POOL_SIZE);
        let end = AddressPool::new(Some((high, high)), Some((Ipv6Addr::from_bits(u128::MAX), 64))).unwrap();
        assert_eq!((end.v4_of(0), end.size()), (Some(high), 1));
    }

    #[test]
    fn hints_are_checked() {
        let mut pool = pool(2, 9);
        let hint = |name: &str, v4, v6| Hint { common_name: name.to_owned(), v4, v6 };
        pool.remember(&hint("a", Some(v4(5)), Some(v6(0x1003)))).unwrap();
        pool.remember(&hint("b", Some(v4(6)), None)).unwrap();
        for (bad, reason) in [
            (hint("c", Some(v4(5)), None), HintRefused::Taken),
            (hint("a", Some(v4(7)), None), HintRefused::Repeated),
            (hint("c", Some(v4(7)), Some(v6(0x1000))), HintRefused::NotInPool),
            (hint("c", Some(v4(200)), None), HintRefused::NotInPool),
            (hint("c", None, None), HintRefused::NotInPool),
        ] {
            assert_eq!(pool.remember(&bad), Err(reason));
        }
        assert_eq!(pool.acquire(named("b"), one_worker()).unwrap().v4(), Some(v4(6)));
        assert_eq!(pool.acquire(named("a"), one_worker()).unwrap().v4(), Some(v4(5)));
        assert_eq!(pool.acquire(named("c"), one_worker()).unwrap().v4(), Some(v4(2)));
    }

    #[derive(Debug, Clone)]
    enum Step {
        Acquire { name: Option<u8>, static_v4: Option<u8>, static_v6: Option<u8> },
        Release(usize),
    }

    fn step() -> impl Strategy<Value = Step> {
        let name = prop::option::of(0u8..6);
        let rarely = |range| prop::option::weighted(0.2, range);
        prop_oneof![
            3 => (name, rarely(0u8..12), rarely(0u8..12))
                .prop_map(|(name, static_v4, static_v6)| Step::Acquire { name, static_v4, static_v6 }),
            2 => any::<usize>().prop_map(Step::Release),
        ]
    }

    proptest! {
        /// The model: who holds which address, and where each name was last.
        #[test]
        fn no_address_has_two_holders(
            size in 1u8..8,
            families in 0u8..3,
            steps in prop::collection::vec(step(), 1..200),
        ) {
            let (has_v4, has_v6) = (families != 1, families != 0);
            let range = has_v4.then(|| (v4(2), v4(1 + size)));
            let base = has_v6.then(|| (v6(0x100 - u16::from(size)), 120));
            let mut pool = AddressPool::new(range, base).unwrap();
            prop_assert_eq!(pool.size(), u32::from(size));
            let mut held: Vec<(Lease, Option<String>)> = Vec::new();
            let mut last: BTreeMap<String, (Option<Ipv4Addr>, Option<Ipv6Addr>)> = BTreeMap::new();
            for step in steps {
                match step {
                    Step::Acquire { name, static_v4, static_v6 } => {
                        let name = name.map(|n| format!("client{n}"));
                        let request = LeaseRequest {
                            worker: None,
                            common_name: name.as_deref(),
                            static_v4: static_v4.map(|n| v4(1 + n)),
                            static_v6: static_v6.map(|n| v6(0x100 - u16::from(size) + u16::from(n))),
                        };
                        let pool_wanted = request.static_v4.is_none() && (has_v4 || request.static_v6.is_none());
                        match pool.acquire(request, one_worker()) {
                            Ok(lease) => {
                                for (other, _) in &held {
                                    prop_assert!(lease.v4().is_none() || lease.v4() != other.v4());
                                    prop_assert!(lease.v6().is_none() || lease.v6() != other.v6());
                                }
                                if pool_wanted {
                                    prop_assert_eq!(lease.v4().is_some(), has_v4);
                                    prop_assert_eq!(lease.v6().is_some(), has_v6 || static_v6.is_some());
                                    let known = pool.hints().find(|hint| Some(&hint.common_name) == name.as_ref());
                                    prop_assert_eq!(known.is_some(), name.is_some());
                                    if let Some(name) = &name {
                                        last.insert(name.clone(), (lease.v4(), lease.v6()));
                                    }
                                }
                                held.push((lease, name));
                            }
                            Err(LeaseError::AddressInUse(address)) => {
                                let asked = [request.static_v4.map(IpAddr::V4), request.static_v6.map(IpAddr::V6)];
                                prop_assert!(asked.contains(&Some(address)));
                            }
                            Err(LeaseError::PoolExhausted(_)) => prop_assert!(pool_wanted),
                        }
                    }
                    Step::Release(n) if !held.is_empty() => {
                        let (lease, name) = held.swap_remove(n % held.len());
                        let had = (lease.v4(), lease.v6());
                        let plain = lease.entry.is_some() && lease.statics == [None, None];
                        pool.release(lease);
                        // Who comes back at once finds its address free, unless it was another session of the name.
                        if let Some(name) = name.filter(|name| plain && last.get(name) == Some(&had)) {
                            let again = pool.acquire(named(&name), one_worker()).unwrap();
                            prop_assert_eq!((again.v4(), again.v6()), had);
                            pool.release(again);
                        }
                    }
                    Step::Release(_) => {}
                }
                let leased = held.iter().filter(|(lease, _)| lease.entry.is_some()).count();
                prop_assert!(pool.free() as usize + leased <= pool.size() as usize);
            }
            for (lease, _) in held {
                pool.release(lease);
            }
            prop_assert_eq!(pool.free(), pool.size());
            let all: Vec<_> = (0..size).map(|_| pool.acquire(LeaseRequest::default(), one_worker()).unwrap()).collect();
            prop_assert_eq!(all.len(), usize::from(size));
            prop_assert!(pool.acquire(LeaseRequest::default(), one_worker()).is_err());
        }
    }
}
