"""`run data`: what moving packets costs, the gateway and its peers side by side, on the same work and in turns.

Three network namespaces: clients, gateway, LAN. Each gateway has core 0; clients, load generator and LAN host are on core 1.
The figures R1…R8, each with what it must and shall reach:

  R1     one TCP stream of a stock 2.6 client, CPU per GB: tessera, openvpn 2.6 and 2.7, and the kernel forwarding without any
         tunnel
  R2     bulk traffic of clients that send large segments, CPU per GB: tessera under our generator; boringtun and wireguard-go
         with their own client
  R3     the bare AEAD loop's time to the workers' time per packet
  R4     throughput of one gateway core under our generator: tessera, openvpn 2.6 and 2.7
  R5     one worker and two, the generator's cost taken out
  R6     latency at half of the capacity; with logins beside it
  R7     memory with 10,000 idle sessions
  R8     allocations per packet: a test of its own, named only
  sweep  sizes by numbers of peers; only when asked for

tests/bench/peers installs what is measured beside the gateway.
"""

import argparse
import itertools
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import contenders
import figures
import works
from lab import NICE, OTHER_CORE, BenchError, Lab, Stopped, prefer
from measure import build, machine, say
from plot import draw
from report import document

TOOLS = ("ip", "iperf3", "openvpn", "openssl", "ethtool", "taskset", "ss", "ping", "sysctl", "wg")
# The default: the sweep takes as long as all of these together.
USUAL = ("R1", "R2", "R3", "R4", "R5", "R6", "R7", "R8")
# Start, logins, banks, warm-up and stop of one load; far above what they take.
OVERHEAD_S = 60
# Loads in one run of a work, those included that search for its capacity.
LOADS = {"stock": 3, "bulk": 40, "core": 40, "aead": 1, "workers": 40, "latency": 40, "idle": 4, "sweep": 20}


