//! What a client holds while it is connected, and must hold alone: its tunnel addresses and its peer-id.
//!
//! [`AddressPool`] hands out addresses, [`Persist`] remembers on disk which client had which, and
//! [`PeerIdAllocator`] hands out peer-ids. None of them locks or waits: the session plane keeps each behind one
//! mutex, which is taken once per login and once per logout.

mod peer_ids;
mod persist;
mod pool;

pub use peer_ids::{PeerHandle, PeerIdAllocator, PeerIdError, REUSE_DELAY, Wish};
pub use persist::{Persist, PersistError, RejectedLine, Saved, Snapshot};
pub use pool::{AddressPool, Hint, HintRefused, Lease, LeaseError, LeaseRequest, MAX_POOL_SIZE, PoolError};
