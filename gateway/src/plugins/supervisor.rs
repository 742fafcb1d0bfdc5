//! The process beside a plugin: keeps the privileges that the gateway started with, so that the plugin can be opened again,
//! and never runs a line of the plugin's code.

use std::io::{self, IoSlice};
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::os::unix::net::UnixDatagram;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::prctl;
use nix::sys::resource::{Resource, setrlimit};
use nix::sys::signal::{Signal, kill, killpg};
use nix::sys::socket::{AddressFamily, ControlMessage, MsgFlags, SockFlag, SockType, sendmsg, socketpair};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid};

use super::child;
use super::os;
use super::wire::{FromSupervisor, MAX_MESSAGE, Message, ToSupervisor};
use crate::clock;

/// Before a child is started again, at first.
const BACKOFF: Duration = Duration::from_millis(500);
/// It doubles with each death up to this: a plugin that cannot work costs next to nothing, and is back soon once it can.
const MAX_BACKOFF: Duration = Duration::from_secs(30);
/// A child that lived so long was healthy: the next wait is the first again.
const HEALTHY: Duration = Duration::from_mins(1);
/// After the gateway has gone, a plugin has this long to close.
const GRACE: Duration = Duration::from_secs(2);

/// Hosts a plugin until the gateway is gone. `socket` is the number of the socket that the gateway left open.
///
/// # Errors
/// When the socket is not there, or the system refuses what a host needs.
pub fn host(socket: i32) -> io::Result<()> {
    let control = os::adopt(socket)?;
    os::shrug_off_signals()?;
    // For `ps`, which would show "exe".
    prctl::set_name(c"plugin-host")?;
    // Children have passwords in memory.
    setrlimit(Resource::RLIMIT_CORE, 0, 0)?;
    let mut first = vec![0; MAX_MESSAGE + 1];
    let length = control.recv(&mut first)?;
    first.truncate(length);
    if length == 0 {
        return Ok(());
    }
    // Children read it for all their life, and so does this process.
    let setup: &'static [u8] = first.leak();
    match ToSupervisor::read(setup) {
        Ok(ToSupervisor::Setup(_)) => {}
        Ok(ToSupervisor::Kill { .. }) | Err(_) => {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "the gateway did not say what to host"));
        }
    }
    Supervisor { control, setup, generation: 0, backoff: BACKOFF, message: Message::new() }.run()
}

struct Supervisor {
    control: UnixDatagram,
    setup: &'static [u8],
    /// Of the last child that was started.
    generation: u32,
    backoff: Duration,
    message: Message,
}

struct Child {
    pid: Pid,
    /// Becomes readable when it ends.
    end: OwnedFd,
    started: Instant,
}

enum Next {
    Run(Child),
    StartAt(Instant),
}

impl Supervisor {
    fn run(mut self) -> io::Result<()> {
        let mut next = self.start()?;
        loop {
            let (order, ended) = self.wait(&next)?;
            if order && !self.obey(&next)? {
                if let Next::Run(child) = next {
                    end(&child, GRACE);
                }
                return Ok(());
            }
            next = match next {
                Next::Run(child) if ended => Next::StartAt(self.bury(&child)?),
                Next::StartAt(time) if time <= clock::now() => self.start()?,
                same => same,
            };
        }
    }

    /// Waits until there is something to do: an order of the gateway, the end of the child, or time to start one.
    fn wait(&self, next: &Next) -> io::Result<(bool, bool)> {
        let order = PollFd::new(self.control.as_fd(), PollFlags::POLLIN);
        let ready = match next {
            Next::Run(child) => {
                let mut both = [order, PollFd::new(child.end.as_fd(), PollFlags::POLLIN)];
                poll(&mut both, PollTimeout::NONE).map(|_| (is_ready(&both[0]), is_ready(&both[1])))
            }
            Next::StartAt(time) => {
                let mut one = [order];
                let left = time.saturating_duration_since(clock::now()) + Duration::from_millis(1);
                let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
                poll(&mut one, timeout).map(|_| (is_ready(&one[0]), false))
            }
        };
        match ready {
            Err(Errno::EINTR) => Ok((false, false)),
            other => Ok(other?),
        }
    }

