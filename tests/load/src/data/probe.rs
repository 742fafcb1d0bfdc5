//! Latency under load: few packets that say when they were sent, in both directions, on a peer of their own.
//!
//! The time of arrival is the kernel's: it does not count how long a thread of ours waits for its core.

use super::DataError;
use super::pace::Pacer;
use super::packet::{HEADERS, Payload, SMALLEST, Template, fill};
use super::peer::Peer;
use super::phase::{Phase, Shared, Watch};
use super::receive::Inbox;
use super::sys;
use crate::clock;
use hdrhistogram::Histogram;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::socket::{setsockopt, sockopt};
use nix::sys::time::TimeSpec;
use std::net::{SocketAddr, SocketAddrV4, UdpSocket};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Duration;
use tessera_proto::data::InBand;
use tessera_wire::{Opcode, OpcodeByte};

/// The thread looks around this often.
const TURN: Duration = Duration::from_millis(20);
/// Latencies are kept in nanoseconds up to this; longer ones count as this long.
const LONGEST_NS: u64 = 60_000_000_000;
/// Three digits of every latency are kept.
const DIGITS: u8 = 3;
/// Probes wait for nobody.
const BUFFER: usize = 1 << 20;

/// What one end sent and what it received of the other's.
#[derive(Debug)]
pub struct Probed {
    /// Sent in the measured time.
    pub sent: u64,
    /// Received since it began.
    pub received: u64,
    /// From the sender's clock to the receiver's kernel, in nanoseconds.
    pub times: Histogram<u64>,
    /// CPU seconds of this thread in the measured time.
    pub cpu_s: f64,
}

/// One end of the probes.
trait Line {
    fn socket(&self) -> &UdpSocket;
    /// Sends one. What is not sent counts as lost.
    fn send(&mut self, sequence: u64, stamp: u64);
    /// The probe in a datagram, if that is one.
    fn read(&mut self, datagram: &mut [u8]) -> Option<Payload>;
    /// Whatever else is due.
    fn tend(&mut self);
}

/// Sends and receives probes as `peer`, until the run stops; `to` is the other end.
///
/// # Errors
/// When the system fails us.
pub fn at_client(peer: Peer, to: SocketAddrV4, rate: f64, shared: &Shared) -> Result<Probed, DataError> {
    let from = SocketAddrV4::new(peer.address.unwrap_or(std::net::Ipv4Addr::UNSPECIFIED), to.port());
    let template = Template::new(from, to, 0, SMALLEST as u16);
    let mut line = Sealed { peer, template, frame: Vec::new() };
    let probed = exchange(&mut line, rate, shared)?;
    line.peer.leave(TURN, clock::read());
    line.peer.turn(clock::read(), false);
    Ok(probed)
}

/// The same from the LAN, by [`socket`].
///
/// # Errors
/// When the system fails us.
pub fn at_lan(socket: UdpSocket, rate: f64, shared: &Shared) -> Result<Probed, DataError> {
    let mut payload = vec![0; SMALLEST - HEADERS];
    fill(&mut payload);
    exchange(&mut Plain { socket, payload }, rate, shared)
}

/// The LAN's end: a socket on `port` to that port of the probing peer, in the calling thread's namespace.
///
/// # Errors
/// When the port is in use, or there is no route to the peer.
pub fn socket(peer: std::net::Ipv4Addr, port: u16) -> Result<UdpSocket, DataError> {
    let make = || {
        let socket = UdpSocket::bind((std::net::Ipv4Addr::UNSPECIFIED, port))?;
        socket.connect(SocketAddr::from((peer, port)))?;
        socket.set_nonblocking(true)?;
        Ok(socket)
    };
    let socket = make().map_err(DataError::io(format!("a socket for probes to {peer}")))?;
    sys::buffers(&socket, BUFFER, BUFFER)?;
    Ok(socket)
}

struct Sealed {
    peer: Peer,
    template: Template,
    frame: Vec<u8>,
}

impl Line for Sealed {
    fn socket(&self) -> &UdpSocket {
        &self.peer.socket
    }

    fn send(&mut self, sequence: u64, stamp: u64) {
        let socket = Arc::clone(&self.peer.socket);
        let Some(channel) = self.peer.channel() else { return };
        let headroom = channel.headroom();
        self.frame.clear();
        self.frame.resize(headroom + SMALLEST, 0);
        self.template.write(sequence, stamp, &mut self.frame[headroom..]);
        if channel.seal(&mut self.frame).is_ok() {
            let _ = socket.send(&self.frame);
        }
    }

    fn read(&mut self, datagram: &mut [u8]) -> Option<Payload> {
        let opcode = datagram.first().and_then(|first| OpcodeByte::parse(*first))?.opcode;
        if opcode != Opcode::DataV2 {
            self.peer.control(datagram, clock::read());
            return None;
        }
        match self.peer.open(datagram, clock::read()).ok()?.payload {
            InBand::Packet(inner) => Payload::parse(inner.get(HEADERS..)?),
            _ => None,
        }
    }

    fn tend(&mut self) {
        self.peer.turn(clock::read(), true);
    }
}

