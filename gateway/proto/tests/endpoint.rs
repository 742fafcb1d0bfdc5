//! The gate: what strangers can cause, and what they cannot.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test")]

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tessera_proto::endpoint::{
    CookieKey, Drop, Endpoint, EndpointConfig, Handled, PerClient, Protections, ReplyRate,
};
use tessera_proto::session::{Protection, SessionParams};
use tessera_proto::wrap::{
    Datagram, KeyDirection, Metadata, PacketStamp, ServerKey, StaticKey, TlsCryptKey, WrapKey,
};
use tessera_proto::{Instant, Now, Rng, UnixTime};
use tessera_wire::control::{Acks, Header, Tail};
use tessera_wire::{KeyId, MessageId, Opcode, OpcodeByte, SessionId};

const CLIENT: SessionId = SessionId([0xc1; 8]);
const T0: Now = Now { mono: Instant::from_epoch(Duration::from_secs(10_000)), wall: UnixTime(1_790_000_000) };

struct Fixed(u8);

impl Rng for Fixed {
    fn fill(&mut self, out: &mut [u8]) {
        for byte in out {
            self.0 = self.0.wrapping_mul(5).wrapping_add(17);
            *byte = self.0;
        }
    }
}

fn from() -> SocketAddr {
    "192.0.2.7:40000".parse().unwrap()
}

fn tls() -> Arc<rustls::ServerConfig> {
    let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
    let cert = rcgen::CertificateParams::new(vec!["x".to_owned()]).unwrap().self_signed(&key).unwrap();
    let key = rustls::pki_types::PrivateKeyDer::try_from(key.serialize_der()).unwrap();
    let config =
        rustls::ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![cert.der().clone()], key)
            .unwrap();
    Arc::new(config)
}

fn endpoint(protections: Protections) -> Endpoint {
    Endpoint::new(EndpointConfig {
        params: Arc::new(SessionParams::default()),
        tls: tls(),
        protections,
        cookies: CookieKey::new(*b"0123456789abcdef", Duration::from_secs(60)),
        reply_rate: ReplyRate { burst: 100, per: Duration::from_secs(1) },
        max_half_open: 3,
        verify_client_keys: false,
        rng: Box::new(|| Box::new(Fixed(7))),
    })
}

fn plain() -> Protections {
    Protections { shared: Some(Protection { key: Arc::new(WrapKey::None), source: None }), per_client: None }
}

fn crypt(direction: KeyDirection) -> WrapKey {
    WrapKey::TlsCrypt(TlsCryptKey::new(&StaticKey::new([9; 256]), direction).unwrap())
}

fn packet(key: &WrapKey, opcode: Opcode, stamp: u32, tail: &Tail<'_>) -> Vec<u8> {
    let header = Header { op: OpcodeByte { opcode, key_id: KeyId::FIRST }, session_id: CLIENT };
    key.seal(&header, PacketStamp { id: stamp, time: 1_790_000_000 }, tail).unwrap()
}

fn reset(key: &WrapKey, opcode: Opcode, stamp: u32) -> Vec<u8> {
    let tail =
        Tail { acks: Acks::NONE, remote_session_id: None, message_id: Some(MessageId::RESET), payload: &[] };
    packet(key, opcode, stamp, &tail)
}

/// The third packet: acknowledges our reset.
fn third(key: &WrapKey, opcode: Opcode, cookie: SessionId, acked: u32, id: Option<u32>) -> Vec<u8> {
    let mut acks = Acks::NONE;
    acks.push(MessageId(acked));
    let tail = Tail { acks, remote_session_id: Some(cookie), message_id: id.map(MessageId), payload: &[] };
    packet(key, opcode, 2, &tail)
}

fn cookie_in(reply: &[u8]) -> SessionId {
    Header::parse(reply).unwrap().0.session_id
}

fn reply(endpoint: &mut Endpoint, datagram: &[u8], now: Now) -> Vec<u8> {
    match endpoint.handle_datagram(datagram, from(), now) {
        Handled::Reply(reply) => reply,
        other => panic!("no reply but {other:?}"),
    }
}

fn dropped(endpoint: &mut Endpoint, datagram: &[u8], from: SocketAddr, now: Now) -> Drop {
    match endpoint.handle_datagram(datagram, from, now) {
        Handled::Dropped(reason) => reason,
        other => panic!("not dropped but {other:?}"),
    }
}

#[test]
fn a_reset_leaves_nothing_behind_and_is_answered_once_with_little() {
    let mut e = endpoint(plain());
    let datagram = reset(&WrapKey::None, Opcode::HardResetClientV2, 1);
    for _ in 0..50 {
        let answer = reply(&mut e, &datagram, T0);
        assert_eq!((datagram.len(), answer.len()), (14, 26), "at most twelve bytes more than were received");
    }
    assert_eq!(e.counts(), (0, 0));
    assert_eq!(e.poll_timeout(), None, "nothing is ever sent again");
    assert!(e.poll_transmit().is_none());
}

