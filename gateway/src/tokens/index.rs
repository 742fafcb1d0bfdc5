//! Which tokens expire next, and which are one client's. Only the paths that change the cache use it; a check never
//! does.

use std::collections::BTreeMap;
use std::hash::{BuildHasher as _, RandomState};
use std::sync::Arc;

use hashbrown::HashTable;

use super::binding::{Binding, Presented};
use super::record::UnixSeconds;
use super::slab::Slab;
use super::slots::Slots;

/// Shards of the cache: enough that threads seldom meet, and few enough to walk.
pub(super) const SHARDS: usize = 64;

/// The end of a chain.
const NONE: u32 = u32::MAX;

/// Where a record is: the shard, and the slot in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place(u32);

impl Place {
    pub(super) const fn new(shard: usize, slot: u32) -> Self {
        Self(slot * SHARDS as u32 + shard as u32)
    }

    pub(super) const fn shard(self) -> usize {
        self.0 as usize % SHARDS
    }

    pub(super) const fn slot(self) -> u32 {
        self.0 / SHARDS as u32
    }
}

/// A client's number; good while it has a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ClientId(u32);

/// A token in its two chains, at the place of its record: 20 bytes.
#[derive(Debug, Clone, Copy)]
struct Node {
    client: u32,
    due: Link,
    own: Link,
}

#[derive(Debug, Clone, Copy)]
struct Link {
    previous: u32,
    next: u32,
}

/// A chain's ends.
#[derive(Debug, Clone, Copy)]
struct Chain {
    first: u32,
    last: u32,
}

const UNLINKED: Link = Link { previous: NONE, next: NONE };
const EMPTY: Chain = Chain { first: NONE, last: NONE };

#[derive(Debug)]
struct Client {
    binding: Arc<Binding>,
    tokens: Chain,
    count: u32,
    /// Other clients of the same username.
    user: Link,
}

/// Numbers of clients by a hash, in parts, so that one that grows keeps nobody waiting for longer than a part takes.
#[derive(Debug)]
struct Parts {
    parts: Vec<HashTable<u32>>,
    len: usize,
}

impl Default for Parts {
    fn default() -> Self {
        Self { parts: (0..SHARDS).map(|_| HashTable::new()).collect(), len: 0 }
    }
}

impl Parts {
    /// Of bits of the hash that the table inside uses neither for the bucket nor for the tag.
    const fn part(hash: u64) -> usize {
        (hash >> 40) as usize % SHARDS
    }

    fn find(&self, hash: u64, is: impl Fn(u32) -> bool) -> Option<u32> {
        self.parts.get(Self::part(hash))?.find(hash, |id| is(*id)).copied()
    }

    fn insert(&mut self, hash: u64, id: u32, rehash: impl Fn(u32) -> u64) {
        if let Some(part) = self.parts.get_mut(Self::part(hash)) {
            part.insert_unique(hash, id, |id| rehash(*id));
            self.len += 1;
        }
    }

    /// Puts another number in the place of `id`, or none.
    fn replace(&mut self, hash: u64, id: u32, by: Option<u32>) {
        let part = self.parts.get_mut(Self::part(hash));
        let Some(Ok(mut entry)) = part.map(|part| part.find_entry(hash, |other| *other == id)) else {
            return;
        };
        match by {
            Some(by) => *entry.get_mut() = by,
            None => {
                entry.remove();
                self.len -= 1;
            }
        }
    }
}

/// Two orders of the same set of tokens.
#[derive(Debug)]
pub(super) struct Index {
    nodes: Vec<Slab<Node>>,
    len: usize,
    /// Tokens that expire in the same second are chained in the order in which they came.
    due: BTreeMap<UnixSeconds, Chain>,
    clients: Slab<Option<Client>>,
    free: Vec<u32>,
    /// Numbers of clients by username and certificate.
    by_client: Parts,
    /// The first of each username's chain of clients.
    by_user: Parts,
    hasher: RandomState,
    /// Of the clients' names.
    names: usize,
    /// Of the names of each token's client.
    names_of_tokens: usize,
}

impl Default for Index {
    fn default() -> Self {
        Self {
            nodes: (0..SHARDS).map(|_| Slab::default()).collect(),
            len: 0,
            due: BTreeMap::new(),
            clients: Slab::default(),
            free: Vec::new(),
            by_client: Parts::default(),
            by_user: Parts::default(),
            hasher: RandomState::new(),
            names: 0,
            names_of_tokens: 0,
        }
    }
}

