//! A TUN device: layer 3, no packet information header, one queue per data worker. It vanishes with the process.
//!
//! With offloads every packet has a `virtio_net_hdr` in front, and may be a super-packet: up to 64 KiB of one inner flow that
//! whoever gets it cuts into segments. Without them a packet is a packet.

use std::ffi::c_int;
use std::fs::{File, OpenOptions};
use std::io::{self, IoSlice, Read, Write};
use std::ops::Range;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;

use tessera_offload::{Offloads, VNET_LEN, VnetHeader};

/// The usual clone device.
pub const TUN_NODE: &str = "/dev/net/tun";

/// Most queues the kernel gives one device (MAX_TAP_QUEUES).
pub const MAX_QUEUES: usize = 256;

mod ioctl {
    nix::ioctl_readwrite_bad!(
        /// Binds an open clone device to an interface; the kernel writes the chosen name back.
        tunsetiff,
        libc::TUNSETIFF,
        libc::ifreq
    );
    nix::ioctl_write_int_bad!(
        /// Says what the reader of the device can cut up and checksum itself.
        tunsetoffload,
        libc::TUNSETOFFLOAD
    );
}

/// Longest read of a device with offloads: the longest IP packet and the header in front.
pub const MAX_READ: usize = VNET_LEN + 65_535;

/// What to open.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TunSpec {
    /// `tun` lets the kernel pick `tunN`; anything else is the device's name.
    pub dev: String,
    /// The clone device (`--dev-node`).
    pub node: PathBuf,
    /// Queues, one per data worker; at least 1.
    pub queues: usize,
    /// Carry super-packets.
    pub offload: bool,
}

impl TunSpec {
    /// One queue on the usual node.
    #[must_use]
    pub fn new(dev: &str) -> Self {
        Self { dev: dev.to_owned(), node: TUN_NODE.into(), queues: 1, offload: false }
    }
}

/// An open device.
#[derive(Debug)]
pub struct Tun {
    /// The device's real name.
    pub name: String,
    /// The device's interface index in the network namespace it was opened in.
    pub ifindex: u32,
    /// The queues, in worker order; the device is gone when the last is dropped.
    pub queues: Vec<TunQueue>,
    /// Which super-packets the kernel takes and gives.
    pub offloads: Offloads,
}

/// One non-blocking queue of a device.
#[derive(Debug)]
pub struct TunQueue {
    file: File,
    /// Packets have a header in front.
    vnet: bool,
}

impl Tun {
    /// Opens the device with all its queues. Needs CAP_NET_ADMIN.
    ///
    /// # Errors
    /// Names the node, the device and what is missing: no node, no right, a name that is no interface name, a device in use.
    pub fn open(spec: &TunSpec) -> io::Result<Self> {
        let fail =
            |what: &str, e: io::Error| io::Error::new(e.kind(), format!("dev {}: {what}: {e}", spec.dev));
        let invalid = |why: String| io::Error::new(io::ErrorKind::InvalidInput, why);
        if spec.queues == 0 || spec.queues > MAX_QUEUES {
            return Err(invalid(format!(
                "dev {}: {} queues, expected 1 to {MAX_QUEUES}",
                spec.dev, spec.queues
            )));
        }
        let mut name =
            if spec.dev == "tun" { "tun%d".to_owned() } else { checked_name(&spec.dev).map_err(invalid)? };
        let mut queues = Vec::with_capacity(spec.queues);
        for _ in 0..spec.queues {
            let file = OpenOptions::new()
                .read(true)
                .write(true)
                .custom_flags(libc::O_NONBLOCK)
                .open(&spec.node)
                .map_err(|e| fail(&format!("open {}", spec.node.display()), e))?;
            name =
                attach(&file, &name, spec.offload).map_err(|e| fail(&format!("create {name}"), e.into()))?;
            queues.push(TunQueue { file, vnet: spec.offload });
        }
        let ifindex = nix::net::if_::if_nametoindex(name.as_str())
            .map_err(|e| fail(&format!("interface index of {name}"), e.into()))?;
        let offloads = if spec.offload {
            set_offloads(&queues[0].file).map_err(|e| fail("TUNSETOFFLOAD", e.into()))?
        } else {
            Offloads::NONE
        };
        Ok(Self { name, ifindex, queues, offloads })
    }
}

