//! The gateway as a process: from a checked configuration to running threads, and back down in order.
//!
//! ```text
//!  config ─▶ keys and certificates ─▶ TUN ─▶ sockets ─▶ addresses, routes ─▶ workers ─▶ shards ─▶ signals
//! ```

mod admin;
mod datapath;
mod env;
mod logging;
mod material;
mod metrics;
mod services;
mod stop;

use std::io;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::thread::JoinHandle;

use admin::Admin;
use datapath::Datapath;
use nix::sched::{CpuSet, sched_getaffinity};
use nix::unistd::Pid;
use ring::rand::{SecureRandom, SystemRandom};
use services::Privileged;
use tessera_ebpf_common::PeerIdLayout;
use tessera_offload::Offloads;
use tessera_proto::endpoint::{CookieKey, ReplyRate};
use tessera_proto::session::{Renegotiate, SessionParams};
use tokio::sync::mpsc;
use tracing::{info, warn};

use crate::admin::{AdminSocket, SocketOptions};
use crate::clock;
use crate::config::{Config, DeviceKind, Protocol, Report, Threads, WorkerCpus, Wrap};
use crate::data::streams::StreamOptions;
use crate::data::{DataPlane, DataPlaneSetup, Rung};
use crate::directory::Directory;
use crate::exit;
use crate::hooks::{Hook, HookDir, HookLimits, HookRunner};
use crate::lease::{AddressPool, PeerIdAllocator, Persist};
use crate::net::io::probe;
use crate::net::netlink::{self, LinkPlan};
use crate::net::steering::Steering;
use crate::net::tun::Tun;
use crate::net::udp::{RCVBUF, SNDBUF};
use crate::net::{Family, ListenSpec, ListenerGroup, PortShare, ShareSpec, StreamGroup};
use crate::plugins::{PluginKind, Verdict};
use crate::routes::RouteTable;
use crate::shard::{self, COMMAND_QUEUE, Command, ShardSetup, WORKER_QUEUE};
use crate::tokens::Vault;

/// Most workers: the peer-id keeps 16 bits for clients.
const MAX_WORKERS: usize = 64;
/// Most shards by default: handshakes are short, and each shard is a thread.
const MAX_AUTO_SHARDS: usize = 8;
/// Routes beyond those of every client's own addresses.
const SPARE_ROUTES: usize = 65_536;
/// Bytes of a datagram beyond the TUN's MTU: header, tag, framing, and a client whose MTU is somewhat larger; and never less
/// than what an Ethernet link brings.
const DATAGRAM_SPARE: usize = 548;

/// Why the gateway did not start.
#[derive(Debug)]
pub struct StartError {
    /// Exit code.
    pub code: u8,
    /// One line for people.
    pub message: String,
}

impl StartError {
    fn config(error: impl std::fmt::Display) -> Self {
        Self { code: exit::CONFIG, message: error.to_string() }
    }

    fn io(what: &str, error: &io::Error) -> Self {
        let code =
            if error.kind() == io::ErrorKind::PermissionDenied { exit::PERMISSION } else { exit::RUNTIME };
        Self { code, message: if what.is_empty() { error.to_string() } else { format!("{what}: {error}") } }
    }
}

/// Runs the gateway until it is told to stop.
///
/// # Errors
/// Why it did not start; nothing of it is left then.
pub fn run(config: Config, report: &Report) -> Result<(), StartError> {
    logging::start(&config.process).map_err(|error| StartError::io("log", &error))?;
    info!("tesserad {} starting", env!("CARGO_PKG_VERSION"));
    for notice in report.notices() {
        warn!("{notice}");
    }
    let config = Arc::new(config);
    let running = Running::start(&config)?;
    stop::wait_and_stop(running, &config)
}

