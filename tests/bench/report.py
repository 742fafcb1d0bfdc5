"""From the runs to a Markdown table."""

from statistics import median

DIRECTIONS = (("up", "client → LAN"), ("down", "LAN → client"))

# Key in a run's direction, heading, digits.
ROWS = (
    ("gbit_per_s", "throughput, Gbit/s", 3),
    ("gateway_cpu_s_per_gb", "gateway process, CPU-s/GB", 2),
    ("gateway_cpu_us_per_packet", "gateway process, CPU-µs/tunnel packet", 2),
    ("both_cores_busy_s_per_gb", "both cores busy, s/GB", 2),
    ("gateway_core_softirq_s_per_gb", "softirq on the gateway's core, s/GB", 2),
    ("other_core_softirq_s_per_gb", "softirq on the other core, s/GB", 2),
    ("foreign_percent", "busy outside the bench's processes, % of all cores", 0),
    ("retransmits", "TCP retransmits a run", 0),
    ("gateway_udp_drops", "datagrams the gateway's socket had no room for", 0),
    ("client_udp_drops", "datagrams the client's socket had no room for", 0),
)


def column(runs, server, direction, key):
    return [run[direction][key] for run in runs if run["server"] == server]


def spread(values, digits):
    return f"{median(values):.{digits}f} ({min(values):.{digits}f}–{max(values):.{digits}f})"


def summary(runs):
    """Medians, spreads and ratios tessera/openvpn, by direction and quantity."""
    out = {}
    for direction, _ in DIRECTIONS:
        out[direction] = {}
        for key, _, _ in ROWS:
            ours, theirs = (column(runs, server, direction, key) for server in ("tessera", "openvpn"))
            pairs = [a / b for a, b in zip(ours, theirs) if b]
            out[direction][key] = {
                "tessera": {"median": median(ours), "min": min(ours), "max": max(ours)},
                "openvpn": {"median": median(theirs), "min": min(theirs), "max": max(theirs)},
                "ratio_of_medians": median(ours) / median(theirs) if median(theirs) else None,
                "ratio_of_pairs": {"min": min(pairs), "max": max(pairs)} if pairs else None,
            }
    return out


def table(runs, medians):
    lines = [
        "| direction | quantity | tessera, median (min–max) | openvpn, median (min–max) "
        "| tessera / openvpn (min–max of pairs) |",
        "|---|---|---:|---:|---:|",
    ]
    for direction, title in DIRECTIONS:
        for key, heading, digits in ROWS:
            ours, theirs = (column(runs, server, direction, key) for server in ("tessera", "openvpn"))
            cell = medians[direction][key]
            ratio = "–"
            # A ratio of a handful of ticks or of losses says nothing.
            if key in ("gbit_per_s", "gateway_cpu_s_per_gb", "gateway_cpu_us_per_packet", "both_cores_busy_s_per_gb"):
                low, high = cell["ratio_of_pairs"]["min"], cell["ratio_of_pairs"]["max"]
                ratio = f"**{cell['ratio_of_medians']:.2f}** ({low:.2f}–{high:.2f})"
            lines.append(f"| {title} | {heading} | {spread(ours, digits)} | {spread(theirs, digits)} | {ratio} |")
    return "\n".join(lines)


def document(result):
    machine = result["machine"]
    loads = [run["load"] for run in result["runs"]]
    return "\n".join([
        table(result["runs"], result["summary"]),
        "",
        f"{len(result['runs']) // 2} pairs in ABBA order, {result['seconds']} s a direction, one TCP stream ({result['congestion']}), AES-256-GCM; "
        f"1 GB = 10^9 bytes that iperf3 received. Load average during the runs {min(loads):.2f}–{max(loads):.2f}.",
        "",
        f"Machine: Linux {machine['kernel']}, {machine['cpu']}, {machine['cores']} cores; {machine['tessera']}; "
        f"{machine['openvpn']}; {machine['iperf3']}.",
        f"Data workers: {machine['workers']}.",
        f"Offloads: {'; '.join(machine['offloads'])}.",
        "",
        *(["Far hosts receive by threaded NAPI with GRO on core 1.", ""] if result["far_napi"] else []),
        f"Command: `{result['command']}`",
        "",
    ])
