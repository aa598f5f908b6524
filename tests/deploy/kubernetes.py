"""Checks deploy/kubernetes without a cluster: builds, schemas, policy, and the configuration.

Needs what manifests.py needs, and kubectl, yamllint and a built tlsidecar.
"""

import copy
import json
import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

import yaml

from . import addresses, prometheusrule
from .check import DEPLOY, HERE, ROOT, Failed, attempt, eventually, program, require, run, run_all
from .manifests import (
    ADMIN_PORT, LABEL, METRICS_PORT, WORKLOADS, Mounted, against_schemas, as_toml, checkov, config_of, containers,
    crate_version, crds, is_custom, name_of, numeric_ports, of_kind, one, open_ports, parse, pod_of, restricted, sidecar_of, the_drain, the_sidecar,
    tlsidecar_check,
)
from .net import free_port, http
from .pki import Authority

KUBERNETES = DEPLOY / "kubernetes"
FIXTURES = HERE / "fixtures"
COMPONENTS = KUBERNETES / "components"

# Each build, the first Kubernetes version that it is for, and whether its sidecar is native; None without a sidecar.
BUILDS = {
    KUBERNETES / "overlays/monitoring": ("1.27", None),
    KUBERNETES / "overlays/example": ("1.29", True),
    KUBERNETES / "overlays/example-monitored": ("1.29", True),
    KUBERNETES / "overlays/example-classic": ("1.27", False),
    FIXTURES / "everything": ("1.29", True),
    FIXTURES / "foreign": ("1.29", True),
    FIXTURES / "foreign-classic": ("1.27", False),
    FIXTURES / "kubernetes-1.29": ("1.29", True),
    FIXTURES / "own-settings": ("1.29", True),
}
# Components that change nothing without another one.
WITH_ANOTHER = {
    "sidecar/key-group": "sidecar/container", "sidecar/port": "sidecar/container",
    "classic-sidecar/port": "classic-sidecar/container", "sidecar/port/objects": "network-policy",
}
# Objects that the API server knows without custom resource definitions, beside those of cert-manager.
CERT_MANAGER = {"Certificate", "Issuer"}


def kustomize(directory):
    """Returns the objects that kubectl builds from a directory."""
    done = attempt("kubectl", "kustomize", directory)
    require(done.returncode == 0, f"{directory}: {done.stderr.strip()}")
    require("deprecated" not in done.stderr, f"{directory}: {done.stderr.strip()}")
    return parse(done.stdout)


def short(directory):
    return str(directory.relative_to(ROOT))


built = {}


def builds():
    overlays = {path.parent for path in (KUBERNETES / "overlays").glob("*/kustomization.yaml")}
    require(overlays <= set(BUILDS), f"not checked: {overlays - set(BUILDS)}")
    for directory in BUILDS:
        built[directory] = kustomize(directory)
        require(built[directory], f"{directory} is empty")
    objects = sum(len(things) for things in built.values())
    return f"{len(built)} kustomizations, {objects} objects"


def components():
    """Requires that each component alone changes a foreign Deployment, and that some checked kustomization has it."""
    found = sorted(path.parent for path in COMPONENTS.rglob("kustomization.yaml"))
    require(len(found) >= 10, f"only {len(found)} components")
    used = "".join(path.read_text() for d in BUILDS for path in d.glob("kustomization.yaml"))
    for component in found:
        name = str(component.relative_to(COMPONENTS))
        needed = [WITH_ANOTHER[name]] if name in WITH_ANOTHER else []
        # hpa scales the only Deployment, and rejects the two of the foreign base.
        base = KUBERNETES / "base" if name == "hpa" else FIXTURES / "labelled"
        with_it = kustomize_with(base, [*needed, name])
        require(with_it != kustomize_with(base, needed), f"{name} does nothing")
        top = name.split("/")[0]
        require(f"components/{top}" in used, f"{name} is in no kustomization that is checked")
    return f"{len(found)} components"


