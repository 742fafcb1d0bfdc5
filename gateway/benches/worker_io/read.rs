//! Receiving, both ways: a worker's turn over a socket and a TUN queue, without what it does with the packets.

use std::hint::black_box;
use std::net::UdpSocket;
use std::os::fd::{AsFd, AsRawFd};
use std::time::Duration;

use io_uring_07::types::{Fixed, RecvMsgOut, SubmitArgs, Timespec};
use io_uring_07::{IoUring, cqueue, opcode};
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use tessera_offload::{VNET_LEN, VnetHeader};
use tesserad::net::cmsg::{self, CONTROL_LEN, NAME_LEN};
use tesserad::net::tun::{MAX_READ, TunQueue};
use tesserad::net::{Path, RecvBatch};

use crate::ring::{Buffers, push, ring};

/// The worker's nap.
const NAP: Duration = Duration::from_micros(50);
/// Longest wait for a packet; only reached when one was lost.
const PATIENCE: Duration = Duration::from_secs(2);
/// Turns without a packet, one after the other, that say so; an interrupted wait is one, too.
const EMPTY_TURNS: u32 = 20;
/// Completions that end a nap early.
const NAP_ENDS: usize = 64;

/// How a turn begins.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wait {
    /// Until something is there.
    Ready,
    /// For the length of a nap; on a ring, and then until something is there.
    Nap,
}

/// One way to read. A turn returns the number of packets.
pub(crate) trait Reader {
    fn turn(&mut self, wait: Wait) -> usize;
    /// What went wrong on the way, if it can.
    fn remark(&self) -> String {
        String::new()
    }
}

/// What is read.
pub(crate) struct Sources {
    pub(crate) socket: Option<UdpSocket>,
    pub(crate) tun: Option<TunQueue>,
    /// Longest datagram; `None` with GRO.
    pub(crate) room: Option<usize>,
    /// Buffers in each group of the ring.
    pub(crate) buffers: u16,
}

/// (a): epoll, `recvmmsg`, `read`.
pub(crate) struct Calls {
    sources: Sources,
    recv: RecvBatch,
    scratch: Box<[u8]>,
    epoll: Epoll,
    empty: u32,
}

impl Calls {
    pub(crate) fn new(sources: Sources) -> Self {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).unwrap();
        let fds = [sources.socket.as_ref().map(AsFd::as_fd), sources.tun.as_ref().map(AsFd::as_fd)];
        for fd in fds.into_iter().flatten() {
            epoll.add(fd, EpollEvent::new(EpollFlags::EPOLLIN, 0)).unwrap();
        }
        let recv = sources.room.map_or_else(RecvBatch::with_gro, RecvBatch::new);
        Self { sources, recv, scratch: vec![0; MAX_READ].into(), epoll, empty: 0 }
    }
}

impl Reader for Calls {
    fn turn(&mut self, wait: Wait) -> usize {
        match wait {
            Wait::Nap => std::thread::sleep(NAP),
            Wait::Ready => {
                let timeout = EpollTimeout::try_from(PATIENCE).unwrap();
                // An interrupted wait is a turn with nothing to do.
                let _ = self.epoll.wait(&mut [EpollEvent::empty(); 8], timeout);
            }
        }
        let mut packets = 0;
        if let Some(socket) = &self.sources.socket {
            loop {
                let most = self.recv.most();
                let got = self.recv.recv(socket.as_fd()).unwrap();
                for index in 0..got {
                    let train = self.recv.train(index).expect("a good datagram");
                    packets += train.len.div_ceil(train.segment);
                    black_box(train);
                }
                if got < most {
                    break;
                }
            }
        }
        if let Some(tun) = &self.sources.tun {
            while let Ok((header, at)) = tun.read(&mut self.scratch) {
                packets += count(header, &self.scratch[at]);
            }
        }
        self.empty = if packets > 0 { 0 } else { self.empty + 1 };
        assert!(self.empty < EMPTY_TURNS, "a packet was lost");
        packets
    }
}

const SOCKET: u64 = 0;
const TUN: u64 = 1;

/// (b): one ring with a shot for each source.
pub(crate) struct Shots {
    ring: IoUring,
    /// Never freed, as the buffers.
    header: &'static libc::msghdr,
    datagrams: Option<Buffers>,
    packets: Option<Buffers>,
    _sources: Sources,
    /// For each source, whether its shot is under way.
    armed: [bool; 2],
    /// Shots that ended because no buffer was left.
    starved: u64,
    turns: u64,
}