impl Index {
    /// A token's record and its node.
    pub(super) const TOKEN_BYTES: usize = Slots::RECORD_BYTES + size_of::<Node>();
    /// A second in which tokens expire: nodes of the tree are half full when seconds come in order.
    pub(super) const SECOND_BYTES: usize = (size_of::<UnixSeconds>() + size_of::<Chain>()) * 2;
    /// A client without its names: its place, two buckets, its binding with the counts of the `Arc` and what the
    /// allocator adds to two allocations.
    pub(super) const CLIENT_BYTES: usize =
        size_of::<Option<Client>>() + 2 * 12 + size_of::<Binding>() + 16 + 2 * 16;

    pub(super) const fn len(&self) -> usize {
        self.len
    }

    /// The accounted estimate of all that cache and index take.
    pub(super) fn bytes(&self) -> usize {
        self.len * Self::TOKEN_BYTES
            + self.due.len() * Self::SECOND_BYTES
            + self.by_client.len * Self::CLIENT_BYTES
            + self.names
    }

    /// What one token more of `binding` takes, at most.
    pub(super) fn cost(&self, binding: &Binding) -> usize {
        let client = match self.client(&binding.presented()) {
            Some(_) => 0,
            None => Self::CLIENT_BYTES,
        };
        Self::TOKEN_BYTES + Self::SECOND_BYTES + client + binding.names_len()
    }

    /// Clients that have tokens.
    pub(super) fn clients(&self) -> usize {
        self.by_client.len
    }

    /// Of all tokens, the bytes of their client's names together.
    pub(super) const fn names_of_tokens(&self) -> usize {
        self.names_of_tokens
    }

    /// The number of `binding`'s client, and the binding that its tokens share. A client that comes with another
    /// common name has it from now on, for all its tokens: then its earlier tokens must be given the binding, and
    /// their places come back too. Add a token before anything else is done with the index.
    pub(super) fn intern(&mut self, binding: Arc<Binding>) -> (ClientId, Arc<Binding>, Vec<Place>) {
        if let Some(id) = self.client(&binding.presented())
            && let Some(Some(client)) = self.clients.get_mut(id.0)
        {
            if client.binding == binding {
                return (id, Arc::clone(&client.binding), Vec::new());
            }
            self.names = self.names - client.binding.names_len() + binding.names_len();
            self.names_of_tokens -= client.count as usize * client.binding.names_len();
            self.names_of_tokens += client.count as usize * binding.names_len();
            client.binding = Arc::clone(&binding);
            return (id, binding, self.tokens(id));
        }
        let id = self.add_client(Arc::clone(&binding));
        (id, binding, Vec::new())
    }

    pub(super) fn add(&mut self, place: Place, id: ClientId, expires: UnixSeconds) {
        let Some(nodes) = self.nodes.get_mut(place.shard()) else { return };
        while nodes.len() <= place.slot() as usize {
            nodes.push(Node { client: NONE, due: UNLINKED, own: UNLINKED });
        }
        self.node(place.0, |node| node.client = id.0);
        let mut chain = self.due.get(&expires).copied().unwrap_or(EMPTY);
        self.append(&mut chain, place.0, |node| &mut node.due);
        self.due.insert(expires, chain);
        if let Some(Some(client)) = self.clients.get_mut(id.0) {
            client.count += 1;
            self.names_of_tokens += client.binding.names_len();
            let mut chain = client.tokens;
            self.append(&mut chain, place.0, |node| &mut node.own);
            self.with_client(id.0, |client| client.tokens = chain);
        }
        self.len += 1;
    }

    pub(super) fn remove(&mut self, place: Place, expires: UnixSeconds) {
        if let Some(mut chain) = self.due.get(&expires).copied() {
            self.unlink(&mut chain, place.0, |node| &mut node.due);
            if chain.first == NONE {
                self.due.remove(&expires);
            } else {
                self.due.insert(expires, chain);
            }
        }
        let id = self.node(place.0, |node| std::mem::replace(&mut node.client, NONE)).unwrap_or(NONE);
        if let Some(Some(client)) = self.clients.get_mut(id) {
            client.count -= 1;
            self.names_of_tokens -= client.binding.names_len();
            let (mut chain, left) = (client.tokens, client.count);
            self.unlink(&mut chain, place.0, |node| &mut node.own);
            self.with_client(id, |client| client.tokens = chain);
            if left == 0 {
                self.remove_client(id);
            }
        }
        self.len -= 1;
    }

    /// The token that expires first, of all; of several the one that came first.
    pub(super) fn next_due(&self) -> Option<(UnixSeconds, Place)> {
        self.due.first_key_value().map(|(expires, chain)| (*expires, Place(chain.first)))
    }

    /// The client with this username and certificate, if it has a token.
    pub(super) fn client(&self, presented: &Presented<'_>) -> Option<ClientId> {
        let hash = self.hasher.hash_one(presented);
        self.by_client
            .find(hash, |id| self.binding(id).is_some_and(|binding| binding.presented() == *presented))
            .map(ClientId)
    }

