#!/usr/bin/env python3
"""Runs everything that rules and dashboard ask, by a real Prometheus that scrapes real tlsidecars each second while
devices get through and fail in every way (load.py).

- Each query of a panel or an annotation, with variables put in as Grafana does, has data; each variable has values.
- Each recording rule has data. Each alert has, once its thresholds are taken away: what it is about is there, and
  the labels of both sides of an `and` fit.
- Each reason of the dashboard's table has come about, but for those that cannot be brought about here.
- promtool check metrics finds nothing; a process with three listeners has fewer than 1,000 series.
- The curl lines of docs/runbooks work.
- The compose file's certificates can be made, and its configuration is good.

    tests/deploy/prometheus.py [--seconds N] [--draw FILE]

--draw draws the panels (tests/deploy/draw.py), for which a run should be longer.
Needs prometheus and openssl of Debian, curl and jq; promql-parser, PyYAML and cryptography for Python; and a built
tlsidecar: $TLSIDECAR, or the one in target/.
"""

import argparse
import importlib.util
import json
import math
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request

import promql_parser
import yaml

sys.dont_write_bytecode = True
from load import Plant, ask, eventually, free_port  # noqa: E402
from problems import any_told, problem  # noqa: E402

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
COMPARISONS = {"==", "!=", ">", "<", ">=", "<="}
JOB = "tlsidecar"
SERIES = 1000
GOOD = {"swapped", "unchanged"}
# A fault of tlsidecar's own cannot be ordered.
# Those of limits and shortages need a process that is short of something: tests/limits.rs and tests/chains.rs have them.
NOT_BROUGHT_ABOUT = {
    "internal", "client_cert_chain_too_large", "client_evicted", "client_tls_memory", "proxy_fd_limit", "proxy_memory_limit", "proxy_thread_limit",
}
# What must be seen of the labels that tell why.
WANTED = {
    ("client_alerts_total", "alert"): {"unknown_ca", "bad_certificate", "certificate_expired"},
    ("handshake_incompatible_total", "what"): {"version", "cipher_suite", "group", "signature", "alpn"},
    ("refused_suites_total", "best"): {"ecdhe_gcm", "ecdhe_cbc"},
    ("backend_connects_total", "result"): {"ok", "refused", "timeout", "unreachable", "error"},
    ("handshakes_total", "kind"): {"full", "full_retry", "resumed"},
    ("client_hellos_total", "version"): {"1.1", "1.2", "1.3"},
    ("reloads_total", "outcome"): {"swapped", "failed"},
}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=36)
    parser.add_argument("--draw")
    wanted = parser.parse_args()
    begun = time.monotonic()
    compose()
    with tempfile.TemporaryDirectory(prefix="tlsidecar-prometheus-") as place:
        plant = Plant(tlsidecar(), place)
        try:
            with Prometheus(place, [instance.admin for instance in plant.instances]) as prometheus:
                said = judge(plant, prometheus, wanted)
        finally:
            plant.end()
    for error in plant.faults[:5]:
        problem(f"a device of the test failed by itself: {error!r}")
    if any_told("prometheus"):
        return 1
    print(f"prometheus: {said}, in {time.monotonic() - begun:.0f} s")
    return 0


def tlsidecar():
    found = [os.environ.get("TLSIDECAR"), *(os.path.join(ROOT, f"target/{kind}/tlsidecar") for kind in ("release", "debug"))]
    found = [path for path in found if path and os.access(path, os.X_OK)]
    if not found:
        sys.exit("no tlsidecar is built: cargo build --release, or set TLSIDECAR")
    return found[0]


def compose():
    """What the containers of deploy/compose would find."""
    source = os.path.join(ROOT, "deploy/compose")
    with tempfile.TemporaryDirectory() as place:
        with open(os.path.join(source, "tlsidecar.toml"), encoding="utf-8") as file:
            text = file.read()
        config = os.path.join(place, "tlsidecar.toml")
        with open(config, "w", encoding="utf-8") as file:
            file.write(text.replace("/certs/", f"{place}/"))
        for command in (["sh", os.path.join(source, "certificates.sh"), place],
                        ["openssl", "verify", "-CAfile", f"{place}/ca.crt", "-verify_hostname", "mosquitto", f"{place}/tls.crt"],
                        [tlsidecar(), "check", "--config", config]):
            ran = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False,
                                 env={**os.environ, "KEEP_OWNER": "1"})
            if ran.returncode:
                problem(f"{' '.join(command)}: {ran.stdout}{ran.stderr}")
                return


