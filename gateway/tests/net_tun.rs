//! A TUN device with addresses and routes, in a network namespace of the test's own.

#![expect(clippy::unwrap_used, reason = "a test may fail by panic")]

use std::io::IoSlice;
use std::net::UdpSocket;
use std::process::Command;
use std::time::Duration;

use tessera_offload::{Split, VnetHeader};
use tesserad::net::netlink::{self, LinkPlan, Route};
use tesserad::net::tun::{Tun, TunQueue, TunSpec};

/// Runs `test` on a thread in a fresh network namespace, which goes away with the thread.
fn in_namespace(test: impl FnOnce() + Send + 'static) {
    let thread = std::thread::spawn(|| {
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
        test();
    });
    thread.join().unwrap();
}

fn ip(arguments: &str) -> String {
    let output = Command::new("ip").args(arguments.split(' ')).output().unwrap();
    assert!(output.status.success(), "ip {arguments}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

fn plan(ifindex: u32) -> LinkPlan {
    let route = |network: &str, prefix, gateway: Option<&str>, metric| Route {
        network: network.parse().unwrap(),
        prefix,
        gateway: gateway.map(|g| g.parse().unwrap()),
        metric,
    };
    LinkPlan {
        ifindex,
        mtu: 1420,
        txqueuelen: Some(777),
        addresses: vec![("10.8.0.1".parse().unwrap(), 24), ("fd00:8::1".parse().unwrap(), 64)],
        routes: vec![
            route("192.168.44.0", 24, None, None),
            route("192.168.45.0", 24, Some("10.8.0.2"), Some(50)),
            route("fd00:44::", 48, None, None),
            route("fd00:45::", 48, Some("fd00:8::2"), Some(70)),
            // The connected network, once more: the kernel made this route already.
            route("10.8.0.0", 24, None, None),
        ],
    }
}

/// Reads packets until one is wanted.
fn read_until(queues: &[TunQueue], wanted: impl Fn(&[u8]) -> bool) -> Vec<u8> {
    let mut buf = [0; 2048];
    for _ in 0..400 {
        for queue in queues {
            match queue.read(&mut buf) {
                Ok((header, at)) => {
                    // What the device left to us: the checksum.
                    let split = Split::new(header, &buf[at]).unwrap();
                    let mut packet = vec![0; split.segment_len(0)];
                    split.write(0, &mut packet);
                    if wanted(&packet) {
                        return packet;
                    }
                }
                Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock),
            }
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    panic!("the packet did not come out of the device");
}

/// Hands a packet to the kernel as it is.
fn write(queue: &TunQueue, packet: &[u8]) -> std::io::Result<()> {
    queue.write(&[IoSlice::new(&VnetHeader::PLAIN.to_bytes()), IoSlice::new(packet)])
}

/// Turns an IPv4 UDP packet round, so that it answers itself. Swapping keeps both checksums right.
fn turn_round(packet: &mut [u8]) {
    let (source, destination) = packet[12..20].split_at_mut(4);
    source.swap_with_slice(destination);
    let (source, destination) = packet[20..24].split_at_mut(2);
    source.swap_with_slice(destination);
}

#[test]
fn packets_go_out_and_come_in_over_addresses_and_routes() {
    for offload in [false, true] {
        go_out_and_come_in(offload);
    }
}

fn go_out_and_come_in(offload: bool) {
    in_namespace(move || {
        let tun = Tun::open(&TunSpec { queues: 2, offload, ..TunSpec::new("tun") }).unwrap();
        assert!(tun.name.starts_with("tun"), "{}", tun.name);
        assert_eq!(tun.queues.len(), 2);
        let applied = block_on(netlink::apply(&plan(tun.ifindex))).unwrap();

        let link = ip(&format!("link show dev {}", tun.name));
        assert!(link.contains("mtu 1420") && link.contains("qlen 777") && link.contains(",UP"), "{link}");
        let addresses = ip(&format!("addr show dev {}", tun.name));
        assert!(
            addresses.contains("inet 10.8.0.1/24") && addresses.contains("inet6 fd00:8::1/64"),
            "{addresses}"
        );
        let dev = format!("dev {}", tun.name);
        let v4 = ip("-4 route");
        assert!(v4.contains(&format!("192.168.44.0/24 {dev}")), "{v4}");
        assert!(
            v4.contains(&format!("192.168.45.0/24 via 10.8.0.2 {dev}")) && v4.contains("metric 50"),
            "{v4}"
        );
        let v6 = ip("-6 route");
        assert!(v6.contains(&format!("fd00:44::/48 {dev}")), "{v6}");
        assert!(
            v6.contains(&format!("fd00:45::/48 via fd00:8::2 {dev}")) && v6.contains("metric 70"),
            "{v6}"
        );

        for target in ["10.8.0.9:4000", "192.168.44.7:4000", "192.168.45.7:4000"] {
            let socket = UdpSocket::bind("10.8.0.1:0").unwrap();
            socket.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
            socket.send_to(b"out and back", target).unwrap();
            let mut packet = read_until(&tun.queues, |p| p.len() == 40 && p.ends_with(b"out and back"));
            turn_round(&mut packet);
            write(&tun.queues[1], &packet).unwrap();
            let mut buf = [0; 64];
            let (len, from) = socket.recv_from(&mut buf).unwrap();
            assert_eq!((&buf[..len], from), (&b"out and back"[..], target.parse().unwrap()));
        }
        assert!(write(&tun.queues[0], &[0xff; 40]).is_err(), "no IP packet");

        // Applying the same once more changes nothing, and its removal leaves the first alone.
        let again = block_on(netlink::apply(&plan(tun.ifindex))).unwrap();
        block_on(netlink::remove(again));
        assert_eq!((ip("-4 route"), ip("-6 route")), (v4, v6));

        block_on(netlink::remove(applied));
        assert!(!ip("-4 route").contains("192.168.4") && !ip("-6 route").contains("fd00:4"));
        let addresses = ip(&format!("addr show dev {}", tun.name));
        assert!(!addresses.contains("10.8.0.1") && !addresses.contains("fd00:8::1"), "{addresses}");

        let name = tun.name.clone();
        drop(tun);
        assert!(!ip("link").contains(&name), "the device goes with its last queue");
    });
}

#[test]
fn a_conflicting_route_or_address_is_an_error_that_names_it() {
    in_namespace(|| {
        let tun = Tun::open(&TunSpec::new("vpn-test0")).unwrap();
        assert_eq!(tun.name, "vpn-test0");
        ip("link add lan0 type veth peer name lan1");
        ip("link set lan1 up");
        ip("link set lan0 up");
        ip("route add 192.168.45.0/24 dev lan0 metric 50");
        let error = block_on(netlink::apply(&plan(tun.ifindex))).unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::AlreadyExists);
        assert!(error.to_string().contains("route 192.168.45.0/24"), "{error}");
        // What had been set is taken back, what was there stays.
        let routes = ip("-4 route");
        assert!(
            routes.contains("192.168.45.0/24 dev lan0") && !routes.contains("192.168.44.0/24"),
            "{routes}"
        );
        assert!(!ip("addr").contains("10.8.0.1"));

        ip("route del 192.168.45.0/24");
        ip("addr add fd00:8::1/80 dev vpn-test0");
        let error = block_on(netlink::apply(&plan(tun.ifindex))).unwrap_err();
        assert!(error.to_string().contains("fd00:8::1/64") && error.to_string().contains("80"), "{error}");

        let mut elsewhere = plan(tun.ifindex);
        elsewhere.ifindex = 9999;
        let error = block_on(netlink::apply(&elsewhere)).unwrap_err();
        assert!(error.to_string().contains("tun-mtu"), "{error}");
    });
}

#[test]
fn a_gateway_behind_another_device_is_reached_there() {
    in_namespace(|| {
        let tun = Tun::open(&TunSpec::new("tun")).unwrap();
        ip("link add lan0 type veth peer name lan1");
        ip("link set lan1 up");
        ip("addr add 172.16.9.1/24 dev lan0");
        ip("link set lan0 up");
        let mut lan = plan(tun.ifindex);
        lan.routes.truncate(1);
        lan.routes[0].gateway = Some("172.16.9.254".parse().unwrap());
        let applied = block_on(netlink::apply(&lan)).unwrap();
        assert!(ip("-4 route").contains("192.168.44.0/24 via 172.16.9.254 dev lan0"));
        // The device's end does not take this route along: removal must.
        drop(tun);
        block_on(netlink::remove(applied));
        assert!(!ip("-4 route").contains("192.168.44.0"));
    });
}

#[test]
fn impossible_devices_are_refused_with_their_name() {
    in_namespace(|| {
        for bad in ["", "a/b", "tun%d", "sixteen-letters-x", "a b"] {
            let error = Tun::open(&TunSpec::new(bad)).unwrap_err();
            assert_eq!(error.kind(), std::io::ErrorKind::InvalidInput, "{bad}: {error}");
        }
        assert!(Tun::open(&TunSpec { queues: 0, ..TunSpec::new("tun") }).is_err());
        let missing = TunSpec { node: "/nonexistent/tun".into(), ..TunSpec::new("tun5") };
        let error = Tun::open(&missing).unwrap_err();
        assert!(error.to_string().contains("/nonexistent/tun"), "{error}");
        let error = Tun::open(&TunSpec::new("lo")).unwrap_err();
        assert!(error.to_string().contains("lo"), "{error}");
    });
}
