//! The TCP connections of a worker, over loopback: framing, fairness, a client that does not read, limits, ends.

#![expect(clippy::unwrap_used, reason = "a test may fail by panic")]

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use proptest::prelude::*;
use tessera_proto::Instant;
use tesserad::config::Config;
use tesserad::data::streams::{CloseReason, StreamEvent, StreamId, StreamIntake, StreamOptions, Streams};

/// Longest wait in steps of 2 ms; only reached by a failing test.
const PATIENCE: u32 = 1500;
/// Number of the listener, which every event must carry.
const LISTENER: usize = 3;

fn options() -> StreamOptions {
    StreamOptions::new(&Config::default())
}

fn at(seconds: u64) -> Instant {
    Instant::from_epoch(Duration::from_secs(seconds))
}

/// What a worker would see, kept.
#[derive(Debug, PartialEq, Eq)]
enum Seen {
    Frame(StreamId, Vec<u8>),
    Closed(StreamId, CloseReason, bool),
    Foreign(Vec<u8>),
}

struct Worker {
    streams: Streams,
    intake: StreamIntake,
    address: SocketAddr,
    /// Packets in one turn.
    budget: usize,
    foreign: Vec<TcpStream>,
}

impl Worker {
    fn new(options: StreamOptions) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let streams = Streams::new(vec![(LISTENER, listener)], options).unwrap();
        let intake = StreamIntake::new(&streams).unwrap();
        Self { streams, intake, address, budget: 256, foreign: Vec::new() }
    }

    fn client(&self) -> TcpStream {
        let client = TcpStream::connect(self.address).unwrap();
        client.set_nodelay(true).unwrap();
        client.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        client
    }

    /// One turn, with everything that it brought.
    fn turn(&mut self, now: Instant) -> Vec<Seen> {
        let mut seen = Vec::new();
        self.intake.poll(&mut self.streams, now, self.budget);
        while let Some(event) = self.intake.next(&mut self.streams, now) {
            seen.push(match event {
                StreamEvent::Frame { id, listener, path, bytes } => {
                    assert_eq!(listener, LISTENER);
                    assert_eq!(self.streams.path(id), Some(path));
                    assert_eq!(path.local.ip, Some(self.address.ip()));
                    let packet = bytes.to_vec();
                    bytes.fill(0xee);
                    Seen::Frame(id, packet)
                }
                StreamEvent::Closed { id, listener, why, spoke, .. } => {
                    assert_eq!(listener, LISTENER);
                    assert!(!self.streams.has_room(id));
                    Seen::Closed(id, why, spoke)
                }
                StreamEvent::Foreign { stream, first, .. } => {
                    self.foreign.push(stream);
                    Seen::Foreign(first.to_vec())
                }
            });
        }
        self.streams.flush(now);
        seen
    }

    /// Turns until so many things have happened.
    fn events(&mut self, count: usize) -> Vec<Seen> {
        let mut seen = Vec::new();
        for _ in 0..PATIENCE {
            seen.extend(self.turn(at(0)));
            if seen.len() >= count {
                return seen;
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        panic!("{count} events expected: {seen:?}");
    }

    /// A client that has said one packet, and its connection.
    fn speaking(&mut self) -> (TcpStream, StreamId) {
        let mut client = self.client();
        client.write_all(&frame(b"hello")).unwrap();
        match self.events(1)[..] {
            [Seen::Frame(id, _)] => (client, id),
            ref other => panic!("{other:?}"),
        }
    }

    fn until(&mut self, what: &str, mut holds: impl FnMut(&mut Self) -> bool) {
        for _ in 0..PATIENCE {
            assert_eq!(self.turn(at(0)), [], "{what}");
            if holds(self) {
                return;
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        panic!("not in time: {what}");
    }
}

fn frame(packet: &[u8]) -> Vec<u8> {
    [&u16::try_from(packet.len()).unwrap().to_be_bytes(), packet].concat()
}

fn read_frame(client: &mut TcpStream) -> std::io::Result<Vec<u8>> {
    let mut length = [0; 2];
    client.read_exact(&mut length)?;
    let mut packet = vec![0; u16::from_be_bytes(length).into()];
    client.read_exact(&mut packet)?;
    Ok(packet)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    /// However the bytes arrive and however small the turns are, the packets are the same.
    #[test]
    fn packets_survive_any_split(
        packets in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 1..3000), 1..20),
        cuts in proptest::collection::vec(1usize..4000, 1..10),
        budget in 1usize..8,
    ) {
        let mut worker = Worker::new(options());
        worker.budget = budget;
        let mut client = worker.client();
        let stream: Vec<u8> = packets.iter().flat_map(|packet| frame(packet)).collect();
        let (mut rest, mut got) = (&stream[..], Vec::new());
        for cut in cuts.iter().cycle() {
            if rest.is_empty() {
                break;
            }
            let (now, later) = rest.split_at((*cut).min(rest.len()));
            client.write_all(now).unwrap();
            rest = later;
            got.extend(worker.turn(at(0)));
        }
        let missing = packets.len() - got.len();
        if missing > 0 {
            got.extend(worker.events(missing));
        }
        let got: Vec<Vec<u8>> = got
            .into_iter()
            .map(|seen| match seen {
                Seen::Frame(_, packet) => packet,
                other => panic!("{other:?}"),
            })
            .collect();
        prop_assert_eq!(got, packets);
    }
}

#[test]
fn answers_of_many_reach_whom_they_are_for() {
    let mut worker = Worker::new(options());
    let mut clients: Vec<_> = (0..100).map(|_| worker.client()).collect();
    for (number, client) in clients.iter_mut().enumerate() {
        client.write_all(&[frame(&[number as u8; 40]), frame(b"second")].concat()).unwrap();
    }
    for seen in worker.events(200) {
        let Seen::Frame(id, packet) = seen else { panic!("{seen:?}") };
        worker.streams.established(id);
        if packet != b"second" {
            assert!(worker.streams.queue_data(id, &packet));
            assert!(worker.streams.queue_control(id, b"control"));
        }
    }
    worker.streams.flush(at(0));
    for (number, client) in clients.iter_mut().enumerate() {
        assert_eq!(read_frame(client).unwrap(), [number as u8; 40]);
        assert_eq!(read_frame(client).unwrap(), b"control");
    }
    assert_eq!(worker.streams.len(), 100);
    drop(clients);
    assert_eq!(
        worker
            .events(100)
            .iter()
            .filter(|seen| matches!(seen, Seen::Closed(_, CloseReason::Ended, true)))
            .count(),
        100
    );
    assert!(worker.streams.is_empty());
    assert_eq!(worker.streams.counters().ended.read(), 100);
}

#[test]
fn a_talker_does_not_silence_the_others() {
    let mut worker = Worker::new(options());
    // Less than one read brings.
    worker.budget = 10;
    let mut talker = worker.client();
    talker.set_nonblocking(true).unwrap();
    let burst = frame(&[1; 1000]).repeat(1000);
    let mut unsent = &burst[..];
    let (mut quiet, quiet_id) = worker.speaking();
    let mut turns = 0;
    quiet.write_all(&frame(b"also here")).unwrap();
    loop {
        match talker.write(unsent) {
            Ok(len) => unsent = if len < unsent.len() { &unsent[len..] } else { &burst },
            Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock),
        }
        turns += 1;
        let seen = worker.turn(at(0));
        assert!(seen.len() <= 10, "a turn keeps its budget: {}", seen.len());
        if seen.iter().any(|seen| matches!(seen, Seen::Frame(id, _) if *id == quiet_id)) {
            return;
        }
        assert!(turns < 40, "never heard");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Fills the connection of a client that does not read until nothing goes any more; returns how much was taken.
fn stuff(worker: &mut Worker, id: StreamId) -> usize {
    let (mut taken, mut idle) = (0u32, 0);
    while idle < 20 {
        if worker.streams.has_room(id) {
            idle = 0;
            let packet = [&taken.to_be_bytes(), &[7; 1396][..]].concat();
            assert!(worker.streams.queue_data(id, &packet));
            taken += 1;
        } else {
            assert!(!worker.streams.queue_data(id, &[0; 1400]), "has_room and queue_data agree");
            assert_eq!(worker.turn(at(0)), []);
            idle += 1;
            std::thread::sleep(Duration::from_millis(2));
        }
    }
    taken as usize
}

#[test]
fn a_burst_longer_than_the_queue_is_written_on_the_way() {
    let mut worker = Worker::new(options());
    let (mut eager, id) = worker.speaking();
    worker.streams.established(id);
    let burst = 2 * options().queue_packets as u32;
    for round in 0..burst {
        assert!(worker.streams.make_room(id, at(0)), "packet {round}");
        assert!(worker.streams.queue_data(id, &round.to_be_bytes()));
    }
    worker.streams.flush(at(0));
    for round in 0..burst {
        assert_eq!(read_frame(&mut eager).unwrap(), round.to_be_bytes());
    }
}

#[test]
fn a_client_that_does_not_read_holds_up_nobody_and_loses_no_control_packet() {
    let mut worker = Worker::new(options());
    let (mut lazy, lazy_id) = worker.speaking();
    let (mut eager, eager_id) = worker.speaking();
    worker.streams.established(lazy_id);
    worker.streams.established(eager_id);
    let taken = stuff(&mut worker, lazy_id);
    assert!(!worker.streams.make_room(lazy_id, at(0)));
    assert!(worker.streams.queue_control(lazy_id, b"control, in spite of all"));
    // The other one is served as if nothing were.
    for round in 0..200u32 {
        assert!(worker.streams.queue_data(eager_id, &round.to_be_bytes()));
        worker.streams.flush(at(0));
        assert_eq!(read_frame(&mut eager).unwrap(), round.to_be_bytes());
    }
    // What was taken arrives whole and in order, and the control packet behind it.
    let reader = std::thread::spawn(move || {
        for number in 0..taken {
            let packet = read_frame(&mut lazy).unwrap();
            assert_eq!((packet.len(), &packet[..4]), (1400, &(number as u32).to_be_bytes()[..]));
        }
        assert_eq!(read_frame(&mut lazy).unwrap(), b"control, in spite of all");
        lazy
    });
    worker.until("all written", |_| reader.is_finished());
    let mut lazy = reader.join().unwrap();
    assert!(worker.streams.has_room(lazy_id));
    assert!(worker.streams.queue_data(lazy_id, b"on we go"));
    worker.streams.flush(at(0));
    assert_eq!(read_frame(&mut lazy).unwrap(), b"on we go");
}

#[test]
fn who_takes_nothing_for_too_long_is_given_up() {
    let mut worker = Worker::new(options());
    let (_lazy, stalled) = worker.speaking();
    let (_other, flooded) = worker.speaking();
    for id in [stalled, flooded] {
        worker.streams.established(id);
        stuff(&mut worker, id);
    }
    worker.streams.tick(at(59));
    assert!(worker.streams.path(stalled).is_some());
    let mut queued = 0;
    while worker.streams.queue_control(flooded, &[9; 1000]) {
        queued += 1;
        assert!(queued <= 66, "control packets are bounded");
    }
    assert!(queued > 60);
    assert_eq!(worker.turn(at(59)), [Seen::Closed(flooded, CloseReason::Backlog, true)]);
    worker.streams.tick(at(60));
    assert_eq!(worker.turn(at(60)), [Seen::Closed(stalled, CloseReason::Stalled, true)]);
    assert!(worker.streams.is_empty());
    assert!(!worker.streams.queue_control(stalled, b"x") && !worker.streams.queue_data(stalled, b"x"));
}

#[test]
fn bytes_are_bounded_too() {
    let mut worker = Worker::new(StreamOptions { queue_bytes: 1000, ..options() });
    let (mut client, id) = worker.speaking();
    assert!(worker.streams.queue_data(id, &[1; 900]) && worker.streams.has_room(id));
    assert!(worker.streams.queue_data(id, &[2; 900]) && !worker.streams.has_room(id));
    assert!(!worker.streams.queue_data(id, &[3; 1]));
    assert!(worker.streams.queue_control(id, &[4; 900]), "data does not take the place of control");
    worker.streams.flush(at(0));
    assert!(worker.streams.has_room(id));
    for byte in [1, 2, 4] {
        assert_eq!(read_frame(&mut client).unwrap(), [byte; 900]);
    }
    assert!(!worker.streams.queue_data(id, &[]), "no frame holds nothing");
}

#[test]
fn a_wrong_length_ends_a_connection_after_the_packets_before_it() {
    for bad in [[0, 0], [0xff, 0xff], [0x0f, 0xff]] {
        let mut worker = Worker::new(options());
        let mut client = worker.client();
        client.write_all(&[&frame(b"good")[..], &bad, &frame(b"never seen")].concat()).unwrap();
        let seen = worker.events(2);
        let [Seen::Frame(id, packet), Seen::Closed(closed, why, true)] = &seen[..] else {
            panic!("{seen:?}")
        };
        assert_eq!((id, &packet[..]), (closed, &b"good"[..]));
        assert_eq!(*why, CloseReason::BadLength(u16::from_be_bytes(bad)));
        assert_eq!(client.read(&mut [0]).unwrap_or(0), 0);
        assert_eq!(worker.streams.counters().bad_length.read(), 1);
    }
}

#[test]
fn how_clients_hang_up() {
    let mut worker = Worker::new(options());
    let (client, id) = worker.speaking();
    // Half closed: OpenVPN has no use for the other half.
    client.shutdown(Shutdown::Write).unwrap();
    assert_eq!(worker.events(1), [Seen::Closed(id, CloseReason::Ended, true)]);

    let (mut client, id) = worker.speaking();
    client.write_all(&[0, 10, 1, 2]).unwrap();
    worker.until("half a packet", |_| true);
    drop(client);
    assert_eq!(worker.events(1), [Seen::Closed(id, CloseReason::Truncated, true)]);

    let (client, id) = worker.speaking();
    socket2::SockRef::from(&client).set_linger(Some(Duration::ZERO)).unwrap();
    drop(client);
    assert_eq!(worker.events(1), [Seen::Closed(id, CloseReason::Failed(ErrorKind::ConnectionReset), true)]);

    let silent = worker.client();
    worker.until("accepted", |worker| worker.streams.len() == 1);
    drop(silent);
    let seen = worker.events(1);
    assert!(matches!(seen[..], [Seen::Closed(_, CloseReason::Ended, false)]), "{seen:?}");
}

#[test]
fn last_words_arrive_and_nothing_is_reported_of_a_wanted_end() {
    let mut worker = Worker::new(options());
    let (mut client, id) = worker.speaking();
    worker.streams.established(id);
    // Unread bytes in our buffer: a plain close would now reset the connection.
    client.write_all(&frame(&[5; 3000]).repeat(5)).unwrap();
    std::thread::sleep(Duration::from_millis(20));
    assert!(worker.streams.queue_control(id, b"RESTART,[P]"));
    worker.streams.close(id, true);
    assert_eq!(worker.streams.path(id), None);
    assert!(!worker.streams.queue_control(id, b"more"));
    worker.streams.flush(at(0));
    client.write_all(&frame(&[5; 3000])).unwrap();
    assert_eq!(read_frame(&mut client).unwrap(), b"RESTART,[P]");
    assert_eq!(client.read(&mut [0]).unwrap(), 0);
    assert_eq!(worker.turn(at(0)), [], "what it says after that is not heard");
    drop(client);
    worker.until("gone", |worker| worker.streams.is_empty());

    // A client that does not hang up in its turn is not waited for.
    let (_client, id) = worker.speaking();
    worker.streams.close(id, true);
    worker.streams.flush(at(0));
    worker.streams.tick(at(4));
    assert_eq!(worker.streams.len(), 1);
    worker.streams.tick(at(5));
    assert!(worker.streams.is_empty());

    let (mut client, id) = worker.speaking();
    worker.streams.close(id, false);
    assert!(worker.streams.is_empty());
    assert_eq!(client.read(&mut [0]).unwrap_or(0), 0);
    assert_eq!(worker.turn(at(0)), []);
}

#[test]
fn closing_over_a_packet_drops_the_ones_behind_it() {
    let mut worker = Worker::new(options());
    let mut client = worker.client();
    client.write_all(&frame(b"forged").repeat(10)).unwrap();
    let mut packets = 0;
    for _ in 0..PATIENCE {
        worker.intake.poll(&mut worker.streams, at(0), 256);
        while let Some(event) = worker.intake.next(&mut worker.streams, at(0)) {
            let StreamEvent::Frame { id, .. } = event else { panic!("{event:?}") };
            packets += 1;
            worker.streams.close(id, false);
        }
        if packets > 0 {
            break;
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    assert_eq!(packets, 1);
    assert_eq!(client.read(&mut [0]).unwrap_or(0), 0);
}

#[test]
fn a_late_writer_does_not_reach_the_next_owner_of_the_slot() {
    let mut worker = Worker::new(options());
    let (first, old) = worker.speaking();
    drop(first);
    worker.events(1);
    let (mut second, new) = worker.speaking();
    assert_eq!(old.slot, new.slot);
    assert_ne!(old, new);
    assert!(!worker.streams.queue_control(old, b"secret"));
    assert!(!worker.streams.queue_data(old, b"secret"));
    assert!(!worker.streams.established(old));
    worker.streams.close(old, false);
    assert!(worker.streams.queue_control(new, b"for the second"));
    worker.streams.flush(at(0));
    assert_eq!(read_frame(&mut second).unwrap(), b"for the second");
}

#[test]
fn the_silent_and_the_unestablished_have_their_time() {
    let mut worker = Worker::new(options());
    let _silent = worker.client();
    worker.until("accepted", |worker| worker.streams.len() == 1);
    let (_speaking, id) = worker.speaking();
    let (_session, session) = worker.speaking();
    worker.streams.established(session);
    worker.streams.tick(at(9));
    assert_eq!(worker.streams.len(), 3);
    worker.streams.tick(at(10));
    let seen = worker.turn(at(10));
    assert!(matches!(seen[..], [Seen::Closed(_, CloseReason::Silent, false)]), "{seen:?}");
    worker.streams.tick(at(59));
    assert_eq!(worker.turn(at(59)), []);
    worker.streams.tick(at(60));
    assert_eq!(worker.turn(at(60)), [Seen::Closed(id, CloseReason::NotEstablished, true)]);
    worker.streams.tick(at(1_000_000));
    assert!(worker.streams.path(session).is_some());
}

#[test]
fn newcomers_push_out_the_silent_but_nobody_who_has_spoken() {
    let wanted =
        StreamOptions { unestablished: 4, unestablished_per_address: 4, connections: 6, ..options() };
    let mut worker = Worker::new(wanted);
    let mut oldest = worker.client();
    worker.until("accepted", |worker| worker.streams.len() == 1);
    let mut speakers = Vec::new();
    for _ in 0..3 {
        speakers.push(worker.speaking());
    }
    // From one address, even the silent one does not have to go.
    let mut fifth = worker.client();
    worker.until("refused", |worker| worker.streams.counters().refused.read() == 1);
    assert_eq!(fifth.read(&mut [0]).unwrap_or(0), 0);
    assert_eq!(worker.streams.counters().evicted.read(), 0);

    let wanted =
        StreamOptions { unestablished: 4, unestablished_per_address: 100, connections: 6, ..options() };
    let mut worker = Worker::new(wanted);
    let mut silent = worker.client();
    worker.until("accepted", |worker| worker.streams.len() == 1);
    let mut speakers = Vec::new();
    for _ in 0..3 {
        speakers.push(worker.speaking());
    }
    let mut client = worker.client();
    client.write_all(&frame(b"hello")).unwrap();
    let seen = worker.events(2);
    assert!(matches!(seen[..], [Seen::Closed(_, CloseReason::Evicted, false), Seen::Frame(..)]), "{seen:?}");
    assert_eq!(silent.read(&mut [0]).unwrap_or(0), 0);
    // Now all have spoken: nobody has to go any more, until one is a session.
    let mut refused = worker.client();
    worker.until("refused", |worker| worker.streams.counters().refused.read() == 1);
    assert_eq!(refused.read(&mut [0]).unwrap_or(0), 0);
    worker.streams.established(speakers[0].1);
    speakers.push(worker.speaking());
    worker.streams.established(speakers[1].1);
    speakers.push(worker.speaking());
    // Six in all.
    let _seventh = worker.client();
    worker.until("refused", |worker| worker.streams.counters().refused.read() == 2);
    assert_eq!(worker.streams.len(), 6);
    drop(speakers);
    drop(client);
    drop(oldest.read(&mut [0]));
    worker.events(6);
    assert!(worker.streams.is_empty());
}

#[test]
fn strangers_are_handed_out_with_what_they_have_said() {
    let mut worker = Worker::new(StreamOptions { port_share: true, ..options() });
    let mut browser = worker.client();
    browser.write_all(b"\x16\x03\x01 client hello").unwrap();
    assert_eq!(worker.events(1), [Seen::Foreign(b"\x16\x03\x01 client hello".to_vec())]);
    assert!(worker.streams.is_empty());
    let mut stream = worker.foreign.pop().unwrap();
    stream.write_all(b"answer").unwrap();
    let mut got = [0; 6];
    browser.read_exact(&mut got).unwrap();
    assert_eq!(&got, b"answer");
    browser.write_all(b"more").unwrap();
    std::thread::sleep(Duration::from_millis(10));
    assert_eq!(worker.turn(at(0)), [], "it is watched no more");

    // Byte by byte: nothing is settled before the third.
    let mut slow = worker.client();
    for byte in [0, 100] {
        slow.write_all(&[byte]).unwrap();
        std::thread::sleep(Duration::from_millis(10));
        assert_eq!(worker.turn(at(0)), []);
    }
    slow.write_all(b"G").unwrap();
    assert_eq!(worker.events(1), [Seen::Foreign(vec![0, 100, b'G'])]);

    let mut client = worker.client();
    let reset = [&[7 << 3], &[1; 20][..]].concat();
    client.write_all(&frame(&reset)).unwrap();
    let seen = worker.events(1);
    assert!(matches!(&seen[..], [Seen::Frame(_, packet)] if *packet == reset), "{seen:?}");
    // Later packets are not judged again.
    client.write_all(&frame(&[9 << 3; 1000])).unwrap();
    assert!(matches!(worker.events(1)[..], [Seen::Frame(..)]));
    assert_eq!(worker.streams.counters().foreign.read(), 2);
}
