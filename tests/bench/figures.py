"""The figures R1…R8: what each is made of, and what it must and shall reach.

A figure has lines. Each line is a list of values, one a repetition, that are made of the runs of one repetition; judged is
their median.
"""

from dataclasses import dataclass
from statistics import median

from load import BULK_PEERS
from works import IDLE_PEERS, LATENCY_SHARE, LOGINS_PER_S, SCALING_SHARE, WAYS

MIB = 1024 * 1024


@dataclass
class Line:
    """One judged number: `at_most` says on which side of `must` and `aim` it has to be; without bounds it is only stated."""

    figure: str
    title: str
    values: list
    unit: str = ""
    digits: int = 2
    must: float | None = None
    aim: float | None = None
    at_most: bool = True

    def verdict(self):
        if not self.values:
            return "not measured"
        if self.must is None:
            return "stated"
        reached = [bound is not None and (median(self.values) <= bound if self.at_most else median(self.values) >= bound)
                   for bound in (self.aim, self.must)]
        return "aim reached" if reached[0] else "must reached" if reached[1] else "NOT REACHED"

    def bound(self, value):
        return "–" if value is None else f"{'≤' if self.at_most else '≥'} {value:g}"


# Which works, with which contenders, a figure needs.
NEEDS = {
    "R1": {"stock": ("tessera", "openvpn-2.6", "openvpn-2.7", "ip_forward")},
    "R2": {"bulk": ("tessera", "boringtun", "wireguard-go")},
    "R3": {"core": ("tessera",), "aead": ("aead",)},
    "R4": {"core": ("tessera", "openvpn-2.6", "openvpn-2.7")},
    "R5": {"workers": ("tessera",)},
    "R6": {"latency": ("tessera",)},
    "R7": {"idle": ("tessera", "openvpn-2.6")},
    "R8": {},
    "sweep": {"sweep": ("tessera", "openvpn-2.6")},
}
TITLES = {
    "R1": "CPU per GB of bulk TCP through a stock 2.6 client",
    "R2": f"CPU per GB of bulk traffic from clients that send large segments (ours: generator, {BULK_PEERS} peers, 1400 B)",
    "R3": f"share of the bare AEAD loop in the workers' time per packet (1400 B, {BULK_PEERS} peers)",
    "R4": f"throughput of one gateway core under the generator (1400 B, {BULK_PEERS} peers)",
    "R5": f"two workers for one, at {SCALING_SHARE:.0%} of what one can do",
    "R6": f"latency at {LATENCY_SHARE:.0%} of the capacity; {LOGINS_PER_S} logins/s beside it",
    "R7": f"memory with {IDLE_PEERS:,} idle sessions",
    "R8": "allocations and locks per data packet",
}
R8_TEST = "a test with a counting allocator (`cargo test -p tesserad --test worker_no_alloc`), not measured here"


def names_of(runs, work):
    """The gateways that a work was done with, ours first."""
    order = list(dict.fromkeys(name for needs in NEEDS.values() for name in needs.get(work, ())))
    return sorted({run["contender"] for run in runs if run["work"] == work}, key=order.index)


def by_pair(runs, work, contender):
    return {run["pair"]: run["result"] for run in runs if (run["work"], run["contender"]) == (work, contender)}


def compared(runs, work, ours, theirs, value):
    """`value(ours, theirs)` for each repetition that has both."""
    left, right = by_pair(runs, *(ours if isinstance(ours, tuple) else (work, ours))), by_pair(
        runs, *(theirs if isinstance(theirs, tuple) else (work, theirs)))
    return [value(left[pair], right[pair]) for pair in sorted(left.keys() & right.keys())]


def cost_ratio(way):
    return lambda ours, theirs: ours[way]["process_cpu_s_per_gb"] / theirs[way]["process_cpu_s_per_gb"]


def lines(runs, figures):
    """The judged lines of these figures."""
    out = []
    if "R1" in figures:
        for way, must, aim in (("up", 1 / 5, 1 / 10), ("down", 1 / 8, 1 / 20)):
            out.append(Line("R1", f"{way}, tessera / openvpn 2.6",
                            compared(runs, "stock", "tessera", "openvpn-2.6", cost_ratio(way)), "", 3, must, aim))
            out.append(Line("R1", f"{way}, tessera / openvpn 2.7",
                            compared(runs, "stock", "tessera", "openvpn-2.7", cost_ratio(way)), "", 3))
    if "R2" in figures:
        for way in WAYS:
            for theirs, must, aim in (("boringtun", 1 / 5, 1 / 10), ("wireguard-go", 0.6, 0.35)):
                out.append(Line("R2", f"{way}, tessera / {theirs}",
                                compared(runs, "bulk", "tessera", theirs, cost_ratio(way)), "", 3, must, aim))
    if "R3" in figures:
        for way, cipher in (("up", "open_ns"), ("down", "seal_ns")):
            out.append(Line("R3", f"{way}, {cipher.removesuffix('_ns')} / worker",
                            compared(runs, None, ("core", "tessera"), ("aead", "aead"),
                                     lambda ours, bare, way=way, cipher=cipher:
                                     bare[cipher] / ours[way]["workers_ns_per_packet"]),
                            "", 2, 0.4, 0.6, at_most=False))
    if "R4" in figures:
        for way in WAYS:
            for name, must, aim in (("openvpn-2.6", 10, 20), ("openvpn-2.7", None, None)):
                out.append(Line("R4", f"{way}, tessera / {name}, Gbit per CPU second",
                                compared(runs, "core", "tessera", name, lambda ours, theirs, way=way:
                                         theirs[way]["gateway_side_cpu_s_per_gb"] / ours[way]["gateway_side_cpu_s_per_gb"]),
                                "×", 1, must, aim, at_most=False))
                out.append(Line("R4", f"{way}, tessera / {name}, delivered",
                                compared(runs, "core", "tessera", name, lambda ours, theirs, way=way:
                                         ours[way]["gbit_per_s"] / theirs[way]["gbit_per_s"]), "×", 1))
    if "R5" in figures:
        for way in WAYS:
            out.append(Line("R5", way, [scaling(result[way]) for result in by_pair(runs, "workers", "tessera").values()],
                            "×", 2, 1.8, 1.95, at_most=False))
    if "R6" in figures:
        results = by_pair(runs, "latency", "tessera").values()
        for way in WAYS:
            out.append(Line("R6", f"{way}, p50", [each[way]["quiet"]["p50_us"] for each in results], "µs", 0))
            out.append(Line("R6", f"{way}, p99", [each[way]["quiet"]["p99_us"] for each in results], "µs", 0))
            out.append(Line("R6", f"{way}, p99 with {LOGINS_PER_S} logins/s / without",
                            [each[way]["logins"]["p99_us"] / each[way]["quiet"]["p99_us"] for each in results],
                            "×", 2, 1.3, 1.1))
    if "R7" in figures:
        for name, must, aim in (("tessera", 400, 240), ("openvpn-2.6", None, None)):
            out.append(Line("R7", name, [each["most"] / MIB for each in by_pair(runs, "idle", name).values()], "MiB", 0,
                            must, aim))
    return out


def scaling(result):
    """How much more two workers can do than one: what a packet costs one worker, to what it costs the busier of the two.

    A worker can do as many packets a second as its time per packet goes into a second; two can do so until the busier one is
    full.
    """
    one, two = (list(result[count]["workers_ns"].values()) for count in ("1", "2"))
    packets = {count: result[count]["packets"] for count in ("1", "2")}
    return (sum(one) / packets["1"]) / (max(two) / packets["2"])
