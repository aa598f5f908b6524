"""The rules of deploy/prometheus as a PrometheusRule, for the Prometheus operator."""

import yaml

from .check import DEPLOY

WRITTEN = DEPLOY / "kubernetes/components/prometheus-operator/rules/prometheusrule.yaml"
HEAD = """\
# Generated from deploy/prometheus/rules, which has comments: change these, then run `just generate`.
# yamllint disable rule:line-length
"""


def rule():
    """Returns the PrometheusRule."""
    groups = []
    for name in ("recording", "alerts"):
        groups += yaml.safe_load((DEPLOY / f"prometheus/rules/{name}.yml").read_text())["groups"]
    return {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PrometheusRule",
        # As in the PodMonitor: kube-prometheus-stack selects objects by the label of its release.
        "metadata": {"name": "tlsidecar", "labels": {"release": "kube-prometheus-stack"}},
        "spec": {"groups": groups},
    }


class Indented(yaml.SafeDumper):
    """A dumper that indents lists below their key."""

    def increase_indent(self, flow=False, indentless=False):
        return super().increase_indent(flow, False)


def text():
    """Returns the content of the generated file."""
    return HEAD + yaml.dump(rule(), Dumper=Indented, sort_keys=False, allow_unicode=True, width=100)
