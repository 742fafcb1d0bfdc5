"""What is done with each gateway: each work starts it, puts it under its load, stops it, and gives what that cost."""

import contextlib
import json
import re
import time

import load
from contenders import Tessera, WireGuard
from lab import GATEWAY_CORE, OTHER_CORE, OUTER_GATEWAY, BenchError, command
from measure import resident, say
from profiling import Profile
from streams import transfer

WAYS = ("up", "down")
WARM_UP_S = 1
# R5: of what one worker can do; two share the machine with the generator.
SCALING_SHARE = 0.4
# R6: of the capacity, and the logins beside it.
LATENCY_SHARE, LOGINS_PER_S, PROBES_PER_S = 0.5, 200, 1000
IDLE_PEERS = 10_000
# Works without TCP on the LAN.
DATAGRAMS = ("core", "workers", "latency", "sweep")
SWEEP_SIZES, SWEEP_PEERS = ("1400", "imix", "64"), (1, 16, 1000, 10_000)


class Bench:
    """What all works need."""

    def __init__(self, lab, chosen, programs, contenders):
        self.lab, self.seconds, self.congestion = lab, chosen.seconds, chosen.congestion
        self.load, self.aead, self.profiles = programs["load"], programs["aead"], chosen.profile
        self.contenders = {each.name: each for each in contenders}
        self.rung, self.offloads, self.capacities, self.work = None, {}, {}, None

    def begin(self, work):
        """What follows is part of this work: what receives on the LAN's side depends on it."""
        self.work = work
        self.lab.lan_by_napi(work in DATAGRAMS)

    @contextlib.contextmanager
    def served(self, contender, join=False, **options):
        """The gateway while it runs, with its own client in the tunnel if asked for. It may not end by itself."""
        lab = self.lab
        server = contender.serve(lab, **options)
        client = None
        try:
            client = contender.join(lab, server) if join else None
            if join:
                lab.reach()
            lab.rps()
            yield server.pid if server else None
            for process in (server, client):
                if process and process.poll() is not None:
                    raise BenchError(f"{contender.name}: a process ended by itself\n{process.log.read_text()[-4000:]}")
            if isinstance(contender, Tessera):
                self.rung = rung(contender.ask(lab, "status"))
                self.offloads["datagrams" if self.work in DATAGRAMS else "with TCP"] = offloads(lab)
        finally:
            for process in (client, server):
                if process and process in lab.running:
                    lab.stop(process)
            if hasattr(contender, "leave"):
                contender.leave(lab)

    @contextlib.contextmanager
    def profiled(self, name, pid):
        """Under `--profile`: where the gateway's time goes meanwhile, or in the time that is put into what this gives."""
        window = []
        if self.profiles is None or pid is None:
            yield window
            return
        profile = Profile(self.lab.folder, pid)
        try:
            yield window
        finally:
            profile.write(self.profiles / f"{name}.txt", name, window)

    def metrics(self, contender):
        return (lambda: contender.ask(self.lab, "metrics")) if isinstance(contender, Tessera) else (lambda: None)

    def generate(self, contender, pid, way, seconds=None, **options):
        """A load by the generator."""
        found = load.run(self.lab, pid, self.load, seconds or self.seconds, way, ask=self.metrics(contender), **options)
        if isinstance(contender, Tessera) and found["bad_samples"]:
            raise BenchError(f"packets did not arrive as they were sent: {found['load']}")
        return found

    def capacity(self, contender, way, size=load.BULK_SIZE, peers=load.BULK_PEERS):
        """Packets a second that the gateway carries on its core; searched for once in a run of the bench."""
        key = contender.name, way, size, peers, self.work in DATAGRAMS
        if key not in self.capacities:
            with self.served(contender) as pid:
                self.capacities[key] = load.search(lambda rate: self.generate(
                    contender, pid, way, load.SEARCH_S, size=size, peers=peers, rate=rate, bank=load.SEARCH_BANK_MIB))
            say(f"{contender.name}, {way}, {size} B, {peers} peers: carries {self.capacities[key] / 1e3:.0f} kpps")
        return self.capacities[key]


def stock(bench, contender):
    """R1: one TCP stream of a stock client. Tessera's and OpenVPN's gateways have the same client, Debian's."""
    with bench.served(contender, join=True) as pid:
        return tcp(bench, contender, pid)


def bulk(bench, contender):
    """R2: bulk of clients that send large segments: WireGuards by their own client, the others by our generator."""
    if not isinstance(contender, WireGuard):
        return core(bench, contender)
    with bench.served(contender, join=True) as pid:
        return tcp(bench, contender, pid)


def core(bench, contender):
    """R3, R4: what a gateway core carries."""
    out = {}
    for way in WAYS:
        rate = bench.capacity(contender, way)
        with bench.served(contender) as pid, bench.profiled(f"{bench.work}-{contender.name}-{way}", pid) as window:
            out[way] = bench.generate(contender, pid, way, rate=rate)
            window += out[way]["load"]["measured_from"], out[way]["load"]["measured_until"]
    return out


