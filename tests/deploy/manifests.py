"""Kubernetes manifests: schemas, policy, and the requirements of a sidecar in any workload.

Needs kubernetes-validate, PyYAML and checkov of PyPI, and for custom resources the npm packages of `crds.js`.
"""

import json
import re
import tempfile
import tomllib
from pathlib import Path

import kubernetes_validate
import kubernetes_validate.utils
import yaml

from .check import HERE, ROOT, Failed, attempt, program, require
from .pki import Authority

LABEL = "tlsidecar/sidecar"
ADMIN_PORT = 9901
METRICS_PORT = 9902
# Time that a drain may take after delay and drain_timeout: FORCE_TIMEOUT in src/lifecycle.rs.
FORCE_SECONDS = 2
# Time that a busy device has after its turn: ANSWER_TIME in src/proxy/relay/pause.rs.
ANSWER_SECONDS = 10
WORKLOADS = ("Deployment", "StatefulSet")

# checkov's checks that are not required, each with its reason.
CHECKOV_SKIPPED = {
    "CKV_K8S_11": "no CPU limit: throttling delays handshakes, most of all when all devices reconnect",
    "CKV_K8S_15": "IfNotPresent: a Pod must be able to restart while the registry is unavailable",
    "CKV_K8S_40": "mosquitto's image has the user 1883; the sidecar's is 65532, which `the_sidecar` requires",
    "CKV_K8S_43": "no digest: the operator names the image, in kustomize's `images` or the values",
}


def parse(text):
    """Returns the objects of a stream of YAML documents."""
    return [document for document in yaml.load_all(text, Loader=Unique) if document]


class Unique(yaml.SafeLoader):
    """Rejects a duplicate key. Reads 0444 as octal, as Kubernetes' own parser does."""


def _mapping(loader, node, deep=False):
    keys = [loader.construct_object(key, deep=deep) for key, _ in node.value]
    require(len(keys) == len(set(keys)), f"a duplicate key among {keys}")
    return yaml.SafeLoader.construct_mapping(loader, node, deep)


Unique.add_constructor("tag:yaml.org,2002:map", _mapping)


def name_of(thing):
    return f"{thing['kind']}/{thing['metadata']['name']}"


def of_kind(things, *kinds):
    return [thing for thing in things if thing["kind"] in kinds]


def one(things, kind, name=None):
    found = [t for t in of_kind(things, kind) if name in (None, t["metadata"]["name"])]
    require(len(found) == 1, f"{len(found)} of the kind {kind} (name {name})")
    return found[0]


def is_custom(thing):
    group = thing["apiVersion"].rpartition("/")[0]
    return "." in group and not group.endswith(".k8s.io")


# --- schemas ---------------------------------------------------------------------------------------


def versions(first):
    """Returns the versions of Kubernetes from `first` to the newest that the package knows."""
    known = [kubernetes_validate.utils.major_minor(v) for v in kubernetes_validate.utils.all_versions()]
    known = list(dict.fromkeys(known))
    require(first in known, f"kubernetes-validate does not know {first}, only {known}")
    return known[known.index(first) :]


def against_schemas(builds):
    """Validates {name: (objects, first version)} strictly, without custom resources; returns the number of validations."""
    validated = 0
    for build, (things, first) in builds.items():
        core = [thing for thing in things if not is_custom(thing)]
        require(core, f"{build}: no core object")
        for version in versions(first):
            for thing in core:
                try:
                    kubernetes_validate.validate(thing, version, strict=True)
                except kubernetes_validate.ValidationError as error:
                    path = ".".join(str(part) for part in error.path)
                    raise Failed(f"{build}: {name_of(thing)} in {version}: {path}: {error.message}") from error
                except kubernetes_validate.SchemaNotFoundError as error:
                    raise Failed(f"{build}: {name_of(thing)}: {error.message}") from error
                validated += 1
    return validated


def crds(builds):
    """Validates the custom resources of {name: objects} by their models and types; returns their number and kinds."""
    things = [t for build in builds.values() for t in build if is_custom(t)]
    unique = list({json.dumps(thing, sort_keys=True): thing for thing in things}.values())
    require(unique, "no custom resource")
    done = attempt("node", HERE / "crds.js", input=json.dumps(unique))
    require(done.returncode == 0, (done.stdout + done.stderr).strip())
    return len(unique), sorted({thing["kind"] for thing in unique})


