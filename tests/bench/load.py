"""Packets by `tessera-load data`, through any gateway for OpenVPN, with what they cost.

The generator says from when to when it measured; before and after that nothing is under way. The gateway's account is read
all the time beside it, and the readings just outside of that time are what counts.
"""

import json
import math
import threading
import time

import metrics
from accounts import Account, per_gb
from lab import LAN_HOST, OTHER_CORE, OUTER_GATEWAY, BenchError

PERIOD_S = 0.05
# Logins of 10,000 peers at some hundred a second, a bank for each, and the quiet times of the generator.
PATIENCE_S = 180
BULK_SIZE, BULK_PEERS = "1400", 16
# A gateway's capacity is what it carries with no more loss than this; searched for in short loads until it is known that well.
TOLERATED_LOSS_PERCENT = 1.0
SEARCH_S, SEARCH_STEPS, SEARCH_TRIES, SEARCH_ENDS = 1, 8, 2, 1.1
# Memory for packets sealed before the clock runs; a load ends when they are used up. A short one takes less time to seal.
BANK_MIB, SEARCH_BANK_MIB = 6144, 2048


class Sampler(threading.Thread):
    """Reads an account all the time, until it is stopped."""

    def __init__(self, account):
        super().__init__(daemon=True)
        self.account, self.readings = account, []
        self.done, self.error = threading.Event(), None

    def run(self):
        try:
            while not self.done.wait(PERIOD_S):
                self.readings.append(self.account.read())
        except OSError as error:
            # The gateway is gone: whoever looks at its readings is told.
            self.error = error

    def around(self, start, end):
        """The readings just before `start` and well after `end`."""
        self.done.set()
        self.join()
        if self.error is not None:
            raise BenchError(f"the gateway's account cannot be read: {self.error}")
        before = [each for each in self.readings if each["time"] <= start]
        after = [each for each in self.readings if each["time"] >= end + 2 * PERIOD_S]
        if not before or not after:
            raise BenchError("no reading of the gateway's account lies outside of what was measured")
        return before[-1], after[0]


def argv_of(lab, binary, seconds, peers, *extra):
    return [str(binary), "data", "--json", "--server", f"{OUTER_GATEWAY}:1194", "--ca", "ca.crt", "--cert", "client.crt",
            "--key", "client.key", "--peers", str(peers), "--seconds", str(seconds), "--client-netns", lab.client,
            "--lan-netns", lab.lan, "--lan-host", LAN_HOST, "--cores", str(OTHER_CORE), *extra]


def run(lab, pid, binary, seconds, way, size=BULK_SIZE, peers=BULK_PEERS, rate=None, probes=0, bank=BANK_MIB,
        ask=lambda: None):
    """One load. `rate` is packets a second (as many as the generator can without one), `probes` packets a second by a peer of
    their own, for latency, `bank` MiB; `ask` gives the gateway's metrics, or nothing."""
    account, earlier = Account(lab, pid), metrics.read(ask())
    sampler = Sampler(account)
    process = lab.start(None, OTHER_CORE, "load.log",
                        *argv_of(lab, binary, seconds, peers, "--direction", way, "--size", str(size),
                                 "--probe-rate", str(probes), "--bank-mib", str(bank), *(["--rate", f"{rate:.0f}"] if rate else [])))
    sampler.start()
    try:
        process.wait(seconds + PATIENCE_S)
        # One reading more, after the last packet.
        time.sleep(4 * PERIOD_S)
    except Exception as error:
        raise BenchError(f"the load generator has not ended within {seconds + PATIENCE_S} s") from error
    finally:
        sampler.done.set()
        lab.stop(process)
    if process.returncode != 0:
        raise BenchError(f"load generator: exit {process.returncode}\n{process.log.read_text()}")
    report = json.loads(process.log.read_text().splitlines()[-1])
    said = metrics.between(earlier, metrics.read(ask()))
    if report[way]["delivered_packets"] == 0 or report["sessions_ended"]:
        raise BenchError(f"no packet came through, or sessions ended; the gateway says: {metrics.line(said) or 'nothing'}; {report}")
    return {**digest(report, way, account, sampler), "said": said, "load": report}


def search(load):
    """The highest rate, in packets a second, of which next to nothing is lost. `load(rate)` puts on a short load. Where nothing
    is lost however much the generator sends, it is what the generator can."""
    flood = load(None)
    low, high, rate = None, flood["offered_kpps"] * 1e3, flood["pps"]
    if flood["loss_percent"] <= TOLERATED_LOSS_PERCENT:
        return high
    for _ in range(SEARCH_STEPS):
        # A second try: what else the machine does may lose packets as well.
        if any(load(rate)["loss_percent"] <= TOLERATED_LOSS_PERCENT for _ in range(SEARCH_TRIES)):
            low = rate
        else:
            high = rate
        if low and high / low < SEARCH_ENDS:
            break
        rate = math.sqrt(low * high) if low else high / 2
    # None was low enough: the report shows what this one loses.
    return low or rate


def digest(report, way, account, sampler):
    """The generator's report and the gateway's account of the same time, as numbers for each packet and GB that arrived."""
    found = report[way]
    packets, gb = found["delivered_packets"], found["delivered_bytes"] / 1e9
    spent = account.close(*sampler.around(report["measured_from"], report["measured_until"]))
    latency = found["latency"] or {}
    return {
        "gb": gb,
        "packets": packets,
        "pps": found["pps"],
        "kpps": found["pps"] / 1e3,
        "gbit_per_s": found["gbit_per_s"],
        "offered_kpps": found["offered_pps"] / 1e3,
        "loss_percent": found["loss_percent"],
        "bad_samples": found["bad_samples"],
        "p50_us": latency.get("p50_us"),
        "p99_us": latency.get("p99_us"),
        "process_ns_per_packet": 1e9 * spent["process_cpu_s"] / packets,
        "workers_ns_per_packet": sum(spent["workers_ns"].values()) / packets,
        "gateway_core_percent": 100 * spent["gateway_core_busy_s"] / spent["elapsed_s"],
        "generator_core_percent": 100 * spent["other_core_busy_s"] / spent["elapsed_s"],
        "generator_batches": f"generator: {report['train']} packets a train, {found['packets_per_read']:.1f} packets a read",
        **per_gb(spent, gb),
        **spent,
    }
