//! What the kernel is told so that it brings packets to the worker that owns their peer.
//!
//! The programs know most owners by arithmetic: a datagram's peer-id names its worker, and so does an inner address that was
//! chosen for it. Told are the exceptions (other addresses, networks behind clients), and which peer-ids are live. All of it
//! happens at logins and logouts, on the threads of shards.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tessera_ebpf_common::PeerIdLayout;
use tessera_ebpf_common::steer::worker_of_address;
use tessera_wire::PeerId;
use tracing::{error, warn};

use crate::bpf::{Counters, Guard, ReuseportSteering, TunSteering};
use crate::routes::Prefix;

/// The programs of a running gateway, as far as there are any. They go with their sockets, their device, or this value.
#[derive(Debug)]
pub struct Steering {
    layout: PeerIdLayout,
    udp: Vec<ReuseportSteering>,
    tun: Option<TunSteering>,
    guard: Mutex<Option<Guard>>,
    /// Prefixes that the TUN's program was told of.
    told: Mutex<HashMap<PeerId, Vec<Prefix>>>,
}

impl Steering {
    /// Without any program everything here does nothing.
    #[must_use]
    pub fn new(
        layout: PeerIdLayout,
        udp: Vec<ReuseportSteering>,
        tun: Option<TunSteering>,
        guard: Option<Guard>,
    ) -> Self {
        Self { layout, udp, tun, guard: Mutex::new(guard), told: Mutex::default() }
    }

    /// A peer-id is given out: its datagrams pass from now on.
    pub(super) fn peer_arrives(&self, id: PeerId) {
        self.set_live(id, true);
    }

    /// A peer-id is nobody's any more.
    pub(super) fn peer_leaves(&self, id: PeerId) {
        self.set_live(id, false);
    }

    /// Packets for `prefix` belong to `id`.
    pub(super) fn add_route(&self, prefix: Prefix, id: PeerId) {
        let Some(tun) = &self.tun else { return };
        let worker = self.layout.worker_of(id);
        if self.is_known(prefix, worker) {
            return;
        }
        match tun.add(prefix, worker) {
            Ok(()) => lock(&self.told).entry(id).or_default().push(prefix),
            // Its packets are handed over by the workers.
            Err(error) => warn!("packets for {prefix} are not steered: {error}"),
        }
    }

    /// No packets belong to `id` any more.
    pub(super) fn remove_routes(&self, id: PeerId) {
        let Some(tun) = &self.tun else { return };
        for prefix in lock(&self.told).remove(&id).unwrap_or_default() {
            if let Err(error) = tun.remove(prefix) {
                warn!("packets for {prefix} are still steered: {error}");
            }
        }
    }

    /// What the programs have counted, by program.
    #[must_use]
    pub fn counters(&self) -> Vec<(&'static str, Counters)> {
        let udp = self.udp.iter().map(|program| ("reuseport_select", program.counters()));
        let tun = self.tun.iter().map(|program| ("tun_steer", program.counters()));
        let guard = lock(&self.guard).as_ref().map(|program| ("tcx_guard", program.counters()));
        let all = udp.chain(tun).chain(guard);
        all.filter_map(|(name, counters)| Some((name, counters.ok()?))).collect()
    }

    /// Whether the program finds that worker by arithmetic.
    fn is_known(&self, prefix: Prefix, worker: u32) -> bool {
        let whole = if matches!(prefix.addr(), IpAddr::V4(_)) { 32 } else { 128 };
        prefix.len() == whole && worker_of_address(prefix.addr(), self.layout) == worker
    }

    fn set_live(&self, id: PeerId, live: bool) {
        let mut guard = lock(&self.guard);
        let Some(Err(error)) = guard.as_ref().map(|guard| guard.set_live(id, live)) else { return };
        if live {
            // A guard that does not know a client would drop its packets.
            error!("the guard of the uplink is taken away: {error}");
            *guard = None;
        } else {
            warn!("the guard of the uplink lets a former client pass: {error}");
        }
    }
}

/// Held for one or two system calls.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
