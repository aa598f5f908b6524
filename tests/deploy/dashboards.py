#!/usr/bin/env python3
"""Checks the dashboard, its provisioning and the compose file, without Grafana and without Docker.

- The JSON is what tests/deploy/board.py writes.
- The rules of Grafana's dashboard-linter, done again: variables, title, description and unit of every
  panel, the data source as a variable everywhere, PromQL that parses, $__rate_interval, counters only
  within rate and the like, not editable.
- Each metric that is asked for is in docs/metrics.md; each reason of docs/reasons.md has its words.
- Types, by @grafana/schema and tsc --strict.
- The compose file, by a model of the Compose specification.

Needs promql-parser, PyYAML and compose-spec for Python, and for npm @grafana/schema and typescript in
target/checks/npm: .ci/run installs them.
"""

import importlib.util
import json
import os
import re
import subprocess
import sys
import tempfile

import compose_spec
import promql_parser
import yaml

from problems import any_told, problem

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
GRAFANA = os.path.join(ROOT, "deploy/grafana")
NPM = os.path.join(ROOT, "target/checks/npm")
SCHEMA = "@grafana/schema"
# Grafana's name of a kind of panel, and the name of its types in @grafana/schema.
KINDS = {
    "stat": "Stat", "timeseries": "TimeSeries", "table": "Table", "heatmap": "Heatmap", "bargauge": "BarGauge",
    "state-timeline": "StateTimeline",
}
# What Grafana puts in the place of its variables, so that PromQL can be parsed.
VARIABLES = {"$__rate_interval": "1m", "$__range": "1h", "$__interval": "15s"}
# Functions that a counter may stand in; anywhere else its value means nothing.
OF_COUNTERS = {"rate", "increase", "irate", "resets", "changes"}
# Metrics that Prometheus or every process has, and that docs/metrics.md need not explain.
NOT_OURS = {"up", "ALERTS"}


def main():
    board = load_dashboard()
    panels = [p for p in board["panels"] if p["type"] != "row"]
    asked = 0
    lint_board(board)
    for panel in panels:
        lint_panel(panel)
        asked += len(panel["targets"])
    lint_queries(board, panels)
    lint_words()
    typed = type_check(board, panels)
    provisioned = provisioning(board)
    services = compose()
    if any_told("dashboards"):
        return 1
    print(f"dashboards: {len(panels)} panels with {asked} queries in {len(board['panels']) - len(panels)} rows, "
          f"{typed} objects typed by {SCHEMA}, {provisioned} provisioning files, {services} services in the compose file")
    return 0


def load_dashboard():
    program = module()
    path = os.path.join(GRAFANA, "dashboards/tlsidecar.json")
    with open(path, encoding="utf-8") as file:
        text = file.read()
    if text != program.text():
        problem("dashboards/tlsidecar.json is not what tests/deploy/board.py writes: run that")
    others = set(os.listdir(os.path.dirname(path))) - {"tlsidecar.json"}
    if others:
        problem(f"nothing checks {sorted(others)}")
    return json.loads(text)


def module():
    sys.dont_write_bytecode = True
    spec = importlib.util.spec_from_file_location("board", os.path.join(ROOT, "tests/deploy/board.py"))
    program = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(program)
    return program


# ---- dashboard-linter's rules --------------------------------------------------------------------


def lint_board(board):
    variables = {v["name"]: v for v in board["templating"]["list"]}
    source = variables.get("datasource", {})
    if source.get("type") != "datasource" or source.get("query") != "prometheus":
        problem("there is no variable for a Prometheus data source")
    for name in ("job", "namespace", "pod", "instance", "listener"):
        variable = variables.get(name)
        if not variable:
            problem(f"there is no variable {name}")
            continue
        if not (variable["multi"] and variable["includeAll"] and variable["refresh"] == 2):
            problem(f"the variable {name} is not multi with All and refreshed on a change of the time range")
        # What Linux hosts do not have must be matched by "All"; up and process_... must not.
        if variable.get("allValue") != (None if name == "job" else ".*"):
            problem(f"the variable {name} has a wrong value for All")
        if variable["datasource"] != {"type": "prometheus", "uid": "${datasource}"}:
            problem(f"the variable {name} has a data source of its own")
    if board["editable"]:
        problem("the dashboard can be edited, and would then differ from the file")
    if not board["uid"] or not board["title"]:
        problem("the dashboard has no fixed uid or no title")
    ids = [p["id"] for p in board["panels"]]
    if len(ids) != len(set(ids)):
        problem("two panels have the same id")
    taken = {}
    for panel in board["panels"]:
        at = panel["gridPos"]
        if at["x"] + at["w"] > 24:
            problem(f"{panel['title']}: out of the grid")
        for x in range(at["x"], at["x"] + at["w"]):
            for y in range(at["y"], at["y"] + at["h"]):
                if taken.setdefault((x, y), panel["id"]) != panel["id"]:
                    problem(f"{panel['title']}: lies over another panel")
                    return


