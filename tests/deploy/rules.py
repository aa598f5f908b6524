"""Checks the rules of Prometheus and their tests, without a server.

- promtool check rules, promtool test rules, and promtool check config of the examples. Debian's promtool is built
  without Kubernetes' discovery: addresses take its place.
- For each alert and severity a case in which it is silent, then fires, then resolves.
- The inhibit_rules of Alertmanager's example name alerts that exist.
- Mutants: the tests fail where an alert can never fire, fires at once instead of after its time, or lacks a condition
  or its threshold.
- Each alert has a severity, a summary, a description and a page in docs/runbooks/ with the required sections; each page
  has an alert, and docs/monitoring.md lists both.
- The metrics in rules are in docs/metrics.md, or recorded.

Needs promtool (Debian: prometheus), and promql-parser and PyYAML of PyPI.
"""

import copy
import json
import os
import re
import shutil
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import promql_parser
import yaml

from . import addresses
from .check import DEPLOY, ROOT, attempt, problem, problems, report, require
from .promql import COMPARISONS, documented, matching, selectors

PROMETHEUS = DEPLOY / "prometheus"
RUNBOOKS = ROOT / "docs/runbooks"
SECTIONS = ["Meaning", "Check first", "Likely causes", "Remedies", "When to ignore it"]
# Metrics of Prometheus itself, and of every process.
FOREIGN = {"up"}
NEVER = "vector(1) > 2"
# Courses of alerts, and causes with the texts of alerts, without thresholds: they fail with few mutants.
WITHOUT_THRESHOLDS = {"courses.yml", "causes.yml"}


def main():
    recording, alerts = load("rules/recording.yml"), load("rules/alerts.yml")
    tests = {path.name: load(f"tests/{path.name}") for path in sorted((PROMETHEUS / "tests").glob("*.yml"))}
    cases = sum(len(file["tests"]) for file in tests.values())
    rules = [rule for group in alerts["groups"] for rule in group["rules"]]
    names = {rule["alert"] for rule in rules}
    promtool("check", "rules", "rules/recording.yml", "rules/alerts.yml")
    promtool("test", "rules", *[f"tests/{name}" for name in tests])
    check_configs()
    check_course({(rule["alert"], rule["labels"]["severity"]) for rule in rules}, tests)
    check_inhibitions(names)
    check_texts(rules)
    check_pages(names)
    check_metrics([rule for group in recording["groups"] for rule in group["rules"]], rules)
    if not tests or len(names) < 20:
        problem(f"only {len(tests)} files of tests and {len(names)} alerts found")
    tried = 0 if problems else try_mutants(alerts, {name: file for name, file in tests.items() if name not in WITHOUT_THRESHOLDS})
    return report("rules", f"{len(names)} alerts in {len(rules)} rules, each with its page; {cases} cases in {len(tests)} "
                           f"files, which fail with each of {tried} mutants; 2 configurations")


def load(path):
    return yaml.safe_load((PROMETHEUS / path).read_text())


def promtool(*arguments, where=PROMETHEUS):
    done = attempt("promtool", *arguments, cwd=where, timeout=600)
    if done.returncode:
        problem(f"promtool {' '.join(arguments)}:\n{done.stdout}{done.stderr}")


def check_configs():
    """Checks both example configurations, the first with addresses instead of Kubernetes' discovery."""
    config = load("prometheus.example.yml")
    discovered = [job for job in config["scrape_configs"] if "kubernetes_sd_configs" in job]
    if not discovered or discovered == config["scrape_configs"]:
        problem("prometheus.example.yml: no job for Kubernetes, or none for hosts")
    for job in discovered:
        if job.pop("kubernetes_sd_configs") != [{"role": "pod"}]:
            problem("prometheus.example.yml: not discovered by role: pod")
        job["static_configs"] = [{"targets": ["10.0.0.1:9901"]}]
    with tempfile.TemporaryDirectory() as place:
        shutil.copytree(PROMETHEUS / "rules", Path(place, "rules"))
        Path(place, "example.yml").write_text(json.dumps(config))
        shutil.copy(DEPLOY / "compose/prometheus.yml", place)
        for name in ("example.yml", "prometheus.yml"):
            promtool("check", "config", name, where=place)