impl Shots {
    pub(crate) fn new(sources: Sources) -> Self {
        let fd = |fd: Option<i32>| fd.unwrap_or(-1);
        let files = [
            fd(sources.socket.as_ref().map(AsRawFd::as_raw_fd)),
            fd(sources.tun.as_ref().map(|tun| tun.as_fd().as_raw_fd())),
        ];
        // A shot on a non-blocking file ends with EAGAIN in place of waiting.
        if let Some(socket) = &sources.socket {
            socket.set_nonblocking(false).unwrap();
        }
        if let Some(tun) = &sources.tun {
            fcntl(tun.as_fd(), FcntlArg::F_SETFL(OFlag::O_RDWR)).unwrap();
        }
        let ring = ring(&files);
        // SAFETY: all-zero is a valid msghdr.
        let mut header: libc::msghdr = unsafe { std::mem::zeroed() };
        header.msg_namelen = NAME_LEN as libc::socklen_t;
        header.msg_controllen = CONTROL_LEN as _;
        // What the kernel puts in front: its own header of four numbers, name, control messages.
        let front = 16 + NAME_LEN + CONTROL_LEN;
        let room = (front + sources.room.unwrap_or(65_535)).next_multiple_of(64);
        let group = |wanted: bool, group, room| {
            wanted.then(|| Buffers::new(&ring, group, sources.buffers, room).unwrap())
        };
        let datagrams = group(sources.socket.is_some(), SOCKET as u16, room);
        let packets = group(sources.tun.is_some(), TUN as u16, MAX_READ.next_multiple_of(64));
        let armed = [datagrams.is_none(), packets.is_none()];
        let header = Box::leak(Box::new(header));
        Self { ring, header, datagrams, packets, _sources: sources, armed, starved: 0, turns: 0 }
    }

    fn arm(&mut self) {
        let (socket, tun) = (Fixed(SOCKET as u32), Fixed(TUN as u32));
        if !self.armed[0] {
            let shot = opcode::RecvMsgMulti::new(socket, &raw const *self.header, SOCKET as u16);
            // SAFETY: the header lives forever; the shot points at nothing else.
            unsafe { push(&mut self.ring, &shot.build().user_data(SOCKET)) };
        }
        if !self.armed[1] {
            let shot = opcode::ReadMulti::new(tun, 0, TUN as u16).offset(u64::MAX);
            // SAFETY: the shot points at nothing.
            unsafe { push(&mut self.ring, &shot.build().user_data(TUN)) };
        }
        self.armed = [true; 2];
    }
}

impl Reader for Shots {
    fn turn(&mut self, wait: Wait) -> usize {
        self.turns += 1;
        self.arm();
        let patience = Timespec::from(PATIENCE);
        let args = SubmitArgs::new().timespec(&patience);
        let done = match wait {
            Wait::Ready => self.ring.submitter().submit_with_args(1, &args),
            Wait::Nap => {
                self.ring.submitter().submit_with_args(NAP_ENDS, &args.min_wait_usec(NAP.as_micros() as u32))
            }
        };
        if let Err(error) = done {
            assert_eq!(error.kind(), std::io::ErrorKind::Interrupted, "a packet in time: {error}");
        }
        let mut packets = 0;
        for done in self.ring.completion() {
            let source = done.user_data();
            self.armed[source as usize] &= cqueue::more(done.flags());
            let len = match usize::try_from(done.result()) {
                Ok(len) => len,
                Err(_) if done.result() == -libc::ENOBUFS => {
                    self.starved += 1;
                    continue;
                }
                Err(_) => panic!("{}", std::io::Error::from_raw_os_error(-done.result())),
            };
            let id = cqueue::buffer_select(done.flags()).expect("a buffer");
            if source == SOCKET {
                let buffers = self.datagrams.as_mut().expect("a group for the socket");
                let out = RecvMsgOut::parse(buffers.bytes(id, len), self.header).expect("a datagram");
                let payload = out.payload_data().len();
                let remote = cmsg::decode_name(out.name_data()).expect("an IP source");
                let local = cmsg::decode_local(out.control_data());
                let segment = cmsg::decode_segment(out.control_data()).map_or(payload, usize::from);
                assert!(!out.is_payload_truncated(), "{payload} bytes are not all");
                packets += payload.div_ceil(segment);
                black_box(Path { remote, local });
                buffers.give_back(id);
            } else {
                let buffers = self.packets.as_mut().expect("a group for the TUN");
                let bytes = buffers.bytes(id, len);
                let header = VnetHeader::parse(bytes).expect("a header");
                packets += count(header, &bytes[VNET_LEN..]);
                buffers.give_back(id);
            }
        }
        for buffers in self.datagrams.iter().chain(&self.packets) {
            buffers.publish();
        }
        packets
    }

    fn remark(&self) -> String {
        match self.starved {
            0 => String::new(),
            starved => format!("{starved} of {} turns ran out of buffers", self.turns),
        }
    }
}

/// Our packets in what a TUN gave; none of the kernel's own (router solicitations), which are IPv6.
fn count(header: VnetHeader, packet: &[u8]) -> usize {
    const HEADERS: usize = 28;
    match (packet[0] >> 4, usize::from(header.gso_size)) {
        (4, 0) => 1,
        (4, size) => (packet.len() - HEADERS).div_ceil(size),
        _ => 0,
    }
}
