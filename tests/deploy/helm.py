"""Checks deploy/helm with Helm's library: lint, rejected values, and rendered objects.

The rendered objects meet the schemas and the policy of the kustomize example, and equal it but for names.
Needs what manifests.py needs, and helm-python-sdk of PyPI.
"""

import contextlib
import copy
import json
import os
import tempfile

import helm_python as helm
import yaml

from .check import DEPLOY, Failed, require, run_all
from .kubernetes import FIXTURES, KUBERNETES, kustomize
from .manifests import (
    against_schemas, as_toml, checkov, config_of, containers, crate_version, crds, name_of, numeric_ports, of_kind, one,
    open_ports, parse, pod_of, restricted, sidecar_of, the_drain, the_sidecar, tlsidecar_check,
)

LIBRARY = DEPLOY / "helm/tlsidecar"
EXAMPLE = DEPLOY / "helm/example"
RELEASE = "plant"

# Each set of values, the first Kubernetes version that it is for, and whether its sidecar is native.
RENDERED = {
    "defaults": ({}, "1.29", True),
    "everything": ({"podMonitor": {"enabled": True}, "hpa": {"enabled": True}}, "1.29", True),
    "classic": ({"mode": "classic", "drain": {"backendHook": "exec"}, "podMonitor": {"enabled": True}}, "1.27", False),
    "native with exec": ({"drain": {"backendHook": "exec"}}, "1.29", True),
    "own group": ({"fsGroup": 1883}, "1.29", True),
    "no group": ({"fsGroup": None}, "1.29", True),
    "long drain": ({"drain": {"delaySeconds": 30, "timeoutSeconds": 3600, "backendStopSeconds": 120}}, "1.29", True),
}

# Values under `tlsidecar:` that the schema or a template must reject.
REFUSED = {
    "an unknown key": {"drian": {"delaySeconds": 1}},
    "an unknown key within": {"drain": {"delay": "10s"}},
    "a mode of another name": {"mode": "sidecar"},
    "a duration as text": {"drain": {"delaySeconds": "10s"}},
    "a negative time": {"drain": {"timeoutSeconds": -1}},
    "a hook of another name": {"drain": {"backendHook": "httpGet"}},
    "no listener": {"config": ""},
    "a config with [shutdown]": {"config": "[shutdown]\ndelay = \"1s\"\n"},
    "a config with shutdown.delay": {"config": "shutdown.delay = \"1s\"\n"},
    "a port that needs a capability": {"ports": [{"name": "tls", "port": 883}]},
    "the admin port for devices": {"ports": [{"name": "tls", "port": 9901}]},
    "the port of the metrics for devices": {"ports": [{"name": "tls", "port": 9902}]},
    "a port with the name of the metrics'": {"ports": [{"name": "metrics", "port": 8883}]},
    "no port": {"ports": []},
    "a port's name that is too long": {"ports": [{"name": "a-name-of-sixteen", "port": 8883}]},
    "no memory limit": {"resources": {"limits": {"memory": None}}},
    "the tag latest": {"image": {"tag": "latest"}},
    "a tag that YAML reads as a number": {"image": {"tag": 0.1}},
    "a pull policy of another name": {"image": {"pullPolicy": "always"}},
    "no Secret": {"tlsSecret": ""},
    "root's group": {"fsGroup": 0},
    "a budget of nothing": {"podDisruptionBudget": {"maxUnavailable": 0}},
    "an interval without a unit": {"podMonitor": {"interval": "15"}},
    "fewer at most than at least": {"hpa": {"enabled": True, "minReplicas": 5, "maxReplicas": 2}},
    "a switch as text": {"networkPolicy": {"enabled": "yes"}},
}
REFUSED_BY_EXAMPLE = {
    "an unknown key": {"replicaCount": 2},
    "a Service of another type": {"service": {"type": "ExternalName"}},
    "no name in the certificate": {"certificate": {"dnsNames": []}},
    "an issuer of another kind": {"certificate": {"issuerRef": {"kind": "CertManager"}}},
}


@contextlib.contextmanager
def standard_error():
    """Collects the lines that the Go library writes to standard error: its remarks on the example's link."""
    with tempfile.TemporaryFile("w+") as log:
        kept = os.dup(2)
        os.dup2(log.fileno(), 2)
        lines = []
        try:
            yield lines
        finally:
            os.dup2(kept, 2)
            os.close(kept)
            log.seek(0)
            lines.extend(log.read().splitlines())


def render(values):
    """Returns the objects that the example renders, and its notes."""
    with standard_error(), helm.Chart.load(str(EXAMPLE)) as chart:
        manifests = chart.render(values=values, name=RELEASE, namespace="west")
    notes = next(text for path, text in manifests.items() if path.endswith("NOTES.txt"))
    objects = [t for path, text in sorted(manifests.items()) if not path.endswith(".txt") for t in parse(text)]
    return objects, notes