def lint_panel(panel):
    title = panel.get("title") or f"panel {panel['id']}"
    if not panel.get("title"):
        problem(f"{title}: no title")
    if len(panel.get("description", "")) < 20:
        problem(f"{title}: no description")
    if not panel["fieldConfig"]["defaults"].get("unit"):
        problem(f"{title}: no unit")
    if not panel.get("targets"):
        problem(f"{title}: asks nothing")
    for thing in [panel] + panel["targets"]:
        if thing.get("datasource") != {"type": "prometheus", "uid": "${datasource}"}:
            problem(f"{title}: not the data source of the variable")
    if panel["type"] not in KINDS:
        problem(f"{title}: nothing checks panels of type {panel['type']}")


def lint_queries(board, panels):
    documented = documented_metrics()
    alerts = alert_names()
    queries = [(p["title"], t["expr"]) for p in panels for t in p["targets"]]
    queries += [(a["name"], a["target"]["expr"]) for a in board["annotations"]["list"]]
    metrics = set()
    for title, query in queries:
        names = lint_query(title, query)
        metrics |= names
        for name in names - NOT_OURS:
            if base_name(name) not in documented:
                problem(f"{title}: {name} is not in docs/metrics.md")
    if len(metrics) < 30:
        problem(f"only {len(metrics)} metrics are asked for: is the check blind?")
    links = re.findall(r"\$\{runbooks\}/(\w+)\.md", json.dumps(board))
    if not links:
        problem("no panel leads to a runbook")
    for name in sorted(set(links) - alerts):
        problem(f"a panel leads to the runbook {name}, and there is no such alert")


def lint_query(title, query):
    """The metrics in a query, which is right as far as can be seen without running it."""
    if "[$__interval]" in query or re.search(r"\[\d", query):
        problem(f"{title}: a range that is neither $__rate_interval nor $__range")
    for name, value in VARIABLES.items():
        query = query.replace(name, value)
    try:
        tree = promql_parser.parse(query)
    except ValueError as error:
        problem(f"{title}: {error}")
        return set()
    names = set()
    for selector, within in selectors(tree):
        names.add(selector.name)
        matchers = {m.name: m.value for m in selector.matchers.matchers}
        if matchers.get("job") != "$job":
            problem(f"{title}: {selector.name} is not picked by $job")
        if selector.name != "ALERTS" and matchers.get("instance") != "$instance":
            problem(f"{title}: {selector.name} is not picked by $instance")
        counter = re.search(r"_(total|bucket|sum|count)$", selector.name) is not None
        if counter and not within & OF_COUNTERS:
            problem(f"{title}: the counter {selector.name} stands outside of rate and increase")
        if not counter and within & {"rate", "increase", "irate"}:
            problem(f"{title}: {selector.name} is not a counter, and stands in rate or increase")
    return names


def selectors(node, within=frozenset()):
    """Every selector of a parsed query, with the functions that it stands in."""
    if isinstance(node, promql_parser.VectorSelector):
        yield node, within
    elif isinstance(node, promql_parser.MatrixSelector):
        yield node.vector_selector, within
    elif isinstance(node, promql_parser.Call):
        for argument in node.args:
            yield from selectors(argument, within | {node.func.name})
    else:
        for part in ("expr", "lhs", "rhs", "param"):
            child = getattr(node, part, None)
            if child is not None:
                yield from selectors(child, within)


def base_name(name):
    return re.sub(r"_(bucket|sum|count)$", "", name)


def documented_metrics():
    with open(os.path.join(ROOT, "docs/metrics.md"), encoding="utf-8") as file:
        return set(re.findall(r"`((?:tlsidecar|process)_\w+)`", file.read()))


def alert_names():
    with open(os.path.join(ROOT, "deploy/prometheus/rules/alerts.yml"), encoding="utf-8") as file:
        return {rule["alert"] for group in yaml.safe_load(file)["groups"] for rule in group["rules"]}


def lint_words():
    """Each reason is told in words, as a failure or as an end."""
    program = module()
    with open(os.path.join(ROOT, "docs/reasons.md"), encoding="utf-8") as file:
        reasons = set(re.findall(r"^\| `(\w+)` \|", file.read(), re.M))
    told = list(program.FAILED) + [r for rs in program.ENDED.values() for r in rs] + program.IGNORED
    if len(reasons) < 20:
        problem(f"only {len(reasons)} reasons found in docs/reasons.md")
    for reason in sorted(reasons - set(told)):
        problem(f"the dashboard does not know the reason {reason}")
    for reason in sorted(set(told) - reasons):
        problem(f"there is no reason {reason}")
    if len(told) != len(set(told)):
        problem("a reason is told twice")


# ---- Types ---------------------------------------------------------------------------------------

