//! Chooses the socket of a SO_REUSEPORT group: data by peer-id to its worker, everything else by session id to its shard.
//!
//! The verdict is for all segments of a GRO batch, so a worker hands over what is not data, and a shard what is.
#![no_std]
#![no_main]

use core::num::NonZeroU8;
use core::ptr;

use aya_ebpf::bindings::sk_action::{SK_DROP, SK_PASS};
use aya_ebpf::macros::{map, sk_reuseport};
use aya_ebpf::maps::{PerCpuArray, ReusePortSockArray};
use aya_ebpf::programs::SkReuseportContext;
use tessera_ebpf::{count, load};
use tessera_ebpf_common::steer::{HEAD_LEN, MAX_SOCKETS, socket_of};
use tessera_ebpf_common::{PeerIdLayout, Reason};

/// Where the UDP payload stands: the context starts at the UDP header.
const PAYLOAD: u32 = 8;

/// How many data workers there are; the loader writes it.
#[unsafe(no_mangle)]
static WORKERS: u32 = 1;

/// How many session shards there are; the loader writes it.
#[unsafe(no_mangle)]
static SHARDS: u8 = 1;

/// The sockets: workers, then shards.
#[map]
static SOCKETS: ReusePortSockArray = ReusePortSockArray::with_max_entries(MAX_SOCKETS, 0);

/// Datagrams by reason.
#[map]
static COUNTERS: PerCpuArray<u64> = PerCpuArray::with_max_entries(Reason::COUNT, 0);

/// The program.
#[sk_reuseport]
fn reuseport_select(ctx: SkReuseportContext) -> u32 {
    let (action, reason) = match select(&ctx) {
        Ok(reason) => (SK_PASS, reason),
        Err(reason) => (SK_DROP, reason),
    };
    count(&COUNTERS, reason, 1);
    action
}

#[inline(always)]
fn select(ctx: &SkReuseportContext) -> Result<Reason, Reason> {
    let head = load::<HEAD_LEN>(ctx, PAYLOAD).ok_or(Reason::Short)?;
    // SAFETY: a static of the program, which only the loader writes, before the program runs.
    let workers = unsafe { ptr::read_volatile(&raw const WORKERS) };
    // SAFETY: the same.
    let shards = unsafe { ptr::read_volatile(&raw const SHARDS) };
    // The loader writes no impossible counts; the verifier wants to see it.
    let (Some(layout), Some(shards)) = (PeerIdLayout::new(workers), NonZeroU8::new(shards)) else {
        return Ok(Reason::NoSocket);
    };
    let (index, reason) = socket_of(&head, layout, shards)?;
    // Without a choice the kernel's hash chooses, and whoever gets the datagram hands it over.
    Ok(SOCKETS.select_reuseport(ctx, index).map_or(Reason::NoSocket, |()| reason))
}
