"""From the runs of `run data` to Markdown."""

from statistics import median

import figures
import metrics
from load import BULK_PEERS, SEARCH_ENDS, TOLERATED_LOSS_PERCENT
from works import LATENCY_SHARE, LOGINS_PER_S, WAYS

DIRECTIONS = {"up": "client → LAN", "down": "LAN → client"}
WORKS = {
    "stock": "One TCP stream of a stock 2.6 client (R1)",
    "bulk": f"Bulk of clients that send large segments (R2): tessera under our generator with {BULK_PEERS} peers and 1400 B, the "
            "WireGuards with one TCP stream of their own client",
    "core": f"One gateway core under our generator (R3, R4): {BULK_PEERS} peers, 1400 B",
}
# Key in a run's direction, heading, digits. What a run has none of is a dash.
COST = (
    ("gbit_per_s", "Gbit/s", 2),
    ("kpps", "kpps", 0),
    ("process_cpu_s_per_gb", "gateway process, CPU-s/GB", 2),
    ("gateway_side_cpu_s_per_gb", "with its NAPI threads", 2),
    ("both_cores_busy_s_per_gb", "both cores busy, s/GB", 2),
    ("gateway_core_softirq_s_per_gb", "softirq on its core, s/GB", 2),
    ("other_core_softirq_s_per_gb", "on the other, s/GB", 2),
    ("process_ns_per_packet", "process, ns/packet", 0),
    ("gateway_core_percent", "its core busy, %", 0),
    ("generator_core_percent", "the other, %", 0),
    ("outer_bytes_per_packet", "TCP bytes a packet on the outer device", 0),
    ("loss_percent", "lost, %", 1),
    ("gateway_udp_drops", "dropped at its socket", 0),
    ("bad_samples", "bad among the packets looked at", 0),
    ("foreign_percent", "others' work, %", 0),
)


def spread(values, digits):
    return f"{median(values):.{digits}f} ({min(values):.{digits}f}–{max(values):.{digits}f})"


def rows(header, body):
    """A Markdown table: numbers to the right, but for the first two columns."""
    marks = ["---" if at < 2 else "---:" for at in range(len(header))]
    return [f"| {' | '.join(each)} |" for each in (header, marks, *body)] + [""]


def verdicts(judged):
    return rows(
        ["figure", "line", "median (min–max)", "must", "aim", "verdict"],
        [[line.figure, line.title, f"{spread(line.values, line.digits)} {line.unit}".strip() if line.values else "–",
          line.bound(line.must), line.bound(line.aim), line.verdict()] for line in judged])


def costs(runs, work):
    names = figures.names_of(runs, work)
    found = {(way, name): [result[way] for result in figures.by_pair(runs, work, name).values()]
             for way in WAYS for name in names}
    # Only what somebody has.
    shown = [column for column in COST
             if any(each.get(column[0]) is not None for results in found.values() for each in results)]
    body = [[DIRECTIONS[way], name, *(
        spread([each[key] for each in results], digits) if all(each.get(key) is not None for each in results) else "–"
        for key, _, digits in shown)] for (way, name), results in found.items()]
    return [f"### {WORKS[work]}", "", *rows(["direction", "gateway", *(heading for _, heading, _ in shown)], body),
            *batch_lines(runs, work, names)]


def batch_lines(runs, work, names):
    """Mean batch sizes of the last repetition, beside the figures that they explain."""
    out = []
    for name in names:
        last = list(figures.by_pair(runs, work, name).values())[-1]
        out += [f"- {name}, {way}: {text}" for way in WAYS if (text := batch_text(last[way]))]
    return ["Batch sizes, in the last repetition:", "", *out, ""] if out else []


def batch_text(result):
    gateway = metrics.line(result["said"])
    return "; ".join(part for part in (f"gateway: {gateway}" if gateway else "", result.get("generator_batches", "")) if part)


def bare(runs):
    found = list(figures.by_pair(runs, "aead", "aead").values())
    if not found:
        return []
    return [f"Bare AES-256-GCM (ring), {found[0]['bytes']} B: seal {spread([each['seal_ns'] for each in found], 0)} ns, "
            f"open {spread([each['open_ns'] for each in found], 0)} ns a packet.", ""]


def latencies(runs):
    body = []
    for way in WAYS:
        for result in figures.by_pair(runs, "latency", "tessera").values():
            one = result[way]
            body.append([DIRECTIONS[way], f"{one['rate']:.0f}",
                         *(f"{one[name][key]:.0f}" for name in ("quiet", "logins") for key in ("p50_us", "p99_us")),
                         f"{one['logins_per_s']:.0f}", f"{one['logins_failed']}",
                         *(f"{one[name]['loss_percent']:.2f}" for name in ("quiet", "logins"))])
    if not body:
        return []
    return [f"### Latency at {LATENCY_SHARE:.0%} of the capacity (R6), each repetition", "",
            *rows(["direction", "packets/s", "p50, µs", "p99, µs", f"p50 with {LOGINS_PER_S} logins/s", "p99 with them",
                   "logins/s", "failed", "lost, %", "lost with them, %"], body)]