def check_course(alerts, tests):
    """Requires a case for each alert in which it is silent, then fires, then resolves while its series go on."""
    seen = {alert: set() for alert in alerts}
    for case in (case for file in tests.values() for case in file["tests"]):
        courses = {alert: "" for alert in alerts}
        for asked in sorted(case.get("promql_expr_test", []), key=lambda asked: minutes(asked["eval_time"])):
            named = re.search(r'alertname=~?"([^"]+)"', asked["expr"])
            for name, severity in alerts:
                if named and name not in named[1].split("|"):
                    continue
                wanted = (f'alertname="{name}"', f'severity="{severity}"')
                fires = any(all(each in sample["labels"] for each in wanted) for sample in asked["exp_samples"])
                courses[name, severity] += "f" if fires else "s"
        for alert, course in courses.items():
            if re.fullmatch(r"s+f+s+", course):
                seen[alert].add(case["name"])
    for (name, severity), cases in sorted(seen.items()):
        if not cases:
            problem(f"{name} ({severity}): no case in which it is silent, then fires, then resolves")


def minutes(time):
    """Returns a time such as "1h30m" in minutes."""
    units = {"s": 1 / 60, "m": 1, "h": 60, "d": 1440}
    return sum(float(number) * units[unit] for number, unit in re.findall(r"([0-9.]+)([smhd])", str(time)))


def check_inhibitions(names):
    rules = load("alertmanager.example.yml")["inhibit_rules"]
    for rule in rules:
        matchers = rule["source_matchers"] + rule["target_matchers"]
        named = {name for matcher in matchers for name in re.findall(r"Tlsidecar[A-Z]\w+", matcher)}
        if not named or named - names:
            problem(f"alertmanager.example.yml: no such alerts: {sorted(named - names)}")
        if set(rule["equal"]) - {"job", "namespace", "instance", "listener"} or "job" not in rule["equal"]:
            problem(f"alertmanager.example.yml: equal: {rule['equal']}")
    if len(rules) < 5:
        problem(f"alertmanager.example.yml has {len(rules)} rules")


# ---- Texts and pages -----------------------------------------------------------------------------


def check_texts(rules):
    for rule in rules:
        name, notes = rule["alert"], rule.get("annotations", {})
        if not re.fullmatch(r"Tlsidecar[A-Z]\w+", name):
            problem(f"{name}: not named Tlsidecar…")
        if rule.get("labels", {}).get("severity") not in ("warning", "critical"):
            problem(f"{name}: no severity")
        if set(notes) != {"summary", "description", "runbook_url"}:
            problem(f"{name}: annotations {sorted(notes)}")
            continue
        if notes["runbook_url"] != f"{addresses.RUNBOOKS}/{name}.md":
            problem(f"{name}: its runbook_url is {notes['runbook_url']}")
        if "{{" in notes["summary"] or "$labels.job" not in notes["description"]:
            problem(f"{name}: the summary has no values, the description has the labels and values")


def check_pages(names):
    pages = {path.stem: path.read_text() for path in RUNBOOKS.glob("*.md")}
    for name in sorted(names ^ set(pages)):
        problem(f"docs/runbooks/{name}.md exists without the alert, or the alert without the page")
    monitoring = (ROOT / "docs/monitoring.md").read_text()
    listed = set(re.findall(r"\| \[(Tlsidecar\w+)\]\(runbooks/(?:\1)\.md\)", monitoring))
    for name in sorted(names ^ listed):
        problem(f"docs/monitoring.md and the rules differ in {name}")
    for name in sorted(names & set(pages)):
        text = pages[name]
        if not text.startswith(f"# {name}\n"):
            problem(f"docs/runbooks/{name}.md has another heading")
        found = re.findall(r"^## (.+)$", text, re.M)
        if found != SECTIONS:
            problem(f"docs/runbooks/{name}.md has the sections {found}")
        queries = re.findall(r"^```promql\n(.+?)^```", text, re.M | re.S)
        for query in (line for block in queries for line in block.splitlines() if line):
            try:
                promql_parser.parse(query)
            except ValueError as error:
                problem(f"docs/runbooks/{name}.md: {query}: {error}")


