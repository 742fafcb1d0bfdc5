//! The gateway's side of one plugin: hands its calls over one by one, and knows how its host is.

use std::ffi::OsString;
use std::io::{self, IoSliceMut};
use std::os::fd::{AsRawFd as _, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt as _;
use std::process::Child;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use nix::cmsg_space;
use nix::sys::socket::{ControlMessageOwned, MsgFlags, recv, recvmsg};
use tessera_proto::Secret;
use tokio::io::Interest;
use tokio::net::UnixDatagram;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tracing::{debug, error, info, warn};
use zeroize::{Zeroize as _, Zeroizing};

use super::runner::PluginStats;
use super::spawn::Host;
use super::wire::{FromChild, FromSupervisor, MAX_MESSAGE, Message};
use super::{ClientKey, NoAnswer, PluginKind, PluginOutcome, Returned};
use crate::clock;
use crate::hooks::{Env, printable};

/// How long calls wait for a plugin that has just died: its first two restarts come sooner. After that they are told at once,
/// until it is back.
const REOPEN_WAIT: Duration = Duration::from_secs(2);
/// How long the host may take to go at the end: more than its plugin has to close.
const GONE_LIMIT: Duration = Duration::from_secs(5);
/// How often it is looked whether it has.
const GONE_POLL: Duration = Duration::from_millis(10);
/// How long its output is read after that: it is all in the pipe already.
const LAST_WORDS: Duration = Duration::from_millis(100);

/// What the plugin is asked.
#[derive(Debug)]
pub(super) enum Request {
    Call(Call),
    Forget(ClientKey),
}

#[derive(Debug)]
pub(super) struct Call {
    pub(super) kind: PluginKind,
    pub(super) argv: Vec<OsString>,
    pub(super) env: Arc<Env>,
    pub(super) client: ClientKey,
    pub(super) reply: oneshot::Sender<PluginOutcome>,
}

/// Told once whether the plugin could be opened: `Err` says what went wrong.
pub(super) type First = std::sync::mpsc::SyncSender<Result<(), String>>;

/// How long things may take.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    pub(super) call: Duration,
    pub(super) open: Duration,
}

/// The task of one plugin.
pub(super) struct Worker {
    stats: Arc<PluginStats>,
    limits: Limits,
    process: Child,
    control: UnixDatagram,
    /// The supervisor is no more, so nothing will ever be again.
    gone: bool,
    child: Option<Live>,
    busy: Option<Busy>,
    /// While the plugin is not open, calls wait until then.
    wait_until: Instant,
    next_id: u64,
    /// What the plugin was told about the device, as far as it still holds: one that is opened again is told once more.
    device: Vec<Told>,
    /// What of that the present child has still to be told, last first.
    again: Vec<Told>,
    message: Message,
    first: Option<First>,
    /// Reads what the host says.
    output: JoinHandle<()>,
}

/// A call that is made again.
#[derive(Clone)]
struct Told {
    kind: PluginKind,
    argv: Vec<OsString>,
    env: Arc<Env>,
}

/// A child that runs.
struct Live {
    socket: UnixDatagram,
    generation: u32,
    since: Instant,
    opened: bool,
    /// It keeps something for each client.
    contexts: bool,
}

/// What the child is doing.
struct Busy {
    id: u64,
    started: Instant,
    /// `None`: it forgets a client.
    call: Option<(PluginKind, oneshot::Sender<PluginOutcome>)>,
    /// To be told again, should the plugin be opened again.
    told: Option<Told>,
}

enum Event {
    Stop,
    Control(io::Result<(usize, Option<OwnedFd>)>),
    Child(io::Result<usize>),
    Deadline,
    TellAgain,
    Request(Option<Request>),
}

