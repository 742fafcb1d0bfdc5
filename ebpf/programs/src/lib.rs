//! What the BPF programs have in common: counters, reading a packet, the licence, and what Rust wants of a program that
//! cannot panic.
//!
//! Each program is a binary of its own, so that the gateway loads just its maps. Decisions that can be made on bytes alone
//! are in `tessera-ebpf-common` and `tessera-wire`, where user space tests and fuzzes them.
#![no_std]

use core::mem::MaybeUninit;

use aya_ebpf::bindings::__sk_buff;
use aya_ebpf::helpers::bpf_skb_load_bytes_relative;
use aya_ebpf::maps::PerCpuArray;
use tessera_ebpf_common::Reason;

/// Which start a packet offset counts from (`enum bpf_hdr_start_off`).
const FROM_NETWORK_HEADER: u32 = 1;

/// Adds `packets` to the counter of `reason` on this CPU.
#[inline(always)]
pub fn count(counters: &PerCpuArray<u64>, reason: Reason, packets: u64) {
    if let Some(counter) = counters.get_ptr_mut(reason.index()) {
        // SAFETY: the kernel gave this pointer to an entry of this CPU, and no other program runs on it in between.
        unsafe { *counter += packets };
    }
}

/// `N` bytes of `skb` at `offset` behind the start of its IP header; `None` when it is shorter. Takes no notice of how the
/// bytes are scattered, nor of whether the device has link-layer headers.
#[inline(always)]
pub fn load<const N: usize>(skb: *const __sk_buff, offset: u32) -> Option<[u8; N]> {
    let mut bytes = MaybeUninit::<[u8; N]>::uninit();
    // SAFETY: `skb` is the program's context, and `bytes` has room for `N` bytes.
    let failed = unsafe {
        bpf_skb_load_bytes_relative(
            skb.cast(),
            offset,
            bytes.as_mut_ptr().cast(),
            N as u32,
            FROM_NETWORK_HEADER,
        )
    };
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
