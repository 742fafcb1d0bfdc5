//! Every derivation and wrapping against values from an independent implementation (`tests/vectors`).

#![expect(clippy::unwrap_used, reason = "a test")]

use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use tessera_proto::data::{DataChannel, DataKey, Framing, InBand};
use tessera_proto::keys::{ClientMessage, KeyMaterial, KeySource, Role, ServerMessage};
use tessera_proto::wrap::{
    ClientKeyFile, Datagram, KeyDirection, Metadata, PacketStamp, ServerKey, StaticKey, TlsAuthKey,
    TlsCryptKey, WrapKey,
};
use tessera_proto::{Cipher, Digest, Instant, Secret};
use tessera_wire::control::{Acks, Header, Tail};
use tessera_wire::{KeyId, MessageId, Opcode, OpcodeByte, PeerId, SessionId};

fn load(text: &str) -> Value {
    serde_json::from_str(text).unwrap()
}

fn list<'a>(value: &'a Value, name: &str) -> &'a Vec<Value> {
    let list = value[name].as_array().unwrap();
    assert!(!list.is_empty(), "{name} is empty");
    list
}

fn text<'a>(value: &'a Value, name: &str) -> &'a str {
    value[name].as_str().unwrap_or_default()
}

fn number(value: &Value, name: &str) -> u64 {
    value[name].as_u64().unwrap()
}

fn bytes(value: &Value, name: &str) -> Vec<u8> {
    let hex = text(value, name);
    (0..hex.len() / 2).map(|i| u8::from_str_radix(&hex[2 * i..2 * i + 2], 16).unwrap()).collect()
}

fn array<const N: usize>(value: &Value, name: &str) -> [u8; N] {
    bytes(value, name).try_into().unwrap()
}

