//! Drops what is sent to our UDP ports and cannot be from a client of ours, before a socket is looked for.
//!
//! It runs after GRO, so a packet may be many datagrams of one flow. What it does not recognize goes on to the next
//! program: only what is certainly ours is ever dropped.
#![no_std]
#![no_main]

use core::ffi::c_void;
use core::ptr;

use aya_ebpf::bindings::__sk_buff;
use aya_ebpf::bindings::tcx_action_base::{TCX_DROP, TCX_NEXT};
use aya_ebpf::helpers::bpf_loop;
use aya_ebpf::macros::{classifier, map};
use aya_ebpf::maps::{Array, HashMap, PerCpuArray};
use aya_ebpf::programs::TcContext;
use tessera_ebpf::fib::is_local;
use tessera_ebpf::{count, load};
use tessera_ebpf_common::{Claim, Endpoint, Outer, Reason, claim, outer};
use tessera_wire::PeerId;

const ETH_P_IP: u16 = 0x0800;
const ETH_P_IPV6: u16 = 0x86dd;

/// The frame is addressed to this host, and is no other's that we overhear.
const PACKET_HOST: u32 = 0;

/// The context starts at the Ethernet header; the loader attaches to Ethernet devices only.
const IP: u32 = 14;

/// The most datagrams that one packet can be: GRO merges 64, a local sender may hand over 128 (UDP_MAX_SEGMENTS).
const MAX_SEGMENTS: u32 = 128;

/// The endpoints that are ours. The loader sets the size and the entries.
#[map]
static PORTS: HashMap<[u32; Endpoint::WORDS], u8> = HashMap::with_max_entries(1, 0);

/// By peer-id: 1 when it is somebody's. The loader sets the size.
#[map]
static LIVE: Array<u8> = Array::with_max_entries(1, 0);

/// Datagrams by reason. What is not ours is not counted.
#[map]
static COUNTERS: PerCpuArray<u64> = PerCpuArray::with_max_entries(Reason::COUNT, 0);

/// The program.
#[classifier]
fn tcx_guard(ctx: TcContext) -> i32 {
    let Some((verdict, datagrams)) = judge(&ctx) else {
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
fn judge(ctx: &TcContext) -> Option<(Result<Reason, Reason>, u32)> {
    // SAFETY: the program's context, for as long as the program runs.
    let md = unsafe { &*ctx.skb.skb };
    // A tag makes it another device's.
    if md.pkt_type != PACKET_HOST || md.vlan_present != 0 {
        return None;
    }
    let (outer, start) = match u16::from_be(md.protocol as u16) {
        ETH_P_IP => (Outer::parse_v4(&load(ctx, IP)?)?, IP + outer::V4_LEN as u32),
        ETH_P_IPV6 => (Outer::parse_v6(&load(ctx, IP)?)?, IP + outer::V6_LEN as u32),
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
    // The kernel drops by itself what ends too early.
    if start + len > md.len {
        return None;
    }
    let segment = if md.gso_size == 0 || md.gso_size > len { len } else { md.gso_size };
    let datagrams = if md.gso_segs == 0 { 1 } else { md.gso_segs };
    let head = claim_at(ctx, start, segment)?;
    if head.is_ok() {
        return Some((head, datagrams));
    }
    if segment < len {
        // A stranger who knows a client's address could have its datagrams merged behind junk: all must be junk. That is
        // looked at only here, so that good traffic pays for one look.
        let mut batch = Batch { skb: ctx.skb.skb, start, segment, len, found: Found::Junk };
        batch.look();
        match batch.found {
            Found::Junk => {}
            Found::Good(reason) => return Some((Ok(reason), datagrams)),
            Found::Unknown => return None,
        }
    }
    if everywhere && !is_local(md, &outer) {
        return None;
    }
    Some((head, datagrams))
}

/// What stands behind the head of a packet that is several datagrams.
enum Found {
    Junk,
    Good(Reason),
    /// It could not be read, or is more than there can be.
    Unknown,
}

/// A packet that is several datagrams, each but the last of `segment` bytes.
struct Batch {
    skb: *mut __sk_buff,
    start: u32,
    segment: u32,
    len: u32,
    found: Found,
}

impl Batch {
    /// Looks for a good one behind the head. The kernel makes the loop, so that its body is verified once.
    #[inline(always)]
    fn look(&mut self) {
        let behind = (self.len - 1).checked_div(self.segment);
        let Some(behind) = behind.filter(|behind| *behind < MAX_SEGMENTS) else {
            self.found = Found::Unknown;
            return;
        };
        let body = look_at as unsafe extern "C" fn(u32, *mut c_void) -> i64;
        // SAFETY: the body takes what it is given here, which lives until the loop has ended.
        unsafe { bpf_loop(behind, body as *mut c_void, ptr::from_mut(self).cast(), 0) };
        // Something else will lie here; a loader without CAP_PERFMON may put nothing over a part of a pointer.
        // SAFETY: the field is ours, and not read again.
        unsafe { ptr::write_volatile(&raw mut self.skb, ptr::null_mut()) };
    }
}

/// Looks at one datagram behind the head; 1 ends the loop.
unsafe extern "C" fn look_at(index: u32, batch: *mut c_void) -> i64 {
    // SAFETY: the loop hands over the batch that it was given, and nothing else uses it meanwhile.
    let batch = unsafe { &mut *batch.cast::<Batch>() };
    let at = (index + 1) * batch.segment;
    let rest = batch.len - at;
    let len = if rest < batch.segment { rest } else { batch.segment };
    batch.found = match claim_at(&TcContext::new(batch.skb), batch.start + at, len) {
        Some(Err(_)) => return 0,
        Some(Ok(reason)) => Found::Good(reason),
        None => Found::Unknown,
    };
    1
}

#[inline(always)]
fn is_ours(endpoint: Endpoint) -> bool {
    // SAFETY: only whether there is an entry is looked at.
    unsafe { PORTS.get(endpoint.0) }.is_some()
}

/// The verdict on the datagram of `len` bytes at `at`; `None` when it is not all there.
#[inline(always)]
fn claim_at(ctx: &TcContext, at: u32, len: u32) -> Option<Result<Reason, Reason>> {
    if len < claim::MIN_LEN {
        return Some(Err(Reason::Short));
    }
    Some(match Claim::parse(&load(ctx, at)?, len) {
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