def judge(plant, prometheus, wanted):
    start = time.time()
    outcomes = plant.live(wanted.seconds, prometheus.scraped)
    # The watch on the files may have been faster than the request: unchanged.
    for answers, expected in zip(outcomes, (GOOD, GOOD, {"failed"}, GOOD), strict=True):
        if not set(answers) <= expected:
            problem(f"a reload went {answers}, and not {sorted(expected)}")
    span = Span(start, time.time())
    text = ask(plant.instances[0].admin, "/metrics")
    series = sum(1 for line in text.splitlines() if line and not line.startswith("#"))
    if not 300 < series < SERIES:
        problem(f"{series} series, and fewer than {SERIES} are promised")
    lint = subprocess.run(["promtool", "check", "metrics"], input=text, capture_output=True, text=True, check=False)
    if lint.returncode or lint.stdout or lint.stderr:
        problem(f"promtool check metrics:\n{lint.stdout}{lint.stderr}")
    came_about = load_was_mixed(prometheus)
    panels, variables = dashboard(prometheus, span)
    recorded, alerts, firing = rules(prometheus)
    commands, left = runbooks(plant.instances[0].admin)
    if wanted.draw:
        draw(plant, prometheus, span, wanted.draw)
    return (f"{panels} queries of the dashboard, {variables} variables, {recorded} recording rules and {alerts} alerts have "
            f"data; {series} series; {came_about} reasons; {firing} alerts pending or firing; "
            f"{commands} commands of runbooks{f' ({left} not, this tlsidecar does not know them)' if left else ''}")


# ---- Prometheus ----------------------------------------------------------------------------------