def options(argv):
    parser = argparse.ArgumentParser(prog="run data", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", metavar="R1,R4,…", help="these figures (default all but the sweep)")
    parser.add_argument("--pairs", type=int, help="repetitions (default 5)")
    parser.add_argument("--seconds", type=int, help="seconds a load (default 5)")
    parser.add_argument("--quick", action="store_true", help="for trying: one repetition of 2 seconds, a small sweep")
    parser.add_argument("--without", metavar="NAME,…", default="", help="leave out these gateways: "
                        "openvpn-2.6, openvpn-2.7, boringtun, wireguard-go, ip_forward")
    parser.add_argument("--datapath", default="auto", help="tesserad's rung (default auto)")
    parser.add_argument("--receive", choices=("nic", "sender"), default="nic",
                        help="where datagrams are received: by NAPI threads with GRO, as by a network card (default), or on the "
                             "sender's back, as a veth does by itself")
    parser.add_argument("--coalesce", type=int, default=50, metavar="USECS",
                        help="how long the gateway's devices gather packets, as cards do that hold their interrupts back (default "
                             "50, which ice and i40e begin with; 0: not at all); with --receive nic")
    parser.add_argument("--congestion", default="cubic", help="TCP congestion control (default cubic)")
    parser.add_argument("--sizes", default=",".join(works.SWEEP_SIZES), help="of the sweep (default %(default)s)")
    parser.add_argument("--peers", default=",".join(map(str, works.SWEEP_PEERS)), help="of the sweep (default %(default)s)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every number there")
    parser.add_argument("--svg", type=Path, metavar="FILE", help="draw the costs there")
    parser.add_argument("--profile", type=Path, metavar="FOLDER",
                        help="write there where the gateway's time goes, by perf; that costs time itself: do not keep such "
                             "numbers")
    parser.add_argument("--tesserad", type=Path, metavar="FILE", help="measure this binary (with the `tessera` beside it) "
                        "instead of building one")
    parser.add_argument("--load", type=Path, metavar="FILE", help="use this load generator instead of building one")
    chosen = parser.parse_args(argv)
    chosen.pairs = chosen.pairs or (1 if chosen.quick else 5)
    chosen.seconds = chosen.seconds or (2 if chosen.quick else 5)
    chosen.only = chosen.only.split(",") if chosen.only else list(USUAL)
    unknown = [each for each in chosen.only if each not in figures.NEEDS]
    if unknown:
        parser.error(f"--only: {', '.join(unknown)} is none of {', '.join(figures.NEEDS)}")
    if not 1 <= chosen.pairs <= 100 or not 1 <= chosen.seconds <= 600:
        parser.error("--pairs is 1…100, --seconds is 1…600")
    chosen.sizes = chosen.sizes.split(",")
    chosen.peers = [int(each) for each in chosen.peers.split(",")]
    if chosen.quick:
        chosen.sizes, chosen.peers = chosen.sizes[:2], chosen.peers[:2]
    return chosen


def plan(chosen):
    """Work → contenders, in the order in which they take turns."""
    wanted, without = {}, chosen.without.split(",")
    for figure in chosen.only:
        for work, names in figures.NEEDS[figure].items():
            place = wanted.setdefault(work, [])
            place += [name for name in names if name not in place and name not in without]
    return wanted


def programs(chosen, wanted):
    """What has to be built."""
    binary = chosen.tesserad.resolve() if chosen.tesserad else build("tesserad")
    tool = binary.with_name("tessera") if chosen.tesserad else build("tessera")
    load = chosen.load.resolve() if chosen.load else None
    if load is None and wanted.keys() - {"stock", "aead"}:
        load = build("tessera-load")
    aead = build("tesserad", "aead_loop") if "aead" in wanted else None
    return {"tesserad": binary, "tessera": tool, "load": load, "aead": aead}


def cells(chosen, work):
    """What a work is done with, one after another."""
    return list(itertools.product(chosen.sizes, chosen.peers, works.WAYS)) if work == "sweep" else [()]


def measure(bench, work, name, cell):
    """One work with one gateway. Whatever goes wrong with it is a BenchError, and leaves nothing running."""
    bench.begin(work)
    keep = len(bench.lab.running)
    try:
        return getattr(works, work)(bench, bench.contenders.get(name), *cell)
    except (OSError, subprocess.SubprocessError) as problem:
        raise BenchError(f"{type(problem).__name__}: {problem}") from problem
    finally:
        for process in reversed(bench.lab.running[keep:]):
            bench.lab.stop(process)


def perform(bench, chosen, wanted, result):
    """All works, in turns. One that fails is remembered, and the others go on; a signal ends them all."""
    for pair in range(chosen.pairs):
        turns = ((work, cell, name) for work, names in wanted.items() for cell in cells(chosen, work)
                 for name in (names if pair % 2 == 0 else reversed(names)))
        for work, cell, name in turns:
            run = {"work": work, "contender": name, "pair": pair, "load": os.getloadavg()[0]}
            what = " ".join([f"{pair + 1}/{chosen.pairs} {work:8} {name:12}", *map(str, cell)])
            try:
                run["result"] = measure(bench, work, name, cell)
            except BenchError as problem:
                say(f"{what}  FAILED: {problem}")
                result["failures"].append({**run, "failure": str(problem)})
                if isinstance(problem, Stopped):
                    return
                continue
            result["runs"].append(run)
            say(what + progress(run["result"]))


def progress(result):
    """The costs among what was found, for a line of progress."""
    found = [(way, result[way]) for way in works.WAYS if "gbit_per_s" in result.get(way, {})]
    if "gbit_per_s" in result:
        found = [("", result)]
    return "".join(f"  {way} {each['gbit_per_s']:.2f} Gbit/s" + (
        "" if each["process_cpu_s_per_gb"] is None else f" {each['process_cpu_s_per_gb']:.2f} CPU-s/GB") for way, each in found)


def main(argv):
    chosen = options(argv)
    wanted = plan(chosen)
    missing = [tool for tool in TOOLS + (("perf",) if chosen.profile else ()) if shutil.which(tool) is None]
    if missing:
        raise BenchError(f"missing: {', '.join(missing)}; run tests/bench/peers")
    if os.geteuid() != 0:
        raise BenchError("network namespaces need root")
    if os.cpu_count() < 2:
        raise BenchError("two cores are needed: one for the gateway, one for everything else")
    built = programs(chosen, wanted)
    folder = os.environ.get("TESSERA_PEERS") or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tessera-peers"
    field = [contenders.Tessera(built["tesserad"], built["tessera"], chosen.datapath), *contenders.peers(folder)]
    os.sched_setaffinity(0, {OTHER_CORE})
    os.nice(NICE)
    loads = sum(LOADS[work] * len(names) * len(cells(chosen, work)) for work, names in wanted.items())
    signal.alarm(chosen.pairs * loads * (chosen.seconds + OVERHEAD_S) + OVERHEAD_S)
    used = {name for names in wanted.values() for name in names}
    result = {
        "command": shlex.join(["tests/bench/run", "data", *argv]),
        "date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "seconds": chosen.seconds, "pairs": chosen.pairs, "congestion": chosen.congestion, "receive": chosen.receive,
        "coalesce_us": chosen.coalesce,
        "machine": {**machine(), "versions": {each.name: each.version() for each in field if each.name in used}},
        "runs": [], "failures": [],
    }
    with tempfile.TemporaryDirectory(prefix="tessera-bench-") as where:
        lab = Lab(where)
        session_nice = prefer("self")
        try:
            lab.open()
            lab.receive(chosen.receive, chosen.coalesce)
            lab.start_sink()
            bench = works.Bench(lab, chosen, built, field)
            perform(bench, chosen, wanted, result)
            result.update(rung=bench.rung or "not measured", offloads=bench.offloads)
        finally:
            lab.close()
            if session_nice is not None:
                prefer("self", session_nice)
    judged = figures.lines(result["runs"], chosen.only)
    result["figures"] = [{**vars(line), "verdict": line.verdict()} for line in judged]
    if chosen.json:
        chosen.json.write_text(json.dumps(result, indent=1) + "\n")
    if chosen.svg:
        chosen.svg.write_text(draw(result))
    print(document(result, judged))
    if result["failures"]:
        raise BenchError(f"{len(result['failures'])} of {len(result['runs']) + len(result['failures'])} measurements failed")