def kustomize_with(base, names, patch=None):
    """Builds a base with components, and with a patch of the base before them."""
    # Within the checkout, because kustomize accepts no absolute paths; removed at the end.
    with tempfile.TemporaryDirectory(prefix=".try-", dir=FIXTURES) as directory:
        resources = os.path.relpath(base, directory)
        if patch:
            target, operations = patch
            inner = {"resources": [f"../{resources}"]}
            inner["patches"] = [{"target": target, "patch": json.dumps(operations)}]
            Path(directory, "base").mkdir()
            Path(directory, "base/kustomization.yaml").write_text(json.dumps(inner))
            resources = "base"
        outer = {"resources": [resources]}
        outer["components"] = [os.path.relpath(COMPONENTS / name, directory) for name in names]
        if any("/port" in name for name in names):
            outer["configMapGenerator"] = [{"name": "tlsidecar", "literals": ["port=8802"]}]
        Path(directory, "kustomization.yaml").write_text(json.dumps(outer))
        return kustomize(directory)


def refusals():
    """Requires that the build fails where a component would replace a Deployment's value."""
    target = {"kind": "Deployment", "name": "historian"}
    spec = "/spec/template/spec"
    both, hook = ["sidecar", "classic-sidecar"], {"preStop": {"exec": {"command": ["x"]}}}
    own = {
        "a lifecycle": (both, f"{spec}/containers/0/lifecycle", hook),
        "a grace period": (both, f"{spec}/terminationGracePeriodSeconds", 300),
        "an fsGroup": (both, f"{spec}/securityContext/fsGroup", 4000),
        "two Deployments": (["hpa"], "/metadata/labels/x", "y"),
    }
    refused = 0
    for what, (names, path, value) in own.items():
        for name in names:
            try:
                kustomize_with(FIXTURES / "labelled", [name], (target, [{"op": "add", "path": path, "value": value}]))
            except Failed as failed:
                why = "test failed" if name != "hpa" else "multiple matches"
                require(why in str(failed), f"{name} fails for another reason: {failed}")
                refused += 1
                continue
            raise Failed(f"{name} accepts a Deployment that has {what}")
    kept = kustomize_with(FIXTURES / "labelled", ["sidecar/container"], (target, [
        {"op": "add", "path": f"{spec}/securityContext/fsGroup", "value": 4000},
        {"op": "add", "path": f"{spec}/terminationGracePeriodSeconds", "value": 300},
    ]))
    pod = pod_of(one(kept, "Deployment", "historian"))
    require(pod["securityContext"]["fsGroup"] == 4000, "fsGroup is replaced")
    require(pod["terminationGracePeriodSeconds"] == 300, "terminationGracePeriodSeconds is replaced")
    return f"{refused} refused, 1 kept"


def foreign():
    """Requires that a foreign Deployment keeps all its fields, and that objects without the label are unchanged."""
    before = kustomize(FIXTURES / "foreign-base")
    compared = 0
    for directory in (FIXTURES / "foreign", FIXTURES / "foreign-classic"):
        after = built[directory]
        for kind, name in (("Deployment", "historian"), ("Deployment", "dashboard"), ("Service", "dashboard")):
            old, new = copy.deepcopy(one(before, kind, name)), one(after, kind, f"west-{name}")
            old["metadata"] |= {"name": new["metadata"]["name"], "namespace": "plant-7"}
            lost = missing(old, new)
            require(not lost, f"{directory.name}: {name} has lost {lost}")
            require(name != "dashboard" or old == new, f"{directory.name}: {kind}/{name} is changed")
            compared += 1
        pod = pod_of(one(after, "Deployment", "west-historian"))
        helper = next(c for c in pod["containers"] if c["name"] == "exporter")
        require("lifecycle" not in helper, "the second container got the backend's preStop")
        image = sidecar_of(pod)["image"]
        require(image.startswith("registry.plant-7.example/iot/tlsidecar@sha256:"), f"the image {image}")
    return f"{compared} objects"


