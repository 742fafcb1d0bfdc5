//! The LAN's end: receives what peers send, and sends to their addresses.

use super::DataError;
use super::bank::Train;
use super::count::{Arrived, Stream};
use super::drive::Trains;
use super::mix::Sizes;
use super::packet::{HEADERS, Payload, fill};
use super::phase::{Phase, Shared, Watch};
use super::receive::{Inbox, NAP};
use super::sys;
use crate::clock;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Duration;
use tessera_wire::data::{Header, OVERHEAD};

/// Where peers' packets go, if no other port is asked for.
pub const LOAD_PORT: u16 = 5001;
/// Where probes go, either way: the port behind the one for the load.
pub const PROBE_PORT: u16 = LOAD_PORT + 1;
/// Where the packets of a peer's first stream go; the others follow.
const FIRST_PEER_PORT: u16 = 20_000;
/// What a receiver that was away for some milliseconds finds again at a million packets a second.
const RECEIVE_BUFFER: usize = 64 << 20;
/// A few trains may wait in a socket.
const SEND_BUFFER: usize = 1 << 20;
/// A receiver that hears nothing looks around this often.
const TURN_MS: u8 = 20;

/// A socket that receives the load, in the calling thread's namespace.
///
/// # Errors
/// When the port is in use, or the address is not one of ours.
pub fn receiver(address: SocketAddr) -> Result<UdpSocket, DataError> {
    let socket = UdpSocket::bind(address).map_err(DataError::io(format!("a socket on {address}")))?;
    sys::buffers(&socket, RECEIVE_BUFFER, SEND_BUFFER)?;
    sys::merge_received(&socket)?;
    Ok(socket)
}

/// Sockets to all streams of all peers: first the first stream of each, and so on.
///
/// # Errors
/// When there are not enough, or there is no route to a peer.
pub fn outlets(peers: &[Ipv4Addr], streams: u16) -> Result<Vec<Arc<UdpSocket>>, DataError> {
    let mut outlets = Vec::with_capacity(peers.len() * usize::from(streams));
    for stream in 0..streams {
        for peer in peers {
            let to = SocketAddr::from((*peer, FIRST_PEER_PORT.wrapping_add(stream)));
            let make = || {
                let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
                socket.connect(to)?;
                socket.set_nonblocking(true)?;
                Ok(socket)
            };
            let socket = make().map_err(DataError::io(format!("a socket to {to}")))?;
            sys::buffers(&socket, LEAST_RECEIVE, SEND_BUFFER)?;
            outlets.push(Arc::new(socket));
        }
    }
    Ok(outlets)
}

/// Nobody answers these sockets.
const LEAST_RECEIVE: usize = 4096;

/// What a datagram is: its stream, its number there, and the bytes of its inner packet.
pub type Kind = fn(&[u8]) -> Option<(usize, u64, usize)>;

/// A load packet as a LAN host gets it.
#[must_use]
pub fn plain(datagram: &[u8]) -> Option<(usize, u64, usize)> {
    let payload = Payload::parse(datagram)?;
    Some((payload.stream as usize, payload.sequence, datagram.len() + HEADERS))
}

/// A packet as the server would get it.
#[must_use]
pub fn sealed(datagram: &[u8]) -> Option<(usize, u64, usize)> {
    let header = Header::parse(datagram)?;
    let [a, b, c] = header.peer_id.to_be_bytes();
    let stream = u32::from_be_bytes([0, a, b, c]) as usize;
    Some((stream, header.packet_id.0.into(), datagram.len() - OVERHEAD))
}

/// Receives until the run stops.
///
/// # Errors
/// When the system fails us.
pub fn receive(
    socket: &UdpSocket,
    kind: Kind,
    peers: usize,
    streams: usize,
    shared: &Shared,
) -> Result<Arrived, DataError> {
    let address = socket.local_addr().map_err(DataError::io("own address"))?;
    let ports = BTreeSet::from([address.port()]);
    let drops = || sys::socket_drops(&ports, address.is_ipv6());
    let mut counters = vec![Stream::default(); peers.saturating_mul(streams)];
    let (mut watch, mut inbox, mut arrived) = (Watch::new(shared), Inbox::default(), Arrived::default());
    let (mut cpu, mut drops_before, mut busy) = (Duration::ZERO, 0, false);
    sys::punctual();
    while watch.seen() != Phase::Stop {
        let received = inbox.receive(socket).map_err(DataError::io("receiving"))?;
        while let Some(phase) = watch.begun() {
            match phase {
                Phase::Settle => drops_before = drops()?,
                Phase::Measure => {
                    arrived = Arrived::default();
                    counters.iter_mut().for_each(Stream::reset);
                    cpu = clock::thread_cpu();
                }
                Phase::Drain => {
                    arrived.window = arrived.all;
                    arrived.cpu_s = clock::thread_cpu().saturating_sub(cpu).as_secs_f64();
                }
                Phase::Prepare | Phase::WarmUp | Phase::Stop => {}
            }
        }
        let Some(mut received) = received else {
            rest(socket, &mut busy)?;
            continue;
        };
        busy = true;
        let before = arrived.all.packets;
        for datagram in received.datagrams() {
            match kind(datagram).and_then(|found| Some((counters.get_mut(found.0)?, found))) {
                Some((stream, (_, sequence, bytes))) => {
                    stream.see(sequence);
                    arrived.all.packets += 1;
                    arrived.all.bytes += bytes as u64;
                }
                None => arrived.strays += 1,
            }
        }
        let packets = arrived.all.packets - before;
        arrived.all.batches += u64::from(packets > 0);
        shared.arrived(packets);
    }
    arrived.drops = drops()?.saturating_sub(drops_before);
    arrived.by_peer = vec![0; peers];
    for (place, stream) in counters.iter().enumerate() {
        arrived.reordered += stream.reordered;
        if let Some(count) = arrived.by_peer.get_mut(place % peers.max(1)) {
            *count += stream.received;
        }
    }
    Ok(arrived)
}

