//! Opens the SO_REUSEPORT group behind one listener address: data-worker sockets first, session-shard sockets after them.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::fd::AsFd;

use nix::sys::socket::{setsockopt, sockopt};
use socket2::{Domain, Protocol, Socket, Type};

use super::recv::enable_gro;
use super::steering::{self, Steering};

/// `rcvbuf` of data sockets unless configured: what waits for a worker that is busy or was not scheduled; 8 MiB are 6 ms at
/// 10 Gbit/s.
pub const RCVBUF: usize = 8 << 20;
/// `sndbuf` of data sockets unless configured: what waits for a device, a few turns of a worker.
pub const SNDBUF: usize = 2 << 20;

/// Which IP versions a listener serves.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Family {
    /// IPv4 only.
    V4,
    /// IPv6 only.
    V6,
    /// One IPv6 socket that also takes IPv4.
    Dual,
}

/// What to open.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ListenSpec {
    /// Local address; `None` is every address of the family.
    pub addr: Option<IpAddr>,
    /// UDP or TCP port; 0 lets the kernel pick one.
    pub port: u16,
    /// IP versions.
    pub family: Family,
    /// Interface or VRF to bind to (`--bind-dev`).
    pub bind_dev: Option<String>,
    /// Send buffer in bytes (`--sndbuf`); `None` leaves the system's default.
    pub sndbuf: Option<usize>,
    /// Receive buffer in bytes (`--rcvbuf`); `None` leaves the system's default.
    pub rcvbuf: Option<usize>,
    /// Firewall mark (`--mark`).
    pub mark: Option<u32>,
    /// Hand datagrams to the data workers in trains (UDP GRO).
    pub gro: bool,
}

/// The open sockets of one listener address.
#[derive(Debug)]
pub struct ListenerGroup {
    /// The address all sockets are bound to, with the real port.
    pub local: SocketAddr,
    /// One non-blocking socket per data worker, in worker order.
    pub worker_sockets: Vec<UdpSocket>,
    /// One non-blocking socket per session shard, in shard order.
    pub shard_sockets: Vec<UdpSocket>,
    /// IPv4 comes in on its IPv6 sockets, too.
    pub dual: bool,
    /// How the kernel chooses among them.
    pub steering: Steering,
    /// Receive buffer the kernel really granted, in bytes of its own bookkeeping (twice the payload).
    pub rcvbuf: usize,
    /// Send buffer the kernel really granted, likewise.
    pub sndbuf: usize,
}

impl ListenerGroup {
    /// Opens `workers` + `shards` sockets on the address of `spec` and steers between them.
    ///
    /// `workers` must be a power of two and `shards` at least 1. A steering program that cannot be attached is reported in
    /// [`ListenerGroup::steering`], not an error.
    ///
    /// # Errors
    /// Names the step and the address: the address in use by another process, a missing interface, missing rights for `mark`.
    pub fn open(spec: &ListenSpec, workers: usize, shards: usize) -> io::Result<Self> {
        let mut addr = spec.bind_address()?;
        if !workers.is_power_of_two() || shards == 0 || workers + shards > steering::MAX_GROUP {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!(
                    "{workers} workers (a power of two) and {shards} shards (at least 1) cannot share {addr}"
                ),
            ));
        }
        if addr.port() != 0 {
            // SO_REUSEPORT would silently let us share the port, and its traffic, with another gateway of the same user.
            spec.socket(addr, false)?;
        }
        let mut sockets = Vec::with_capacity(workers + shards);
        for index in 0..workers + shards {
            let socket = spec.socket(addr, true)?;
            if spec.gro && index < workers {
                enable_gro(socket.as_fd())
                    .map_err(|e| io::Error::new(e.kind(), format!("udp listener {addr}: UDP_GRO: {e}")))?;
            }
            if addr.port() == 0 {
                let bound = socket.local_addr()?.as_socket();
                addr.set_port(bound.map_or(0, |a| a.port()));
            }
            sockets.push(socket);
        }
        let (rcvbuf, sndbuf) = (sockets[0].recv_buffer_size()?, sockets[0].send_buffer_size()?);
        let steering = match steering::attach(sockets[0].as_fd(), workers, shards) {
            Ok(()) => Steering::Cbpf,
            Err(e) => Steering::None(format!("SO_ATTACH_REUSEPORT_CBPF on {addr}: {e}")),
        };
        let shard_sockets = sockets.split_off(workers).into_iter().map(UdpSocket::from).collect();
        let worker_sockets = sockets.into_iter().map(UdpSocket::from).collect();
        let dual = spec.family == Family::Dual && addr.ip().is_unspecified();
        Ok(Self { local: addr, worker_sockets, shard_sockets, dual, steering, rcvbuf, sndbuf })
    }
}