impl TunQueue {
    /// Reads one packet, with its header in front if the device has offloads, into `buf`, and says where the packet stands in
    /// it. Longer packets are cut, so `buf` must hold the device's MTU (with offloads [`MAX_READ`]).
    ///
    /// # Errors
    /// `WouldBlock` when none is waiting; EBADFD (raw) when the device was deleted.
    #[inline]
    pub fn read(&self, buf: &mut [u8]) -> io::Result<(VnetHeader, Range<usize>)> {
        let len = (&self.file).read(buf)?;
        if !self.vnet {
            return Ok((VnetHeader::PLAIN, 0..len));
        }
        let header = VnetHeader::parse(&buf[..len]).ok_or(io::ErrorKind::UnexpectedEof)?;
        Ok((header, VNET_LEN..len))
    }

    /// Hands one packet to the kernel: `parts` are its header (left out here where the device takes none), then its bytes.
    ///
    /// # Errors
    /// `InvalidInput` for something that is no IP packet or no super-packet the kernel takes, EIO (raw) while the link is down,
    /// `WouldBlock` under memory pressure.
    #[inline]
    pub fn write(&self, parts: &[IoSlice<'_>]) -> io::Result<()> {
        let parts = if self.vnet { parts } else { parts.get(1..).unwrap_or_default() };
        (&self.file).write_vectored(parts).map(|_| ())
    }
}

impl AsFd for TunQueue {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// Binds an open clone device to `name` and returns the name the kernel gave.
fn attach(file: &File, name: &str, vnet: bool) -> nix::Result<String> {
    // SAFETY: all-zero is a valid ifreq.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from as libc::c_char;
    }
    let vnet = if vnet { libc::IFF_VNET_HDR } else { 0 };
    let flags: c_int = libc::IFF_TUN | libc::IFF_NO_PI | libc::IFF_MULTI_QUEUE | vnet;
    request.ifr_ifru.ifru_flags = flags as libc::c_short;
    // SAFETY: the descriptor is open and `request` is a full ifreq, which the kernel reads and whose name it writes back.
    unsafe { ioctl::tunsetiff(file.as_raw_fd(), &raw mut request) }?;
    Ok(request.ifr_name.iter().take_while(|c| **c != 0).map(|c| char::from(*c as u8)).collect())
}

/// Asks for every kind of super-packet; kernels before 6.2 know none of UDP.
fn set_offloads(file: &File) -> nix::Result<Offloads> {
    let tcp = libc::TUN_F_CSUM | libc::TUN_F_TSO4 | libc::TUN_F_TSO6;
    let ask = |flags: libc::c_uint| {
        // SAFETY: the descriptor is open, and the argument is a number.
        unsafe { ioctl::tunsetoffload(file.as_raw_fd(), flags as c_int) }
    };
    if ask(tcp | libc::TUN_F_USO4 | libc::TUN_F_USO6).is_ok() {
        return Ok(Offloads::ALL);
    }
    ask(tcp).map(|_| Offloads { uso4: false, uso6: false, ..Offloads::ALL })
}

/// An interface name the kernel will take, other than a pattern.
fn checked_name(dev: &str) -> Result<String, String> {
    let shape = dev.len() < libc::IFNAMSIZ
        && !matches!(dev, "" | "." | "..")
        && dev.bytes().all(|b| b.is_ascii_graphic() && !matches!(b, b'/' | b':' | b'%'));
    if shape {
        Ok(dev.to_owned())
    } else {
        Err(format!("dev {dev:?} is not an interface name of 1 to 15 characters"))
    }
}
