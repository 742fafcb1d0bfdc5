//! The server against clients that behave, and that do not.

use std::cell::{Cell, RefCell};
use std::fs::{self, Permissions};
use std::io::{ErrorKind, Read as _};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use tempfile::TempDir;
use tessera_api::*;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::UnixStream;
use tokio::time::{sleep, timeout};

use super::serve::{CONNECTIONS, LISTS, RESERVED};
use super::*;
use crate::clock;

/// No test takes longer, unless it fails.
const PATIENCE: Duration = Duration::from_secs(60);
/// `nobody`: whoever has no rights here.
const STRANGER: u32 = 65_534;
/// How long the backend takes for what is slow.
const SLOW: Duration = Duration::from_secs(2);
/// A group that no process of the test is in.
const GROUP: u32 = 54_321;

/// Answers by name, and remembers who asked for what.
#[derive(Debug, Default)]
struct Fake {
    asked: RefCell<Vec<(Peer, &'static str)>>,
    running: Cell<usize>,
}

impl Backend for Fake {
    async fn handle(&self, request: Request, peer: Peer) -> Result<Response, ApiError> {
        self.asked.borrow_mut().push((peer, request.method()));
        self.running.set(self.running.get() + 1);
        tokio::task::yield_now().await;
        let result = match request {
            Request::UserList(_) => Ok(Response::Users((0..10_000).map(user).collect())),
            Request::SessionKill(kill) => match kill.target {
                KillTarget::Username(_) => {
                    // Slow: others must not wait for it.
                    sleep(SLOW).await;
                    Ok(Response::Changes(Changes { sessions: 1, ..Changes::default() }))
                }
                _ => Err(ApiError::not_found("no such session")),
            },
            Request::UserAdd(add) => {
                Ok(Response::Credentials(Credentials { name: add.name, password: add.password, otp: None }))
            }
            _ => Ok(Response::Metrics("up 1\n".to_owned())),
        };
        self.running.set(self.running.get() - 1);
        result
    }
}

fn user(number: usize) -> User {
    User {
        name: format!("user{number}"),
        in_auth_file: true,
        otp: None,
        locked: false,
        locked_out_until: None,
        created: None,
    }
}

fn place() -> (TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    fs::set_permissions(dir.path(), Permissions::from_mode(0o755)).unwrap();
    let path = dir.path().join("control.sock");
    (dir, path)
}

fn options(path: &Path, group: Option<&str>) -> SocketOptions {
    SocketOptions { path: path.to_owned(), group: group.map(str::to_owned) }
}

fn bind(path: &Path) -> Result<AdminSocket, SocketError> {
    AdminSocket::bind(&options(path, None))
}

/// Runs `clients` against a server on `socket`.
fn run<F: Future<Output = ()>>(socket: AdminSocket, fake: &Fake, clients: F) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        tokio::select! {
            ended = serve(socket, fake) => panic!("{ended:?}"),
            done = timeout(PATIENCE, clients) => done.expect("in time"),
        }
    });
}

async fn connect(path: &Path) -> BufReader<UnixStream> {
    BufReader::new(UnixStream::connect(path).await.unwrap())
}

async fn reply(stream: &mut BufReader<UnixStream>) -> Reply {
    let mut line = Vec::new();
    stream.read_until(b'\n', &mut line).await.unwrap();
    Reply::parse(&line).unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&line)))
}

async fn ask(stream: &mut BufReader<UnixStream>, request: &[u8]) -> Reply {
    stream.write_all(request).await.unwrap();
    reply(stream).await
}

fn code(reply: Reply) -> ErrorCode {
    reply.result.expect_err("an error").code
}

async fn ended(mut stream: BufReader<UnixStream>) -> bool {
    let mut rest = Vec::new();
    match stream.read_to_end(&mut rest).await {
        Ok(_) => rest.is_empty(),
        Err(error) => error.kind() == ErrorKind::ConnectionReset,
    }
}

