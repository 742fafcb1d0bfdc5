"""`run logins`: full logins by `tessera-load`, Tessera and Debian's openvpn side by side.

Same server configuration for both, one login after another as fast as the server goes ("saturation": a fixed number under
way), then at half of what each was found to do ("moderate"). A login is all of it: reset, cookie, TLS 1.3 (ECDSA P-256 on
both sides, nothing resumed), key method 2, PUSH_REPLY with an auth-token, and the goodbye that makes the server forget the
client. Each comes from a source port of its own.

Two cases. "plain": the certificate logs in and a file of client-config-dir pushes the token, no program runs. "script":
client-connect is a shell script that takes 200 ms and writes the token's push; the files for it are in memory (tmp-dir).

The gateway (and its scripts) have core 0 for themselves, the load generator and the bench are on core 1. The servers take
turns in ABBA order. CPU time is from /proc/PID/stat: the process itself and, apart from it, the programs that it ran.
"""

import argparse
import json
import os
import shlex
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path

from lab import (GATEWAY_CORE, NICE, OTHER_CORE, OUTER_CLIENT, OUTER_GATEWAY, TOKEN, TOKEN_CONFIG, BenchError, Lab, command,
                 make_pki, prefer)
from logins_report import document, summary
from measure import BUSY_FIELDS, TICK, build, cpu_of, cpu_of_cores, machine, of_openvpn, of_tessera, say

TOOLS = ("ip", "openvpn", "openssl", "taskset", "ss", "sysctl")
# Start, warm-up and stop of one run, and the end of its loads: logins that wait behind a slow script.
RUN_OVERHEAD_S = 90
WARM_UP_S = 1
# OpenVPN keeps a session for 5 s after its goodbye: before the next measurement it has forgotten those of the last.
FORGET_S = 6

# Both servers: no limit of theirs may be what is measured. A login in openvpn's table lasts 5 s longer than the client.
SERVER_CONFIG = """\
port 1194
proto udp
dev tun
topology subnet
server 10.64.0.0 255.255.0.0
ca ca.crt
cert server.crt
key server.key
dh none
data-ciphers AES-256-GCM
keepalive 10 60
duplicate-cn
max-clients 30000
hash-size 32768 32768
connect-freq-initial 100000 1
verb 3
"""

CASES = {
    "plain": TOKEN_CONFIG,
    "script": "script-security 2\nclient-connect ./client-connect\ntmp-dir {memory}\n",
}
# Files for scripts are made here, in memory, by both: what ext4 takes to make one depends on how many others on the same
# disk have just been deleted, whoever did that.
MEMORY = Path("/dev/shm")
# Logins under way at saturation. With the script: more than Tessera runs scripts at a time (hook-concurrency, 64).
CONCURRENCY = {"plain": 64, "script": 96}
SCRIPT = f"""\
#!/bin/sh
sleep 0.2
echo 'push "auth-token {TOKEN}"' > "$1"
"""


class LoginLab(Lab):
    """Two namespaces: the gateway's and the load generator's."""

    def __init__(self, folder, memory):
        super().__init__(folder)
        self.memory = memory

    def open(self):
        make_pki(self.folder)
        for case, lines in CASES.items():
            (self.folder / f"{case}.conf").write_text(SERVER_CONFIG + lines.format(memory=self.memory))
        self.write_token()
        script = self.folder / "client-connect"
        script.write_text(SCRIPT)
        script.chmod(0o755)
        self.spaces(self.client, self.gateway)
        self.link("wan0", self.gateway, OUTER_GATEWAY, "wan0", self.client, OUTER_CLIENT)
        # Every login has a port of its own, and a port rests before it is used again.
        self.inside(self.client, "sysctl", "-qw", "net.ipv4.ip_local_port_range=2048 65535")
        self.rps_off()

    def load(self, binary, *extra, patience):
        """Runs the load generator to its end, and gives its report."""
        load = self.start(self.client, OTHER_CORE, "load.log", str(binary), "logins", "--json",
                          "--server", f"{OUTER_GATEWAY}:1194", "--ca", "ca.crt", "--cert", "client.crt",
                          "--key", "client.key", *extra)
        try:
            load.wait(patience)
        except Exception as error:
            raise BenchError(f"the load generator has not ended within {patience} s") from error
        finally:
            self.stop(load)
        if load.returncode not in (0, 1):
            raise BenchError(f"load generator: exit {load.returncode}\n{load.log.read_text()}")
        return json.loads(load.log.read_text())