def tcp(bench, contender, pid):
    # Work, so that neither side is measured while its caches, pages and congestion window are cold.
    transfer(bench.lab, pid, "up", WARM_UP_S, bench.congestion)
    out = {}
    for way in WAYS:
        with bench.profiled(f"{bench.work}-{contender.name}-{way}", pid):
            out[way] = transfer(bench.lab, pid, way, bench.seconds, bench.congestion, bench.metrics(contender))
    return out


def aead(bench, _contender):
    """R3: the cipher alone, on the gateway's core."""
    said = command("taskset", "-c", str(GATEWAY_CORE), str(bench.aead), load.BULK_SIZE, str(1000 * min(bench.seconds, 5)),
                   timeout=60)
    return json.loads(said)


def workers(bench, contender):
    """R5: the same load, below what one worker can do, with one worker and with two. The generator's cost is in neither: only
    the workers' processor time counts."""
    out = {}
    for way in WAYS:
        rate = SCALING_SHARE * bench.capacity(contender, way)
        out[way] = {"rate": rate}
        for count, cores in ((1, GATEWAY_CORE), (2, f"{GATEWAY_CORE},{OTHER_CORE}")):
            with bench.served(contender, workers=count, cores=cores) as pid:
                out[way][str(count)] = bench.generate(contender, pid, way, rate=rate)
    return out


def latency(bench, contender):
    """R6: how long packets take at half of the capacity, without and with logins beside them."""
    lab, out = bench.lab, {}
    for way in WAYS:
        rate = LATENCY_SHARE * bench.capacity(contender, way)
        with bench.served(contender, config="tokens.conf") as pid:
            started = time.monotonic()
            quiet = bench.generate(contender, pid, way, rate=rate, probes=PROBES_PER_S)
            took = time.monotonic() - started
        with bench.served(contender, config="tokens.conf") as pid:
            # As long as the load took without them, and somewhat more: they may not end before it.
            logins = lab.start(lab.client, OTHER_CORE, "logins.log", str(bench.load), "logins", "--json", "--server",
                               f"{OUTER_GATEWAY}:1194", "--ca", "ca.crt", "--cert", "client.crt", "--key", "client.key",
                               "--seconds", str(int(1.5 * took) + 2), "--rate", str(LOGINS_PER_S), "--concurrency", "4096")
            busy = bench.generate(contender, pid, way, rate=rate, probes=PROBES_PER_S)
            if logins.poll() is not None:
                raise BenchError(f"the logins have ended before the load\n{logins.log.read_text()}")
            logins.wait(took + load.PATIENCE_S)
            lab.stop(logins)
            said = json.loads(logins.log.read_text().splitlines()[-1])
            if said["logins_per_s"] < 0.9 * LOGINS_PER_S:
                raise BenchError(f"{said['logins_per_s']:.0f} logins/s, not {LOGINS_PER_S}; {said['failed']} failed")
        out[way] = {"rate": rate, "quiet": quiet, "logins": busy,
                    "logins_per_s": said["logins_per_s"], "logins_failed": said["failed"]}
    return out


def idle(bench, contender):
    """R7: memory with 10,000 sessions that do nothing but keep alive."""
    with bench.served(contender) as pid:
        before = resident(pid)
        process = bench.lab.start(None, OTHER_CORE, "load.log",
                                  *load.argv_of(bench.lab, bench.load, bench.seconds, IDLE_PEERS, "--idle"))
        most = before
        while process.poll() is None:
            most = max(most, resident(pid))
            time.sleep(0.2)
        bench.lab.stop(process)
        if process.returncode != 0:
            raise BenchError(f"load generator: exit {process.returncode}\n{process.log.read_text()}")
        return {"before": before, "most": most, "load": json.loads(process.log.read_text().splitlines()[-1])}


def sweep(bench, contender, size, peers, way):
    """One cell of the sweep, at what the gateway carries."""
    rate = bench.capacity(contender, way, size, peers)
    with bench.served(contender) as pid:
        found = bench.generate(contender, pid, way, size=size, peers=peers, rate=rate, probes=PROBES_PER_S)
    return {"size": size, "peers": peers, "way": way, **found}


def rung(status):
    """The rung that the gateway runs on, as it says."""
    match = re.search(r"^data path\s+(.*)$", status or "", re.MULTILINE)
    return match[1].strip() if match else "unknown"


def offloads(lab):
    """What the devices of the gateway's namespace leave to one another, while the tunnel is up."""
    wanted = ("tx-checksumming", "tcp-segmentation-offload", "tx-udp-segmentation", "generic-segmentation-offload",
              "generic-receive-offload", "rx-udp-gro-forwarding")
    lines = []
    for device in lab.inside(lab.gateway, "ls", "/sys/class/net").split():
        if device != "lo":
            state = dict(line.strip().split(": ", 1)
                         for line in lab.inside(lab.gateway, "ethtool", "-k", device).splitlines() if ": " in line)
            lines.append(f"{device} " + ", ".join(f"{key} {state.get(key, '?')}" for key in wanted))
    return lines
