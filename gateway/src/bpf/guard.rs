//! Drops junk at the ingress of a device, before a socket is looked for.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::{Mutex, PoisonError};

use aya::maps::{Array, HashMap, MapData, PerCpuArray};
use aya::programs::tc::{SchedClassifierLink, TcAttachOptions};
use aya::programs::{LinkOrder, SchedClassifier, TcAttachType};
use nix::ifaddrs::getifaddrs;
use nix::net::if_::if_indextoname;
use tessera_ebpf_common::Endpoint;
use tessera_wire::PeerId;

use super::counters::Counters;
use super::error::{BpfError, CAP_BPF, CAP_NET_ADMIN, Program, failed, invalid};
use super::object::{Loaded, Object};

const PROGRAM: Program = Program { name: "tcx_guard", needs: &[CAP_BPF, CAP_NET_ADMIN] };

static OBJECT: &[u8] = aya::include_bytes_aligned!("../../../ebpf/object/tcx_guard.bpf.o");

/// Most endpoints: far more than one gateway listens on, and the map stays in the cache.
pub const MAX_ENDPOINTS: usize = 256;

/// The program at the ingress of devices. It goes with this value, or with the process, however that ends.
///
/// It drops, of the UDP datagrams to our endpoints: data packets of peer-ids that are not live, P_DATA_V1, unknown opcodes, and
/// what is too short for its kind. All else goes on: to other programs, then to the kernel. That includes fragments, IP options,
/// IPv6 extension headers, frames with a VLAN tag (attach to the VLAN's device instead) and frames to other hosts' MAC
/// addresses. A packet that GRO has merged is dropped only when each datagram in it is to be.
///
/// What it cannot see: a NAT rule that lends one of our endpoints to somebody else. Such a host should not be guarded at the
/// device where that traffic arrives.
pub struct Guard {
    max_peer_ids: u32,
    live: Mutex<Array<MapData, u8>>,
    counters: PerCpuArray<MapData, u64>,
    loaded: Loaded,
    /// Dropping them detaches the program.
    _links: Vec<SchedClassifierLink>,
}

impl Guard {
    /// Guards `ports` at the ingress of `devices` (interface indexes in this thread's network namespace), in front of other
    /// programs there. Peer-ids below `max_peer_ids` can be live; none is at first.
    ///
    /// The unspecified address stands for every address of its family that this host keeps packets for; a socket of both
    /// families needs both entries. What is forwarded to other hosts is never dropped: with an unspecified address the kernel's
    /// routes are asked before a drop.
    ///
    /// # Errors
    /// A port is 0, there are more than [`MAX_ENDPOINTS`], there is no such device or it is no Ethernet device, or the
    /// kernel refuses the program (needs
    /// CAP_BPF and CAP_NET_ADMIN, and Linux 6.6). It is then attached nowhere.
    pub fn attach(devices: &[u32], ports: &[SocketAddr], max_peer_ids: u32) -> Result<Self, BpfError> {
        if ports.len() > MAX_ENDPOINTS {
            let why = format!("{} of at most {MAX_ENDPOINTS}", ports.len());
            return Err(invalid(PROGRAM, "count the endpoints", why));
        }
        if let Some(endpoint) = ports.iter().find(|endpoint| endpoint.port() == 0) {
            return Err(invalid(PROGRAM, format!("guard {endpoint}"), "0 is no port".to_owned()));
        }
        let mut object = Object::open(PROGRAM, OBJECT, |loader| {
            // A map of no entries cannot be made.
            loader
                .map_max_entries("PORTS", ports.len().max(1) as u32)
                .map_max_entries("LIVE", max_peer_ids.max(1));
        })?;
        let mut endpoints: HashMap<MapData, [u32; Endpoint::WORDS], u8> = object.map("PORTS")?;
        for endpoint in ports {
            endpoints
                .insert(Endpoint::from(*endpoint).0, 1, 0)
                .map_err(|e| failed(PROGRAM, format!("guard {endpoint}"), &e))?;
        }
        let live = Mutex::new(object.map("LIVE")?);
        let counters = object.map("COUNTERS")?;
        let program: &mut SchedClassifier = object.load(SchedClassifier::load)?;
        let links = devices.iter().map(|device| attach_to(program, *device)).collect::<Result<_, _>>()?;
        let loaded = object.loaded()?;
        Ok(Self { max_peer_ids, live, counters, loaded, _links: links })
    }

    /// Lets the data packets of `peer_id` through, or no longer. One system call. Before the client learns its peer-id it must
    /// be live.
    ///
    /// # Errors
    /// A peer-id that is not below `max_peer_ids`, or the undefined one.
    pub fn set_live(&self, peer_id: PeerId, live: bool) -> Result<(), BpfError> {
        let step = || format!("set peer-id {peer_id} {}", if live { "live" } else { "not live" });
        if peer_id.get() >= self.max_peer_ids || peer_id == PeerId::UNDEFINED {
            return Err(invalid(PROGRAM, step(), format!("peer-ids end at {}", self.max_peer_ids)));
        }
        let mut map = self.live.lock().unwrap_or_else(PoisonError::into_inner);
        map.set(peer_id.get(), u8::from(live), 0).map_err(|e| failed(PROGRAM, step(), &e))
    }

    /// Datagrams to our endpoints by reason: `Data` and `Control` went on, the others were dropped.
    ///
    /// # Errors
    /// The map cannot be read.
    pub fn counters(&self) -> Result<Counters, BpfError> {
        Counters::read(PROGRAM, &self.counters)
    }

    /// The program in the kernel.
    #[must_use]
    pub const fn loaded(&self) -> &Loaded {
        &self.loaded
    }
}

/// Attaches the loaded program to the ingress of one device, in front.
fn attach_to(program: &mut SchedClassifier, device: u32) -> Result<SchedClassifierLink, BpfError> {
    let name = ethernet_name(device)?;
    let step = || format!("attach to {name} (TCX, Linux 6.6)");
    let options = TcAttachOptions::TcxOrder(LinkOrder::first());
    let link = program
        .attach_with_options(&name, TcAttachType::Ingress, options)
        .map_err(|e| failed(PROGRAM, step(), &e))?;
    program.take_link(link).map_err(|e| failed(PROGRAM, step(), &e))
}

/// The name of a device whose frames begin with an Ethernet header, as the program expects.
fn ethernet_name(device: u32) -> Result<String, BpfError> {
    let step = || format!("find device {device}");
    let all = getifaddrs().map_err(|e| failed(PROGRAM, step(), &io::Error::from(e)))?;
    let found = all
        .filter_map(|entry| Some((entry.interface_name, *entry.address?.as_link_addr()?)))
        .find(|(_, link)| link.ifindex() == device as usize);
    match found {
        Some((name, link)) if matches!(link.hatype(), libc::ARPHRD_ETHER | libc::ARPHRD_LOOPBACK) => Ok(name),
        // Some devices have no address of this layer at all.
        _ => {
            let name = if_indextoname(device).map_err(|e| failed(PROGRAM, step(), &io::Error::from(e)))?;
            Err(invalid(PROGRAM, step(), format!("{} is no Ethernet device", name.to_string_lossy())))
        }
    }
}

impl fmt::Debug for Guard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Guard").field("loaded", &self.loaded).finish_non_exhaustive()
    }
}
