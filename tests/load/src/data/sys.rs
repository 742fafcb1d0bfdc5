//! What the system gives: namespaces, cores, socket buffers, counts of drops.

use super::DataError;
use nix::sched::{CloneFlags, CpuSet, sched_setaffinity, setns};
use nix::sys::socket::{setsockopt, sockopt};
use nix::unistd::Pid;
use std::collections::BTreeSet;
use std::fs::{self, File};
use std::net::UdpSocket;

/// Where `ip netns` keeps its names.
const NAMESPACES: &str = "/run/netns";
/// Sleeps of senders end this late at most (nanoseconds); the usual 50 µs would be felt at high rates.
const TIMER_SLACK: u64 = 1_000;

/// The calling thread enters a network namespace by its name; `None` stays where it is.
///
/// # Errors
/// When there is no such namespace, or it may not be entered.
pub fn enter(namespace: Option<&str>) -> Result<(), DataError> {
    let Some(name) = namespace else { return Ok(()) };
    let path = format!("{NAMESPACES}/{name}");
    let file = File::open(&path).map_err(DataError::io(&path))?;
    setns(file, CloneFlags::CLONE_NEWNET).map_err(|error| DataError::io(&path)(error.into()))
}

/// The calling thread, and those that it starts from now on, run on these cores only. None: wherever the system puts them.
///
/// # Errors
/// When there is no such core.
pub fn pin(cores: &[usize]) -> Result<(), DataError> {
    if cores.is_empty() {
        return Ok(());
    }
    let mut set = CpuSet::new();
    let what = || format!("cores {cores:?}");
    for core in cores {
        set.set(*core).map_err(|error| DataError::io(what())(error.into()))?;
    }
    sched_setaffinity(Pid::from_raw(0), &set).map_err(|error| DataError::io(what())(error.into()))
}

/// The calling thread's sleeps end on time. Where that is not allowed, they end a little later.
pub fn punctual() {
    let _ = nix::sys::prctl::set_timerslack(TIMER_SLACK);
}

/// Large buffers: past the system's limit where that is allowed, up to it otherwise.
///
/// # Errors
/// When the socket takes neither.
pub fn buffers(socket: &UdpSocket, receive: usize, send: usize) -> Result<(), DataError> {
    setsockopt(socket, sockopt::RcvBufForce, &receive)
        .or_else(|_| setsockopt(socket, sockopt::RcvBuf, &receive))
        .and_then(|()| {
            setsockopt(socket, sockopt::SndBufForce, &send)
                .or_else(|_| setsockopt(socket, sockopt::SndBuf, &send))
        })
        .map_err(|error| DataError::io("socket buffers")(error.into()))
}

/// The socket hands over merged datagrams, with the length of the pieces.
///
/// # Errors
/// When the kernel cannot do that (before Linux 5.0).
pub fn merge_received(socket: &UdpSocket) -> Result<(), DataError> {
    setsockopt(socket, sockopt::UdpGroSegment, &true).map_err(|error| DataError::io("UDP_GRO")(error.into()))
}

/// Datagrams that the kernel dropped at the sockets with these local ports, in the calling thread's namespace, because
/// nobody read them in time; since each socket was made.
///
/// # Errors
/// When the kernel's table cannot be read.
pub fn socket_drops(ports: &BTreeSet<u16>, ipv6: bool) -> Result<u64, DataError> {
    let path = if ipv6 { "/proc/thread-self/net/udp6" } else { "/proc/thread-self/net/udp" };
    let table = fs::read_to_string(path).map_err(DataError::io(path))?;
    Ok(drops_in(&table, ports))
}

fn drops_in(table: &str, ports: &BTreeSet<u16>) -> u64 {
    let drops = |line: &str| {
        let mut words = line.split_ascii_whitespace();
        let (_, port) = words.nth(1)?.rsplit_once(':')?;
        let port = u16::from_str_radix(port, 16).ok()?;
        let drops: u64 = words.last()?.parse().ok()?;
        ports.contains(&port).then_some(drops)
    };
    table.lines().filter_map(drops).sum()
}

/// Memory that can be had without swapping, in bytes; `None` when the kernel does not say.
#[must_use]
pub fn memory_available() -> Option<u64> {
    let text = fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kib: u64 = line.trim().trim_end_matches(" kB").parse().ok()?;
    Some(kib * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn drops_are_those_of_the_ports_asked_for() {
        let table = "   sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode ref pointer drops\n\
            66: 0100007F:1389 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 15083 2 00000000f1 17\n\
            67: 00000000:138A 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 15084 2 00000000f2 5\n\
            68: 00000000000000000000000000000000:1389 00000000000000000000000000000000:0000 07 0:0 00:0 0 0 0 9 2 00f3 100\n";
        assert_eq!(drops_in(table, &BTreeSet::from([5001])), 117);
        assert_eq!(drops_in(table, &BTreeSet::from([5002])), 5);
        assert_eq!(drops_in(table, &BTreeSet::new()), 0);
    }

    #[test]
    fn drops_of_a_real_socket_are_seen() {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        setsockopt(&socket, sockopt::RcvBuf, &4096).unwrap();
        let address = socket.local_addr().unwrap();
        let sender = UdpSocket::bind("127.0.0.1:0").unwrap();
        for _ in 0..100 {
            sender.send_to(&[0; 1000], address).unwrap();
        }
        assert!(socket_drops(&BTreeSet::from([address.port()]), false).unwrap() > 50);
    }

    #[test]
    fn what_is_not_there_is_an_error_with_its_name() {
        let error = enter(Some("no-such-namespace-9f")).unwrap_err().to_string();
        assert!(error.contains("/run/netns/no-such-namespace-9f"), "{error}");
        assert!(pin(&[1000]).unwrap_err().to_string().contains("1000"));
        assert!(memory_available().is_some_and(|bytes| bytes > 1 << 20));
    }
}
