//! One run of one program.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read as _};
use std::os::fd::{FromRawFd as _, OwnedFd};
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::net::unix::pipe;
use tokio::sync::watch;
use tokio::time::timeout;
use tracing::{info, warn};

use super::{Answer, Env};

/// Between asking a hook to end and ending it.
const KILL_AFTER: Duration = Duration::from_secs(2);
/// Output of one run that goes to the log; the rest is read and forgotten.
const MAX_OUTPUT: usize = 4096;
/// Most that is still read after the end: far more than a pipe holds, so only a grandchild that floods comes here.
const MAX_TAIL: usize = 1 << 20;
/// How often and how long apart a program is tried that somebody has open for writing. Another thread's fork may hold an
/// updated script open for the moment between its fork and its exec.
const BUSY_TRIES: u32 = 5;
const BUSY_WAIT: Duration = Duration::from_millis(20);

/// How a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// By itself.
    Exit(i32),
    /// By a signal that was not ours.
    Signal(i32),
    /// By us, after the time limit.
    Timeout,
    /// By us, because the gateway stops.
    Cancelled,
    /// It never started.
    SpawnFailed(io::ErrorKind),
}

impl Outcome {
    /// What it means for a login. (Exit code 2 of `auth-user-pass-verify` means something else.)
    #[must_use]
    pub const fn answer(self) -> Answer {
        match self {
            Self::Exit(0) => Answer::Allow,
            Self::Exit(_) => Answer::Deny,
            Self::Signal(_) | Self::Timeout | Self::Cancelled | Self::SpawnFailed(_) => Answer::NoAnswer,
        }
    }
}

/// Runs a program to its end, to the end of its time, or until `stop` turns true; in the latter two cases its whole
/// process group ends with it. What it left in the background after an end of its own is not touched.
pub(super) async fn run(
    kind: &'static str,
    argv: &[OsString],
    env: &Env,
    limit: Duration,
    stop: &mut watch::Receiver<bool>,
) -> Outcome {
    let program = argv.first().cloned().unwrap_or_default();
    let mut process = match Process::start(argv, env).await {
        Ok(process) => process,
        Err(error) => {
            warn!(hook = kind, program = %program.display(), "hook cannot be run: {error}");
            return Outcome::SpawnFailed(error.kind());
        }
    };
    let ended = tokio::select! {
        ended = timeout(limit, process.exited()) => ended.map_err(|_| Outcome::Timeout),
        _ = stop.wait_for(|stop| *stop) => Err(Outcome::Cancelled),
    };
    let outcome = match ended {
        Ok(()) => process.reap(),
        Err(why) => {
            match why {
                Outcome::Timeout => {
                    let seconds = limit.as_secs_f32();
                    warn!(hook = kind, program = %program.display(), "hook did not end within {seconds} s");
                }
                _ => info!(hook = kind, program = %program.display(), "hook is ended, the gateway stops"),
            }
            process.signal(Signal::SIGTERM);
            let _ = timeout(KILL_AFTER, process.exited()).await;
            // What ignored SIGTERM in the group, or outlived its leader, goes now. The leader is not reaped yet, so the
            // number of the group cannot have become another's.
            process.signal(Signal::SIGKILL);
            process.exited().await;
            process.reap();
            why
        }
    };
    process.output.log(kind);
    outcome
}

/// A program that runs, with its output.
struct Process {
    child: Child,
    group: Pid,
    /// Becomes readable when the program ends, without reaping it.
    end: AsyncFd<OwnedFd>,
    output: Output,
}

impl Process {
    async fn start(argv: &[OsString], env: &Env) -> io::Result<Self> {
        let (program, args) = argv.split_first().ok_or(io::ErrorKind::InvalidInput)?;
        if !Path::new(program).is_absolute() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "not an absolute path"));
        }
        refuse_shell_fallback(Path::new(program))?;
        let (reader, writer) = io::pipe()?;
        let output = Output::new(reader.into())?;
        let mut command = Command::new(program);
        command
            .args(args)
            .env_clear()
            .envs(env.pairs())
            .stdin(Stdio::null())
            .stdout(writer.try_clone()?)
            .stderr(writer);
        // SAFETY: `prepare` makes async-signal-safe system calls only, and touches no memory of the parent.
        unsafe { command.pre_exec(prepare) };
        let mut tries = 1;
        let mut child = loop {
            match command.spawn() {
                Err(error) if error.kind() == io::ErrorKind::ExecutableFileBusy && tries < BUSY_TRIES => {
                    tries += 1;
                    tokio::time::sleep(BUSY_WAIT).await;
                }
                spawned => break spawned?,
            }
        };
        // Our ends of the pipe must close, or its end would never be seen.
        drop(command);
        // Linux process ids fit into an i32.
        let group = Pid::from_raw(child.id().cast_signed());
        match pidfd(group).and_then(watch_end) {
            Ok(end) => Ok(Self { child, group, end, output }),
            Err(error) => {
                let _ = killpg(group, Signal::SIGKILL);
                child.wait()?;
                Err(error)
            }
        }
    }

    /// Waits for the end, and reads output meanwhile so that the program never waits for us.
    async fn exited(&mut self) {
        loop {
            tokio::select! {
                _ = self.end.readable() => return,
                () = self.output.read(), if !self.output.closed => {}
            }
        }
    }

    /// Takes what is left in the pipe and the status. Only after [`Self::exited`]: then neither blocks.
    fn reap(&mut self) -> Outcome {
        self.output.read_rest();
        match self.child.wait() {
            Ok(status) => outcome_of(status),
            Err(error) => Outcome::SpawnFailed(error.kind()),
        }
    }

    /// Signals the whole group. The group exists as long as its leader is not reaped.
    fn signal(&self, signal: Signal) {
        if let Err(error) = killpg(self.group, signal) {
            warn!(group = %self.group, "hook cannot be signalled: {error}");
        }
    }
}

