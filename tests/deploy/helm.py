"""Checks deploy/helm with Helm's library: lint, rejected values, and rendered objects.

The rendered objects meet the schemas and the policy of the kustomize example, and equal it but for names.
gateway.py has the checks of the chart that is installed without another one.
Needs what manifests.py needs, and helm-python-sdk of PyPI.
"""

import copy
import json
import re
import shlex

import helm_python as helm
import yaml

from . import gateway
from .charts import Charts
from .check import DEPLOY, ROOT, Failed, require, run_all
from .kubernetes import FIXTURES, KUBERNETES, kustomize
from .manifests import (
    against_schemas, as_toml, checkov, config_of, containers, crate_version, crds, name_of, numeric_ports, of_kind, one,
    open_ports, parse, pod_of, restricted, sidecar_of, the_drain, the_sidecar, tlsidecar_check,
)

LIBRARY = DEPLOY / "helm/tlsidecar"
EXAMPLE = DEPLOY / "helm/example"
# A second Secret, an image by its digest, a registry's password, a setting of the environment, a mounted file.
SETTINGS = {
    "secrets": [{"name": "rsa", "secretName": "plant-rsa", "items": [{"key": "tls.crt", "path": "tls.crt"}]},
                {"name": "token", "secretName": "admin-token", "optional": True}],
    "image": {"repository": "registry.plant-7.example/tlsidecar", "digest": f"sha256:{'0' * 64}", "pullSecrets": ["registry"]},
    "extraEnv": [{"name": "TLSIDECAR_LOG_FILTER", "value": "debug"}],
    "extraVolumes": [{"name": "rules", "configMap": {"name": "allow-rules"}}],
    "extraVolumeMounts": [{"name": "rules", "mountPath": "/etc/tlsidecar/rules", "readOnly": True}],
}

