//! Longest prefix match by one exact map per prefix length.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::net::IpAddr;

use tessera_wire::PeerId;

use super::prefix::{Prefix, mask4, mask6};

/// Why a route was not added.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RouteError {
    /// Another client has the very same prefix; it keeps it.
    #[error("{prefix} already leads to peer {owner}")]
    Conflict {
        /// The prefix.
        prefix: Prefix,
        /// Who has it.
        owner: PeerId,
    },
    /// The table is full.
    #[error("the route table is full ({0} routes)")]
    Full(usize),
}

/// The routes to clients.
#[derive(Debug)]
pub struct RouteTable {
    v4: Family<u32>,
    v6: Family<u128>,
    by_owner: HashMap<PeerId, Vec<Prefix>>,
    routes: usize,
    limit: usize,
}

impl RouteTable {
    /// An empty table for at most `limit` routes: `max-clients` × (2 + `max-routes-per-client`) holds every client.
    #[must_use]
    pub fn new(limit: usize) -> Self {
        Self { v4: Family::new(), v6: Family::new(), by_owner: HashMap::new(), routes: 0, limit }
    }

    /// How many routes there are.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.routes
    }

    /// Whether there is no route.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.routes == 0
    }

    /// The client that has the longest prefix around `addr`.
    #[inline]
    #[must_use]
    pub fn lookup(&self, addr: IpAddr) -> Option<PeerId> {
        match addr {
            IpAddr::V4(v4) => self.v4.lookup(v4.to_bits()),
            IpAddr::V6(v6) => self.v6.lookup(v6.to_bits()),
        }
    }

    /// Whether `peer` may send inner packets from `src`: answers to `src` would go to that very peer.
    #[inline]
    #[must_use]
    pub fn owner_allows(&self, peer: PeerId, src: IpAddr) -> bool {
        self.lookup(src) == Some(peer)
    }

    /// Leads `prefix` to `owner`. `Ok(false)` when it does already.
    ///
    /// # Errors
    /// [`RouteError`]; then nothing has changed. Prefixes of different lengths may overlap, the longer one wins.
    pub fn insert(&mut self, prefix: Prefix, owner: PeerId) -> Result<bool, RouteError> {
        match self.owner_of(prefix) {
            Some(present) if present == owner => return Ok(false),
            Some(present) => {
                return Err(RouteError::Conflict { prefix, owner: present });
            }
            None if self.routes >= self.limit => return Err(RouteError::Full(self.limit)),
            None => {}
        }
        match prefix.addr() {
            IpAddr::V4(v4) => self.v4.insert(v4.to_bits(), prefix.len(), owner),
            IpAddr::V6(v6) => self.v6.insert(v6.to_bits(), prefix.len(), owner),
        }
        self.by_owner.entry(owner).or_default().push(prefix);
        self.routes += 1;
        Ok(true)
    }

    /// Removes `prefix` if it is `owner`'s; `false` when it is not, and nothing changes.
    pub fn remove(&mut self, prefix: Prefix, owner: PeerId) -> bool {
        if self.owner_of(prefix) != Some(owner) {
            return false;
        }
        self.forget(prefix);
        if let Some(prefixes) = self.by_owner.get_mut(&owner) {
            prefixes.retain(|other| *other != prefix);
            if prefixes.is_empty() {
                self.by_owner.remove(&owner);
            }
        }
        true
    }

    /// Removes all routes of a client that is gone; how many there were.
    pub fn remove_owner(&mut self, owner: PeerId) -> usize {
        let prefixes = self.by_owner.remove(&owner).unwrap_or_default();
        for prefix in &prefixes {
            self.forget(*prefix);
        }
        prefixes.len()
    }

    /// The prefixes that lead to `owner`, in the order in which they were added.
    #[must_use]
    pub fn of_owner(&self, owner: PeerId) -> &[Prefix] {
        self.by_owner.get(&owner).map_or(&[], Vec::as_slice)
    }

    /// Who has exactly this prefix.
    #[must_use]
    pub fn owner_of(&self, prefix: Prefix) -> Option<PeerId> {
        match prefix.addr() {
            IpAddr::V4(v4) => self.v4.exact(v4.to_bits(), prefix.len()),
            IpAddr::V6(v6) => self.v6.exact(v6.to_bits(), prefix.len()),
        }
    }

    fn forget(&mut self, prefix: Prefix) {
        match prefix.addr() {
            IpAddr::V4(v4) => self.v4.remove(v4.to_bits(), prefix.len()),
            IpAddr::V6(v6) => self.v6.remove(v6.to_bits(), prefix.len()),
        }
        self.routes -= 1;
    }
}