#[test]
fn requests_are_answered_in_order_and_errors_end_nothing() {
    let (_dir, path) = place();
    let fake = Fake::default();
    run(bind(&path).unwrap(), &fake, async {
        let mut stream = connect(&path).await;
        let metrics = b"{\"method\":\"metrics\"}\n";
        let kill = b"{\"method\":\"session.kill\",\"params\":{\"target\":{\"id\":\"7\"}}}\n";
        let all = [&metrics[..], b"garbage\n", kill, b"\n", b"{\"method\":\"x\"}\r\n", metrics].concat();
        // Byte by byte, so that every request is read in many parts.
        for byte in all {
            stream.write_all(&[byte]).await.unwrap();
            tokio::task::yield_now().await;
        }
        assert!(matches!(reply(&mut stream).await.result, Ok(Response::Metrics(text)) if text == "up 1\n"));
        assert_eq!(code(reply(&mut stream).await), ErrorCode::BadRequest);
        assert_eq!(code(reply(&mut stream).await), ErrorCode::NotFound);
        assert_eq!(code(reply(&mut stream).await), ErrorCode::BadRequest);
        assert_eq!(code(reply(&mut stream).await), ErrorCode::UnknownMethod);
        let last = reply(&mut stream).await;
        assert!(last.result.is_ok() && last.now.0.abs_diff(clock::unix_seconds()) < 60);
    });
    let asked = fake.asked.borrow();
    assert_eq!(
        asked.iter().map(|(_, method)| *method).collect::<Vec<_>>(),
        ["metrics", "session.kill", "metrics"]
    );
    let own = (nix::unistd::geteuid().as_raw(), std::process::id());
    assert!(asked.iter().all(|(peer, _)| (peer.uid, peer.pid.unsigned_abs()) == own));
}

#[test]
fn a_request_without_an_end_of_line_counts_when_it_is_whole() {
    let (_dir, path) = place();
    run(bind(&path).unwrap(), &Fake::default(), async {
        for (request, good) in [("{\"method\":\"metrics\"}", true), ("{\"method\":\"metrics\"", false)] {
            let mut stream = connect(&path).await;
            stream.write_all(request.as_bytes()).await.unwrap();
            stream.shutdown().await.unwrap();
            assert_eq!(reply(&mut stream).await.result.is_ok(), good);
            assert!(ended(stream).await);
        }
    });
}

#[test]
fn a_request_has_a_longest_length() {
    let (_dir, path) = place();
    let fake = Fake::default();
    run(bind(&path).unwrap(), &fake, async {
        let padded = |len: usize| {
            let request = "{\"method\":\"metrics\"}";
            format!("{request}{}\n", " ".repeat(len - request.len())).into_bytes()
        };
        let mut stream = connect(&path).await;
        assert!(ask(&mut stream, &padded(MAX_REQUEST)).await.result.is_ok());
        assert_eq!(code(ask(&mut stream, &padded(MAX_REQUEST + 1)).await), ErrorCode::TooLarge);
        assert!(ended(stream).await);
        // One that never ends is not read on.
        let mut stream = connect(&path).await;
        let mut written = 0;
        while written < 16 * MAX_REQUEST {
            match stream.get_mut().write(&[b'x'; 4096]).await {
                Ok(count) => written += count,
                Err(error) => {
                    assert_eq!(error.kind(), ErrorKind::BrokenPipe);
                    break;
                }
            }
        }
        assert!(written < 16 * MAX_REQUEST);
        assert_eq!(code(reply(&mut stream).await), ErrorCode::TooLarge);
    });
    assert_eq!(fake.asked.borrow().len(), 1);
}

#[test]
fn silent_and_slow_clients_are_sent_away() {
    let (_dir, path) = place();
    let fake = Fake::default();
    run(bind(&path).unwrap(), &fake, async {
        let started = clock::now();
        let silent = async {
            let mut stream = connect(&path).await;
            assert_eq!(code(reply(&mut stream).await), ErrorCode::Timeout);
            assert!(ended(stream).await);
            started.elapsed()
        };
        let slow = async {
            let mut stream = connect(&path).await;
            stream.write_all(b"{\"method\":").await.unwrap();
            // It goes on dripping; that does not help.
            for _ in 0..30 {
                sleep(Duration::from_millis(200)).await;
                if stream.get_mut().write_all(b" ").await.is_err() {
                    break;
                }
            }
            assert_eq!(code(reply(&mut stream).await), ErrorCode::Timeout);
            assert!(ended(stream).await);
            started.elapsed()
        };
        let good = async {
            let mut stream = connect(&path).await;
            assert!(ask(&mut stream, b"{\"method\":\"metrics\"}\n").await.result.is_ok());
            started.elapsed()
        };
        let (silent, slow, good) = tokio::join!(silent, slow, good);
        assert!((2.0..5.0).contains(&silent.as_secs_f64()), "{silent:?}");
        assert!((5.0..15.0).contains(&slow.as_secs_f64()), "{slow:?}");
        assert!(good < Duration::from_secs(2), "{good:?}");
    });
    assert_eq!(fake.asked.borrow().len(), 1);
}

