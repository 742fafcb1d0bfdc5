//! What the BPF programs have in common: counters, reading a packet, the licence, and what Rust wants of a program that
//! cannot panic.
//!
//! Each program is a binary of its own, so that the gateway loads just its maps. Decisions that can be made on bytes alone
//! are in `tessera-ebpf-common` and `tessera-wire`, where user space tests and fuzzes them.
#![no_std]

pub mod fib;

use core::mem::MaybeUninit;

use aya_ebpf::EbpfContext;
use aya_ebpf::helpers::bpf_skb_load_bytes;
use aya_ebpf::maps::PerCpuArray;
use tessera_ebpf_common::Reason;

/// Adds `packets` to the counter of `reason` on this CPU.
#[inline(always)]
pub fn count(counters: &PerCpuArray<u64>, reason: Reason, packets: u64) {
    if let Some(counter) = counters.get_ptr_mut(reason.index()) {
        // SAFETY: the kernel gave this pointer to an entry of this CPU, and no other program runs on it in between.
        unsafe { *counter += packets };
    }
}

/// `N` bytes of the packet at `offset` behind where the context starts; `None` when it is shorter. Takes no notice of how the
/// bytes are scattered, as those of a batch that GRO has merged may be.
#[inline(always)]
pub fn load<const N: usize>(ctx: &impl EbpfContext, offset: u32) -> Option<[u8; N]> {
    let mut bytes = MaybeUninit::<[u8; N]>::uninit();
    // SAFETY: the program's context, and room for `N` bytes.
    let failed =
        unsafe { bpf_skb_load_bytes(ctx.as_ptr().cast_const(), offset, bytes.as_mut_ptr().cast(), N as u32) };
    if failed != 0 {
        return None;
    }
    // SAFETY: the helper has filled all of it.
    Some(unsafe { bytes.assume_init() })
}

/// Some helpers are for programs under a licence that the kernel knows as compatible.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

/// The verifier admits no program that could get here.
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}