impl Worker {
    /// For a host that has just been started. Within a runtime.
    ///
    /// # Errors
    /// When the runtime does not take its socket.
    pub(super) fn new(host: Host, stats: Arc<PluginStats>, limits: Limits, first: First) -> io::Result<Self> {
        let Host { process, control, output } = host;
        control.set_nonblocking(true)?;
        let control = UnixDatagram::from_std(control)?;
        let output = tokio::spawn(super::output::follow(Arc::clone(&stats.name), output));
        Ok(Self {
            stats,
            limits,
            process,
            control,
            gone: false,
            child: None,
            busy: None,
            wait_until: clock::now(),
            next_id: 0,
            device: Vec::new(),
            again: Vec::new(),
            message: Message::new(),
            first: Some(first),
            output,
        })
    }

    /// Serves requests until it is told to stop, then ends the host.
    pub(super) async fn run(
        mut self,
        mut queue: mpsc::UnboundedReceiver<Request>,
        mut stop: watch::Receiver<bool>,
    ) {
        let mut orders = [0; 64];
        let mut room = Zeroizing::new(vec![0; MAX_MESSAGE + 1]);
        let mut asked = true;
        loop {
            let now = clock::now();
            let deadline = self.deadline(now);
            let takes =
                asked && self.busy.is_none() && (self.is_open() || self.gone || now >= self.wait_until);
            let event = tokio::select! {
                biased;
                _ = stop.wait_for(|stop| *stop) => Event::Stop,
                got = receive(&self.control, &mut orders), if !self.gone => Event::Control(got),
                got = hear(self.child.as_ref(), &mut room) => Event::Child(got),
                () = sleep_until(deadline) => Event::Deadline,
                () = std::future::ready(()), if takes && !self.again.is_empty() => Event::TellAgain,
                request = queue.recv(), if takes => Event::Request(request),
            };
            match event {
                Event::Stop => break,
                Event::Control(Ok((length @ 1.., socket))) => {
                    self.heed(&orders[..length], socket, &mut room).await;
                }
                Event::Control(_) => self.supervisor_is_gone(),
                Event::Child(Ok(length @ 1..)) => {
                    self.take(&room[..length]).await;
                    room[..length].zeroize();
                }
                Event::Child(_) => self.child_is_gone(),
                Event::Deadline => self.out_of_time().await,
                Event::TellAgain => self.tell_again().await,
                Event::Request(Some(request)) => self.ask(request).await,
                Event::Request(None) => asked = false,
            }
        }
        self.end().await;
    }

    fn is_open(&self) -> bool {
        self.child.as_ref().is_some_and(|child| child.opened)
    }

    /// When something has to happen even if nothing does.
    fn deadline(&self, now: Instant) -> Option<Instant> {
        let call = self.busy.as_ref().map(|busy| busy.started + self.limits.call);
        let opening =
            self.child.as_ref().filter(|child| !child.opened).map(|child| child.since + self.limits.open);
        let waiting = (!self.is_open() && self.wait_until > now).then_some(self.wait_until);
        [call, opening, waiting].into_iter().flatten().min()
    }

    async fn out_of_time(&mut self) {
        let now = clock::now();
        if self.busy.as_ref().is_some_and(|busy| now >= busy.started + self.limits.call) {
            let kind = self.busy.as_ref().and_then(|busy| busy.call.as_ref()).map(|(kind, _)| kind.name());
            let (kind, seconds) = (kind.unwrap_or("client destructor"), self.limits.call.as_secs_f32());
            warn!(plugin = %self.stats.name, "{kind} did not return within {seconds} s");
            self.kill(NoAnswer::Timeout).await;
        } else if self
            .child
            .as_ref()
            .is_some_and(|child| !child.opened && now >= child.since + self.limits.open)
        {
            self.cannot_open(&format!("it did not open within {} s", self.limits.open.as_secs_f32()));
            self.kill(NoAnswer::NotOpen).await;
        }
        // Else the time to wait for a restart is over: requests are taken again, and told so.
    }