#[test]
fn long_answers_come_in_lines_and_are_bounded() {
    let (_dir, path) = place();
    run(bind(&path).unwrap(), &Fake::default(), async {
        let list = b"{\"method\":\"user.list\"}\n";
        let mut lazy = Vec::new();
        for _ in 0..LISTS - 1 {
            let mut stream = connect(&path).await;
            stream.write_all(list).await.unwrap();
            lazy.push(stream);
        }
        let mut stream = connect(&path).await;
        stream.write_all(list).await.unwrap();
        let mut users = Vec::new();
        loop {
            let part = reply(&mut stream).await;
            let Ok(Response::Users(list)) = part.result else { panic!("{part:?}") };
            users.extend(list);
            if !part.more {
                break;
            }
        }
        assert_eq!(users, (0..10_000).map(user).collect::<Vec<_>>());
        // When there are as many as may be, changes are still done at once, and the next long answer waits.
        let mut last = connect(&path).await;
        last.write_all(list).await.unwrap();
        lazy.push(last);
        sleep(Duration::from_millis(100)).await;
        let kill = b"{\"method\":\"session.kill\",\"params\":{\"target\":{\"id\":\"7\"}}}\n";
        let started = clock::now();
        assert_eq!(code(ask(&mut stream, kill).await), ErrorCode::NotFound);
        assert!(started.elapsed() < Duration::from_secs(2));
        assert!(ask(&mut stream, b"{\"method\":\"metrics\"}\n").await.result.is_ok());
        assert!(started.elapsed() > Duration::from_secs(5));
        // Those that do not read are cut off before the end; the last one began a little later.
        sleep(Duration::from_secs(3)).await;
        for mut stream in lazy {
            let mut lines = 0;
            let mut line = Vec::new();
            while stream.read_until(b'\n', &mut line).await.unwrap() > 0 && line.ends_with(b"\n") {
                assert!(Reply::parse(&line).unwrap().more);
                lines += 1;
                line.clear();
            }
            assert!((1..39).contains(&lines), "{lines}");
        }
    });
}

#[test]
fn requests_of_different_connections_do_not_wait_for_each_other() {
    let (_dir, path) = place();
    let fake = Fake::default();
    run(bind(&path).unwrap(), &fake, async {
        let started = clock::now();
        let slow = async {
            let mut stream = connect(&path).await;
            let kill = b"{\"method\":\"session.kill\",\"params\":{\"target\":{\"username\":\"u\"}}}\n";
            assert!(ask(&mut stream, kill).await.result.is_ok());
        };
        let quick = async {
            let mut stream = connect(&path).await;
            for _ in 0..100 {
                assert!(ask(&mut stream, b"{\"method\":\"metrics\"}\n").await.result.is_ok());
            }
            started.elapsed()
        };
        let (quick, ..) = tokio::join!(quick, slow, slow_and_gone(&path));
        assert!(started.elapsed() >= SLOW);
        assert!(quick < SLOW, "{quick:?}");
        // A change goes on when its client has hung up.
        sleep(SLOW).await;
        assert_eq!(fake.running.get(), 0);
    });
    assert_eq!(fake.asked.borrow().len(), 102);
}

async fn slow_and_gone(path: &Path) {
    let mut stream = connect(path).await;
    let kill = b"{\"method\":\"session.kill\",\"params\":{\"target\":{\"username\":\"u\"}}}\n";
    stream.write_all(kill).await.unwrap();
}

#[test]
fn connections_are_bounded() {
    let (_dir, path) = place();
    run(bind(&path).unwrap(), &Fake::default(), async {
        let mut held = Vec::new();
        for _ in 0..CONNECTIONS {
            let mut stream = connect(&path).await;
            assert!(ask(&mut stream, b"{\"method\":\"metrics\"}\n").await.result.is_ok());
            held.push(stream);
        }
        for _ in 0..100 {
            let mut stream = connect(&path).await;
            assert_eq!(code(reply(&mut stream).await), ErrorCode::Busy);
            assert!(ended(stream).await);
        }
        // Those that are there are served, and one that leaves makes room.
        assert!(ask(&mut held[0], b"{\"method\":\"metrics\"}\n").await.result.is_ok());
        held.pop();
        sleep(Duration::from_millis(100)).await;
        let mut stream = connect(&path).await;
        assert!(ask(&mut stream, b"{\"method\":\"metrics\"}\n").await.result.is_ok());
    });
}

