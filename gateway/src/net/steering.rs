//! The classic BPF program that splits one UDP port between data workers and session shards.
//!
//! Classic BPF needs no privilege. The program sees the UDP payload at offset 0. A missing program costs speed, never
//! correctness: both kinds of owner hand misdirected datagrams over.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

/// Opcode of P_DATA_V2, in the high five bits of the first byte.
const P_DATA_V2: u32 = 9;

/// `BPF_RET` of the accumulator (BPF_A of linux/bpf_common.h).
const RET_A: u32 = 0x10;

/// Opcode byte and session id (or peer-id): a shorter datagram is no message of the protocol.
const MIN_LEN: u32 = 9;

/// Most sockets of a group: the low byte of the session id chooses among the shards, and cBPF constants stay readable.
pub const MAX_GROUP: usize = 256;

/// What distributes the datagrams of a listener group.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Steering {
    /// The kernel picks the socket by peer-id or session id.
    Cbpf,
    /// The kernel picks by its address hash; the reason says why.
    None(String),
}

/// Attaches the program to the SO_REUSEPORT group of `socket`, whose members were bound in the order workers, shards.
///
/// `workers` must be a power of two, `shards` at least 1.
///
/// # Errors
/// `InvalidInput` for impossible counts, else the error of `setsockopt`.
pub fn attach(socket: BorrowedFd<'_>, workers: usize, shards: usize) -> io::Result<()> {
    let mut program = program(workers, shards)?;
    let filter = libc::sock_fprog { len: program.len() as u16, filter: program.as_mut_ptr() };
    // SAFETY: `filter` points at `program.len()` instructions which live across the call; the kernel copies them.
    let rc = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_ATTACH_REUSEPORT_CBPF,
            (&raw const filter).cast(),
            size_of::<libc::sock_fprog>() as libc::socklen_t,
        )
    };
    if rc == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// The instructions: `opcode == 9 → peer_id & (workers-1)`, else `workers + session_id[7] % shards`, short → `workers`.
fn program(workers: usize, shards: usize) -> io::Result<[libc::sock_filter; 13]> {
    if !workers.is_power_of_two() || shards == 0 || workers + shards > MAX_GROUP {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!(
                "cannot steer to {workers} workers and {shards} shards: workers must be a power of two, shards at least 1, \
                 together at most {MAX_GROUP}"
            ),
        ));
    }
    let (first_shard, shards, mask) = (workers as u32, shards as u32, workers as u32 - 1);
    let ld = libc::BPF_LD | libc::BPF_ABS;
    let alu = libc::BPF_ALU | libc::BPF_K;
    Ok([
        stmt(libc::BPF_LD | libc::BPF_W | libc::BPF_LEN, 0),
        jump(libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K, MIN_LEN, 1, 0),
        stmt(libc::BPF_RET | libc::BPF_K, first_shard),
        stmt(ld | libc::BPF_B, 0),
        stmt(alu | libc::BPF_RSH, 3),
        jump(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, P_DATA_V2, 4, 0),
        stmt(ld | libc::BPF_B, 8),
        stmt(alu | libc::BPF_MOD, shards),
        stmt(alu | libc::BPF_ADD, first_shard),
        stmt(libc::BPF_RET | RET_A, 0),
        // Opcode and peer-id as one big-endian word: the mask leaves the low bits of the peer-id.
        stmt(ld | libc::BPF_W, 0),
        stmt(alu | libc::BPF_AND, mask),
        stmt(libc::BPF_RET | RET_A, 0),
    ])
}

/// An instruction without jump targets.
fn stmt(code: u32, k: u32) -> libc::sock_filter {
    jump(code, k, 0, 0)
}

/// An instruction with its two relative jump targets.
fn jump(code: u32, k: u32, jt: u8, jf: u8) -> libc::sock_filter {
    libc::sock_filter { code: code as u16, jt, jf, k }
}
