"""Checks the dashboards, their provisioning and the compose file, without Grafana and without Docker.

- The JSON is what board.py and device_board.py generate.
- The rules of Grafana's dashboard-linter, implemented again: variables, title, description and unit of every panel, the
  data source as a variable everywhere, valid PromQL and LogQL, $__rate_interval, counters only within rate and similar
  functions.
- An opened dashboard asks few queries: the rows below the first one are collapsed.
- The patterns of the LogQL queries read lines of a real log, in both formats.
- Each metric in a query is in docs/metrics.md; each reason of docs/reasons.md has a description.
- Types, by @grafana/schema and tsc --strict.
- The compose file, by a model of the Compose specification.

Needs promql-parser, PyYAML and compose-spec of PyPI, @grafana/schema, @grafana/lezer-logql and typescript of npm, and a
built tlsidecar.
"""

import json
import os
import re
import tempfile

import compose_spec
import promql_parser
import yaml

from . import board as generator
from . import device_board
from .access_log import access_log
from .check import DEPLOY, HERE, ROOT, attempt, problem, report
from .panels import DASHBOARDS, every
from .promql import documented, rules, selectors

GRAFANA = DEPLOY / "grafana"
NPM = ROOT / "target/checks/npm"
SCHEMA = "@grafana/schema"
# Type of a panel in Grafana, and the name of its types in @grafana/schema.
KINDS = {
    "stat": "Stat", "timeseries": "TimeSeries", "table": "Table", "heatmap": "Heatmap", "bargauge": "BarGauge",
    "state-timeline": "StateTimeline", "logs": "Logs", "text": "Text",
}
# Values in place of Grafana's variables, so that PromQL can be parsed.
VARIABLES = {"$__rate_interval": "1m", "$__range": "1h", "$__interval": "15s", "$__auto": "15s", "$many": "100"}
# The same for LogQL.
OF_LOGS = {"${stream:raw}": 'container="tlsidecar"', "${device:raw}": "device-0001"}
# Queries that an opened dashboard may ask at each refresh.
AT_ONCE = 30
SOURCES = {"prometheus": "${datasource}", "loki": "${logs}"}
# Functions of counters; elsewhere a counter's value has no meaning.
OF_COUNTERS = {"rate", "increase", "irate", "resets", "changes"}
# Metrics of Prometheus itself, which docs/metrics.md does not list.
FOREIGN = {"up", "ALERTS"}


def main():
    board, device = load_dashboards()
    lint_all(board)
    lint_device(device)
    typed = type_check([board, device])
    read = lines(device)
    provisioned = provisioning()
    services = compose()
    panels = every(board)
    queries = sum(len(panel["targets"]) for panel in panels)
    at_once = sum(len(panel.get("targets", [])) for panel in board["panels"])
    if f"asks {at_once} queries" not in (ROOT / "docs/monitoring.md").read_text():
        problem(f"docs/monitoring.md does not state that the dashboard asks {at_once} queries at each refresh")
    return report("dashboards", f"{len(panels)} panels with {queries} queries, {at_once} of them at once; "
                                f"{len(every(device))} panels of one device; {typed} objects typed by {SCHEMA}, "
                                f"{read} lines of a log read, {provisioned} provisioning files, {services} services in "
                                "the compose file")


def load_dashboards():
    """Returns the dashboards, which have to be the generated ones and the only ones."""
    for source in (generator, device_board):
        if source.WRITTEN.read_text() != source.text():
            problem(f"dashboards/{source.WRITTEN.name} is old: run `just generate`")
    others = {path.name for path in DASHBOARDS.iterdir()} - {generator.WRITTEN.name, device_board.WRITTEN.name}
    if others:
        problem(f"no check for {sorted(others)}")
    return [json.loads(source.WRITTEN.read_text()) for source in (generator, device_board)]


