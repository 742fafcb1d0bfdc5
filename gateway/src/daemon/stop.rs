//! Runs until a signal, then takes everything down in order.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;
use tokio::time::{MissedTickBehavior, interval, timeout};
use tracing::{error, info, warn};

use super::services::follow_accounts;
use super::{Running, StartError};
use crate::admin::AdminSocket;
use crate::clock;
use crate::config::Config;
use crate::net::netlink;
use crate::plugins::PluginKind;
use crate::shard::{Command, GOODBYE};
use crate::tokens::UnixSeconds;

/// How often tokens are swept and addresses are written, if that is due.
const HOUSEKEEPING: Duration = Duration::from_secs(10);
/// How often it is looked whether the file of users has changed.
const LOOK: Duration = Duration::from_secs(1);
/// Tokens that are looked at in one sweep.
const SWEEP: usize = 10_000;
/// How long shards may take to stop beyond their goodbyes and one hook.
const STOP_GRACE: Duration = Duration::from_secs(3);

/// Waits for a signal, and stops.
pub(super) fn wait_and_stop(running: Running, config: &Arc<Config>) -> Result<(), StartError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| StartError::io("runtime", &error))?;
    runtime.block_on(async move {
        if let Some(path) = &config.process.writepid
            && let Err(error) = std::fs::write(path, format!("{}\n", std::process::id()))
        {
            warn!("writepid {}: {error}", path.display());
        }
        let mut running = running;
        let socket = running.socket.take();
        let serving = serve(socket, &running);
        tokio::select! {
            ended = wait(&running) => ended.map_err(|error| StartError::io("signals", &error))?,
            ended = serving => ended?,
        }
        stop(running, config).await;
        Ok(())
    })
}

/// Answers operators until something else ends it.
async fn serve(socket: Option<AdminSocket>, running: &Running) -> Result<(), StartError> {
    let Some(socket) = socket else { return std::future::pending().await };
    match crate::admin::serve(socket, &running.admin).await {
        Ok(never) => match never {},
        Err(error) => Err(StartError::io("control-socket", &error)),
    }
}

/// Returns on SIGTERM or SIGINT, or when a shard has ended by itself.
async fn wait(running: &Running) -> io::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut hangup = signal(SignalKind::hangup())?;
    let mut restart = signal(SignalKind::user_defined1())?;
    let mut status = signal(SignalKind::user_defined2())?;
    let mut look = interval(LOOK);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut tick = interval(HOUSEKEEPING);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    info!("Initialization Sequence Completed");
    loop {
        tokio::select! {
            _ = terminate.recv() => break info!("SIGTERM: stopping"),
            _ = interrupt.recv() => break info!("SIGINT: stopping"),
            _ = hangup.recv() => warn!("SIGHUP: revocation lists are followed by themselves; anything else needs a restart"),
            _ = restart.recv() => warn!("SIGUSR1: there is nothing to reopen; a restart keeps clients' tokens"),
            _ = status.recv() => report(running),
            _ = look.tick() => {
                if let Some(accounts) = running.admin.backends.accounts.clone() {
                    // On a thread that may wait for the disk; one at a time.
                    let _ = tokio::task::spawn_blocking(move || follow_accounts(&accounts)).await;
                }
            }
            _ = tick.tick() => {
                if let Err(error) = running.directory.save_addresses(clock::now(), false) {
                    warn!("ifconfig-pool-persist: {error}");
                }
                running.vault.sweep(UnixSeconds(clock::unix_seconds()), SWEEP);
                if running.shards.iter().any(|(_, thread)| thread.is_finished()) {
                    break error!("a session shard has ended: stopping");
                }
            }
        }
    }
    Ok(())
}

/// What the workers have counted, to the log.
fn report(running: &Running) {
    info!(clients = running.directory.clients(), "status");
    for (worker, c) in running.data.handle().counters().iter().enumerate() {
        info!(
            worker,
            uplink_packets = c.uplink_packets.read(),
            uplink_bytes = c.uplink_bytes.read(),
            downlink_packets = c.downlink_packets.read(),
            downlink_bytes = c.downlink_bytes.read(),
            unknown_peer = c.unknown_peer.read(),
            unknown_key = c.unknown_key.read(),
            bad_tag = c.bad_tag.read(),
            replayed = c.replayed.read(),
            malformed = c.malformed.read(),
            spoofed = c.spoofed.read(),
            no_route = c.no_route.read(),
            no_key = c.no_key.read(),
            tun_refused = c.tun_refused.read(),
            handed_over = c.handed_over.read(),
            handover_full = c.handover_full.read(),
            control_passed = c.control_passed.read(),
            shard_full = c.shard_full.read(),
            send_dropped = c.send_dropped.read(),
            stream_full = c.stream_full.read(),
            "worker"
        );
    }
    for (worker, c) in running.data.handle().stream_counters().iter().enumerate() {
        info!(
            worker,
            open = c.open.read(),
            accepted = c.accepted.read(),
            refused = c.refused.read(),
            foreign = c.foreign.read(),
            ended = c.ended.read(),
            bad_length = c.bad_length.read(),
            timed_out = c.timed_out.read(),
            evicted = c.evicted.read(),
            stalled = c.stalled.read(),
            "TCP connections"
        );
    }
}

async fn stop(running: Running, config: &Config) {
    let Running { shards, data, hooks, directory, vault, privileged, device, admin, applied, .. } = running;
    // It holds ends of queues whose other ends wait for their closing.
    drop(admin);
    let mut done = Vec::new();
    for (shard, _) in &shards {
        let (tell, told) = oneshot::channel();
        let command = Command::Stop { reason: "server is restarting".to_owned(), done: tell };
        if shard.send(command).await.is_ok() {
            done.push(told);
        }
    }
    let limit = GOODBYE + config.tessera.hook_timeout + STOP_GRACE;
    let all = async {
        for told in done {
            // A shard that died has said all it will say.
            let _ = told.await;
        }
    };
    if timeout(limit, all).await.is_err() {
        warn!("not every client could be told");
    }
    for (_, thread) in shards {
        if let Ok(Err(error)) = thread.join() {
            error!("session shard: {error}");
        }
    }
    drop(data);
    drop(hooks);
    let (dev, env) = device;
    for kind in [PluginKind::RoutePredown, PluginKind::Down] {
        privileged.device(kind, config, &dev, &env).await;
    }
    drop(privileged);
    if !vault.close() {
        warn!("store: not everything could be written");
    }
    netlink::remove(applied).await;
    if let Err(error) = directory.save_addresses(clock::now(), true) {
        warn!("ifconfig-pool-persist: {error}");
    }
    if let Some(path) = &config.process.writepid {
        let _ = std::fs::remove_file(path);
    }
    info!("stopped");
}
