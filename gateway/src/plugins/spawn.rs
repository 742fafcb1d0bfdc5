//! Starts the host of a plugin.

use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixDatagram;
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, Stdio};

use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
use nix::unistd::{Group, User};

use super::wire::Message;
use super::{PluginOptions, PluginSpec, os};
use crate::cli::PLUGIN_HOST;

/// What systemd tells a service about itself: not meant for its children.
const NOT_FOR_PLUGINS: [&str; 7] = [
    "NOTIFY_SOCKET",
    "LISTEN_FDS",
    "LISTEN_FDNAMES",
    "LISTEN_PID",
    "WATCHDOG_PID",
    "WATCHDOG_USEC",
    "CREDENTIALS_DIRECTORY",
];

/// A host that has just been started.
#[derive(Debug)]
pub(super) struct Host {
    pub(super) process: Child,
    /// The gateway's end of the socket to the supervisor. Packets; closing it ends the host.
    pub(super) control: UnixDatagram,
    /// What supervisor and children say.
    pub(super) output: OwnedFd,
}

/// Whom plugins become.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Identity {
    uid: Option<u32>,
    gid: Option<u32>,
}

impl Identity {
    /// Looks the names up.
    pub(super) fn find(options: &PluginOptions) -> Result<Self, String> {
        let mut identity = Self::default();
        if let Some(name) = &options.user {
            let user = User::from_name(name).map_err(|error| format!("user {name}: {error}"))?;
            identity.uid = Some(user.ok_or_else(|| format!("user {name}: unknown"))?.uid.as_raw());
        }
        if let Some(name) = &options.group {
            let group = Group::from_name(name).map_err(|error| format!("group {name}: {error}"))?;
            identity.gid = Some(group.ok_or_else(|| format!("group {name}: unknown"))?.gid.as_raw());
        }
        Ok(identity)
    }
}

impl Host {
    /// Starts the supervisor and tells it what to host.
    pub(super) fn start(spec: &PluginSpec, options: &PluginOptions, identity: Identity) -> io::Result<Self> {
        let (ours, theirs) =
            socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)?;
        os::make_room(&ours)?;
        let (output, writer) = io::pipe()?;
        let number = theirs.as_raw_fd();
        let mut command = Command::new(&options.host);
        command
            .arg0(env!("CARGO_PKG_NAME"))
            .arg(PLUGIN_HOST)
            .arg(number.to_string())
            .stdin(Stdio::null())
            .stdout(writer.try_clone()?)
            .stderr(writer);
        NOT_FOR_PLUGINS.iter().for_each(|name| {
            command.env_remove(name);
        });
        // SAFETY: `prepare_host` makes async-signal-safe system calls only, and touches no memory of the parent.
        unsafe { command.pre_exec(move || os::prepare_host(number)) };
        let process = command.spawn()?;
        // Our copies of its ends must close, or their end would never be seen.
        drop(command);
        drop(theirs);
        let control = UnixDatagram::from(ours);
        let mut env = options.env.clone();
        env.set("daemon", "0");
        let argv: Vec<&[u8]> = [spec.file.as_os_str()]
            .into_iter()
            .chain(spec.args.iter().map(AsRef::as_ref))
            .map(OsStrExt::as_bytes)
            .collect();
        let mut message = Message::new();
        message.setup(identity.uid, identity.gid, &argv, env.vars());
        // The socket is new and has room for one message, so this does not block. On failure all is dropped: the host goes.
        let told = message.finish().map_err(io::Error::other).and_then(|bytes| control.send(bytes));
        let host = Self { process, control, output: output.into() };
        match told {
            Ok(_) => Ok(host),
            Err(error) => {
                host.discard();
                Err(error)
            }
        }
    }

    /// Ends a host that has not been given a plugin.
    fn discard(self) {
        let Self { mut process, control, output } = self;
        drop((control, output));
        let _ = process.wait();
    }
}
