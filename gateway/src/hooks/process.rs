//! One run of one program.

use std::ffi::OsString;
use std::io;
use std::os::unix::process::ExitStatusExt;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::Command;
use tokio::time::timeout;
use tracing::{info, warn};

use super::{Answer, Env};

/// Between asking a hook to end and ending it.
const KILL_AFTER: Duration = Duration::from_secs(2);
/// Output of one run that goes to the log; the rest is read and forgotten.
const MAX_OUTPUT: usize = 4096;
/// A grandchild that keeps the output open does not hold us up any longer than this.
const OUTPUT_GRACE: Duration = Duration::from_millis(100);

/// How a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// By itself.
    Exit(i32),
    /// By a signal that was not ours.
    Signal(i32),
    /// By us, after the time limit.
    Timeout,
    /// It never started.
    SpawnFailed(io::ErrorKind),
}

impl Outcome {
    /// What it means for a login. Exit code 2 would promise an answer later, which nobody here waits for.
    #[must_use]
    pub const fn answer(self) -> Answer {
        match self {
            Self::Exit(0) => Answer::Allow,
            Self::Exit(2) | Self::Signal(_) | Self::Timeout | Self::SpawnFailed(_) => Answer::NoAnswer,
            Self::Exit(_) => Answer::Deny,
        }
    }
}

/// Runs a program to its end, or to the end of its time; its whole process group with it.
pub(super) async fn run(kind: &'static str, argv: &[OsString], env: &Env, limit: Duration) -> Outcome {
    let Some((program, args)) = argv.split_first() else {
        return Outcome::SpawnFailed(io::ErrorKind::InvalidInput);
    };
    let mut command = Command::new(program);
    command
        .args(args)
        .env_clear()
        .envs(env.pairs())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .kill_on_drop(true);
    // SAFETY: `close_range` is async-signal-safe, and the closure touches no memory of the parent.
    unsafe { command.pre_exec(close_inherited) };
    let mut child = match command.spawn() {
        Ok(child) => child,
        Err(error) => {
            warn!(hook = kind, program = %program.display(), "hook cannot be run: {error}");
            return Outcome::SpawnFailed(error.kind());
        }
    };
    let group = child
        .id()
        .and_then(|id| i32::try_from(id).ok())
        .map(Pid::from_raw);
    let out = child.stdout.take().map(|pipe| tokio::spawn(collect(pipe)));
    let err = child.stderr.take().map(|pipe| tokio::spawn(collect(pipe)));
    let outcome = match timeout(limit, child.wait()).await {
        Ok(status) => outcome_of(status),
        Err(_) => {
            warn!(hook = kind, program = %program.display(), "hook did not end within {} s", limit.as_secs_f32());
            signal(group, Signal::SIGTERM);
            if timeout(KILL_AFTER, child.wait()).await.is_err() {
                signal(group, Signal::SIGKILL);
                let _ = child.wait().await;
            }
            // What ignored SIGTERM in the group, or outlived its leader, goes now.
            signal(group, Signal::SIGKILL);
            Outcome::Timeout
        }
    };
    for pipe in [out, err].into_iter().flatten() {
        if let Ok(Ok(text)) = timeout(OUTPUT_GRACE, pipe).await {
            for line in String::from_utf8_lossy(&text)
                .lines()
                .filter(|line| !line.trim().is_empty())
            {
                info!(hook = kind, "{}", super::env::printable(line));
            }
        }
    }
    outcome
}

fn outcome_of(status: io::Result<ExitStatus>) -> Outcome {
    match status {
        Ok(status) => match (status.code(), status.signal()) {
            (Some(code), _) => Outcome::Exit(code),
            (None, Some(signal)) => Outcome::Signal(signal),
            (None, None) => Outcome::Signal(0),
        },
        Err(error) => Outcome::SpawnFailed(error.kind()),
    }
}

fn signal(group: Option<Pid>, signal: Signal) {
    if let Some(group) = group {
        // A group that is gone already needs nothing.
        let _ = killpg(group, signal);
    }
}

/// Marks everything beyond the three standard descriptors to be closed when the program starts.
fn close_inherited() -> io::Result<()> {
    // SAFETY: a plain system call on descriptor numbers; nothing is closed before exec.
    let done = unsafe { libc::syscall(libc::SYS_close_range, 3_u32, u32::MAX, libc::CLOSE_RANGE_CLOEXEC) };
    if done == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Reads to the end so that the program never waits for us, and keeps the beginning.
async fn collect(mut pipe: impl AsyncRead + Unpin) -> Vec<u8> {
    let (mut kept, mut chunk) = (Vec::new(), [0u8; 1024]);
    while let Ok(n @ 1..) = pipe.read(&mut chunk).await {
        let room = MAX_OUTPUT.saturating_sub(kept.len());
        kept.extend_from_slice(&chunk[..n.min(room)]);
    }
    kept
}
