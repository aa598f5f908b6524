"""The kinds of panel of the Grafana dashboards, their queries, and their layout in rows."""

from .check import DEPLOY

DASHBOARDS = DEPLOY / "grafana/dashboards"
PROMETHEUS = {"type": "prometheus", "uid": "${datasource}"}
LOKI = {"type": "loki", "uid": "${logs}"}


def dashboard(name, title, description, since, refresh, links, annotations, variables, rows):
    """Returns a dashboard with these rows; `since` is its time range, `refresh` the time between two refreshes or ""."""
    return {
        "uid": name,
        "title": title,
        "description": description,
        "tags": ["tlsidecar"],
        "schemaVersion": 39,
        "version": 1,
        # Grafana keeps no change of a provisioned dashboard, but lets everybody try one.
        "editable": True,
        "graphTooltip": 1,
        "timezone": "browser",
        "time": {"from": f"now-{since}", "to": "now"},
        "refresh": refresh,
        "fiscalYearStartMonth": 0,
        "links": links,
        "annotations": {"list": annotations},
        "templating": {"list": variables},
        "panels": laid_out(rows),
    }


def laid_out(rows):
    """Places the panels of each row side by side, 24 columns wide, and numbers them.

    Grafana asks the queries of a collapsed row only once it is opened. The first row is open.
    """
    result, y, number = [], 0, 1
    for title, panels in rows:
        row = {
            "id": number, "type": "row", "title": title, "collapsed": bool(result), "panels": [],
            "gridPos": {"x": 0, "y": y, "w": 24, "h": 1},
        }
        result.append(row)
        into = row["panels"] if row["collapsed"] else result
        number, y, x, top, height = number + 1, y + 1, 0, y + 1, 0
        for panel in panels:
            width, tall = panel["gridPos"]["w"], panel["gridPos"]["h"]
            if x + width > 24:
                x, top, height = 0, top + height, 0
            panel["gridPos"] = {"x": x, "y": top, "w": width, "h": tall}
            panel["id"] = number
            number, x, height = number + 1, x + width, max(height, tall)
            into.append(panel)
        if not row["collapsed"]:
            y = top + height
    return result


def every(board):
    """Returns all panels of a dashboard, with those of collapsed rows, without the rows."""
    return [panel for each in board["panels"] for panel in (each["panels"] if each["type"] == "row" else [each])]


def opened(board):
    """Returns the panels and rows of a dashboard as if all rows were open, each at its place."""
    result, shift = [], 0
    for each in board["panels"]:
        moved = [each, *each.get("panels", [])]
        result += [{**panel, "gridPos": {**panel["gridPos"], "y": panel["gridPos"]["y"] + shift}} for panel in moved]
        if each.get("panels"):
            shift += max(p["gridPos"]["y"] + p["gridPos"]["h"] for p in each["panels"]) - each["gridPos"]["y"] - 1
    return result


GOOD = [("green", None)]
NEUTRAL = [("blue", None)]
ALARM_FROM_1 = [("green", None), ("red", 1)]
COLOURED_CELL = ("custom.cellOptions", {"type": "color-background", "mode": "basic"})


def stat(title, width, description, unit, queries, steps, mappings=(), overrides=(), graph=False, runbook="",
         decimals=None, instant=False):
    panel = base("stat", title, width, 4, description, unit, runbook)
    panel["targets"] = targets(queries, instant=instant or not graph)
    panel["fieldConfig"]["defaults"].update(dict([thresholds(steps)]), color={"mode": "thresholds"}, mappings=list(mappings))
    panel["fieldConfig"]["overrides"] = list(overrides)
    if decimals is not None:
        panel["fieldConfig"]["defaults"]["decimals"] = decimals
    panel["options"] = {
        "colorMode": "background", "graphMode": "area" if graph else "none", "justifyMode": "auto",
        "orientation": "auto", "percentChangeColorMode": "standard", "showPercentChange": False,
        "textMode": "value_and_name" if len(queries) > 1 else "value", "wideLayout": True,
        "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
    }
    return panel


