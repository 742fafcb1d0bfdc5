//! A UDP relay that loses, reorders and duplicates datagrams, and can change its address towards the gateway.
//!
//! It stands for `netem` (many kernels come without it) and for a NAT that forgets its mapping. It runs in the client's
//! namespace; the client's `remote` is the relay.
//!
//! ```text
//!   openvpn ──127.0.0.1:port──► relay ──eth0──► gateway
//! ```

use std::collections::BinaryHeap;
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::thread::JoinHandle;
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::clock::Deadline;
use crate::netns::Namespace;

/// How long a reordered datagram is held back: several later ones overtake it.
const HELD: Duration = Duration::from_millis(40);
/// Larger than any datagram of a test.
const DATAGRAM: usize = 4096;

/// What happens to datagrams, in percent, each way.
#[derive(Debug, Clone, Copy, Default)]
pub struct Impairment {
    /// Dropped.
    pub loss: u8,
    /// Held back by 40 ms.
    pub reorder: u8,
    /// Sent twice.
    pub duplicate: u8,
}

#[derive(Debug, Default)]
struct Shared {
    impairment: Mutex<Impairment>,
    rebind: AtomicBool,
    stop: AtomicBool,
    forwarded: AtomicU64,
    lost: AtomicU64,
    held: AtomicU64,
}

/// A running relay; ends on drop.
#[derive(Debug)]
pub struct Relay {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
    port: u16,
}

impl Relay {
    /// Starts a relay in `ns` to `gateway`. The same `seed` gives the same decisions.
    #[must_use]
    pub fn start(ns: &Namespace, gateway: SocketAddr, impairment: Impairment, seed: u64) -> Self {
        let shared = Arc::new(Shared { impairment: Mutex::new(impairment), ..Shared::default() });
        let (ready, port) = mpsc::channel();
        let theirs = Arc::clone(&shared);
        let thread = ns.spawn(move || {
            let inside = UdpSocket::bind("127.0.0.1:0").expect("a relay socket");
            ready.send(inside.local_addr().expect("own address").port()).expect("the starter waits");
            Loop { shared: &theirs, inside, outside: towards(gateway), gateway, random: seed | 1 }.run();
        });
        let port = port.recv_timeout(Duration::from_secs(10)).expect("the relay is ready");
        Self { shared, thread: Some(thread), port }
    }

    /// The port on 127.0.0.1 to which the client sends.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Changes what happens from now on.
    pub fn set(&self, impairment: Impairment) {
        *self.shared.impairment.lock().expect("no panic while held") = impairment;
    }

    /// From the next datagram on, the gateway sees another source port.
    pub fn rebind(&self) {
        self.shared.rebind.store(true, Ordering::Relaxed);
    }

    /// Datagrams forwarded, lost and held back so far.
    #[must_use]
    pub fn counts(&self) -> (u64, u64, u64) {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        (read(&self.shared.forwarded), read(&self.shared.lost), read(&self.shared.held))
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // A relay that panicked shows as a client that cannot connect; here it must not hide that.
            let _ = thread.join();
        }
    }
}

fn towards(gateway: SocketAddr) -> UdpSocket {
    let any: SocketAddr = if gateway.is_ipv4() { ([0; 4], 0).into() } else { ([0_u16; 8], 0).into() };
    let socket = UdpSocket::bind(any).expect("a relay socket");
    socket.connect(gateway).expect("a route to the gateway");
    socket
}

/// A datagram held back until `due` (ms since the relay began). Ordered so that the heap gives the earliest.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Held {
    due: std::cmp::Reverse<u128>,
    outward: bool,
    bytes: Vec<u8>,
}

struct Loop<'a> {
    shared: &'a Shared,
    inside: UdpSocket,
    outside: UdpSocket,
    gateway: SocketAddr,
    random: u64,
}

impl Loop<'_> {
    fn run(mut self) {
        let clock = Deadline::after(Duration::ZERO);
        let mut client: Option<SocketAddr> = None;
        let mut held = BinaryHeap::new();
        let mut buffer = [0_u8; DATAGRAM];
        while !self.shared.stop.load(Ordering::Relaxed) {
            if self.shared.rebind.swap(false, Ordering::Relaxed) {
                self.outside = towards(self.gateway);
            }
            let now = clock.elapsed().as_millis();
            while held.peek().is_some_and(|first: &Held| first.due.0 <= now) {
                if let Some(Held { outward, bytes, .. }) = held.pop() {
                    self.forward(outward, &bytes, client);
                }
            }
            let wait = PollTimeout::from(10_u8);
            let (from_client, from_gateway) = {
                let mut fds = [
                    PollFd::new(self.inside.as_fd(), PollFlags::POLLIN),
                    PollFd::new(self.outside.as_fd(), PollFlags::POLLIN),
                ];
                poll(&mut fds, wait).expect("poll");
                let [inside, outside] = &fds;
                (inside.any().unwrap_or(false), outside.any().unwrap_or(false))
            };
            for (outward, readable) in [(true, from_client), (false, from_gateway)] {
                if !readable {
                    continue;
                }
                let socket = if outward { &self.inside } else { &self.outside };
                // A refused port (gateway stopped) is reported here once; the datagram is lost either way.
                let Ok((length, source)) = socket.recv_from(&mut buffer) else {
                    continue;
                };
                if outward {
                    client = Some(source);
                }
                let bytes = buffer.get(..length).expect("what was read");
                self.decide(outward, bytes, client, now, &mut held);
            }
        }
    }

    fn decide(
        &mut self,
        outward: bool,
        bytes: &[u8],
        client: Option<SocketAddr>,
        now: u128,
        held: &mut BinaryHeap<Held>,
    ) {
        let impairment = *self.shared.impairment.lock().expect("no panic while held");
        if self.chance(impairment.loss) {
            self.shared.lost.fetch_add(1, Ordering::Relaxed);
        } else if self.chance(impairment.reorder) {
            self.shared.held.fetch_add(1, Ordering::Relaxed);
            let due = std::cmp::Reverse(now + HELD.as_millis());
            held.push(Held { due, outward, bytes: bytes.to_vec() });
        } else {
            self.forward(outward, bytes, client);
            if self.chance(impairment.duplicate) {
                self.forward(outward, bytes, client);
            }
        }
    }

    fn forward(&self, outward: bool, bytes: &[u8], client: Option<SocketAddr>) {
        // Failing to send is loss, which is what a network does.
        let sent = match (outward, client) {
            (true, _) => self.outside.send(bytes),
            (false, Some(client)) => self.inside.send_to(bytes, client),
            (false, None) => return,
        };
        if sent.is_ok() {
            self.shared.forwarded.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn chance(&mut self, percent: u8) -> bool {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        (self.random >> 33) % 100 < u64::from(percent)
    }
}