    /// Hands a request to the child, or answers it.
    async fn ask(&mut self, request: Request) {
        self.next_id += 1;
        let (id, open) = (self.next_id, self.is_open());
        let mut told = None;
        let call = match request {
            Request::Forget(client) => {
                // A child that is gone has taken its contexts with it.
                if !self.child.as_ref().is_some_and(|child| child.opened && child.contexts) {
                    return;
                }
                self.message.forget(id, client.0);
                None
            }
            Request::Call(Call { kind, argv, env, client, reply }) => {
                if reply.is_closed() && !kind.keeps_books() {
                    self.stats.in_queue.fetch_sub(1, Relaxed);
                    return;
                }
                if open {
                    let words: Vec<&[u8]> = argv.iter().map(|word| word.as_bytes()).collect();
                    self.message.call(id, kind as u8, client.0, &words, env.vars());
                }
                told =
                    matches!(kind, PluginKind::Up | PluginKind::RouteUp).then_some(Told { kind, argv, env });
                Some((kind, reply))
            }
        };
        self.busy = Some(Busy { id, started: clock::now(), call, told });
        let Some(child) = self.child.as_ref().filter(|child| child.opened) else {
            return self.answer(PluginOutcome::NoAnswer(NoAnswer::NotOpen));
        };
        let sent = match self.message.finish() {
            // The child has answered all that it was sent: there is room, and this does not wait.
            Ok(bytes) => child.socket.send(bytes).await,
            Err(error) => {
                warn!(plugin = %self.stats.name, "it cannot be asked: {error}");
                return self.answer(PluginOutcome::NoAnswer(NoAnswer::CannotBeAsked));
            }
        };
        self.message.wipe();
        if let Err(error) = sent {
            warn!(plugin = %self.stats.name, "it cannot be asked: {error}");
            self.kill(NoAnswer::Crashed).await;
        }
    }

    /// A plugin that died and is open again knows nothing of the device.
    async fn tell_again(&mut self) {
        if let Some(Told { kind, argv, env }) = self.again.pop() {
            self.stats.in_queue.fetch_add(1, Relaxed);
            let (reply, _) = oneshot::channel();
            self.ask(Request::Call(Call { kind, argv, env, client: ClientKey::SERVER, reply })).await;
        }
    }

    /// Takes what a child says.
    async fn take(&mut self, bytes: &[u8]) {
        let (opened, asked) = (self.is_open(), self.busy.as_ref().map(|busy| busy.id));
        match FromChild::read(bytes) {
            Ok(FromChild::Opened { mask, .. }) if !opened && self.has_lost_calls(mask) => {
                // Whoever checked logins must not cease to because its file was replaced.
                self.cannot_open("it no longer wants calls that it wanted at the start");
                self.kill(NoAnswer::NotOpen).await;
            }
            Ok(FromChild::Opened { mask, contexts }) if !opened => self.is_opened(mask, contexts),
            Ok(FromChild::Refused { why }) if !opened => {
                self.cannot_open(&printable(&String::from_utf8_lossy(why)));
            }
            Ok(FromChild::Returned { id, code, values }) if asked == Some(id) => {
                let kind = self.busy.as_ref().and_then(|busy| busy.call.as_ref()).map(|(kind, _)| *kind);
                let outcome = outcome(kind, code, &values);
                if let PluginOutcome::NoAnswer(why) = &outcome {
                    warn!(plugin = %self.stats.name, "{}: {why}", kind.map_or("", PluginKind::name));
                }
                self.answer(outcome);
            }
            Ok(FromChild::TooMuch { id }) if asked == Some(id) => {
                warn!(plugin = %self.stats.name, "it returned more than {MAX_MESSAGE} bytes or too many values");
                self.answer(PluginOutcome::NoAnswer(NoAnswer::CannotBeTaken));
            }
            Ok(_) | Err(_) => {
                warn!(plugin = %self.stats.name, "its process says what makes no sense, and is ended");
                self.kill(NoAnswer::CannotBeTaken).await;
            }
        }
    }

    /// Whether a plugin with this mask would not be asked what it has been asked so far.
    fn has_lost_calls(&self, mask: u32) -> bool {
        self.stats.mask.load(Relaxed) & !mask != 0
    }

