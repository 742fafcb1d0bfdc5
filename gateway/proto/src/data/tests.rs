use super::*;
use crate::keys::{KeyMaterial, Role};
use crate::replay::Replay;
use crate::suite::Cipher;
use core::time::Duration;

const T0: Instant = Instant::from_epoch(Duration::ZERO);
const WINDOW: (u32, Duration) = (64, Duration::from_secs(15));

fn material(seed: u8) -> KeyMaterial {
    let mut bytes = [0u8; 256];
    for (i, byte) in bytes.iter_mut().enumerate() {
        *byte = (i as u8).wrapping_mul(7).wrapping_add(seed);
    }
    KeyMaterial::new(bytes)
}

fn key(role: Role, id: u8, cipher: Cipher) -> DataKey {
    DataKey::new(KeyId::from_low_bits(id), &material(id), role, cipher, WINDOW).unwrap()
}

fn pair(cipher: Cipher, framing: Framing) -> (DataChannel, DataChannel) {
    let peer = PeerId::new(5).unwrap();
    let (mut a, mut b) = (DataChannel::new(peer, framing), DataChannel::new(peer, framing));
    a.install(key(Role::Server, 0, cipher));
    b.install(key(Role::Client, 0, cipher));
    (a, b)
}

fn seal(channel: &mut DataChannel, packet: &[u8]) -> Vec<u8> {
    let mut frame = vec![0; channel.headroom()];
    frame.extend_from_slice(packet);
    channel.seal(&mut frame).unwrap();
    frame
}

fn opened_packet(channel: &mut DataChannel, frame: &mut [u8]) -> Vec<u8> {
    match channel.open(frame, T0).unwrap().payload {
        InBand::Packet(packet) => packet.to_vec(),
        _ => Vec::new(),
    }
}

#[test]
fn every_cipher_and_framing_both_ways() {
    for cipher in Cipher::ALL {
        for framing in [Framing::Plain, Framing::Stub] {
            let (mut server, mut client) = pair(cipher, framing);
            for packet in [b"E".as_slice(), &[0x45; 1400], &[0x60; 40]] {
                let mut frame = seal(&mut server, packet);
                assert_eq!(opened_packet(&mut client, &mut frame), packet);
                let mut frame = seal(&mut client, packet);
                assert_eq!(opened_packet(&mut server, &mut frame), packet);
            }
        }
    }
}

#[test]
fn messages_are_told_from_packets() {
    let (mut server, mut client) = pair(Cipher::Aes256Gcm, Framing::Plain);
    let mut frame = seal(&mut client, &PING);
    assert_eq!(server.open(&mut frame, T0).unwrap().payload, InBand::Ping);
    let mut frame = seal(&mut client, &OCC_EXIT);
    assert_eq!(server.open(&mut frame, T0).unwrap().payload, InBand::Exit);
    let mut request = OCC_EXIT;
    request[16] = 0;
    let mut frame = seal(&mut client, &request);
    assert_eq!(server.open(&mut frame, T0).unwrap().payload, InBand::Occ(0));
    let mut frame = seal(&mut client, &PING[..15]);
    assert!(matches!(server.open(&mut frame, T0).unwrap().payload, InBand::Packet(_)));
}

#[test]
fn forgeries_and_replays_are_refused_and_move_nothing() {
    let (mut server, mut client) = pair(Cipher::Aes128Gcm, Framing::Plain);
    let good = seal(&mut client, &[0x45; 60]);
    for bit in 0..good.len() * 8 {
        let mut bad = good.clone();
        bad[bit / 8] ^= 1 << (bit % 8);
        assert!(server.open(&mut bad, T0).is_err(), "bit {bit}");
    }
    let mut first = good.clone();
    assert!(server.open(&mut first, T0).unwrap().newest);
    let mut again = good;
    assert_eq!(server.open(&mut again, T0).unwrap_err(), OpenError::Replay(Replay::Duplicate));
}

