"""What a piece of work cost: CPU time of the gateway, of its workers, of the NAPI threads and of both cores."""

import os
import time
from pathlib import Path

from lab import GATEWAY_CORE, OTHER_CORE
from measure import BUSY_FIELDS, cpu_of, cpu_of_cores, threads_of

# Threads of tesserad that move packets.
WORKER = "data-"


def udp_drops(lab, ns):
    """Datagrams that the sockets of a namespace had no room for."""
    names, values = (line.split() for line in lab.inside(ns, "cat", "/proc/net/snmp").splitlines()
                     if line.startswith("Udp:"))
    return int(values[names.index("RcvbufErrors")])


def living(pid):
    """CPU seconds of a process, and none of one that has just ended: those are in our own account then."""
    try:
        return cpu_of(pid)
    except FileNotFoundError:
        return 0.0


class Account:
    """Of a gateway while something goes through it; `pid` is its process, or nothing where the kernel is the gateway.

    `read` at any two moments and `between` them, or all at once: made before the work and closed after it."""

    def __init__(self, lab, pid):
        self.lab, self.pid = lab, pid
        self.drops = self.read_drops()
        self.before = self.read()

    def read(self):
        """Cheap enough to do it many times a second."""
        lab, times = self.lab, os.times()
        return {
            "time": time.monotonic(),
            "process": cpu_of(self.pid) if self.pid else None,
            "threads": threads_of(self.pid) if self.pid else {},
            "napi": sum(cpu_of(pid) for pid in lab.napi),
            "bench": sum(times[:4]) + sum(living(each.pid) for each in list(lab.running)) +
                     sum(cpu_of(pid) for pid in lab.napi + lab.far_napi),
            "cores": cpu_of_cores(),
        }

    def read_drops(self):
        lab = self.lab
        return {side: udp_drops(lab, ns) for side, ns in (("gateway", lab.gateway), ("client", lab.client))}

    def close(self, before=None, after=None):
        """The differences between two readings, by default the first and one of now; drops are always those of all the time."""
        spent = between(before or self.before, after or self.read())
        drops = self.read_drops()
        return {**spent, **{f"{side}_udp_drops": drops[side] - self.drops[side] for side in drops}}


def between(before, after):
    """Seconds, but for `workers_ns`: the nanoseconds of each worker thread."""
    elapsed = after["time"] - before["time"]
    cores = {core: {kind: after["cores"][core][kind] - before["cores"][core][kind] for kind in kinds}
             for core, kinds in after["cores"].items()}
    busy = {core: sum(kinds[kind] for kind in BUSY_FIELDS) for core, kinds in cores.items()}
    return {
        "elapsed_s": elapsed,
        "process_cpu_s": None if before["process"] is None else after["process"] - before["process"],
        "napi_cpu_s": after["napi"] - before["napi"],
        "gateway_core_busy_s": busy[GATEWAY_CORE],
        "other_core_busy_s": busy[OTHER_CORE],
        "gateway_core_softirq_s": cores[GATEWAY_CORE]["softirq"],
        "other_core_softirq_s": cores[OTHER_CORE]["softirq"],
        # What other work did meanwhile, as far as the two accounts agree: below 0 it says that they do not.
        "foreign_percent": 100 * (sum(busy.values()) - (after["bench"] - before["bench"])) / (elapsed * len(busy)),
        "steal_percent": 100 * sum(kinds["steal"] for kinds in cores.values()) / (elapsed * len(cores)),
        "workers_ns": {name: after["threads"][tid, name] - spent for (tid, name), spent in before["threads"].items()
                       if name.startswith(WORKER) and (tid, name) in after["threads"]},
    }


def per_gb(account, gb):
    """The account for each 10^9 bytes. Where the kernel forwards, on whoever's back, no time can be told to be the gateway's."""
    process = account["process_cpu_s"]
    return {
        "process_cpu_s_per_gb": None if process is None else process / gb,
        "gateway_side_cpu_s_per_gb": None if process is None else (process + account["napi_cpu_s"]) / gb,
        "gateway_core_busy_s_per_gb": account["gateway_core_busy_s"] / gb,
        "both_cores_busy_s_per_gb": (account["gateway_core_busy_s"] + account["other_core_busy_s"]) / gb,
        "gateway_core_softirq_s_per_gb": account["gateway_core_softirq_s"] / gb,
        "other_core_softirq_s_per_gb": account["other_core_softirq_s"] / gb,
    }
