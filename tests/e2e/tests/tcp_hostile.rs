//! TCP connections that no client makes.
//!
//! ```text
//!   raw sockets ── bits of packets, junk, nothing ──► gateway ══ client 1
//! ```

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::Duration;

use tessera_e2e::Site;
use tessera_e2e::harness::{Cli, Deadline, PORT, Server, Version, eventually, pause, ping};

const SOON: Duration = Duration::from_secs(10);
/// How long a connection may say nothing, and some time for a machine that has much to do.
const SILENCE: Duration = Duration::from_secs(20);

/// P_CONTROL_HARD_RESET_CLIENT_V2 of a session, with its length.
fn reset(session: u8) -> Vec<u8> {
    let mut packet = vec![7 << 3];
    packet.extend([session; 8]);
    // No acknowledgements, packet-id 0.
    packet.extend([0; 5]);
    framed(&packet)
}

fn framed(packet: &[u8]) -> Vec<u8> {
    let length = u16::try_from(packet.len()).expect("a short packet");
    [&length.to_be_bytes()[..], packet].concat()
}

/// A raw connection to the gateway.
struct Raw(TcpStream);

impl Raw {
    fn new(site: &Site) -> Self {
        let address = format!("10.91.0.1:{PORT}");
        Self(site.net.clients[0].within(move || {
            let stream = TcpStream::connect(&address).expect("a connection");
            stream.set_read_timeout(Some(SILENCE)).expect("a time limit");
            stream.set_nodelay(true).expect("no delay");
            stream
        }))
    }

    fn send(&mut self, bytes: &[u8]) {
        self.0.write_all(bytes).expect("sent");
    }

    /// The answer to a reset: P_CONTROL_HARD_RESET_SERVER_V2, acknowledging it.
    fn answered(&mut self, session: u8) {
        let mut length = [0; 2];
        self.0.read_exact(&mut length).expect("an answer");
        let mut packet = vec![0; usize::from(u16::from_be_bytes(length))];
        self.0.read_exact(&mut packet).expect("a whole packet");
        assert_eq!(packet[0] >> 3, 8, "opcode of {packet:?}");
        assert!(packet.windows(8).any(|part| part == [session; 8]), "{packet:?} is for another session");
    }

    /// The gateway hangs up, with or without a reset, and says nothing.
    fn ended(&mut self) {
        let mut rest = Vec::new();
        match self.0.read_to_end(&mut rest) {
            Ok(_) => {}
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => {}
            Err(error) => panic!("still open: {error}"),
        }
        assert!(rest.is_empty(), "{rest:?}");
    }
}

#[test]
fn tesserad_only_streams() {
    let site = Site::new(2);
    let cli = Cli::new(&site.net);
    let config = site.server().with("proto", "tcp4-server").own("control-socket", cli.socket());
    let _server = Server::start(&site.net, &config);
    let client = site.client(1, Version::V2_6).over("tcp4-client").connect(&site.net, 1);
    let event = |name: &str| cli.metric(&format!("tessera_stream_connections_total{{event=\"{name}\"}}"));

    let mut silent = Raw::new(&site);
    let silence = Deadline::after(SILENCE);

    let mut dribble = Raw::new(&site);
    for byte in reset(1) {
        dribble.send(&[byte]);
        pause(Duration::from_millis(5));
    }
    dribble.answered(1);

    let mut both = Raw::new(&site);
    both.send(&[reset(2), reset(3)].concat());
    both.answered(2);
    both.answered(3);

    // What is no packet leads to nothing; the connection may still become a client's.
    let mut junk = Raw::new(&site);
    junk.send(&framed(&[0xff; 100]));
    junk.send(&framed(&[9 << 3; 30]));
    junk.send(&framed(&[0]));
    junk.send(&reset(4));
    junk.answered(4);

    for bad in [&[0, 0][..], &[0xff, 0xff], b"GET / HTTP/1.1\r\n", b"\x16\x03\x01\x02\x00\x01\x00"] {
        let mut raw = Raw::new(&site);
        raw.send(bad);
        raw.ended();
    }
    assert_eq!(event("bad_length"), 4);

    let mut half = Raw::new(&site);
    let ended = event("ended");
    half.send(&reset(5)[..9]);
    half.0.shutdown(Shutdown::Write).expect("no more");
    half.ended();
    assert_eq!(event("ended"), ended + 1);

    drop((dribble, both, junk));
    eventually("who hung up is gone", SOON, || (event("ended") == ended + 4).then_some(()));
    silent.ended();
    assert!(!silence.passed(), "a connection that says nothing stays");
    assert_eq!(event("timed_out"), 1);
    ping(&site.net.clients[1], "192.168.77.2");
    assert_eq!(client.process.count("Initialization Sequence Completed"), 1);
    assert_eq!(cli.metric("tessera_stream_connections"), 1);
}

/// A crowd that says nothing keeps no client out, and no client's connection is taken from it.
#[test]
fn tesserad_only_crowd() {
    let site = Site::new(3);
    let cli = Cli::new(&site.net);
    let config = site
        .server()
        .with("proto", "tcp4-server")
        .own("control-socket", cli.socket())
        .own("workers", "1")
        .own("max-half-open", "100");
    let _server = Server::start(&site.net, &config);
    let first = site.client(1, Version::V2_6).over("tcp4-client").connect(&site.net, 1);
    let crowd: Vec<Raw> = (0..200).map(|_| Raw::new(&site)).collect();
    eventually("one address has its bound", SOON, || {
        let event = |name| cli.metric(&format!("tessera_stream_connections_total{{event=\"{name}\"}}"));
        (event("accepted") + event("refused") >= 201 && event("refused") >= 150).then_some(())
    });
    let second = site.client(2, Version::V2_7).over("tcp4-client").connect(&site.net, 2);
    ping(&site.net.clients[1], "192.168.77.2");
    ping(&site.net.clients[2], "192.168.77.2");
    for client in [&first, &second] {
        assert_eq!(client.process.count("TCP connection established"), 1);
    }
    drop(crowd);
}