#[test]
fn a_late_packet_is_opened_but_is_not_newest() {
    let (mut server, mut client) = pair(Cipher::Aes256Gcm, Framing::Plain);
    let mut first = seal(&mut client, &[0x45; 60]);
    let mut second = seal(&mut client, &[0x45; 60]);
    assert!(server.open(&mut second, T0).unwrap().newest);
    assert!(!server.open(&mut first, T0).unwrap().newest);
}

#[test]
fn old_and_new_key_both_open_and_promotion_switches_sealing() {
    let (mut server, mut client) = pair(Cipher::Aes256Gcm, Framing::Plain);
    let mut late = seal(&mut client, &[0x45; 30]);
    server.install(key(Role::Server, 1, Cipher::Aes256Gcm));
    client.install(key(Role::Client, 1, Cipher::Aes256Gcm));
    assert!(client.promote(KeyId::from_low_bits(1)));
    let mut early = seal(&mut client, &[0x45; 40]);
    assert!(server.open(&mut early, T0).unwrap().with_pending_key);
    assert_eq!(seal(&mut server, &[0x45; 20])[0] & 7, 0, "still the old key");
    assert!(server.promote(KeyId::from_low_bits(1)));
    assert!(!server.promote(KeyId::from_low_bits(1)));
    assert_eq!(seal(&mut server, &[0x45; 20])[0] & 7, 1);
    assert_eq!(opened_packet(&mut server, &mut late), [0x45; 30]);
    let mut later = seal(&mut client, &[0x45; 50]);
    later[0] &= !7;
    assert!(server.open(&mut later, T0).is_err(), "key-id is authenticated");
    server.retire(KeyId::FIRST);
    let mut gone = late;
    assert_eq!(server.open(&mut gone, T0).unwrap_err(), OpenError::UnknownKey);
}

#[test]
fn ids_never_wrap() {
    let (mut server, _) = pair(Cipher::ChaCha20Poly1305, Framing::Plain);
    server.current_mut().unwrap().skip_to(0xff00_0000 - 1);
    seal(&mut server, &[1]);
    assert!(server.current().unwrap().is_worn());
    server.current_mut().unwrap().skip_to(u32::MAX - 1);
    seal(&mut server, &[1]);
    let mut frame = vec![0; 60];
    assert_eq!(server.seal(&mut frame), Err(SealError::Exhausted));
}

#[test]
fn short_frames_and_packets_are_refused() {
    let (mut server, mut client) = pair(Cipher::Aes256Gcm, Framing::Plain);
    assert_eq!(server.seal(&mut [0; 23]), Err(SealError::Frame));
    for len in 0..=OVERHEAD {
        let mut short = seal(&mut server, &[9]);
        short.truncate(len);
        assert_eq!(client.open(&mut short, T0).unwrap_err(), OpenError::Malformed);
    }
}

#[test]
fn four_keys_live_and_the_sealing_one_is_never_pushed_out() {
    let (mut server, mut client) = pair(Cipher::Aes256Gcm, Framing::Plain);
    for id in 1..=6 {
        server.install(key(Role::Server, id, Cipher::Aes256Gcm));
        client.install(key(Role::Client, id, Cipher::Aes256Gcm));
        assert_eq!(server.current().unwrap().id(), KeyId::FIRST);
    }
    let mut frame = seal(&mut client, &[0x45; 30]);
    assert_eq!(opened_packet(&mut server, &mut frame), [0x45; 30]);
    assert!(client.promote(KeyId::from_low_bits(5)));
    let mut frame = seal(&mut client, &[0x45; 31]);
    assert!(server.open(&mut frame, T0).unwrap().with_pending_key);
    assert!(!client.promote(KeyId::FIRST), "never back to an older key");
    server.retire(KeyId::FIRST);
    assert!(server.current().is_some(), "the key that seals stays");
}
