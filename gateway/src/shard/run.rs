//! The tasks of a shard: sockets, workers' messages, commands, the timer.

use std::io;
use std::rc::Rc;
use std::time::Duration;

use tessera_proto::session::Close;
use tokio::sync::{mpsc, oneshot};
use tracing::{debug, info};

use super::state::{SEND_QUEUE, Shard, Shared};
use super::{Command, GOODBYE, ShardSetup};
use crate::clock;
use crate::data::{FromWorker, Via};
use crate::net::Path;
use crate::net::io::{ControlSocket, run_on};

/// Largest control datagram: packet, WKc, and room.
const MAX_DATAGRAM: usize = 4096;
/// Between two receive errors of a socket (an interface that is down, say) the loop rests.
const ERROR_REST: Duration = Duration::from_millis(100);
/// How often the revocation list and the tokens' times are looked at.
const UPKEEP: Duration = Duration::from_secs(1);
/// How often a stopping shard looks whether its clients have heard it.
const STOP_POLL: Duration = Duration::from_millis(20);

/// Runs a shard on this thread until it is told to stop.
///
/// # Errors
/// When its runtime or sockets cannot be set up.
pub fn run(mut setup: ShardSetup) -> io::Result<()> {
    let backend = setup.backend;
    run_on(backend, async move {
        let sockets = std::mem::take(&mut setup.sockets);
        let raw = sockets.iter().map(std::net::UdpSocket::try_clone).collect::<io::Result<Vec<_>>>()?;
        let from_workers = std::mem::replace(&mut setup.from_workers, mpsc::channel(1).1);
        let commands = std::mem::replace(&mut setup.commands, mpsc::channel(1).1);
        let (mut outgoing, mut senders) = (Vec::new(), Vec::new());
        for socket in sockets {
            let (queue, packets) = mpsc::channel(SEND_QUEUE);
            outgoing.push(queue);
            senders.push((ControlSocket::from_std(backend, socket)?, packets));
        }
        let shard = Shard::new(setup, raw, outgoing);
        for (listener, (socket, packets)) in senders.into_iter().enumerate() {
            tokio::task::spawn_local(send_loop(socket.clone(), packets));
            tokio::task::spawn_local(recv_loop(Rc::clone(&shard), listener, socket));
        }
        tokio::task::spawn_local(timer_loop(Rc::clone(&shard)));
        tokio::task::spawn_local(upkeep_loop(Rc::clone(&shard)));
        tokio::task::spawn_local(worker_loop(Rc::clone(&shard), from_workers));
        command_loop(&shard, commands).await;
        Ok(())
    })?
}

async fn recv_loop(shard: Shared, listener: usize, socket: ControlSocket) {
    let mut buf = vec![0; MAX_DATAGRAM];
    loop {
        match socket.recv(&mut buf).await {
            Ok((len, path)) => shard.on_datagram(Via::Udp(listener), path, &buf[..len]),
            // Longer than any control packet: whoever sent it cannot slow the others down by it.
            Err(error) if error.kind() == io::ErrorKind::InvalidData => {}
            Err(error) => {
                // Errors of earlier sends come up here, too; none of them ends the loop.
                debug!("control socket: {error}");
                tokio::time::sleep(ERROR_REST).await;
            }
        }
    }
}

async fn send_loop(socket: ControlSocket, mut packets: mpsc::Receiver<(Vec<u8>, Path)>) {
    while let Some((bytes, path)) = packets.recv().await {
        if let Err(error) = socket.send(bytes, path).await {
            debug!(to = %path.remote, "control packet not sent: {error}");
        }
    }
}

async fn timer_loop(shard: Shared) {
    loop {
        let next = shard.state.borrow().next_deadline;
        let sleep = next.map(|at| at.since_epoch().saturating_sub(clock::read().mono.since_epoch()));
        let due = match sleep {
            None => {
                shard.deadline_changed.notified().await;
                false
            }
            Some(sleep) => {
                tokio::select! {
                    () = shard.deadline_changed.notified() => false,
                    () = tokio::time::sleep(sleep) => true,
                }
            }
        };
        if due {
            shard.on_timeout();
        }
    }
}

/// A revoked client is gone within a second, and a token is renewed in its time, whether anybody logs in or not.
async fn upkeep_loop(shard: Shared) {
    loop {
        tokio::time::sleep(UPKEEP).await;
        shard.follow_revocations();
        shard.renew_tokens();
    }
}

async fn worker_loop(shard: Shared, mut messages: mpsc::Receiver<FromWorker>) {
    while let Some(message) = messages.recv().await {
        shard.on_worker(message);
    }
}

async fn command_loop(shard: &Shared, mut commands: mpsc::Receiver<Command>) {
    while let Some(command) = commands.recv().await {
        match command {
            // Nothing is said, as with OpenVPN: the client itself has moved on, and a message would only call it back.
            Command::Replace { handle, why } => shard.close(handle, Close::Silent(why)),
            Command::Sessions(reply) => {
                let shard = Rc::clone(shard);
                tokio::task::spawn_local(async move {
                    // Whoever asked may have given up waiting.
                    let _ = reply.send(shard.sessions().await);
                });
            }
            Command::End { target, ending, done } => {
                let _ = done.send(shard.end_sessions(&target, &ending));
            }
            Command::Stop { reason, done } => {
                stop(shard, &reason).await;
                finish(done);
                return;
            }
        }
    }
}

fn finish(done: oneshot::Sender<()>) {
    // Whoever asked may have given up waiting.
    let _ = done.send(());
}

/// Sends every client away, waits until they have heard it, and then for their farewells.
async fn stop(shard: &Shared, reason: &str) {
    let handles = {
        let mut state = shard.state.borrow_mut();
        state.stopping = true;
        state.endpoint.handles()
    };
    for handle in handles {
        shard.close(handle, Close::Restart(reason.to_owned()));
    }
    for (reason, count) in &shard.state.borrow().drops {
        info!(shard = shard.index, ?reason, count, "control packets dropped");
    }
    let end = clock::now() + GOODBYE;
    while shard.state.borrow().endpoint.counts().0 > 0 && clock::now() < end {
        tokio::time::sleep(STOP_POLL).await;
    }
    // Disconnect hooks have their own limit; the last client is gone when its name is given back.
    let end = clock::now() + shard.config.tessera.hook_timeout;
    while shard.busy() && clock::now() < end {
        tokio::time::sleep(STOP_POLL).await;
    }
}
