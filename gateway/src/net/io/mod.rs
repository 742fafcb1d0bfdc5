//! The seam under the control plane: the same shard code on io_uring or on epoll.
//!
//! On io_uring, sends are tokio-uring's `sendmsg` with packet info. tokio-uring 0.5 has no receive that also tells which of
//! our addresses a datagram was sent to, so receives have a small ring of their own (see the `ring` module). On epoll both are
//! system calls after readiness.

mod probe;
mod ring;
mod socket;

pub use probe::{IoBackend, probe};
pub use socket::ControlSocket;

use std::future::Future;
use std::io;

use tokio::task::LocalSet;

/// Submission entries of one shard's ring: more sends than that in one turn wait for the next.
const RING_ENTRIES: u32 = 256;

/// Runs `future` to its end on this thread, on the given back end. `tokio::task::spawn_local`, timers and channels of tokio
/// work inside.
///
/// # Errors
/// When the runtime cannot be made.
pub fn run_on<F: Future>(backend: IoBackend, future: F) -> io::Result<F::Output> {
    match backend {
        IoBackend::Uring => {
            let mut builder = tokio_uring::builder();
            builder.entries(RING_ENTRIES);
            Ok(tokio_uring::Runtime::new(&builder)?.block_on(future))
        }
        IoBackend::Epoll => {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            Ok(LocalSet::new().block_on(&runtime, future))
        }
    }
}
