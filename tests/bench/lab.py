"""The bench's little network, its PKI, and the processes in it.

    client ns ──veth── gateway ns ──veth── LAN ns
    192.0.2.2  192.0.2.1  198.51.100.1  198.51.100.2        tunnel: 10.8.0.0/16

Everything is made for one run of the bench, carries the bench's process id in its name, and is removed with it.
"""

import os
import re
import signal
import subprocess
import time
from pathlib import Path

GATEWAY_CORE = 0
OTHER_CORE = 1
# Before what else the machine does; all that the bench starts has it, both servers alike.
NICE = -15

OUTER_GATEWAY, OUTER_CLIENT = "192.0.2.1", "192.0.2.2"
LAN_GATEWAY, LAN_HOST = "198.51.100.1", "198.51.100.2"

# One file serves every gateway for OpenVPN; what only one of them knows is on its command line. No limit of theirs may be
# what is measured: there is room for 10,000 clients that all show one certificate.
SERVER_CONFIG = """\
port 1194
proto udp
dev tun
topology subnet
server 10.8.0.0 255.255.0.0
push "route 198.51.100.0 255.255.255.0"
ca ca.crt
cert server.crt
key server.key
dh none
data-ciphers AES-256-GCM
keepalive 10 60
duplicate-cn
max-clients 12000
hash-size 32768 32768
connect-freq-initial 100000 1
verb 3
"""

# Added where logins are measured: what they log in for is a token.
TOKEN = "bench-token-0123456789abcdefghijklmnopqrstuvwxyz"
TOKEN_CONFIG = "client-config-dir ccd\n"

CLIENT_CONFIG = f"""\
client
dev tun
proto udp
remote {OUTER_GATEWAY} 1194
nobind
ca ca.crt
cert client.crt
key client.key
remote-cert-tls server
data-ciphers AES-256-GCM
verb 3
"""


class BenchError(Exception):
    """Something could not be measured; the text says why."""


class Stopped(BenchError):
    """By a signal, or for it took too long: nothing goes on after it."""


def command(*argv, timeout=30, cwd=None):
    """Runs a command to its end and returns its standard output; a failure is an error with what it printed."""
    done = subprocess.run(argv, capture_output=True, text=True, timeout=timeout, cwd=cwd, check=False)
    if done.returncode != 0:
        raise BenchError(f"{' '.join(argv)}: exit {done.returncode}\n{done.stdout}{done.stderr}")
    return done.stdout


def prefer(pid, nice=NICE):
    """Gives the session of a process its share before other sessions: where the kernel groups tasks by session, a niceness
    counts only inside one. Returns what it was, or nothing where the kernel does not group."""
    control = Path(f"/proc/{pid}/autogroup")
    if not control.exists():
        return None
    before = int(control.read_text().rsplit(None, 1)[1])
    control.write_text(str(nice))
    return before


def make_pki(folder):
    """A CA and two certificates, ECDSA P-256, good for a day."""

    def issue(name, usage):
        command("openssl", "req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
                "-keyout", f"{name}.key", "-out", f"{name}.csr", "-subj", f"/CN={name}", cwd=folder)
        extensions = folder / f"{name}.ext"
        extensions.write_text("basicConstraints=critical,CA:FALSE\nkeyUsage=critical,digitalSignature\n"
                              f"extendedKeyUsage={usage}\n")
        command("openssl", "x509", "-req", "-in", f"{name}.csr", "-CA", "ca.crt", "-CAkey", "ca.key",
                "-CAcreateserial", "-days", "1", "-extfile", extensions.name, "-out", f"{name}.crt", cwd=folder)

    command("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
            "-keyout", "ca.key", "-out", "ca.crt", "-days", "1", "-subj", "/CN=bench CA",
            "-addext", "basicConstraints=critical,CA:TRUE", "-addext", "keyUsage=critical,keyCertSign,cRLSign",
            cwd=folder)
    issue("server", "serverAuth")
    issue("client", "clientAuth")


def napi_threads():
    """The kernel's NAPI threads, by pid."""
    found = set()
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                if (entry / "comm").read_text().startswith("napi/"):
                    found.add(int(entry.name))
            except FileNotFoundError:
                pass  # it has just ended
    return found