def check_metrics(recording, rules):
    recorded = {rule["record"] for rule in recording}
    used = {selector.name for rule in [*recording, *rules] for selector, _ in selectors(promql_parser.parse(rule["expr"]))}
    for name in sorted(used - recorded - FOREIGN):
        if not documented(name):
            problem(f"{name} is in the rules and not in docs/metrics.md")
    for name in sorted(recorded - used):
        problem(f"{name} is recorded, and no rule uses it")


# ---- Mutants -------------------------------------------------------------------------------------


def try_mutants(alerts, tests):
    """Requires that the tests fail with each mutant of each alert; returns the number of mutants."""
    runs = []
    for g, group in enumerate(alerts["groups"]):
        for r, rule in enumerate(group["rules"]):
            own = {name: file for name, file in tests.items() if rule["alert"] in json.dumps(file)}
            # Most mutants fail the cases that name the alert, and these need only the alerts that they name. The whole
            # files with all alerts take ten times as long.
            narrow = {name: {**file, "tests": [case for case in file["tests"] if rule["alert"] in json.dumps(case)]}
                      for name, file in own.items()}
            runs.append((f"{rule['alert']}: its cases alone fail", True, [(only_named(alerts, narrow), narrow)]))
            for what, changed in mutants_of(rule):
                mutant = copy.deepcopy(alerts)
                mutant["groups"][g]["rules"][r] = changed
                stages = ((only_named(mutant, narrow), narrow), (mutant, own))
                name = f"{rule['alert']} ({rule['labels']['severity']}), {what}"
                runs.append((f"no test fails with this mutant: {name}", False, stages))
    with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
        for (message, expected, _), passed in zip(runs, pool.map(lambda run: survives(*run[2]), runs)):
            if passed != expected:
                problem(message)
    return sum(not expected for _, expected, _ in runs)


def only_named(alerts, tests):
    """Returns the groups with the alerts that the tests name."""
    text = json.dumps(tests)
    return {"groups": [{**group, "rules": [rule for rule in group["rules"] if f'{rule["alert"]}\\"' in text]}
                       for group in alerts["groups"]]}


def mutants_of(rule):
    yield "never", {**rule, "expr": NEVER}
    if "for" in rule:
        yield "at once", {key: value for key, value in rule.items() if key != "for"}
    tree = promql_parser.parse(rule["expr"])
    for what, expression in without_parts(tree):
        # Invalid expressions would fail every test.
        promql_parser.parse(expression)
        yield what, {**rule, "expr": expression}


def without_parts(node):
    """Yields the expression without one side of an `and`, `or` or `unless`, or without a threshold."""
    if isinstance(node, promql_parser.ParenExpr):
        yield from without_parts(node.expr)
    if not isinstance(node, promql_parser.BinaryExpr):
        return
    operator = str(node.op)
    left, right = node.lhs.prettify(), node.rhs.prettify()
    if operator in COMPARISONS:
        yield f"without {operator} {right}", left
    if operator in ("and", "or", "unless"):
        yield f"without {operator} {right[:60]}", left
        modifier = matching(node)
        for what, inner in without_parts(node.lhs):
            yield what, f"({inner}) {operator} {modifier} ({right})"
        if operator != "unless":
            yield f"without {left[:60]}", right
        for what, inner in without_parts(node.rhs):
            yield what, f"({left}) {operator} {modifier} ({inner})"


def survives(*stages):
    """Returns whether the tests pass with the alerts, in every stage."""
    with tempfile.TemporaryDirectory() as name:
        for number, (alerts, tests) in enumerate(stages):
            place = Path(name, str(number))
            for directory in ("rules", "tests"):
                (place / directory).mkdir(parents=True)
            shutil.copy(PROMETHEUS / "rules/recording.yml", place / "rules")
            # JSON is YAML, and Python writes it far faster.
            (place / "rules/alerts.yml").write_text(json.dumps(alerts))
            for file, content in tests.items():
                (place / "tests" / file).write_text(json.dumps(content))
            files = [f"tests/{file}" for file in tests]
            if files and attempt("promtool", "test", "rules", *files, cwd=place, timeout=600).returncode:
                # An invalid rule would fail every test.
                checked = attempt("promtool", "check", "rules", "rules/alerts.yml", cwd=place)
                require(checked.returncode == 0, f"a mutant is no valid rule: {checked.stdout}{checked.stderr}")
                return False
    return True
