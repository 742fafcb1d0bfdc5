//! The helper process: takes logins from its socket, and forks a child for each.

use std::collections::HashMap;
use std::ffi::CString;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::path::Path;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::prctl;
use nix::sys::signal::{SigSet, Signal, kill, killpg};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::socket::{MsgFlags, SockType, getsockopt, recv, send, sockopt};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid, dup2_stdin, dup2_stdout, setsid};
use zeroize::Zeroizing;

use super::MAX_RUNNING;
use super::ffi::{self, Library, Login, Service};
use super::wire::{FromHelper, MAX_MESSAGE, ToHelper, Verdict};

/// Where Linux-PAM looks for services.
const CONFDIRS: [&str; 3] = ["/etc/pam.d", "/usr/etc/pam.d", "/usr/lib/pam.d"];

/// Children at a time: as many again as logins, for those that have answered or were given up and are about to end.
const MAX_CHILDREN: usize = 2 * MAX_RUNNING;

/// A login under way in a child.
struct Running {
    id: u64,
    /// The gateway does not want to know any more.
    cancelled: bool,
}

/// The helper.
struct Helper {
    socket: OwnedFd,
    library: Library,
    service: Service,
    running: HashMap<Pid, Running>,
}

/// Serves logins until the gateway closes the socket that is our standard input.
///
/// # Errors
/// When this was not started by the gateway, or the operating system fails.
pub fn run() -> Result<(), String> {
    let stdin = io::stdin();
    if getsockopt(&stdin, sockopt::SockType) != Ok(SockType::SeqPacket) {
        return Err(format!("{} is for the gateway itself", super::HELPER_WORD));
    }
    let text = |error: io::Error| error.to_string();
    let socket = stdin.as_fd().try_clone_to_owned().map_err(text)?;
    // Modules and their programs must not find the socket where they look for input.
    let null = File::options().read(true).write(true).open("/dev/null").map_err(text)?;
    dup2_stdin(&null).map_err(|error| error.to_string())?;
    dup2_stdout(&null).map_err(|error| error.to_string())?;
    drop(null);
    // Passwords pass through here.
    prctl::set_dumpable(false).map_err(|error| error.to_string())?;
    // Whoever ends the gateway may signal all of its processes: we end after it has, with our socket.
    let mut signals = SigSet::empty();
    for signal in [Signal::SIGCHLD, Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP] {
        signals.add(signal);
    }
    signals.thread_block().map_err(|error| error.to_string())?;
    let mut ended = SigSet::empty();
    ended.add(Signal::SIGCHLD);
    let ended = SignalFd::with_flags(&ended, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)
        .map_err(|error| error.to_string())?;

    let Some(Some(hello)) = receive(&socket, MsgFlags::empty()) else { return Ok(()) };
    let ToHelper::Hello { service, confdir } = hello else {
        return Err("the gateway did not say hello".to_owned());
    };
    let (library, service) = match prepare(&service, confdir.as_deref()) {
        Ok(ready) => ready,
        Err(why) => {
            tell(&socket, &FromHelper::Failed { why });
            return Ok(());
        }
    };
    tell(&socket, &FromHelper::Ready { uid: nix::unistd::geteuid().as_raw() });
    Helper { socket, library, service, running: HashMap::new() }.serve(&ended)
}

/// Opens the library and looks for the service: PAM itself would take another one in silence.
fn prepare(service: &str, confdir: Option<&str>) -> Result<(Library, Service), String> {
    let name = service.to_ascii_lowercase();
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if name.is_empty() || name.starts_with('.') || !name.chars().all(fits) {
        return Err(format!("{service:?} cannot be the name of a service"));
    }
    let library = Library::open()?;
    if confdir.is_some() && !library.has_confdir() {
        return Err("this libpam.so.0 has no pam_start_confdir (Linux-PAM 1.4)".to_owned());
    }
    let directories = confdir.map_or(CONFDIRS.to_vec(), |confdir| vec![confdir]);
    if !directories.iter().any(|directory| Path::new(directory).join(&name).is_file()) {
        return Err(format!("there is no service {name:?} in {}", directories.join(", ")));
    }
    let c_string = |text: &str| CString::new(text).map_err(|_| "a NUL byte in a name".to_owned());
    let service = Service { name: c_string(&name)?, confdir: confdir.map(c_string).transpose()? };
    Ok((library, service))
}

