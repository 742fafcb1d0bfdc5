//! The BPF programs of the data path: they steer and filter inside the kernel. Each saves work only; without it, everything
//! still works.
//!
//! | program | hook | what |
//! |---|---|---|
//! | [`reuseport`] | SO_REUSEPORT group | data by peer-id to its worker, everything else by session id to its shard |
//! | [`tun`] | TUN device | inner packets to the queue of the worker that owns their destination |
//! | [`guard`] | ingress of a device (TCX) | drops what is sent to our ports and cannot be from a client |
//!
//! Their sources are in `ebpf/programs`; `ebpf/build` makes the objects that are embedded here. Each value loads a copy of its
//! program with maps of its own, and may be used from any thread. Nothing is pinned: no program outlives what it serves.

mod counters;
mod error;
pub mod guard;
mod object;
pub mod reuseport;
pub mod tun;

pub use counters::Counters;
pub use error::BpfError;
pub use guard::Guard;
pub use object::Loaded;
pub use reuseport::ReuseportSteering;
pub use tun::TunSteering;