# --- policy ----------------------------------------------------------------------------------------


def checkov(builds):
    """Runs checkov's rules for Kubernetes over {name: objects}; returns the number of passed checks."""
    with tempfile.TemporaryDirectory() as directory:
        for build, things in builds.items():
            path = Path(directory, re.sub(r"\W", "-", build) + ".yaml")
            path.write_text(yaml.safe_dump_all(things))
        command = ["checkov", "--framework", "kubernetes", "--directory", directory, "--skip-download"]
        command += ["--quiet", "--compact", "--output", "json", "--skip-check", ",".join(CHECKOV_SKIPPED)]
        done = attempt(*command, timeout=300)
    try:
        report = json.loads(done.stdout)
    except json.JSONDecodeError as error:
        raise Failed(f"checkov: {done.stdout}{done.stderr}") from error
    found = [
        f"{check['check_id']} {check['check_name']}: {check['resource']} in {Path(check['file_path']).name}"
        for check in report["results"]["failed_checks"]
    ]
    require(not found, "\n  ".join(["checkov:", *found]))
    passed = report["summary"]["passed"]
    require(done.returncode == 0 and passed > 50 * len(builds), f"checkov passed only {passed}: {done.stderr}")
    return passed


def pod_of(workload):
    return workload["spec"]["template"]["spec"]


def containers(pod):
    return pod.get("initContainers", []) + pod["containers"]


def sidecar_of(pod):
    found = [c for c in containers(pod) if c["name"] == "tlsidecar"]
    require(len(found) == 1, f"{len(found)} containers of the name tlsidecar")
    return found[0]


def restricted(pod, container):
    """Requires the Restricted Pod Security Standard and a read-only file system of one container."""
    name = container["name"]
    security = {**pod.get("securityContext", {}), **container.get("securityContext", {})}
    require(security.get("runAsNonRoot") is True, f"{name}: runAsNonRoot")
    require(security.get("runAsUser", 0) > 0, f"{name}: runAsUser")
    require(security.get("allowPrivilegeEscalation") is False, f"{name}: allowPrivilegeEscalation")
    require(security.get("readOnlyRootFilesystem") is True, f"{name}: readOnlyRootFilesystem")
    require(not security.get("privileged"), f"{name}: privileged")
    require(security.get("capabilities") == {"drop": ["ALL"]}, f"{name}: capabilities")
    require(security.get("seccompProfile") == {"type": "RuntimeDefault"}, f"{name}: seccompProfile")
    for port in container.get("ports", []):
        require("hostPort" not in port, f"{name}: hostPort")
    for key in ("hostNetwork", "hostPID", "hostIPC"):
        require(not pod.get(key), key)
    for volume in pod.get("volumes", []):
        require("hostPath" not in volume, f"{volume['name']}: hostPath")


def the_sidecar(workload, native, admin=f"127.0.0.1:{ADMIN_PORT}", metrics=f"0.0.0.0:{METRICS_PORT}"):
    """Requires what a sidecar needs in any workload, with its two addresses; returns its container."""
    pod = pod_of(workload)
    sidecar = sidecar_of(pod)
    require(workload["spec"]["template"]["metadata"]["labels"].get(LABEL) == "true", f"the Pod's label {LABEL}")
    if native:
        require(pod["initContainers"][0] == sidecar, "the sidecar is not the first init container")
        require(sidecar.get("restartPolicy") == "Always", "restartPolicy of the native sidecar")
    else:
        require(sidecar in pod["containers"], "the sidecar is no plain container")
        require("restartPolicy" not in sidecar, "restartPolicy of the classic sidecar")
    restricted(pod, sidecar)
    require(sidecar["securityContext"]["runAsUser"] == 65532, "runAsUser of the sidecar")
    resources = sidecar["resources"]
    require("memory" in resources["limits"] and "cpu" not in resources["limits"], "limits: memory, and no CPU")
    require({"cpu", "memory"} <= set(resources["requests"]), "requests: CPU and memory")
    require(sidecar["command"] == ["/tlsidecar"], "command")
    addresses = ["--admin", admin, "--metrics-listen", metrics]
    require(sidecar["args"][-4:] == addresses, "the admin port on loopback, metrics and probes on the Pod's address")
    drain = ["/tlsidecar", "drain"] + (["--admin", admin] if admin != f"127.0.0.1:{ADMIN_PORT}" else [])
    require(sidecar["lifecycle"] == {"preStop": {"exec": {"command": drain}}}, "preStop")
    for probe, path in (("startupProbe", "/startupz"), ("readinessProbe", "/readyz"), ("livenessProbe", "/livez")):
        require(sidecar[probe]["httpGet"] == {"path": path, "port": METRICS_PORT}, probe)
    for mount in sidecar["volumeMounts"]:
        require("subPath" not in mount and "subPathExpr" not in mount, f"{mount['name']}: a subPath mount is never updated")
        require(mount["readOnly"] is True, f"{mount['name']}: readOnly")
    the_volumes(pod, sidecar)
    return sidecar