def lint_report(path, values, version="v1.37.0"):
    with standard_error() as lines:
        report = helm.lint(str(path), values, strict=True, with_subcharts=True, kube_version=version)
    # Helm's lint only logs a template's `fail`; an installation ends with it.
    report["failed"] = [line for line in lines if "funcMap fail" in line]
    return report


rendered = {}


def lint():
    linted = 0
    for path, values in [(LIBRARY, {}), *((EXAMPLE, {"tlsidecar": values}) for values, *_ in RENDERED.values())]:
        report = lint_report(path, values)
        bad = [m["error"] for m in report["messages"] if m["severity"] > 1] + report["errors"] + report["failed"]
        require(not bad, f"{path.name}: {bad}")
        require(report["total_charts_linted"] >= 1, f"{path.name}: nothing linted")
        linted += 1
    return f"{linted} times, strictly, by Helm {helm.helm_sdk_version()}"


def refused():
    """Requires that schemas and templates reject each of these values; each set has one fault."""
    cases = {f"tlsidecar: {what}": {"tlsidecar": values} for what, values in REFUSED.items()} | REFUSED_BY_EXAMPLE
    for what, values in cases.items():
        try:
            render(values)
        except (helm.HelmValuesError, helm.HelmRenderError):
            continue
        raise Failed(f"{what} is accepted")
    versions = (({}, "v1.28.0"), ({}, "v1.29.0"), ({"drain": {"backendHook": "exec"}}, "v1.28.0"))
    for values, version in versions:
        failed = lint_report(EXAMPLE, {"tlsidecar": values}, version)["failed"]
        require(any("needs Kubernetes" in line for line in failed), f"{values} on {version}")
    report = lint_report(EXAMPLE, {"tlsidecar": {"drain": {"backendHook": "exec"}}}, "v1.29.0")
    require(not report["errors"] and not report["failed"], f"exec on 1.29: {report}")
    return f"{len(cases)} sets of values, {len(versions)} of versions"


def renders():
    for what, (values, *_) in RENDERED.items():
        rendered[what], notes = render({"tlsidecar": values})
        require("Devices connect with TLS" in notes, f"{what}: the notes")
    kinds = {thing["kind"] for thing in rendered["everything"]}
    expected = {"ConfigMap", "Deployment", "Service", "Certificate", "NetworkPolicy", "PodDisruptionBudget"}
    require(kinds == expected | {"PodMonitor", "HorizontalPodAutoscaler"}, f"everything has {kinds}")
    require({t["kind"] for t in rendered["defaults"]} == expected, "the defaults")
    off = {"networkPolicy": {"enabled": False}, "podDisruptionBudget": {"enabled": False}}
    things, notes = render({"tlsidecar": off, "certificate": {"enabled": False}})
    require({t["kind"] for t in things} == {"ConfigMap", "Deployment", "Service"}, "all switched off")
    require("WARNING" in notes, "no warning without a NetworkPolicy")
    return f"{len(rendered) + 1} times, {sum(len(t) for t in rendered.values())} objects"


def schemas():
    count = against_schemas({what: (things, RENDERED[what][1]) for what, things in rendered.items()})
    return f"{count} objects against the strict schemas of their versions of Kubernetes"


def custom_resources():
    count, kinds = crds(rendered)
    return f"{count} of the kinds {', '.join(kinds)}"


def sidecars():
    for what, things in rendered.items():
        workload = one(things, "Deployment")
        pod = pod_of(workload)
        try:
            the_sidecar(workload, RENDERED[what][2])
            config = as_toml(config_of(things, workload))
            the_drain(workload, config)
            numeric_ports(things)
            open_ports(things, workload, config)
            for container in containers(pod):
                restricted(pod, container)
        except Failed as failed:
            raise Failed(f"{what}: {failed}") from failed
        require(("replicas" in workload["spec"]) == (what != "everything"), f"{what}: replicas")
    own = pod_of(one(rendered["own group"], "Deployment"))["securityContext"]["fsGroup"]
    require(own == 1883, "fsGroup")
    require("securityContext" not in pod_of(one(rendered["no group"], "Deployment")), "an fsGroup for null")
    pod = pod_of(one(rendered["long drain"], "Deployment"))
    require(pod["terminationGracePeriodSeconds"] == 3765, "the long drain's grace period")
    return f"{len(rendered)} workloads"


def like_kustomize():
    """Requires kustomize and Helm to make the same objects, but for names and the labels that Helm selects by."""
    compared = 0
    for what, directory in (
        ("everything", FIXTURES / "everything"),
        ("classic", KUBERNETES / "overlays/example-classic"),
    ):
        ours, theirs = essence(kustomize(directory)), essence(rendered[what])
        require(set(theirs) <= set(ours), f"{what}: only in Helm: {set(theirs) - set(ours)}")
        for key, value in theirs.items():
            require(value == ours[key], f"{what}: {key}: kustomize {ours[key]!r}, Helm {value!r}")
            compared += 1
        require({"sidecar", "backend", "pod", "config", "NetworkPolicy"} <= set(theirs), f"{what}: {set(theirs)}")
    return f"{compared} parts equal"


