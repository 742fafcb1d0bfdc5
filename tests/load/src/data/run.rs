//! Puts a run together: threads, sockets, phases, report.

use super::bank::{Bank, Order, Source};
use super::clients::Clients;
use super::count::Arrived;
use super::drive::{Offered, drive};
use super::lan::{self, Downlink, PROBE_PORT};
use super::peer::Peer;
use super::phase::Shared;
use super::plan::{DataPlan, Far};
use super::probe::{self, Probed};
use super::report::{BankReport, DataReport, DirectionReport, Latency};
use super::send::{Manner, send_whole};
use super::{DataError, sys};
use crate::clock;
use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, UdpSocket};
use std::sync::Arc;
use std::sync::mpsc;
use std::thread::{Scope, ScopedJoinHandle};
use std::time::Duration;

/// Less than this says nothing.
const LEAST_MEASURED: Duration = Duration::from_millis(20);

/// What the clients' thread has prepared.
struct Ready {
    sockets: Vec<Arc<UdpSocket>>,
    addresses: Vec<Ipv4Addr>,
    probe: Option<Peer>,
    bank: Option<Bank>,
    overhead: usize,
    login: Duration,
    sealing: Duration,
}

/// What the LAN's thread has prepared.
struct LanReady {
    outlets: Vec<Arc<UdpSocket>>,
    probe: Option<UdpSocket>,
}

/// Ends the other threads when one path out of the run is taken early.
struct StopAtEnd<'a>(&'a Shared);

impl Drop for StopAtEnd<'_> {
    fn drop(&mut self) {
        self.0.stop();
    }
}

/// Does what `plan` says; `ready` is called when all peers are in, before any load.
///
/// # Errors
/// When the plan is impossible, a peer cannot log in, or the system fails us. Losses and sessions that end are no errors.
pub fn run(plan: &DataPlan, ready: impl FnOnce()) -> Result<DataReport, DataError> {
    plan.check()?;
    sys::pin(&plan.cores)?;
    let shared = Shared::default();
    std::thread::scope(|scope| conduct(scope, plan, &shared, ready))
}

