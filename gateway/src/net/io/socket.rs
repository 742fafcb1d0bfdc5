//! A control-plane socket on either back end.

use std::io;
use std::net::UdpSocket;
use std::os::fd::AsFd;
use std::rc::Rc;

use tokio::io::Interest;

use super::IoBackend;
use crate::net::cmsg::{self, Control};
use crate::net::path::Path;
use crate::net::sys::{recv_now, try_send_now};

/// A UDP socket of a shard. Buffers are owned by whoever works on them: no operation borrows.
#[derive(Clone)]
pub struct ControlSocket {
    /// Receives on both back ends, and sends on epoll.
    ready: Rc<tokio::net::UdpSocket>,
    /// Sends through the ring.
    ring: Option<Rc<tokio_uring::net::UdpSocket>>,
}

impl std::fmt::Debug for ControlSocket {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ControlSocket")
            .field("uring", &self.ring.is_some())
            .finish_non_exhaustive()
    }
}

impl ControlSocket {
    /// Takes a bound, non-blocking socket over. Must be called inside [`super::run_on`] with the same back end.
    ///
    /// # Errors
    /// When the socket cannot be registered or duplicated.
    pub fn from_std(backend: IoBackend, socket: UdpSocket) -> io::Result<Self> {
        let ring = match backend {
            IoBackend::Uring => Some(Rc::new(tokio_uring::net::UdpSocket::from_std(
                socket.try_clone()?,
            ))),
            IoBackend::Epoll => None,
        };
        Ok(Self {
            ready: Rc::new(tokio::net::UdpSocket::from_std(socket)?),
            ring,
        })
    }

    /// The next datagram into `buf`: its length, and both its ends. Safe to drop: nothing is taken until it is returned.
    ///
    /// # Errors
    /// Those of the socket; a datagram longer than `buf` is `InvalidData` and lost.
    pub async fn recv(&self, buf: &mut [u8]) -> io::Result<(usize, Path)> {
        self.ready
            .async_io(Interest::READABLE, || recv_now(self.ready.as_fd(), buf))
            .await
    }

    /// Sends a datagram from the address in its path.
    ///
    /// # Errors
    /// Those of the socket; the datagram is lost.
    pub async fn send(&self, bytes: Vec<u8>, path: Path) -> io::Result<()> {
        let Some(ring) = &self.ring else {
            return self
                .ready
                .async_io(Interest::WRITABLE, || {
                    try_send_now(self.ready.as_fd(), &bytes, &path)
                })
                .await;
        };
        let mut control = Control::EMPTY;
        let len = cmsg::encode_local(&path, &mut control);
        let control = (len > 0).then(|| control.0[..len].to_vec());
        let (result, _, _) = ring.sendmsg(vec![bytes], Some(path.remote), control).await;
        result.map(drop)
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