# Each set of values, the first Kubernetes version that it is for, and whether its sidecar is native.
RENDERED = {
    "defaults": ({}, "1.29", True),
    "everything": ({"podMonitor": {"enabled": True}, "hpa": {"enabled": True}}, "1.29", True),
    "classic": ({"mode": "classic", "drain": {"backendHook": "exec"}}, "1.27", False),
    "native with exec": ({"drain": {"backendHook": "exec"}}, "1.29", True),
    "own group": ({"fsGroup": 1883}, "1.29", True),
    "no group": ({"fsGroup": None}, "1.29", True),
    "long drain": ({"drain": {"delaySeconds": 30, "timeoutSeconds": 3600, "backendStopSeconds": 120}}, "1.29", True),
    "settings": (SETTINGS, "1.29", True),
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
    "a port without a listener": {"ports": [{"name": "tls", "port": 8884}]},
    "a port beyond all": {"ports": [{"name": "tls", "port": 65536}]},
    "one port twice": {"ports": [{"name": "tls", "port": 8883}, {"name": "more", "port": 8883}]},
    "the admin port on the Pod's address": {"admin": {"listen": "0.0.0.0:9901"}},
    "the metrics on loopback": {"admin": {"metricsListen": "127.0.0.1:9902"}},
    "the admin port for metrics": {"admin": {"metricsListen": "0.0.0.0:9901"}},
    "the admin port for devices": {"ports": [{"name": "tls", "port": 9901}]},
    "the port of the metrics for devices": {"ports": [{"name": "tls", "port": 9902}]},
    "a port with the name of the metrics'": {"ports": [{"name": "metrics", "port": 8883}]},
    "no port": {"ports": []},
    "a port's name that is too long": {"ports": [{"name": "a-name-of-sixteen", "port": 8883}]},
    "no memory limit": {"resources": {"limits": {"memory": None}}},
    "the tag latest": {"image": {"tag": "latest"}},
    "a tag that YAML reads as a number": {"image": {"tag": 0.1}},
    "a pull policy of another name": {"image": {"pullPolicy": "always"}},
    "a digest without an algorithm": {"image": {"digest": "0" * 64}},
    "no Secret": {"tlsSecret": ""},
    "a Secret at the place of another": {"secrets": [{"name": "tls", "secretName": "plant-rsa"}]},
    "a Secret without a place": {"secrets": [{"secretName": "plant-rsa"}]},
    "two Secrets at one place": {"secrets": [{"name": "rsa", "secretName": "a"}, {"name": "rsa", "secretName": "b"}]},
    "a mount without a path": {"extraVolumeMounts": [{"name": "rules"}]},
    "the number of threads twice": {"extraEnv": [{"name": "TOKIO_WORKER_THREADS", "value": "2"}]},
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


charts = Charts()
rendered = {}


def lint():
    linted = 0
    values = [(LIBRARY.name, {}), *((EXAMPLE.name, {"tlsidecar": values}) for values, *_ in RENDERED.values())]
    for name, values in [*values, *((gateway.NAME, values) for values, _ in gateway.RENDERED.values())]:
        report = charts.lint(name, values)
        bad = [m["error"] for m in report["messages"] if m["severity"] > 1] + report["errors"] + report["failed"]
        require(not bad, f"{name}: {bad}")
        require(report["total_charts_linted"] >= 1, f"{name}: nothing linted")
        linted += 1
    return f"{linted} times, strictly, by Helm {helm.helm_sdk_version()}"


def refused():
    """Requires that schemas and templates reject each of these values; each set has one fault."""
    cases = {f"tlsidecar: {what}": {"tlsidecar": values} for what, values in REFUSED.items()} | REFUSED_BY_EXAMPLE
    for what, values in cases.items():
        require(charts.refusal(EXAMPLE.name, values), f"{what} is accepted")
    versions = (({}, "v1.28.0"), ({}, "v1.29.0"), ({"drain": {"backendHook": "exec"}}, "v1.28.0"))
    for values, version in versions:
        failed = charts.lint(EXAMPLE.name, {"tlsidecar": values}, version)["failed"]
        require(any("needs Kubernetes" in line for line in failed), f"{values} on {version}")
    report = charts.lint(EXAMPLE.name, {"tlsidecar": {"drain": {"backendHook": "exec"}}}, "v1.29.0")
    require(not report["errors"] and not report["failed"], f"exec on 1.29: {report}")
    return f"{len(cases)} sets of values, {len(versions)} of versions"


def renders():
    for what, (values, *_) in RENDERED.items():
        rendered[what], notes = charts.render(EXAMPLE.name, {"tlsidecar": values})
        require("Devices connect with TLS" in notes, f"{what}: the notes")
    kinds = {thing["kind"] for thing in rendered["everything"]}
    expected = {"ConfigMap", "Deployment", "Service", "Certificate", "Issuer", "NetworkPolicy", "PodDisruptionBudget"}
    require(kinds == expected | {"PodMonitor", "HorizontalPodAutoscaler"}, f"everything has {kinds}")
    require({t["kind"] for t in rendered["defaults"]} == expected, "the defaults")
    off = {"networkPolicy": {"enabled": False}, "podDisruptionBudget": {"enabled": False}}
    things, notes = charts.render(EXAMPLE.name, {"tlsidecar": off, "certificate": {"enabled": False}})
    require({t["kind"] for t in things} == {"ConfigMap", "Deployment", "Service"}, "all switched off")
    require("WARNING" in notes, "no warning without a NetworkPolicy")
    return f"{len(rendered) + 1} times, {sum(len(t) for t in rendered.values())} objects"


def schemas():
    builds = {what: (things, RENDERED[what][1]) for what, things in rendered.items()}
    builds |= {what: (things, "1.30") for what, things in gateway.rendered.items()}
    count = against_schemas(builds)
    return f"{count} objects against the strict schemas of their versions of Kubernetes"


def custom_resources():
    count, kinds = crds(rendered | gateway.rendered)
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


def issuers():
    """Requires the example to make the issuers and Secrets that it names, and none with another issuer."""
    for what, values, expected in (("its own", {}, True), ("another", {"certificate": {"issuerRef": {"name": "plant-ca"}}}, False)):
        things, _ = charts.render(EXAMPLE.name, values)
        made = {thing["metadata"]["name"] for thing in of_kind(things, "Issuer")}
        named = {thing["spec"]["issuerRef"]["name"] for thing in of_kind(things, "Certificate")}
        require((named <= made) == expected, f"{what}: {named} are named, {made} are made")
        secrets = {thing["spec"]["secretName"] for thing in of_kind(things, "Certificate")}
        mounted = {v["secret"]["secretName"] for v in pod_of(one(things, "Deployment"))["volumes"] if "secret" in v}
        needed = mounted | {t["spec"]["ca"]["secretName"] for t in of_kind(things, "Issuer") if "ca" in t["spec"]}
        require((needed <= secrets) == expected, f"{what}: the Secrets {needed} are needed, {secrets} are made")
    return f"{len(made | named)} issuers"


def settings():
    """Requires the image, Secrets, environment and volumes of the values in the Pod."""
    pod = pod_of(one(rendered["settings"], "Deployment"))
    sidecar = sidecar_of(pod)
    require(sidecar["image"] == f"registry.plant-7.example/tlsidecar@sha256:{'0' * 64}", sidecar["image"])
    require(pod["imagePullSecrets"] == [{"name": "registry"}], "imagePullSecrets")
    require(SETTINGS["extraEnv"][0] in sidecar["env"], "extraEnv")
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    mounts = {mount["name"]: mount["mountPath"] for mount in sidecar["volumeMounts"]}
    expected = {"secretName": "plant-rsa", "items": [{"key": "tls.crt", "path": "tls.crt"}], "defaultMode": 0o440}
    require(volumes["tlsidecar-rsa"]["secret"] == expected, volumes["tlsidecar-rsa"])
    require(volumes["tlsidecar-token"]["secret"]["optional"] is True, "an optional Secret")
    require(mounts["tlsidecar-rsa"] == "/etc/tlsidecar/rsa", "the mount of a Secret")
    require(volumes["rules"]["configMap"] and mounts["rules"] == "/etc/tlsidecar/rules", "extraVolumes")
    require("imagePullSecrets" not in pod_of(one(rendered["defaults"], "Deployment")), "imagePullSecrets without a name")
    return f"{len(SETTINGS)} settings"


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
    # The issuer is named after the release by Helm.
    parts["Certificate"] = certificate[0]["spec"] | {"issuerRef": certificate[0]["spec"]["issuerRef"] | {"name": ""}}
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
    texts = {config_of(things, one(things, "Deployment")) for things in (rendered | gateway.rendered).values()}
    for text in texts:
        tlsidecar_check(text)
    return f"{len(texts)} good"


def versions():
    """Requires that charts, image and dependencies name the version of Cargo.toml, and that no chart has a link."""
    crate = crate_version()
    library = yaml.safe_load((LIBRARY / "Chart.yaml").read_text())
    application = yaml.safe_load((DEPLOY / "helm" / gateway.NAME / "Chart.yaml").read_text())
    tag = yaml.safe_load((LIBRARY / "values.yaml").read_text())["image"]["tag"]
    named = {library["appVersion"], application["appVersion"], tag}
    require(named == {crate}, f"{named} instead of {crate}")
    for chart in (EXAMPLE, DEPLOY / "helm" / gateway.NAME):
        needed = yaml.safe_load((chart / "Chart.yaml").read_text())["dependencies"][0]
        require(needed["version"] == library["version"], f"{chart.name}: the version of the dependency")
    links = [path for path in (DEPLOY / "helm").rglob("*") if path.is_symlink()]
    require(not links, f"links: {links}")
    return crate


def pages():
    """Requires a README.md in each chart that has each of its values, with the default."""
    named = 0
    for chart in sorted(path.parent for path in (DEPLOY / "helm").glob("*/Chart.yaml")):
        page = dict(re.findall(r"(?m)^\| `([\w.]+)` \| (?:`(.*?)`|in values.yaml) \|", (chart / "README.md").read_text()))
        values = yaml.safe_load((chart / "values.yaml").read_text())
        for key, default in leaves({k: v for k, v in values.items() if k != "tlsidecar"}):
            require(key in page, f"{chart.name}/README.md lacks the value {key}")
            written = page.pop(key)
            same = yaml.safe_load(written) == default if written else isinstance(default, (dict, list))
            require(same, f"{chart.name}/README.md has {written} for {key}, values.yaml {default!r}")
            named += 1
        require(not page, f"{chart.name}/README.md has values that do not exist: {list(page)}")
    return f"{named} values"


def commands():
    """Renders the charts with the values of each `helm install` of the pages."""
    installed = 0
    for page in [*(DEPLOY / "helm").glob("*/README.md"), ROOT / "docs/kubernetes.md", ROOT / "docs/kubernetes-reference.md"]:
        text = page.read_text().replace("\\\n", " ")
        for line in re.findall(r"(?m)^helm install .+$", text):
            words = shlex.split(line)
            chart, sets = DEPLOY.parent / words[3], [words[n + 1] for n, word in enumerate(words) if word == "--set"]
            require(chart.parent == DEPLOY / "helm" and chart.is_dir(), f"{page}: {words[3]}")
            require("--dependency-update" in words, f"{page}: without the library: {line}")
            charts.render(chart.name, helm.parse_set_string(",".join(sets)) if sets else {})
            installed += 1
    require(installed >= 6, f"only {installed} commands")
    return f"{installed} of `helm install`"


def leaves(values, above=""):
    """Yields the paths and defaults of values; an object that Kubernetes defines is one value."""
    for key, value in values.items():
        if isinstance(value, dict) and value and key not in ("resources", "securityContext", "labels"):
            yield from leaves(value, f"{above}{key}.")
        else:
            yield above + key, value


def policy():
    installed = {what: copy.deepcopy(rendered[what]) for what in ("everything", "classic")}
    installed["gateway"] = copy.deepcopy(gateway.rendered["a Service"])
    for things in installed.values():
        for thing in things:
            thing["metadata"]["namespace"] = "west"
    return f"{checkov(installed)} of checkov's checks passed"


def gateways():
    return gateway.check(charts)


def main():
    return run_all([
        lint, refused, renders, gateways, schemas, custom_resources, sidecars, issuers, settings, like_kustomize, selectors,
        configurations, versions, pages, commands, policy,
    ])