type Map<A> = HashMap<A, PeerId, BuildHasherDefault<AddressHasher>>;

/// The prefixes of one address family.
#[derive(Debug)]
struct Family<A> {
    /// The lengths in use, longest first. No map in here is empty.
    lengths: Vec<(u8, A, Map<A>)>,
}

/// What the two families differ in.
trait Address: Copy + Eq + std::hash::Hash {
    fn mask(len: u8) -> Self;
    fn and(self, mask: Self) -> Self;
}

impl Address for u32 {
    #[inline]
    fn mask(len: u8) -> Self {
        mask4(len)
    }
    #[inline]
    fn and(self, mask: Self) -> Self {
        self & mask
    }
}

impl Address for u128 {
    #[inline]
    fn mask(len: u8) -> Self {
        mask6(len)
    }
    #[inline]
    fn and(self, mask: Self) -> Self {
        self & mask
    }
}

impl<A: Address> Family<A> {
    const fn new() -> Self {
        Self { lengths: Vec::new() }
    }

    #[inline]
    fn lookup(&self, addr: A) -> Option<PeerId> {
        self.lengths.iter().find_map(|(_, mask, map)| map.get(&addr.and(*mask)).copied())
    }

    /// Where the length is, or where it would have to be inserted.
    fn position(&self, len: u8) -> Result<usize, usize> {
        self.lengths.binary_search_by(|(other, ..)| len.cmp(other))
    }

    fn exact(&self, addr: A, len: u8) -> Option<PeerId> {
        let (_, _, map) = &self.lengths[self.position(len).ok()?];
        map.get(&addr).copied()
    }

    fn insert(&mut self, addr: A, len: u8, owner: PeerId) {
        let at = self.position(len).unwrap_or_else(|at| {
            self.lengths.insert(at, (len, A::mask(len), Map::default()));
            at
        });
        self.lengths[at].2.insert(addr, owner);
    }

    fn remove(&mut self, addr: A, len: u8) {
        let Ok(at) = self.position(len) else { return };
        self.lengths[at].2.remove(&addr);
        if self.lengths[at].2.is_empty() {
            self.lengths.remove(at);
        }
    }
}

/// Multiplies and folds. The keys in the table come from the operator's configuration, never from a packet, so nobody
/// can choose them to collide; a packet only asks.
#[derive(Debug, Default)]
struct AddressHasher(u64);

impl AddressHasher {
    #[inline]
    const fn mix(&mut self, word: u64) {
        // 2^64 divided by the golden ratio, odd: spreads neighbours over the whole range.
        const SPREAD: u128 = 0x9e37_79b9_7f4a_7c15;
        let product = (self.0 ^ word) as u128 * SPREAD;
        self.0 = product as u64 ^ (product >> 64) as u64;
    }
}

