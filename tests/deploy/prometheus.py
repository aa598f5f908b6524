"""Asks a real Prometheus every query of the rules and the dashboard. It scrapes two tlsidecars each second while devices
succeed and fail in every way (plant.py).

- Each query of a panel or an annotation, with Grafana's variables replaced, has data; each variable has values.
- Each recording rule has data. Each alert has data once its thresholds are removed: its metrics exist, and the labels of
  both sides of an `and` match.
- Each reason of the dashboard's table has occurred, except those in NOT_BROUGHT_ABOUT.
- promtool check metrics reports nothing; a process with three listeners has fewer than 1,060 series.
- The descriptions of alerts that are active are complete, and name the most frequent reason.
- The curl commands of docs/runbooks succeed.
- The compose file's certificates can be made, and its configuration is valid.

    python3 tests/deploy prometheus [--seconds N] [--draw FILE]

--draw draws the panels (draw.py), for which a run should be longer.
Needs Debian's prometheus, bash, curl, jq and openssl, promql-parser, PyYAML and cryptography of PyPI, and a built tlsidecar.
"""

import argparse
import json
import math
import os
import re
import signal
import subprocess
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path

import promql_parser
import yaml

from . import board
from .check import DEPLOY, ROOT, Failed, attempt, eventually, problem, program, report, run
from .net import free_port, http
from .panels import every
from .plant import Plant
from .promql import COMPARISONS, matching, rules as rules_of

JOB = "tlsidecar"
# Of three listeners. 1,000 until the metrics that tell why handshakes fail and backends are slow were added: 20 series a
# listener, each of which decides between causes with different remedies.
SERIES = 1060
GOOD = {"swapped", "unchanged"}
# Faults of tlsidecar itself cannot be caused. The limits need a process without memory, descriptors or threads:
# tests/limits.rs causes them, tests/storms.rs those of an overload,
# and tests/proxy_protocol.rs those of a load balancer.
NOT_BROUGHT_ABOUT = {
    "internal", "client_evicted", "client_tls_memory", "proxy_fd_limit", "proxy_memory_limit", "proxy_thread_limit",
    "client_abandoned", "proxy_overloaded", "over_source_limit", "proxy_buffers_full", "proxy_header_invalid",
    "proxy_header_unexpected",
}
# Label values that the load has to bring about.
WANTED = {
    ("client_alerts_total", "alert"): {"unknown_ca", "bad_certificate", "certificate_expired"},
    ("certificate_rejections_total", "likely_cause"): {"issuer_not_sent"},
    ("handshake_incompatible_total", "what"): {"version", "cipher_suite", "group", "signature", "alpn"},
    ("refused_suites_total", "best"): {"ecdhe_gcm", "ecdhe_cbc"},
    ("backend_connects_total", "result"): {"ok", "refused", "timeout", "unreachable", "error"},
    ("handshakes_total", "kind"): {"full", "full_retry", "resumed"},
    ("client_hellos_total", "version"): {"1.1", "1.2", "1.3"},
    ("no_route_total", "what"): {"unknown_name"},
    ("not_tls_total", "looks_like"): {"http"},
    ("reloads_total", "outcome"): {"swapped", "failed"},
}


def main(*arguments):
    parser = argparse.ArgumentParser(prog="tests/deploy prometheus")
    parser.add_argument("--seconds", type=float, default=36)
    parser.add_argument("--draw")
    options = parser.parse_args(arguments)
    begun = time.monotonic()
    compose()
    with tempfile.TemporaryDirectory(prefix="tlsidecar-prometheus-") as place:
        plant = Plant(program(), place)
        try:
            with Prometheus(place, [instance.admin for instance in plant.instances]) as prometheus:
                summary = judge(plant, prometheus, options)
        finally:
            plant.end()
    for error in plant.faults[:5]:
        problem(f"a device failed with an unexpected error: {error!r}")
    return report("prometheus", f"{summary}, in {time.monotonic() - begun:.0f} s")


def compose():
    """Makes the certificates of deploy/compose, and checks its configuration with them."""
    with tempfile.TemporaryDirectory() as place:
        config = Path(place, "tlsidecar.toml")
        config.write_text((DEPLOY / "compose/tlsidecar.toml").read_text().replace("/certs/", f"{place}/"))
        try:
            run("sh", DEPLOY / "compose/certificates.sh", place, env={**os.environ, "KEEP_OWNER": "1"})
            run("openssl", "verify", "-CAfile", f"{place}/ca.crt", "-verify_hostname", "mosquitto", f"{place}/tls.crt")
            run(program(), "check", "--config", config)
        except Failed as failed:
            problem(f"deploy/compose: {failed}")


