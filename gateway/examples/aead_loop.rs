//! What the cipher alone costs on this machine: AES-256-GCM sealing and opening in place, as the packet path calls it.
//! What is more in a worker's time per packet is the gateway's own.
//!
//! ```text
//! cargo run --release -p tesserad --example aead_loop [BYTES [MILLISECONDS]]
//! ```
//!
//! One line of JSON: the medians, in nanoseconds of this thread's processor time a packet.

#![expect(clippy::print_stdout, reason = "its output is what it is for")]

use std::error::Error;
use std::hint::black_box;

use nix::time::{ClockId, clock_gettime};
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};

/// Packets between two looks at the clock: as many as a worker takes at a time, and few enough to stay in the cache of a core.
const BATCH: usize = 64;
/// Opcode, peer-id and packet-id are authenticated along.
const AAD: [u8; 8] = [0x48, 0, 0, 1, 0, 0, 0, 1];
const TAG: usize = 16;

type Fallible<T> = Result<T, Box<dyn Error>>;

struct Packet {
    number: u64,
    tag: [u8; TAG],
    text: Vec<u8>,
}

fn main() -> Fallible<()> {
    let mut arguments = std::env::args().skip(1);
    let bytes: usize = arguments.next().map_or(Ok(1400), |text| text.parse())?;
    let limit: u64 = arguments.next().map_or(Ok(1000), |text| text.parse())?;
    let key = LessSafeKey::new(UnboundKey::new(&AES_256_GCM, &[7; 32]).map_err(|_| "no key")?);
    let mut packets: Vec<Packet> =
        (0..BATCH).map(|_| Packet { number: 0, tag: [0; TAG], text: vec![0x45; bytes] }).collect();
    let (mut seals, mut opens) = (Vec::new(), Vec::new());
    let (mut number, start) = (0, nanoseconds()?);
    while nanoseconds()?.saturating_sub(start) < limit.saturating_mul(1_000_000) {
        let before = nanoseconds()?;
        for packet in &mut packets {
            number += 1;
            packet.number = number;
            seal(&key, packet)?;
        }
        let between = nanoseconds()?;
        for packet in &mut packets {
            open(&key, packet)?;
        }
        let after = nanoseconds()?;
        seals.push(between.saturating_sub(before));
        opens.push(after.saturating_sub(between));
    }
    println!(
        "{{\"cipher\":\"AES-256-GCM\",\"bytes\":{bytes},\"seal_ns\":{:.1},\"open_ns\":{:.1}}}",
        median(&mut seals),
        median(&mut opens)
    );
    Ok(())
}

fn seal(key: &LessSafeKey, packet: &mut Packet) -> Fallible<()> {
    let tag = key
        .seal_in_place_separate_tag(nonce(packet.number), Aad::from(black_box(AAD)), &mut packet.text)
        .map_err(|_| "sealing failed")?;
    packet.tag.copy_from_slice(tag.as_ref());
    Ok(())
}

fn open(key: &LessSafeKey, packet: &mut Packet) -> Fallible<()> {
    let plain = key
        .open_in_place_separate_tag(
            nonce(packet.number),
            Aad::from(black_box(AAD)),
            packet.tag.into(),
            &mut packet.text,
            0..,
        )
        .map_err(|_| "opening failed")?;
    black_box(plain.len());
    Ok(())
}

fn nonce(number: u64) -> Nonce {
    let mut bytes = [0; 12];
    bytes[..8].copy_from_slice(&number.to_le_bytes());
    Nonce::assume_unique_for_key(bytes)
}

/// Processor time of this thread.
fn nanoseconds() -> Fallible<u64> {
    let time = clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID)?;
    Ok(u64::try_from(time.tv_sec())? * 1_000_000_000 + u64::try_from(time.tv_nsec())?)
}

/// Of batches, for one packet.
fn median(times: &mut [u64]) -> f64 {
    times.sort_unstable();
    #[expect(clippy::cast_precision_loss, reason = "far below 2^53 nanoseconds")]
    let batch = times.get(times.len() / 2).copied().unwrap_or_default() as f64;
    batch / BATCH as f64
}
