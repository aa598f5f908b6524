"""Draws a dashboard's panels from what its queries answer, in the dashboard's order, into one picture.

This is not Grafana, and does not look like it: it shows that each panel has something to tell, and what.
tests/deploy/prometheus.py --draw FILE calls it, with the answers of its own Prometheus. Needs matplotlib.
"""

import datetime
import math

import matplotlib

matplotlib.use("Agg")
from matplotlib import colors, pyplot  # noqa: E402
from matplotlib.colors import LinearSegmentedColormap  # noqa: E402

from .panels import opened  # noqa: E402

COLUMNS, ROW = 24, 0.25
INK, FAINT, PAPER, PANEL, EDGE = "#23272e", "#6b7280", "#f4f5f7", "#ffffff", "#d9dce1"
NAMED = {"red": "#d64545", "orange": "#ea8a2f", "yellow": "#d9ae0a", "green": "#3f9e5a", "blue": "#3f7fc1",
         "purple": "#8b5fbf"}
PALETTE = ["#4c9f70", "#e0a526", "#4b8bc8", "#d9663a", "#8b5fbf", "#3aa6a6", "#c94f7c", "#7d8f29", "#6f6f6f", "#b5651d"]
HEAT = LinearSegmentedColormap.from_list("heat", ["#fff3e3", "#f6a04a", "#b23c00"])
# Lines of a legend, of a table, and characters of a line that are shown.
LEGEND = 7
UNITS = {"short": "", "none": "", "percentunit": "%", "cpm": "/min", "Bps": "B/s", "bytes": "B", "s": "s",
         "suffix: days": " days"}


def draw(board, path, now, over, span):
    """`now` and `over` answer a query at the end of the span, and over all of it."""
    pyplot.rcParams.update({"font.size": 6, "font.family": "DejaVu Sans", "text.color": INK, "axes.edgecolor": EDGE,
                            "xtick.color": FAINT, "ytick.color": FAINT, "axes.linewidth": 0.5, "axes.labelcolor": FAINT})
    panels = [panel for panel in opened(board) if panel.get("datasource", {}).get("type") != "loki" and panel["title"] != "Log"]
    height = max(p["gridPos"]["y"] + p["gridPos"]["h"] for p in panels) + 2
    figure = pyplot.figure(figsize=(12, height * ROW), facecolor=PAPER)
    figure.text(0.008, 1 - 0.65 / height, f"Dashboard “{board['title']}”, drawn from its panels' queries",
                fontsize=11, weight="bold", va="center")
    figure.text(0.008, 1 - 1.45 / height, "Not a screenshot of Grafana: a Prometheus has scraped two tlsidecars whose devices "
                f"get through, and fail in every way, for {span.seconds} s; each panel shows what its queries answered.",
                fontsize=7, color=FAINT, va="center")
    for panel in panels:
        at = panel["gridPos"]
        box = (at["x"] / COLUMNS, 1 - (at["y"] + at["h"] + 2) / height, at["w"] / COLUMNS, at["h"] / height)
        place = Place(figure, box, height)
        if panel["type"] == "row":
            figure.text(box[0] + 0.008, box[1] + box[3] * 0.42, panel["title"], fontsize=9, weight="bold", va="center")
            continue
        place.frame(panel["title"])
        KINDS[panel["type"]](place, panel, now, over, span)
    figure.savefig(path, dpi=92, facecolor=PAPER, pil_kwargs={"optimize": True})
    pyplot.close(figure)
    smaller(path)


def smaller(path):
    """The same with a palette: there are few colours."""
    if path.endswith(".png"):
        from PIL import Image
        with Image.open(path) as picture:
            picture.convert("RGB").quantize(128, dither=Image.Dither.NONE).save(path, optimize=True)


class Place:
    """A panel's part of the picture."""

    def __init__(self, figure, box, height):
        self.figure, (x, y, w, h) = figure, box
        gap_x, gap_y = 0.0032, 0.1 / height
        self.x, self.y, self.w, self.h = x + gap_x, y + gap_y, w - 2 * gap_x, h - 2 * gap_y
        self.line = 0.6 / height

    def frame(self, title):
        back = self.figure.add_axes((self.x, self.y, self.w, self.h), facecolor=PANEL)
        back.set_xticks([])
        back.set_yticks([])
        self.back = back
        self.text(0.006, 0.55, title, weight="bold", fontsize=6.2)

    def text(self, dx, lines, text, **how):
        self.figure.text(self.x + dx, self.y + self.h - lines * self.line, text, va="center", **how)

    def axes(self, legend=0):
        under = (0.75 + legend) * self.line
        left = 0.037
        return self.figure.add_axes((self.x + left, self.y + under, self.w - left - 0.008,
                                     self.h - under - 1.3 * self.line), facecolor=PANEL)


