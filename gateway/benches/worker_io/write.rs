//! Sending, both ways: datagrams to a socket, packets to a TUN queue.

use std::io::IoSlice;
use std::net::UdpSocket;
use std::os::fd::{AsFd, AsRawFd};

use io_uring_07::squeue::Flags;
use io_uring_07::types::Fixed;
use io_uring_07::{IoUring, opcode};
use tesserad::net::cmsg::{self, Control, Name};
use tesserad::net::tun::TunQueue;
use tesserad::net::{Path, SendQueue};

use crate::ring::{push, ring};
use crate::{Cost, cpu};

/// Datagrams of one peer that are sent together.
pub(crate) struct Train {
    pub(crate) path: Path,
    pub(crate) segment: usize,
    pub(crate) count: usize,
}

/// (a): the gateway's own queue. Only its flush is measured; filling it is the same for both.
pub(crate) fn sendmmsg(socket: &UdpSocket, queue: &mut SendQueue, trains: &[Train]) -> Cost {
    for train in trains {
        for _ in 0..train.count {
            queue.place(train.segment).expect("room in the queue")[0] = 0x48;
            assert!(queue.commit(train.segment, &train.path, 0), "queued");
        }
    }
    let now = tesserad::clock::read().mono;
    let began = cpu();
    let left = queue.flush(socket.as_fd(), now).unwrap();
    let cpu = cpu() - began;
    assert_eq!(left, 0, "the kernel takes all");
    Cost { cpu, packets: trains.iter().map(|train| train.count).sum() }
}

/// (b): a `SENDMSG` for each train.
pub(crate) struct SendRing {
    ring: IoUring,
    bytes: Box<[u8]>,
    names: Box<[Name]>,
    controls: Box<[Control]>,
    iovs: Box<[libc::iovec]>,
    headers: Box<[libc::msghdr]>,
    /// Each waits for the one before it.
    linked: bool,
}

impl SendRing {
    pub(crate) fn new(socket: &UdpSocket, trains: usize, linked: bool) -> Self {
        let iov = libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 };
        // SAFETY: all-zero is a valid msghdr.
        let header: libc::msghdr = unsafe { std::mem::zeroed() };
        Self {
            ring: ring(&[socket.as_raw_fd()]),
            bytes: vec![0x48; 4 * 65_536].into(),
            names: vec![Name::EMPTY; trains].into(),
            controls: vec![Control::EMPTY; trains].into(),
            iovs: vec![iov; trains].into(),
            headers: vec![header; trains].into(),
            linked,
        }
    }

    pub(crate) fn send(&mut self, trains: &[Train]) -> Cost {
        let began = cpu();
        let mut at = 0;
        for (i, train) in trains.iter().enumerate() {
            let len = train.segment * train.count;
            self.iovs[i] =
                libc::iovec { iov_base: self.bytes[at..at + len].as_mut_ptr().cast(), iov_len: len };
            at += len;
            let segment = if train.count > 1 { train.segment as u16 } else { 0 };
            let name_len = cmsg::encode_name(train.path.remote, &mut self.names[i]);
            let control_len = cmsg::encode_train(&train.path, segment, 0, &mut self.controls[i]);
            let header = &mut self.headers[i];
            header.msg_name = self.names[i].0.as_mut_ptr().cast();
            header.msg_namelen = name_len as libc::socklen_t;
            header.msg_iov = &raw mut self.iovs[i];
            header.msg_iovlen = 1;
            header.msg_control = self.controls[i].0.as_mut_ptr().cast();
            header.msg_controllen = control_len as _;
            let flags = (libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL) as u32;
            let mut request = opcode::SendMsg::new(Fixed(0), &raw const self.headers[i]).flags(flags).build();
            if self.linked && i + 1 < trains.len() {
                request = request.flags(Flags::IO_LINK);
            }
            // SAFETY: all that the header points at are this value's boxes, which stay as they are until all completions are in, below.
            unsafe { push(&mut self.ring, &request) };
        }
        finish(&mut self.ring, trains.len());
        Cost { cpu: cpu() - began, packets: trains.iter().map(|train| train.count).sum() }
    }
}

/// (a): a `writev` for each packet.
pub(crate) fn writev(tun: &TunQueue, packets: &[Vec<IoSlice<'_>>], segments: usize) -> Cost {
    let began = cpu();
    for packet in packets {
        tun.write(packet).unwrap();
    }
    Cost { cpu: cpu() - began, packets: packets.len() * segments }
}

/// (a'): a `write` for each packet, which has its header in front of it.
pub(crate) fn write(tun: &TunQueue, packets: &[&[u8]]) -> Cost {
    let began = cpu();
    for packet in packets {
        nix::unistd::write(tun, packet).unwrap();
    }
    Cost { cpu: cpu() - began, packets: packets.len() }
}

/// (b): a `WRITEV` or a `WRITE` for each packet.
pub(crate) struct WriteRing(IoUring);

impl WriteRing {
    pub(crate) fn new(tun: &TunQueue) -> Self {
        Self(ring(&[tun.as_fd().as_raw_fd()]))
    }

    pub(crate) fn write(&mut self, packets: &[Vec<IoSlice<'_>>], segments: usize) -> Cost {
        let began = cpu();
        for packet in packets {
            let iovs: *const libc::iovec = packet.as_ptr().cast();
            let request = opcode::Writev::new(Fixed(0), iovs, packet.len() as u32).offset(u64::MAX).build();
            // SAFETY: an IoSlice is an iovec; slices and bytes are borrowed until all completions are in, below.
            unsafe { push(&mut self.0, &request) };
        }
        finish(&mut self.0, packets.len());
        Cost { cpu: cpu() - began, packets: packets.len() * segments }
    }

    pub(crate) fn write_whole(&mut self, packets: &[&[u8]]) -> Cost {
        let began = cpu();
        for packet in packets {
            let write = opcode::Write::new(Fixed(0), packet.as_ptr(), packet.len() as u32);
            // SAFETY: the bytes are borrowed until all completions are in, below.
            unsafe { push(&mut self.0, &write.offset(u64::MAX).build()) };
        }
        finish(&mut self.0, packets.len());
        Cost { cpu: cpu() - began, packets: packets.len() }
    }
}

/// Submits, and takes all completions, which must be good.
fn finish(ring: &mut IoUring, requests: usize) {
    ring.submit_and_wait(requests).unwrap();
    let mut done = 0;
    for completion in ring.completion() {
        assert!(completion.result() > 0, "{}", std::io::Error::from_raw_os_error(-completion.result()));
        done += 1;
    }
    assert_eq!(done, requests, "every request is complete");
}