/// Everything that runs.
struct Running {
    shards: Vec<(mpsc::Sender<Command>, JoinHandle<io::Result<()>>)>,
    data: DataPlane,
    hooks: HookRunner,
    directory: Arc<Directory>,
    vault: Arc<Vault>,
    privileged: Privileged,
    /// The device as plugins are told about it: its name, and their environment.
    device: (String, crate::hooks::Env),
    admin: Admin,
    socket: Option<AdminSocket>,
    applied: netlink::Applied,
    /// Carries other protocols' connections for as long as it is here.
    _share: Option<PortShare>,
}

impl Running {
    fn start(config: &Arc<Config>) -> Result<Self, StartError> {
        let cores = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
        let workers = count(config.tessera.workers, cores, MAX_WORKERS);
        let workers = if workers.is_power_of_two() { workers } else { workers.next_power_of_two() / 2 };
        let shard_count = count(config.tessera.session_shards, cores.div_ceil(2), MAX_AUTO_SHARDS);
        let layout = PeerIdLayout::new(workers as u32)
            .ok_or_else(|| StartError::config(format!("workers {workers}: not a power of two")))?;
        let (backend, why) = probe(config.tessera.io).map_err(|error| StartError::io("", &error))?;
        info!("control plane: {shard_count} session shard(s) on {backend}: {why}");
        let mut datapath = Datapath::probe(config.tessera.datapath)?;

        let protections = material::protections(config).map_err(StartError::config)?;
        let tls = (0..shard_count)
            .map(|_| material::server_tls(config))
            .collect::<Result<Vec<_>, _>>()
            .map_err(StartError::config)?;
        for warning in tls.first().map_or(&[][..], |tls| tls.warnings()) {
            warn!("{warning}");
        }
        if matches!(config.wrap, Wrap::None) {
            warn!(
                "the control channel has no tls-auth, tls-crypt or tls-crypt-v2: anybody can start handshakes"
            );
        }

        let tun = open_tun(config, &mut datapath, workers)?;
        let (mut groups, mut streams) = open_listeners(config, datapath.rung(), workers, shard_count)?;
        let share = port_share(config)?;
        let steering = datapath.steer(config, &groups, tun.as_ref(), layout)?;
        datapath.announce(workers);
        let applied = set_up_link(config, tun.as_ref())?;
        let base_env = env::base(config, tun.as_ref().map(|tun| (tun.name.as_str(), tun.ifindex)));
        let directory = Arc::new(directory(config, layout)?);
        let privileged = Privileged::start(config, &base_env)?;
        let device = tun.as_ref().map_or_else(|| "null".to_owned(), |tun| tun.name.clone());
        announce_device(config, &privileged, &device, &base_env)?;
        let socket = control_socket(config)?;
        material::drop_privileges(&config.process).map_err(|error| StartError::io("", &error))?;

        let limits = HookLimits {
            timeout: config.tessera.hook_timeout,
            concurrency: usize::from(config.tessera.hook_concurrency),
        };
        let dir = HookDir::create(&config.hooks.tmp_dir).map_err(|error| {
            StartError::io(&format!("tmp-dir {}", config.hooks.tmp_dir.display()), &error)
        })?;
        let (handle, hooks) =
            HookRunner::start(limits, dir).map_err(|error| StartError::io("hooks", &error))?;
        let hook = Hook::new(handle);
        let vault = services::vault(config)?;
        let generator = services::generator(config, &vault)?;
        let backends = services::backends(config, &privileged, &vault)?;
        let mut cookie_key = [0; 16];
        SystemRandom::new()
            .fill(&mut cookie_key)
            .map_err(|_| StartError::config("the system gives no randomness"))?;
        let cookies = CookieKey::new(cookie_key, config.timers.hand_window);

        let (to_shards, from_workers): (Vec<_>, Vec<_>) =
            (0..shard_count).map(|_| mpsc::channel(WORKER_QUEUE)).unzip();
        let data = DataPlane::start(DataPlaneSetup {
            layout,
            steering,
            sockets: (0..workers)
                .map(|_| groups.iter_mut().map(|group| group.worker_sockets.remove(0)).collect())
                .collect(),
            listeners: (0..workers)
                .map(|_| streams.iter_mut().map(|group| group.listeners.remove(0)).collect())
                .collect(),
            streams: StreamOptions::new(config),
            share: share.as_ref().map(PortShare::handle),
            offloads: tun.as_ref().map_or(Offloads::NONE, |tun| tun.offloads),
            tun: tun.map(|tun| tun.queues).unwrap_or_default(),
            rung: datapath.rung(),
            cpus: worker_cpus(config, workers)?,
            room: usize::from(config.device.mtu) + DATAGRAM_SPARE,
            shards: to_shards,
            client_to_client: config.network.client_to_client,
            mssfix: config.transport.mssfix,
            passtos: config.transport.passtos,
            max_routes: max_routes(config),
        })
        .map_err(|error| StartError::io("data workers", &error))?;

        let (commands, queues): (Vec<_>, Vec<_>) =
            (0..shard_count).map(|_| mpsc::channel(COMMAND_QUEUE)).unzip();
        let params = Arc::new(session_params(config));
        let mut shards = Vec::new();
        for (index, ((tls, from_workers), queue)) in tls.into_iter().zip(from_workers).zip(queues).enumerate()
        {
            let setup = ShardSetup {
                index,
                backend,
                sockets: groups.iter_mut().map(|group| group.shard_sockets.remove(0)).collect(),
                config: Arc::clone(config),
                params: Arc::clone(&params),
                protections: protections.clone(),
                cookies: cookies.clone(),
                reply_rate: ReplyRate {
                    burst: config.limits.connect_freq_initial.count.max(1),
                    per: config.limits.connect_freq_initial.per,
                },
                tls,
                directory: Arc::clone(&directory),
                vault: Arc::clone(&vault),
                generator: generator.clone(),
                backends: backends.clone(),
                hooks: hook.clone(),
                base_env: base_env.clone(),
                data: data.handle(),
                from_workers,
                commands: queue,
                shards: commands.clone(),
            };
            let thread = std::thread::Builder::new()
                .name(format!("shard-{index}"))
                .spawn(move || shard::run(setup))
                .map_err(|error| StartError::io("session shard", &error))?;
            shards.push((commands[index].clone(), thread));
        }
        let admin = Admin {
            config: Arc::clone(config),
            shards: commands,
            directory: Arc::clone(&directory),
            vault: Arc::clone(&vault),
            generator,
            backends,
            hooks: hook,
            data: data.handle(),
            share: share.as_ref().map(|share| share.handle().counters()),
            datapath,
            started: clock::unix_seconds(),
        };
        let device = (device, base_env);
        Ok(Self {
            shards,
            data,
            hooks,
            directory,
            vault,
            privileged,
            device,
            admin,
            socket,
            applied,
            _share: share,
        })
    }
}

