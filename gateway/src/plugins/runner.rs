//! All plugins: the thread that serves them, and the handle that calls them.

use std::ffi::OsString;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64};
use std::sync::mpsc::{Receiver, sync_channel};
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;

use super::kind::TYPES;
use super::spawn::{Host, Identity};
use super::worker::{Call, Limits, Request, Worker};
use super::{ClientKey, NoAnswer, PluginKind, PluginOptions, PluginOutcome, PluginReply, PluginSpec};
use crate::clock;
use crate::hooks::{Env, KindStats};

/// After the time to open a plugin: for its host to say that it did not.
const HOST_LIMIT: Duration = Duration::from_secs(5);

/// The gateway cannot start with these plugins.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StartError {
    /// One of them cannot be used.
    #[error("{place}: plugin {file}: {what}")]
    Plugin {
        /// Where the configuration names it.
        place: String,
        /// Its file.
        file: String,
        /// What is wrong.
        what: String,
    },
    /// Something else.
    #[error("plugins: {0}")]
    Other(String),
}

/// What happened to one plugin so far.
#[derive(Debug)]
pub struct PluginStats {
    /// The name of its file.
    pub name: Arc<str>,
    kinds: [KindStats; TYPES],
    /// It is open now.
    pub open: AtomicBool,
    /// How often its process was started again.
    pub restarts: AtomicU64,
    /// Calls that wait or run.
    pub in_queue: AtomicU64,
    /// Calls that were turned away because the queue was full.
    pub rejected: AtomicU64,
    /// The types of calls that it wants.
    pub(super) mask: AtomicU32,
}

impl PluginStats {
    fn new(name: &str) -> Self {
        Self {
            name: name.into(),
            kinds: Default::default(),
            open: AtomicBool::new(false),
            restarts: AtomicU64::new(0),
            in_queue: AtomicU64::new(0),
            rejected: AtomicU64::new(0),
            mask: AtomicU32::new(0),
        }
    }

    /// Whether it wants this type of calls.
    #[must_use]
    pub fn wants(&self, kind: PluginKind) -> bool {
        self.mask.load(Relaxed) & kind.bit() != 0
    }

    /// All types of calls, by name. A deferred answer is no failure.
    pub fn kinds(&self) -> impl Iterator<Item = (&'static str, &KindStats)> {
        PluginKind::ALL.into_iter().map(|kind| (kind.name(), &self.kinds[kind as usize]))
    }

    pub(super) fn ended(&self, kind: PluginKind, outcome: &PluginOutcome, took: Duration) {
        let failed = matches!(outcome, PluginOutcome::Error | PluginOutcome::NoAnswer(_));
        let late = matches!(outcome, PluginOutcome::NoAnswer(NoAnswer::Timeout));
        self.kinds[kind as usize].ended(failed, late, took);
    }
}

/// The plugins of a gateway. Dropping it closes them and waits for that: a few seconds at most. Calls that are under way end
/// without an answer.
#[derive(Debug)]
pub struct Plugins {
    handle: PluginHandle,
    stop: watch::Sender<bool>,
    thread: Option<JoinHandle<()>>,
}

/// Calls plugins, from any thread and runtime. Cheap to clone.
#[derive(Debug, Clone)]
pub struct PluginHandle {
    plugins: Arc<[Entry]>,
}

#[derive(Debug)]
struct Entry {
    stats: Arc<PluginStats>,
    /// Calls in it that want an answer are bounded by `bound`; beside them there are what keeps books, and one `Forget`, for
    /// each client.
    queue: mpsc::UnboundedSender<Request>,
    bound: u64,
}

