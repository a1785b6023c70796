"""Draws dashboards as SVG from what their queries gave: what Grafana would show, without Grafana."""
import math
from html import escape

# Pixels of one of Grafana's 24 columns and of one of its rows.
COLUMN, ROW = 50, 30
MARGIN = 8
COLOURS = ["#3274d9", "#56a64b", "#e02f44", "#ff780a", "#8f3bb8", "#2aa198", "#b58900", "#6c71c4", "#d33682", "#586e75"]
LEGEND_MAX = 6
# What an axis ends at, times a power of ten: halves of them are short too.
ENDS = (1, 2, 4, 5, 8, 10)


def draw(dashboard, series_of):
    """The whole dashboard. `series_of(panel)`: [(name, [(seconds, value)])] for each series of each query of it."""
    height = max(panel["gridPos"]["y"] + panel["gridPos"]["h"] for panel in dashboard["panels"])
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {24 * COLUMN} {height * ROW}" font-family="sans-serif" font-size="11">',
        '<rect width="100%" height="100%" fill="#f4f5f5"/>',
    ]
    for panel in dashboard["panels"]:
        place = panel["gridPos"]
        parts.append(f'<g transform="translate({place["x"] * COLUMN},{place["y"] * ROW})">')
        size = place["w"] * COLUMN, place["h"] * ROW
        parts += heading(panel) if panel["type"] == "row" else framed(panel, size, series_of(panel))
        parts.append("</g>")
    return "\n".join([*parts, "</svg>", ""])


def heading(panel):
    return [f'<text x="{MARGIN}" y="20" font-size="15" font-weight="bold">{escape(panel["title"])}</text>']


def framed(panel, size, series):
    width, height = size
    unit = panel["fieldConfig"]["defaults"]["unit"]
    parts = [
        f'<rect x="3" y="3" width="{width - 6}" height="{height - 6}" rx="3" fill="white" stroke="#d8d9da"/>',
        f'<text x="{MARGIN}" y="18" font-weight="bold">{escape(panel["title"])}</text>',
    ]
    if panel["type"] == "stat":
        latest = shown(series[0][1][-1][1], unit)
        return [*parts, f'<text x="{width / 2}" y="{height * 0.7}" font-size="26" text-anchor="middle" fill="#3274d9">{latest}</text>']
    if panel["type"] == "heatmap":
        return parts + cells(series, (50, 28, width - 60, height - 50), unit)
    stacked = panel["fieldConfig"]["defaults"].get("custom", {}).get("stacking", {}).get("mode") == "normal"
    return parts + curves(series, (50, 28, width - 60, height - 66), unit, stacked) + legend(series, width, height)


def curves(series, box, unit, stacked):
    left, top, width, height = box
    times = sorted({time for _, points in series for time, _ in points})
    first, span = times[0], max(times[-1] - times[0], 1)
    below = dict.fromkeys(times, 0.0)
    lines = []
    for _, points in series:
        if stacked:
            points = [(time, value + below[time]) for time, value in points]
            below |= dict(points)
        lines.append(points)
    highest = end_of_axis(max((value for points in lines for _, value in points), default=0), unit)
    parts = []
    for share in (0, 0.5, 1):
        y = top + height * (1 - share)
        parts.append(f'<line x1="{left}" x2="{left + width}" y1="{y:.1f}" y2="{y:.1f}" stroke="#e7e7e7"/>')
        parts.append(f'<text x="{left - 4}" y="{y + 4:.1f}" text-anchor="end" fill="#666">{shown(highest * share, unit)}</text>')
    for number, points in enumerate(lines):
        path = " ".join(
            f"{left + width * (time - first) / span:.1f},{top + height * (1 - value / highest):.1f}" for time, value in points
        )
        colour = COLOURS[number % len(COLOURS)]
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="1.5"/>')
    return parts


def end_of_axis(highest, unit):
    """A round number that is no less."""
    if not highest:
        return 1
    if unit == "bytes":
        return 2.0 ** math.ceil(math.log2(highest))
    # A share has no more than all.
    ceiling = 1 if unit == "percentunit" and highest <= 1 else math.inf
    power = 10.0 ** math.floor(math.log10(highest))
    # What came out of a division may be a hair more.
    return min(ceiling, next(end * power for end in ENDS if end * power >= highest * (1 - 1e-9)))


def cells(series, box, unit):
    """A heatmap: one row for each bucket, which Prometheus counts together with all smaller ones."""
    left, top, width, height = box
    rows = sorted(((float(name), dict(points)) for name, points in series), key=lambda row: row[0])
    times = sorted({time for _, points in rows for time in points})
    parts, below = [], dict.fromkeys(times, 0.0)
    counts = []
    for bound, points in rows:
        counts.append((bound, {time: max(points.get(time, 0) - below[time], 0) for time in times}))
        below |= points
    highest = max((value for _, row in counts for value in row.values()), default=0) or 1
    high, wide = height / len(counts), width / len(times)
    for number, (bound, row) in enumerate(counts):
        y = top + height - (number + 1) * high
        if number % 4 == 0:
            parts.append(f'<text x="{left - 4}" y="{y + high:.1f}" text-anchor="end" fill="#666">{shown(bound, unit)}</text>')
        for column, time in enumerate(times):
            if row[time]:
                parts.append(
                    f'<rect x="{left + column * wide:.1f}" y="{y:.1f}" width="{wide:.1f}" height="{high:.1f}" fill="#e55400" '
                    f'opacity="{row[time] / highest:.2f}"/>'
                )
    return parts


def legend(series, width, height):
    """Those that were highest, if there is no room for all: where most are zero, the others are what is seen."""
    numbers = sorted(range(len(series)), key=lambda number: -max(value for _, value in series[number][1]))[:LEGEND_MAX]
    parts, x, y = [], MARGIN, height - 24
    for number in sorted(numbers):
        name = series[number][0].strip() or "none"
        needed = 24 + 6.6 * len(name)
        if x + needed > width - MARGIN:
            x, y = MARGIN, y + 14
        colour = COLOURS[number % len(COLOURS)]
        parts.append(f'<rect x="{x}" y="{y - 3}" width="10" height="3" fill="{colour}"/>')
        parts.append(f'<text x="{x + 14}" y="{y + 3}">{escape(name)}</text>')
        x += needed
    return parts


def shown(value, unit):
    """A number as Grafana would write it, more or less."""
    if math.isinf(value):
        return "∞"
    if unit == "percentunit":
        return f"{100 * value:.3g} %"
    if unit == "s" and 0 < value < 1:
        return f"{1000 * value:.3g} ms"
    if unit == "bytes":
        for factor, name in ((1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")):
            if value >= factor:
                return f"{value / factor:.3g} {name}"
    word = {"s": " s", "bytes": " B", "reqps": "/s", "cps": "/s"}.get(unit, "")
    return f"{value:.3g}{word}"