fn conduct<'scope>(
    scope: &'scope Scope<'scope, '_>,
    plan: &'scope DataPlan,
    shared: &'scope Shared,
    ready: impl FnOnce(),
) -> Result<DataReport, DataError> {
    let _end = StopAtEnd(shared);
    let (up, down, probes) = (plan.direction.is_up(), plan.direction.is_down(), f64::from(plan.probe_rate));
    let (tell, told) = mpsc::channel();
    let clients = spawn(scope, "clients", shared, move || clients(plan, shared, &tell))?;
    let Ok(prepared) = told.recv() else { return Err(failure(clients)) };
    let mut report = DataReport {
        peers: plan.peers,
        direction: if plan.far.is_sink() { "sink" } else { plan.direction.name() }.to_owned(),
        size: plan.sizes.to_string(),
        train: if plan.train == 1 { 1 } else { plan.together(prepared.overhead) },
        rate: plan.rate,
        login_seconds: prepared.login.as_secs_f64(),
        ..DataReport::default()
    };
    if plan.idle {
        ready();
        "idle".clone_into(&mut report.direction);
        let (start, cpu) = (clock::mono(), clock::cpu());
        shared.wait(plan.time);
        report.cpu_s.insert("all".to_owned(), clock::cpu().saturating_sub(cpu).as_secs_f64());
        report.seconds = clock::mono().saturating_sub(start).as_secs_f64();
        shared.stop();
        report.sessions_ended = join(clients)?.ended;
        return Ok(report);
    }

    let Ready { sockets, addresses, probe, bank, overhead, sealing, .. } = prepared;
    let probe_address = probe.as_ref().and_then(|peer| peer.address);
    let (tell, told) = mpsc::channel();
    let lan_addresses = addresses.clone();
    let lan =
        spawn(scope, "lan-rx", shared, move || lan_end(plan, &lan_addresses, probe_address, shared, &tell))?;
    let Ok(LanReady { outlets, probe: lan_probe }) = told.recv() else { return Err(failure(lan)) };
    ready();

    let manner = if plan.train == 1 { Manner::Singles } else { Manner::Segmented };
    let how = (manner, plan.rate, plan.peers);
    let mut bank_report = bank.as_ref().map(|bank| BankReport {
        packets: bank.packets(),
        mib: bank.len() as f64 / f64::from(1 << 20),
        seal_seconds: sealing.as_secs_f64(),
        ran_out: false,
    });
    let up_tx = bank
        .map(|mut bank| spawn(scope, "client-tx", shared, move || drive(&mut bank, &sockets, how, shared)))
        .transpose()?;
    let down_tx = down
        .then(|| {
            let mut trains = Downlink::new(plan.sizes, plan.together(overhead), plan.peers, plan.streams);
            spawn(scope, "lan-tx", shared, move || drive(&mut trains, &outlets, how, shared))
        })
        .transpose()?;
    let client_probe = probe
        .map(|peer| {
            let to = SocketAddrV4::new(*plan.load_address().ip(), PROBE_PORT);
            spawn(scope, "client-probe", shared, move || probe::at_client(peer, to, probes, shared))
        })
        .transpose()?;
    let lan_probe = lan_probe
        .map(|socket| spawn(scope, "lan-probe", shared, move || probe::at_lan(socket, probes, shared)))
        .transpose()?;

    let measured = shared.conduct(plan.time);
    let time = measured.end.saturating_sub(measured.start);
    shared.stop();
    let up_tx = up_tx.map(join).transpose()?;
    let down_tx = down_tx.map(join).transpose()?;
    let client_probe = client_probe.map(join).transpose()?;
    let lan_probe = lan_probe.map(join).transpose()?;
    let (at_lan, at_clients) = (join(lan)?, join(clients)?);
    if time < LEAST_MEASURED {
        return Err(DataError::Plan(format!(
            "there was nothing left to send after the warm-up: a larger bank is needed than of {:.0} MiB",
            bank_report.map_or(0.0, |bank| bank.mib)
        )));
    }
    report.seconds = time.as_secs_f64();
    report.measured_from = measured.start.as_secs_f64();
    report.measured_until = measured.end.as_secs_f64();
    report.cpu_s = cpu(&at_clients, &at_lan, [&up_tx, &down_tx], [&client_probe, &lan_probe]);
    let latency = |sender: &Option<Probed>, receiver: &Option<Probed>| {
        Some(Latency::new(sender.as_ref()?, receiver.as_ref()?))
    };
    if let Some(offered) = up_tx.filter(|_| up) {
        let mut direction = DirectionReport::new(&offered, &at_lan, time);
        direction.latency = latency(&client_probe, &lan_probe);
        report.up = Some(direction);
        if let Some(bank) = &mut bank_report {
            bank.ran_out = offered.ran_out;
        }
    }
    if let Some(offered) = down_tx {
        let mut direction = DirectionReport::new(&offered, &at_clients, time);
        direction.latency = latency(&lan_probe, &client_probe);
        direction.id_gaps = Some(at_clients.id_gaps);
        direction.opened_samples = Some(at_clients.samples);
        direction.bad_samples = Some(at_clients.bad_samples);
        report.down = Some(direction);
    }
    (report.bank, report.sessions_ended) = (bank_report, at_clients.ended);
    Ok(report)
}

/// The clients' thread: all logged in and the bank sealed, then sessions kept until the end.
fn clients(plan: &DataPlan, shared: &Shared, tell: &mpsc::Sender<Ready>) -> Result<Arrived, DataError> {
    sys::enter(plan.client_netns.as_deref())?;
    let mut clients = Clients::new(plan.far.server())?;
    let start = clock::mono();
    let probes = plan.probe_rate > 0 && !plan.idle;
    match &plan.far {
        Far::Gateway { target, .. } => {
            let count = plan.peers + usize::from(probes);
            clients.log_in(target, count, plan.concurrency, shared)?;
        }
        Far::Sink(_) => clients.make_up(plan.peers)?,
    }
    let login = clock::mono().saturating_sub(start);
    let probe = if probes { clients.take_last()? } else { None };
    let overhead = clients.peers().iter().map(Peer::headroom).max().unwrap_or_default();
    let start = clock::mono();
    let bank = if plan.direction.is_up() && !plan.idle {
        Some(seal(clients.peers(), plan, overhead)?)
    } else {
        None
    };
    shared.set_bank_open(bank.is_some());
    let ready = Ready {
        sockets: clients.peers().iter().map(|peer| Arc::clone(&peer.socket)).collect(),
        addresses: clients.peers().iter().filter_map(|peer| peer.address).collect(),
        probe,
        bank,
        overhead,
        login,
        sealing: clock::mono().saturating_sub(start),
    };
    // Nobody there: the run was broken off.
    if tell.send(ready).is_ok() { clients.keep(shared) } else { Ok(Arrived::default()) }
}

