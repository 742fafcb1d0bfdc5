//! TCP listener groups over loopback.

#![expect(clippy::unwrap_used, reason = "a test may fail by panic")]

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use tesserad::net::{Family, ListenSpec, StreamGroup};

/// Longest wait for a connection over loopback, in steps of 5 ms; only reached by a failing test.
const PATIENCE: u32 = 400;

fn spec(addr: Option<&str>, family: Family, port: u16) -> ListenSpec {
    let addr = addr.map(|a| a.parse().unwrap());
    ListenSpec { addr, port, family, bind_dev: None, sndbuf: None, rcvbuf: None, mark: None, gro: false }
}

/// The next connection at any of the sockets: which, from where, and the connection.
fn accept(group: &StreamGroup) -> (usize, SocketAddr, TcpStream) {
    for _ in 0..PATIENCE {
        for (index, listener) in group.listeners.iter().enumerate() {
            match listener.accept() {
                Ok((stream, from)) => return (index, from, stream),
                Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock, "{error}"),
            }
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    panic!("no connection at {}", group.local);
}

#[test]
fn connections_are_spread_over_all_workers() {
    let group = StreamGroup::open(&spec(Some("127.0.0.1"), Family::V4, 0), 4).unwrap();
    assert_eq!(group.listeners.len(), 4);
    let mut seen = [0; 4];
    let mut kept = Vec::new();
    for _ in 0..64 {
        let mut client = TcpStream::connect(group.local).unwrap();
        let (index, from, mut stream) = accept(&group);
        assert_eq!(from, client.local_addr().unwrap());
        client.write_all(b"x").unwrap();
        stream.set_nonblocking(false).unwrap();
        stream.read_exact(&mut [0]).unwrap();
        seen[index] += 1;
        kept.push((client, stream));
    }
    assert!(seen.iter().all(|n| *n > 0), "{seen:?}");
}

#[test]
fn a_port_in_use_is_refused_not_shared() {
    let first = StreamGroup::open(&spec(Some("127.0.0.1"), Family::V4, 0), 2).unwrap();
    let again = spec(Some("127.0.0.1"), Family::V4, first.local.port());
    let error = StreamGroup::open(&again, 2).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::AddrInUse);
    assert!(error.to_string().contains(&first.local.to_string()), "{error}");
    // So is one that knows nothing of sharing, and the other family's view of the same port.
    let other = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = other.local_addr().unwrap().port();
    assert!(StreamGroup::open(&spec(Some("127.0.0.1"), Family::V4, port), 1).is_err());
    assert!(StreamGroup::open(&spec(None, Family::Dual, port), 1).is_err());
}

#[test]
fn a_restart_is_not_kept_out_by_old_connections() {
    let first = StreamGroup::open(&spec(Some("127.0.0.1"), Family::V4, 0), 2).unwrap();
    let port = first.local.port();
    let mut client = TcpStream::connect(first.local).unwrap();
    let (_, _, stream) = accept(&first);
    // We hang up first, so TIME_WAIT is ours.
    drop(stream);
    drop(first);
    assert_eq!(client.read(&mut [0; 8]).unwrap(), 0);
    drop(client);
    let again = StreamGroup::open(&spec(Some("127.0.0.1"), Family::V4, port), 2).unwrap();
    let _client = TcpStream::connect(again.local).unwrap();
    accept(&again);
}

#[test]
fn families() {
    let dual = StreamGroup::open(&spec(None, Family::Dual, 0), 1).unwrap();
    for to in ["127.0.0.1", "::1"] {
        let to = SocketAddr::new(to.parse().unwrap(), dual.local.port());
        let client = TcpStream::connect(to).unwrap();
        let (_, from, _) = accept(&dual);
        assert_eq!(from.port(), client.local_addr().unwrap().port());
    }
    let six = StreamGroup::open(&spec(None, Family::V6, 0), 1).unwrap();
    let port = six.local.port();
    let mapped = TcpStream::connect(SocketAddr::new("127.0.0.1".parse().unwrap(), port));
    assert_eq!(mapped.unwrap_err().kind(), ErrorKind::ConnectionRefused);
    StreamGroup::open(&spec(None, Family::V4, port), 1).unwrap();
}

#[test]
fn settings_are_inherited_and_faults_are_named() {
    let mut wanted = spec(Some("127.0.0.1"), Family::V4, 0);
    (wanted.rcvbuf, wanted.sndbuf) = (Some(1 << 17), Some(1 << 16));
    let group = StreamGroup::open(&wanted, 1).unwrap();
    assert_eq!((group.rcvbuf, group.sndbuf), (1 << 18, 1 << 17));
    let _client = TcpStream::connect(group.local).unwrap();
    let (_, _, stream) = accept(&group);
    let stream = socket2::SockRef::from(&stream);
    assert_eq!((stream.recv_buffer_size().unwrap(), stream.send_buffer_size().unwrap()), (1 << 18, 1 << 17));

    assert!(StreamGroup::open(&wanted, 0).is_err());
    wanted.bind_dev = Some("nosuchdev0".into());
    let error = StreamGroup::open(&wanted, 1).unwrap_err();
    assert!(error.to_string().contains("bind-dev nosuchdev0"), "{error}");
    let error = StreamGroup::open(&spec(Some("::1"), Family::V4, 0), 1).unwrap_err();
    assert!(error.to_string().contains("::1"), "{error}");
}