def series(title, width, height, description, unit, queries, stack=False, bars=False, log=False, below_zero=False,
           overrides=(), runbook=""):
    panel = base("timeseries", title, width, height, description, unit, runbook)
    panel["targets"] = targets(queries)
    panel["fieldConfig"]["defaults"].update(color={"mode": "palette-classic"}, custom={
        "drawStyle": "bars" if bars else "line", "lineWidth": 1, "showPoints": "never", "spanNulls": False,
        "fillOpacity": 80 if bars else 30 if stack else 10,
        "stacking": {"group": "A", "mode": "normal" if stack else "none"},
        "scaleDistribution": {"type": "log", "log": 10} if log else {"type": "linear"},
    })
    # From zero, so that a flat line looks flat. A logarithmic axis has no zero.
    if not log and not below_zero:
        panel["fieldConfig"]["defaults"]["min"] = 0
    panel["fieldConfig"]["overrides"] = list(overrides)
    panel["options"] = {
        "legend": {"calcs": ["lastNotNull", "max"], "displayMode": "table", "placement": "bottom", "showLegend": True},
        "tooltip": {"mode": "multi", "sort": "desc"},
    }
    return panel


def heatmap(title, width, height, description, queries, runbook=""):
    panel = base("heatmap", title, width, height, description, "short", runbook)
    panel["targets"] = targets(queries, shape="heatmap")
    panel["fieldConfig"]["defaults"]["custom"] = {"scaleDistribution": {"type": "linear"}}
    panel["options"] = {
        "calculate": False, "cellGap": 1,
        "cellValues": {"unit": "short", "decimals": 0},
        "color": {"mode": "scheme", "scheme": "Oranges", "fill": "dark-orange", "scale": "exponential", "exponent": 0.5,
                  "reverse": False, "steps": 64},
        "exemplars": {"color": "rgba(255,0,255,0.7)"}, "filterValues": {"le": 1e-9},
        "legend": {"show": True}, "rowsFrame": {"layout": "auto"}, "showValue": "never",
        "tooltip": {"mode": "single", "showColorScale": False, "yHistogram": False},
        "yAxis": {"axisPlacement": "left", "reverse": False, "unit": "s"},
    }
    return panel


def table(title, width, height, description, unit, queries, columns, overrides=(), hidden=(), sort=None, merge=False,
          runbook=""):
    panel = base("table", title, width, height, description, unit, runbook)
    panel["targets"] = targets([(query, "") for query in queries], instant=True, shape="table")
    panel["fieldConfig"]["defaults"]["custom"] = {"align": "auto", "cellOptions": {"type": "auto"}, "inspect": False}
    # Grafana matches overrides after the renaming below, so they use the new names.
    panel["fieldConfig"]["overrides"] = [
        {"matcher": {"id": "byName", "options": columns.get(o["matcher"]["options"], o["matcher"]["options"])},
         "properties": o["properties"]}
        for o in overrides
    ]
    organize = {
        "id": "organize",
        "options": {
            "excludeByName": {"Time": True, **{name: True for name in hidden}},
            "indexByName": {name: n for n, name in enumerate(columns)},
            "renameByName": {name: new for name, new in columns.items() if name != new},
        },
    }
    panel["transformations"] = ([{"id": "merge", "options": {}}] if merge else []) + [organize]
    panel["options"] = {
        "cellHeight": "sm", "showHeader": True, "frameIndex": 0,
        "sortBy": [{"displayName": sort[0], "desc": sort[1]}] if sort else [],
    }
    return panel


def explained(title, width, height, description, counter, label, meanings, columns, widths, runbook):
    """A table of a counter's increase in the time range, highest first, with the meaning of each label value."""
    name, meaning, count = columns
    return table(
        title, width, height, description, "short",
        [f'sort_desc(sum by (listener, {label}, meaning) (label_replace(round(increase({counter}[$__range])), '
         f'"meaning", "$1", "{label}", "(.*)")) > 0)'],
        columns={"listener": "Listener", label: name, "meaning": meaning, "Value": count},
        overrides=[
            override("meaning", ("mappings", [values(meanings)]), ("custom.minWidth", widths[0])),
            override("Value", ("custom.width", widths[1]), ("decimals", 0)),
        ],
        sort=(count, True), runbook=runbook,
    )