/// Plugins hear of the device while they and the gateway still have all rights.
fn announce_device(
    config: &Config,
    privileged: &Privileged,
    dev: &str,
    env: &crate::hooks::Env,
) -> Result<(), StartError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| StartError::io("runtime", &error))?;
    for kind in [PluginKind::Up, PluginKind::RouteUp] {
        match runtime.block_on(privileged.device(kind, config, dev, env)) {
            Verdict::Allow => {}
            verdict if kind == PluginKind::Up => {
                let message = format!("a plugin does not want the device ({}): {verdict:?}", kind.name());
                return Err(StartError { code: exit::RUNTIME, message });
            }
            verdict => warn!("a plugin is not content with {}: {verdict:?}", kind.name()),
        }
    }
    Ok(())
}

fn control_socket(config: &Config) -> Result<Option<AdminSocket>, StartError> {
    let Some(socket) = &config.tessera.control_socket else { return Ok(None) };
    let options = SocketOptions { path: socket.path.clone(), group: socket.group.clone() };
    let socket = AdminSocket::bind(&options)
        .map_err(|error| StartError { code: exit::RUNTIME, message: format!("control-socket: {error}") })?;
    Ok(Some(socket))
}

fn count(threads: Threads, auto: usize, most: usize) -> usize {
    match threads {
        Threads::Auto => auto.clamp(1, most),
        Threads::Count(n) => usize::from(n).clamp(1, most),
    }
}

