//! What the kernel's segmentation offloads do, done in user space on inner IP packets.
//!
//! A TUN device that was opened with `IFF_VNET_HDR` puts a [`VnetHeader`] in front of each packet and, as far as
//! `TUNSETOFFLOAD` asked for it, gives and takes *super-packets*: one header and up to 64 KiB of one flow, which stand for many
//! segments. That saves a walk through the kernel's stack for each of them.
//!
//! ```text
//!  downlink:  TUN ── one super-packet ──▶ Split ── finished segments, each straight into its slot ──▶ seal, send
//!  uplink:    receive, open in place ──▶ Merge ── runs of one flow, gathered ──▶ one write to the TUN each
//! ```
//!
//! No I/O, no clock, and no allocation: [`Merge`] is a few fixed arrays. Packets are hostile input, and no packet makes this
//! crate panic.
//!
//! # What is merged
//!
//! Only what segmentation makes the same bytes of again, by the rules of the kernel's own receive offload (with one exception: ids).
//! All in a run are equal in addresses, ports, TOS or traffic class, TTL or hop limit, DF and flow label; they have no IPv4
//! options, no extension headers, and are no fragments. Lengths are honest and every checksum is right: a packet with a wrong
//! one passes alone and unchanged, because the kernel would give a good checksum to whatever it makes of a run.
//!
//! - TCP: the sequence goes on without a gap; acknowledgement, window and options are equal; the only flags are ACK and, on the
//!   last, PSH. All payloads are equally long but the last, which may be shorter.
//! - UDP: the same of payloads; the checksum is there.
//! - IPv4 ids: segmentation counts them up by one. Without DF the ids must do so. With DF they are *not looked at*, and come out
//!   counted up from the first: nobody may make anything of the id of a datagram that cannot be fragmented (RFC 6864, 4.1), and
//!   while some systems count it up, others send zeros or random numbers.
//!
//! Nothing overtakes within a flow: a packet of it that does not fit ends its run, and so does a fragment or another odd packet
//! between the same addresses. Runs are written in the order of their first packets.

mod checksum;
mod merge;
mod packet;
mod split;
mod vnet;

pub use checksum::{Sum, copy_and_sum};
pub use merge::{MAX_PACKETS, MAX_RUN, Merge, RunInfo};
pub use packet::Offloads;
pub use split::{Split, SplitError};
pub use vnet::{VNET_LEN, VnetHeader};
