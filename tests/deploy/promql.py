"""PromQL expressions: selectors, comparisons, and the metrics that docs/metrics.md documents."""

import re

import promql_parser
import yaml

from .check import DEPLOY, ROOT

COMPARISONS = {"==", "!=", ">", "<", ">=", "<="}
PARTS = ("expr", "lhs", "rhs", "param")


def selectors(node, within=frozenset()):
    """Yields every selector of a parsed expression, with the functions that it is an argument of."""
    if isinstance(node, promql_parser.VectorSelector):
        yield node, within
    elif isinstance(node, promql_parser.MatrixSelector):
        yield node.vector_selector, within
    elif isinstance(node, promql_parser.Call):
        for argument in node.args:
            yield from selectors(argument, within | {node.func.name})
    else:
        for child in (getattr(node, part, None) for part in PARTS):
            if child is not None:
                yield from selectors(child, within)


def matching(node):
    """Returns the `on (...)` or `ignoring (...)` of a binary operation, as it is written."""
    found = re.search(r"\b(?:and|or|unless)\s+((?:on|ignoring)\s*\([^)]*\))", node.prettify())
    return found.group(1) if found and node.modifier else ""


def documented(metric):
    """Returns whether docs/metrics.md has the metric that this series belongs to."""
    names = re.findall(r"`((?:tlsidecar|process)_\w+)`", (ROOT / "docs/metrics.md").read_text())
    return re.sub(r"_(bucket|sum|count)$", "", metric) in names


def rules(file):
    """Returns the rules of deploy/prometheus/rules/FILE.yml."""
    groups = yaml.safe_load((DEPLOY / f"prometheus/rules/{file}.yml").read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]