fn outcome_of(status: ExitStatus) -> Outcome {
    match (status.code(), status.signal()) {
        (Some(code), _) => Outcome::Exit(code),
        (None, signal) => Outcome::Signal(signal.unwrap_or(0)),
    }
}

/// The beginning of what a program says; the rest is read and forgotten.
struct Output {
    pipe: pipe::Receiver,
    kept: Vec<u8>,
    closed: bool,
}

impl Output {
    fn new(reader: OwnedFd) -> io::Result<Self> {
        Ok(Self { pipe: pipe::Receiver::from_owned_fd(reader)?, kept: Vec::new(), closed: false })
    }

    async fn read(&mut self) {
        match self.pipe.readable().await {
            Ok(()) => {
                self.take();
            }
            Err(_) => self.closed = true,
        }
    }

    /// Reads what is there without waiting; how much that was.
    fn take(&mut self) -> usize {
        let mut chunk = [0; 16 * 1024];
        match self.pipe.try_read(&mut chunk) {
            Ok(n @ 1..) => {
                let room = MAX_OUTPUT.saturating_sub(self.kept.len());
                self.kept.extend_from_slice(&chunk[..n.min(room)]);
                n
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => 0,
            Ok(_) | Err(_) => {
                self.closed = true;
                0
            }
        }
    }

    fn read_rest(&mut self) {
        let mut total = 0;
        while total < MAX_TAIL {
            match self.take() {
                0 => return,
                n => total += n,
            }
        }
    }

    fn log(&self, kind: &'static str) {
        let text = String::from_utf8_lossy(&self.kept);
        for line in text.lines().filter(|line| !line.trim().is_empty()) {
            info!(hook = kind, "{}", super::env::printable(line));
        }
        if self.kept.len() == MAX_OUTPUT {
            info!(hook = kind, "(no more than {MAX_OUTPUT} bytes of output are logged)");
        }
    }
}

/// The C library hands a file that the kernel cannot run to `/bin/sh`, whose failure would then look like an answer. So only
/// what names its interpreter, or is a program, is run. One that can be run but not read is the kernel's to judge.
fn refuse_shell_fallback(program: &Path) -> io::Result<()> {
    let mut head = [0; 4];
    let Ok(mut file) = File::open(program) else {
        return Ok(());
    };
    let n = file.read(&mut head)?;
    if head[..n].starts_with(b"#!") || head[..n] == *b"\x7fELF" {
        return Ok(());
    }
    let message = "neither a script with a first line #! nor a program";
    Err(io::Error::new(io::ErrorKind::InvalidData, message))
}

/// A descriptor of a child of ours that is not reaped yet; readable once it has ended.
pub(crate) fn pidfd(pid: Pid) -> io::Result<OwnedFd> {
    // SAFETY: a plain system call on a process id that is our unreaped child's.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid.as_raw(), 0) };
    let fd = i32::try_from(fd).map_err(io::Error::other)?;
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just made this descriptor for us; nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn watch_end(pidfd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an `OwnedFd` stays open and refers to the same file for as long as it lives, and the `AsyncFd` owns it.
    let watched = unsafe { AsyncFd::register_with_interest(pidfd, Interest::READABLE) };
    watched.map_err(Into::into)
}

/// Between fork and exec: a session and group of its own, first in line when memory runs out, and no descriptor but the
/// three standard ones.
fn prepare() -> io::Result<()> {
    nix::unistd::setsid()?;
    prefer_for_oom_kill();
    // SAFETY: a plain system call on descriptor numbers; nothing is closed before exec.
    let done = unsafe { libc::syscall(libc::SYS_close_range, 3_u32, u32::MAX, libc::CLOSE_RANGE_CLOEXEC) };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// A hook that eats the memory must die before the gateway does. Where /proc is not there, it just stays as it is.
pub(crate) fn prefer_for_oom_kill() {
    use nix::fcntl::{OFlag, open};
    use nix::sys::stat::Mode;
    if let Ok(file) = open(c"/proc/self/oom_score_adj", OFlag::O_WRONLY | OFlag::O_CLOEXEC, Mode::empty()) {
        let _ = nix::unistd::write(&file, b"500");
    }
}