impl ListenerGroup {
    /// The addresses that its datagrams are sent to: a socket of both families has two.
    #[must_use]
    pub fn endpoints(&self) -> Vec<SocketAddr> {
        let dual = self.dual.then(|| SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), self.local.port()));
        std::iter::once(self.local).chain(dual).collect()
    }
}

impl ListenSpec {
    /// The address to bind, checked against the family.
    pub(super) fn bind_address(&self) -> io::Result<SocketAddr> {
        let ip = match (self.family, self.addr) {
            (Family::V4, None) => Ipv4Addr::UNSPECIFIED.into(),
            (Family::V6 | Family::Dual, None) => Ipv6Addr::UNSPECIFIED.into(),
            (Family::V4, Some(ip @ IpAddr::V4(_)))
            | (Family::V6 | Family::Dual, Some(ip @ IpAddr::V6(_))) => ip,
            (family, Some(ip)) => {
                return Err(io::Error::new(
                    io::ErrorKind::InvalidInput,
                    format!("listener address {ip} does not belong to the address family {family:?}"),
                ));
            }
        };
        Ok(SocketAddr::new(ip, self.port))
    }

    /// One bound, configured, non-blocking socket.
    fn socket(&self, addr: SocketAddr, share: bool) -> io::Result<Socket> {
        let step =
            |what: &str, e: io::Error| io::Error::new(e.kind(), format!("udp listener {addr}: {what}: {e}"));
        let socket = Socket::new(Domain::for_address(addr), Type::DGRAM, Some(Protocol::UDP))
            .map_err(|e| step("socket", e))?;
        socket.set_nonblocking(true).map_err(|e| step("non-blocking", e))?;
        if share {
            socket.set_reuse_port(true).map_err(|e| step("SO_REUSEPORT", e))?;
        }
        if addr.is_ipv6() {
            socket.set_only_v6(self.family == Family::V6).map_err(|e| step("IPV6_V6ONLY", e))?;
            setsockopt(&socket, sockopt::Ipv6RecvPacketInfo, &true)
                .map_err(|e| step("IPV6_RECVPKTINFO", e.into()))?;
        } else {
            setsockopt(&socket, sockopt::Ipv4PacketInfo, &true).map_err(|e| step("IP_PKTINFO", e.into()))?;
        }
        self.apply(&socket, step)?;
        socket.bind(&addr.into()).map_err(|e| step("bind", e))?;
        Ok(socket)
    }

    /// Sets what sockets of both transports have: device, mark and buffers. `step` names the step that failed.
    pub(super) fn apply(
        &self,
        socket: &Socket,
        step: impl Fn(&str, io::Error) -> io::Error,
    ) -> io::Result<()> {
        if let Some(dev) = &self.bind_dev {
            socket.bind_device(Some(dev.as_bytes())).map_err(|e| step(&format!("bind-dev {dev}"), e))?;
        }
        if let Some(mark) = self.mark {
            socket.set_mark(mark).map_err(|e| step(&format!("mark {mark}"), e))?;
        }
        // The FORCE forms pass net.core.[rw]mem_max but need CAP_NET_ADMIN; the plain ones are cut to those limits.
        if let Some(bytes) = self.rcvbuf
            && setsockopt(&socket, sockopt::RcvBufForce, &bytes).is_err()
        {
            socket.set_recv_buffer_size(bytes).map_err(|e| step(&format!("rcvbuf {bytes}"), e))?;
        }
        if let Some(bytes) = self.sndbuf
            && setsockopt(&socket, sockopt::SndBufForce, &bytes).is_err()
        {
            socket.set_send_buffer_size(bytes).map_err(|e| step(&format!("sndbuf {bytes}"), e))?;
        }
        Ok(())
    }
}
