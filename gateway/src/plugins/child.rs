//! The process that a plugin lives in: opens it, becomes the user that it runs as, and calls it, one call after the other.

use std::collections::HashMap;
use std::ffi::{CStr, OsStr};
use std::io::{self, Write as _};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::UnixDatagram;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use nix::sys::prctl;
use nix::sys::signal::Signal;
use nix::unistd::{Gid, Pid, Uid, getppid, setgid, setgroups, setsid, setuid};
use zeroize::Zeroize as _;

use super::ClientKey;
use super::abi::{Context, Loaded, Plugin, Pointers};
use super::kind::PluginKind;
use super::os;
use super::wire::{MAX_MESSAGE, Message, Setup, ToChild, ToSupervisor};

/// Exit code of a child whose plugin did not open.
const REFUSED: i32 = 1;
/// Exit code of a child that cannot go on.
const BROKEN: i32 = 70;

/// Calls that come before OpenVPN drops its privileges, and for which plugins may need them: what is to be undone at the end as
/// root is left to a process that they fork then.
const PRIVILEGED: u32 = PluginKind::Up.bit() | PluginKind::RouteUp.bit();

/// The whole life of a child. `setup` is the gateway's first message.
pub(super) fn run(setup: &'static [u8], socket: OwnedFd, supervisor: Pid) -> ! {
    // What the supervisor owns is here too, and must not be dropped: so nothing unwinds out of this function.
    let ended = catch_unwind(AssertUnwindSafe(|| live(setup, socket, supervisor)));
    std::process::exit(match ended {
        Ok(Ok(())) => 0,
        Ok(Err(_)) | Err(_) => BROKEN,
    })
}

fn live(setup: &'static [u8], socket: OwnedFd, supervisor: Pid) -> io::Result<()> {
    isolate(&socket, supervisor)?;
    let socket = UnixDatagram::from(socket);
    let Ok(ToSupervisor::Setup(setup)) = ToSupervisor::read(setup) else {
        return Err(io::ErrorKind::InvalidData.into());
    };
    let path = setup.argv[0];
    let mut message = Message::new();
    let user = User { uid: setup.uid.map(Uid::from_raw), gid: setup.gid.map(Gid::from_raw), supervisor };
    let (plugin, user) = match open(setup, user) {
        Ok(opened) => opened,
        Err(why) => {
            message.refused(&why);
            socket.send(message.finish().map_err(io::Error::other)?)?;
            std::process::exit(REFUSED);
        }
    };
    let mut child = Child { plugin, path, user, contexts: HashMap::new(), message };
    // As OpenVPN does: one context for calls that are about no client.
    child.context(ClientKey::SERVER);
    child.message.opened(child.plugin.mask, child.plugin.has_contexts());
    socket.send(child.message.finish().map_err(io::Error::other)?)?;
    child.serve(&socket)
}

/// Leaves nothing of the gateway's to the plugin, and makes sure that it does not outlive its supervisor.
fn isolate(socket: &OwnedFd, supervisor: Pid) -> io::Result<()> {
    setsid()?;
    os::close_all_but(socket.as_raw_fd())?;
    os::fault_as_c_does()?;
    crate::hooks::prefer_for_oom_kill();
    die_with(supervisor)
}

/// The system forgets this when a process changes its user.
fn die_with(supervisor: Pid) -> io::Result<()> {
    prctl::set_pdeathsig(Signal::SIGKILL)?;
    if getppid() != supervisor {
        std::process::exit(BROKEN);
    }
    Ok(())
}

/// Opens the plugin, and drops privileges as soon as it can do without. What comes back with it is still to be dropped.
fn open(setup: Setup<'static>, user: User) -> Result<(Plugin, Option<User>), String> {
    let loaded = Loaded::load(Path::new(OsStr::from_bytes(setup.argv[0].to_bytes())))?;
    let argv = Box::leak(Box::new(Pointers::new(setup.argv)));
    let env = Box::leak(Box::new(Pointers::new(setup.env)));
    let become_user =
        |user: User| user.become_it().map_err(|error| format!("its user cannot be set: {error}"));
    if loaded.opens_after_uid_change() {
        become_user(user)?;
        return Ok((loaded.open(argv, env)?, None));
    }
    let plugin = loaded.open(argv, env)?;
    if plugin.mask & PRIVILEGED == 0 {
        become_user(user)?;
        return Ok((plugin, None));
    }
    Ok((plugin, Some(user)))
}

