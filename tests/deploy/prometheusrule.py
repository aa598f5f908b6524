#!/usr/bin/env python3
"""Writes the rules as a PrometheusRule, for the Prometheus operator: deploy/kubernetes' component prometheus-operator.

    tests/deploy/prometheusrule.py

tests/deploy/kubernetes.py holds that the file is what this program writes. Needs PyYAML.
"""

import os
import sys

import yaml

PLACE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "../../deploy/prometheus")
WRITTEN = os.path.join(os.path.dirname(PLACE), "kubernetes/components/prometheus-operator/rules/prometheusrule.yaml")
HEAD = """\
# deploy/prometheus/rules, in which there are comments. Written by tests/deploy/prometheusrule.py: change it there.
# yamllint disable rule:line-length
"""


def rule():
    groups = []
    for name in ("recording", "alerts"):
        with open(os.path.join(PLACE, f"rules/{name}.yml"), encoding="utf-8") as file:
            groups += yaml.safe_load(file)["groups"]
    return {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PrometheusRule",
        # As the PodMonitor: kube-prometheus-stack takes up only what bears its release's name.
        "metadata": {"name": "tlsidecar", "labels": {"release": "kube-prometheus-stack"}},
        "spec": {"groups": groups},
    }


class Indented(yaml.SafeDumper):
    """Lists stand further in than the key that they belong to."""

    def increase_indent(self, flow=False, indentless=False):
        return super().increase_indent(flow, False)


def text():
    return HEAD + yaml.dump(rule(), Dumper=Indented, sort_keys=False, allow_unicode=True, width=100)


if __name__ == "__main__":
    if sys.argv[1:]:
        sys.exit(__doc__)
    with open(WRITTEN, "w", encoding="utf-8") as file:
        file.write(text())
    print(WRITTEN)