def lint_all(board):
    """Checks the dashboard of all devices."""
    lint_board(board)
    lint_variables(board)
    panels = every(board)
    for panel in panels:
        lint_panel(panel)
    lint_queries(board, panels)
    lint_logql([target["expr"] for panel in panels for target in panel["targets"] if is_loki(target)])
    lint_words()


def lint_device(board):
    """Checks the dashboard of one device, which asks only Loki."""
    lint_board(board)
    panels = [panel for panel in every(board) if panel["type"] != "text"]
    for panel in panels:
        lint_panel(panel)
        if not all(is_loki(target) for target in panel["targets"]):
            problem(f"{panel['title']}: metrics do not identify devices")
    lint_logql([target["expr"] for panel in panels for target in panel["targets"]])


def is_loki(thing):
    return thing["datasource"]["type"] == "loki"


# ---- dashboard-linter's rules --------------------------------------------------------------------


def lint_board(board):
    if not board["editable"]:
        problem(f"{board['title']}: nobody can try a change")
    if not board["uid"] or not board["title"]:
        problem("a dashboard has no fixed uid or no title")
    ids = [p["id"] for row in board["panels"] for p in [row, *row.get("panels", [])]]
    if len(ids) != len(set(ids)):
        problem(f"{board['title']}: two panels have the same id")
    at_once = sum(len(panel.get("targets", [])) for panel in board["panels"])
    if not 0 < at_once <= AT_ONCE:
        problem(f"{board['title']}: {at_once} queries at once")
    for row in board["panels"]:
        if row.get("collapsed"):
            lint_grid(row["panels"])
    lint_grid(board["panels"])
    named = set(re.findall(r"\$\{?(\w+)", json.dumps(board)))
    for name in sorted(named - {"__rate_interval", "__range", "__auto", "__value", "__all", "1"}
                       - {variable["name"] for variable in board["templating"]["list"]}):
        problem(f"{board['title']}: there is no variable {name}")


def lint_grid(panels):
    taken = {}
    for panel in panels:
        at = panel["gridPos"]
        if at["x"] + at["w"] > 24:
            problem(f"{panel['title']}: out of the grid")
        for x in range(at["x"], at["x"] + at["w"]):
            for y in range(at["y"], at["y"] + at["h"]):
                if taken.setdefault((x, y), panel["id"]) != panel["id"]:
                    problem(f"{panel['title']}: lies over another panel")
                    return


def lint_variables(board):
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
        # "All" has to match labels that Linux hosts lack. It must not match every `up` and process_…: not for job.
        if variable.get("allValue") != (None if name == "job" else ".*"):
            problem(f"the variable {name} has a wrong value for All")
        if variable["datasource"] != {"type": "prometheus", "uid": "${datasource}"}:
            problem(f"the variable {name} has another data source")


def lint_panel(panel):
    title = panel.get("title") or f"panel {panel['id']}"
    if not panel.get("title"):
        problem(f"{title}: no title")
    if len(panel.get("description", "")) < 20:
        problem(f"{title}: no description")
    if not panel["fieldConfig"]["defaults"].get("unit"):
        problem(f"{title}: no unit")
    if not panel.get("targets"):
        problem(f"{title}: no query")
    for thing in [panel] + panel["targets"]:
        source = thing.get("datasource", {})
        if source.get("uid") != SOURCES.get(source.get("type")) or source != panel["datasource"]:
            problem(f"{title}: not the data source of the variable")
    if panel["type"] not in KINDS:
        problem(f"{title}: no check for panels of type {panel['type']}")


def lint_queries(board, panels):
    alerts = {rule["alert"] for rule in rules("alerts")}
    queries = [(p["title"], t["expr"]) for p in panels for t in p["targets"] if not is_loki(t)]
    queries += [(a["name"], a["target"]["expr"]) for a in board["annotations"]["list"]]
    metrics = set()
    for title, query in queries:
        names = lint_query(title, query)
        metrics |= names
        for name in names - FOREIGN:
            if not documented(name):
                problem(f"{title}: {name} is not in docs/metrics.md")
    if len(metrics) < 30:
        problem(f"only {len(metrics)} metrics found in the queries")
    links = re.findall(r"\$\{runbooks\}/(\w+)\.md", json.dumps(board))
    if not links:
        problem("no panel leads to a runbook")
    for name in sorted(set(links) - alerts):
        problem(f"a panel leads to the runbook {name}, and there is no such alert")


