"""From the runs of `run logins` to a Markdown table."""

from statistics import median

from report import spread

LOADS = (("saturation", "saturation"), ("moderate", "half of it"))
CASES = {"plain": "no script", "script": "client-connect of 200 ms"}

# Key in a run's load, heading, digits, ratio, the loads it is shown for.
ROWS = (
    ("offered_per_s", "offered, logins/s", 1, False, ("moderate",)),
    ("logins_per_s", "logins/s", 1, True, ("saturation",)),
    ("p50_ms", "latency p50, ms", 1, True, ("saturation", "moderate")),
    ("p99_ms", "latency p99, ms", 1, True, ("saturation", "moderate")),
    ("server_cpu_ms_per_login", "gateway process, CPU-ms/login", 2, True, ("saturation", "moderate")),
    ("scripts_cpu_ms_per_login", "its scripts, CPU-ms/login", 2, False, ("saturation",)),
    ("logins_per_cpu_s", "logins per CPU second of both", 0, True, ("saturation",)),
    ("gateway_core_percent", "gateway's core busy, %", 0, False, ("saturation", "moderate")),
    ("client_cpu_percent", "load generator, % of its core", 0, False, ("saturation",)),
    ("client_cpu_ms_per_login", "load generator, CPU-ms/login", 2, False, ("saturation",)),
    ("udp_drops", "datagrams the gateway's socket had no room for", 0, False, ("saturation",)),
    ("failed", "failed logins", 0, False, ("saturation", "moderate")),
)


def column(runs, case, server, load, key):
    return [run[load][key] for run in runs if (run["case"], run["server"]) == (case, server)]


def cells(runs):
    """Case, load, row and both servers' values, for whatever was measured."""
    for case in CASES:
        for load, _ in LOADS:
            for row in ROWS:
                if load in row[4]:
                    ours, theirs = (column(runs, case, server, load, row[0]) for server in ("tessera", "openvpn"))
                    if ours or theirs:
                        yield case, load, row, ours, theirs


def ratio(ours, theirs):
    """Of the medians, and the extremes of the pairs; nothing where one of them is missing or 0."""
    pairs = [a / b for a, b in zip(ours, theirs) if b]
    if not pairs or not median(theirs):
        return None
    return {"ratio_of_medians": median(ours) / median(theirs), "min": min(pairs), "max": max(pairs)}


def summary(runs):
    """Medians, spreads and ratios tessera/openvpn, by case, load and quantity."""
    out = {}
    for case, load, (key, *_), ours, theirs in cells(runs):
        place = out.setdefault(case, {}).setdefault(load, {}).setdefault(key, {})
        for server, values in (("tessera", ours), ("openvpn", theirs)):
            if values:
                place[server] = {"median": median(values), "min": min(values), "max": max(values)}
        place["ratio"] = ratio(ours, theirs)
    return out


def table(runs):
    lines = [
        "| case | load | quantity | tessera, median (min–max) | openvpn, median (min–max) "
        "| tessera / openvpn (min–max of pairs) |",
        "|---|---|---|---:|---:|---:|",
    ]
    titles = dict(LOADS)
    for case, load, (_, heading, digits, with_ratio, _), ours, theirs in cells(runs):
        both = [spread(values, digits) if values else "–" for values in (ours, theirs)]
        found = ratio(ours, theirs) if with_ratio else None
        text = f"**{found['ratio_of_medians']:.2f}** ({found['min']:.2f}–{found['max']:.2f})" if found else "–"
        lines.append(f"| {CASES[case]} | {titles[load]} | {heading} | {both[0]} | {both[1]} | {text} |")
    return "\n".join(lines)


def document(result):
    machine, runs = result["machine"], result["runs"]
    loads = [run["load"] for run in runs]
    under_way = ", ".join(f"{result['concurrency'][case]} ({CASES[case]})" for case in result["cases"])
    return "\n".join([
        table(runs),
        "",
        f"{result['pairs']} runs of each in ABBA order, {result['seconds']} s a load; logins under way at saturation: "
        f"{under_way}. TLS 1.3, ECDSA P-256, no resumption. Latency is from the first packet to PUSH_REPLY. "
        "Files for the script are in memory (tmp-dir), with both servers. "
        f"Load average during the runs {min(loads):.2f}–{max(loads):.2f}.",
        "",
        f"Machine: Linux {machine['kernel']}, {machine['cpu']}, {machine['cores']} cores; {machine['tessera']}, "
        f"sha256 {machine['tessera_sha256'][:16]}; "
        f"{machine['openvpn']}; {machine['load']}.",
        "",
        f"Command: `{result['command']}`",
        "",
    ])