def missing(old, new, path=""):
    """Returns the first path whose value in `old` is not in `new`; lists of named objects are compared by name."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key, value in old.items():
            lost = missing(value, new.get(key), f"{path}.{key}")
            if lost:
                return lost
        return None
    if isinstance(old, list) and isinstance(new, list) and all(isinstance(v, dict) and "name" in v for v in old):
        named = {value.get("name"): value for value in new}
        order = [value["name"] for value in new if value["name"] in {v["name"] for v in old}]
        if order != [value["name"] for value in old]:
            return f"{path}: the order {order}"
        for value in old:
            lost = missing(value, named.get(value["name"]), f"{path}[{value['name']}]")
            if lost:
                return lost
        return None
    return None if old == new else f"{path}: {old!r} is {new!r}"


def schemas():
    count = against_schemas({short(d): (built[d], BUILDS[d][0]) for d in built})
    return f"{count} objects against the strict schemas of their versions of Kubernetes"


def custom_resources():
    count, kinds = crds({short(d): things for d, things in built.items()})
    return f"{count} of the kinds {', '.join(kinds)}"


def monitoring():
    """Requires that every build has the rules of deploy/prometheus and the dashboards of deploy/grafana."""
    written = COMPONENTS / "prometheus-operator/rules/prometheusrule.yaml"
    require(written.read_text() == prometheusrule.text(), "prometheusrule.yaml is old: run `just generate`")
    dashboards = {path.name: path.read_text() for path in (DEPLOY / "grafana/dashboards").glob("*.json")}
    found = 0
    for directory, things in built.items():
        for rules in of_kind(things, "PrometheusRule"):
            require(rules["spec"] == prometheusrule.rule()["spec"], f"{short(directory)} changes the rules")
            boards = [thing for thing in of_kind(things, "ConfigMap")
                      if thing["metadata"].get("labels", {}).get("grafana_dashboard") == "1"]
            require([board["data"] for board in boards] == [dashboards],
                    f"{short(directory)} has rules, and not the dashboards")
            # `kubectl apply` stores the whole object in an annotation, which has this limit.
            size = len(json.dumps(boards[0]))
            require(size < 256 * 1024, f"the dashboards' ConfigMap has {size} bytes: kubectl apply would refuse it")
            found += 1
    require(found >= 3, f"only {found} PrometheusRules")
    alone = sorted((thing["kind"], thing["metadata"]["namespace"]) for thing in built[KUBERNETES / "overlays/monitoring"])
    require(alone == [("ConfigMap", "monitoring"), ("PrometheusRule", "monitoring")], f"overlays/monitoring: {alone}")
    return f"{len(prometheusrule.rule()['spec']['groups'])} groups of rules, {len(dashboards)} dashboards in {size // 1024} KiB, in {found} builds"


def policy():
    examples = {short(d): built[d] for d in (KUBERNETES / "overlays/example", KUBERNETES / "overlays/example-classic")}
    return f"{checkov(examples)} of checkov's checks passed, in {len(examples)} overlays"


def sidecars():
    """Checks the sidecar of each build, native against classic, and the times of the drain."""
    found, like = 0, {}
    for directory, (_, native) in BUILDS.items():
        if native is None:
            continue
        things = built[directory]
        labelled = [w for w in of_kind(things, *WORKLOADS) if w["metadata"].get("labels", {}).get(LABEL) == "true"]
        require(labelled, f"{directory}: no workload with the label")
        for workload in labelled:
            try:
                sidecar = the_sidecar(workload, native)
                config = as_toml(config_of(things, workload))
                if directory.name != "own-settings":
                    the_drain(workload, config)
            except Failed as failed:
                raise Failed(f"{directory.name}: {name_of(workload)}: {failed}") from failed
            like[directory.name] = {k: v for k, v in sidecar.items() if k != "restartPolicy"}
            found += 1
    require(like["example"] == like["example-classic"], "the native container is not the classic one")
    require(like["foreign"] == like["foreign-classic"], "the native container is not the classic one")
    things = built[KUBERNETES / "overlays/example"]
    pod = pod_of(one(things, "Deployment"))
    for container in containers(pod):
        restricted(pod, container)
    times = the_drain(one(things, "Deployment"), as_toml(config_of(things, one(things, "Deployment"))))
    return f"{found} workloads; drain {times[0]} s < sleep {times[1]} s < grace {times[2]} s"


def ports():
    looked_at = sum(numeric_ports([t for t in things if not foreign_service(t)]) for things in built.values())
    policies = 0
    for directory, things in built.items():
        for workload in of_kind(things, *WORKLOADS):
            labelled = workload["metadata"].get("labels", {}).get(LABEL) == "true"
            if labelled and of_kind(things, "NetworkPolicy"):
                open_ports(things, workload, as_toml(config_of(things, workload)))
                policies += 1
    require(policies >= 4, f"only {policies} policies")
    return f"{looked_at} by number, {policies} policies open the listeners and the metrics alone"


def foreign_service(thing):
    return thing["kind"] == "Service" and "dashboard" in thing["metadata"]["name"]


def as_it_stands():
    """Requires the examples to need nothing but cert-manager, and to make each issuer and Secret that they name."""
    for directory in (KUBERNETES / "overlays/example", KUBERNETES / "overlays/example-classic"):
        things = built[directory]
        custom = {thing["kind"] for thing in things if is_custom(thing)}
        require(custom == CERT_MANAGER, f"{directory.name} needs {custom}")
        made = {thing["spec"]["secretName"] for thing in of_kind(things, "Certificate")}
        mounted = {v["secret"]["secretName"] for v in pod_of(one(things, "Deployment"))["volumes"] if "secret" in v}
        signing = {thing["spec"]["ca"]["secretName"] for thing in of_kind(things, "Issuer") if "ca" in thing["spec"]}
        require(mounted | signing <= made, f"{directory.name}: the Secrets {mounted | signing} are needed, {made} are made")
        issuers = {thing["metadata"]["name"] for thing in of_kind(things, "Issuer")}
        named = {thing["spec"]["issuerRef"]["name"] for thing in of_kind(things, "Certificate")}
        require(named <= issuers, f"{directory.name}: the issuers {named} are named, {issuers} are made")
        listed = "\n".join(re.findall(r"(?m)^\| (?:Issuers|Secrets?) .*$", (ROOT / "docs/kubernetes.md").read_text()))
        for name in made | issuers:
            require(f"`{name}`" in listed, f"docs/kubernetes.md does not list {name}")
    return f"{len(made)} Secrets, {len(issuers)} issuers"


def one_port():
    """Requires one setting to change the port of container, policy and Service."""
    for name in ("sidecar", "classic-sidecar"):
        names = [f"{name}/container", "network-policy", "service", f"{name}/port"]
        things = kustomize_with(FIXTURES / "labelled", names)
        pod = pod_of(one(things, "Deployment", "historian"))
        policy = one(things, "NetworkPolicy")["spec"]["ingress"]
        service = one(things, "Service", "tlsidecar")["spec"]["ports"]
        found = [sidecar_of(pod)["ports"][0]["containerPort"], policy[0]["ports"][0]["port"], service[0]["port"],
                 service[0]["targetPort"]]
        require(found == [8802] * 4, f"{name}: {found}")
        require(policy[1]["ports"][0]["port"] == METRICS_PORT, f"{name}: the port of the metrics")
    patches = [path for d in (KUBERNETES, ROOT / "docs") for path in d.rglob("*") if path.suffix in (".yaml", ".md")
               if re.search(r"path: /spec/\S+/\d+/", path.read_text()) and path.name != "drain-window.yaml"]
    require(not patches, f"patches by index in {patches}")
    return "4 places"


class Remote:
    """A repository with deploy/ and the tag of this version, in place of the address in docs/kubernetes.md."""

    def __enter__(self):
        self.directory = tempfile.TemporaryDirectory()
        place = Path(self.directory.name)
        shutil.copytree(DEPLOY, place / "deploy")
        author = ["-c", "user.name=check", "-c", "user.email=check@invalid", "-c", "commit.gpgsign=false"]
        for command in (["init", "-q"], ["add", "-A"], [*author, "commit", "-qm", "deploy"], ["tag", f"v{crate_version()}"]):
            run("git", "-C", place, *command)
        return f"file://{place}"

    def __exit__(self, *_):
        self.directory.cleanup()


def page():
    """Follows docs/kubernetes.md: its files add a sidecar to a foreign Deployment, with components of a repository."""
    with Remote() as remote:
        return follow(remote)


def follow(remote):
    text = (ROOT / "docs/kubernetes.md").read_text()
    blocks = re.findall(r"(?ms)^```(yaml|toml)\n(.*?)^```", text)
    yamls = [block for kind, block in blocks if kind == "yaml"]
    (config,) = [block for kind, block in blocks if kind == "toml"]
    labelled = next(block for block in yamls if block.startswith("# labelled/kustomization.yaml\n"))
    together = next(block for block in yamls if block.startswith("# kustomization.yaml\n"))
    patches = [yaml.safe_load(block)["patches"] for block in yamls if block.startswith("patches:\n")]
    require(len(patches) == 3, f"{len(patches)} patches in docs/kubernetes.md")
    # One at a time, because they change the same Deployment: first none, then each.
    for more in ([], *patches):
        with tempfile.TemporaryDirectory(prefix=".try-", dir=FIXTURES) as name:
            directory = Path(name)
            (directory / "labelled").mkdir()
            manifests = os.path.relpath(FIXTURES / "foreign-base", directory / "labelled")
            (directory / "labelled/kustomization.yaml").write_text(labelled.replace("../manifests", manifests))
            outer = yaml.safe_load(together)
            fetched = f"{addresses.REPOSITORY}//deploy/kubernetes/components/"
            for component in outer["components"]:
                require(component.startswith(fetched) and component.endswith(f"?ref=v{crate_version()}"), component)
            outer["components"] = [each.replace(addresses.REPOSITORY, remote) for each in outer["components"]]
            outer["patches"] = more
            (directory / "kustomization.yaml").write_text(yaml.safe_dump(outer))
            (directory / "tlsidecar.toml").write_text(config)
            things = kustomize(directory)
        workload = one(things, "Deployment", "historian")
        image = the_sidecar(workload, native=True)["image"]
        require(image.startswith("registry.plant-7.example/"), image)
        pod = pod_of(workload)
        sleep = pod["containers"][0]["lifecycle"]["preStop"]["sleep"]["seconds"]
        require(sleep == (20 if more == patches[2] else 45), f"sleep {sleep}")
        require(pod["terminationGracePeriodSeconds"] == (50 if more == patches[2] else 75), "the grace period")
        sysctls = [sysctl["value"] for sysctl in pod["securityContext"].get("sysctls", [])]
        require(sysctls == (["802"] if more == patches[1] else []), f"{sysctls}")
        open_ports([thing for thing in things if not foreign_service(thing)], workload, as_toml(config))
        volumes = {volume["name"]: volume for volume in pod["volumes"]}
        mode = volumes["tlsidecar-tls"]["secret"]["defaultMode"]
        require(mode == (0o444 if more == patches[0] else 0o440), f"mode {mode:o}")
        against_schemas({"docs/kubernetes.md": (things, "1.30")})
    tlsidecar_check(config_of(things, workload))
    applied = re.findall(r"(?m)^kubectl apply -k (deploy/\S+)", text)
    require(len(applied) >= 2, f"only {applied} are applied in docs/kubernetes.md")
    for path in applied:
        require(ROOT / path in BUILDS, f"docs/kubernetes.md applies {path}, which no check builds")
    policies = [yaml.safe_load(block) for block in yamls if "kind: NetworkPolicy\nmetadata" in block]
    require(policies, "no NetworkPolicy in docs/kubernetes.md")
    against_schemas({"docs/kubernetes.md": (policies, "1.30")})
    return f"{1 + len(patches)} builds from its files, {len(policies)} policy, {len(applied)} overlays"


def image():
    """Requires that the components name the version of Cargo.toml, and that kustomize's `images` replaces it."""
    version = crate_version()
    files = list(COMPONENTS.rglob("container.yaml"))
    require(len(files) == 2, f"{len(files)} containers")
    for path in files:
        require(f"image: tlsidecar:{version}\n" in path.read_text(), f"{path}: not tlsidecar:{version}")
    for directory in (KUBERNETES / "overlays/example", KUBERNETES / "overlays/example-classic"):
        named = sidecar_of(pod_of(one(built[directory], "Deployment")))["image"]
        require(named == f"{addresses.IMAGE}:{version}", f"{directory.name}: {named}")
    return f"{version} in {len(files)} components"


