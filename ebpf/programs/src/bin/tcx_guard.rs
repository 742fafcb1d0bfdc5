//! Drops what is sent to our UDP ports and cannot be from a client of ours, before a socket is looked for.
//!
//! It runs after GRO, so a packet may be many datagrams of one flow. What it does not recognize goes on to the next
//! program: only what is certainly ours is ever dropped.
#![no_std]
#![no_main]

use core::mem;
use core::net::IpAddr;

use aya_ebpf::bindings::tcx_action_base::{TCX_DROP, TCX_NEXT};
use aya_ebpf::bindings::{
    __sk_buff, BPF_FIB_LKUP_RET_FWD_DISABLED, BPF_FIB_LKUP_RET_NOT_FWDED, bpf_fib_lookup,
};
use aya_ebpf::helpers::bpf_fib_lookup as fib_lookup;
use aya_ebpf::macros::{classifier, map};
use aya_ebpf::maps::{Array, HashMap, PerCpuArray};
use aya_ebpf::programs::TcContext;
use tessera_ebpf::{count, load};
use tessera_ebpf_common::{Claim, Endpoint, Outer, Reason, claim, outer};
use tessera_wire::PeerId;

const ETH_P_IP: u16 = 0x0800;
const ETH_P_IPV6: u16 = 0x86dd;
const IPPROTO_UDP: u8 = 17;
const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;

/// The frame is addressed to this host, and is no other's that we overhear.
const PACKET_HOST: u32 = 0;

/// The most datagrams that the kernel merges into one packet (UDP_MAX_SEGMENTS).
const MAX_SEGMENTS: u32 = 128;

/// The endpoints that are ours. The loader sets the size and the entries.
#[map]
static PORTS: HashMap<[u8; Endpoint::LEN], u8> = HashMap::with_max_entries(1, 0);

/// By peer-id: 1 when it is somebody's. The loader sets the size.
#[map]
static LIVE: Array<u8> = Array::with_max_entries(1, 0);

/// Datagrams by reason. What is not ours is not counted.
#[map]
static COUNTERS: PerCpuArray<u64> = PerCpuArray::with_max_entries(Reason::COUNT, 0);

/// The program.
#[classifier]
fn tcx_guard(ctx: TcContext) -> i32 {
    let Some((verdict, datagrams)) = judge(ctx.skb.skb) else {
        return TCX_NEXT;
    };
    let (action, reason) = match verdict {
        Ok(reason) => (TCX_NEXT, reason),
        Err(reason) => (TCX_DROP, reason),
    };
    count(&COUNTERS, reason, u64::from(datagrams));
    action
}

/// The verdict on a packet to one of our endpoints, and how many datagrams it is; `None` when it is not ours.
#[inline(always)]
fn judge(skb: *const __sk_buff) -> Option<(Result<Reason, Reason>, u32)> {
    // SAFETY: the program's context, for as long as the program runs.
    let md = unsafe { &*skb };
    // A tag makes it another device's.
    if md.pkt_type != PACKET_HOST || md.vlan_present != 0 {
        return None;
    }
    let (outer, start) = match u16::from_be(md.protocol as u16) {
        ETH_P_IP => (Outer::parse_v4(&load(skb, 0)?)?, outer::V4_LEN as u32),
        ETH_P_IPV6 => (Outer::parse_v6(&load(skb, 0)?)?, outer::V6_LEN as u32),
        _ => return None,
    };
    let everywhere = if is_ours(outer.endpoint()) {
        false
    } else if is_ours(outer.any_endpoint()) {
        true
    } else {
        return None;
    };
    let len = u32::from(outer.payload);
    let segment = if md.gso_size == 0 || md.gso_size > len { len } else { md.gso_size };
    let datagrams = if md.gso_segs == 0 { 1 } else { md.gso_segs };
    let head = claim_at(skb, start, segment)?;
    if head.is_ok() {
        return Some((head, datagrams));
    }
    // A stranger who knows a client's address could have its datagrams merged behind junk: all must be junk. That is
    // looked at only here, so that good traffic pays for one look.
    let mut at = segment;
    for _ in 1..MAX_SEGMENTS {
        if at >= len {
            break;
        }
        let rest = len - at;
        let verdict = claim_at(skb, start + at, if rest < segment { rest } else { segment })?;
        if verdict.is_ok() {
            return Some((verdict, datagrams));
        }
        at += segment;
    }
    if at < len || (everywhere && !is_local(md, &outer)) {
        return None;
    }
    Some((head, datagrams))
}

#[inline(always)]
fn is_ours(endpoint: Endpoint) -> bool {
    // SAFETY: only whether there is an entry is looked at.
    unsafe { PORTS.get(endpoint.0) }.is_some()
}

/// The verdict on the datagram of `len` bytes at `at`; `None` when it is not all there.
#[inline(always)]
fn claim_at(skb: *const __sk_buff, at: u32, len: u32) -> Option<Result<Reason, Reason>> {
    if len < claim::MIN_LEN {
        return Some(Err(Reason::Short));
    }
    Some(match Claim::parse(&load(skb, at)?, len) {
        Ok(Claim::Data(peer_id)) if is_live(peer_id) => Ok(Reason::Data),
        Ok(Claim::Data(_)) => Err(Reason::UnknownPeer),
        Ok(Claim::Control) => Ok(Reason::Control),
        Err(reason) => Err(reason),
    })
}

#[inline(always)]
fn is_live(peer_id: PeerId) -> bool {
    peer_id != PeerId::UNDEFINED && LIVE.get(peer_id.get()).is_some_and(|live| *live != 0)
}

/// Whether this host keeps the packet, rather than forward it to another: asked only for what would be dropped at an
/// endpoint that names no address.
#[inline(always)]
fn is_local(md: &__sk_buff, outer: &Outer) -> bool {
    // SAFETY: all-zero is a valid query.
    let mut query: bpf_fib_lookup = unsafe { mem::zeroed() };
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
    let size = mem::size_of::<bpf_fib_lookup>() as i32;
    // SAFETY: the context, and a query of the length that is said.
    let answer = unsafe { fib_lookup(core::ptr::from_ref(md).cast_mut().cast(), &raw mut query, size, 0) };
    answer == i64::from(BPF_FIB_LKUP_RET_NOT_FWDED) || answer == i64::from(BPF_FIB_LKUP_RET_FWD_DISABLED)
}

/// An address as four words, in the order of the network.
#[inline(always)]
fn words(addr: [u8; 16]) -> [u32; 4] {
    let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] = addr;
    [[a, b, c, d], [e, f, g, h], [i, j, k, l], [m, n, o, p]].map(u32::from_ne_bytes)
}