impl Plugins {
    /// Starts the hosts of all plugins, before the gateway drops its privileges, and returns when all plugins are open: five
    /// seconds after `open_timeout` at most.
    ///
    /// # Errors
    /// What is wrong with the first plugin that cannot be opened; then none stays.
    pub fn start(specs: &[PluginSpec], options: &PluginOptions) -> Result<Self, StartError> {
        let (stop, stopped) = watch::channel(false);
        let handle = |entries: Vec<Entry>| PluginHandle { plugins: entries.into() };
        if specs.is_empty() {
            return Ok(Self { handle: handle(Vec::new()), stop, thread: None });
        }
        let identity = Identity::find(options).map_err(StartError::Other)?;
        let bound = u64::try_from(options.queue).unwrap_or(u64::MAX);
        let (mut entries, mut seats, mut firsts) = (Vec::new(), Vec::new(), Vec::new());
        for spec in specs {
            let host = Host::start(spec, options, identity).map_err(|error| {
                // Those that were started see the end of their sockets.
                failed(spec, format!("its host cannot be started: {error}"))
            })?;
            let name = spec.file.file_name().unwrap_or(spec.file.as_os_str()).to_string_lossy();
            let stats = Arc::new(PluginStats::new(&name));
            let (queue, requests) = mpsc::unbounded_channel();
            let (first, opened) = sync_channel(1);
            entries.push(Entry { stats: Arc::clone(&stats), queue, bound });
            seats.push(Seat { host, stats, first, requests });
            firsts.push(opened);
        }
        let other = |error: io::Error| StartError::Other(error.to_string());
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(other)?;
        let limits = Limits { call: options.call_timeout, open: options.open_timeout };
        let thread = std::thread::Builder::new()
            .name("plugins".into())
            .spawn(move || runtime.block_on(serve(seats, limits, stopped)))
            .map_err(other)?;
        let plugins = Self { handle: handle(entries), stop, thread: Some(thread) };
        wait_for_all(specs, &firsts, options.open_timeout + HOST_LIMIT)?;
        Ok(plugins)
    }

    /// For those who call them.
    #[must_use]
    pub fn handle(&self) -> PluginHandle {
        self.handle.clone()
    }
}