#[test]
fn strangers_are_turned_away_before_a_byte_is_read() {
    let (_dir, path) = place();
    let fake = Fake::default();
    let socket = bind(&path).unwrap();
    // The file's mode keeps them out already.
    assert_eq!(as_stranger(&path, STRANGER, &[]).unwrap_err().kind(), ErrorKind::PermissionDenied);
    fs::set_permissions(&path, Permissions::from_mode(0o666)).unwrap();
    run(socket, &fake, async {
        for groups in [&[][..], &[0], &[GROUP]] {
            let stream = as_stranger(&path, STRANGER, groups).unwrap();
            stream.set_nonblocking(true).unwrap();
            let mut stream = BufReader::new(UnixStream::from_std(stream).unwrap());
            // It may be turned away before it can write.
            let _ = stream.write_all(b"{\"method\":\"metrics\"}\n").await;
            assert_eq!(code(reply(&mut stream).await), ErrorCode::Forbidden);
            assert!(ended(stream).await);
        }
    });
    assert!(fake.asked.borrow().is_empty());
}

#[test]
fn members_of_the_group_are_let_in() {
    let (_dir, path) = place();
    let fake = Fake::default();
    let socket = AdminSocket::bind(&options(&path, Some(&GROUP.to_string()))).unwrap();
    let file = fs::metadata(&path).unwrap();
    assert_eq!((file.mode() & 0o7777, file.gid()), (0o660, GROUP));
    let many: Vec<u32> = (1000..1999).chain([GROUP]).collect();
    run(socket, &fake, async {
        let mut held = Vec::new();
        for (gid, groups) in [(GROUP, &[][..]), (STRANGER, &[GROUP]), (STRANGER, &many)] {
            let stream = as_stranger(&path, gid, groups).unwrap();
            stream.set_nonblocking(true).unwrap();
            let mut stream = BufReader::new(UnixStream::from_std(stream).unwrap());
            assert!(ask(&mut stream, b"{\"method\":\"metrics\"}\n").await.result.is_ok());
            held.push(stream);
        }
        // The last places are the owner's.
        for _ in held.len()..CONNECTIONS - RESERVED {
            let mut stream = connect(&path).await;
            assert!(ask(&mut stream, b"{\"method\":\"metrics\"}\n").await.result.is_ok());
            held.push(stream);
        }
        let stream = as_stranger(&path, GROUP, &[]).unwrap();
        stream.set_nonblocking(true).unwrap();
        let mut stream = BufReader::new(UnixStream::from_std(stream).unwrap());
        assert_eq!(code(reply(&mut stream).await), ErrorCode::Busy);
        let mut stream = connect(&path).await;
        assert!(ask(&mut stream, b"{\"method\":\"metrics\"}\n").await.result.is_ok());
    });
    assert!(fake.asked.borrow()[..3].iter().all(|(peer, _)| peer.uid == STRANGER));
    let missing = AdminSocket::bind(&options(&path, Some("no-such-group"))).unwrap_err();
    assert!(matches!(missing, SocketError::NoGroup(_)), "{missing}");
}

/// Connects as a user without rights. The credentials of a thread are its own as long as the C library is not asked to
/// change them; tests run as root.
fn as_stranger(path: &Path, gid: u32, groups: &[u32]) -> std::io::Result<std::os::unix::net::UnixStream> {
    fn checked(result: libc::c_long) {
        assert_eq!(result, 0, "{}: this test needs root", std::io::Error::last_os_error());
    }
    let (path, groups) = (path.to_owned(), groups.to_vec());
    let thread = std::thread::spawn(move || {
        // SAFETY: the system call reads `groups.len()` ids, which are there.
        checked(unsafe { libc::syscall(libc::SYS_setgroups, groups.len(), groups.as_ptr()) });
        // SAFETY: the system call takes numbers only.
        checked(unsafe { libc::syscall(libc::SYS_setresgid, gid, gid, gid) });
        // SAFETY: the system call takes numbers only.
        checked(unsafe { libc::syscall(libc::SYS_setresuid, STRANGER, STRANGER, STRANGER) });
        std::os::unix::net::UnixStream::connect(path)
    });
    thread.join().unwrap()
}