def configurations():
    """Requires that `tlsidecar check` accepts every configuration, with volumes as the kubelet makes them."""
    texts = {}
    for directory, things in built.items():
        for workload in of_kind(things, *WORKLOADS):
            if workload["metadata"].get("labels", {}).get(LABEL) == "true":
                texts[config_of(things, workload)] = directory
    require(len(texts) >= 3, f"only {len(texts)} configurations")
    for text in texts:
        tlsidecar_check(text)
    return f"{len(texts)} good"


def invalid_at_the_start():
    """Requires the exit code 78 of a sidecar that starts with a key of another certificate, as docs/kubernetes.md states."""
    things = built[KUBERNETES / "overlays/example"]
    with Mounted(config_of(things, one(things, "Deployment"))) as mounted:
        _, other = Authority(mounted.root / "another", "another CA").issue("tls", "mqtt.example.com")
        (mounted.root / "tls/..data/tls.key").write_text(other.read_text())
        addresses_of = ["--admin", f"127.0.0.1:{free_port()}", "--metrics-listen", f"127.0.0.1:{free_port()}"]
        done = attempt(program(), "--config", mounted.root / "config/tlsidecar.toml", *addresses_of)
        require(done.returncode == 78, f"it exits with {done.returncode}: {done.stderr}")
        require("tls.key" in done.stderr, f"the log does not name the key: {done.stderr}")
    return "exit code 78"