def the_volumes(pod, sidecar):
    """Requires that the sidecar's volumes exist, that it can read its key, and that no other container mounts them."""
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    for mount in sidecar["volumeMounts"]:
        require(mount["name"] in volumes, f"no volume {mount['name']}")
        others = [c for c in containers(pod) if c != sidecar]
        for other in others:
            mounted = [m["name"] for m in other.get("volumeMounts", [])]
            require(mount["name"] not in mounted, f"{other['name']} mounts {mount['name']}")
    mode = volumes["tlsidecar-tls"]["secret"]["defaultMode"]
    if "fsGroup" in pod.get("securityContext", {}) and mode == 0o440:
        return
    require(mode == 0o444, f"mode {mode:o} of the key: the user 65532 cannot read it without an fsGroup")


def the_drain(workload, config):
    """Requires that the backend outlives the drain, and the grace period both; returns the three times.

    The backend is the first container that is not the sidecar.
    """
    pod = pod_of(workload)
    shutdown = config["shutdown"]
    require(0 < seconds(shutdown["drain_spread"]) <= seconds(shutdown["drain_timeout"]) - ANSWER_SECONDS,
            f"drain_spread of {shutdown['drain_spread']}: busy devices need {ANSWER_SECONDS} s after it")
    drain = seconds(shutdown["delay"]) + seconds(shutdown["drain_timeout"]) + FORCE_SECONDS
    backend = next(c for c in pod["containers"] if c["name"] != "tlsidecar")
    hook = backend["lifecycle"]["preStop"]
    slept = hook["sleep"]["seconds"] if "sleep" in hook else int(hook["exec"]["command"][1])
    grace = pod["terminationGracePeriodSeconds"]
    require(drain < slept, f"the backend sleeps for {slept} s, the drain takes {drain} s")
    require(slept + 20 <= grace, f"the backend sleeps for {slept} s, the Pod has {grace} s")
    return drain, slept, grace


def seconds(text):
    found = re.fullmatch(r"(\d+)s", text)
    require(found, f"{text}: not in seconds")
    return int(found[1])


def config_of(things, workload):
    """Returns the configuration that the workload's sidecar mounts, as text."""
    volumes = {volume["name"]: volume for volume in pod_of(workload)["volumes"]}
    name = volumes["tlsidecar-config"]["configMap"]["name"]
    return one(things, "ConfigMap", name)["data"]["tlsidecar.toml"]


def numeric_ports(things):
    """Requires ports of the sidecar to be given by number; returns how many were checked."""
    looked_at = 0
    for thing in things:
        if thing["kind"] == "ConfigMap":
            continue
        for key, value in walk(thing):
            if key in ("port", "targetPort", "containerPort", "portNumber"):
                looked_at += 1
                require(isinstance(value, int), f"{name_of(thing)}: {key} {value!r} is no number")
    for service in of_kind(things, "Service"):
        for port in service["spec"]["ports"]:
            require(isinstance(port.get("targetPort"), int), f"{name_of(service)}: targetPort")
    return looked_at


