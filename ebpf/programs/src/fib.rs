//! Asking the kernel's routes.

use core::mem::MaybeUninit;
use core::net::IpAddr;
use core::ptr;

use aya_ebpf::bindings::{
    __sk_buff, BPF_FIB_LKUP_RET_FWD_DISABLED, BPF_FIB_LKUP_RET_NOT_FWDED, bpf_fib_lookup,
};
use aya_ebpf::helpers::bpf_fib_lookup as fib_lookup;
use tessera_ebpf_common::Outer;

/// Room for a query of the kernel's routes.
#[repr(C, align(8))]
struct Query([u64; QUERY_WORDS]);

const QUERY_WORDS: usize = size_of::<bpf_fib_lookup>() / size_of::<u64>();
const _: () = assert!(QUERY_WORDS * size_of::<u64>() == size_of::<bpf_fib_lookup>());

const IPPROTO_UDP: u8 = 17;
const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;

/// Whether this host keeps the packet, rather than forward it to another: by its routes and rules for the device that it
/// came in by.
#[inline(always)]
pub fn is_local(md: &__sk_buff, outer: &Outer) -> bool {
    let mut query = MaybeUninit::<Query>::uninit();
    let zeroed = query.as_mut_ptr().cast::<u64>();
    for word in 0..QUERY_WORDS {
        // As plain zeroes this becomes a loop over bytes, which the verifier admits to privileged loaders only.
        // SAFETY: one of the words of the query.
        let word = unsafe { zeroed.add(word) };
        // SAFETY: the same.
        unsafe { ptr::write_volatile(word, 0) };
    }
    // SAFETY: the query is as long and as aligned as this type, for which all zeroes are valid.
    let query = unsafe { &mut *query.as_mut_ptr().cast::<bpf_fib_lookup>() };
    query.ifindex = md.ifindex;
    query.l4_protocol = IPPROTO_UDP;
    query.sport = outer.src_port.to_be();
    query.dport = outer.dst_port.to_be();
    match (outer.src, outer.dst) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => {
            query.family = AF_INET;
            query.__bindgen_anon_3.ipv4_src = u32::from_ne_bytes(src.octets());
            query.__bindgen_anon_4.ipv4_dst = u32::from_ne_bytes(dst.octets());
        }
        (IpAddr::V6(src), IpAddr::V6(dst)) => {
            query.family = AF_INET6;
            query.__bindgen_anon_3.ipv6_src = words(src.octets());
            query.__bindgen_anon_4.ipv6_dst = words(dst.octets());
        }
        _ => return false,
    }
    let size = size_of::<bpf_fib_lookup>() as i32;
    // SAFETY: the context, and a query of the length that is said.
    let answer = unsafe { fib_lookup(ptr::from_ref(md).cast_mut().cast(), query, size, 0) };
    answer == i64::from(BPF_FIB_LKUP_RET_NOT_FWDED) || answer == i64::from(BPF_FIB_LKUP_RET_FWD_DISABLED)
}

/// An address as four words, in the order of the network.
#[inline(always)]
fn words(addr: [u8; 16]) -> [u32; 4] {
    let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] = addr;
    [[a, b, c, d], [e, f, g, h], [i, j, k, l], [m, n, o, p]].map(u32::from_ne_bytes)
}