    /// How many tokens a client has.
    pub(super) fn count(&self, id: ClientId) -> usize {
        self.clients.get(id.0).and_then(Option::as_ref).map_or(0, |client| client.count as usize)
    }

    /// A client's tokens in the order in which they came.
    pub(super) fn tokens(&self, id: ClientId) -> Vec<Place> {
        let mut tokens = Vec::with_capacity(self.count(id));
        let mut at =
            self.clients.get(id.0).and_then(Option::as_ref).map_or(NONE, |client| client.tokens.first);
        while at != NONE {
            tokens.push(Place(at));
            at = self.peek(at).map_or(NONE, |node| node.own.next);
        }
        tokens
    }

    /// The tokens of `username`, under whatever certificate.
    pub(super) fn of_user(&self, username: &str) -> Vec<Place> {
        let mut tokens = Vec::new();
        let mut at = self.user(username).unwrap_or(NONE);
        while let Some(Some(client)) = self.clients.get(at) {
            tokens.extend(self.tokens(ClientId(at)));
            at = client.user.next;
        }
        tokens
    }

    fn user(&self, username: &str) -> Option<u32> {
        let hash = self.hasher.hash_one(username);
        self.by_user.find(hash, |id| self.binding(id).is_some_and(|binding| binding.username() == username))
    }

    fn binding(&self, id: u32) -> Option<&Binding> {
        self.clients.get(id)?.as_ref().map(|client| &*client.binding)
    }

    fn add_client(&mut self, binding: Arc<Binding>) -> ClientId {
        let first = self.user(binding.username());
        let client = Client {
            binding,
            tokens: EMPTY,
            count: 0,
            user: Link { previous: NONE, next: first.unwrap_or(NONE) },
        };
        self.names += client.binding.names_len();
        let id = self.free.pop().unwrap_or_else(|| {
            self.clients.push(None);
            (self.clients.len() - 1) as u32
        });
        let hash = self.hasher.hash_one(client.binding.presented());
        let user_hash = self.hasher.hash_one(client.binding.username());
        if let Some(place) = self.clients.get_mut(id) {
            *place = Some(client);
        }
        let (clients, hasher) = (&self.clients, &self.hasher);
        let of = |id| clients.get(id).and_then(Option::as_ref);
        self.by_client
            .insert(hash, id, |id| of(id).map_or(0, |client| hasher.hash_one(client.binding.presented())));
        match first {
            Some(first) => {
                // The newest leads the chain, in the place of the one that led it.
                self.by_user.replace(user_hash, first, Some(id));
                self.with_client(first, |client| client.user.previous = id);
            }
            None => self.by_user.insert(user_hash, id, |id| {
                of(id).map_or(0, |client| hasher.hash_one(client.binding.username()))
            }),
        }
        ClientId(id)
    }

    fn remove_client(&mut self, id: u32) {
        let Some(client) = self.clients.get_mut(id).and_then(Option::take) else { return };
        self.names -= client.binding.names_len();
        let hash = self.hasher.hash_one(client.binding.presented());
        self.by_client.replace(hash, id, None);
        let Link { previous, next } = client.user;
        self.with_client(next, |client| client.user.previous = previous);
        if previous == NONE {
            let hash = self.hasher.hash_one(client.binding.username());
            self.by_user.replace(hash, id, (next != NONE).then_some(next));
        } else {
            self.with_client(previous, |client| client.user.next = next);
        }
        self.free.push(id);
    }

    fn with_client(&mut self, id: u32, change: impl FnOnce(&mut Client)) {
        if let Some(Some(client)) = self.clients.get_mut(id) {
            change(client);
        }
    }

    fn peek(&self, at: u32) -> Option<&Node> {
        let place = Place(at);
        self.nodes.get(place.shard())?.get(place.slot())
    }

    fn node<T>(&mut self, at: u32, change: impl FnOnce(&mut Node) -> T) -> Option<T> {
        let place = Place(at);
        self.nodes.get_mut(place.shard())?.get_mut(place.slot()).map(change)
    }

    fn append(&mut self, chain: &mut Chain, at: u32, link: fn(&mut Node) -> &mut Link) {
        self.node(at, |node| *link(node) = Link { previous: chain.last, next: NONE });
        if chain.last == NONE {
            chain.first = at;
        } else {
            self.node(chain.last, |node| link(node).next = at);
        }
        chain.last = at;
    }

    fn unlink(&mut self, chain: &mut Chain, at: u32, link: fn(&mut Node) -> &mut Link) {
        let Some(Link { previous, next }) = self.node(at, |node| std::mem::replace(link(node), UNLINKED))
        else {
            return;
        };
        if previous == NONE {
            chain.first = next;
        } else {
            self.node(previous, |node| link(node).next = next);
        }
        if next == NONE {
            chain.last = previous;
        } else {
            self.node(next, |node| link(node).previous = previous);
        }
    }
}
