"""What is measured: how each gateway is started, how its own client gets into the tunnel, which version it is."""

import subprocess
import tempfile
from pathlib import Path

from lab import GATEWAY_CORE, LAN_GATEWAY, LAN_HOST, OTHER_CORE, OUTER_CLIENT, OUTER_GATEWAY, BenchError, command
from measure import of_openvpn, of_tessera

# Addresses in the tunnel, for those that are told.
INNER_GATEWAY, INNER_CLIENT = "10.8.0.1", "10.8.0.2"
WIREGUARD_PORT = 51820
WIREGUARD_SOCKETS = Path("/var/run/wireguard")


class OpenVpn:
    """OpenVPN in user space: one thread for everything. Its client is always Debian's."""

    def __init__(self, name, program):
        self.name, self.program = name, program

    def version(self):
        return of_openvpn(self.program)

    def serve(self, lab, **_):
        return lab.serve([self.program, "--config", "server.conf", "--disable-dco"])

    def join(self, lab, _server):
        return lab.join()


class Tessera:
    """The gateway, with a control socket to ask it by."""

    name = "tessera"

    def __init__(self, binary, tool, datapath):
        self.binary, self.tool = binary, tool
        self.datapath = datapath if self.knows(datapath) else None
        if self.datapath is None and datapath != "auto":
            raise BenchError(f"{binary} knows no 'datapath {datapath}'")

    def knows(self, datapath):
        """Whether this binary has the directive `datapath`, with that value: older ones have one rung only."""
        with tempfile.NamedTemporaryFile("w", suffix=".conf") as config:
            config.write(f"dev tun\nserver 10.8.0.0 255.255.0.0\ndatapath {datapath}\n")
            config.flush()
            checked = subprocess.run([self.binary, "--check", "--config", config.name], capture_output=True, text=True,
                                     timeout=10, check=False)
        said = [line for line in (checked.stdout + checked.stderr).splitlines() if "datapath" in line]
        return bool(said) and not any(word in line for line in said for word in ("unknown", "refused", "error"))

    def version(self):
        text, digest = of_tessera(self.binary)
        return f"{text}, sha256 {digest[:16]}, " + (f"datapath {self.datapath}" if self.datapath else "no choice of rung")

    def serve(self, lab, workers=1, cores=GATEWAY_CORE, config="server.conf"):
        argv = [str(self.binary), "--config", config, "--workers", str(workers), "--control-socket", "control.sock"]
        return lab.serve(argv + (["--datapath", self.datapath] if self.datapath else []), cores)

    def join(self, lab, _server):
        return lab.join()

    def ask(self, lab, *argv):
        """What `tessera` says about it; nothing when this version cannot say that."""
        said = subprocess.run([str(self.tool), "--socket", str(lab.folder / "control.sock"), *argv], capture_output=True,
                              text=True, timeout=10, check=False)
        return said.stdout if said.returncode == 0 else None


class WireGuard:
    """A WireGuard in user space, the same program at both ends."""

    def __init__(self, name, argv, version):
        self.name, self.argv, self.said = name, argv, version

    def version(self):
        return self.said

    def start(self, lab, ns, core, role):
        """Starts one end; its device carries the name of the lab, because its socket is in a folder that all share."""
        device = f"{ns}w"
        process = lab.start(ns, core, f"{role}.log", *self.argv, device)
        lab.await_that(self.name, process, lambda: (WIREGUARD_SOCKETS / f"{device}.sock").exists())
        return device, process

    def set(self, lab, ns, device, key, peer_key, address, *peer):
        private = lab.folder / f"{device}.key"
        private.touch(0o600)
        private.write_text(key)
        lab.inside(ns, "wg", "set", device, "private-key", str(private), "listen-port", str(WIREGUARD_PORT),
                   "peer", peer_key, *peer)
        command("ip", "-n", ns, "addr", "add", f"{address}/16", "dev", device)
        command("ip", "-n", ns, "link", "set", device, "up")

    def serve(self, lab, **_):
        self.keys = [command("wg", "genkey").strip() for _ in range(2)]
        self.public = [subprocess.run(["wg", "pubkey"], input=key, capture_output=True, text=True, timeout=10,
                                      check=True).stdout.strip() for key in self.keys]
        device, server = self.start(lab, lab.gateway, GATEWAY_CORE, "server")
        self.set(lab, lab.gateway, device, self.keys[0], self.public[1], INNER_GATEWAY, "allowed-ips", f"{INNER_CLIENT}/32")
        return server

    def join(self, lab, _server):
        device, client = self.start(lab, lab.client, OTHER_CORE, "client")
        self.set(lab, lab.client, device, self.keys[1], self.public[0], INNER_CLIENT, "allowed-ips", "0.0.0.0/0",
                 "endpoint", f"{OUTER_GATEWAY}:{WIREGUARD_PORT}")
        command("ip", "-n", lab.client, "route", "add", f"{LAN_HOST}/32", "dev", device)
        return client


class Forward:
    """No tunnel: the kernel forwards. Its cost is that of the gateway's NAPI threads."""

    name = "ip_forward"

    def version(self):
        return "the kernel's"

    def serve(self, lab, **_):
        command("ip", "-n", lab.client, "route", "replace", f"{LAN_HOST}/32", "via", OUTER_GATEWAY)
        command("ip", "-n", lab.lan, "route", "replace", f"{OUTER_CLIENT}/32", "via", LAN_GATEWAY)

    def join(self, _lab, _server):
        return None

    def leave(self, lab):
        command("ip", "-n", lab.client, "route", "del", f"{LAN_HOST}/32")
        command("ip", "-n", lab.lan, "route", "del", f"{OUTER_CLIENT}/32")


def peers(folder):
    """Those beside the gateway, from the folder that tests/bench/peers fills."""
    folder = Path(folder)
    missing = [name for name in ("openvpn-2.6", "openvpn-2.7", "boringtun-cli", "wireguard-go")
               if not (folder / name).exists()]
    if missing:
        raise BenchError(f"{', '.join(missing)}: not in {folder}; run tests/bench/peers")
    boringtun, wireguard = folder / "boringtun-cli", folder / "wireguard-go"
    package = (folder / "root-wireguard-go" / "version").read_text().strip()
    return [
        OpenVpn("openvpn-2.6", str(folder / "openvpn-2.6")),
        OpenVpn("openvpn-2.7", str(folder / "openvpn-2.7")),
        WireGuard("boringtun", [str(boringtun), "--foreground", "--disable-drop-privileges"],
                  command(str(boringtun), "--version").strip()),
        WireGuard("wireguard-go", [str(wireguard), "--foreground"], f"wireguard-go {package} (Debian sid)"),
        Forward(),
    ]