/// The CPU of each worker; none when they are not bound.
fn worker_cpus(config: &Config, workers: usize) -> Result<Vec<usize>, StartError> {
    let allowed =
        sched_getaffinity(Pid::from_raw(0)).map_err(|error| StartError::io("allowed CPUs", &error.into()))?;
    let may = |cpu: usize| allowed.is_set(cpu).unwrap_or(false);
    let list: Vec<usize> = match &config.tessera.worker_cpus {
        WorkerCpus::Off => Vec::new(),
        WorkerCpus::Auto => {
            let list: Vec<usize> = (0..CpuSet::count()).filter(|cpu| may(*cpu)).collect();
            if list.len() == workers { list } else { Vec::new() }
        }
        WorkerCpus::List(list) => list.iter().map(|cpu| usize::from(*cpu)).collect(),
    };
    match list.iter().find(|cpu| !may(**cpu)) {
        Some(cpu) => {
            Err(StartError::config(format!("worker-cpus: CPU {cpu} may not be used by this process")))
        }
        None => Ok(list.into_iter().cycle().take(workers).collect()),
    }
}

fn open_tun(config: &Config, datapath: &mut Datapath, workers: usize) -> Result<Option<Tun>, StartError> {
    if config.device.kind == DeviceKind::Null {
        return Ok(None);
    }
    let tun = datapath.open_tun(config, workers)?;
    info!("TUN device {} opened with {workers} queue(s)", tun.name);
    Ok(Some(tun))
}

fn open_listeners(
    config: &Config,
    rung: Rung,
    workers: usize,
    shards: usize,
) -> Result<(Vec<ListenerGroup>, Vec<StreamGroup>), StartError> {
    let (mut groups, mut streams) = (Vec::new(), Vec::new());
    for listener in &config.listeners {
        let (address, udp) = (listener.address, listener.protocol == Protocol::Udp);
        let family = match (address.is_ipv4(), listener.ipv6_only) {
            (true, _) => Family::V4,
            (false, true) => Family::V6,
            (false, false) => Family::Dual,
        };
        let spec = ListenSpec {
            addr: (!address.ip().is_unspecified()).then(|| address.ip()),
            port: address.port(),
            family,
            bind_dev: listener.device.clone(),
            // TCP sizes its buffers by itself.
            sndbuf: config.transport.sndbuf.map(|n| n as usize).or(udp.then_some(SNDBUF)),
            rcvbuf: config.transport.rcvbuf.map(|n| n as usize).or(udp.then_some(RCVBUF)),
            mark: config.transport.mark,
            gro: rung >= Rung::Offload,
        };
        let open = |spec: &ListenSpec| match listener.protocol {
            Protocol::Udp => ListenerGroup::open(spec, workers, shards).map(Opened::Udp),
            Protocol::Tcp => StreamGroup::open(spec, workers).map(Opened::Tcp),
        };
        let mut opened = open(&spec);
        if opened.is_err() && listener.ipv4_fallback {
            warn!("no IPv6 on this host: listening on IPv4 only");
            opened = open(&ListenSpec { family: Family::V4, ..spec });
        }
        match opened.map_err(|error| StartError::io(&listener.place.to_string(), &error))? {
            Opened::Udp(group) => {
                info!("listening on udp {}", group.local);
                if let Steering::None(why) = &group.steering {
                    warn!("packets are not steered to their owners by the kernel, but handed over: {why}");
                }
                groups.push(group);
            }
            Opened::Tcp(group) => {
                info!("listening on tcp {}", group.local);
                streams.push(group);
            }
        }
    }
    Ok((groups, streams))
}

/// The sockets of one listener.
enum Opened {
    Udp(ListenerGroup),
    Tcp(StreamGroup),
}