/// A control packet of the vectors, as our types have it.
fn packet(v: &Value, payload: &[u8], check: impl FnOnce(Header, PacketStamp, Tail<'_>)) {
    let mut acks = Acks::NONE;
    for id in v["acks"].as_array().unwrap() {
        assert!(acks.push(MessageId(id.as_u64().unwrap() as u32)));
    }
    let op = OpcodeByte {
        opcode: Opcode::from_number(number(v, "opcode") as u8).unwrap(),
        key_id: KeyId::from_low_bits(number(v, "key_id") as u8),
    };
    let tail = Tail {
        acks,
        remote_session_id: (!v["remote_session_id"].is_null())
            .then(|| SessionId(array(v, "remote_session_id"))),
        message_id: v["message_id"].as_u64().map(|id| MessageId(id as u32)),
        payload,
    };
    let stamp = PacketStamp { id: number(v, "packet_id") as u32, time: number(v, "time") as u32 };
    check(Header { op, session_id: SessionId(array(v, "session_id")) }, stamp, tail);
}

/// The sender's key makes the very bytes, and the receiver's opens them.
fn check_wrapping(v: &Value, sender: &WrapKey, receiver: &WrapKey) {
    let name = text(v, "name");
    let payload = bytes(v, "payload");
    packet(v, &payload, |header, stamp, tail| {
        let wrapped = bytes(v, "wrapped");
        assert_eq!(sender.seal(&header, stamp, &tail).unwrap(), wrapped, "{name}: seal");
        let opened = receiver.open(Datagram(&wrapped)).unwrap();
        assert_eq!(opened.header, header, "{name}");
        assert_eq!(opened.stamp, Some(stamp), "{name}");
        assert_eq!(opened.tail().unwrap(), tail, "{name}: open");
        let plain = WrapKey::None.seal(&header, stamp, &tail).unwrap();
        assert_eq!(plain, bytes(v, "plain"), "{name}: plain");
    });
}

fn crypt_pair(key: &StaticKey, v: &Value) -> (WrapKey, WrapKey) {
    let make = |direction| WrapKey::TlsCrypt(TlsCryptKey::new(key, direction).unwrap());
    let (server, client) = (make(KeyDirection::Normal), make(KeyDirection::Inverse));
    if text(v, "sender") == "server" { (server, client) } else { (client, server) }
}

#[test]
fn static_keys() {
    let all = load(include_str!("vectors/static_key.json"));
    for v in list(&all, "valid") {
        let key = StaticKey::parse(text(v, "pem")).unwrap();
        assert_eq!(key.bytes().to_vec(), bytes(v, "key"), "{}", text(v, "name"));
        assert_eq!(StaticKey::parse(key.to_text().expose()).unwrap().bytes(), key.bytes());
    }
    for v in list(&all, "invalid") {
        assert!(StaticKey::parse(text(v, "pem")).is_err(), "{}", text(v, "name"));
    }
}

#[test]
fn tls_auth() {
    let all = load(include_str!("vectors/tls_auth.json"));
    let key = StaticKey::new(array(&all, "key"));
    for v in list(&all, "vectors") {
        let digest = Digest::from_name(text(v, "digest")).unwrap();
        let make = |field: &str| {
            let direction = match v[field].as_u64() {
                Some(0) => KeyDirection::Normal,
                Some(_) => KeyDirection::Inverse,
                None => KeyDirection::Bidirectional,
            };
            WrapKey::TlsAuth(TlsAuthKey::new(&key, direction, digest))
        };
        check_wrapping(v, &make("sender_direction"), &make("receiver_direction"));
    }
}

#[test]
fn tls_crypt() {
    let all = load(include_str!("vectors/tls_crypt.json"));
    let key = StaticKey::new(array(&all, "key"));
    for v in list(&all, "vectors") {
        let (sender, receiver) = crypt_pair(&key, v);
        check_wrapping(v, &sender, &receiver);
    }
}

#[test]
fn dynamic_tls_crypt() {
    let all = load(include_str!("vectors/dynamic_tls_crypt.json"));
    for case in list(&all, "cases") {
        let exported = StaticKey::new(array(case, "exported"));
        let key = if case["configured"].is_null() {
            exported
        } else {
            exported.xor(&StaticKey::new(array(case, "configured")))
        };
        assert_eq!(key.bytes().to_vec(), bytes(case, "key"), "{}", text(case, "name"));
        for v in list(case, "vectors") {
            let (sender, receiver) = crypt_pair(&key, v);
            check_wrapping(v, &sender, &receiver);
        }
    }
}

#[test]
fn tls_crypt_v2() {
    let all = load(include_str!("vectors/tls_crypt_v2.json"));
    let server = ServerKey::parse(text(&all, "server_pem")).unwrap();
    for client in list(&all, "clients") {
        let name = text(client, "name");
        let key = StaticKey::new(array(client, "client_key"));
        let metadata = match (client["metadata_type"].as_u64(), client["timestamp"].as_i64()) {
            (None, _) => Metadata::None,
            (Some(_), Some(time)) => Metadata::Timestamp(time),
            (Some(_), None) => Metadata::User(bytes(client, "metadata")),
        };
        let wkc = bytes(client, "wkc");
        assert_eq!(server.wrap(&key, &metadata).unwrap(), wkc, "{name}");
        let file = ClientKeyFile::parse(text(client, "client_pem")).unwrap();
        assert_eq!((file.key.bytes(), &file.wkc), (key.bytes(), &wkc), "{name}");
        for v in list(client, "vectors") {
            let (sender, receiver) = crypt_pair(&key, v);
            check_wrapping(v, &sender, &receiver);
            let datagram = bytes(v, "datagram");
            if Opcode::from_number(number(v, "opcode") as u8).unwrap().carries_wkc() {
                let (packet, opened) = server.split(&datagram).unwrap();
                assert_eq!(packet, bytes(v, "wrapped"));
                assert_eq!(opened.key.bytes(), key.bytes());
                assert_eq!(opened.metadata, metadata);
            } else {
                assert_eq!(datagram, bytes(v, "wrapped"));
            }
        }
    }
    for v in list(&all, "invalid") {
        let mut datagram = b"packet".to_vec();
        datagram.extend(bytes(v, "wkc"));
        assert!(server.split(&datagram).is_err(), "{}", text(v, "name"));
    }
}

#[test]
fn key_method_2() {
    let all = load(include_str!("vectors/key_method_2.json"));
    for v in list(&all, "messages") {
        let name = text(v, "name");
        let encoded = bytes(v, "encoded");
        let whole = number(v, "fields_present") == 4;
        if text(v, "sender") == "client" {
            let parsed = ClientMessage::parse(&encoded).unwrap();
            assert_eq!(
                parsed.source.pre_master.as_ref().unwrap().expose().to_vec(),
                bytes(v, "pre_master"),
                "{name}"
            );
            assert_eq!(parsed.source.random1.expose().to_vec(), bytes(v, "random1"));
            assert_eq!(parsed.source.random2.expose().to_vec(), bytes(v, "random2"));
            assert_eq!(parsed.options, text(v, "options"));
            assert_eq!(parsed.username, text(v, "username"));
            assert_eq!(parsed.password.expose(), text(v, "password"));
            assert_eq!(parsed.peer_info, text(v, "peer_info"));
            assert!(!whole || parsed.encode().to_vec() == encoded, "{name}: encode");
        } else {
            let parsed = ServerMessage::parse(&encoded).unwrap();
            assert_eq!(parsed.source.random2.expose().to_vec(), bytes(v, "random2"));
            assert_eq!(parsed.options, text(v, "options"), "{name}");
        }
    }
    for v in list(&all, "invalid") {
        let encoded = bytes(v, "encoded");
        let refused = if text(v, "sender") == "client" {
            ClientMessage::parse(&encoded).is_err()
        } else {
            ServerMessage::parse(&encoded).is_err()
        };
        assert!(refused, "{}", text(v, "name"));
    }
}

#[test]
fn prf_sessions() {
    let all = load(include_str!("vectors/prf.json"));
    for v in list(&all, "sessions") {
        let source = |side: &str, pre_master| KeySource {
            pre_master,
            random1: Secret::new(array(v, &format!("{side}_random1"))),
            random2: Secret::new(array(v, &format!("{side}_random2"))),
        };
        let client = source("client", Some(Secret::new(array(v, "pre_master"))));
        let server = source("server", None);
        let sid = |name: &str| SessionId(array(v, name));
        let made =
            KeyMaterial::from_prf(&client, &server, sid("client_session_id"), sid("server_session_id"))
                .unwrap();
        let expected = KeyMaterial::new(array(v, "keys"));
        for role in [Role::Client, Role::Server] {
            let (a, b) = (
                made.sealing(role, Cipher::Aes256Gcm).unwrap(),
                expected.sealing(role, Cipher::Aes256Gcm).unwrap(),
            );
            assert_eq!(a.cipher_key.expose(), b.cipher_key.expose());
            assert_eq!(a.implicit_iv, b.implicit_iv);
        }
    }
}

#[test]
fn data_channel() {
    let all = load(include_str!("vectors/data_channel.json"));
    let material = KeyMaterial::new(array(&all, "keys"));
    for v in list(&all, "splits") {
        let cipher = Cipher::from_name(text(v, "cipher")).unwrap();
        for (role, side) in [(Role::Client, "client"), (Role::Server, "server")] {
            let key = material.sealing(role, cipher).unwrap();
            assert_eq!(*key.cipher_key.expose(), bytes(v, &format!("{side}_encrypts")));
            assert_eq!(key.implicit_iv.to_vec(), bytes(v, &format!("{side}_implicit_iv")));
        }
    }
    let window = (64, Duration::from_secs(15));
    for v in list(&all, "vectors") {
        let name = text(v, "name");
        let cipher = Cipher::from_name(text(v, "cipher")).unwrap();
        let id = number(v, "peer_id") as u32;
        let [_, a, b, c] = id.to_be_bytes();
        let peer = PeerId::from_be_bytes([a, b, c]);
        let key_id = KeyId::from_low_bits(number(v, "key_id") as u8);
        let (sender, receiver) = if text(v, "sender") == "server" {
            (Role::Server, Role::Client)
        } else {
            (Role::Client, Role::Server)
        };
        let (payload, expected) = (bytes(v, "payload"), bytes(v, "packet"));
        let packet_id = number(v, "packet_id") as u32;
        if packet_id < u32::MAX {
            let mut key = DataKey::new(key_id, &material, sender, cipher, window).unwrap();
            key.skip_to(packet_id);
            let mut channel = DataChannel::new(peer, Framing::Plain);
            channel.install(key);
            let mut frame = vec![0; channel.headroom()];
            frame.extend_from_slice(&payload);
            channel.seal(&mut frame).unwrap();
            assert_eq!(frame, expected, "{name}: seal");
        }
        let mut channel = DataChannel::new(peer, Framing::Plain);
        channel.install(DataKey::new(key_id, &material, receiver, cipher, window).unwrap());
        let mut datagram = expected;
        match channel.open(&mut datagram, Instant::default()).unwrap().payload {
            InBand::Ping => assert_eq!(name, "ping"),
            InBand::Packet(plain) => assert_eq!(*plain, *payload, "{name}: open"),
            other => panic!("{name}: {other:?}"),
        }
    }
}

/// Keys are shared by all sessions of a listener, across threads.
#[test]
fn wrap_keys_can_be_shared() {
    fn shareable<T: Send + Sync>() {}
    shareable::<Arc<WrapKey>>();
    shareable::<Arc<ServerKey>>();
}
