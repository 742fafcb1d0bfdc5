//! `client-connect` and what follows from it: where it said yes, `client-disconnect` runs once, whatever becomes of the login.

use std::ffi::OsString;
use std::io;
use std::path::Path;
use std::sync::Arc;

use tokio::sync::oneshot;
use zeroize::Zeroizing;

use super::runner::{Program, Ran, Refused};
use super::stats::HookKind;
use super::{Answer, Env, HookDir, HookFile, HookHandle};

/// Largest file that `client-connect` may write.
pub(super) const MAX_CONNECT_FILE: usize = 64 * 1024;

/// A `client-connect` under way. It goes on when this is dropped; if it says yes then, `client-disconnect` is run by itself.
#[derive(Debug)]
#[must_use = "a login waits for its answer, or abandons it"]
pub struct Connecting {
    pub(super) ran: Option<Result<oneshot::Receiver<Ran>, Refused>>,
}

/// `client-connect` said yes.
#[derive(Debug)]
pub struct Connected {
    /// What it wrote, at most 64 KiB.
    pub written: Zeroizing<Vec<u8>>,
    /// What is owed from now on, if there is a `client-disconnect`.
    pub farewell: Option<Farewell>,
}

impl Connecting {
    /// Waits for the answer. Whoever stops waiting may wait again. After the first answer there is none.
    ///
    /// # Errors
    /// The answer, if it is not yes, or if what it wrote cannot be used. In the latter case `client-disconnect` has been run.
    pub async fn answer(&mut self) -> Result<Connected, Answer> {
        let ran = match &mut self.ran {
            Some(Ok(ran)) => ran.await.map_err(|_| Refused::Stopped),
            Some(Err(refused)) => Err(*refused),
            None => return Err(Answer::NoAnswer),
        };
        self.ran = None;
        let (answer, written, farewell) = match ran {
            Ok(Ran::Connect { answer, written, farewell }) => (answer, written, farewell),
            Ok(other) => return Err(other.answer()),
            Err(refused) => return Err(refused.answer(HookKind::ClientConnect)),
        };
        match (answer, written) {
            (Answer::Allow, Ok(written)) => Ok(Connected { written, farewell }),
            (Answer::Allow, Err(error)) => {
                tracing::warn!(hook = "client-connect", "what it wrote cannot be used: {error}");
                if let Some(farewell) = farewell {
                    farewell.run(&Totals::default()).await;
                }
                Err(Answer::Deny)
            }
            (other, _) => Err(other),
        }
    }

    /// The client has left: waits for the end of `client-connect`, and, if it said yes, for that of `client-disconnect`. After
    /// this the common name may be given to the next.
    pub async fn abandon(mut self) {
        if let Ok(Connected { farewell: Some(farewell), .. }) = self.answer().await {
            farewell.run(&Totals::default()).await;
        }
    }
}

/// A file for what a plugin's client-connect writes. It is made and read on threads that may wait for the disk.
#[derive(Debug)]
pub struct ConnectFile(Option<HookFile>);

impl ConnectFile {
    /// Makes it.
    ///
    /// # Errors
    /// When it cannot be made.
    pub(super) async fn create(dir: Arc<HookDir>) -> io::Result<Self> {
        let make = move || dir.file("connect", b"");
        let file = tokio::task::spawn_blocking(make).await.map_err(io::Error::other)??;
        Ok(Self(Some(file)))
    }

    /// Its path, for the plugin.
    #[must_use]
    pub fn path(&self) -> &Path {
        // It is there until it is taken or dropped.
        self.0.as_ref().map_or(Path::new(""), HookFile::path)
    }

    /// What is in it, and removes it.
    ///
    /// # Errors
    /// When it cannot be read, or is larger than what a program may write.
    pub async fn take(mut self) -> io::Result<Zeroizing<Vec<u8>>> {
        let file = self.0.take().ok_or(io::ErrorKind::NotFound)?;
        let read = move || file.read(MAX_CONNECT_FILE);
        tokio::task::spawn_blocking(read).await.map_err(io::Error::other)?
    }
}

impl Drop for ConnectFile {
    fn drop(&mut self) {
        // Whoever gives it up is on a thread that must not wait for the disk.
        if let (Some(file), Ok(runtime)) = (self.0.take(), tokio::runtime::Handle::try_current()) {
            runtime.spawn_blocking(move || drop(file));
        }
    }
}

/// What a client transferred, for `client-disconnect`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Totals {
    /// Bytes from the client.
    pub received: u64,
    /// Bytes to the client.
    pub sent: u64,
    /// Seconds that it was there.
    pub duration: u64,
}

impl Totals {
    /// `bytes_received`, `bytes_sent` and `time_duration`.
    pub fn export(&self, env: &mut Env) {
        env.set("bytes_received", self.received.to_string())
            .set("bytes_sent", self.sent.to_string())
            .set("time_duration", self.duration.to_string());
    }
}

/// One `client-disconnect` that is owed because its `client-connect` said yes. It is run once: by [`Self::run`], or else when
/// this is dropped.
#[derive(Debug)]
#[must_use = "dropping it runs client-disconnect, and nobody waits for that"]
pub struct Farewell {
    handle: HookHandle,
    argv: Vec<OsString>,
    env: Env,
    /// `client-connect` said yes, and this has not run.
    owed: bool,
}

impl Farewell {
    /// Not owed before [`Self::owe`].
    pub(super) const fn new(handle: HookHandle, argv: Vec<OsString>, env: Env) -> Self {
        Self { handle, argv, env, owed: false }
    }

    pub(super) const fn owe(&mut self) {
        self.owed = true;
    }

    /// Replaces the environment, for instance when the client got other addresses. It begins as that of `client-connect`.
    pub fn set_env(&mut self, env: Env) {
        self.env = env;
    }

    /// Runs it and waits for its end. Where the queue is full it waits for room: the books that this hook keeps must not
    /// depend on the load. It is run even if the caller goes away.
    pub async fn run(mut self, totals: &Totals) {
        totals.export(&mut self.env);
        let handle = self.handle.clone();
        let room = handle.room().await;
        let program = self.take();
        let ran = match room {
            Ok(room) => room.run(program).await,
            Err(refused) => Err(refused),
        };
        if let Err(refused) = ran {
            refused.answer(HookKind::ClientDisconnect);
        }
    }

    fn take(&mut self) -> Program {
        self.owed = false;
        let (argv, mut env) = (std::mem::take(&mut self.argv), std::mem::take(&mut self.env));
        env.set("script_type", HookKind::ClientDisconnect.directive());
        Program::new(HookKind::ClientDisconnect, argv, env)
    }
}

impl Drop for Farewell {
    fn drop(&mut self) {
        if !self.owed {
            return;
        }
        if self.env.value("bytes_received").is_none() {
            Totals::default().export(&mut self.env);
        }
        let program = self.take();
        if let Err(refused) = self.handle.start(program) {
            refused.answer(HookKind::ClientDisconnect);
        }
    }
}