def sweeps(runs):
    body, keyed = [], {}
    for run in runs:
        if run["work"] == "sweep":
            each = run["result"]
            keyed.setdefault((each["size"], each["peers"], each["way"], run["contender"]), []).append(each)
    for (size, peers, way, name), found in keyed.items():
        body.append([f"{size}{'' if size == 'imix' else ' B'}, {peers:,} peers, {way}", name,
                     *(spread([each[key] for each in found], digits) if all(each.get(key) is not None for each in found) else "–"
                       for key, digits in (("kpps", 0), ("gbit_per_s", 2), ("process_cpu_s_per_gb", 2),
                                           ("process_ns_per_packet", 0), ("loss_percent", 1), ("p50_us", 0), ("p99_us", 0))),
                     batch_text(found[-1])])
    if not body:
        return []
    header = ["load", "gateway", "kpps", "Gbit/s", "CPU-s/GB", "ns/packet", "lost, %", "p50, µs", "p99, µs", "batches"]
    return ["### Sweep: sizes by peers, at what the gateway carries", "", *rows(header, body)]


RECEIVE = {
    "nic": "NAPI threads with GRO receive what came over a veth, as with network cards: the gateway's on its core (not in its "
           "process's time; \"with its NAPI threads\" has it), the others' on the other core. With TCP (R1, R2) the LAN host "
           "receives by RPS instead, on the other core, too: the interrupt for it is the gateway's.",
    "sender": "Packets over a veth are received in the softirq of whoever sent them: the gateway's input is charged to the "
              "client, what the gateway sends is received on the gateway's back, with every gateway alike.",
}


def received(result):
    """How packets are received, in words."""
    coalesce = result["coalesce_us"]
    if result["receive"] != "nic" or not coalesce:
        return RECEIVE[result["receive"]]
    return (f"{RECEIVE['nic']} The gateway's devices gather packets for {coalesce} µs, as cards do that hold their interrupts "
            "back; with every gateway alike.")


def method(result):
    machine = result["machine"]
    return [
        f"{result['pairs']} repetitions in ABBA order, {result['seconds']} s a direction; AES-256-GCM (the WireGuards: "
        f"ChaCha20-Poly1305). 1 GB = 10^9 bytes: of TCP payload that iperf3 received ({result['congestion']}), or of inner IP "
        "packets that the generator's other end received. A packet on the outer device is one that the kernel passes on whole: "
        "acknowledgements count, and so do segments that are not cut yet. CPU time is /proc/PID/stat of the gateway's process, "
        "user and system, all threads; every gateway has core 0, everything else core 1.",
        received(result),
        f"The generator's loads are at the gateway's capacity: the highest rate found, within {100 * SEARCH_ENDS - 100:.0f} %, of "
        f"which at most {TOLERATED_LOSS_PERCENT:g} % is lost. R4 is judged by what a second of the gateway's CPU time carries, its "
        "NAPI threads' included: where its core is full, that is its throughput; where the other core is full first, it is not the "
        "generator's.",
        "Latency is one-way, from the sender's clock to the receiver's kernel: more than what the gateway adds.",
        "R5: for each number of workers, the worker threads' nanoseconds a packet at one fixed rate; a worker is full when they "
        "make a second, two are when the busier one is. Line = time of one worker per packet / time of the busier of two, per "
        "packet of both.",
        "R8: " + figures.R8_TEST + ".",
        "",
        f"Machine: Linux {machine['kernel']}, {machine['cpu']}, {machine['cores']} cores; {disturbance(result['runs'])}.",
        "Versions: " + "; ".join(f"{name}: {text}" for name, text in machine["versions"].items()) + ".",
        f"Tessera's data path: {result['rung']}.",
        *(f"Offloads, {when}: {'; '.join(lines)}." for when, lines in result["offloads"].items()),
        "",
        f"Command: `{result['command']}`",
        "",
    ]


def disturbance(runs):
    """How much the machine did besides, over all measurements."""
    parts = []
    loads = [run["load"] for run in runs]
    if loads:
        parts.append(f"load average {min(loads):.2f}–{max(loads):.2f}")
    for key, text in (("foreign_percent", "others' work {} % of both cores"), ("steal_percent", "{} % stolen by the hypervisor")):
        values = list(everywhere([run["result"] for run in runs], key))
        if values:
            parts.append(text.format(spread(values, 1)))
    return "; ".join(parts) or "nothing was run"


def everywhere(tree, key):
    """All values of a key, however deep."""
    if isinstance(tree, dict):
        if key in tree:
            yield tree[key]
        tree = list(tree.values())
    if isinstance(tree, list):
        for each in tree:
            yield from everywhere(each, key)


def document(result, judged):
    runs = result["runs"]
    out = verdicts(judged)
    for work in WORKS:
        if any(run["work"] == work for run in runs):
            out += costs(runs, work)
    if result["failures"]:
        out += ["Measurements that failed:", ""]
        out += [f"- {each['work']}, {each['contender']}: {each['failure'].splitlines()[0][:200]}" for each in result["failures"]]
        out += [""]
    return "\n".join([*out, *bare(runs), *latencies(runs), *sweeps(runs), *method(result)])