struct Plain {
    socket: UdpSocket,
    payload: Vec<u8>,
}

impl Line for Plain {
    fn socket(&self) -> &UdpSocket {
        &self.socket
    }

    fn send(&mut self, sequence: u64, stamp: u64) {
        Payload { stream: 0, sequence, stamp }.write(&mut self.payload);
        let _ = self.socket.send(&self.payload);
    }

    fn read(&mut self, datagram: &mut [u8]) -> Option<Payload> {
        Payload::parse(datagram)
    }

    fn tend(&mut self) {}
}

fn exchange(line: &mut impl Line, rate: f64, shared: &Shared) -> Result<Probed, DataError> {
    sys::punctual();
    setsockopt(line.socket(), sockopt::ReceiveTimestampns, &true)
        .map_err(|error| DataError::io("SO_TIMESTAMPNS")(error.into()))?;
    let mut watch = Watch::new(shared);
    let mut inbox = Inbox::default();
    let mut probing =
        Probing { probed: Probed::new(), pacer: Pacer::new(Some(rate), clock::mono()), cpu: Duration::ZERO };
    let mut sequence = 0;
    while watch.seen() != Phase::Stop {
        probing.phases(&mut watch, rate);
        let mut wait = TURN;
        if watch.seen().is_load() {
            let now = clock::mono();
            wait = probing.pacer.wait(now).min(TURN);
            if wait.is_zero() && shared.may_send() {
                // Read again at the last moment: it is what latencies count from.
                line.send(sequence, u64::try_from(clock::mono().as_nanos()).unwrap_or(u64::MAX));
                shared.sent(1);
                sequence += 1;
                probing.probed.sent += 1;
                probing.pacer.sent(1, now);
                continue;
            }
        }
        let mut fds = [PollFd::new(line.socket().as_fd(), PollFlags::POLLIN)];
        match ppoll(&mut fds, Some(TimeSpec::from_duration(wait)), None) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(error) => return Err(DataError::io("waiting for probes")(error.into())),
        }
        // "Port unreachable" for what was sent earlier is no end.
        while let Some(mut received) = inbox.receive(line.socket()).unwrap_or_default() {
            // What was sent in a phase must not be counted before that phase is seen here.
            probing.phases(&mut watch, rate);
            let stamp = received.stamp;
            for datagram in received.datagrams() {
                if let (Some(payload), Some(stamp)) = (line.read(datagram), stamp) {
                    let sent = Duration::from_nanos(payload.stamp);
                    shared.arrived(1);
                    probing.probed.record(clock::arrival(stamp).saturating_sub(sent));
                }
            }
        }
        line.tend();
    }
    Ok(probing.probed)
}

/// One end's state.
struct Probing {
    probed: Probed,
    pacer: Pacer,
    cpu: Duration,
}

impl Probing {
    fn phases(&mut self, watch: &mut Watch<'_>, rate: f64) {
        while let Some(phase) = watch.begun() {
            match phase {
                Phase::WarmUp => self.pacer = Pacer::new(Some(rate), clock::mono()),
                Phase::Measure => {
                    self.probed = Probed::new();
                    self.pacer = Pacer::new(Some(rate), clock::mono());
                    self.cpu = clock::thread_cpu();
                }
                Phase::Drain => {
                    self.probed.cpu_s = clock::thread_cpu().saturating_sub(self.cpu).as_secs_f64();
                }
                Phase::Prepare | Phase::Settle | Phase::Stop => {}
            }
        }
    }
}

impl Probed {
    fn new() -> Self {
        let times = Histogram::new_with_bounds(1, LONGEST_NS, DIGITS);
        let times = times.unwrap_or_else(|error| unreachable!("the bounds are constant: {error}"));
        Self { sent: 0, received: 0, times, cpu_s: 0.0 }
    }

    fn record(&mut self, time: Duration) {
        self.received += 1;
        self.times.saturating_record(u64::try_from(time.as_nanos()).unwrap_or(LONGEST_NS).max(1));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_ends_measure_each_other() {
        let (a, b) = (UdpSocket::bind("127.0.0.1:0").unwrap(), UdpSocket::bind("127.0.0.1:0").unwrap());
        a.connect(b.local_addr().unwrap()).unwrap();
        b.connect(a.local_addr().unwrap()).unwrap();
        for socket in [&a, &b] {
            socket.set_nonblocking(true).unwrap();
        }
        let shared = Shared::default();
        let (a, b) = std::thread::scope(|scope| {
            let a = scope.spawn(|| at_lan(a, 200.0, &shared));
            let b = scope.spawn(|| at_lan(b, 100.0, &shared));
            shared.conduct(Duration::from_secs(1));
            shared.stop();
            (a.join().unwrap().unwrap(), b.join().unwrap().unwrap())
        });
        assert!((150..=250).contains(&a.sent), "{}", a.sent);
        assert!((70..=130).contains(&b.sent), "{}", b.sent);
        assert_eq!((a.received, b.received), (b.sent, a.sent), "loopback loses nothing");
        let p50 = a.times.value_at_quantile(0.5);
        assert!((100..50_000_000).contains(&p50), "{p50} ns over loopback");
    }
}