def essence(things):
    """Returns the parts of an example by name, without the allowed differences."""
    things = copy.deepcopy(things)
    workload = one(things, "Deployment")
    pod = pod_of(workload)
    parts = {"config": as_toml(config_of(things, workload))}
    sidecar = sidecar_of(pod)
    sidecar["image"] = sidecar["image"].rpartition("/")[2]
    parts["sidecar"] = sidecar
    parts["backend"] = next(c for c in pod["containers"] if c["name"] == "mosquitto")
    parts["strategy"] = workload["spec"]["strategy"]
    parts["volumes"] = sorted(({k: nameless(k, v) for k, v in volume.items()} for volume in pod["volumes"]), key=stable)
    parts["pod"] = {k: v for k, v in pod.items() if k not in ("containers", "initContainers", "volumes")}
    for kind in ("NetworkPolicy", "PodDisruptionBudget", "PodMonitor", "HorizontalPodAutoscaler", "Service"):
        for thing in of_kind(things, kind):
            parts[kind] = without_names(thing["spec"])
    # The job is named after the application by kustomize, after the release by Helm.
    for endpoint in parts.get("PodMonitor", {}).get("podMetricsEndpoints", []):
        jobs = [rule for rule in endpoint["relabelings"] if rule.get("targetLabel") == "job"]
        require(len(jobs) == 1 and "/tlsidecar-" in jobs[0]["replacement"], f"PodMonitor: another job than expected: {jobs}")
        endpoint["relabelings"].remove(jobs[0])
    certificate = [c for c in of_kind(things, "Certificate") if c["spec"]["secretName"] == "tlsidecar-tls"]
    parts["Certificate"] = certificate[0]["spec"]
    return parts


def stable(value):
    return json.dumps(value, sort_keys=True)


def nameless(kind, source):
    return {**source, "name": ""} if kind == "configMap" else source


def without_names(spec):
    """Returns a spec without its selector and without the name of the Deployment that it scales."""
    spec = dict(spec)
    for key in ("selector", "podSelector"):
        spec.pop(key, None)
    if "scaleTargetRef" in spec:
        spec["scaleTargetRef"] = {**spec["scaleTargetRef"], "name": ""}
    return spec


def selectors():
    """Requires that every selector selects the Pods of its own release."""
    selecting = 0
    for what, things in rendered.items():
        workload = one(things, "Deployment")
        labels = workload["spec"]["template"]["metadata"]["labels"]
        for thing in of_kind(things, "Service", "NetworkPolicy", "PodDisruptionBudget", "PodMonitor", "Deployment"):
            selector = thing["spec"].get("podSelector") or thing["spec"]["selector"]
            wanted = selector.get("matchLabels", selector)
            require(wanted.items() <= labels.items(), f"{what}: {name_of(thing)} does not select its Pods")
            require("app.kubernetes.io/instance" in wanted, f"{what}: {name_of(thing)} selects another release's Pods")
            selecting += 1
        for scaler in of_kind(things, "HorizontalPodAutoscaler"):
            named = scaler["spec"]["scaleTargetRef"]["name"]
            require(named == workload["metadata"]["name"], f"{what}: it scales {named}")
            selecting += 1
    return f"{selecting} selectors"


def configurations():
    texts = {config_of(things, one(things, "Deployment")) for things in rendered.values()}
    for text in texts:
        tlsidecar_check(text)
    return f"{len(texts)} good"


def versions():
    """Requires that charts, image and dependency name the version of Cargo.toml."""
    crate = crate_version()
    library = yaml.safe_load((LIBRARY / "Chart.yaml").read_text())
    example = yaml.safe_load((EXAMPLE / "Chart.yaml").read_text())
    tag = yaml.safe_load((LIBRARY / "values.yaml").read_text())["image"]["tag"]
    named = {library["appVersion"], tag}
    require(named == {crate}, f"{named} instead of {crate}")
    require(example["dependencies"][0]["version"] == library["version"], "the version of the dependency")
    link = EXAMPLE / "charts/tlsidecar"
    require(link.is_symlink() and link.resolve() == LIBRARY, "the example's library is a copy")
    return crate


def policy():
    installed = {what: copy.deepcopy(rendered[what]) for what in ("everything", "classic")}
    for things in installed.values():
        for thing in things:
            thing["metadata"]["namespace"] = "west"
    return f"{checkov(installed)} of checkov's checks passed"


def main():
    return run_all([
        lint, refused, renders, schemas, custom_resources, sidecars, like_kustomize, selectors, configurations,
        versions, policy,
    ])