fn port_share(config: &Config) -> Result<Option<PortShare>, StartError> {
    let Some(share) = &config.transport.port_share else { return Ok(None) };
    let spec = ShareSpec { host: share.host.clone(), port: share.port, directory: share.directory.clone() };
    PortShare::start(&spec).map(Some).map_err(|error| StartError::io("port-share", &error))
}

fn set_up_link(config: &Config, tun: Option<&Tun>) -> Result<netlink::Applied, StartError> {
    let Some(tun) = tun else {
        return Ok(netlink::Applied::default());
    };
    let network = &config.network;
    let mut plan = LinkPlan {
        ifindex: tun.ifindex,
        mtu: config.device.mtu.into(),
        txqueuelen: config.device.txqueuelen,
        ..LinkPlan::default()
    };
    if !config.device.ifconfig_noexec {
        plan.addresses.extend(network.ifconfig.map(|i| (i.local.into(), i.prefix)));
        plan.addresses.extend(network.ifconfig6.map(|i| (i.local.into(), i.prefix)));
    }
    if !config.device.route_noexec {
        plan.routes.extend(network.routes.iter().map(|r| netlink::Route {
            network: r.network.into(),
            prefix: r.prefix,
            gateway: r.gateway.map(Into::into),
            metric: r.metric,
        }));
        plan.routes.extend(network.routes6.iter().map(|r| netlink::Route {
            network: r.network.into(),
            prefix: r.prefix,
            gateway: r.gateway.map(Into::into),
            metric: r.metric,
        }));
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| StartError::io("runtime", &error))?;
    runtime.block_on(netlink::apply(&plan)).map_err(|error| StartError::io(&tun.name, &error))
}

fn directory(config: &Config, layout: PeerIdLayout) -> Result<Directory, StartError> {
    let network = &config.network;
    let v4 = network.pool.map(|pool| (pool.first, pool.last));
    let v6 = network.pool6.map(|pool| (pool.first, pool.prefix));
    let mut pool = AddressPool::new(v4, v6).map_err(StartError::config)?;
    let own = [network.ifconfig.map(|i| i.local.into()), network.ifconfig6.map(|i| i.local.into())];
    for address in own.into_iter().flatten() {
        pool.exclude(address).map_err(StartError::config)?;
    }
    let persist = match &network.persist {
        None => None,
        Some(persist) => {
            let interval = persist.interval.unwrap_or_default();
            let (persist, rejected) = Persist::load(&persist.file, interval, clock::now(), &mut pool)
                .map_err(|error| StartError { code: exit::RUNTIME, message: error.to_string() })?;
            for line in rejected {
                warn!("ifconfig-pool-persist: {line:?}");
            }
            Some(persist)
        }
    };
    let peer_ids = PeerIdAllocator::new(layout, config.limits.max_clients);
    let routes = RouteTable::new(max_routes(config));
    Ok(Directory::new(pool, persist, peer_ids, routes, config.limits.duplicate_cn))
}

fn max_routes(config: &Config) -> usize {
    (config.limits.max_clients as usize).saturating_mul(2).saturating_add(SPARE_ROUTES)
}

fn session_params(config: &Config) -> SessionParams {
    let timers = &config.timers;
    SessionParams {
        handshake_window: timers.hand_window,
        transition_window: timers.tran_window,
        tls_timeout: timers.tls_timeout,
        renegotiate_after: timers
            .reneg_max
            .map(|max| Renegotiate { max, min: timers.reneg_min.unwrap_or(max).min(max) }),
        max_packet: usize::from(config.transport.max_packet_size),
        replay_window: (config.transport.replay_window.packets, config.transport.replay_window.time),
        ciphers: config.crypto.data_ciphers.clone(),
        fallback_cipher: config.crypto.fallback,
        tun_mtu: config.device.mtu,
        tls_auth: matches!(config.wrap, Wrap::TlsAuth { .. }),
        require_exporter: config.crypto.force_key_material_export,
    }
}