    /// Reads an order and follows it; `false` if the gateway is gone.
    fn obey(&self, next: &Next) -> io::Result<bool> {
        let mut order = [0; 64];
        let length = match self.control.recv(&mut order) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return Ok(true),
            // What is not read on the other side when that is closed is an error here; it is gone in any case.
            Ok(0) | Err(_) => return Ok(false),
            Ok(length) => length,
        };
        match (ToSupervisor::read(&order[..length]), next) {
            (Ok(ToSupervisor::Kill { generation }), Next::Run(child)) if generation == self.generation => {
                kill_all(child);
                Ok(true)
            }
            // For one that has died meanwhile.
            (Ok(ToSupervisor::Kill { .. }), _) => Ok(true),
            _ => Err(io::Error::new(io::ErrorKind::InvalidData, "an order that makes no sense")),
        }
    }

    /// Starts a child and tells the gateway.
    fn start(&mut self) -> io::Result<Next> {
        self.generation += 1;
        match self.fork() {
            Ok((child, socket)) => {
                let pid = child.pid.as_raw();
                self.tell(FromSupervisor::Started { generation: self.generation, pid }, Some(&socket))?;
                Ok(Next::Run(child))
            }
            Err(error) => {
                let again = self.next_backoff();
                let errno = error.raw_os_error().unwrap_or(0);
                self.tell(FromSupervisor::NoChild { errno, again_ms: millis(again) }, None)?;
                Ok(Next::StartAt(clock::now() + again))
            }
        }
    }

    /// The child, and the gateway's end of its socket.
    fn fork(&self) -> io::Result<(Child, OwnedFd)> {
        let (gateways, childs) =
            socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)?;
        os::make_room(&gateways)?;
        os::make_room(&childs)?;
        let supervisor = nix::unistd::getpid();
        match os::fork()? {
            ForkResult::Child => child::run(self.setup, childs, supervisor),
            ForkResult::Parent { child: pid } => match crate::hooks::pidfd(pid) {
                Ok(end) => Ok((Child { pid, end, started: clock::now() }, gateways)),
                Err(error) => {
                    let _ = kill(pid, Signal::SIGKILL);
                    let _ = waitpid(pid, None);
                    Err(error)
                }
            },
        }
    }

    /// Takes a dead child's status and tells the gateway. When to start the next.
    fn bury(&mut self, child: &Child) -> io::Result<Instant> {
        if clock::now().saturating_duration_since(child.started) >= HEALTHY {
            self.backoff = BACKOFF;
        }
        let again = self.next_backoff();
        let (code, signal) = match end(child, Duration::ZERO) {
            Some(WaitStatus::Exited(_, code)) => (Some(code), None),
            Some(WaitStatus::Signaled(_, signal, _)) => (None, Some(signal as i32)),
            _ => (None, None),
        };
        let died =
            FromSupervisor::Died { generation: self.generation, code, signal, again_ms: millis(again) };
        self.tell(died, None)?;
        Ok(clock::now() + again)
    }

    fn next_backoff(&mut self) -> Duration {
        let again = self.backoff;
        self.backoff = (again * 2).min(MAX_BACKOFF);
        again
    }

    /// Blocks if the gateway reads nothing for very long: there is nothing better to do then.
    fn tell(&mut self, what: FromSupervisor, socket: Option<&OwnedFd>) -> io::Result<()> {
        self.message.supervisor_says(what);
        let bytes = self.message.finish().map_err(io::Error::other)?;
        let number = socket.map(|socket| [socket.as_raw_fd()]);
        let rights = number.as_ref().map(|number| ControlMessage::ScmRights(number));
        let sent = sendmsg::<()>(
            self.control.as_raw_fd(),
            &[IoSlice::new(bytes)],
            rights.as_slice(),
            MsgFlags::MSG_NOSIGNAL,
            None,
        );
        match sent {
            // The next look at the socket sees its end, and winds up in order.
            Ok(_) | Err(Errno::EPIPE | Errno::ECONNRESET) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

fn is_ready(fd: &PollFd<'_>) -> bool {
    fd.any().unwrap_or(true)
}

/// Waits for a child's end for so long, then ends it with all that it has started and that did not leave its group.
fn end(child: &Child, grace: Duration) -> Option<WaitStatus> {
    let until = clock::now() + grace;
    loop {
        let left = until.saturating_duration_since(clock::now());
        let mut one = [PollFd::new(child.end.as_fd(), PollFlags::POLLIN)];
        let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
        if !matches!(poll(&mut one, timeout), Err(Errno::EINTR)) {
            break;
        }
    }
    // Not reaped yet, so its number is still its own.
    kill_all(child);
    waitpid(child.pid, None).ok()
}

fn kill_all(child: &Child) {
    let _ = killpg(child.pid, Signal::SIGKILL);
    // It may not have had the time to make its group.
    let _ = kill(child.pid, Signal::SIGKILL);
}

fn millis(duration: Duration) -> u32 {
    u32::try_from(duration.as_millis()).unwrap_or(u32::MAX)
}