    fn is_opened(&mut self, mask: u32, contexts: bool) {
        if let Some(child) = &mut self.child {
            (child.opened, child.contexts) = (true, contexts);
        }
        let wanted = |told: &&Told| mask & told.kind.bit() != 0;
        self.again = self.device.iter().filter(wanted).rev().cloned().collect();
        self.stats.mask.store(mask, Relaxed);
        self.stats.open.store(true, Relaxed);
        let wants: Vec<_> =
            PluginKind::ALL.iter().filter(|kind| mask & kind.bit() != 0).map(|kind| kind.name()).collect();
        info!(plugin = %self.stats.name, "plugin is open, for: {}", wants.join(" "));
        if let Some(first) = self.first.take() {
            let _ = first.send(Ok(()));
        }
    }

    /// The first time, this is what the start fails with.
    fn cannot_open(&mut self, why: &str) {
        match self.first.take() {
            Some(first) => drop(first.send(Err(why.to_owned()))),
            None => error!(plugin = %self.stats.name, "plugin cannot be opened again: {why}"),
        }
    }

    /// Takes what the supervisor says.
    async fn heed(&mut self, bytes: &[u8], socket: Option<OwnedFd>, room: &mut [u8]) {
        match (FromSupervisor::read(bytes), socket) {
            (Ok(FromSupervisor::Started { generation, pid }), Some(socket)) => {
                debug!(plugin = %self.stats.name, pid, "plugin process runs");
                if generation > 1 {
                    self.stats.restarts.fetch_add(1, Relaxed);
                }
                self.child = live(socket, generation)
                    .inspect_err(|error| error!(plugin = %self.stats.name, "its socket: {error}"))
                    .ok();
            }
            (Ok(FromSupervisor::Died { generation, code, signal, again_ms }), None) => {
                // What it said before it died still counts, and may not have been read yet.
                while let Some(child) = self.child.as_ref().filter(|child| child.generation == generation)
                    && let Ok(length @ 1..) = recv(child.socket.as_raw_fd(), room, MsgFlags::MSG_DONTWAIT)
                {
                    Box::pin(self.take(&room[..length])).await;
                    room[..length].zeroize();
                }
                let how = match (code, signal) {
                    (Some(code), _) => format!("exit code {code}"),
                    (None, Some(signal)) => format!("signal {signal}"),
                    (None, None) => "unknown end".to_owned(),
                };
                if self.first.is_some() {
                    self.cannot_open(&format!("its process died while it was opened: {how}"));
                } else {
                    let seconds = Duration::from_millis(again_ms.into()).as_secs_f32();
                    warn!(plugin = %self.stats.name, "plugin process died: {how}; again in {seconds} s");
                }
                self.child_is_gone();
            }
            (Ok(FromSupervisor::NoChild { errno, again_ms }), None) => {
                let why = io::Error::from_raw_os_error(errno);
                if self.first.is_some() {
                    self.cannot_open(&format!("no process for it: {why}"));
                } else {
                    let seconds = Duration::from_millis(again_ms.into()).as_secs_f32();
                    warn!(plugin = %self.stats.name, "no process for the plugin: {why}; again in {seconds} s");
                }
            }
            _ => {
                error!(plugin = %self.stats.name, "its supervisor says what makes no sense");
                self.supervisor_is_gone();
            }
        }
    }

    fn supervisor_is_gone(&mut self) {
        self.gone = true;
        self.child_is_gone();
        let why = "its host has ended";
        if self.first.is_some() {
            self.cannot_open(why);
        } else {
            error!(plugin = %self.stats.name, "{why}: no answers until the gateway is started again");
        }
    }

    fn child_is_gone(&mut self) {
        self.lose_child(NoAnswer::Crashed);
    }

    /// Has the child ended by its supervisor.
    async fn kill(&mut self, why: NoAnswer) {
        if let Some(child) = &self.child {
            self.message.kill(child.generation);
            let sent = match self.message.finish() {
                Ok(bytes) => self.control.send(bytes).await.map(drop),
                Err(error) => Err(io::Error::other(error)),
            };
            if let Err(error) = sent {
                error!(plugin = %self.stats.name, "its supervisor cannot be told: {error}");
            }
        }
        self.lose_child(why);
    }