# ---- Texts ---------------------------------------------------------------------------------------


def formatted(value, unit, decimals=None):
    """A value in a unit, as short as can be."""
    if not math.isfinite(value):
        return "–"
    if unit == "percentunit":
        return f"{value * 100:.{1 if decimals is None else decimals}f} %"
    if unit == "s" and value < 0:
        return "-" + formatted(-value, unit)
    if unit == "s" and value < 1:
        return f"{value * 1000:.3g} ms" if value >= 0.001 or value == 0 else f"{value * 1e6:.3g} µs"
    if decimals is not None:
        return f"{value:.{decimals}f}{UNITS[unit]}"
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size and unit != "s":
            return f"{value / size:.3g} {letter}{UNITS[unit].strip()}"
    number = f"{value:.0f}" if abs(value) >= 100 or value == int(value) else f"{value:.2g}"
    return number + (" " if UNITS[unit] else "") + UNITS[unit].strip()


def legend_of(target, labels):
    text = target["legendFormat"]
    for name, value in labels.items():
        text = text.replace("{{" + name + "}}", value)
    while "{{" in text:
        text = text[:text.index("{{")] + text[text.index("}}") + 2:]
    return text.strip() or ", ".join(labels.values())


def colour_of(panel, name, number):
    for over in panel["fieldConfig"]["overrides"]:
        for each in over["properties"]:
            matches = over["matcher"]["options"].strip("/") in name if over["matcher"]["id"] == "byRegexp" else (
                over["matcher"]["options"] == name)
            if each["id"] == "color" and matches:
                return NAMED[each["value"]["fixedColor"]]
    return PALETTE[number % len(PALETTE)]


def step_colour(steps, value):
    found = steps[0]["color"]
    for step in steps:
        if step["value"] is not None and value >= step["value"]:
            found = step["color"]
    return NAMED[found]


def cut(text, width):
    return text if len(text) <= width else text[:width - 1] + "…"


def mapped(mappings, value):
    for mapping in mappings:
        if value in mapping["options"]:
            return mapping["options"][value]["text"]
    return value


# ---- The kinds of panel --------------------------------------------------------------------------


def answers(panel, ask):
    """Legend and answer of every series of a panel."""
    return [(legend_of(target, labels), value) for target in panel["targets"] for labels, value in ask(target["expr"])]


def stat(place, panel, now, _over, _span):
    defaults = panel["fieldConfig"]["defaults"]
    found = answers(panel, now)
    for number, (name, value) in enumerate(found):
        steps = defaults["thresholds"]["steps"]
        for over in panel["fieldConfig"]["overrides"]:
            if over["matcher"]["options"] == name:
                steps = next(p["value"]["steps"] for p in over["properties"] if p["id"] == "thresholds")
        text = mapped(defaults["mappings"], f"{value:.0f}") if defaults["mappings"] else formatted(
            value, defaults["unit"], defaults.get("decimals"))
        middle = place.x + place.w * (2 * number + 1) / (2 * len(found))
        place.figure.text(middle, place.y + place.h * 0.42, text, ha="center", va="center", weight="bold",
                          fontsize=13 if len(found) > 1 else 15, color=step_colour(steps, value))
        if len(found) > 1:
            place.figure.text(middle, place.y + place.h * 0.13, name, ha="center", va="center", color=FAINT)


