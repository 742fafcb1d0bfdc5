//! A sending thread: trains from wherever they come from, to sockets, at a rate or as fast as there is room.

use super::DataError;
use super::bank::Train;
use super::pace::Pacer;
use super::phase::{Phase, Shared, Watch};
use super::send::{Manner, Sender, Sent};
use super::sys;
use crate::clock;
use std::net::UdpSocket;
use std::sync::Arc;
use std::time::Duration;

/// How often a sender that has nothing to do looks whether it has.
const IDLE: Duration = Duration::from_micros(200);
/// Sleeps are cut here, so that the end of a phase is seen in time.
const LONGEST_SLEEP: Duration = Duration::from_millis(20);

/// Where trains come from.
pub trait Trains {
    /// The next train with its bytes; `None` when there are no more.
    fn next_train(&mut self) -> Option<(Train, &[u8])>;
}

/// What was sent in the measured time.
#[derive(Debug, Default)]
pub struct Offered {
    /// Packets that the system took.
    pub packets: u64,
    /// Bytes of their inner packets.
    pub bytes: u64,
    /// Packets of each peer.
    pub by_peer: Vec<u64>,
    /// Packets that the system refused, the whole run through.
    pub refused: u64,
    /// The last reason for that.
    pub refusal: Option<String>,
    /// Waits for room in a socket, the whole run through.
    pub waits: u64,
    /// The trains came to an end before the time did.
    pub ran_out: bool,
    /// CPU seconds of this thread.
    pub cpu_s: f64,
}

/// Sends while the run is under load, until it stops. The packets of `peers` peers are counted each.
///
/// # Errors
/// When sockets cannot be waited for.
pub fn drive(
    trains: &mut impl Trains,
    sockets: &[Arc<UdpSocket>],
    (manner, rate, peers): (Manner, Option<f64>, usize),
    shared: &Shared,
) -> Result<Offered, DataError> {
    sys::punctual();
    let (mut sender, mut watch) = (Sender::new(sockets, manner), Watch::new(shared));
    let mut offered = Offered { by_peer: vec![0; peers], ..Offered::default() };
    let mut pacer = Pacer::new(rate, clock::mono());
    let mut cpu = Duration::ZERO;
    loop {
        while let Some(phase) = watch.begun() {
            match phase {
                Phase::WarmUp => pacer = Pacer::new(rate, clock::mono()),
                Phase::Measure => {
                    pacer = Pacer::new(rate, clock::mono());
                    (offered.packets, offered.bytes) = (0, 0);
                    offered.by_peer.fill(0);
                    cpu = clock::thread_cpu();
                }
                Phase::Drain => offered.cpu_s = clock::thread_cpu().saturating_sub(cpu).as_secs_f64(),
                Phase::Prepare | Phase::Settle | Phase::Stop => {}
            }
        }
        if watch.seen() == Phase::Stop {
            break;
        }
        if !watch.seen().is_load() || offered.ran_out {
            std::thread::sleep(IDLE);
            continue;
        }
        let wait = pacer.wait(clock::mono());
        if !wait.is_zero() {
            std::thread::sleep(wait.min(LONGEST_SLEEP));
            continue;
        }
        if !shared.may_send() {
            continue;
        }
        let Some((train, bytes)) = trains.next_train() else {
            shared.sent(0);
            offered.ran_out = true;
            shared.ran_out();
            shared.set_bank_open(false);
            continue;
        };
        let taken = whole(&mut sender, &train, bytes, shared)? as u64;
        shared.sent(taken);
        offered.packets += taken;
        offered.bytes += taken * u64::from(train.inner);
        if let Some(count) = offered.by_peer.get_mut(train.peer as usize) {
            *count += taken;
        }
        pacer.sent(train.count, clock::mono());
    }
    (offered.refused, offered.waits) = (sender.refused, sender.waits);
    offered.refusal = sender.last_error.map(|error| error.desc().to_owned());
    Ok(offered)
}

/// Sends a train; what has found no room when the load ends is left out.
fn whole(sender: &mut Sender, train: &Train, bytes: &[u8], shared: &Shared) -> Result<usize, DataError> {
    let (mut taken, mut rest) = (0, bytes);
    loop {
        let sent = sender.send(train.outlet as usize, rest, train.segment);
        match sent.map_err(DataError::io("waiting for a socket"))? {
            Sent::Taken(count) => return Ok(taken + count),
            Sent::Full(count) => {
                taken += count;
                rest = rest.get(count * usize::from(train.segment)..).unwrap_or_default();
                if !shared.phase().is_load() {
                    return Ok(taken);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// So many trains of 8 packets, to the only socket.
    struct Few(usize);

    impl Trains for Few {
        fn next_train(&mut self) -> Option<(Train, &[u8])> {
            self.0 = self.0.checked_sub(1)?;
            let train = Train { peer: (self.0 % 2) as u32, outlet: 0, segment: 100, count: 8, inner: 76 };
            Some((train, &[0; 800]))
        }
    }

    fn socket() -> (UdpSocket, Arc<UdpSocket>) {
        let sink = UdpSocket::bind("127.0.0.1:0").unwrap();
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.connect(sink.local_addr().unwrap()).unwrap();
        (sink, Arc::new(socket))
    }

    fn run(mut trains: Few, rate: Option<f64>, seconds: Duration) -> (Offered, Duration) {
        let (_sink, socket) = socket();
        let shared = Shared::default();
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| drive(&mut trains, &[socket], (Manner::Segmented, rate, 2), &shared));
            let measured = shared.conduct(seconds);
            shared.stop();
            (thread.join().unwrap().unwrap(), measured.end.saturating_sub(measured.start))
        })
    }

    #[test]
    fn keeps_its_rate_and_counts_only_what_is_measured() {
        let (offered, measured) = run(Few(usize::MAX), Some(4000.0), Duration::from_secs(1));
        let rate = offered.packets as f64 / measured.as_secs_f64();
        assert!((3500.0..=4500.0).contains(&rate), "{rate} packets a second");
        assert_eq!(offered.bytes, offered.packets * 76);
        assert_eq!(offered.by_peer.iter().sum::<u64>(), offered.packets);
        assert!(!offered.ran_out && offered.cpu_s > 0.0);
    }

    #[test]
    fn the_end_of_the_trains_is_the_end_of_the_time() {
        // Half a second of warm-up, and as much that counts.
        let (offered, measured) = run(Few(500), Some(4000.0), Duration::from_secs(30));
        assert!(offered.ran_out);
        assert!((0.3..5.0).contains(&measured.as_secs_f64()), "{measured:?}");
        assert!((1000..3500).contains(&offered.packets), "{}", offered.packets);
    }
}