def probes_and_pre_stop():
    """Runs tlsidecar with the container's arguments: it answers its probes, and its preStop drains it."""
    things = built[KUBERNETES / "overlays/example"]
    workload = one(things, "Deployment")
    sidecar = sidecar_of(pod_of(workload))
    admin, metrics, device = free_port(), free_port(), free_port()
    text = config_of(things, workload).replace("0.0.0.0:8883", f"127.0.0.1:{device}")
    text = text.replace('delay = "10s"', 'delay = "60s"')
    with Mounted(text) as mounted:
        moved = {f"127.0.0.1:{ADMIN_PORT}": f"127.0.0.1:{admin}", f"0.0.0.0:{METRICS_PORT}": f"127.0.0.1:{metrics}"}
        args = [moved.get(word) or mounted.here(word) for word in sidecar["args"]]
        running = subprocess.Popen([str(program()), *args], stderr=subprocess.DEVNULL)
        try:
            paths = {p: sidecar[p]["httpGet"]["path"] for p in ("startupProbe", "readinessProbe", "livenessProbe")}
            for path in paths.values():
                eventually(f"{path} answers 200", lambda path=path: status(metrics, path) == 200)
            # In the Pod the default admin port is the sidecar's; here another program may have it.
            command = sidecar["lifecycle"]["preStop"]["exec"]["command"][1:]
            run(program(), *command, "--admin", f"127.0.0.1:{admin}")
            eventually("not ready after preStop", lambda: status(metrics, paths["readinessProbe"]) == 503)
            require(status(metrics, "/status") == 404, "the address for metrics answers more than it should")
            require(status(metrics, paths["livenessProbe"]) == 200, "it is not alive after preStop")
            require(running.poll() is None, "preStop ends the process: the kubelet would restart it")
        finally:
            running.kill()
            running.wait()
    return "3 probes, preStop"


def status(port, path):
    return http(f"http://127.0.0.1:{port}{path}")[0]


def style():
    files = [p for d in (KUBERNETES, FIXTURES) for p in d.rglob("*.yaml")] + list((DEPLOY / "helm").glob("*/*.yaml"))
    require(len(files) > 30, f"only {len(files)} files")
    run("yamllint", "--strict", "-c", HERE / "yamllint.yaml", *files)
    return f"{len(files)} files by yamllint"


def main():
    return run_all([
        style, builds, components, refusals, foreign, as_it_stands, one_port, schemas, custom_resources, sidecars, ports,
        page, monitoring, image, configurations, invalid_at_the_start, probes_and_pre_stop, policy,
    ])