#[test]
fn a_dead_socket_is_replaced_and_a_live_one_is_not() {
    let (_dir, path) = place();
    let first = bind(&path).unwrap();
    let inode = fs::metadata(&path).unwrap().ino();
    assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, 0o660);
    let error = bind(&path).unwrap_err();
    assert!(matches!(error, SocketError::Live(_)), "{error}");
    assert_eq!(fs::metadata(&path).unwrap().ino(), inode);
    // Even when the lock is gone: it answers.
    fs::remove_file(path.with_extension("sock.lock")).unwrap();
    let error = bind(&path).unwrap_err();
    assert!(matches!(error, SocketError::Live(_)), "{error}");
    assert_eq!(fs::metadata(&path).unwrap().ino(), inode);
    assert!(!path.with_extension("sock.lock").exists());
    drop(first);
    assert!(!path.exists());
    // What a killed process leaves: a file that nobody listens at, and a lock file that nobody holds.
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    fs::write(path.with_extension("sock.lock"), "").unwrap();
    let second = bind(&path).unwrap();
    run(second, &Fake::default(), async {
        let mut stream = connect(&path).await;
        assert!(ask(&mut stream, b"{\"method\":\"metrics\"}\n").await.result.is_ok());
    });
    assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 0);
}

#[test]
fn a_full_queue_is_a_sign_of_life() {
    let (_dir, path) = place();
    let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
    nix::sys::socket::listen(&listener, nix::sys::socket::Backlog::new(0).unwrap()).unwrap();
    let _waiting = std::os::unix::net::UnixStream::connect(&path).unwrap();
    let error = bind(&path).unwrap_err();
    assert!(matches!(error, SocketError::Live(_)), "{error}");
}

#[test]
fn a_file_that_is_not_ours_is_left_alone() {
    let (_dir, path) = place();
    fs::write(&path, "precious").unwrap();
    let error = bind(&path).unwrap_err();
    assert!(matches!(error, SocketError::NotASocket(_)), "{error}");
    assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
    fs::remove_file(&path).unwrap();
    // A symbolic link is none of ours either.
    std::os::unix::fs::symlink("/dev/null", &path).unwrap();
    assert!(matches!(bind(&path).unwrap_err(), SocketError::NotASocket(_)));
    fs::remove_file(&path).unwrap();
    // Ours was moved away, and something else is there when we stop.
    let socket = bind(&path).unwrap();
    fs::remove_file(&path).unwrap();
    fs::write(&path, "precious").unwrap();
    drop(socket);
    assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
}

#[test]
fn directories_are_made_or_refused() {
    let (dir, path) = place();
    let inner = dir.path().join("run").join("control.sock");
    drop(bind(&inner).unwrap());
    assert_eq!(fs::metadata(inner.parent().unwrap()).unwrap().mode() & 0o022, 0);
    let refused = |path: &Path, part: &str| {
        let error = bind(path).unwrap_err().to_string();
        assert!(error.contains(part), "{error}");
        assert!(!path.exists());
    };
    refused(&dir.path().join("a/b/control.sock"), "it is missing");
    refused(&dir.path().join(format!("{}.sock", "x".repeat(120))), "path");
    fs::set_permissions(dir.path(), Permissions::from_mode(0o777)).unwrap();
    refused(&path, "others may write to it (mode 0777)");
    fs::set_permissions(dir.path(), Permissions::from_mode(0o1777)).unwrap();
    drop(bind(&path).unwrap());
    std::os::unix::fs::chown(dir.path(), Some(STRANGER), None).unwrap();
    refused(&path, "it belongs to uid 65534");
    std::os::unix::fs::chown(dir.path(), Some(0), None).unwrap();
    fs::write(dir.path().join("file"), "").unwrap();
    assert!(bind(&dir.path().join("file/control.sock")).unwrap_err().to_string().contains("not a directory"));
}

#[test]
fn connections_end_with_the_server() {
    let (_dir, path) = place();
    let socket = bind(&path).unwrap();
    let mut stream = None;
    run(socket, &Fake::default(), async {
        let mut open = connect(&path).await;
        assert!(ask(&mut open, b"{\"method\":\"metrics\"}\n").await.result.is_ok());
        stream = Some(open.into_inner().into_std().unwrap());
    });
    assert!(!path.exists());
    let mut stream = stream.unwrap();
    stream.set_nonblocking(false).unwrap();
    assert_eq!(stream.read(&mut [0; 1]).unwrap(), 0);
}
