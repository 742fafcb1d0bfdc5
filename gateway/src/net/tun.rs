//! A TUN device: layer 3, no packet information header, one queue per data worker. It vanishes with the process.

use std::ffi::c_int;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;

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
}

/// What to open.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TunSpec {
    /// `tun` lets the kernel pick `tunN`; anything else is the device's name.
    pub dev: String,
    /// The clone device (`--dev-node`).
    pub node: PathBuf,
    /// Queues, one per data worker; at least 1.
    pub queues: usize,
}

impl TunSpec {
    /// One queue on the usual node.
    #[must_use]
    pub fn new(dev: &str) -> Self {
        Self { dev: dev.to_owned(), node: TUN_NODE.into(), queues: 1 }
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
}

/// One non-blocking queue of a device.
#[derive(Debug)]
pub struct TunQueue {
    file: File,
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
            name = attach(&file, &name).map_err(|e| fail(&format!("create {name}"), e.into()))?;
            queues.push(TunQueue { file });
        }
        let ifindex = nix::net::if_::if_nametoindex(name.as_str())
            .map_err(|e| fail(&format!("interface index of {name}"), e.into()))?;
        Ok(Self { name, ifindex, queues })
    }
}

impl TunQueue {
    /// Reads one IP packet into `buf`; longer packets are cut, so `buf` must hold the device's MTU.
    ///
    /// # Errors
    /// `WouldBlock` when none is waiting; EBADFD (raw) when the device was deleted.
    pub fn read(&self, buf: &mut [u8]) -> io::Result<usize> {
        (&self.file).read(buf)
    }

    /// Hands one IP packet to the kernel.
    ///
    /// # Errors
    /// `InvalidInput` for something that is no IP packet, EIO (raw) while the link is down, `WouldBlock` under memory pressure.
    pub fn write(&self, packet: &[u8]) -> io::Result<()> {
        (&self.file).write(packet).map(|_| ())
    }
}

impl AsFd for TunQueue {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// Binds an open clone device to `name` and returns the name the kernel gave.
fn attach(file: &File, name: &str) -> nix::Result<String> {
    // SAFETY: all-zero is a valid ifreq.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from as libc::c_char;
    }
    let flags: c_int = libc::IFF_TUN | libc::IFF_NO_PI | libc::IFF_MULTI_QUEUE;
    request.ifr_ifru.ifru_flags = flags as libc::c_short;
    // SAFETY: the descriptor is open and `request` is a full ifreq, which the kernel reads and whose name it writes back.
    unsafe { ioctl::tunsetiff(file.as_raw_fd(), &raw mut request) }?;
    Ok(request.ifr_name.iter().take_while(|c| **c != 0).map(|c| char::from(*c as u8)).collect())
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
