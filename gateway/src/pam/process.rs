//! The helper as the gateway sees it: a child process and a socket.

use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockType, recv, send, setsockopt, socketpair, sockopt,
};
use nix::sys::time::{TimeVal, TimeValLike as _};

use super::wire::{FromHelper, MAX_MESSAGE, ToHelper};
use super::{HELPER_WORD, PamOptions};
use crate::hooks::PATH;

/// Time for the helper to open the library. On a loaded machine the start of a program takes tens of milliseconds.
const READY_WITHIN: i64 = 5;
/// After its socket is closed the helper ends by itself; then it is ended.
const END_WITHIN: Duration = Duration::from_secs(2);
/// How often it is looked at meanwhile.
const END_POLL: Duration = Duration::from_millis(10);

/// A helper that said it is ready. Dropping it ends the process and its logins.
#[derive(Debug)]
pub(super) struct Helper {
    child: Child,
    /// `None` only while it is dropped.
    socket: Option<OwnedFd>,
    /// Whose rights it has.
    pub(super) uid: u32,
}

impl Helper {
    /// Starts one and waits until it is ready.
    pub(super) fn start(options: &PamOptions) -> Result<Self, String> {
        let text = |error: Errno| error.desc().to_owned();
        let (ours, theirs) =
            socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)
                .map_err(text)?;
        setsockopt(&ours, sockopt::ReceiveTimeout, &TimeVal::seconds(READY_WITHIN)).map_err(text)?;
        let program = options.program.as_deref().unwrap_or(Path::new("/proc/self/exe"));
        let mut command = Command::new(program);
        command.arg(HELPER_WORD).env_clear().env("PATH", PATH).stdin(Stdio::from(theirs));
        super::ffi::isolate(&mut command);
        let child = command.spawn().map_err(|error| format!("the helper cannot be started: {error}"))?;
        // Our copy of its end must close, or its end would never be seen.
        drop(command);
        let mut helper = Self { child, socket: Some(ours), uid: 0 };
        let confdir = options.confdir.as_ref().map(|path| path.display().to_string());
        helper
            .send(&ToHelper::Hello { service: options.service.clone(), confdir })
            .map_err(|error| format!("the helper does not listen: {error}"))?;
        match helper.receive(MsgFlags::empty()) {
            Ok(Some(FromHelper::Ready { uid })) => helper.uid = uid,
            Ok(Some(FromHelper::Failed { why })) => return Err(why),
            Ok(_) => return Err("the helper ended at once".to_owned()),
            Err(error) => return Err(format!("the helper is not ready: {error}")),
        }
        Ok(helper)
    }

    /// Sends a message without waiting.
    pub(super) fn send(&self, message: &ToHelper) -> io::Result<()> {
        let flags = MsgFlags::MSG_NOSIGNAL | MsgFlags::MSG_DONTWAIT;
        send(self.fd()?, &message.encode(), flags)?;
        Ok(())
    }

    /// A message that is there; `None` at the helper's end.
    pub(super) fn try_receive(&self) -> io::Result<Option<FromHelper>> {
        self.receive(MsgFlags::MSG_DONTWAIT)
    }

    /// Its process id.
    pub(super) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// A copy of the socket, to wait for.
    pub(super) fn watched(&self) -> io::Result<OwnedFd> {
        self.socket.as_ref().ok_or(io::ErrorKind::NotConnected)?.try_clone()
    }

    fn receive(&self, flags: MsgFlags) -> io::Result<Option<FromHelper>> {
        let mut buffer = [0; MAX_MESSAGE];
        // A signal (a plugin host that reports, say) says nothing about the helper.
        let received = loop {
            match recv(self.fd()?, &mut buffer, flags) {
                Err(Errno::EINTR) => {}
                received => break received,
            }
        };
        match received {
            // A reset: it ended and left something unread.
            Ok(0) | Err(Errno::ECONNRESET) => Ok(None),
            Ok(len) => {
                FromHelper::decode(&buffer[..len]).map(Some).ok_or_else(|| io::ErrorKind::InvalidData.into())
            }
            Err(error) => Err(error.into()),
        }
    }

    fn fd(&self) -> io::Result<i32> {
        Ok(self.socket.as_ref().ok_or(io::ErrorKind::NotConnected)?.as_raw_fd())
    }
}

impl Drop for Helper {
    fn drop(&mut self) {
        self.socket = None;
        let mut waited = Duration::ZERO;
        while let Ok(None) = self.child.try_wait() {
            if waited >= END_WITHIN {
                let _ = self.child.kill();
                let _ = self.child.wait();
                return;
            }
            std::thread::sleep(END_POLL);
            waited += END_POLL;
        }
    }
}