def walk(value):
    if isinstance(value, dict):
        for key, inner in value.items():
            if not isinstance(inner, (dict, list)):
                yield key, inner
            yield from walk(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from walk(inner)


def open_ports(things, workload, config):
    """Requires that the workload's NetworkPolicy opens its listeners to all, the metrics to one namespace, and no
    other port, and that a Service leads to the listeners."""
    labels = workload["spec"]["template"]["metadata"]["labels"]
    listeners = {int(listener["listen"].rpartition(":")[2]) for listener in config["listener"]}
    declared = {port["containerPort"] for port in sidecar_of(pod_of(workload))["ports"]}
    require(declared == listeners | {METRICS_PORT}, f"the container's ports {declared}, the listeners' {listeners}")
    policies = [p for p in of_kind(things, "NetworkPolicy") if selects(p["spec"]["podSelector"], labels)]
    require(len(policies) == 1, f"{len(policies)} policies for {name_of(workload)}")
    spec = policies[0]["spec"]
    require(spec["policyTypes"] == ["Ingress"], "policyTypes")
    to_all = {port["port"] for rule in spec["ingress"] if not rule.get("from") for port in rule["ports"]}
    require(to_all == listeners, f"open to all: {to_all}, the listeners': {listeners}")
    to_some = [rule for rule in spec["ingress"] if rule.get("from")]
    require([[p["port"] for p in rule["ports"]] for rule in to_some] == [[METRICS_PORT]], "the metrics' rule")
    peers = to_some[0]["from"]
    require(len(peers) == 1 and set(peers[0]) == {"namespaceSelector"}, "the peers of the metrics' rule")
    require(peers[0]["namespaceSelector"].get("matchLabels"), "the metrics are open to every namespace")
    targets = set()
    for service in of_kind(things, "Service"):
        if service["spec"]["selector"].items() <= labels.items():
            targets |= {port["targetPort"] for port in service["spec"]["ports"]}
    require(targets == listeners, f"Services lead to {targets}, the listeners are at {listeners}")
    return listeners


def selects(selector, labels):
    return selector["matchLabels"].items() <= labels.items()


# --- tlsidecar check -------------------------------------------------------------------------------


def crate_version():
    return tomllib.loads((ROOT / "Cargo.toml").read_text())["package"]["version"]


def as_toml(text):
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise Failed(f"tlsidecar.toml: {error}") from error


class Mounted:
    """A directory in place of /etc/tlsidecar, with new certificates and links as the kubelet makes them."""

    def __init__(self, text, key_mode=0o440):
        self.text = text
        self.key_mode = key_mode

    def __enter__(self):
        self.directory = tempfile.TemporaryDirectory()
        self.root = Path(self.directory.name, "etc/tlsidecar")
        authority = Authority(self.root / "made", "check CA")
        crt, key = authority.issue("tls", "mqtt.example.com", ["mqtt.example.com"])
        self.mount("tls", {"tls.crt": crt.read_text(), "tls.key": key.read_text()})
        (self.root / "tls/..2026/tls.key").chmod(self.key_mode)
        self.mount("client-ca", {"ca.crt": authority.crt.read_text()})
        self.mount("config", {"tlsidecar.toml": self.here(self.text)})
        return self

    def __exit__(self, *_):
        self.directory.cleanup()

    def here(self, text):
        return text.replace("/etc/tlsidecar/", f"{self.root}/")

    def mount(self, name, files):
        volume = self.root / name
        (volume / "..2026").mkdir(parents=True)
        (volume / "..data").symlink_to("..2026")
        for file, content in files.items():
            (volume / "..2026" / file).write_text(content)
            (volume / file).symlink_to(f"..data/{file}")


def tlsidecar_check(text):
    """Requires that `tlsidecar check --root` accepts a configuration, with the container's paths, without warnings."""
    with Mounted(text) as mounted:
        file = Path(mounted.directory.name, "tlsidecar.toml")
        file.write_text(text)
        done = attempt(program(), "check", "--root", mounted.directory.name, file)
        require(done.returncode == 0, f"tlsidecar check exits with {done.returncode}: {done.stderr}")
        # That warning is about a limit of this machine.
        warnings = [line for line in done.stderr.splitlines() if line.startswith("warning")]
        warnings = [line for line in warnings if "max_connections" not in line]
        require(not warnings, "\n".join(warnings))