class Span:
    def __init__(self, start, end):
        self.start, self.end = start, end
        self.seconds = max(1, int(end - start))
        # As Grafana: a point for some pixels, but none between two scrapes.
        self.step = max(1, self.seconds // 300)
        self.rate_interval = max(self.step + 1, 4)


class Prometheus:
    """Debian's, which scrapes and evaluates each second."""

    def __init__(self, place, targets):
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.targets = len(targets)
        config = {
            "global": {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"},
            "rule_files": [os.path.join(ROOT, "deploy/prometheus/rules", name) for name in ("recording.yml", "alerts.yml")],
            "scrape_configs": [{"job_name": JOB, "static_configs": [{"targets": [f"127.0.0.1:{port}" for port in targets]}]}],
        }
        path = os.path.join(place, "prometheus.yml")
        with open(path, "w", encoding="utf-8") as file:
            json.dump(config, file)
        self.log = os.path.join(place, "prometheus.log")
        with open(self.log, "wb") as log:
            self.process = subprocess.Popen(
                ["prometheus", f"--config.file={path}", f"--storage.tsdb.path={place}/data",
                 f"--web.listen-address=127.0.0.1:{self.port}", "--log.level=warn"], stdout=log, stderr=log)

    def __enter__(self):
        try:
            eventually("Prometheus scrapes", lambda: self.process.poll() is not None or self.up() == self.targets, 30)
            if self.process.poll() is not None:
                with open(self.log, encoding="utf-8") as log:
                    raise RuntimeError(f"prometheus ended: {log.read()}")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def up(self):
        try:
            return sum(value for _, value in self.now("up == 1"))
        except OSError:
            return 0

    def scraped(self):
        """Waits until what is true now has been scraped and the rules have seen it."""
        now = time.time() + 1
        eventually("a scrape", lambda: min((v for _, v in self.now("timestamp(up)")), default=0) > now)
        eventually("an evaluation", lambda: min(
            (v for _, v in self.now("timestamp(listener:tlsidecar_connections_active:sum)")), default=0) > now + 1)

    def get(self, path, **parameters):
        url = f"{self.url}/api/v1/{path}?{urllib.parse.urlencode(parameters)}"
        try:
            with urllib.request.urlopen(url, timeout=20) as answer:
                return json.load(answer)["data"]
        except urllib.error.HTTPError as error:
            # Not ready yet, in plain words.
            if error.code == 503:
                raise
            raise ValueError(json.load(error)["error"]) from error

    def now(self, expression, at=None):
        """Pairs of labels and value."""
        data = self.get("query", query=expression, **({"time": at} if at else {}))
        if data["resultType"] == "scalar":
            return [({}, float(data["result"][1]))]
        return [(each["metric"], float(each["value"][1])) for each in data["result"]]

    def over(self, expression, span):
        """Pairs of labels and points."""
        data = self.get("query_range", query=expression, start=span.start, end=span.end, step=span.step)
        return [(each["metric"], [(t, float(v)) for t, v in each["values"]]) for each in data["result"]]

    def has_data(self, what, expression, span=None):
        try:
            found = self.over(expression, span) if span else self.now(expression)
        except ValueError as error:
            problem(f"{what}: {error}: {expression}")
            return
        values = [v for _, value in found for v in ([p[1] for p in value] if span else [value])]
        if not any(math.isfinite(value) for value in values):
            problem(f"{what}: {'NaN alone' if values else 'no data'}: {expression}")


# ---- What is asked -------------------------------------------------------------------------------


def load_was_mixed(prometheus):
    """Otherwise there is little to be seen of what the dashboard is for."""
    def seen(metric, label):
        return {labels[label] for labels, value in prometheus.now(f"sum by ({label}) (tlsidecar_{metric}) > 0")}

    reasons = seen("connections_closed_total", "reason")
    for reason in sorted(set(module("board").FAILED) - NOT_BROUGHT_ABOUT - reasons):
        problem(f"no connection ended as {reason}")
    for (metric, label), values in WANTED.items():
        for value in sorted(values - seen(metric, label)):
            problem(f"the load has brought no {metric}{{{label}={value!r}}}")
    return len(reasons)


def module(name):
    spec = importlib.util.spec_from_file_location(name, os.path.join(ROOT, f"tests/deploy/{name}.py"))
    program = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(program)
    return program


def with_variables(text, span):
    """As Grafana does it for a Prometheus: "All" is its allValue, else every value, joined."""
    for name, value in {"__rate_interval": f"{span.rate_interval}s", "__range": f"{span.seconds}s",
                        "__interval": f"{span.step}s", "job": f"({JOB})", "namespace": ".*", "pod": ".*",
                        "instance": ".*", "listener": ".*"}.items():
        text = re.sub(rf"\${name}\b", lambda _, value=value: value, text)
    if "$" in text.replace('"$1"', ""):
        problem(f"a variable is left: {text}")
    return text


def dashboard(prometheus, span):
    with open(os.path.join(ROOT, "deploy/grafana/dashboards/tlsidecar.json"), encoding="utf-8") as file:
        board = json.load(file)
    asked = 0
    for panel in board["panels"]:
        for target in panel.get("targets", []):
            asked += 1
            prometheus.has_data(f"{panel['title']} ({target['legendFormat']})", with_variables(target["expr"], span),
                                None if target["instant"] else span)
    for annotation in board["annotations"]["list"]:
        asked += 1
        prometheus.has_data(annotation["name"], with_variables(annotation["target"]["expr"], span), span)
    variables = 0
    for variable in board["templating"]["list"]:
        if variable["type"] != "query":
            continue
        variables += 1
        metric, label = re.fullmatch(r"label_values\((.+), (\w+)\)", variable["query"]["query"]).groups()
        found = prometheus.get(f"label/{label}/values", **{"match[]": with_variables(metric, span)})
        # On a host there is neither.
        if bool(found) == (label in ("namespace", "pod")):
            problem(f"the variable {variable['name']} has the values {found}")
    if asked < 60:
        problem(f"only {asked} queries found in the dashboard")
    return asked, variables


def rules(prometheus):
    recorded = alerts = 0
    for name in ("recording", "alerts"):
        with open(os.path.join(ROOT, f"deploy/prometheus/rules/{name}.yml"), encoding="utf-8") as file:
            groups = yaml.safe_load(file)["groups"]
        for rule in (rule for group in groups for rule in group["rules"]):
            if "record" in rule:
                recorded += 1
                prometheus.has_data(rule["record"], rule["expr"])
                prometheus.has_data(rule["record"], rule["record"])
                continue
            alerts += 1
            for measure in measures(promql_parser.parse(rule["expr"])):
                prometheus.has_data(rule["alert"], measure)
    if not recorded or not alerts:
        problem("no rules found")
    states = [rule for group in prometheus.get("rules")["groups"] for rule in group["rules"]]
    if len(states) != recorded + alerts:
        problem(f"Prometheus has {len(states)} rules of {recorded + alerts}")
    for rule in states:
        if rule["health"] != "ok":
            problem(f"{rule['name']}: {rule['health']}: {rule.get('lastError')}")
    active = {rule["name"] for rule in states if rule.get("state") in ("pending", "firing")}
    for name in sorted({"TlsidecarBackendDown", "TlsidecarHandshakeErrorsHigh", "TlsidecarDevicesRejectCertificate",
                        "TlsidecarDeviceCertificatesExpiring"} - active):
        problem(f"under this load, {name} is neither pending nor firing")
    return recorded, alerts, len(active)


def measures(node):
    """An alert's expression without its thresholds. What lies on both sides of an `unless` or `or` is told apart:
    together they would hide that one is empty."""
    if isinstance(node, promql_parser.ParenExpr):
        yield from measures(node.expr)
    elif isinstance(node, promql_parser.BinaryExpr) and str(node.op) in COMPARISONS:
        yield from measures(node.lhs)
    elif isinstance(node, promql_parser.BinaryExpr) and str(node.op) in ("unless", "or"):
        yield from measures(node.lhs)
        yield from measures(node.rhs)
    elif isinstance(node, promql_parser.BinaryExpr) and str(node.op) == "and":
        found = re.search(r"\band\s+((?:on|ignoring)\s*\([^)]*\))", node.prettify())
        for left in measures(node.lhs):
            for right in measures(node.rhs):
                yield f"({left}) and {found.group(1) if found and node.modifier else ''} ({right})"
    else:
        yield node.prettify()


# ---- Runbooks, and the picture -------------------------------------------------------------------


def runbooks(port):
    """The lines that ask the admin port; those of /sessions and /top if this tlsidecar has them."""
    knows = {path for path in ("/sessions", "/top") if not ask(port, path).startswith("GET /metrics")}
    lines, left = set(), 0
    place = os.path.join(ROOT, "docs/runbooks")
    for name in sorted(os.listdir(place)):
        with open(os.path.join(place, name), encoding="utf-8") as file:
            text = file.read()
        lines |= {(name, line) for line in re.findall(r"^curl .+$", text, re.M)}
        lines |= {(name, line) for line in re.findall(r"`(curl [^`]+)`", text)}
    for name, line in sorted(lines):
        if any(path in line and path not in knows for path in ("/sessions", "/top")):
            left += 1
            continue
        command = "set -o pipefail; " + line.replace("curl ", "curl -sS --fail ").replace(":9901", f":{port}")
        ran = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=20, check=False)
        if ran.returncode or not ran.stdout:
            problem(f"docs/runbooks/{name}: {line}: {ran.returncode} {ran.stderr}")
    if len(lines) < 25:
        problem(f"only {len(lines)} commands found in docs/runbooks")
    return len(lines) - left, left


def draw(plant, prometheus, span, path):
    """The names of this run's temporary files are no news, and told as those of an installation."""
    def as_installed(answers):
        return [({name: value.replace(plant.place, "/etc/tlsidecar") for name, value in labels.items()}, found)
                for labels, found in answers]

    with open(os.path.join(ROOT, "deploy/grafana/dashboards/tlsidecar.json"), encoding="utf-8") as file:
        board = json.load(file)
    module("draw").draw(board, path, lambda text: as_installed(prometheus.now(with_variables(text, span))),
                        lambda text: as_installed(prometheus.over(with_variables(text, span), span)), span)
    print(f"{path}: {os.path.getsize(path) // 1024} KiB")


if __name__ == "__main__":
    sys.exit(main())
