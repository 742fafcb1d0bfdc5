//! What the tests ask of the kernel: namespaces, commands, and runs of a program on a packet of theirs.

use std::os::fd::{AsFd, AsRawFd};
use std::process::Command;

/// Command number of bpf(2).
const BPF_PROG_TEST_RUN: libc::c_int = 10;

/// `struct __sk_buff`: its length, and where the fields that a test may set stand.
const SK_BUFF_LEN: usize = 192;
const SK_BUFF_IFINDEX: usize = 40;
const SK_BUFF_GSO_SEGS: usize = 164;
const SK_BUFF_GSO_SIZE: usize = 176;

/// The part of `union bpf_attr` that BPF_PROG_TEST_RUN reads and writes.
#[repr(C)]
#[derive(Default)]
struct TestRun {
    prog_fd: u32,
    retval: u32,
    data_size_in: u32,
    data_size_out: u32,
    data_in: u64,
    data_out: u64,
    repeat: u32,
    duration: u32,
    ctx_size_in: u32,
    ctx_size_out: u32,
    ctx_in: u64,
    ctx_out: u64,
    flags: u32,
    cpu: u32,
    batch_size: u32,
    padding: u32,
}

/// What comes with a frame.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Meta {
    /// The device it came in by; 0: loopback.
    pub(crate) ifindex: u32,
    /// Payload of each datagram that GRO has merged; 0: it is one.
    pub(crate) gso_size: u32,
    /// How many datagrams.
    pub(crate) gso_segs: u32,
}

/// Runs a program `repeat` times on `frame`. Returns what it returned, and its mean time in ns.
pub(crate) fn test_run(
    program: impl AsFd,
    frame: &[u8],
    meta: Meta,
    repeat: u32,
) -> std::io::Result<(u32, u32)> {
    let mut context = [0u8; SK_BUFF_LEN];
    for (at, value) in [
        (SK_BUFF_IFINDEX, meta.ifindex),
        (SK_BUFF_GSO_SEGS, meta.gso_segs),
        (SK_BUFF_GSO_SIZE, meta.gso_size),
    ] {
        context[at..at + 4].copy_from_slice(&value.to_ne_bytes());
    }
    let mut attr = TestRun {
        prog_fd: program.as_fd().as_raw_fd() as u32,
        data_size_in: frame.len() as u32,
        data_in: frame.as_ptr() as u64,
        repeat,
        ctx_size_in: SK_BUFF_LEN as u32,
        ctx_in: context.as_ptr() as u64,
        ..TestRun::default()
    };
    // SAFETY: `attr` is as long as said, and points at `frame` and `context`, which the kernel only reads.
    let rc = unsafe { libc::syscall(libc::SYS_bpf, BPF_PROG_TEST_RUN, &raw mut attr, size_of::<TestRun>()) };
    if rc == 0 { Ok((attr.retval, attr.duration)) } else { Err(std::io::Error::last_os_error()) }
}

/// Runs `test` on a thread in a fresh network namespace with loopback up; both go away with the thread.
pub(crate) fn in_namespace(test: impl FnOnce() + Send + 'static) {
    let thread = std::thread::spawn(|| {
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET)
            .expect("a namespace of our own (needs root)");
        ip("link set lo up");
        test();
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

/// Runs `ip`, which must succeed.
pub(crate) fn ip(arguments: &str) -> String {
    let output = Command::new("ip").args(arguments.split(' ')).output().unwrap();
    assert!(output.status.success(), "ip {arguments}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// The index of a device of this namespace.
pub(crate) fn ifindex(name: &str) -> u32 {
    nix::net::if_::if_nametoindex(name).unwrap()
}
