//! The process that a plugin lives in: opens it, becomes the user that it runs as, and calls it, one call after the other.

use std::collections::HashMap;
use std::ffi::{CStr, OsStr};
use std::io;
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
    let plugin = match open(setup, supervisor) {
        Ok(plugin) => plugin,
        Err(why) => {
            message.refused(&why);
            socket.send(message.finish().map_err(io::Error::other)?)?;
            std::process::exit(REFUSED);
        }
    };
    let mut child = Child { plugin, path, contexts: HashMap::new(), message };
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

fn open(setup: Setup<'static>, supervisor: Pid) -> Result<Plugin, String> {
    let path = Path::new(OsStr::from_bytes(setup.argv[0].to_bytes()));
    let loaded = Loaded::load(path)?;
    let argv = Box::leak(Box::new(Pointers::new(setup.argv)));
    let env = Box::leak(Box::new(Pointers::new(setup.env)));
    let become_user = || {
        let (uid, gid) = (setup.uid.map(Uid::from_raw), setup.gid.map(Gid::from_raw));
        drop_privileges(uid, gid, supervisor).map_err(|error| format!("its user cannot be set: {error}"))
    };
    if loaded.opens_after_uid_change() {
        become_user()?;
        loaded.open(argv, env)
    } else {
        let plugin = loaded.open(argv, env)?;
        become_user()?;
        Ok(plugin)
    }
}

fn drop_privileges(uid: Option<Uid>, gid: Option<Gid>, supervisor: Pid) -> io::Result<()> {
    if let Some(gid) = gid {
        setgroups(&[gid])?;
        setgid(gid)?;
    }
    if let Some(uid) = uid {
        setuid(uid)?;
    }
    die_with(supervisor)
}

struct Child {
    plugin: Plugin,
    path: &'static CStr,
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
            let request = ToChild::read(&room[..length]);
            let understood = request.map(|request| self.answer(request)).map_err(io::Error::other);
            room[..length].zeroize();
            understood?;
            let sent = socket.send(self.message.finish().map_err(io::Error::other)?);
            self.message.wipe();
            sent?;
        }
        let server = self.contexts.remove(&ClientKey::SERVER.0);
        self.contexts.drain().map(|(_, context)| context).chain(server).for_each(|c| self.plugin.destroy(c));
        self.plugin.close()
    }

    /// Does what is asked, and leaves the answer in the message.
    fn answer(&mut self, request: ToChild<'_>) {
        match request {
            ToChild::Call { id, kind, client, argv, env } => {
                let depth = (kind == PluginKind::TlsVerify as u8)
                    .then(|| argv.first()?.to_str().ok()?.parse().ok())
                    .flatten();
                let context = self.context(ClientKey(client));
                let argv = Pointers::new([self.path].into_iter().chain(argv));
                let returned = self.plugin.call(kind, &argv, &Pointers::new(env), context, depth);
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
    }
}
