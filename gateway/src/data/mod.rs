//! The data plane: threads that own peers and move their packets.
//!
//! A peer belongs to the worker in the low bits of its peer-id for its whole life. The rungs of the data path share this code;
//! what a faster rung changes is how many packets come and go at a time, and who picks the worker.

mod counters;
mod downlink;
mod egress;
mod fairness;
mod handover;
pub mod message;
mod messages;
mod mssfix;
mod pace;
mod peer;
mod readiness;
mod rung;
mod state;
mod steering;
pub mod streams;
mod upkeep;
mod uplink;
mod waker;
mod worker;

use std::io;
use std::net::TcpListener;
use std::sync::Arc;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread::{Builder, JoinHandle};

use tessera_ebpf_common::PeerIdLayout;
use tessera_offload::Offloads;
use tessera_wire::PeerId;
use tokio::sync::mpsc::Sender;

pub use counters::{BatchSizes, Counter, WorkerCounters};
pub use message::{FromWorker, PeerSpec, PeerStats, ToWorker, Via};
pub use rung::Rung;
pub use steering::Steering;
pub use waker::Waker;
pub use worker::WorkerSetup;

use crate::config::MssFix;
use crate::net::ShareHandle;
use crate::net::tun::TunQueue;
use crate::routes::Prefix;
use handover::Handover;
use streams::{StreamCounters, StreamOptions};
use worker::Worker;

/// Messages that wait for a worker: a login takes about six, so this is a storm of a thousand logins in one turn.
const MESSAGES: usize = 8192;

/// What all workers share.
#[derive(Debug)]
pub struct DataPlaneSetup {
    /// How peer-ids name workers.
    pub layout: PeerIdLayout,
    /// What the kernel is told of peers and routes.
    pub steering: Steering,
    /// For each worker, its socket for each UDP listener.
    pub sockets: Vec<Vec<std::net::UdpSocket>>,
    /// For each worker, its socket for each TCP listener.
    pub listeners: Vec<Vec<TcpListener>>,
    /// How connections are treated.
    pub streams: StreamOptions,
    /// Where connections go that are no client's.
    pub share: Option<ShareHandle>,
    /// For each worker, its TUN queue; empty with `dev null`.
    pub tun: Vec<TunQueue>,
    /// What the TUN takes and gives.
    pub offloads: Offloads,
    /// How packets are carried.
    pub rung: Rung,
    /// CPUs to bind workers to, in worker order; none where a worker is not to be bound.
    pub cpus: Vec<usize>,
    /// Longest datagram that is taken without GRO.
    pub room: usize,
    /// Where shards listen.
    pub shards: Vec<Sender<FromWorker>>,
    /// Switch packets between clients in the gateway.
    pub client_to_client: bool,
    /// Clamping of TCP.
    pub mssfix: MssFix,
    /// Copy the TOS of inner packets.
    pub passtos: bool,
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
    steering: Arc<Steering>,
    counters: Vec<Arc<WorkerCounters>>,
    streams: Vec<Arc<StreamCounters>>,
}

impl DataPlane {
    /// Starts one thread per worker.
    ///
    /// # Errors
    /// When threads or their wakers cannot be made.
    pub fn start(setup: DataPlaneSetup) -> io::Result<Self> {
        let wakers = setup.sockets.iter().map(|_| Waker::new()).collect::<io::Result<Vec<_>>>()?;
        let (mut tun, mut listeners) = (setup.tun.into_iter(), setup.listeners.into_iter());
        let mut handle = DataHandle {
            layout: setup.layout,
            workers: Vec::new(),
            steering: Arc::new(setup.steering),
            counters: Vec::new(),
            streams: Vec::new(),
        };
        let mut threads = Vec::new();
        let meshed = Handover::mesh(&wakers).into_iter().zip(wakers.clone());
        for (index, (sockets, (handover, waker))) in setup.sockets.into_iter().zip(meshed).enumerate() {
            let (sender, messages) = sync_channel(MESSAGES);
            let counters = Arc::new(WorkerCounters::default());
            let worker = WorkerSetup {
                index,
                layout: setup.layout,
                sockets,
                listeners: listeners.next().unwrap_or_default(),
                streams: setup.streams,
                share: setup.share.clone(),
                tun: tun.next(),
                rung: setup.rung,
                cpu: setup.cpus.get(index).copied(),
                offloads: setup.offloads,
                room: setup.room,
                messages,
                shards: setup.shards.clone(),
                waker: waker.clone(),
                client_to_client: setup.client_to_client,
                mssfix: setup.mssfix,
                passtos: setup.passtos,
                max_routes: setup.max_routes,
                counters: Arc::clone(&counters),
            };
            handle.workers.push((sender, waker));
            handle.counters.push(counters);
            let thread = Builder::new().name(format!("data-{index}"));
            let worker = Worker::new(worker, handover)?;
            handle.streams.push(worker.stream_counters());
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
        self.tell_worker(self.layout.worker_of(id) as usize, message);
    }

    /// Tells the owner of a connection something.
    pub fn tell_worker(&self, worker: usize, message: ToWorker) {
        if let Some((sender, waker)) = self.workers.get(worker) {
            let _ = sender.send(message);
            waker.wake();
        }
    }

    /// Makes a peer known, before it learns its peer-id.
    pub fn add_peer(&self, spec: Box<PeerSpec>) {
        self.steering.peer_arrives(spec.id);
        self.tell(spec.id, ToWorker::Add(spec));
    }

    /// Takes a peer and its routes away; its worker reports what it moved.
    pub fn remove_peer(&self, id: PeerId, generation: u64) {
        self.tell(id, ToWorker::Remove { id, generation });
        self.steering.peer_leaves(id);
        self.steering.remove_routes(id);
        self.tell_all(|| ToWorker::RemoveRoutes(id));
    }

    /// Leads `prefix` to a peer, wherever a packet for it comes up.
    pub fn add_route(&self, prefix: Prefix, id: PeerId) {
        self.tell_all(|| ToWorker::AddRoute(prefix, id));
        self.steering.add_route(prefix, id);
    }

    fn tell_all(&self, message: impl Fn() -> ToWorker) {
        for (sender, waker) in &self.workers {
            let _ = sender.send(message());
            waker.wake();
        }
    }

    /// What brings packets to their workers.
    #[must_use]
    pub fn steering(&self) -> &Steering {
        &self.steering
    }

    /// What each worker has counted.
    #[must_use]
    pub fn counters(&self) -> &[Arc<WorkerCounters>] {
        &self.counters
    }

    /// What the TCP connections of each worker have seen.
    #[must_use]
    pub fn stream_counters(&self) -> &[Arc<StreamCounters>] {
        &self.streams
    }
}
