//! The control-plane seam on both back ends, and where io_uring is denied.

#![expect(clippy::unwrap_used, reason = "a test may fail by panic")]

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::rc::Rc;
use std::time::Duration;

use tesserad::config::IoChoice;
use tesserad::net::io::{ControlSocket, IoBackend, probe, run_on};
use tesserad::net::{Family, ListenSpec, ListenerGroup};

/// Set in the child process that runs under the filter.
const CHILD: &str = "TESSERA_TEST_IO_DENIED";
/// Longest wait; only reached by a failing test.
const PATIENCE: Duration = Duration::from_secs(10);

/// Both back ends, each as the host really offers it when it is demanded.
fn backends() -> [IoBackend; 2] {
    let uring = probe(IoChoice::Uring).unwrap().0;
    let epoll = probe(IoChoice::Epoll).unwrap().0;
    assert_eq!((uring, epoll), (IoBackend::Uring, IoBackend::Epoll));
    [uring, epoll]
}

fn group(family: Family) -> ListenerGroup {
    let spec = ListenSpec {
        addr: None,
        port: 0,
        family,
        bind_dev: None,
        sndbuf: None,
        rcvbuf: None,
        mark: None,
        gro: false,
    };
    ListenerGroup::open(&spec, 1, 1).unwrap()
}

/// A control datagram, so that it is steered to the shard; `n` tells it from the others.
fn datagram(n: u32) -> Vec<u8> {
    [&[7 << 3; 9][..], &n.to_be_bytes()].concat()
}

#[test]
fn many_datagrams_are_echoed_in_order_from_the_address_spoken_to() {
    /// Sent in bursts, so that both a waiting and a running receiver are met.
    const BURSTS: u32 = 20;
    const BURST: u32 = 30;
    for backend in backends() {
        for (family, client_at, to) in [
            (Family::V4, "127.0.0.1:0", "127.0.0.7"),
            (Family::Dual, "127.0.0.1:0", "127.0.0.8"),
            (Family::Dual, "[::1]:0", "::1"),
        ] {
            let mut group = group(family);
            let server = SocketAddr::new(to.parse().unwrap(), group.local.port());
            let client = UdpSocket::bind(client_at).unwrap();
            client.set_read_timeout(Some(PATIENCE)).unwrap();
            let speaker = std::thread::spawn(move || {
                for burst in 0..BURSTS {
                    for n in 0..BURST {
                        client.send_to(&datagram(burst * BURST + n), server).unwrap();
                    }
                    for n in 0..BURST {
                        let mut buf = [0; 64];
                        let (len, from) = client.recv_from(&mut buf).unwrap();
                        assert_eq!((&buf[..len], from), (&datagram(burst * BURST + n)[..], server));
                    }
                }
            });
            let socket = group.shard_sockets.remove(0);
            run_on(backend, async move {
                let socket = ControlSocket::from_std(backend, socket).unwrap();
                let mut buf = vec![0; 2048];
                for n in 0..BURSTS * BURST {
                    let (len, path) =
                        tokio::time::timeout(PATIENCE, socket.recv(&mut buf)).await.unwrap().unwrap();
                    assert_eq!(buf[..len], datagram(n), "{backend}");
                    assert_eq!(path.local.ip, Some(server.ip()), "{backend}");
                    socket.send(buf[..len].to_vec(), path).await.unwrap();
                }
            })
            .unwrap();
            speaker.join().unwrap();
        }
    }
}

#[test]
fn a_dropped_receive_loses_nothing() {
    for backend in backends() {
        let mut group = group(Family::V4);
        let to = SocketAddr::new([127, 0, 0, 1].into(), group.local.port());
        let socket = group.shard_sockets.remove(0);
        run_on(backend, async move {
            let client = UdpSocket::bind("127.0.0.1:0").unwrap();
            let socket = ControlSocket::from_std(backend, socket).unwrap();
            let mut buf = vec![0; 2048];
            for n in 0..50 {
                // The receive is in flight when its future is dropped, and the datagram comes between the two calls.
                let early = tokio::time::timeout(Duration::from_millis(1), socket.recv(&mut buf)).await;
                assert!(early.is_err(), "{backend}: nothing was sent yet");
                client.send_to(&datagram(n), to).unwrap();
                let (len, _) = tokio::time::timeout(PATIENCE, socket.recv(&mut buf)).await.unwrap().unwrap();
                assert_eq!(buf[..len], datagram(n), "{backend}");
            }
            // Too long for the buffer: an error, and the next one is fine.
            client.send_to(&[7 << 3; 100], to).unwrap();
            client.send_to(&[7 << 3; 6000], to).unwrap();
            client.send_to(&datagram(99), to).unwrap();
            for _ in 0..2 {
                let error = socket.recv(&mut buf[..50]).await.unwrap_err();
                assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{backend}");
            }
            let (len, _) = socket.recv(&mut buf[..50]).await.unwrap();
            assert_eq!(buf[..len], datagram(99), "{backend}");
        })
        .unwrap();
        // Dropped with a receive in flight at the end of the runtime: the port must be free again.
        drop(group.worker_sockets);
        drop(UdpSocket::bind(("0.0.0.0", to.port())).unwrap());
    }
}