impl Helper {
    fn serve(mut self, ended: &SignalFd) -> Result<(), String> {
        loop {
            let mut ready = [
                PollFd::new(self.socket.as_fd(), PollFlags::POLLIN),
                PollFd::new(ended.as_fd(), PollFlags::POLLIN),
            ];
            match poll(&mut ready, PollTimeout::NONE) {
                Ok(_) | Err(Errno::EINTR) => {}
                Err(error) => return Err(error.to_string()),
            }
            let [socket, children] = ready.map(|fd| fd.any().unwrap_or(false));
            if children {
                // One signal may stand for several children.
                while let Ok(Some(_)) = ended.read_signal() {}
                self.reap();
            }
            if socket && !self.take() {
                break;
            }
        }
        // The gateway has gone: nobody waits for those who run.
        for pid in self.running.into_keys() {
            end(pid);
        }
        Ok(())
    }

    /// Takes messages that are there; false at the end of the gateway.
    fn take(&mut self) -> bool {
        loop {
            match receive(&self.socket, MsgFlags::MSG_DONTWAIT) {
                Some(Some(ToHelper::Login { id, user, rhost, answers })) => {
                    self.begin(id, &user, &rhost.to_string(), answers);
                }
                Some(Some(ToHelper::Cancel { id })) => {
                    for (pid, running) in &mut self.running {
                        if running.id == id {
                            running.cancelled = true;
                            end(*pid);
                        }
                    }
                }
                Some(Some(ToHelper::Hello { .. })) => {}
                Some(None) => return true,
                None => return false,
            }
        }
    }

    fn begin(&mut self, id: u64, user: &str, rhost: &str, answers: Vec<tessera_proto::Secret<String>>) {
        if self.running.len() >= MAX_CHILDREN {
            return self.no_answer(id, format!("{MAX_CHILDREN} logins run or end already"));
        }
        let (Ok(user), Ok(rhost)) = (CString::new(user), CString::new(rhost)) else {
            return self.no_answer(id, "a NUL byte in a user name".to_owned());
        };
        match ffi::fork() {
            Ok(ForkResult::Parent { child }) => {
                self.running.insert(child, Running { id, cancelled: false });
            }
            Ok(ForkResult::Child) => {
                let verdict = self.login(Login { user, rhost, answers });
                let told = tell(&self.socket, &FromHelper::Answer { id, verdict });
                std::process::exit(i32::from(!told));
            }
            Err(error) => self.no_answer(id, format!("no process for the login: {error}")),
        }
    }

    /// In the child.
    fn login(&self, login: Login) -> Verdict {
        let prepared = || -> nix::Result<()> {
            // A group of its own, so that programs of modules end with it; and it ends with the helper.
            setsid()?;
            prctl::set_pdeathsig(Signal::SIGKILL)?;
            SigSet::all().thread_unblock()
        };
        if let Err(error) = prepared() {
            return Verdict::NoAnswer { why: format!("the process of the login: {error}") };
        }
        ffi::default_sigpipe();
        // What eats the memory must die before the gateway does. Where /proc is not there, it just stays as it is.
        let _ = std::fs::write("/proc/self/oom_score_adj", "500");
        self.library.login(&self.service, login)
    }

    /// Takes leave of children that have ended. Who could not answer is answered for.
    fn reap(&mut self) {
        loop {
            let (pid, how) = match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
                Ok(WaitStatus::Exited(pid, code)) => (pid, (code != 0).then(|| format!("exit code {code}"))),
                Ok(WaitStatus::Signaled(pid, signal, _)) => (pid, Some(signal.to_string())),
                Ok(WaitStatus::StillAlive) | Err(_) => return,
                Ok(_) => continue,
            };
            let Some(running) = self.running.remove(&pid) else { continue };
            if let Some(how) = how
                && !running.cancelled
            {
                self.no_answer(running.id, format!("a PAM module ended its process: {how}"));
            }
        }
    }

    fn no_answer(&self, id: u64, why: String) {
        tell(&self.socket, &FromHelper::Answer { id, verdict: Verdict::NoAnswer { why } });
    }
}

/// Ends a child, with the programs that its modules run.
fn end(pid: Pid) {
    // It may not have its group yet.
    let _ = killpg(pid, Signal::SIGKILL);
    let _ = kill(pid, Signal::SIGKILL);
}

/// One message; `Some(None)` when none is there, `None` when none will come.
fn receive(socket: &OwnedFd, flags: MsgFlags) -> Option<Option<ToHelper>> {
    let mut buffer = Zeroizing::new([0; MAX_MESSAGE]);
    match recv(socket.as_raw_fd(), &mut buffer[..], flags) {
        Ok(0) => None,
        // Only the gateway writes here, and what it writes can be read: else something is badly wrong.
        Ok(len) => ToHelper::decode(&buffer[..len]).map(Some),
        Err(Errno::EAGAIN | Errno::EINTR) => Some(None),
        Err(_) => None,
    }
}

fn tell(socket: &OwnedFd, message: &FromHelper) -> bool {
    send(socket.as_raw_fd(), &message.encode(), MsgFlags::MSG_NOSIGNAL).is_ok()
}