class Lab:
    """Three namespaces and the processes started in them; `close` removes both."""

    def __init__(self, folder):
        self.folder = Path(folder)
        tag = f"tb{os.getpid()}"
        self.client, self.gateway, self.lan = f"{tag}c", f"{tag}g", f"{tag}l"
        self.made = []
        self.running = []
        # NAPI threads that `receive` made: the gateway's, and those of the client and the LAN host.
        self.napi, self.far_napi, self.mode = [], [], "sender"
        self.lan_rps = False

    def open(self):
        make_pki(self.folder)
        (self.folder / "server.conf").write_text(SERVER_CONFIG)
        (self.folder / "tokens.conf").write_text(SERVER_CONFIG + TOKEN_CONFIG)
        (self.folder / "client.conf").write_text(CLIENT_CONFIG)
        self.write_token()
        self.spaces(self.client, self.gateway, self.lan)
        self.link("wan0", self.gateway, OUTER_GATEWAY, "wan0", self.client, OUTER_CLIENT)
        self.link("lan0", self.gateway, LAN_GATEWAY, "lan0", self.lan, LAN_HOST)
        command("ip", "-n", self.lan, "route", "add", "10.8.0.0/16", "via", LAN_GATEWAY)
        self.inside(self.gateway, "sysctl", "-qw", "net.ipv4.ip_forward=1")
        self.rps()

    def write_token(self):
        """The file by which every client is given a token."""
        (self.folder / "ccd").mkdir()
        (self.folder / "ccd" / "DEFAULT").write_text(f'push "auth-token {TOKEN}"\n')

    def spaces(self, *names):
        for ns in names:
            command("ip", "netns", "add", ns)
            self.made.append(ns)
            command("ip", "-n", ns, "link", "set", "lo", "up")

    def link(self, name, ns, address, peer_name, peer_ns, peer_address):
        command("ip", "link", "add", name, "netns", ns, "type", "veth", "peer", "name", peer_name, "netns", peer_ns)
        for space, device, ip in ((ns, name, address), (peer_ns, peer_name, peer_address)):
            command("ip", "-n", space, "addr", "add", f"{ip}/24", "dev", device)
            command("ip", "-n", space, "link", "set", device, "up")

    def rps(self):
        """Receive packet steering off on every queue (in a virtual machine it charges an interrupt a packet), but for the LAN
        host's where `lan_by_napi` wants it."""
        for ns in self.made:
            mask = f"{1 << OTHER_CORE:x}" if ns == self.lan and self.lan_rps else "0"
            self.inside(ns, "sh", "-c", f"for q in /sys/class/net/*/queues/rx-*/rps_cpus; do echo {mask} > $q; done")

    def receive(self, mode, coalesce_us):
        """Who receives what came over a veth. "sender": the softirq of whoever sent it, as a veth does by itself. "nic": NAPI
        threads with GRO, the gateway's on its core, those of the client and the LAN host on core 1, as with network cards. Only
        datagrams can be had so everywhere; for the LAN's see `lan_by_napi`. The gateway's cards gather packets for `coalesce_us`
        before they are handed on."""
        self.mode = mode
        if mode == "sender":
            return
        ends = ((self.gateway, GATEWAY_CORE, self.napi), (self.client, OTHER_CORE, self.far_napi),
                (self.lan, OTHER_CORE, self.far_napi))
        for device in ("wan0", "lan0"):
            for ns, core, threads in ends:
                if device in self.inside(ns, "ls", "/sys/class/net").split():
                    if ns == self.gateway and coalesce_us:
                        self.coalesce(device, coalesce_us)
                    threads.extend(self.thread(ns, device, core))
        for ns in (self.gateway, self.client):
            # A veth leaves to NAPI what comes straight from a socket, if it may merge datagrams of others.
            self.inside(ns, "ethtool", "-K", "wan0", "rx-udp-gro-forwarding", "on")
        # And whatever its other end sends without TSO.
        self.inside(self.lan, "ethtool", "-K", "lan0", "tso", "off")

    def coalesce(self, device, micros):
        """Lets a device of the gateway gather what it receives, as cards do by moderating their interrupts."""
        for name, value in (("gro_flush_timeout", 1000 * micros), ("napi_defer_hard_irqs", 1)):
            self.inside(self.gateway, "sh", "-c", f"echo {value} > /sys/class/net/{device}/{name}")

    def thread(self, ns, device, core):
        """Makes a device's NAPI threads, and pins them."""
        known = napi_threads()
        self.inside(ns, "ethtool", "-K", device, "gro", "on")
        self.inside(ns, "sh", "-c", f"echo 1 > /sys/class/net/{device}/threaded")
        new = napi_threads() - known
        if not new:
            raise BenchError(f"the kernel made no NAPI thread for {device}")
        for pid in new:
            os.sched_setaffinity(pid, {core})
            # Kernel threads belong to no session: among sessions that are preferred they need it themselves.
            os.setpriority(os.PRIO_PROCESS, pid, NICE)
        return new

    def lan_by_napi(self, datagrams):
        """What goes to the LAN: the gateway sends without TSO, too, where that is datagrams alone. It keeps TSO for TCP, or every
        segment would be cut on its back; then it is by RPS (see `rps`, to be called after this) that the LAN host receives on
        its own core."""
        if self.mode == "nic":
            self.inside(self.gateway, "ethtool", "-K", "lan0", "tso", "off" if datagrams else "on",
                        "rx-udp-gro-forwarding", "on" if datagrams else "off")
            self.lan_rps = not datagrams

    def inside(self, ns, *argv, timeout=30):
        return command("ip", "netns", "exec", ns, *argv, timeout=timeout)

    def start(self, ns, core, log, *argv):
        """Starts a process in a namespace (or where the bench is), pinned to cores. The wrappers replace themselves: its pid is
        the program's."""
        inside = ["ip", "netns", "exec", ns] if ns else []
        with open(self.folder / log, "wb") as out:
            process = subprocess.Popen(["taskset", "-c", str(core), *inside, *argv],
                                       cwd=self.folder, stdin=subprocess.DEVNULL, stdout=out, stderr=out,
                                       start_new_session=True)
        process.log = self.folder / log
        prefer(process.pid)
        self.running.append(process)
        return process

    def stop(self, process):
        """Ends a process that `start` started, kindly and then not."""
        self.running.remove(process)
        for number, patience in ((signal.SIGTERM, 10), (signal.SIGKILL, 10)):
            if process.poll() is None:
                process.send_signal(number)
            try:
                process.wait(patience)
                return
            except subprocess.TimeoutExpired:
                pass

    def await_that(self, what, process, test, patience=15):
        """Waits until `test` gives something true, and returns it; ends at once when the process has died."""
        deadline = time.monotonic() + patience
        while time.monotonic() < deadline:
            answer = test()
            if answer:
                return answer
            if process.poll() is not None:
                raise BenchError(f"{what}: process ended with {process.returncode}\n{process.log.read_text()}")
            time.sleep(0.1)
        raise BenchError(f"{what}: not within {patience} s\n{process.log.read_text()}")

    def start_sink(self):
        """The iperf3 server on the LAN host."""
        sink = self.start(self.lan, OTHER_CORE, "iperf3-server.log", "iperf3", "-s")
        self.await_that("iperf3 server", sink, lambda: self.inside(self.lan, "ss", "-Hltn", "sport = :5201"))
        return sink

    def serve(self, argv, cores=GATEWAY_CORE):
        """Starts a gateway for OpenVPN, and waits until it listens."""
        server = self.start(self.gateway, cores, "server.log", *argv)
        self.await_that("gateway", server, lambda: self.inside(self.gateway, "ss", "-Hlun", "sport = :1194"))
        return server

    def join(self):
        """Starts the stock client, and returns it when it is in the tunnel."""
        client = self.start(self.client, OTHER_CORE, "client.log",
                            "openvpn", "--config", "client.conf", "--disable-dco")
        self.await_that("tunnel", client, lambda: "Initialization Sequence Completed" in client.log.read_text())
        said = client.log.read_text()
        cipher = re.search(r"Data Channel: cipher '([^']+)'", said)
        if cipher is None or cipher[1] != "AES-256-GCM":
            raise BenchError(f"the data channel is not AES-256-GCM:\n{said}")
        return client

    def reach(self):
        """Makes sure that the client reaches the LAN host."""
        self.inside(self.client, "ping", "-c", "2", "-i", "0.2", "-W", "2", LAN_HOST)
        self.rps()

    def close(self):
        for process in reversed(list(self.running)):
            self.stop(process)
        for ns in self.made:
            subprocess.run(["ip", "netns", "del", ns], check=False)
        self.made = []
