//! A control-plane socket on either back end.

use std::io;
use std::net::UdpSocket;
use std::os::fd::AsFd;
use std::rc::Rc;

use tokio::io::Interest;

use super::IoBackend;
use super::ring::RecvRing;
use crate::net::cmsg::{self, Control};
use crate::net::path::Path;
use crate::net::sys::{recv_now, try_send_now};

/// A UDP socket of a shard. Buffers are owned by whoever works on them: no operation of the ring borrows.
#[derive(Clone)]
pub struct ControlSocket(Inner);

#[derive(Clone)]
enum Inner {
    Uring { receive: Rc<RecvRing>, send: Rc<tokio_uring::net::UdpSocket> },
    Epoll(Rc<tokio::net::UdpSocket>),
}

impl std::fmt::Debug for ControlSocket {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ControlSocket")
            .field("uring", &matches!(self.0, Inner::Uring { .. }))
            .finish_non_exhaustive()
    }
}

impl ControlSocket {
    /// Takes a bound socket over. Must be called inside [`super::run_on`] with the same back end.
    ///
    /// On io_uring the socket (and every duplicate of it) becomes blocking, because the ring fails requests of non-blocking
    /// ones in place of waiting: other users must pass `MSG_DONTWAIT`, as [`try_send_now`] does.
    ///
    /// # Errors
    /// When the socket cannot be registered or duplicated, or its ring cannot be made.
    pub fn from_std(backend: IoBackend, socket: UdpSocket) -> io::Result<Self> {
        Ok(Self(match backend {
            IoBackend::Uring => {
                socket.set_nonblocking(false)?;
                Inner::Uring {
                    receive: Rc::new(RecvRing::new(socket.try_clone()?)?),
                    send: Rc::new(tokio_uring::net::UdpSocket::from_std(socket)),
                }
            }
            IoBackend::Epoll => {
                socket.set_nonblocking(true)?;
                Inner::Epoll(Rc::new(tokio::net::UdpSocket::from_std(socket)?))
            }
        }))
    }

    /// The next datagram into `buf`: its length, and both its ends. Safe to drop: nothing is taken until it is returned.
    ///
    /// # Errors
    /// Those of the socket; a datagram longer than `buf` is `InvalidData` and lost.
    pub async fn recv(&self, buf: &mut [u8]) -> io::Result<(usize, Path)> {
        match &self.0 {
            Inner::Uring { receive, .. } => receive.recv(buf).await,
            Inner::Epoll(socket) => {
                socket.async_io(Interest::READABLE, || recv_now(socket.as_fd(), buf)).await
            }
        }
    }

    /// Sends a datagram from the address in its path, waiting for room in the socket's buffer.
    ///
    /// # Errors
    /// Those of the socket; the datagram is lost.
    pub async fn send(&self, bytes: Vec<u8>, path: Path) -> io::Result<()> {
        match &self.0 {
            Inner::Uring { send, .. } => {
                let mut control = Control::EMPTY;
                let len = cmsg::encode_local(&path, &mut control);
                let control = (len > 0).then(|| control.0[..len].to_vec());
                let (result, _, _) = send.sendmsg(vec![bytes], Some(path.remote), control).await;
                result.map(drop)
            }
            Inner::Epoll(socket) => {
                socket.async_io(Interest::WRITABLE, || try_send_now(socket.as_fd(), &bytes, &path)).await
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::IoChoice;
    use crate::net::io::{probe, run_on};
    use crate::net::{Family, ListenSpec, ListenerGroup};
    use std::time::Duration;

    /// Both back ends: whoever speaks to 127.0.0.2 is answered from there.
    #[test]
    fn answers_leave_from_the_address_that_was_spoken_to() {
        for choice in [IoChoice::Uring, IoChoice::Epoll] {
            let (backend, _) = probe(choice).unwrap();
            let spec = ListenSpec {
                addr: None,
                port: 0,
                family: Family::V4,
                bind_dev: None,
                sndbuf: None,
                rcvbuf: None,
                mark: None,
                gro: false,
            };
            let mut group = ListenerGroup::open(&spec, 1, 1).unwrap();
            let port = group.local.port();
            let client = std::thread::spawn(move || {
                let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
                socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
                // A hard reset's first byte: steered to the shard.
                socket.send_to(&[0x38; 14], ("127.0.0.2", port)).unwrap();
                let mut buf = [0; 64];
                let (len, from) = socket.recv_from(&mut buf).unwrap();
                (buf[..len].to_vec(), from)
            });
            let server = group.shard_sockets.remove(0);
            run_on(backend, async move {
                let socket = ControlSocket::from_std(backend, server).unwrap();
                let mut buf = vec![0; 2048];
                let (len, path) = socket.recv(&mut buf).await.unwrap();
                assert_eq!(&buf[..len], &[0x38; 14]);
                socket.send(b"hello".to_vec(), path).await.unwrap();
            })
            .unwrap();
            let (answer, from) = client.join().unwrap();
            assert_eq!(answer, b"hello", "{backend}");
            assert_eq!(from, ([127, 0, 0, 2], port).into(), "{backend}");
        }
    }
}
