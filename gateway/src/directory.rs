//! What all session shards share: who is here, under which name, number and addresses.
//!
//! One lock, held for a few map operations and never across an await; nothing of it is on the packet path.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Mutex;
use std::time::Instant;

use tessera_proto::endpoint::Handle;
use tessera_wire::PeerId;
use tokio::sync::watch;

use crate::lease::{
    AddressPool, Lease, LeaseError, LeaseRequest, PeerHandle, PeerIdAllocator, PeerIdError, Persist, Wish,
};
use crate::routes::{Prefix, RouteError, RouteTable};

/// A session, wherever it lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct SessionRef {
    /// Its shard.
    pub shard: usize,
    /// Its place there.
    pub handle: Handle,
}

/// Who may take an address over: the same user with the same certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Owner {
    /// User name; empty without one.
    pub username: String,
    /// SHA-256 of the certificate.
    pub certificate: Option<[u8; 32]>,
}

/// A client that holds a common name. The sender is dropped when the client is gone for good, its disconnect hook
/// included.
#[derive(Debug)]
struct Named {
    session: SessionRef,
    gone: watch::Sender<()>,
}

/// What [`Directory::claim_name`] found.
#[derive(Debug)]
pub enum Claim {
    /// The name is ours.
    Taken,
    /// Another session has it: end it, wait, and claim again.
    Held {
        /// Whom to end.
        by: SessionRef,
        /// Closes when it is gone.
        gone: watch::Receiver<()>,
    },
}

/// What becomes of a client that moves.
#[derive(Debug, PartialEq, Eq)]
pub enum MoveVerdict {
    /// Nobody else is there.
    Free,
    /// An older session of the same user with the same certificate is there: end it.
    Replaces(SessionRef),
    /// Somebody else is there.
    Refused,
}

#[derive(Debug)]
struct State {
    pool: AddressPool,
    persist: Option<Persist>,
    peer_ids: PeerIdAllocator,
    routes: RouteTable,
    names: BTreeMap<String, Named>,
    addresses: BTreeMap<SocketAddr, (SessionRef, Owner)>,
}

/// The shared state.
#[derive(Debug)]
pub struct Directory {
    state: Mutex<State>,
    duplicate_cn: bool,
}