def judge(plant, prometheus, options):
    start = time.time()
    outcomes = plant.live(options.seconds, prometheus.scraped)
    # "unchanged" where the watch on the files was faster than the request.
    for answers, expected in zip(outcomes, (GOOD, GOOD, {"failed"}, GOOD), strict=True):
        if not set(answers) <= expected:
            problem(f"reloads answered {answers}, expected {sorted(expected)}")
    span = Span(start, time.time())
    text = http(f"http://127.0.0.1:{plant.instances[0].admin}/metrics")[1]
    series = sum(1 for line in text.splitlines() if line and not line.startswith("#"))
    if not 300 < series < SERIES:
        problem(f"{series} series, expected fewer than {SERIES}")
    lint = attempt("promtool", "check", "metrics", input=text)
    if lint.returncode or lint.stdout or lint.stderr:
        problem(f"promtool check metrics:\n{lint.stdout}{lint.stderr}")
    came_about = load_was_mixed(prometheus)
    panels, variables = dashboard(prometheus, span)
    recorded, alerts, firing = rules(prometheus)
    commands = runbooks(plant.instances[0].admin)
    if options.draw:
        draw(plant, prometheus, span, options.draw)
    return (f"{panels} queries of the dashboard, {variables} variables, {recorded} recording rules and {alerts} alerts have "
            f"data; {series} series; {came_about} reasons; {firing} alerts pending or firing; "
            f"{commands} commands of runbooks")


# ---- Prometheus ----------------------------------------------------------------------------------


