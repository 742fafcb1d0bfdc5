//! Steers inner packets to the queue of the worker that owns their destination.

use std::ffi::c_int;
use std::fmt;
use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::sync::{Mutex, PoisonError};

use aya::maps::lpm_trie::Key;
use aya::maps::{LpmTrie, MapData, MapError, PerCpuArray};
use aya::programs::SocketFilter;
use tessera_ebpf_common::PeerIdLayout;

use super::counters::Counters;
use super::error::{BpfError, CAP_BPF, Program, failed, invalid};
use super::object::{Loaded, Object};
use crate::routes::Prefix;

const PROGRAM: Program = Program { name: "tun_steer", needs: &[CAP_BPF] };

static OBJECT: &[u8] = aya::include_bytes_aligned!("../../../ebpf/object/tun_steer.bpf.o");

mod ioctl {
    nix::ioctl_write_ptr_bad!(
        /// Gives a device the program that chooses its queues; the argument points at the program's descriptor. (The number says
        /// "read", as linux/if_tun.h does.)
        tunsetsteeringebpf,
        nix::request_code_read!(b'T', 224, size_of::<std::ffi::c_int>()),
        std::ffi::c_int
    );
}

/// The program at a TUN device. It stays attached when this is dropped, and goes with the device.
pub struct TunSteering {
    layout: PeerIdLayout,
    routes4: Mutex<LpmTrie<MapData, [u8; 4], u32>>,
    routes6: Mutex<LpmTrie<MapData, [u8; 16], u32>>,
    counters: PerCpuArray<MapData, u64>,
    loaded: Loaded,
}

impl TunSteering {
    /// Steers the device of which `queue` is any queue: to the worker of the longest route around the destination, else to
    /// the worker that the low bits of the destination name. Queue `n` must be worker `n`'s. There is room for `max_routes`
    /// routes of each family; there are none at first.
    ///
    /// # Errors
    /// `queue` is none of a TUN device, or the kernel refuses the program (needs CAP_BPF).
    pub fn attach(queue: BorrowedFd<'_>, layout: PeerIdLayout, max_routes: u32) -> Result<Self, BpfError> {
        // A map of no entries cannot be made.
        let max_routes = max_routes.max(1);
        let workers = layout.workers();
        let mut object = Object::open(PROGRAM, OBJECT, |loader| {
            loader
                .override_global("WORKERS", &workers, true)
                .map_max_entries("ROUTES4", max_routes)
                .map_max_entries("ROUTES6", max_routes);
        })?;
        let routes4 = Mutex::new(object.map("ROUTES4")?);
        let routes6 = Mutex::new(object.map("ROUTES6")?);
        let counters = object.map("COUNTERS")?;
        object.load(SocketFilter::load)?;
        let loaded = object.loaded()?;
        let program: c_int = loaded.as_fd().as_raw_fd();
        // SAFETY: both descriptors are open, and the kernel reads one int through the pointer.
        unsafe { ioctl::tunsetsteeringebpf(queue.as_raw_fd(), &raw const program) }
            .map_err(|e| failed(PROGRAM, "TUNSETSTEERINGEBPF", &io::Error::from(e)))?;
        Ok(Self { layout, routes4, routes6, counters, loaded })
    }

    /// Leads `prefix` to `worker`, instead of wherever it led. One system call.
    ///
    /// # Errors
    /// No such worker, or there are `max_routes` routes already.
    pub fn add(&self, prefix: Prefix, worker: u32) -> Result<(), BpfError> {
        let step = || format!("add route {prefix} to worker {worker}");
        if worker >= self.layout.workers() {
            return Err(invalid(PROGRAM, step(), format!("there are {} workers", self.layout.workers())));
        }
        let (len, added) = (u32::from(prefix.len()), 0);
        let done = match prefix.addr() {
            IpAddr::V4(v4) => lock(&self.routes4).insert(&Key::new(len, v4.octets()), worker, added),
            IpAddr::V6(v6) => lock(&self.routes6).insert(&Key::new(len, v6.octets()), worker, added),
        };
        done.map_err(|e| failed(PROGRAM, step(), &e))
    }

    /// Takes the route of exactly `prefix` away, if there is one. One system call.
    ///
    /// # Errors
    /// The map cannot be written.
    pub fn remove(&self, prefix: Prefix) -> Result<(), BpfError> {
        let len = u32::from(prefix.len());
        let done = match prefix.addr() {
            IpAddr::V4(v4) => lock(&self.routes4).remove(&Key::new(len, v4.octets())),
            IpAddr::V6(v6) => lock(&self.routes6).remove(&Key::new(len, v6.octets())),
        };
        match done {
            Err(MapError::SyscallError(e)) if e.io_error.kind() == io::ErrorKind::NotFound => Ok(()),
            other => other.map_err(|e| failed(PROGRAM, format!("remove route {prefix}"), &e)),
        }
    }

    /// Packets by reason: `Routed`, `Addressed`, `NoAddress`. A GSO packet counts as one.
    ///
    /// # Errors
    /// The map cannot be read.
    pub fn counters(&self) -> Result<Counters, BpfError> {
        Counters::read(PROGRAM, &self.counters)
    }

    /// The program in the kernel.
    #[must_use]
    pub const fn loaded(&self) -> &Loaded {
        &self.loaded
    }
}

/// Held for one system call.
fn lock<T>(map: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    map.lock().unwrap_or_else(PoisonError::into_inner)
}

impl fmt::Debug for TunSteering {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TunSteering").field("loaded", &self.loaded).finish_non_exhaustive()
    }
}