def options(argv):
    parser = argparse.ArgumentParser(prog="run logins", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=5, help="runs of each server and case (default 5)")
    parser.add_argument("--seconds", type=int, default=8, help="seconds a load (default 8)")
    parser.add_argument("--cases", nargs="+", choices=list(CASES), default=list(CASES), help="default: both")
    parser.add_argument("--servers", nargs="+", choices=["tessera", "openvpn"], default=["tessera", "openvpn"],
                        help="default: both, in turns")
    parser.add_argument("--workers", default="1", help="tesserad's data workers (default 1)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every figure there")
    parser.add_argument("--tesserad", type=Path, metavar="FILE", help="measure this binary instead of building one")
    parser.add_argument("--load", type=Path, metavar="FILE", help="use this load generator instead of building one")
    chosen = parser.parse_args(argv)
    if not 1 <= chosen.pairs <= 100 or not 1 <= chosen.seconds <= 600:
        parser.error("--pairs is 1…100, --seconds is 1…600")
    return chosen


def children_cpu(pid):
    """CPU seconds of the programs that a process ran and waited for."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[13]) + int(fields[14])) / TICK


def udp_drops(lab):
    """Datagrams that the gateway's sockets had no room for."""
    names, values = (line.split() for line in lab.inside(lab.gateway, "cat", "/proc/net/snmp").splitlines()
                     if line.startswith("Udp:"))
    return int(values[names.index("RcvbufErrors")])


def loaded(lab, server, binary, patience, *extra):
    """One load, with what it cost the gateway."""
    before = cpu_of(server.pid), children_cpu(server.pid), cpu_of_cores(), udp_drops(lab)
    started = time.monotonic()
    report = lab.load(binary, *extra, patience=patience)
    elapsed = time.monotonic() - started
    after = cpu_of(server.pid), children_cpu(server.pid), cpu_of_cores(), udp_drops(lab)
    logins = report["logins"]
    if logins == 0:
        raise BenchError(f"no login came through: {report}\n{server.log.read_text()[-4000:]}")
    own, scripts = after[0] - before[0], after[1] - before[1]
    latency = report["password_latency_ms"]
    result = {
        "logins": logins,
        "logins_per_s": report["logins_per_s"],
        "failed": report["failed"],
        "server_cpu_ms_per_login": 1000 * own / logins,
        "scripts_cpu_ms_per_login": 1000 * scripts / logins,
        "logins_per_cpu_s": logins / (own + scripts) if own + scripts else 0.0,
        "p50_ms": latency["p50"],
        "p99_ms": latency["p99"],
        "client_cpu_ms_per_login": report["client_cpu_ms_per_login"],
        "client_cpu_percent": 100 * report["client_cpu_s"] / elapsed,
        "udp_drops": after[3] - before[3],
        "load": report,
    }
    for name, core in (("gateway", GATEWAY_CORE), ("other", OTHER_CORE)):
        busy = sum(after[2][core][kind] - before[2][core][kind] for kind in BUSY_FIELDS)
        result[f"{name}_core_percent"] = 100 * busy / elapsed
    return result


