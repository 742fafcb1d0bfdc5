"""Batch sizes: how many packets went into one call, from the gateway's histograms and the load generator's report.

The gateway keeps them as Prometheus histograms whose names contain "batch" or "segments"; workers are added up. One that keeps
none (another version, another program) has none here.
"""

import re

HISTOGRAM = re.compile(r"^(tessera_\w*(?:batch|segments)\w*)_(bucket|sum|count)(?:\{(.*)\})? (\S+)$")
LABEL = re.compile(r'(\w+)="([^"]*)"')


def read(text):
    """Histograms in the text of Prometheus: name with its labels → upper bound → packets in calls up to it, "sum", "count"."""
    found = {}
    for line in (text or "").splitlines():
        match = HISTOGRAM.match(line)
        if match is None:
            continue
        name, kind, labels, value = match.groups()
        labels = dict(LABEL.findall(labels or ""))
        bound = labels.pop("le", None)
        labels.pop("worker", None)
        key = " ".join([name.removeprefix("tessera_"), *(labels[each] for each in sorted(labels))])
        place = found.setdefault(key, {})
        part = bound if kind == "bucket" else kind
        place[part] = place.get(part, 0.0) + float(value)
    return found


def between(before, after):
    """What came in between two readings, as mean and the share of calls in each bucket."""
    out = {}
    for key, later in after.items():
        earlier = before.get(key, {})
        part = {bound: value - earlier.get(bound, 0.0) for bound, value in later.items()}
        count, total = part.pop("count", 0.0), part.pop("sum", 0.0)
        if count <= 0:
            continue
        shares, below = {}, 0.0
        for bound in sorted(part, key=float):
            shares[bound] = (part[bound] - below) / count
            below = part[bound]
        out[key] = {"calls": count, "mean": total / count, "shares": shares}
    return out


def line(histograms):
    """On one line: mean, and where most calls lie."""
    parts = []
    for key, each in sorted(histograms.items()):
        full = [f"≤{bound.removesuffix('.0')} {100 * share:.0f} %" for bound, share in each["shares"].items() if share >= 0.02]
        parts.append(f"{key} {each['mean']:.1f}" + (f" ({', '.join(full)})" if full else ""))
    return "; ".join(parts)
