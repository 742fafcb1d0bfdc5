//! Steers the datagrams of one UDP port to the sockets of its group.

use std::fmt;
use std::num::NonZeroU8;
use std::os::fd::BorrowedFd;

use aya::maps::{MapData, PerCpuArray, ReusePortSockArray};
use aya::programs::SkReuseport;
use tessera_ebpf_common::PeerIdLayout;
use tessera_ebpf_common::steer::MAX_SOCKETS;

use super::counters::Counters;
use super::error::{BpfError, CAP_BPF, Program, failed, invalid};
use super::object::{Loaded, Object};

const PROGRAM: Program = Program { name: "reuseport_select", needs: &[CAP_BPF] };

static OBJECT: &[u8] = aya::include_bytes_aligned!("../../../ebpf/object/reuseport_select.bpf.o");

/// The program at a SO_REUSEPORT group. It stays attached when this is dropped, and goes when the last socket of the group is
/// closed, or when another program takes its place (as [`crate::net::steering::attach`] does).
pub struct ReuseportSteering {
    counters: PerCpuArray<MapData, u64>,
    loaded: Loaded,
}

impl ReuseportSteering {
    /// Steers the group that `sockets` are: first the workers' in worker order, then the shards' in shard order. All must be
    /// bound to the same address with SO_REUSEPORT.
    ///
    /// # Errors
    /// The number of sockets is not that of workers and shards, or above [`MAX_SOCKETS`]; a socket belongs to no group; the
    /// kernel refuses the program (needs CAP_BPF). What steered the group before still does then.
    pub fn attach(
        sockets: &[BorrowedFd<'_>],
        layout: PeerIdLayout,
        shards: NonZeroU8,
    ) -> Result<Self, BpfError> {
        let workers = layout.workers();
        let expected = workers as usize + usize::from(shards.get());
        if sockets.len() != expected || expected > MAX_SOCKETS as usize {
            return Err(invalid(
                PROGRAM,
                "count the sockets",
                format!(
                    "{} sockets for {workers} workers and {shards} shards, of at most {MAX_SOCKETS}",
                    sockets.len()
                ),
            ));
        }
        let shards = shards.get();
        let mut object = Object::open(PROGRAM, OBJECT, |loader| {
            loader.override_global("WORKERS", &workers, true).override_global("SHARDS", &shards, true);
        })?;
        let counters = object.map("COUNTERS")?;
        let mut group: ReusePortSockArray<MapData> = object.map("SOCKETS")?;
        let program: &mut SkReuseport = object.load(SkReuseport::load)?;
        for (index, socket) in (0..).zip(sockets) {
            group
                .set(index, socket, 0)
                .map_err(|e| failed(PROGRAM, format!("put socket {index} into its map"), &e))?;
        }
        let first = sockets[0];
        program.attach(first).map_err(|e| failed(PROGRAM, "attach to the group", &e))?;
        let loaded = object.loaded()?;
        Ok(Self { counters, loaded })
    }

    /// Datagrams by reason: `Data`, `Control`, `NoSocket` (left to the kernel's hash), and those dropped as `Short` or
    /// `UnknownOpcode`. A GRO batch counts as one.
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

impl fmt::Debug for ReuseportSteering {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReuseportSteering").field("loaded", &self.loaded).finish_non_exhaustive()
    }
}