HEADER = """\
import type * as schema from '@grafana/schema';
%s
// What a type looks like in JSON: an enum is the text or the number of one of its values.
type Json<T> = T extends string ? `${T}` : T extends number ? (`${T}` extends `${infer N extends number}` ? N : T)
  : T extends Array<infer U> ? Json<U>[] : T extends object ? { [K in keyof T]: Json<T[K]> } : T;

// Keys that are the Prometheus plugin's own; no package has types for them.
interface Target {
  refId: string; datasource: schema.DataSourceRef; expr: string; legendFormat: string; editorMode: 'code';
  format: 'time_series' | 'table' | 'heatmap'; instant: boolean; range: boolean;
}
interface Annotation extends Omit<schema.AnnotationQuery, 'target'> {
  target: { refId: string; expr: string; interval: string; legendFormat: string };
  titleFormat: string; textFormat: string; tagKeys: string;
}
interface Board extends Omit<schema.Dashboard, 'annotations'> { annotations: { list: Annotation[] } }

"""


def type_check(board, panels):
    kinds = sorted({p["type"] for p in panels} & set(KINDS))
    imports = "".join(
        f"import type * as {KINDS[k]} from '{SCHEMA}/dist/esm/raw/composable/{k.replace('-', '')}/panelcfg/x/"
        f"{KINDS[k]}PanelCfg_types.gen';\n" for k in kinds)
    lines = [HEADER % imports]
    count = 0

    def typed(kind, value):
        nonlocal count
        count += 1
        lines.append(f"export const x{count}: {kind} = {json.dumps(value)};\n")

    typed("Json<Board>", board)
    for panel in panels:
        if panel["type"] not in KINDS:
            continue
        name = KINDS[panel["type"]]
        typed(f"Json<{name}.Options>", panel["options"])
        custom = panel["fieldConfig"]["defaults"].get("custom")
        if custom is not None:
            typed(f"Json<Partial<{name}.FieldConfig>>", custom)
        for target in panel["targets"]:
            typed("Target", target)
        for over in panel["fieldConfig"]["overrides"]:
            override_types(name, over["properties"], typed)
    with tempfile.TemporaryDirectory(dir=NPM) as place:
        path = os.path.join(place, "dashboard.ts")
        with open(path, "w", encoding="utf-8") as file:
            file.writelines(lines)
        tsc = subprocess.run(
            [os.path.join(NPM, "node_modules/.bin/tsc"), "--strict", "--noEmit", "--skipLibCheck", "--target", "es2022",
             "--module", "esnext", "--moduleResolution", "bundler", path],
            capture_output=True, text=True, timeout=300, check=False)
    if tsc.returncode:
        for line in (tsc.stdout + tsc.stderr).splitlines()[:20]:
            problem(f"tsc: {line[:400]}")
    return count


def override_types(name, properties, typed):
    """An override's properties, as the object that they amount to."""
    field, custom = {}, {}
    for prop in properties:
        into, key = (custom, prop["id"][7:]) if prop["id"].startswith("custom.") else (field, prop["id"])
        into[key] = prop["value"]
    typed("Json<schema.FieldConfig>", field)
    if custom:
        typed(f"Json<Partial<{name}.FieldConfig>>", custom)


# ---- Files around it -----------------------------------------------------------------------------


def provisioning(board):
    def load(path):
        with open(os.path.join(GRAFANA, "provisioning", path), encoding="utf-8") as file:
            return yaml.safe_load(file)

    sources = load("datasources/prometheus.yaml")
    if sources["apiVersion"] != 1 or [s["type"] for s in sources["datasources"]] != ["prometheus"]:
        problem("provisioning: no Prometheus data source")
    for source in sources["datasources"]:
        if not source.get("jsonData", {}).get("timeInterval"):
            problem("provisioning: without timeInterval, $__rate_interval does not know how often is scraped")
    providers = load("dashboards/tlsidecar.yaml")
    if providers["apiVersion"] != 1 or not providers["providers"][0]["options"]["path"]:
        problem("provisioning: no path to dashboards")
    if providers["providers"][0]["allowUiUpdates"] or board["editable"]:
        problem("provisioning: the dashboard can be changed by hand, and would be overwritten")
    return 2


def compose():
    path = os.path.join(ROOT, "deploy/compose/compose.yml")
    with open(path, encoding="utf-8") as file:
        text = file.read()
    document = yaml.safe_load(text)
    try:
        compose_spec.PyCompose.from_yaml(text).validate()
    except ValueError as error:
        problem(f"compose.yml: {error}")
    services = document["services"]
    for name, service in services.items():
        # The model does not follow names from one service to another.
        named = list(service.get("depends_on", []))
        if service.get("network_mode", "").startswith("service:"):
            named.append(service["network_mode"][len("service:"):])
        for other in named:
            if other not in services:
                problem(f"compose.yml: {name} names the service {other}, which is not there")
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            if source.startswith(".") and not os.path.exists(os.path.join(os.path.dirname(path), source)):
                problem(f"compose.yml: {name} mounts {source}, which is not there")
    return len(services)


if __name__ == "__main__":
    sys.exit(main())
