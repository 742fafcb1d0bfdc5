//! The seam under the control plane: the same shard code on io_uring or on epoll.
//!
//! Sends go through the ring with their packet info. tokio-uring offers no receive that also tells which of our addresses
//! a datagram was sent to, so on both back ends a receive waits for readiness (on io_uring the runtime's own epoll set,
//! which hangs off the ring thread) and takes the datagram with `recvmsg`.

mod probe;
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
            Ok(builder.start(future))
        }
        IoBackend::Epoll => {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()?;
            Ok(LocalSet::new().block_on(&runtime, future))
        }
    }
}