def series(place, panel, _now, over, span):
    found = answers(panel, over)
    # Series with the highest values first.
    found.sort(key=lambda each: -max((v for _, v in each[1] if math.isfinite(v)), default=-1))
    shown = [each for each in found if any(v for _, v in each[1] if math.isfinite(v))] or found[:1]
    per_line = 2 if panel["gridPos"]["w"] <= 8 else 3
    listed = shown[:LEGEND - 1] if len(shown) > LEGEND else shown
    lines = math.ceil((len(listed) + (len(shown) > len(listed))) / per_line)
    axes = place.axes(0.62 * lines + 0.45)
    custom, unit = panel["fieldConfig"]["defaults"]["custom"], panel["fieldConfig"]["defaults"]["unit"]
    times = [span.start + n * span.step for n in range(int((span.end - span.start) / span.step) + 1)]
    stacked, bottom = custom["stacking"]["mode"] == "normal", [0.0] * len(times)
    for number, (name, points) in enumerate(shown):
        at = {round(t - span.start): v for t, v in points}
        values = [at.get(round(t - span.start), math.nan) for t in times]
        colour, x = colour_of(panel, name, number), [t - span.start for t in times]
        if stacked:
            solid = [v if math.isfinite(v) else 0.0 for v in values]
            top = [a + b for a, b in zip(bottom, solid)]
            axes.fill_between(x, bottom, top, color=colour, alpha=0.85 if custom["drawStyle"] == "bars" else 0.6, lw=0,
                              step="mid" if custom["drawStyle"] == "bars" else None)
            bottom = top
        else:
            axes.plot(x, values, color=colour, lw=1, ls="--" if name.endswith(": limit") else "-")
        if number < len(listed):
            last = next((v for v in reversed(values) if math.isfinite(v)), math.nan)
            column, line = number % per_line, number // per_line
            where = place.x + 0.008 + column * (place.w - 0.01) / per_line
            up = place.y + (0.62 * (lines - line) - 0.25) * place.line
            place.figure.text(where, up, "■", color=colour, va="center", fontsize=5)
            place.figure.text(where + 0.008, up, f"{cut(name, 43 if per_line == 3 else 29)}  {formatted(last, unit)}",
                              va="center", fontsize=5.2, color=INK)
    if len(shown) > len(listed):
        number = len(listed)
        where = place.x + 0.016 + number % per_line * (place.w - 0.01) / per_line
        up = place.y + (0.62 * (lines - number // per_line) - 0.25) * place.line
        place.figure.text(where, up, f"and {len(shown) - len(listed)} more", va="center", fontsize=5.2, color=FAINT)
    if custom["scaleDistribution"]["type"] == "log":
        axes.set_yscale("log")
    elif "min" in panel["fieldConfig"]["defaults"]:
        axes.set_ylim(bottom=0)
        if axes.get_ylim()[1] < 1e-9 or not any(v for _, points in shown for _, v in points if math.isfinite(v)):
            axes.set_ylim(0, 1)
    finish(axes, span, unit)


def finish(axes, span, unit=None):
    axes.set_xlim(0, span.seconds)
    axes.grid(color="#eceef1", lw=0.5)
    axes.set_axisbelow(True)
    axes.tick_params(length=0, pad=1.5, labelsize=5.2)
    ticks = [span.seconds * n / 4 for n in range(5)]
    axes.set_xticks(ticks, [f"{datetime.timedelta(seconds=int(t))}"[2:] for t in ticks])
    for tick in axes.get_xticklabels()[-1:]:
        tick.set_horizontalalignment("right")
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    if unit:
        axes.yaxis.set_major_locator(
            matplotlib.ticker.LogLocator() if axes.get_yscale() == "log" else matplotlib.ticker.MaxNLocator(4))
        axes.yaxis.set_major_formatter(lambda value, _: formatted(value, unit))
        axes.yaxis.set_minor_locator(matplotlib.ticker.NullLocator())


def heatmap(place, panel, _now, over, span):
    found = [(labels["le"], points) for labels, points in over(panel["targets"][0]["expr"])]
    found.sort(key=lambda each: float(each[0]))
    width = int(span.seconds / span.step) + 1
    grid, before = [], [0.0] * width
    for _, points in found:
        now = [0.0] * width
        for t, value in points:
            now[min(width - 1, round((t - span.start) / span.step))] = value
        grid.append([max(0.0, a - b) for a, b in zip(now, before)])
        before = now
    used = [n for n, row in enumerate(grid) if any(v > 1e-9 for v in row)] or [0]
    low, high = max(0, used[0] - 1), min(len(grid), used[-1] + 2)
    axes = place.axes()
    top = max(max(row) for row in grid) or 1
    masked = [[v if v > 1e-9 else math.nan for v in row] for row in grid[low:high]]
    axes.imshow(masked, aspect="auto", origin="lower", cmap=HEAT, extent=(0, span.seconds, 0, high - low),
                norm=colors.PowerNorm(0.5, 0, top), interpolation="nearest")
    finish(axes, span)
    every = max(1, (high - low) // 6)
    names = [("∞" if le == "+Inf" else formatted(float(le), "s")) for le, _ in found[low:high]]
    axes.set_yticks([n + 1 for n in range(0, high - low, every)], names[::every])


def table(place, panel, now, _over, _span):
    organize = next(t["options"] for t in panel["transformations"] if t["id"] == "organize")
    rows, found = {}, [(target["refId"], now(target["expr"])) for target in panel["targets"]]
    # As Grafana merges: rows belong together if the labels agree that all answers have.
    common = set.intersection(*(set(labels) for _, answer in found for labels, _ in answer)) if any(a for _, a in found) else set()
    for name, answer in found:
        for labels, value in answer:
            key = tuple(sorted(labels.items())) if len(found) == 1 else tuple(labels[each] for each in sorted(common))
            row = rows.setdefault(key, {})
            row |= labels | {f"Value #{name}" if len(found) > 1 else "Value": value}
    columns = [name for name in organize["indexByName"] if name not in organize["excludeByName"]]
    shown = {name: organize["renameByName"].get(name, name) for name in columns}
    looks = {over["matcher"]["options"]: {p["id"]: p["value"] for p in over["properties"]}
             for over in panel["fieldConfig"]["overrides"]}
    rows = list(rows.values())
    for sort in panel["options"]["sortBy"]:
        column = next(name for name, new in shown.items() if new == sort["displayName"])
        rows.sort(key=lambda row: row.get(column, 0), reverse=sort["desc"])
    room = int((place.h / place.line - 1.9) / 0.68)
    widest = {name: len(shown[name]) + 1 for name in columns}
    cells = []
    for row in rows[:room if len(rows) <= room else room - 1]:
        line = []
        for name in columns:
            look = looks.get(shown[name], {})
            value = row.get(name, "")
            text = mapped(look.get("mappings", []), value) if isinstance(value, str) else formatted(
                value, look.get("unit", "none"), look.get("decimals"))
            text = cut(text, 20 if name in ("sha256", "serial") else 76)
            colour = step_colour(look["thresholds"]["steps"], value) if "thresholds" in look and value != "" else INK
            widest[name] = max(widest[name], len(text) + 1)
            line.append((text, colour))
        cells.append(line)
    # Text that does not fit is cut in the widest column.
    fits, total = place.w * 285, sum(widest.values())
    if total > fits:
        greatest = max(widest, key=widest.get)
        widest[greatest] -= math.ceil(total - fits)
    total, x = sum(widest.values()), 0.006
    stretch = (place.w - 0.008) / max(total, 1)
    for n, name in enumerate(columns):
        place.text(x, 1.45, shown[name], fontsize=5.6, color=FAINT)
        for m, line in enumerate(cells):
            text, colour = line[n]
            place.text(x, 2.1 + 0.68 * m, cut(text, max(4, widest[name])), fontsize=5.6, color=colour,
                       weight="bold" if colour != INK else "normal")
        x += widest[name] * stretch
    if len(rows) > len(cells):
        place.text(0.006, 2.1 + 0.68 * len(cells), f"and {len(rows) - len(cells)} more", fontsize=5.6, color=FAINT)


def bars(place, panel, now, _over, _span):
    found = answers(panel, now)
    most = max((value for _, value in found), default=1) or 1
    room = (place.h - 1.5 * place.line) / max(len(found), 1)
    for number, (name, value) in enumerate(found):
        y = place.y + place.h - 1.3 * place.line - (number + 0.5) * room
        place.figure.text(place.x + 0.006, y, name, va="center", fontsize=5.6)
        left, width = place.x + place.w * 0.47, place.w * 0.42
        axes = place.figure.add_axes((left, y - room * 0.32, width, room * 0.64), facecolor="#f1f2f4")
        axes.barh([0], [value], color=NAMED["orange"], height=2)
        axes.set(xlim=(0, most), ylim=(-0.5, 0.5))
        axes.axis("off")
        place.figure.text(left + width + 0.004, y, formatted(value, "short"), va="center", weight="bold", fontsize=5.8)


def timeline(place, panel, _now, over, span):
    found = answers(panel, over)
    states = panel["fieldConfig"]["defaults"]["mappings"][0]["options"]
    axes = place.axes(0.7)
    for row, (name, points) in enumerate(found):
        for t, value in points:
            state = states[f"{value:.0f}"]
            axes.barh(row, span.step, left=t - span.start, height=0.8, color=NAMED[state["color"]], lw=0)
        begun = min((t for t, _ in points), default=span.start) - span.start
        axes.text(begun + span.seconds * 0.008, row, cut(name, 60), fontsize=4.8, va="center", color="white", weight="bold")
    axes.set_ylim(len(found) - 0.4, -0.6)
    finish(axes, span)
    axes.set_yticks([])
    axes.grid(False)
    x = place.x + 0.03
    for state in states.values():
        place.figure.text(x, place.y + 0.4 * place.line, "■ ", color=NAMED[state["color"]], va="center", fontsize=5)
        place.figure.text(x + 0.008, place.y + 0.4 * place.line, state["text"], va="center", fontsize=5.4)
        x += 0.016 + 0.0052 * len(state["text"])


KINDS = {"stat": stat, "timeseries": series, "heatmap": heatmap, "table": table, "bargauge": bars, "state-timeline": timeline}
