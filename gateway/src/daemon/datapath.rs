//! Which rung of the data path is used: the highest that works here, and why it is not a higher one.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::num::NonZeroU8;
use std::os::fd::AsFd;

use nix::net::if_::InterfaceFlags;
use tessera_ebpf_common::PeerIdLayout;
use tracing::{info, warn};

use super::StartError;
use crate::bpf::{BpfError, Guard, ReuseportSteering, TunSteering};
use crate::config::Config;
use crate::data::{Rung, Steering};
use crate::exit;
use crate::lease::PeerIdAllocator;
use crate::net::ListenerGroup;
use crate::net::recv::enable_gro;
use crate::net::send::probe_gso;
use crate::net::tun::{Tun, TunSpec};

/// The choice so far: each step may lower it, unless the configuration names the rung.
#[derive(Debug, Clone)]
pub(super) struct Datapath {
    rung: Rung,
    forced: bool,
    /// Why there is no higher rung.
    why: String,
}

impl Datapath {
    /// Looks at what the kernel's sockets can do.
    ///
    /// # Errors
    /// When the configuration names a rung that they cannot carry.
    pub(super) fn probe(wanted: Option<Rung>) -> Result<Self, StartError> {
        let rung = wanted.unwrap_or(Rung::Steered);
        let why = match wanted {
            Some(rung) => format!("the configuration says 'datapath {rung}'"),
            None => "no higher rung is in this release".to_owned(),
        };
        let mut datapath = Self { rung, forced: wanted.is_some(), why };
        if let Err(error) = probe_sockets() {
            datapath.lower(Rung::Offload, &format!("UDP GRO and GSO: {error}"))?;
        }
        Ok(datapath)
    }

    /// The rung that is left.
    pub(super) const fn rung(&self) -> Rung {
        self.rung
    }

    /// Why it is not a higher one.
    pub(super) fn why(&self) -> &str {
        &self.why
    }

    /// Opens the device as the rung needs it.
    ///
    /// # Errors
    /// When there is no device, or none that carries super-packets where the configuration insists on a rung with them.
    pub(super) fn open_tun(&mut self, config: &Config, queues: usize) -> Result<Tun, StartError> {
        let dev = config.device.name.clone().unwrap_or_else(|| "tun".to_owned());
        let plain = TunSpec { dev, node: config.device.node.clone(), queues, offload: false };
        if self.rung >= Rung::Offload {
            match Tun::open(&TunSpec { offload: true, ..plain.clone() }) {
                Ok(tun) => return Ok(tun),
                // The same fault may well hit the plain device, and is then reported for that.
                Err(error) => self.lower(Rung::Offload, &format!("super-packets of the TUN: {error}"))?,
            }
        }
        Tun::open(&plain).map_err(|error| StartError::io("", &error))
    }

    /// Attaches the programs that bring packets to their workers.
    ///
    /// # Errors
    /// When one is refused and the configuration insists on the rung.
    pub(super) fn steer(
        &mut self,
        config: &Config,
        groups: &[ListenerGroup],
        tun: Option<&Tun>,
        layout: PeerIdLayout,
    ) -> Result<Steering, StartError> {
        if self.rung >= Rung::Steered {
            match attach(config, groups, tun, layout) {
                Ok(steering) => return Ok(steering),
                Err(error) => self.lower(Rung::Steered, &error.to_string())?,
            }
        }
        Ok(Steering::new(layout, Vec::new(), None, None))
    }

    /// What is to be known of the choice, once it is made.
    pub(super) fn announce(&self, workers: usize) {
        info!("data path: rung {} with {workers} worker(s); not higher: {}", self.rung, self.why);
    }

    /// `rung` does not work here.
    fn lower(&mut self, rung: Rung, why: &str) -> Result<(), StartError> {
        if self.rung < rung {
            return Ok(());
        }
        if self.forced {
            let message = format!("datapath {}: rung {rung} does not work here: {why}", self.rung);
            return Err(StartError { code: exit::RUNTIME, message });
        }
        self.rung = if rung == Rung::Steered { Rung::Offload } else { Rung::Basic };
        why.clone_into(&mut self.why);
        Ok(())
    }
}

fn probe_sockets() -> std::io::Result<()> {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
    enable_gro(socket.as_fd())?;
    probe_gso(socket.as_fd())
}

/// All programs or none: without a guard packets are steered all the same.
fn attach(
    config: &Config,
    groups: &[ListenerGroup],
    tun: Option<&Tun>,
    layout: PeerIdLayout,
) -> Result<Steering, BpfError> {
    let udp = groups.iter().map(|group| {
        let sockets: Vec<_> =
            group.worker_sockets.iter().chain(&group.shard_sockets).map(AsFd::as_fd).collect();
        let shards = u8::try_from(group.shard_sockets.len()).ok().and_then(NonZeroU8::new);
        ReuseportSteering::attach(&sockets, layout, shards.unwrap_or(NonZeroU8::MIN))
    });
    let udp = udp.collect::<Result<_, _>>()?;
    let routes = config.limits.max_clients.saturating_mul(2).saturating_add(super::SPARE_ROUTES as u32);
    let tun_program =
        tun.map(|tun| TunSteering::attach(tun.queues[0].as_fd(), layout, routes)).transpose()?;
    let ports: Vec<SocketAddr> = groups.iter().flat_map(ListenerGroup::endpoints).collect();
    let devices = uplinks(&ports, tun.map(|tun| tun.ifindex));
    let peer_ids = PeerIdAllocator::new(layout, config.limits.max_clients).peer_id_limit();
    let guard = || {
        Guard::attach(&devices, &ports, peer_ids)
            .inspect(|_| info!("junk is dropped at the ingress of {} device(s)", devices.len()))
            .inspect_err(|error| warn!("junk is not dropped at the ingress of devices: {error}"))
            .ok()
    };
    // Without UDP there is nothing to guard.
    let guard = if devices.is_empty() { None } else { guard() };
    Ok(Steering::new(layout, udp, tun_program, guard))
}

/// Where datagrams to `endpoints` can arrive: the Ethernet devices that have one of the addresses, all that are up when it is
/// the unspecified one. A device that comes later is not guarded.
fn uplinks(endpoints: &[SocketAddr], tun: Option<u32>) -> Vec<u32> {
    let Ok(found) = nix::ifaddrs::getifaddrs() else { return Vec::new() };
    let anywhere = endpoints.iter().any(|endpoint| endpoint.ip().is_unspecified());
    let mut devices = BTreeSet::new();
    for device in found {
        let wanted = InterfaceFlags::IFF_UP | InterfaceFlags::IFF_BROADCAST;
        if !device.flags.contains(wanted) || device.flags.contains(InterfaceFlags::IFF_LOOPBACK) {
            continue;
        }
        let address = device.address.as_ref().and_then(|address| {
            let v4 = address.as_sockaddr_in().map(|v4| IpAddr::V4(v4.ip()));
            v4.or_else(|| address.as_sockaddr_in6().map(|v6| IpAddr::V6(v6.ip())))
        });
        if anywhere || address.is_some_and(|ip| endpoints.iter().any(|endpoint| endpoint.ip() == ip)) {
            devices.extend(nix::net::if_::if_nametoindex(device.interface_name.as_str()).ok());
        }
    }
    devices.into_iter().filter(|index| Some(*index) != tun).collect()
}
