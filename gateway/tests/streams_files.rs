//! Accepting when the process has no files left; a limit of the whole process, so this test has a process of its own.

#![expect(clippy::unwrap_used, reason = "a test may fail by panic")]

use std::fs::File;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsFd, AsRawFd};
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tessera_proto::Instant;
use tesserad::config::Config;
use tesserad::data::streams::{CloseReason, StreamEvent, StreamIntake, StreamOptions, Streams};

fn is_readable(streams: &Streams, millis: u16) -> bool {
    let mut fds = [PollFd::new(streams.as_fd(), PollFlags::POLLIN)];
    poll(&mut fds, PollTimeout::from(millis)).unwrap() == 1
}

/// One turn; says how many connections were pushed out.
fn turn(streams: &mut Streams, intake: &mut StreamIntake, now: Instant) -> usize {
    let mut evicted = 0;
    intake.poll(streams, now, 100);
    while let Some(event) = intake.next(streams, now) {
        assert!(matches!(event, StreamEvent::Closed { why: CloseReason::Evicted, .. }), "{event:?}");
        evicted += 1;
    }
    evicted
}

#[test]
fn without_files_it_rests_instead_of_spinning() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let address = listener.local_addr().unwrap();
    let mut streams = Streams::new(vec![(0, listener)], StreamOptions::new(&Config::default())).unwrap();
    let mut intake = StreamIntake::new(&streams).unwrap();
    let at = |millis| Instant::from_epoch(Duration::from_millis(millis));

    let mut first = TcpStream::connect(address).unwrap();
    assert!(is_readable(&streams, 2000));
    turn(&mut streams, &mut intake, at(0));
    assert_eq!(streams.len(), 1);

    let _second = TcpStream::connect(address).unwrap();
    let _third = TcpStream::connect(address).unwrap();
    assert!(is_readable(&streams, 2000));
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    let next_free = File::open("/dev/null").unwrap().as_raw_fd() as u64;
    setrlimit(Resource::RLIMIT_NOFILE, next_free, hard).unwrap();
    let evicted = turn(&mut streams, &mut intake, at(0));
    setrlimit(Resource::RLIMIT_NOFILE, soft, hard).unwrap();
    let counters = streams.counters();
    assert_eq!((counters.accept_failed.read(), evicted), (1, 1), "the silent one made place");
    assert_eq!(first.read(&mut [0]).unwrap_or(0), 0);
    assert!(!is_readable(&streams, 50), "two wait, and they do not wake us");
    turn(&mut streams, &mut intake, at(99));
    assert!(streams.is_empty());
    turn(&mut streams, &mut intake, at(100));
    assert_eq!(streams.len(), 2, "the rest is over");
    assert!(!is_readable(&streams, 0));
    drop(first.write(b"x"));
}