#[test]
fn only_the_right_cookie_from_the_right_address_in_time_opens_a_session() {
    let mut e = endpoint(plain());
    let answer = reply(&mut e, &reset(&WrapKey::None, Opcode::HardResetClientV2, 1), T0);
    let cookie = cookie_in(&answer);
    for bit in 0..64 {
        let mut bad = cookie;
        bad.0[bit / 8] ^= 1 << (bit % 8);
        let datagram = third(&WrapKey::None, Opcode::Control, bad, 0, Some(1));
        assert_eq!(dropped(&mut e, &datagram, from(), T0), Drop::BadCookie, "bit {bit}");
    }
    let good = third(&WrapKey::None, Opcode::Control, cookie, 0, Some(1));
    for elsewhere in ["192.0.2.7:40001", "192.0.2.8:40000", "[2001:db8::7]:40000"] {
        assert_eq!(dropped(&mut e, &good, elsewhere.parse().unwrap(), T0), Drop::BadCookie, "{elsewhere}");
    }
    let late = Now { mono: T0.mono + Duration::from_secs(91), ..T0 };
    assert_eq!(dropped(&mut e, &good, from(), late), Drop::BadCookie);
    let early = Now { mono: Instant::from_epoch(Duration::from_secs(9_969)), ..T0 };
    assert_eq!(dropped(&mut e, &good, from(), early), Drop::BadCookie);
    for (acked, id) in [(2, Some(1)), (0, Some(2)), (1_000, Some(1)), (0, Some(u32::MAX))] {
        let datagram = third(&WrapKey::None, Opcode::Control, cookie, acked, id);
        assert_eq!(dropped(&mut e, &datagram, from(), T0), Drop::UnknownSession, "{acked} {id:?}");
    }
    assert_eq!(e.counts(), (0, 0), "none of them left anything");
    assert!(matches!(e.handle_datagram(&good, from(), T0), Handled::Session(_)));
    assert_eq!(e.counts(), (1, 1));
    let ack = third(&WrapKey::None, Opcode::Ack, cookie, 0, None);
    assert!(
        matches!(e.handle_datagram(&ack, from(), T0), Handled::Session(_)),
        "the session takes what follows"
    );
}

#[test]
fn silence_to_whoever_lacks_the_key() {
    let shared = Protection { key: Arc::new(crypt(KeyDirection::Normal)), source: None };
    let mut e = endpoint(Protections { shared: Some(shared), per_client: None });
    let good = reset(&crypt(KeyDirection::Inverse), Opcode::HardResetClientV2, 1);
    for bit in 0..good.len() * 8 {
        let mut bad = good.clone();
        bad[bit / 8] ^= 1 << (bit % 8);
        assert!(matches!(e.handle_datagram(&bad, from(), T0), Handled::Dropped(_)), "bit {bit}");
    }
    for len in 0..good.len() {
        assert!(matches!(e.handle_datagram(&good[..len], from(), T0), Handled::Dropped(_)), "{len} bytes");
    }
    assert_eq!(reply(&mut e, &good, T0).len(), good.len() + 12);
    assert_eq!(dropped(&mut e, &[0x50; 400], from(), T0), Drop::WrongProtection, "no tls-crypt-v2 here");
}

#[test]
fn opcodes_that_open_nothing_are_dropped() {
    let mut e = endpoint(plain());
    for opcode in 0..32u8 {
        let mut datagram = reset(&WrapKey::None, Opcode::HardResetClientV2, 1);
        datagram[0] = opcode << 3;
        let handled = e.handle_datagram(&datagram, from(), T0);
        assert_eq!(matches!(handled, Handled::Reply(_)), opcode == 7, "opcode {opcode}");
        datagram[0] |= 1;
        assert!(matches!(e.handle_datagram(&datagram, from(), T0), Handled::Dropped(_)), "key-id 1");
    }
    let mut numbered = reset(&WrapKey::None, Opcode::HardResetClientV2, 1);
    *numbered.last_mut().unwrap() = 1;
    assert_eq!(dropped(&mut e, &numbered, from(), T0), Drop::BadPacket, "a reset is message 0");
    assert_eq!(e.counts(), (0, 0));
}

#[test]
fn half_open_sessions_are_bounded_and_end() {
    let mut e = endpoint(plain());
    for port in 1..=20u16 {
        let address = SocketAddr::from(([192, 0, 2, 9], port));
        let Handled::Reply(answer) =
            e.handle_datagram(&reset(&WrapKey::None, Opcode::HardResetClientV2, 1), address, T0)
        else {
            panic!("no answer")
        };
        let datagram = third(&WrapKey::None, Opcode::Control, cookie_in(&answer), 0, Some(1));
        assert!(matches!(e.handle_datagram(&datagram, address, T0), Handled::Session(_)));
        while e.poll_event().is_some() || e.poll_transmit().is_some() {}
        e.poll_timeout();
        assert!(e.counts().1 <= 3, "the oldest made room");
    }
    let end = Now { mono: T0.mono + Duration::from_secs(61), ..T0 };
    e.handle_timeout(end);
    while e.poll_event().is_some() || e.poll_transmit().is_some() {}
    assert_eq!(e.poll_timeout(), None);
    assert_eq!(e.counts(), (0, 0), "hand-window ends them all");
}