/// Whom the plugin's process becomes.
struct User {
    uid: Option<Uid>,
    gid: Option<Gid>,
    supervisor: Pid,
}

impl User {
    fn become_it(&self) -> io::Result<()> {
        if let Some(gid) = self.gid {
            setgroups(&[gid])?;
            setgid(gid)?;
        }
        if let Some(uid) = self.uid {
            setuid(uid)?;
        }
        die_with(self.supervisor)
    }
}

struct Child {
    plugin: Plugin,
    path: &'static CStr,
    /// Still to become.
    user: Option<User>,
    /// What the plugin keeps for each client, from the first call for it until the gateway forgets it.
    contexts: HashMap<u64, Context>,
    message: Message,
}

impl Child {
    fn context(&mut self, client: ClientKey) -> Context {
        *self.contexts.entry(client.0).or_insert_with(|| self.plugin.construct())
    }

    /// Answers calls until the gateway closes the socket, then closes the plugin.
    fn serve(mut self, socket: &UnixDatagram) -> io::Result<()> {
        let mut room = vec![0; MAX_MESSAGE + 1];
        loop {
            let length = match socket.recv(&mut room) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Ok(0) | Err(_) => break,
                Ok(length) => length,
            };
            let request = ToChild::read(&room[..length]).map_err(io::Error::other);
            let answered = request.and_then(|request| self.answer(request));
            room[..length].zeroize();
            answered?;
            let sent = socket.send(self.message.finish().map_err(io::Error::other)?);
            self.message.wipe();
            sent?;
        }
        let server = self.contexts.remove(&ClientKey::SERVER.0);
        self.contexts.drain().map(|(_, context)| context).chain(server).for_each(|c| self.plugin.destroy(c));
        self.plugin.close()
    }

    /// Drops privileges if no more privileged call comes: before any other, and after the last that the plugin wants.
    fn drop_privileges(&mut self, due: bool) -> io::Result<()> {
        match self.user.take_if(|_| due) {
            Some(user) => user
                .become_it()
                .inspect_err(|error| drop(writeln!(io::stderr(), "<3>its user cannot be set: {error}"))),
            None => Ok(()),
        }
    }

    /// Does what is asked, and leaves the answer in the message.
    fn answer(&mut self, request: ToChild<'_>) -> io::Result<()> {
        match request {
            ToChild::Call { id, kind, client, argv, env } => {
                let call = 1_u32.checked_shl(kind.into()).unwrap_or(0);
                self.drop_privileges(call & PRIVILEGED == 0)?;
                let depth = (kind == PluginKind::TlsVerify as u8)
                    .then(|| argv.first()?.to_str().ok()?.parse().ok())
                    .flatten();
                let context = self.context(ClientKey(client));
                let argv = Pointers::new([self.path].into_iter().chain(argv));
                let returned = self.plugin.call(kind, &argv, &Pointers::new(env), context, depth);
                // The device comes first, the routes follow.
                self.drop_privileges(
                    self.plugin.mask & PRIVILEGED & !call.wrapping_mul(2).wrapping_sub(1) == 0,
                )?;
                let values = returned.values.iter().map(|(name, value)| (name.as_slice(), value.as_slice()));
                self.message.returned(id, returned.code, values);
                if returned.too_many || self.message.finish().is_err() {
                    self.message.too_much(id);
                }
            }
            ToChild::Forget { id, client } => {
                if let Some(context) = self.contexts.remove(&client) {
                    self.plugin.destroy(context);
                }
                self.message.returned(id, 0, std::iter::empty());
            }
        }
        Ok(())
    }
}