impl Directory {
    /// A directory without clients.
    #[must_use]
    pub const fn new(
        pool: AddressPool,
        persist: Option<Persist>,
        peer_ids: PeerIdAllocator,
        routes: RouteTable,
        duplicate_cn: bool,
    ) -> Self {
        let state =
            State { pool, persist, peer_ids, routes, names: BTreeMap::new(), addresses: BTreeMap::new() };
        Self { state: Mutex::new(state), duplicate_cn }
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        // A panic under the lock leaves consistent maps: every change is one or two map operations.
        self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Takes a common name for a session, unless another holds it. With `duplicate-cn` names are shared.
    #[must_use]
    pub fn claim_name(&self, name: &str, session: SessionRef) -> Claim {
        if self.duplicate_cn || name.is_empty() {
            return Claim::Taken;
        }
        let mut state = self.state();
        match state.names.get(name) {
            Some(held) if held.session != session => {
                Claim::Held { by: held.session, gone: held.gone.subscribe() }
            }
            Some(_) => Claim::Taken,
            None => {
                state.names.insert(name.to_owned(), Named { session, gone: watch::Sender::new(()) });
                Claim::Taken
            }
        }
    }

    /// Gives a common name back, and wakes whoever waits for it.
    pub fn release_name(&self, name: &str, session: SessionRef) {
        let mut state = self.state();
        if state.names.get(name).is_some_and(|held| held.session == session) {
            state.names.remove(name);
        }
    }

    /// Leases addresses.
    ///
    /// # Errors
    /// When the pool is exhausted, or a static address is taken.
    pub fn lease(&self, request: LeaseRequest<'_>) -> Result<Lease, LeaseError> {
        let name = request.common_name.filter(|_| !self.duplicate_cn);
        let mut state = self.state();
        let worker = request.worker.unwrap_or_else(|| state.peer_ids.next_worker());
        let layout = state.peer_ids.layout();
        state.pool.acquire(LeaseRequest { common_name: name, worker: Some(worker), ..request }, layout)
    }

    /// Gives addresses back.
    pub fn release_lease(&self, lease: Lease) {
        self.state().pool.release(lease);
    }

    /// A peer-id on the worker that the address of its lease names, so that packets for it are steered there by arithmetic;
    /// on the least loaded one when that has too many clients already; on `worker` where it has to be that one.
    ///
    /// # Errors
    /// When there are as many clients as there may be.
    pub fn allocate_peer(
        &self,
        worker: Option<usize>,
        lease: Option<&Lease>,
        now: Instant,
    ) -> Result<PeerHandle, PeerIdError> {
        let address = lease.and_then(|lease| lease.v4().map(Into::into).or(lease.v6().map(Into::into)));
        let wish = worker.map(Wish::Exactly).or(address.map(Wish::Address)).unwrap_or(Wish::Any);
        self.state().peer_ids.allocate(wish, now)
    }

    /// Gives a peer-id back.
    pub fn release_peer(&self, peer: PeerHandle, now: Instant) {
        self.state().peer_ids.release(peer, now);
    }

    /// Takes a route for a peer, unless another has it.
    ///
    /// # Errors
    /// Whose it is, or that there are too many.
    pub fn add_route(&self, prefix: Prefix, peer: PeerId) -> Result<(), RouteError> {
        self.state().routes.insert(prefix, peer).map(drop)
    }

    /// Gives all routes of a peer back.
    pub fn remove_routes(&self, peer: PeerId) {
        self.state().routes.remove_owner(peer);
    }

    /// Notes where a logged-in session is.
    pub fn place(&self, address: SocketAddr, session: SessionRef, owner: Owner) {
        self.state().addresses.insert(address, (session, owner));
    }

    /// Forgets where a session was.
    pub fn leave(&self, address: SocketAddr, session: SessionRef) {
        let mut state = self.state();
        if state.addresses.get(&address).is_some_and(|(there, _)| *there == session) {
            state.addresses.remove(&address);
        }
    }

    /// Moves a session from one address to another, if it may go there.
    #[must_use]
    pub fn relocate(
        &self,
        from: SocketAddr,
        to: SocketAddr,
        session: SessionRef,
        owner: &Owner,
    ) -> MoveVerdict {
        let mut state = self.state();
        let verdict = match state.addresses.get(&to) {
            Some((there, theirs)) if *there != session => {
                if theirs != owner {
                    return MoveVerdict::Refused;
                }
                MoveVerdict::Replaces(*there)
            }
            _ => MoveVerdict::Free,
        };
        if state.addresses.get(&from).is_some_and(|(there, _)| *there == session) {
            state.addresses.remove(&from);
        }
        state.addresses.insert(to, (session, owner.clone()));
        verdict
    }

    /// Writes the address memory when it is due; `force` writes whatever changed. Blocks on the disk, without the lock.
    ///
    /// # Errors
    /// When the file cannot be written; it is tried again.
    pub fn save_addresses(&self, now: Instant, force: bool) -> Result<(), crate::lease::PersistError> {
        let snapshot = {
            let mut state = self.state();
            let State { pool, persist, .. } = &mut *state;
            match persist {
                Some(persist) if force => persist.snapshot(pool),
                Some(persist) => persist.snapshot_if_due(now, pool),
                None => None,
            }
        };
        let Some(snapshot) = snapshot else { return Ok(()) };
        snapshot.write()?;
        if let Some(persist) = &mut self.state().persist {
            persist.confirm(&snapshot);
        }
        Ok(())
    }

    /// How many clients hold a peer-id.
    #[must_use]
    pub fn clients(&self) -> u32 {
        self.state().peer_ids.live()
    }
}
