//! Which rights the programs take, and what is said when one is missing.

use std::net::UdpSocket;
use std::num::NonZeroU8;
use std::os::fd::{AsFd, BorrowedFd};

use tessera_ebpf_common::PeerIdLayout;
use tessera_wire::PeerId;
use tesserad::bpf::{BpfError, Guard, ReuseportSteering, TunSteering};
use tesserad::net::tun::{Tun, TunSpec};
use tesserad::net::udp::{Family, ListenSpec, ListenerGroup};
use tesserad::routes::Prefix;

use super::kernel::{ifindex, in_namespace};

const CAP_NET_ADMIN: u32 = 12;
const CAP_BPF: u32 = 39;

/// `_LINUX_CAPABILITY_VERSION_3`: two words for each set.
const VERSION_3: u32 = 0x2008_0522;

/// Leaves this thread only `capabilities`. It stays root, so what it lacks is what is missing.
fn keep_only(capabilities: &[u32]) {
    let set = capabilities.iter().fold(0u64, |set, bit| set | 1 << bit);
    let (low, high) = (set as u32, (set >> 32) as u32);
    let header = [VERSION_3, 0];
    // Effective and permitted of each word; nothing to inherit.
    let data = [low, low, 0, high, high, 0];
    // SAFETY: the header is two words and the data six, as this version has them.
    let rc = unsafe { libc::syscall(libc::SYS_capset, header.as_ptr(), data.as_ptr()) };
    assert_eq!(rc, 0, "{}", std::io::Error::last_os_error());
}

struct Host {
    tun: Tun,
    group: ListenerGroup,
    lo: u32,
}

impl Host {
    fn new() -> Self {
        let tun = Tun::open(&TunSpec { queues: 2, ..TunSpec::new("tun") }).unwrap();
        let spec = ListenSpec {
            addr: Some([127, 0, 0, 1].into()),
            port: 0,
            family: Family::V4,
            bind_dev: None,
            sndbuf: None,
            rcvbuf: None,
            mark: None,
            gro: false,
        };
        Self { tun, group: ListenerGroup::open(&spec, 2, 1).unwrap(), lo: ifindex("lo") }
    }

    fn guard(&self) -> Result<Guard, BpfError> {
        Guard::attach(&[self.lo], &[self.group.local], 16)
    }

    fn steer_tun(&self) -> Result<TunSteering, BpfError> {
        TunSteering::attach(self.tun.queues[0].as_fd(), PeerIdLayout::new(2).unwrap(), 16)
    }

    fn steer_udp(&self) -> Result<ReuseportSteering, BpfError> {
        let sockets: Vec<BorrowedFd<'_>> =
            self.group.worker_sockets.iter().chain(&self.group.shard_sockets).map(UdpSocket::as_fd).collect();
        ReuseportSteering::attach(&sockets, PeerIdLayout::new(2).unwrap(), NonZeroU8::MIN)
    }
}

#[test]
fn two_capabilities_are_enough_and_afterwards_none() {
    in_namespace(|| {
        let host = Host::new();
        keep_only(&[CAP_BPF, CAP_NET_ADMIN]);
        let guard = host.guard().unwrap();
        let tun = host.steer_tun().unwrap();
        let udp = host.steer_udp().unwrap();
        keep_only(&[]);
        // From another thread, too, as shards and workers are.
        std::thread::scope(|scope| {
            scope.spawn(|| guard.set_live(PeerId::new(3).unwrap(), true).unwrap());
            scope.spawn(|| tun.add(Prefix::host([10, 0, 0, 1].into()), 1).unwrap());
            scope.spawn(|| udp.counters().unwrap());
        });
        tun.remove(Prefix::host([10, 0, 0, 1].into())).unwrap();
        assert_eq!(guard.counters().unwrap().dropped(), 0);
    });
}

#[test]
fn an_error_names_what_is_missing() {
    in_namespace(|| {
        let host = Host::new();
        // The library tries once what this kernel can do; let it be with all rights.
        drop(host.guard().unwrap());
        keep_only(&[CAP_NET_ADMIN]);
        for error in [host.guard().unwrap_err(), host.steer_tun().unwrap_err(), host.steer_udp().unwrap_err()]
        {
            assert_eq!(error.missing_capabilities(), ["CAP_BPF"], "{error}");
            let text = error.to_string();
            assert!(text.starts_with(&format!("BPF program {}: ", error.program())), "{text}");
            assert!(text.ends_with("missing: CAP_BPF"), "{text}");
        }
    });
    in_namespace(|| {
        let host = Host::new();
        keep_only(&[CAP_BPF]);
        let error = host.guard().unwrap_err();
        assert_eq!(error.missing_capabilities(), ["CAP_NET_ADMIN"], "{error}");
        // Steering decides nothing about a device's packets.
        host.steer_udp().unwrap();
    });
    in_namespace(|| {
        let host = Host::new();
        keep_only(&[]);
        assert_eq!(host.guard().unwrap_err().missing_capabilities(), ["CAP_BPF", "CAP_NET_ADMIN"]);
    });
}
