"""A plot of the costs, as plain SVG: one panel for each work, one bar for each gateway and direction, medians with min–max."""

from html import escape
from statistics import median

import figures
from works import WAYS

PANELS = (
    ("stock", "One TCP stream of a stock OpenVPN 2.6 client"),
    ("bulk", "Bulk from clients that send large segments"),
)
WIDTH, LEFT, RIGHT = 760, 130, 110
BAR, GAP, GROUP, TITLE, AXIS = 13, 3, 12, 40, 34
STYLE = """
  text { font: 12px system-ui, sans-serif; fill: #222 }
  .title { font-weight: 600; font-size: 13px }
  .quiet { fill: #666; font-size: 11px }
  .up { fill: #1f6feb } .down { fill: #8dbbff } .ours.up { fill: #c2410c } .ours.down { fill: #fdba74 }
  .range { stroke: #222; stroke-width: 1.2 } .grid { stroke: #ccc; stroke-width: 0.6 }
  @media (prefers-color-scheme: dark) { text { fill: #ddd } .quiet { fill: #999 } .range { stroke: #ddd } .grid { stroke: #444 } }
"""


def draw(result):
    """The whole picture. A gateway without a process of its own (plain forwarding) has no cost that could be drawn."""
    parts, top = [], 10
    for work, title in PANELS:
        bars = costs(result["runs"], work)
        if bars:
            panel, height = draw_panel(bars, title, top)
            parts += panel
            top += height
    notes = (f"dark: client → LAN, light: LAN → client; medians of {result['pairs']} with min–max",
             f"Linux {result['machine']['kernel']}, {result['machine']['cpu']}, {result['date'][:10]}")
    for note in notes:
        parts.append(f'<text class="quiet" x="0" y="{top + 10}">{escape(note)}</text>')
        top += 15
    height = top + 4
    return (f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}" role="img" '
            f'aria-label="CPU seconds of the gateway process per gigabyte">\n<style>{STYLE}</style>\n' +
            "\n".join(parts) + "\n</svg>\n")


def costs(runs, work):
    """(gateway, way, values) of all that have a cost."""
    out = []
    for name in figures.names_of(runs, work):
        for way in WAYS:
            values = [each[way]["process_cpu_s_per_gb"] for each in figures.by_pair(runs, work, name).values()]
            if None not in values:
                out.append((name, way, values))
    return out


def draw_panel(bars, title, top):
    most = max(max(values) for _, _, values in bars)
    step = nice_step(most)
    scale = (WIDTH - LEFT - RIGHT) / most
    height = TITLE + len(bars) * (BAR + GAP) + len(bars) // len(WAYS) * GROUP + AXIS
    bottom = top + height - AXIS
    out = [f'<text class="title" x="0" y="{top + 14}">{escape(title)}</text>',
           f'<text class="quiet" x="0" y="{top + 29}">CPU seconds of the gateway process per GB; less is better</text>']
    for tick in range(int(most / step) + 1):
        x = LEFT + tick * step * scale
        out.append(f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="{top + TITLE - 4}" y2="{bottom}"/>'
                   f'<text class="quiet" x="{x:.1f}" y="{bottom + 13}" text-anchor="middle">{tick * step:g}</text>')
    y = top + TITLE
    for at, (name, way, values) in enumerate(bars):
        if at and bars[at - 1][0] != name:
            y += GROUP
        middle, ours = y + BAR / 2, " ours" if name == "tessera" else ""
        low, mid, high = (LEFT + each * scale for each in (min(values), median(values), max(values)))
        if not at or bars[at - 1][0] != name:
            out.append(f'<text x="{LEFT - 8}" y="{y + BAR + 5}" text-anchor="end">{escape(name)}</text>')
        out += [f'<rect class="{way}{ours}" x="{LEFT}" y="{y}" width="{mid - LEFT:.1f}" height="{BAR}"/>',
                f'<line class="range" x1="{low:.1f}" x2="{high:.1f}" y1="{middle}" y2="{middle}"/>',
                f'<text x="{high + 6:.1f}" y="{middle + 4}">{median(values):.2f}</text>']
        y += BAR + GAP
    return out, height


def nice_step(most):
    """A step of 1, 2 or 5 times a power of ten that gives five to ten lines."""
    power = 1e-3
    while True:
        for factor in (1, 2, 5):
            if most / (factor * power) <= 8:
                return factor * power
        power *= 10
