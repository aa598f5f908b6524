#!/usr/bin/env python3
"""Checks Prometheus' rules and their tests, without a server.

- promtool check rules, promtool test rules, promtool check config of the examples. Debian's promtool
  is built without Kubernetes' discovery: it sees a list of addresses in its place.
- The tests notice it when an alert can never fire, when it fires at once instead of after its time,
  and when one of its conditions or its threshold is left out: each is tried.
- Each alert has a severity, a summary, a description and a page in docs/runbooks/, with the sections
  that such a page has, and each page an alert. docs/monitoring.md lists them.
- What rules ask for is in docs/metrics.md, or recorded.

Needs promtool (Debian: prometheus), and promql-parser and PyYAML for Python: .ci/run installs them.
"""

import copy
import os
import re
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor

import promql_parser
import yaml

from problems import any_told, problem, problems

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
PROMETHEUS = os.path.join(ROOT, "deploy/prometheus")
RUNBOOKS = os.path.join(ROOT, "docs/runbooks")
PLACEHOLDER = "https://runbooks.invalid/tlsidecar/"
SECTIONS = ["Meaning", "Check first", "Likely causes", "Remedies", "When to ignore it"]
COMPARISONS = {"==", "!=", ">", "<", ">=", "<="}
# Those of Prometheus itself, and of every process.
NOT_OURS = {"up"}
NEVER = "vector(1) > 2"


def main():
    recording = load("rules/recording.yml")
    alerts = load("rules/alerts.yml")
    tests = sorted(name for name in os.listdir(os.path.join(PROMETHEUS, "tests")) if name.endswith(".yml"))
    cases = sum(len(load(f"tests/{name}")["tests"]) for name in tests)
    rules = [rule for group in alerts["groups"] for rule in group["rules"]]
    names = {rule["alert"] for rule in rules}
    promtool("check", "rules", "rules/recording.yml", "rules/alerts.yml")
    promtool("test", "rules", *[f"tests/{name}" for name in tests])
    configs = check_configs()
    check_texts(rules)
    check_pages(names)
    check_metrics(recording, rules)
    if not tests or len(names) < 20:
        problem(f"only {len(tests)} files of tests and {len(names)} alerts found")
    tried = 0 if problems else try_mutants(alerts, tests)
    if any_told("rules"):
        return 1
    print(f"rules: {len(names)} alerts in {len(rules)} rules, each with its page; {cases} cases in {len(tests)} files, "
          f"which notice each of {tried} ways to spoil a rule; {configs} configurations")
    return 0


def load(path):
    with open(os.path.join(PROMETHEUS, path), encoding="utf-8") as file:
        return yaml.safe_load(file)


def promtool(*arguments, where=PROMETHEUS):
    ran = run_promtool(arguments, where)
    if ran.returncode:
        problem(f"promtool {' '.join(arguments)}:\n{ran.stdout}{ran.stderr}")


def run_promtool(arguments, where):
    return subprocess.run(["promtool", *arguments], cwd=where, capture_output=True, text=True, timeout=120, check=False)


def check_configs():
    """Both examples; the first with addresses instead of Kubernetes' discovery."""
    config = load("prometheus.example.yml")
    discovered = [job for job in config["scrape_configs"] if "kubernetes_sd_configs" in job]
    if not discovered or discovered == config["scrape_configs"]:
        problem("prometheus.example.yml: no job for Kubernetes, or none for hosts")
    for job in discovered:
        if job.pop("kubernetes_sd_configs") != [{"role": "pod"}]:
            problem("prometheus.example.yml: not discovered by role: pod")
        job["static_configs"] = [{"targets": ["10.0.0.1:9901"]}]
    with tempfile.TemporaryDirectory() as place:
        shutil.copytree(os.path.join(PROMETHEUS, "rules"), os.path.join(place, "rules"))
        with open(os.path.join(place, "example.yml"), "w", encoding="utf-8") as file:
            yaml.safe_dump(config, file)
        promtool("check", "config", "example.yml", where=place)
        shutil.copy(os.path.join(ROOT, "deploy/compose/prometheus.yml"), place)
        promtool("check", "config", "prometheus.yml", where=place)
    return 2


# ---- Texts and pages -----------------------------------------------------------------------------


def check_texts(rules):
    for rule in rules:
        name, notes = rule["alert"], rule.get("annotations", {})
        if not re.fullmatch(r"Tlsidecar[A-Z]\w+", name):
            problem(f"{name}: not a name of ours")
        if rule.get("labels", {}).get("severity") not in ("warning", "critical"):
            problem(f"{name}: no severity")
        if set(notes) != {"summary", "description", "runbook_url"}:
            problem(f"{name}: annotations {sorted(notes)}")
            continue
        if notes["runbook_url"] != f"{PLACEHOLDER}{name}.md":
            problem(f"{name}: its runbook_url is {notes['runbook_url']}")
        if "{{" in notes["summary"] or "$labels.job" not in notes["description"]:
            problem(f"{name}: a summary says what, the description where and how much")