/// Seals the bank. Sealing may take a while, and nothing of a peer may be sealed between its bank and the end of that: one
/// keep-alive goes out before, and one that was sealed before, after it.
fn seal(peers: &mut [Peer], plan: &DataPlan, overhead: usize) -> Result<Bank, DataError> {
    let now = clock::read();
    let later: Vec<_> = peers
        .iter_mut()
        .map(|peer| {
            peer.ping(now);
            peer.sealed_ping()
        })
        .collect();
    let order = Order {
        sizes: plan.sizes,
        to: plan.load_address(),
        train: plan.together(overhead),
        streams: plan.streams,
        packets: plan.packets(),
        room: usize::try_from(plan.bank).unwrap_or(usize::MAX),
    };
    let mut sources = Vec::with_capacity(peers.len());
    for peer in peers.iter_mut() {
        let (Some(address), Some(channel)) = (peer.address, peer.channel()) else {
            return Err(DataError::Seal("a peer has no address or no key".to_owned()));
        };
        sources.push(Source { channel, address });
    }
    let bank = Bank::seal(&mut sources, &order).map_err(|error| DataError::Seal(format!("{error:?}")))?;
    if bank.is_empty() {
        return Err(DataError::Plan("the bank has no room for a single packet".to_owned()));
    }
    if !plan.far.is_sink() {
        for (peer, ping) in peers.iter().zip(later) {
            // The load will keep sessions alive as well.
            let _ = send_whole(&peer.socket, &ping.unwrap_or_default());
        }
    }
    Ok(bank)
}

/// The LAN's thread: sockets, then counts what comes up.
fn lan_end(
    plan: &DataPlan,
    peers: &[Ipv4Addr],
    probe: Option<Ipv4Addr>,
    shared: &Shared,
    tell: &mpsc::Sender<LanReady>,
) -> Result<Arrived, DataError> {
    sys::enter(plan.lan_netns.as_deref())?;
    let (address, kind): (SocketAddr, lan::Kind) = match plan.far {
        Far::Gateway { .. } => (plan.load_address().into(), lan::plain),
        Far::Sink(address) => (address, lan::sealed),
    };
    let socket = lan::receiver(address)?;
    let outlets = if plan.direction.is_down() { lan::outlets(peers, plan.streams)? } else { Vec::new() };
    let probe = probe.map(|peer| probe::socket(peer, PROBE_PORT)).transpose()?;
    let streams = if plan.far.is_sink() { 1 } else { usize::from(plan.streams) };
    if tell.send(LanReady { outlets, probe }).is_err() {
        return Ok(Arrived::default());
    }
    lan::receive(&socket, kind, plan.peers, streams, shared)
}

type Thread<'scope, T> = (&'static str, ScopedJoinHandle<'scope, Result<T, DataError>>);

/// Starts a thread; its error stops the run.
fn spawn<'scope, T: Send + 'scope>(
    scope: &'scope Scope<'scope, '_>,
    name: &'static str,
    shared: &'scope Shared,
    work: impl FnOnce() -> Result<T, DataError> + Send + 'scope,
) -> Result<Thread<'scope, T>, DataError> {
    let guarded = move || {
        let result = work();
        if result.is_err() {
            shared.stop();
        }
        result
    };
    let thread = std::thread::Builder::new().name(name.to_owned()).spawn_scoped(scope, guarded);
    Ok((name, thread.map_err(DataError::io("a thread"))?))
}

fn join<T>((name, thread): Thread<'_, T>) -> Result<T, DataError> {
    thread.join().unwrap_or(Err(DataError::Panic(name)))
}

/// Why a thread has ended before it was ready.
fn failure<T>(thread: Thread<'_, T>) -> DataError {
    let name = thread.0;
    join(thread).err().unwrap_or(DataError::Panic(name))
}

fn cpu(
    clients: &Arrived,
    lan: &Arrived,
    [up, down]: [&Option<Offered>; 2],
    [client_probe, lan_probe]: [&Option<Probed>; 2],
) -> BTreeMap<String, f64> {
    let all = [
        ("clients", Some(clients.cpu_s)),
        ("lan-rx", Some(lan.cpu_s)),
        ("client-tx", up.as_ref().map(|sender| sender.cpu_s)),
        ("lan-tx", down.as_ref().map(|sender| sender.cpu_s)),
        ("client-probe", client_probe.as_ref().map(|probe| probe.cpu_s)),
        ("lan-probe", lan_probe.as_ref().map(|probe| probe.cpu_s)),
    ];
    all.into_iter().filter_map(|(name, seconds)| Some((name.to_owned(), seconds?))).collect()
}
