//! Chooses the queue of a TUN device by the destination of the inner packet: by route if there is one, else by the low bits
//! of the address.
#![no_std]
#![no_main]

use core::net::IpAddr;
use core::ptr;

use aya_ebpf::macros::{map, socket_filter};
use aya_ebpf::maps::lpm_trie::Key;
use aya_ebpf::maps::{LpmTrie, PerCpuArray};
use aya_ebpf::programs::SkBuffContext;
use tessera_ebpf::{count, load};
use tessera_ebpf_common::steer::worker_of_address;
use tessera_ebpf_common::{PeerIdLayout, Reason};
use tessera_wire::ip::addresses;

/// How many data workers there are; the loader writes it.
#[unsafe(no_mangle)]
static WORKERS: u32 = 1;

/// IPv4 prefix to worker. The loader sets the size.
#[map]
static ROUTES4: LpmTrie<[u8; 4], u32> = LpmTrie::with_max_entries(1, 0);

/// IPv6 prefix to worker. The loader sets the size.
#[map]
static ROUTES6: LpmTrie<[u8; 16], u32> = LpmTrie::with_max_entries(1, 0);

/// Packets by reason.
#[map]
static COUNTERS: PerCpuArray<u64> = PerCpuArray::with_max_entries(Reason::COUNT, 0);

/// The program. What it returns is the queue.
#[socket_filter]
fn tun_steer(ctx: SkBuffContext) -> i64 {
    let (queue, reason) = steer(&ctx).unwrap_or((0, Reason::NoAddress));
    count(&COUNTERS, reason, 1);
    i64::from(queue)
}

#[inline(always)]
fn steer(ctx: &SkBuffContext) -> Option<(u32, Reason)> {
    let dst = destination(ctx)?;
    let route = match dst {
        IpAddr::V4(addr) => ROUTES4.get(Key::new(32, addr.octets())),
        IpAddr::V6(addr) => ROUTES6.get(Key::new(128, addr.octets())),
    };
    if let Some(worker) = route {
        return Some((*worker, Reason::Routed));
    }
    // SAFETY: a static of the program, which only the loader writes, before the program runs.
    let workers = unsafe { ptr::read_volatile(&raw const WORKERS) };
    Some((worker_of_address(dst, PeerIdLayout::new(workers)?), Reason::Addressed))
}

#[inline(always)]
fn destination(ctx: &SkBuffContext) -> Option<IpAddr> {
    let header = load::<20>(ctx, 0)?;
    let found = match header[0] >> 4 {
        6 => addresses(&load::<40>(ctx, 0)?),
        _ => addresses(&header),
    };
    Some(found?.dst)
}