def lint_query(title, query):
    """Checks a query as far as possible without running it; returns its metrics."""
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
            problem(f"{title}: {selector.name} is not selected by $job")
        if selector.name != "ALERTS" and matchers.get("instance") != "$instance":
            problem(f"{title}: {selector.name} is not selected by $instance")
        counter = re.search(r"_(total|bucket|sum|count)$", selector.name) is not None
        if counter and not within & OF_COUNTERS:
            problem(f"{title}: the counter {selector.name} is outside of rate and increase")
        if not counter and within & {"rate", "increase", "irate"}:
            problem(f"{title}: {selector.name} is not a counter, and within rate or increase")
    return names


def lint_logql(queries):
    """Requires Grafana's grammar of LogQL to accept the queries."""
    for name, value in (VARIABLES | OF_LOGS).items():
        queries = [query.replace(name, value) for query in queries]
    done = attempt("node", HERE / "logql.js", input=json.dumps(queries))
    if done.returncode or not queries:
        problem(f"LogQL: {done.stdout}{done.stderr}")


def lines(board):
    """Requires the patterns of the LogQL queries to read the lines of a real access log; returns the number of lines."""
    queries = [target["expr"] for panel in every(board) if panel["type"] != "text" for target in panel["targets"]]
    stages = {stage for query in queries for stage in re.findall(r"regexp `([^`]+)`", query)}
    failure = next(pattern for query in queries for pattern in re.findall(r"\|~ `([^`]+)`", query) if "client_tls" in pattern)
    read = 0
    for form in ("text", "json"):
        served, failed = access_log(form)
        for stage in stages:
            if not re.search(stage, served):
                problem(f"{stage} does not read {served}")
        if re.search(failure, served) or not re.search(failure, failed):
            problem(f"{failure} does not tell {failed} from {served}")
        read += 2
    if len(stages) < 6:
        problem(f"only {len(stages)} patterns in the queries")
    return read


def lint_words():
    """Requires each reason to have one description, as a failure or as an end."""
    reasons = set(re.findall(r"^\| `(\w+)` \|", (ROOT / "docs/reasons.md").read_text(), re.M))
    described = list(generator.FAILED) + [r for rs in generator.ENDED.values() for r in rs] + generator.IGNORED
    if len(reasons) < 20:
        problem(f"only {len(reasons)} reasons found in docs/reasons.md")
    for reason in sorted(reasons - set(described)):
        problem(f"the dashboard lacks the reason {reason}")
    for reason in sorted(set(described) - reasons):
        problem(f"there is no reason {reason}")
    if len(described) != len(set(described)):
        problem("the dashboard has a reason twice")


# ---- Types ---------------------------------------------------------------------------------------

HEADER = """\
import type * as schema from '@grafana/schema';
%s
// A type as JSON has it: an enum is the text or the number of one of its values.
type Json<T> = T extends string ? `${T}` : T extends number ? (`${T}` extends `${infer N extends number}` ? N : T)
  : T extends Array<infer U> ? Json<U>[] : T extends object ? { [K in keyof T]: Json<T[K]> } : T;

// Keys of the Prometheus plugin; no package has types for them.
interface Target {
  refId: string; datasource: schema.DataSourceRef; expr: string; legendFormat: string; editorMode: 'code';
  format: 'time_series' | 'table' | 'heatmap'; instant: boolean; range: boolean;
}
interface LokiTarget {
  refId: string; datasource: schema.DataSourceRef; expr: string; legendFormat?: string; editorMode: 'code';
  queryType: 'range' | 'instant'; maxLines?: number;
}
interface Annotation extends Omit<schema.AnnotationQuery, 'target'> {
  target: { refId: string; expr: string; interval: string; legendFormat: string };
  titleFormat: string; textFormat: string; tagKeys: string;
}
interface Board extends Omit<schema.Dashboard, 'annotations'> { annotations: { list: Annotation[] } }

"""