    fn lose_child(&mut self, why: NoAnswer) {
        self.stats.open.store(false, Relaxed);
        self.again.clear();
        if self.child.take().is_some_and(|child| child.opened) {
            self.wait_until = clock::now() + REOPEN_WAIT;
        }
        if self.busy.is_some() {
            self.answer(PluginOutcome::NoAnswer(why));
        }
    }

    /// Ends what the child was asked.
    fn answer(&mut self, outcome: PluginOutcome) {
        if let Some(Busy { started, call: Some((kind, reply)), told, .. }) = self.busy.take() {
            if kind == PluginKind::Down {
                self.device.clear();
            } else if let Some(told) = told.filter(|_| !matches!(outcome, PluginOutcome::NoAnswer(_))) {
                self.device.retain(|earlier| earlier.kind != kind);
                self.device.push(told);
            }
            self.stats.in_queue.fetch_sub(1, Relaxed);
            self.stats.ended(kind, &outcome, clock::now().saturating_duration_since(started));
            // A login that was given up does not want to know.
            let _ = reply.send(outcome);
        }
    }

    /// Closes the plugin in order, if it takes that, and waits until the host is gone.
    async fn end(self) {
        let Self { stats, control, child, mut process, output, .. } = self;
        stats.open.store(false, Relaxed);
        // The child closes at the end of its socket; the supervisor gives it a little time for that.
        drop((child, control));
        let until = clock::now() + GONE_LIMIT;
        while clock::now() < until {
            if !matches!(process.try_wait(), Ok(None)) {
                // Its last words. What a plugin left in the background may hold the pipe for ever.
                let _ = tokio::time::timeout(LAST_WORDS, output).await;
                return;
            }
            tokio::time::sleep(GONE_POLL).await;
        }
        error!(plugin = %stats.name, pid = process.id(), "the host does not end");
        let _ = process.kill();
    }
}

fn outcome(kind: Option<PluginKind>, code: i32, values: &[(&[u8], &[u8])]) -> PluginOutcome {
    match code {
        0 => PluginOutcome::Success {
            returned: values
                .iter()
                .map(|(name, value)| Returned {
                    name: String::from_utf8_lossy(name).into_owned(),
                    value: Secret::new(value.to_vec()),
                })
                .collect(),
        },
        1 => PluginOutcome::Error,
        2 if kind.is_some_and(PluginKind::deferrable) => PluginOutcome::Deferred,
        other => PluginOutcome::NoAnswer(NoAnswer::Unknown(other)),
    }
}

fn live(socket: OwnedFd, generation: u32) -> io::Result<Live> {
    let socket = std::os::unix::net::UnixDatagram::from(socket);
    socket.set_nonblocking(true)?;
    let socket = UnixDatagram::from_std(socket)?;
    Ok(Live { socket, generation, since: clock::now(), opened: false, contexts: false })
}

/// Waits for the child to say something; for ever if there is none.
async fn hear(child: Option<&Live>, room: &mut [u8]) -> io::Result<usize> {
    match child {
        Some(child) => child.socket.recv(room).await,
        None => std::future::pending().await,
    }
}

async fn sleep_until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline.into()).await,
        None => std::future::pending().await,
    }
}

/// One packet, and a descriptor if one came with it.
async fn receive(socket: &UnixDatagram, room: &mut [u8]) -> io::Result<(usize, Option<OwnedFd>)> {
    socket
        .async_io(Interest::READABLE, || {
            let mut space = cmsg_space!(RawFd);
            let mut parts = [IoSliceMut::new(room)];
            let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_CMSG_CLOEXEC;
            let packet = recvmsg::<()>(socket.as_raw_fd(), &mut parts, Some(&mut space), flags)?;
            let mut came = None;
            for control in packet.cmsgs()? {
                if let ControlMessageOwned::ScmRights(numbers) = control {
                    came = numbers.into_iter().map(super::os::received).next_back();
                }
            }
            Ok((packet.bytes, came))
        })
        .await
}