#[test]
fn answers_are_limited_per_address() {
    let mut e = endpoint(plain());
    let datagram = reset(&WrapKey::None, Opcode::HardResetClientV2, 1);
    let answers =
        (0..1000).filter(|_| matches!(e.handle_datagram(&datagram, from(), T0), Handled::Reply(_))).count();
    assert_eq!(answers, 100);
    let other = SocketAddr::from(([198, 51, 100, 1], 9));
    assert!(matches!(e.handle_datagram(&datagram, other, T0), Handled::Reply(_)), "others are not starved");
}

/// tls-crypt-v2 with its three kinds of clients.
fn v2(allow_noncookie: bool, max_age: Option<Duration>) -> (Endpoint, Vec<u8>) {
    let server_key = Arc::new(ServerKey::new([3; 128]).unwrap());
    let made = i64::try_from(T0.wall.0).unwrap() - 86_400;
    let wkc = server_key.wrap(&StaticKey::new([9; 256]), &Metadata::Timestamp(made)).unwrap();
    let per_client = Some(PerClient { server_key, allow_noncookie, max_age });
    (endpoint(Protections { shared: None, per_client }), wkc)
}

fn with(packet: impl AsRef<[u8]>, wkc: &[u8]) -> Vec<u8> {
    [packet.as_ref(), wkc].concat()
}

#[test]
fn tls_crypt_v2_asks_for_the_key_again_and_keeps_nothing() {
    let (mut e, wkc) = v2(false, None);
    let client = crypt(KeyDirection::Inverse);
    let first = with(reset(&client, Opcode::HardResetClientV3, 0x0f00_0001), &wkc);
    let answer = reply(&mut e, &first, T0);
    let opened = client.open(Datagram(&answer)).unwrap();
    assert_eq!(opened.tail().unwrap().payload, [0, 1, 0, 2, 0, 1], "resend the WKc");
    assert_eq!(e.counts(), (0, 0));
    let cookie = cookie_in(&answer);
    let bare = third(&client, Opcode::Control, cookie, 0, Some(1));
    assert!(
        matches!(e.handle_datagram(&bare, from(), T0), Handled::Dropped(_)),
        "without the WKc there is no key"
    );
    let full = with(third(&client, Opcode::ControlWkc, cookie, 0, Some(1)), &wkc);
    assert!(matches!(e.handle_datagram(&full, from(), T0), Handled::Session(_)));
    let again = with(third(&client, Opcode::ControlWkc, cookie, 0, Some(1)), &wkc);
    assert!(matches!(e.handle_datagram(&again, from(), T0), Handled::Dropped(Drop::Session)), "a replay");
    assert_eq!(e.counts(), (1, 1));
    for len in [0u16, 1, 2, 33, 289, 290, 0x7fff, 0xffff] {
        let mut bad = full.clone();
        let at = bad.len() - 2;
        bad[at..].copy_from_slice(&len.to_be_bytes());
        assert!(matches!(e.handle_datagram(&bad, from(), T0), Handled::Dropped(_)), "WKc length {len}");
    }
}

#[test]
fn clients_without_the_cookie_handshake_only_where_allowed() {
    let client = crypt(KeyDirection::Inverse);
    let (mut strict, wkc) = v2(false, None);
    let old = with(reset(&client, Opcode::HardResetClientV3, 1), &wkc);
    assert_eq!(dropped(&mut strict, &old, from(), T0), Drop::WrongProtection);
    let (mut lenient, wkc) = v2(true, None);
    let old = with(reset(&client, Opcode::HardResetClientV3, 1), &wkc);
    assert!(matches!(lenient.handle_datagram(&old, from(), T0), Handled::Session(_)));
    let (_, _, answer) = lenient.poll_transmit().unwrap();
    let opened = client.open(Datagram(&answer)).unwrap();
    assert_eq!(opened.header.op.opcode, Opcode::HardResetServerV2);
}

#[test]
fn old_client_keys_are_refused() {
    let client = crypt(KeyDirection::Inverse);
    for (days, fresh) in [(2, true), (0, false)] {
        let (mut e, wkc) = v2(false, Some(Duration::from_secs(days * 86_400)));
        let first = with(reset(&client, Opcode::HardResetClientV3, 0x0f00_0001), &wkc);
        let handled = e.handle_datagram(&first, from(), T0);
        assert_eq!(matches!(handled, Handled::Reply(_)), fresh);
        assert_eq!(matches!(handled, Handled::Dropped(Drop::KeyTooOld)), !fresh);
    }
}