impl Drop for Plugins {
    fn drop(&mut self) {
        self.stop.send_replace(true);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl PluginHandle {
    /// Whether any plugin wants this type of calls.
    #[must_use]
    pub fn wants(&self, kind: PluginKind) -> bool {
        self.plugins.iter().any(|entry| entry.stats.wants(kind))
    }

    /// Asks all plugins that want this type of calls, at once, and returns what each said, in the order of the
    /// configuration. `argv` is without the plugin's own name, which each gets as its first argument.
    ///
    /// Types that only keep books (the device's, `client-disconnect`, `learn-address`) are called even if the caller goes away.
    pub async fn call(
        &self,
        kind: PluginKind,
        argv: Vec<OsString>,
        env: &Env,
        client: ClientKey,
    ) -> Vec<PluginReply> {
        if !self.wants(kind) {
            return Vec::new();
        }
        let env = Arc::new(env.clone());
        self.call_each(kind, client, |_| (argv.clone(), Arc::clone(&env))).await
    }

    /// As [`Self::call`], with arguments and an environment for each plugin by itself, for files that each writes its own of.
    /// `each` gets the plugin's place among all plugins.
    pub async fn call_each(
        &self,
        kind: PluginKind,
        client: ClientKey,
        each: impl FnMut(usize) -> (Vec<OsString>, Arc<Env>),
    ) -> Vec<PluginReply> {
        let wants = |(place, entry): (usize, &Entry)| entry.stats.wants(kind).then_some(place);
        let places: Vec<usize> = self.plugins.iter().enumerate().filter_map(wants).collect();
        self.call_at(&places, kind, client, each).await
    }

    /// As [`Self::call_each`], of the plugins in these places. Each gives a reply, in the order of `places`: one that does not
    /// want this type of calls gives no answer.
    pub async fn call_at(
        &self,
        places: &[usize],
        kind: PluginKind,
        client: ClientKey,
        mut each: impl FnMut(usize) -> (Vec<OsString>, Arc<Env>),
    ) -> Vec<PluginReply> {
        let mut asked = Vec::with_capacity(places.len());
        for place in places {
            let Some(entry) = self.plugins.get(*place) else { continue };
            let answer = if entry.stats.wants(kind) {
                let (argv, env) = each(*place);
                entry.ask(kind, argv, env, client)
            } else {
                Err(NoAnswer::NotWanted)
            };
            asked.push((Arc::clone(&entry.stats.name), *place, answer));
        }
        let mut replies = Vec::with_capacity(asked.len());
        for (plugin, place, answer) in asked {
            let outcome = match answer {
                Ok(answer) => answer.await.unwrap_or(PluginOutcome::NoAnswer(NoAnswer::Stopped)),
                Err(why) => PluginOutcome::NoAnswer(why),
            };
            replies.push(PluginReply { plugin, place, outcome });
        }
        replies
    }

    /// A client is gone: after the calls that are queued already, what plugins keep for it is destroyed. Once for each client,
    /// and no call for it afterwards.
    pub fn forget(&self, client: ClientKey) {
        for entry in self.plugins.iter() {
            // A plugin that is stopped has forgotten all.
            let _ = entry.queue.send(Request::Forget(client));
        }
    }

    /// What happened so far, in the order of the configuration.
    pub fn stats(&self) -> impl Iterator<Item = &PluginStats> {
        self.plugins.iter().map(|entry| &*entry.stats)
    }
}

impl Entry {
    fn ask(
        &self,
        kind: PluginKind,
        argv: Vec<OsString>,
        env: Arc<Env>,
        client: ClientKey,
    ) -> Result<oneshot::Receiver<PluginOutcome>, NoAnswer> {
        // Books must be right whatever the load is; what is noted there is bounded by the number of clients.
        let room = |waiting: u64| (kind.keeps_books() || waiting < self.bound).then_some(waiting + 1);
        if self.stats.in_queue.fetch_update(Relaxed, Relaxed, room).is_err() {
            self.stats.rejected.fetch_add(1, Relaxed);
            tracing::warn!(plugin = %self.stats.name, "{} is not asked: {} calls wait", kind.name(), self.bound);
            return Err(NoAnswer::QueueFull);
        }
        let (reply, answer) = oneshot::channel();
        let call = Call { kind, argv, env, client, reply };
        // Where that fails, the answer's other end is gone with the call, which says the same.
        if self.queue.send(Request::Call(call)).is_err() {
            self.stats.in_queue.fetch_sub(1, Relaxed);
        }
        Ok(answer)
    }
}

/// What one worker needs.
struct Seat {
    host: Host,
    stats: Arc<PluginStats>,
    first: super::worker::First,
    requests: mpsc::UnboundedReceiver<Request>,
}

async fn serve(seats: Vec<Seat>, limits: Limits, stop: watch::Receiver<bool>) {
    let mut workers = JoinSet::new();
    for Seat { host, stats, first, requests } in seats {
        match Worker::new(host, stats, limits, first.clone()) {
            Ok(worker) => drop(workers.spawn(worker.run(requests, stop.clone()))),
            Err(error) => drop(first.send(Err(format!("its host cannot be served: {error}")))),
        }
    }
    while workers.join_next().await.is_some() {}
}

fn wait_for_all(
    specs: &[PluginSpec],
    firsts: &[Receiver<Result<(), String>>],
    limit: Duration,
) -> Result<(), StartError> {
    let until = clock::now() + limit;
    for (spec, first) in specs.iter().zip(firsts) {
        let left = until.saturating_duration_since(clock::now());
        match first.recv_timeout(left) {
            Ok(Ok(())) => {}
            Ok(Err(what)) => return Err(failed(spec, what)),
            Err(_) => return Err(failed(spec, "its host says nothing".to_owned())),
        }
    }
    Ok(())
}

fn failed(spec: &PluginSpec, what: String) -> StartError {
    StartError::Plugin { place: spec.place.clone(), file: spec.file.display().to_string(), what }
}
