"""A table as a picture: a panel per column, a bar per server, whiskers from the least to the most."""

import math
from html import escape

from .tables import filled

PANEL, GAP, LABELS, ROW, HEAD = 330, 24, 128, 22, 30
ACROSS = 3
# Above this ratio of the longest bar to the shortest a panel is logarithmic.
LOG_ABOVE = 40
OURS, NGINX, OTHER = "#c4572b", "#4a6fa5", "#9aa5b1"


def svg(table, results, titles, ours):
    columns, names = filled(table, results)
    across = min(ACROSS, len(columns))
    down = math.ceil(len(columns) / across)
    height = HEAD + len(names) * ROW + 16
    wide, high = across * (PANEL + GAP) + GAP, 70 + down * (height + GAP)
    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" width="{wide}" height="{high}" '
             f'viewBox="0 0 {wide} {high}" font-family="sans-serif" font-size="12">',
             f'<rect width="{wide}" height="{high}" fill="white"/>',
             text(GAP, 28, table.title, size=17, weight="bold"),
             text(GAP, 48, "median; whiskers: least and most of the rounds", fill="#555")]
    for at, column in enumerate(columns):
        x, y = GAP + at % across * (PANEL + GAP), 70 + at // across * (height + GAP)
        parts += panel(column, names, results, titles, ours, x, y)
    return "\n".join(parts + ["</svg>"]) + "\n"


def panel(column, names, results, titles, ours, x, y):
    spreads = {name: results.spread(column.workload, name, column.metric) for name in names}
    there = [spread for spread in spreads.values() if spread]
    most = max(spread.most for spread in there) or 1
    least = min((spread.least for spread in there if spread.least > 0), default=most)
    is_log = most / least > LOG_ABOVE
    room = PANEL - LABELS - 62  # for the figure behind the bar

    def place(value):
        if is_log:
            low = math.floor(math.log10(least)) if least > 0 else 0
            value = max(value, 10 ** low)
            return room * (math.log10(value) - low) / max(math.log10(most) - low, 1e-9)
        return room * value / most

    direction = {"low": "less is better", "high": "more is better"}.get(column.better, "")
    scale = ", log scale" if is_log else ""
    parts = [text(x, y + 14, column.title, weight="bold"),
             text(x + PANEL, y + 14, direction + scale, anchor="end", fill="#777", size=10)]
    left = x + LABELS
    for row, name in enumerate(names):
        middle = y + HEAD + row * ROW + ROW / 2
        parts.append(text(left - 6, middle + 4, titles.get(name, name), anchor="end"))
        spread = spreads[name]
        if not spread:
            parts.append(text(left + 4, middle + 4, "–", fill="#777"))
            continue
        colour = OURS if name in ours else NGINX if name == "nginx" else OTHER
        end = place(spread.median)
        low, high = place(spread.least), place(spread.most)
        parts.append(f'<rect x="{left}" y="{middle - 7:.1f}" width="{max(end, 1):.1f}" height="14" fill="{colour}"/>')
        if spread.most > spread.least:
            ends = f"M{left + low:.1f} {middle - 4:.1f}v8M{left + high:.1f} {middle - 4:.1f}v8"
            parts.append(f'<path d="M{left + low:.1f} {middle:.1f}H{left + high:.1f}{ends}" stroke="#222" fill="none"/>')
        parts.append(text(left + max(end, high) + 5, middle + 4, column.form.format(spread.median)))
    bottom = y + HEAD + len(names) * ROW
    parts.append(f'<path d="M{left} {y + HEAD - 4}V{bottom + 2}" stroke="#888" fill="none"/>')
    return parts


def text(x, y, what, size=12, weight="normal", anchor="start", fill="#111"):
    return (f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" font-weight="{weight}" text-anchor="{anchor}" '
            f'fill="{fill}">{escape(what)}</text>')
