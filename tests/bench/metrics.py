"""What a gateway says of itself, as Prometheus metrics: batch sizes (how many packets went together, by place), drops, detours.

Another gateway than ours, or an older version, may say less or nothing at all; then there is nothing here.
"""

import re

SAMPLE = re.compile(r"^tessera_(\w+?)(?:\{(.*)\})? (\S+)$")
LABEL = re.compile(r'(\w+)="([^"]*)"')
HISTOGRAM = re.compile(r"^\w*batch\w*?_(bucket|sum|count)$")
# Counters of the packet path: their label's value is what they are called by.
COUNTED = re.compile(r"^(data_(?:drops|events)_total|bpf_\w+_total)$")
# Not shown: every packet of a control channel is one.
USUAL = "control_passed"
# A class of batch sizes with fewer of the calls than this is not shown.
SHOWN = 0.02


def read(text):
    """All of it at one moment. Workers are added up."""
    found = {"batches": {}, "counters": {}}
    for line in (text or "").splitlines():
        match = SAMPLE.match(line)
        if match is None:
            continue
        name, labels, value = match[1], dict(LABEL.findall(match[2] or "")), float(match[3])
        bound = labels.pop("le", None)
        labels.pop("worker", None)
        key = " ".join(labels.values())
        kind = HISTOGRAM.match(name)
        if kind:
            place = found["batches"].setdefault(key or "all", {})
            part = bound if kind[1] == "bucket" else kind[1]
            place[part] = place.get(part, 0.0) + value
        elif COUNTED.match(name):
            found["counters"][key] = found["counters"].get(key, 0.0) + value
    return found


def between(before, after):
    """What came in between: of batches the mean and the share of calls in each class, of counters what moved."""
    batches = {}
    for key, later in after["batches"].items():
        earlier = before["batches"].get(key, {})
        part = {bound: value - earlier.get(bound, 0.0) for bound, value in later.items()}
        count, total = part.pop("count", 0.0), part.pop("sum", 0.0)
        if count <= 0:
            continue
        shares, below = {}, 0.0
        for bound in sorted(part, key=float):
            shares[bound] = (part[bound] - below) / count
            below = part[bound]
        batches[key] = {"calls": count, "mean": total / count, "shares": shares}
    moved = {key: value - before["counters"].get(key, 0.0) for key, value in after["counters"].items()}
    return {"batches": batches, "counters": {key: value for key, value in moved.items() if value}}


def line(said):
    """On one line: for each place the mean, and where the calls lie; what was dropped or went another way."""
    parts = []
    for key, each in said["batches"].items():
        classes = ", ".join(f"{'more' if float(bound) == float('inf') else '≤' + bound.removesuffix('.0')} {100 * share:.0f} %"
                            for bound, share in each["shares"].items() if share >= SHOWN)
        parts.append(f"{key} {each['mean']:.1f}" + (f" ({classes})" if classes else ""))
    parts += [f"{key} {value:.0f}" for key, value in said["counters"].items() if key != USUAL]
    return "; ".join(parts)