def bars(title, width, height, description, unit, queries, runbook=""):
    panel = base("bargauge", title, width, height, description, unit, runbook)
    panel["targets"] = targets(queries, instant=True)
    panel["fieldConfig"]["defaults"].update(dict([thresholds([("orange", None)])]), color={"mode": "thresholds"}, min=0,
                                            decimals=0, noValue="nothing")
    panel["options"] = {
        "displayMode": "basic", "minVizHeight": 16, "minVizWidth": 8, "maxVizHeight": 40, "namePlacement": "left",
        "orientation": "horizontal", "showUnfilled": True, "sizing": "auto", "valueMode": "text",
        "legend": {"calcs": [], "displayMode": "list", "placement": "bottom", "showLegend": False},
        "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
    }
    return panel


def timeline(title, width, height, description, queries, states, runbook=""):
    panel = base("state-timeline", title, width, height, description, "none", runbook)
    panel["targets"] = targets(queries)
    panel["fieldConfig"]["defaults"].update(
        color={"mode": "thresholds"}, custom={"fillOpacity": 70, "lineWidth": 0},
        mappings=[{"type": "value", "options": {
            value: {"text": text, "color": colour, "index": n} for n, (value, (text, colour)) in enumerate(states.items())
        }}],
        **dict([thresholds(GOOD)]),
    )
    panel["options"] = {
        "alignValue": "left", "mergeValues": True, "rowHeight": 0.9, "showValue": "auto",
        "legend": {"calcs": [], "displayMode": "list", "placement": "bottom", "showLegend": True},
        "tooltip": {"mode": "single", "sort": "none"},
    }
    return panel


def base(kind, title, width, height, description, unit, runbook, source=PROMETHEUS):
    panel = {
        "type": kind, "title": title, "description": description, "datasource": source,
        "gridPos": {"w": width, "h": height},
        "fieldConfig": {"defaults": {"unit": unit}, "overrides": []},
    }
    if runbook:
        panel["links"] = [link("What to do", "${runbooks}/" + runbook + ".md", "")]
    return panel


def targets(queries, instant=False, shape="time_series"):
    return [
        {
            "refId": chr(ord("A") + n), "datasource": PROMETHEUS, "editorMode": "code", "expr": expression,
            "legendFormat": legend, "format": shape, "instant": instant, "range": not instant,
        }
        for n, (expression, legend) in enumerate(queries)
    ]


def link(title, url, tooltip):
    return {
        "title": title, "url": url, "tooltip": tooltip, "type": "link", "icon": "doc", "targetBlank": True,
        "asDropdown": False, "includeVars": False, "keepTime": False, "tags": [],
    }


def override(name, *properties):
    return {"matcher": {"id": "byName", "options": name}, "properties": [{"id": i, "value": v} for i, v in properties]}


def regex_override(pattern, *properties):
    return {"matcher": {"id": "byRegexp", "options": pattern},
            "properties": [{"id": i, "value": v} for i, v in properties]}


def thresholds(steps):
    return "thresholds", {"mode": "absolute", "steps": [{"color": c, "value": v} for c, v in steps]}


def color(name):
    return "color", {"mode": "fixed", "fixedColor": name}


def values(texts):
    return {"type": "value", "options": {value: {"text": text, "index": n} for n, (value, text) in enumerate(texts.items())}}


def logs(title, width, height, description, query, runbook=""):
    panel = base("logs", title, width, height, description, "none", runbook, source=LOKI)
    panel["targets"] = [{
        "refId": "A", "datasource": LOKI, "editorMode": "code", "expr": query, "queryType": "range", "maxLines": 500,
    }]
    panel["options"] = {
        "dedupStrategy": "none", "enableLogDetails": True, "prettifyLogMessage": False, "showCommonLabels": False,
        "showLabels": False, "showLogContextToggle": False, "showTime": True, "sortOrder": "Descending",
        "wrapLogMessage": True,
    }
    return panel


def text(title, width, height, content):
    return {
        "type": "text", "title": title, "gridPos": {"w": width, "h": height},
        "options": {"mode": "markdown", "content": content},
    }
