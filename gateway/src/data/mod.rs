//! The data plane: threads that own peers and move their packets.
//!
//! A peer belongs to the worker in the low bits of its peer-id for its whole life. Rung `basic` works with `recvmmsg`,
//! `sendmmsg` and a plain TUN queue; what a faster rung changes is where packets come from and go to.

mod counters;
mod handover;
pub mod message;
mod mssfix;
mod peer;
mod readiness;
pub mod streams;
mod waker;
mod worker;

use std::io;
use std::sync::Arc;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread::{Builder, JoinHandle};

use tessera_ebpf_common::PeerIdLayout;
use tessera_wire::PeerId;
use tokio::sync::mpsc::Sender;

pub use counters::{Counter, WorkerCounters};
pub use message::{FromWorker, PeerSpec, PeerStats, ToWorker};
pub use waker::Waker;
pub use worker::WorkerSetup;

use crate::config::MssFix;
use crate::net::tun::TunQueue;
use handover::Handover;
use worker::Worker;

/// Messages that wait for a worker: a login takes about six, so this is a storm of a thousand logins in one turn.
const MESSAGES: usize = 8192;

/// What all workers share.
#[derive(Debug)]
pub struct DataPlaneSetup {
    /// How peer-ids name workers.
    pub layout: PeerIdLayout,
    /// For each worker, its socket for each listener.
    pub sockets: Vec<Vec<std::net::UdpSocket>>,
    /// For each worker, its TUN queue; empty with `dev null`.
    pub tun: Vec<TunQueue>,
    /// Where shards listen.
    pub shards: Vec<Sender<FromWorker>>,
    /// Switch packets between clients in the gateway.
    pub client_to_client: bool,
    /// Clamping of TCP.
    pub mssfix: MssFix,
    /// Most routes.
    pub max_routes: usize,
}

/// The running workers; dropping it stops and joins them.
#[derive(Debug)]
pub struct DataPlane {
    handle: DataHandle,
    threads: Vec<JoinHandle<()>>,
}

/// Talks to the workers.
#[derive(Debug, Clone)]
pub struct DataHandle {
    layout: PeerIdLayout,
    workers: Vec<(SyncSender<ToWorker>, Waker)>,
    counters: Vec<Arc<WorkerCounters>>,
}

impl DataPlane {
    /// Starts one thread per worker.
    ///
    /// # Errors
    /// When threads or their wakers cannot be made.
    pub fn start(setup: DataPlaneSetup) -> io::Result<Self> {
        let wakers = setup.sockets.iter().map(|_| Waker::new()).collect::<io::Result<Vec<_>>>()?;
        let mut tun = setup.tun.into_iter();
        let mut handle = DataHandle { layout: setup.layout, workers: Vec::new(), counters: Vec::new() };
        let mut threads = Vec::new();
        let meshed = Handover::mesh(&wakers).into_iter().zip(wakers.clone());
        for (index, (sockets, (handover, waker))) in setup.sockets.into_iter().zip(meshed).enumerate() {
            let (sender, messages) = sync_channel(MESSAGES);
            let counters = Arc::new(WorkerCounters::default());
            let worker = WorkerSetup {
                index,
                layout: setup.layout,
                sockets,
                tun: tun.next(),
                messages,
                shards: setup.shards.clone(),
                waker: waker.clone(),
                client_to_client: setup.client_to_client,
                mssfix: setup.mssfix,
                max_routes: setup.max_routes,
                counters: Arc::clone(&counters),
            };
            handle.workers.push((sender, waker));
            handle.counters.push(counters);
            let thread = Builder::new().name(format!("data-{index}"));
            let worker = Worker::new(worker, handover)?;
            threads.push(thread.spawn(move || worker.run())?);
        }
        Ok(Self { handle, threads })
    }

    /// A handle for shards.
    #[must_use]
    pub fn handle(&self) -> DataHandle {
        self.handle.clone()
    }
}

impl Drop for DataPlane {
    fn drop(&mut self) {
        for (sender, waker) in &self.handle.workers {
            let _ = sender.send(ToWorker::Stop);
            waker.wake();
        }
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

impl DataHandle {
    /// Tells the owner of a peer something. Waits while its queue is full; the worker never waits for us.
    pub fn tell(&self, id: PeerId, message: ToWorker) {
        if let Some((sender, waker)) = self.workers.get(self.layout.worker_of(id) as usize) {
            let _ = sender.send(message);
            waker.wake();
        }
    }

    /// Tells every worker something.
    pub fn tell_all(&self, message: impl Fn() -> ToWorker) {
        for (sender, waker) in &self.workers {
            let _ = sender.send(message());
            waker.wake();
        }
    }

    /// What each worker has counted.
    #[must_use]
    pub fn counters(&self) -> &[Arc<WorkerCounters>] {
        &self.counters
    }
}