class Span:
    def __init__(self, start, end):
        self.start, self.end = start, end
        self.seconds = max(1, int(end - start))
        # As in Grafana: some pixels per point, and at most one point per scrape.
        self.step = max(1, self.seconds // 300)
        self.rate_interval = max(self.step + 1, 4)


class Prometheus:
    """Debian's Prometheus, which scrapes and evaluates each second."""

    def __init__(self, place, targets):
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.targets = len(targets)
        config = {
            "global": {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"},
            "rule_files": [str(DEPLOY / f"prometheus/rules/{name}.yml") for name in ("recording", "alerts")],
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
            eventually("Prometheus scrapes", lambda: self.process.poll() is not None or self.up() == self.targets)
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
        """Waits until the present state has been scraped and the rules have been evaluated with it."""
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
            # Not ready yet: the answer is no JSON.
            if error.code == 503:
                raise
            raise ValueError(json.load(error)["error"]) from error

    def now(self, expression, at=None):
        """Returns pairs of labels and value."""
        data = self.get("query", query=expression, **({"time": at} if at else {}))
        if data["resultType"] == "scalar":
            return [({}, float(data["result"][1]))]
        return [(each["metric"], float(each["value"][1])) for each in data["result"]]

    def over(self, expression, span):
        """Returns pairs of labels and points."""
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
            problem(f"{what}: {'only NaN' if values else 'no data'}: {expression}")


# ---- Queries -------------------------------------------------------------------------------------


def load_was_mixed(prometheus):
    """Requires the load to have brought about the reasons and labels that the dashboard shows; returns the number of reasons."""

    def seen(metric, label):
        return {labels[label] for labels, value in prometheus.now(f"sum by ({label}) (tlsidecar_{metric}) > 0")}

    reasons = seen("connections_closed_total", "reason")
    for reason in sorted(set(board.FAILED) - NOT_BROUGHT_ABOUT - reasons):
        problem(f"no connection ended as {reason}")
    for (metric, label), values in WANTED.items():
        for value in sorted(values - seen(metric, label)):
            problem(f"the load has brought no {metric}{{{label}={value!r}}}")
    return len(reasons)


def with_variables(text, span):
    """Replaces variables as Grafana does: "All" is the allValue, or else every value, joined."""
    for name, value in {"__rate_interval": f"{span.rate_interval}s", "__range": f"{span.seconds}s",
                        "__interval": f"{span.step}s", "job": f"({JOB})", "namespace": ".*", "pod": ".*",
                        "instance": ".*", "listener": ".*", "many": "1"}.items():
        text = re.sub(rf"\${name}\b", lambda _, value=value: value, text)
    if "$" in text.replace('"$1"', ""):
        problem(f"a variable is left: {text}")
    return text


def dashboard(prometheus, span):
    dashboards = json.loads(board.WRITTEN.read_text())
    asked = 0
    for panel in every(dashboards):
        for target in panel["targets"]:
            if target["datasource"]["type"] == "loki":
                continue
            asked += 1
            prometheus.has_data(f"{panel['title']} ({target['legendFormat']})", with_variables(target["expr"], span),
                                None if target["instant"] else span)
    for annotation in dashboards["annotations"]["list"]:
        asked += 1
        prometheus.has_data(annotation["name"], with_variables(annotation["target"]["expr"], span), span)
    variables = 0
    for variable in dashboards["templating"]["list"]:
        if variable["type"] != "query":
            continue
        variables += 1
        metric, label = re.fullmatch(r"label_values\((.+), (\w+)\)", variable["query"]["query"]).groups()
        found = prometheus.get(f"label/{label}/values", **{"match[]": with_variables(metric, span)})
        # Hosts have neither label.
        if bool(found) == (label in ("namespace", "pod")):
            problem(f"the variable {variable['name']} has the values {found}")
    if asked < 60:
        problem(f"only {asked} queries found in the dashboard")
    return asked, variables


def rules(prometheus):
    recording, alerts = rules_of("recording"), rules_of("alerts")
    for rule in recording:
        prometheus.has_data(rule["record"], rule["expr"])
        prometheus.has_data(rule["record"], rule["record"])
    for rule in alerts:
        for measure in measures(promql_parser.parse(rule["expr"])):
            prometheus.has_data(rule["alert"], measure)
    if not recording or not alerts:
        problem("no rules found")
    states = [rule for group in prometheus.get("rules")["groups"] for rule in group["rules"]]
    if len(states) != len(recording) + len(alerts):
        problem(f"Prometheus has {len(states)} rules of {len(recording) + len(alerts)}")
    for rule in states:
        if rule["health"] != "ok":
            problem(f"{rule['name']}: {rule['health']}: {rule.get('lastError')}")
    active = {rule["name"] for rule in states if rule.get("state") in ("pending", "firing")}
    for name in sorted({"TlsidecarBackendDown", "TlsidecarHandshakeErrorsHigh", "TlsidecarDevicesRejectCertificate",
                        "TlsidecarDeviceCertificatesExpiring"} - active):
        problem(f"under this load, {name} is neither pending nor firing")
    check_descriptions([alert for rule in states for alert in rule.get("alerts", [])])
    return len(recording), len(alerts), len(active)


def check_descriptions(alerts):
    for alert in alerts:
        name, text = alert["labels"]["alertname"], alert["annotations"]["description"]
        if "error expanding" in text or "<no value>" in text:
            problem(f"{name}: {text}")
        if name == "TlsidecarHandshakeErrorsHigh" and not re.search(r"fail, most as client_\w+( with \w+[ =]\w+(, best=\w+)?)?\.$", text):
            problem(f"{name} names no reason: {text}")
        if name == "TlsidecarDevicesRejectCertificate" and not re.search(r", most with likely_cause=\w+\. ", text):
            problem(f"{name} names no cause: {text}")


def measures(node):
    """Yields an alert's expression without its thresholds. The sides of an `unless` or `or` are separate expressions:
    together they would hide that one has no data."""
    if isinstance(node, promql_parser.ParenExpr):
        yield from measures(node.expr)
    elif isinstance(node, promql_parser.BinaryExpr) and str(node.op) in COMPARISONS:
        yield from measures(node.lhs)
    elif isinstance(node, promql_parser.BinaryExpr) and str(node.op) in ("unless", "or"):
        yield from measures(node.lhs)
        yield from measures(node.rhs)
    elif isinstance(node, promql_parser.BinaryExpr) and str(node.op) == "and":
        for left in measures(node.lhs):
            for right in measures(node.rhs):
                yield f"({left}) and {matching(node)} ({right})"
    else:
        yield node.prettify()


# ---- Runbooks, and the picture -------------------------------------------------------------------


def runbooks(port):
    """Runs the commands of docs/runbooks that ask the admin port; returns their number."""
    commands = set()
    for page in sorted((ROOT / "docs/runbooks").glob("*.md")):
        commands |= {(page.name, line) for line in re.findall(r"^curl .+$|(?<=`)curl [^`]+(?=`)", page.read_text(), re.M)}
    for name, line in sorted(commands):
        command = "set -o pipefail; " + line.replace("curl ", "curl -sS --fail ").replace(":9901", f":{port}")
        done = attempt("bash", "-c", command)
        if done.returncode or not done.stdout:
            problem(f"docs/runbooks/{name}: {line}: {done.returncode} {done.stderr}")
    if len(commands) < 25:
        problem(f"only {len(commands)} commands found in docs/runbooks")
    return len(commands)


def draw(plant, prometheus, span, path):
    """Draws the panels. Names of temporary files are shown as those of an installation."""
    from . import draw as drawing  # pylint: disable=import-outside-toplevel # needs matplotlib

    def as_installed(answers):
        return [({name: value.replace(str(plant.place), "/etc/tlsidecar") for name, value in labels.items()}, found)
                for labels, found in answers]

    drawing.draw(json.loads(board.WRITTEN.read_text()), path,
                 lambda text: as_installed(prometheus.now(with_variables(text, span))),
                 lambda text: as_installed(prometheus.over(with_variables(text, span), span)), span)
    print(f"{path}: {os.path.getsize(path) // 1024} KiB")