impl Hasher for AddressHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.mix(u64::from_le_bytes(word));
        }
    }

    #[inline]
    fn write_u32(&mut self, word: u32) {
        self.mix(u64::from(word));
    }

    #[inline]
    fn write_u128(&mut self, word: u128) {
        self.mix((word >> 64) as u64);
        self.mix(word as u64);
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr};

    use proptest::prelude::*;

    use super::*;

    fn peer(id: u32) -> PeerId {
        PeerId::new(id).unwrap()
    }

    fn prefix(text: &str) -> Prefix {
        let (addr, len) = text.split_once('/').unwrap();
        Prefix::new(addr.parse().unwrap(), len.parse().unwrap()).unwrap()
    }

    fn addr(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn the_longest_prefix_wins() {
        let mut table = RouteTable::new(10);
        for (route, owner) in
            [("10.8.0.2/32", 2), ("10.0.0.0/8", 1), ("10.8.0.0/16", 3), ("fd00::/64", 1), ("fd00::5/128", 5)]
        {
            assert_eq!(table.insert(prefix(route), peer(owner)), Ok(true));
        }
        for (asked, owner) in [
            ("10.8.0.2", Some(2)),
            ("10.8.0.3", Some(3)),
            ("10.9.0.2", Some(1)),
            ("11.0.0.0", None),
            ("fd00::5", Some(5)),
            ("fd00::6", Some(1)),
            ("fd00:0:0:1::", None),
            ("::ffff:10.8.0.2", None),
        ] {
            assert_eq!(table.lookup(addr(asked)), owner.map(peer), "{asked}");
        }
        assert!(table.owner_allows(peer(3), addr("10.8.7.7")));
        assert!(!table.owner_allows(peer(3), addr("10.8.0.2")), "another client's own address");
        assert!(!table.owner_allows(peer(3), addr("192.0.2.1")));
    }

    #[test]
    fn a_route_belongs_to_who_came_first() {
        let mut table = RouteTable::new(3);
        let route = prefix("192.168.1.0/24");
        assert_eq!(table.insert(route, peer(1)), Ok(true));
        assert_eq!(table.insert(route, peer(1)), Ok(false));
        assert_eq!(table.insert(route, peer(2)), Err(RouteError::Conflict { prefix: route, owner: peer(1) }));
        assert!(!table.remove(route, peer(2)));
        assert_eq!(table.lookup(addr("192.168.1.9")), Some(peer(1)));
        assert_eq!(table.insert(prefix("192.168.2.0/24"), peer(1)), Ok(true));
        assert_eq!(table.insert(prefix("0.0.0.0/0"), peer(2)), Ok(true));
        assert_eq!(table.insert(prefix("::/0"), peer(2)), Err(RouteError::Full(3)));
        assert_eq!(table.of_owner(peer(1)), [route, prefix("192.168.2.0/24")]);
        assert_eq!(table.remove_owner(peer(1)), 2);
        assert_eq!(table.remove_owner(peer(1)), 0);
        assert_eq!((table.len(), table.is_empty()), (1, false));
        assert_eq!(table.lookup(addr("192.168.1.9")), Some(peer(2)), "the default route is left");
        assert_eq!(table.insert(route, peer(2)), Ok(true));
    }

    /// Addresses that share prefixes of many lengths, so that overlaps are common.
    fn near() -> impl Strategy<Value = IpAddr> {
        let v4 = (0u32..16, 0u32..4).prop_map(|(high, low)| Ipv4Addr::from_bits(high << 28 | low).into());
        let v6 = (0u128..16, 0u128..4).prop_map(|(high, low)| Ipv6Addr::from_bits(high << 124 | low).into());
        prop_oneof![v4, v6]
    }

    fn any_prefix() -> impl Strategy<Value = Prefix> {
        (near(), prop_oneof![0u8..=4, 29u8..=32, 125u8..=128]).prop_map(|(addr, len)| {
            let addr_and_len = match addr {
                IpAddr::V4(v4) => {
                    let len = len.min(32);
                    (IpAddr::V4(Ipv4Addr::from_bits(v4.to_bits() & mask4(len))), len)
                }
                IpAddr::V6(v6) => (IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() & mask6(len))), len),
            };
            Prefix::new(addr_and_len.0, addr_and_len.1).unwrap()
        })
    }

    #[derive(Debug, Clone)]
    enum Step {
        Insert(Prefix, u32),
        Remove(Prefix, u32),
        RemoveOwner(u32),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            6 => (any_prefix(), 0u32..4).prop_map(|(prefix, owner)| Step::Insert(prefix, owner)),
            3 => (any_prefix(), 0u32..4).prop_map(|(prefix, owner)| Step::Remove(prefix, owner)),
            1 => (0u32..4).prop_map(Step::RemoveOwner),
        ]
    }

    /// Bit by bit, without masks: what a prefix means.
    fn covers(prefix: Prefix, addr: IpAddr) -> bool {
        let bits = |addr: IpAddr| -> Vec<bool> {
            let octets = match addr {
                IpAddr::V4(v4) => v4.octets().to_vec(),
                IpAddr::V6(v6) => v6.octets().to_vec(),
            };
            octets.iter().flat_map(|octet| (0..8).rev().map(move |bit| octet >> bit & 1 == 1)).collect()
        };
        let len = usize::from(prefix.len());
        prefix.addr().is_ipv4() == addr.is_ipv4() && bits(prefix.addr())[..len] == bits(addr)[..len]
    }

    proptest! {
        #[test]
        fn behaves_like_a_list_of_routes(
            steps in prop::collection::vec(step(), 0..80),
            asked in prop::collection::vec(near(), 20),
        ) {
            const LIMIT: usize = 20;
            let mut table = RouteTable::new(LIMIT);
            let mut list: Vec<(Prefix, PeerId)> = Vec::new();
            for step in steps {
                match step {
                    Step::Insert(prefix, owner) => {
                        let present = list.iter().find(|(other, _)| *other == prefix).map(|(_, owner)| *owner);
                        let expected = match present {
                            Some(present) if present == peer(owner) => Ok(false),
                            Some(present) => Err(RouteError::Conflict { prefix, owner: present }),
                            None if list.len() == LIMIT => Err(RouteError::Full(LIMIT)),
                            None => {
                                list.push((prefix, peer(owner)));
                                Ok(true)
                            }
                        };
                        prop_assert_eq!(table.insert(prefix, peer(owner)), expected);
                    }
                    Step::Remove(prefix, owner) => {
                        let before = list.len();
                        list.retain(|route| *route != (prefix, peer(owner)));
                        prop_assert_eq!(table.remove(prefix, peer(owner)), list.len() < before);
                    }
                    Step::RemoveOwner(owner) => {
                        let before = list.len();
                        list.retain(|(_, other)| *other != peer(owner));
                        prop_assert_eq!(table.remove_owner(peer(owner)), before - list.len());
                    }
                }
                prop_assert_eq!(table.len(), list.len());
                for addr in &asked {
                    let best = list.iter().filter(|(prefix, _)| covers(*prefix, *addr)).max_by_key(|(p, _)| p.len());
                    prop_assert_eq!(table.lookup(*addr), best.map(|(_, owner)| *owner));
                }
            }
            for owner in (0..4).map(peer) {
                let expected: Vec<_> = list.iter().filter(|(_, o)| *o == owner).map(|(p, _)| *p).collect();
                prop_assert_eq!(table.of_owner(owner), expected);
            }
        }
    }

    #[test]
    fn neighbours_do_not_collide() {
        let hash = |addr: u128| {
            let mut hasher = AddressHasher::default();
            hasher.write_u128(addr);
            hasher.finish()
        };
        // hashbrown takes its bucket from the low bits and its tag from the top seven.
        for base in [0u128, 0xfd00 << 112, u128::MAX - 4096] {
            let low: std::collections::HashSet<_> = (0..4096).map(|i| hash(base + i) & 0xffff).collect();
            let tag: std::collections::HashSet<_> = (0..4096).map(|i| hash(base + i) >> 57).collect();
            assert!(low.len() > 3500, "{} of 4096 buckets", low.len());
            assert!(tag.len() > 100, "{} of 128 tags", tag.len());
        }
    }
}