def check_pages(names):
    pages = {name[:-3] for name in os.listdir(RUNBOOKS) if name.endswith(".md")}
    for name in sorted(names - pages):
        problem(f"{name} has no page in docs/runbooks/")
    for name in sorted(pages - names):
        problem(f"docs/runbooks/{name}.md is of no alert")
    with open(os.path.join(ROOT, "docs/monitoring.md"), encoding="utf-8") as file:
        listed = set(re.findall(r"\| \[(Tlsidecar\w+)\]\(runbooks/(?:\1)\.md\)", file.read()))
    for name in sorted(names ^ listed):
        problem(f"docs/monitoring.md and the rules do not agree on {name}")
    for name in sorted(names & pages):
        with open(os.path.join(RUNBOOKS, f"{name}.md"), encoding="utf-8") as file:
            text = file.read()
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
    with open(os.path.join(ROOT, "docs/metrics.md"), encoding="utf-8") as file:
        documented = set(re.findall(r"`((?:tlsidecar|process)_\w+)`", file.read()))
    recorded = {rule["record"]: rule for group in recording["groups"] for rule in group["rules"]}
    used = set()
    for rule in [*recorded.values(), *rules]:
        for selector in selectors(promql_parser.parse(rule["expr"])):
            used.add(selector.name)
    for name in sorted(used - set(recorded) - NOT_OURS):
        if re.sub(r"_(bucket|sum|count)$", "", name) not in documented:
            problem(f"{name} is in the rules and not in docs/metrics.md")
    for name in sorted(set(recorded) - used):
        problem(f"{name} is recorded, and no rule uses it")


def selectors(node):
    if isinstance(node, promql_parser.VectorSelector):
        yield node
    elif isinstance(node, promql_parser.MatrixSelector):
        yield node.vector_selector
    elif isinstance(node, promql_parser.Call):
        for argument in node.args:
            yield from selectors(argument)
    else:
        for part in ("expr", "lhs", "rhs"):
            child = getattr(node, part, None)
            if child is not None:
                yield from selectors(child)


# ---- Spoilt rules --------------------------------------------------------------------------------


def try_mutants(alerts, tests):
    """Spoils each alert in each way, one at a time, and expects that the tests of its file fail."""
    mutants = []
    for g, group in enumerate(alerts["groups"]):
        for r, rule in enumerate(group["rules"]):
            for what, changed in spoilt(rule):
                mutant = copy.deepcopy(alerts)
                mutant["groups"][g]["rules"][r] = changed
                own = [name for name in tests if f'alertname="{rule["alert"]}"' in text_of(name)]
                mutants.append((f"{rule['alert']} ({rule['labels']['severity']}), {what}", mutant, own))
    with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
        for name, unnoticed in zip((m[0] for m in mutants), pool.map(lambda m: survives(m[1], m[2]), mutants)):
            if unnoticed:
                problem(f"no test notices it: {name}")
    return len(mutants)


def text_of(test):
    with open(os.path.join(PROMETHEUS, "tests", test), encoding="utf-8") as file:
        return file.read()


def spoilt(rule):
    yield "never", {**rule, "expr": NEVER}
    if "for" in rule:
        yield "at once", {key: value for key, value in rule.items() if key != "for"}
    tree = promql_parser.parse(rule["expr"])
    for what, expression in without_parts(tree):
        # Each must still be a rule, or it would prove nothing.
        promql_parser.parse(expression)
        yield what, {**rule, "expr": expression}


def without_parts(node):
    """The expression without one side of an `and`, `or` or `unless`, or without a threshold."""
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


def matching(node):
    """on (...) or ignoring (...) of a binary operation, as it was written."""
    found = re.search(r"\b(?:and|or|unless)\s+((?:on|ignoring)\s*\([^)]*\))", node.prettify())
    return found.group(1) if found and node.modifier else ""


def survives(alerts, tests):
    with tempfile.TemporaryDirectory() as place:
        shutil.copytree(os.path.join(PROMETHEUS, "tests"), os.path.join(place, "tests"))
        os.mkdir(os.path.join(place, "rules"))
        shutil.copy(os.path.join(PROMETHEUS, "rules/recording.yml"), os.path.join(place, "rules"))
        with open(os.path.join(place, "rules/alerts.yml"), "w", encoding="utf-8") as file:
            yaml.safe_dump(alerts, file)
        if run_promtool(["check", "rules", "rules/alerts.yml"], place).returncode:
            raise RuntimeError(f"a spoilt rule is none: {run_promtool(['check', 'rules', 'rules/alerts.yml'], place)}")
        # No file of tests that knows the alert: nothing can notice.
        return not tests or run_promtool(["test", "rules", *[f"tests/{name}" for name in tests]], place).returncode == 0


if __name__ == "__main__":
    sys.exit(main())
