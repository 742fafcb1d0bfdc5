//! The BPF programs in the kernel: against a classifier in user space, over real sockets, and how they end. Needs root and a
//! kernel with BPF; without them these tests fail.

#![expect(clippy::unwrap_used, reason = "a test may fail by panic")]

mod guard;
mod kernel;
mod lifetime;
mod reference;
mod reuseport;
mod rights;
mod tun;