def measure(lab, name, case, argv, binary, seconds):
    """One run of one server: warm-up, saturation, moderate rate."""
    server = lab.serve(argv)
    running = Path(f"/proc/{server.pid}/comm").read_text().strip()
    if running != Path(argv[0]).name:
        raise BenchError(f"process {server.pid} is {running}, not {argv[0]}")
    result = {"server": name, "case": case, "load": os.getloadavg()[0]}
    patience = seconds + RUN_OVERHEAD_S
    # A second of work, so that neither side is measured while its caches and pages are cold.
    loaded(lab, server, binary, patience, "--seconds", str(WARM_UP_S), "--concurrency", "8")
    time.sleep(FORGET_S)
    result["saturation"] = loaded(lab, server, binary, patience, "--seconds", str(seconds),
                                  "--concurrency", str(CONCURRENCY[case]))
    time.sleep(FORGET_S)
    rate = result["saturation"]["logins_per_s"] / 2
    result["moderate"] = loaded(lab, server, binary, patience, "--seconds", str(seconds), "--rate", f"{rate:.2f}",
                                "--concurrency", "4096")
    result["moderate"]["offered_per_s"] = rate
    if server.poll() is not None:
        raise BenchError(f"{name}: the gateway ended by itself\n{server.log.read_text()[-4000:]}")
    lab.stop(server)
    return result


def main(argv):
    chosen = options(argv)
    missing = [tool for tool in TOOLS if shutil.which(tool) is None]
    if missing:
        raise BenchError(f"missing: {', '.join(missing)}")
    if os.geteuid() != 0:
        raise BenchError("network namespaces need root")
    if not MEMORY.is_mount():
        raise BenchError(f"{MEMORY} is no file system of its own: files for scripts would be on the disk")
    if os.cpu_count() < 2:
        raise BenchError("two cores are needed: one for the gateway, one for everything else")
    binary = chosen.tesserad.resolve() if chosen.tesserad else build("tesserad")
    load = chosen.load.resolve() if chosen.load else build("tessera-load")
    os.sched_setaffinity(0, {OTHER_CORE})
    os.nice(NICE)
    runs = chosen.pairs * len(chosen.servers) * len(chosen.cases)
    signal.alarm(runs * (2 * (chosen.seconds + RUN_OVERHEAD_S) + RUN_OVERHEAD_S))
    servers = {
        "tessera": lambda case: [str(binary), "--config", f"{case}.conf", "--workers", chosen.workers],
        "openvpn": lambda case: [shutil.which("openvpn"), "--config", f"{case}.conf", "--disable-dco"],
    }
    result = {
        "command": shlex.join(["tests/bench/run", "logins", *argv]),
        "date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "seconds": chosen.seconds,
        "pairs": chosen.pairs,
        "concurrency": CONCURRENCY,
        "cases": chosen.cases,
        "machine": {**machine(), **dict(zip(("tessera", "tessera_sha256"), of_tessera(binary))), "openvpn": of_openvpn(),
                    "load": command(str(load), "--version").strip()},
        "runs": [],
    }
    with (tempfile.TemporaryDirectory(prefix="tessera-bench-") as folder,
          tempfile.TemporaryDirectory(prefix="tessera-bench-", dir=MEMORY) as memory):
        lab = LoginLab(folder, memory)
        session_nice = prefer("self")
        try:
            lab.open()
            for pair in range(chosen.pairs):
                for case in chosen.cases:
                    for name in chosen.servers if pair % 2 == 0 else reversed(chosen.servers):
                        run = measure(lab, name, case, servers[name](case), load, chosen.seconds)
                        result["runs"].append(run)
                        full, half = run["saturation"], run["moderate"]
                        say(f"pair {pair + 1}/{chosen.pairs} {case:6} {name:8} {full['logins_per_s']:7.1f} logins/s, "
                            f"{full['server_cpu_ms_per_login']:.2f} ms CPU, p50 {full['p50_ms']:.0f} p99 "
                            f"{full['p99_ms']:.0f} ms, client {full['client_cpu_percent']:.0f} %; at "
                            f"{half['offered_per_s']:.0f}/s p50 {half['p50_ms']:.1f} p99 {half['p99_ms']:.1f} ms; "
                            f"failed {full['failed']}+{half['failed']}")
        finally:
            lab.close()
            if session_nice is not None:
                prefer("self", session_nice)
    result["summary"] = summary(result["runs"])
    if chosen.json:
        chosen.json.write_text(json.dumps(result, indent=1) + "\n")
    print(document(result))
