//! The framing of TCP streams, against any input.

#![expect(clippy::unwrap_used, reason = "a test may fail by panic")]

use proptest::collection::vec;
use proptest::prelude::*;
use tessera_wire::stream::{BadLength, FrameReader, LENGTH_LEN, Opening, length_bytes, opening};

/// All packets of a stream that arrives in the given pieces, and how it ended.
fn packets(stream: &[u8], pieces: &[usize], room: usize, max: u16) -> (Vec<Vec<u8>>, Option<BadLength>) {
    let mut reader = FrameReader::new(vec![0xee; LENGTH_LEN + usize::from(max) + room], max).unwrap();
    let (mut out, mut at, mut pieces) = (Vec::new(), 0, pieces.iter().cycle());
    while at < stream.len() {
        let spare = reader.spare();
        assert!(!spare.is_empty());
        let piece = *pieces.next().unwrap();
        let len = piece.min(spare.len()).min(stream.len() - at);
        spare[..len].copy_from_slice(&stream[at..at + len]);
        reader.advance(len);
        at += len;
        loop {
            match reader.next_frame() {
                Ok(Some(frame)) => {
                    out.push(frame.to_vec());
                    // Whoever opens a packet in place leaves something else there.
                    frame.fill(0xff);
                }
                Ok(None) => break,
                Err(bad) => return (out, Some(bad)),
            }
        }
    }
    (out, None)
}

/// The same by the plainest means: everything at once.
fn expected(stream: &[u8], max: u16) -> (Vec<Vec<u8>>, Option<BadLength>) {
    let (mut out, mut rest) = (Vec::new(), stream);
    while let [high, low, behind @ ..] = rest {
        let length = u16::from_be_bytes([*high, *low]);
        if length == 0 || length > max {
            return (out, Some(BadLength(length)));
        }
        let Some((packet, next)) = behind.split_at_checked(length.into()) else { break };
        out.push(packet.to_vec());
        rest = next;
    }
    (out, None)
}

proptest! {
    #[test]
    fn any_split_of_any_packets_gives_the_same_packets(
        sent in vec(vec(any::<u8>(), 1..200), 0..40),
        pieces in vec(1usize..400, 1..30),
        room in 0usize..600,
    ) {
        let mut stream = Vec::new();
        for packet in &sent {
            stream.extend(length_bytes(packet.len()).unwrap());
            stream.extend(packet);
        }
        prop_assert_eq!(packets(&stream, &pieces, room, 200), (sent, None));
    }

    #[test]
    fn any_bytes_give_what_the_plain_reading_gives(
        stream in vec(prop_oneof![3 => 0u8..4, 1 => any::<u8>()], 0..2000),
        pieces in vec(1usize..100, 1..30),
        room in 0usize..100,
        max in 1u16..700,
    ) {
        prop_assert_eq!(packets(&stream, &pieces, room, max), expected(&stream, max));
    }

    #[test]
    fn calls_in_any_order_are_survived(
        calls in vec((0u8..5, any::<usize>(), vec(0u8..6, 0..30)), 0..200),
    ) {
        let mut reader = FrameReader::new([0; 20], 18).unwrap();
        for (call, number, bytes) in calls {
            match call {
                0 => { let _ = reader.push(&bytes); }
                1 => reader.advance(number),
                2 => { let _ = reader.next_frame(); }
                3 => reader.clear(),
                _ => { let _ = reader.spare().len(); }
            }
            prop_assert!(reader.rest().len() <= 20);
        }
    }

    /// What more bytes say never contradicts what fewer have said.
    #[test]
    fn a_verdict_about_a_stream_stands(bytes in vec(prop_oneof![Just(56u8), Just(80u8), 0u8..6, any::<u8>()], 0..6)) {
        let mut known = Opening::Unknown;
        for len in 0..=bytes.len() {
            let now = opening(&bytes[..len]);
            prop_assert!(known == Opening::Unknown || known == now);
            known = now;
        }
        prop_assert!(bytes.len() < 3 || known != Opening::Unknown);
    }
}
