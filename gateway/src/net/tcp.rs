//! Opens the SO_REUSEPORT group behind one TCP listener address: a listening socket for each data worker, which then owns
//! the connections that the kernel gives it.

use std::io;
use std::net::{SocketAddr, TcpListener};

use socket2::{Domain, Protocol, Socket, Type};

use super::udp::{Family, ListenSpec};

/// Connections that wait to be accepted, for each worker: a whole fleet that comes back after a restart. The kernel
/// cuts it to `net.core.somaxconn`.
pub const BACKLOG: i32 = 1024;

/// The listening sockets of one TCP listener address.
#[derive(Debug)]
pub struct StreamGroup {
    /// The address all of them are bound to, with the real port.
    pub local: SocketAddr,
    /// One non-blocking socket per data worker, in worker order. The kernel spreads connections among them.
    pub listeners: Vec<TcpListener>,
    /// Receive buffer that connections inherit, in bytes of the kernel's own bookkeeping (twice the payload).
    pub rcvbuf: usize,
    /// Send buffer that connections inherit, likewise.
    pub sndbuf: usize,
}

impl StreamGroup {
    /// Opens `workers` listening sockets on the address of `spec`. Device, mark and buffer sizes are inherited by the
    /// connections.
    ///
    /// # Errors
    /// Names the step and the address: the address in use by another process, a missing interface, missing rights for
    /// `mark`; also no workers.
    pub fn open(spec: &ListenSpec, workers: usize) -> io::Result<Self> {
        let mut addr = spec.bind_address()?;
        if addr.port() != 0 {
            // SO_REUSEPORT would silently let us share the port, and its connections, with another gateway of the same user.
            socket(spec, addr, false)?;
        }
        let mut sockets = Vec::with_capacity(workers);
        for _ in 0..workers {
            let socket = socket(spec, addr, true)?;
            if addr.port() == 0 {
                let bound = socket.local_addr()?.as_socket();
                addr.set_port(bound.map_or(0, |a| a.port()));
            }
            sockets.push(socket);
        }
        let Some(first) = sockets.first() else {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!("no workers to listen on {addr}"),
            ));
        };
        let (rcvbuf, sndbuf) = (first.recv_buffer_size()?, first.send_buffer_size()?);
        // Only when all are bound: a failure half way must not have accepted anybody.
        for socket in &sockets {
            socket.listen(BACKLOG).map_err(|e| step(addr, "listen", &e))?;
        }
        let listeners = sockets.into_iter().map(TcpListener::from).collect();
        Ok(Self { local: addr, listeners, rcvbuf, sndbuf })
    }
}

/// One bound, configured, non-blocking socket.
fn socket(spec: &ListenSpec, addr: SocketAddr, share: bool) -> io::Result<Socket> {
    let step = |what: &str, e: io::Error| step(addr, what, &e);
    let socket = Socket::new(Domain::for_address(addr), Type::STREAM, Some(Protocol::TCP))
        .map_err(|e| step("socket", e))?;
    socket.set_nonblocking(true).map_err(|e| step("non-blocking", e))?;
    // Connections of an earlier run that linger in TIME_WAIT must not keep us from starting. A socket that listens does.
    socket.set_reuse_address(true).map_err(|e| step("SO_REUSEADDR", e))?;
    if share {
        socket.set_reuse_port(true).map_err(|e| step("SO_REUSEPORT", e))?;
    }
    if addr.is_ipv6() {
        socket.set_only_v6(spec.family == Family::V6).map_err(|e| step("IPV6_V6ONLY", e))?;
    }
    // Before listening: the window scale that clients are offered depends on the receive buffer.
    spec.apply(&socket, step)?;
    socket.bind(&addr.into()).map_err(|e| step("bind", e))?;
    Ok(socket)
}

fn step(addr: SocketAddr, what: &str, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("tcp listener {addr}: {what}: {error}"))
}