/// Waits for something to read: after a burst just a moment, else until it comes.
fn rest(socket: &UdpSocket, busy: &mut bool) -> Result<(), DataError> {
    if std::mem::take(busy) {
        std::thread::sleep(NAP);
        return Ok(());
    }
    let mut fds = [PollFd::new(socket.as_fd(), PollFlags::POLLIN)];
    match poll(&mut fds, PollTimeout::from(TURN_MS)) {
        Ok(_) | Err(Errno::EINTR) => Ok(()),
        Err(error) => Err(DataError::io("receiving")(error.into())),
    }
}

/// Trains to the peers, in turns and without end: only the numbers in them change.
#[derive(Debug)]
pub struct Downlink {
    sizes: Sizes,
    train: u16,
    peers: usize,
    streams: usize,
    sequences: Vec<u64>,
    peer: usize,
    round: usize,
    /// A train for each payload length that there is, filled.
    trains: Vec<(usize, Vec<u8>)>,
}

impl Downlink {
    /// For so many peers with so many streams each.
    #[must_use]
    pub fn new(sizes: Sizes, train: u16, peers: usize, streams: u16) -> Self {
        let filled = |length: u16| {
            let length = usize::from(length).saturating_sub(HEADERS);
            let mut bytes = vec![0; length * usize::from(train)];
            bytes.chunks_exact_mut(length.max(1)).for_each(fill);
            (length, bytes)
        };
        let streams = usize::from(streams.max(1));
        Self {
            sizes,
            train,
            peers,
            streams,
            sequences: vec![0; peers * streams],
            peer: 0,
            round: 0,
            trains: sizes.lengths().iter().map(|length| filled(*length)).collect(),
        }
    }
}

impl Trains for Downlink {
    fn next_train(&mut self) -> Option<(Train, &[u8])> {
        let inner = self.sizes.length(self.peer, self.round);
        let length = usize::from(inner) - HEADERS;
        let stream = self.round % self.streams * self.peers + self.peer;
        let sequence = self.sequences.get_mut(stream)?;
        let (_, bytes) = self.trains.iter_mut().find(|(filled, _)| *filled == length)?;
        for payload in bytes.chunks_exact_mut(length) {
            Payload { stream: stream as u32, sequence: *sequence, stamp: 0 }.write(payload);
            *sequence += 1;
        }
        let train = Train {
            peer: self.peer as u32,
            outlet: stream as u32,
            segment: length as u16,
            count: self.train,
            inner,
        };
        self.peer += 1;
        if self.peer == self.peers {
            (self.peer, self.round) = (0, self.round + 1);
        }
        Some((train, bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    #[test]
    fn trains_number_every_stream_and_are_filled() {
        let mut downlink = Downlink::new(Sizes::Imix, 3, 2, 2);
        let mut next: BTreeMap<u32, u64> = BTreeMap::new();
        for _ in 0..48 {
            let (train, bytes) = downlink.next_train().unwrap();
            assert_eq!(bytes.len(), 3 * usize::from(train.segment));
            for payload in bytes.chunks(usize::from(train.segment)) {
                let parsed = Payload::parse(payload).unwrap();
                assert_eq!((parsed.stream, parsed.stream % 2), (train.outlet, train.peer));
                let sequence = next.entry(parsed.stream).or_default();
                assert_eq!(parsed.sequence, *sequence);
                *sequence += 1;
                let mut want = payload.to_vec();
                fill(&mut want);
                assert_eq!(payload, want);
            }
        }
        assert_eq!(next.len(), 4);
        assert!(next.values().all(|count| *count == 36));
    }

    #[test]
    fn a_receiver_counts_what_comes_in_the_measured_time() {
        let socket = receiver("127.0.0.1:0".parse().unwrap()).unwrap();
        let to = socket.local_addr().unwrap();
        let shared = Shared::default();
        let arrived = std::thread::scope(|scope| {
            let thread = scope.spawn(|| receive(&socket, plain, 2, 1, &shared));
            let sender = scope.spawn(|| {
                let from = UdpSocket::bind("127.0.0.1:0").unwrap();
                let mut payload = [0; 36];
                let mut watch = Watch::new(&shared);
                while watch.seen() != Phase::Measure {
                    if watch.begun() == Some(Phase::WarmUp) {
                        Payload { stream: 0, sequence: 0, stamp: 0 }.write(&mut payload);
                        from.send_to(&payload, to).unwrap();
                    }
                }
                for (stream, sequence) in [(0, 1), (1, 5), (1, 4), (0, 2), (9, 0)] {
                    Payload { stream, sequence, stamp: 0 }.write(&mut payload);
                    from.send_to(&payload, to).unwrap();
                }
                from.send_to(b"somebody else", to).unwrap();
            });
            shared.conduct(Duration::from_millis(200));
            sender.join().unwrap();
            shared.stop();
            thread.join().unwrap().unwrap()
        });
        assert_eq!((arrived.all.packets, arrived.all.bytes), (4, 4 * 64));
        assert_eq!(arrived.window, arrived.all);
        assert_eq!((arrived.by_peer, arrived.reordered, arrived.strays), (vec![2, 2], 1, 2));
        assert_eq!(arrived.drops, 0);
    }
}
