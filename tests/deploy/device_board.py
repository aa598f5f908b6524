"""The Grafana dashboard of one device, from the access log in Loki: metrics do not identify devices."""

import json

from . import panels
from .addresses import RUNBOOKS
from .board import FAILED, constant, either, of_logs
from .panels import DASHBOARDS, LOKI, base, link, logs, text as note

WRITTEN = DASHBOARDS / "tlsidecar-device.json"

# Lines of the access log that contain the text of the variable; both formats of log.format.
LINES = '{${stream:raw}} |~ `reason"?[=:]"` |= `${device:raw}`'
REASON = 'regexp `reason"?[=:]"(?P<reason>\\w+)`'


def number(key, label):
    """Returns the stage that reads a number of a line."""
    return f'regexp `{key}"?[=:](?P<{label}>[0-9.]+)` | unwrap {label}'


HELP = """\
**Device**: a text that its lines of the access log contain: its identity, its address, a server name, or the subject or
serial number of a refused certificate. **Log labels**: those that your collector gives tlsidecar's log.

A line is written when a connection *ends*. The sessions that are open now, and the last failures of a device, are on the
status page of each instance, and in

    tlsidecar sessions
    curl -s 'localhost:9901/sessions?identity=NAME'
    curl -s localhost:9901/top
"""


def dashboard():
    """Returns the dashboard, in reading order."""
    return panels.dashboard(
        "tlsidecar-device", "tlsidecar: one device", "Connections of one device, from the access log in Loki.",
        since="24h", refresh="",
        links=[link("All devices", "/d/tlsidecar", "The dashboard of all devices") | {"includeVars": True},
               link("Reasons", "${runbooks}/../reasons.md", "Meaning and remedy of each reason")],
        annotations=[],
        variables=[
            {
                "name": "device", "label": "Device", "type": "textbox", "query": "", "hide": 0, "skipUrlSync": False,
                "current": {"selected": True, "text": "", "value": ""}, "options": [],
            },
            *of_logs(),
            constant("runbooks", "Runbooks", RUNBOOKS),
        ],
        rows=[("Connections", connections()), ("Figures", figures())],
    )


def connections():
    failed = f'{LINES} |~ `reason"?[=:]"({either(FAILED)})"`'
    return [
        note("How to use this dashboard", 12, 7, HELP),
        stat("Ended connections", 4, "Connections in the time range that have ended.", "short",
             f"sum(count_over_time({LINES} [$__range]))"),
        stat("Failed", 4, "Connections in the time range that ended before any data was relayed.", "short",
             f"sum(count_over_time({failed} [$__range]))", alarm=True),
        stat("Longest connection", 4, "The longest of these connections.", "ms",
             f"max(max_over_time({LINES} | {number('duration_ms', 'duration')} [$__range]))"),
        series("Ended connections by reason", 24, 8, "Many in a short time: the device reconnects again and again.", "short",
               [(f"sum by (reason) (count_over_time({LINES} | {REASON} [$__auto]))", "{{reason}}")]),
        logs("Log", 24, 12, "The lines, newest first. Open one to see its fields.", LINES),
    ]


def figures():
    return [
        series("Bytes of ended connections", 8, 8, "Plaintext bytes, at the time of the connection's end.", "bytes",
               [(f"sum(sum_over_time({LINES} | {number(key, 'bytes')} [$__auto]))", name)
                for key, name in (("bytes_to_backend", "to the backend"), ("bytes_to_client", "to the device"))]),
        series("Handshake", 8, 8, "The longest time from accept to the end of the handshake, and to connect to the backend.",
               "ms", [(f"max(max_over_time({LINES} | {number(key, 'time')} [$__auto]))", name)
                      for key, name in (("handshake_ms", "handshake"), ("connect_ms", "connect"))]),
        series("Full and resumed handshakes", 8, 8, "Only full ones: the device does not keep its tickets.", "short",
               [(f'sum by (kind) (count_over_time({LINES} | regexp `handshake"?[=:]"(?P<kind>\\w+)` | kind != "" [$__auto]))',
                 "{{kind}}")]),
    ]


def stat(title, width, description, unit, query, alarm=False):
    panel = base("stat", title, width, 7, description, unit, "", source=LOKI)
    panel["targets"] = targets([(query, "")], "instant")
    steps = [{"color": "green", "value": None}, {"color": "red", "value": 1}] if alarm else [{"color": "blue", "value": None}]
    panel["fieldConfig"]["defaults"].update(
        color={"mode": "thresholds"}, thresholds={"mode": "absolute", "steps": steps}, noValue="0")
    panel["options"] = {
        "colorMode": "background", "graphMode": "none", "justifyMode": "auto", "orientation": "auto",
        "percentChangeColorMode": "standard", "showPercentChange": False, "textMode": "value", "wideLayout": True,
        "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
    }
    return panel


def series(title, width, height, description, unit, queries):
    panel = base("timeseries", title, width, height, description, unit, "", source=LOKI)
    panel["targets"] = targets(queries, "range")
    panel["fieldConfig"]["defaults"].update(color={"mode": "palette-classic"}, min=0, custom={
        "drawStyle": "bars", "lineWidth": 1, "showPoints": "never", "spanNulls": False, "fillOpacity": 80,
        "stacking": {"group": "A", "mode": "normal" if unit in ("short", "bytes") else "none"},
        "scaleDistribution": {"type": "linear"},
    })
    panel["options"] = {
        "legend": {"calcs": ["sum" if unit in ("short", "bytes") else "max"], "displayMode": "table", "placement": "bottom",
                   "showLegend": True},
        "tooltip": {"mode": "multi", "sort": "desc"},
    }
    return panel


def targets(queries, kind):
    return [
        {"refId": chr(ord("A") + n), "datasource": LOKI, "editorMode": "code", "expr": expression, "legendFormat": legend,
         "queryType": kind}
        for n, (expression, legend) in enumerate(queries)
    ]


def text():
    """Returns the content of the file."""
    return json.dumps(dashboard(), indent=1, ensure_ascii=False) + "\n"