#[test]
fn tasks_timers_and_channels_work_inside() {
    for backend in backends() {
        let total = run_on(backend, async move {
            let (sender, mut receiver) = tokio::sync::mpsc::channel(4);
            let local = Rc::new(std::cell::Cell::new(0)); // not Send: the tasks stay on this thread
            for n in 1..=10 {
                let (sender, local) = (sender.clone(), Rc::clone(&local));
                tokio::task::spawn_local(async move {
                    tokio::time::sleep(Duration::from_millis(n)).await;
                    local.set(local.get() + n);
                    sender.send(n).await.unwrap();
                });
            }
            drop(sender);
            let mut sum = 0;
            while let Some(n) = receiver.recv().await {
                sum += n;
            }
            assert_eq!(local.get(), sum);
            sum
        })
        .unwrap();
        assert_eq!(total, 55, "{backend}");
    }
}

/// The part that runs in the child process, under the filter.
#[test]
#[ignore = "the test after this one runs it in a child process, under its filter"]
fn child_under_the_filter() {
    let errno = std::env::var(CHILD).unwrap();
    let (backend, why) = probe(IoChoice::Auto).unwrap();
    assert_eq!(backend, IoBackend::Epoll);
    let named = if errno == "EPERM" { "kernel.io_uring_disabled" } else { "does not have it" };
    assert!(why.contains(named), "{why}");
    let error = probe(IoChoice::Uring).unwrap_err();
    assert!(error.to_string().contains("io uring"), "{error}");
    assert_eq!(probe(IoChoice::Epoll).unwrap().0, IoBackend::Epoll);
    // And the fallback really carries datagrams.
    let mut group = group(Family::V4);
    let client = UdpSocket::bind("127.0.0.1:0").unwrap();
    client.send_to(&datagram(1), ("127.0.0.1", group.local.port())).unwrap();
    let socket = group.shard_sockets.remove(0);
    run_on(backend, async move {
        let socket = ControlSocket::from_std(backend, socket).unwrap();
        let mut buf = vec![0; 64];
        let (len, _) = socket.recv(&mut buf).await.unwrap();
        assert_eq!(buf[..len], datagram(1));
    })
    .unwrap();
}

#[test]
fn io_uring_denied_falls_back_to_epoll_with_the_reason() {
    for (name, errno) in [("EPERM", libc::EPERM), ("ENOSYS", libc::ENOSYS)] {
        let mut child = Command::new(std::env::current_exe().unwrap());
        child.args(["--exact", "child_under_the_filter", "--ignored", "--nocapture"]).env(CHILD, name);
        // SAFETY: between fork and exec only the two async-signal-safe system calls of `deny` are made.
        unsafe { child.pre_exec(move || deny(libc::SYS_io_uring_setup, errno)) };
        let output = child.output().unwrap();
        let text = [output.stdout, output.stderr].map(|t| String::from_utf8_lossy(&t).into_owned()).concat();
        assert!(output.status.success() && text.contains("1 passed"), "{name}: {text}");
    }
}

/// Makes one system call of this process fail from now on.
fn deny(syscall: libc::c_long, errno: i32) -> io::Result<()> {
    let code = |code: u32, jf, k| libc::sock_filter { code: code as u16, jt: 0, jf, k };
    let mut filter = [
        code(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0), // seccomp_data.nr
        code(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 1, syscall as u32),
        code(libc::BPF_RET | libc::BPF_K, 0, libc::SECCOMP_RET_ERRNO | errno as u32),
        code(libc::BPF_RET | libc::BPF_K, 0, libc::SECCOMP_RET_ALLOW),
    ];
    let program = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_mut_ptr() };
    // SAFETY: this prctl takes plain numbers.
    let rc = unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) };
    if rc != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: `program` points at four instructions on this frame; the kernel copies them.
    let rc = unsafe { libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const program) };
    if rc != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}