def type_check(boards):
    panels = [panel for board in boards for panel in every(board)]
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

    for board in boards:
        typed("Json<Board>", board)
    for panel in panels:
        if panel["type"] not in KINDS:
            continue
        name = KINDS[panel["type"]]
        typed(f"Json<{name}.Options>", panel["options"])
        if panel["type"] == "text":
            continue
        custom = panel["fieldConfig"]["defaults"].get("custom")
        if custom is not None:
            typed(f"Json<Partial<{name}.FieldConfig>>", custom)
        for target in panel["targets"]:
            typed("LokiTarget" if is_loki(target) else "Target", target)
        for over in panel["fieldConfig"]["overrides"]:
            override_types(name, over["properties"], typed)
    with tempfile.TemporaryDirectory(dir=NPM) as place:
        path = os.path.join(place, "dashboard.ts")
        with open(path, "w", encoding="utf-8") as file:
            file.writelines(lines)
        tsc = attempt(NPM / "node_modules/.bin/tsc", "--strict", "--noEmit", "--skipLibCheck", "--target", "es2022",
                      "--module", "esnext", "--moduleResolution", "bundler", path, timeout=300)
    if tsc.returncode:
        for line in (tsc.stdout + tsc.stderr).splitlines()[:20]:
            problem(f"tsc: {line[:400]}")
    return count


def override_types(name, properties, typed):
    """Adds the types of an override's properties, as the object that they form together."""
    field, custom = {}, {}
    for prop in properties:
        into, key = (custom, prop["id"][7:]) if prop["id"].startswith("custom.") else (field, prop["id"])
        into[key] = prop["value"]
    typed("Json<schema.FieldConfig>", field)
    if custom:
        typed(f"Json<Partial<{name}.FieldConfig>>", custom)


# ---- Files around it -----------------------------------------------------------------------------


def provisioning():
    def load(path):
        return yaml.safe_load((GRAFANA / "provisioning" / path).read_text())

    sources = load("datasources/prometheus.yaml")
    if sources["apiVersion"] != 1 or [s["type"] for s in sources["datasources"]] != ["prometheus"]:
        problem("provisioning: no Prometheus data source")
    for source in sources["datasources"]:
        if not source.get("jsonData", {}).get("timeInterval"):
            problem("provisioning: without timeInterval, $__rate_interval does not know the scrape interval")
    providers = load("dashboards/tlsidecar.yaml")
    if providers["apiVersion"] != 1 or not providers["providers"][0]["options"]["path"]:
        problem("provisioning: no path to dashboards")
    if providers["providers"][0]["allowUiUpdates"]:
        problem("provisioning: changes of the dashboards by hand can be saved, and would be overwritten")
    return 2


def compose():
    path = DEPLOY / "compose/compose.yml"
    text = path.read_text()
    document = yaml.safe_load(text)
    try:
        compose_spec.PyCompose.from_yaml(text).validate()
    except ValueError as error:
        problem(f"compose.yml: {error}")
    services = document["services"]
    for name, service in services.items():
        # The model does not check references between services.
        named = list(service.get("depends_on", []))
        if service.get("network_mode", "").startswith("service:"):
            named.append(service["network_mode"][len("service:"):])
        for other in named:
            if other not in services:
                problem(f"compose.yml: {name} names the service {other}, which does not exist")
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            if source.startswith(".") and not (path.parent / source).exists():
                problem(f"compose.yml: {name} mounts {source}, which does not exist")
    return len(services)
