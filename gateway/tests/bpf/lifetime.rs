//! No program outlives the process that attached it, however that ends.

use std::io::Read;
use std::net::UdpSocket;
use std::process::{Command, Stdio};
use std::time::Duration;

use aya::programs::{SchedClassifier, TcAttachType};
use tesserad::bpf::Guard;

use super::kernel::{ifindex, in_namespace};

/// Set in the process that is to attach a guard to loopback and wait for its end: the port.
const CHILD: &str = "TESSERA_BPF_GUARD_CHILD";

/// The ids of the programs at the ingress of a device.
pub(crate) fn guards(device: &str) -> Vec<u32> {
    let (_, programs) = SchedClassifier::query_tcx(device, TcAttachType::Ingress).unwrap();
    programs.iter().map(aya::programs::ProgramInfo::id).collect()
}

/// Whether a datagram that is junk reaches the socket.
fn junk_passes(socket: &UdpSocket) -> bool {
    socket.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
    let client = UdpSocket::bind("127.0.0.1:0").unwrap();
    client.send_to(&[0xff; 40], socket.local_addr().unwrap()).unwrap();
    socket.recv(&mut [0; 64]).is_ok()
}

#[test]
fn a_killed_process_leaves_no_guard_behind() {
    if let Ok(port) = std::env::var(CHILD) {
        let port: u16 = port.parse().unwrap();
        let _guard = Guard::attach(&[ifindex("lo")], &[([127, 0, 0, 1], port).into()], 8).unwrap();
        // Longer than the parent takes, but not for ever.
        std::thread::sleep(Duration::from_secs(60));
        return;
    }
    in_namespace(|| {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        assert!(junk_passes(&socket));
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "lifetime::a_killed_process_leaves_no_guard_behind"])
            .env(CHILD, socket.local_addr().unwrap().port().to_string())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let attached = (0..1000).any(|_| {
            std::thread::sleep(Duration::from_millis(10));
            !guards("lo").is_empty() || child.try_wait().unwrap().is_some()
        });
        let guarded = attached && guards("lo").len() == 1 && !junk_passes(&socket);
        child.kill().unwrap();
        let status = child.wait().unwrap();
        let mut said = String::new();
        child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
        assert!(guarded, "the child's guard never worked ({status}): {said}");
        assert_eq!(std::os::unix::process::ExitStatusExt::signal(&status), Some(libc::SIGKILL));
        // The kernel frees the last reference after a grace period of its own.
        let gone = (0..300).any(|_| {
            std::thread::sleep(Duration::from_millis(10));
            guards("lo").is_empty()
        });
        assert!(gone, "{:?}", guards("lo"));
        assert!(junk_passes(&socket));
    });
}
