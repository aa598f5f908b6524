"""An emulation of a Pod: runs its two containers, and devices that connect to them. Part of image.sh.

Taken from the rendered manifests: names of images, commands, arguments, environment, volumes with their modes and the
fsGroup, security contexts, probes, preStop hooks, the grace period. An unknown field fails the check.
"""

import json
import os
import pathlib
import re
import shutil
import socket
import subprocess
import threading
import time

import yaml

from . import check
from .check import Failed, eventually, require, run, same, true
from .containers import Podman, own_room
from .net import device, http, in_background
from .pki import Authority

# Printed at the start; no other check covers these either.
NOT_COVERED = """\
the kubelet, in its versions, and a cluster's container runtime: the order of events is the emulation's
endpoints, Services, load balancers and NetworkPolicy: devices connect to the Pod's address
repeated probes: each is sent until it succeeds, and the liveness probe at a few moments
resources: no limits and no requests (no control groups)
a network of the Pod: both containers use the network namespace of the check
cert-manager: the check makes its Secrets
a registry: the sidecar's image is built here, Debian's mosquitto takes the place of the backend's
the times of the manifests: those of the drain are divided by SCALE"""

POD = "10.88.0.7"
# Time that a forced connection may take to send its final alert, at any scale: FORCE_TIMEOUT in src/lifecycle.rs.
FORCE_SECONDS = 2.0
DEVICES = 4
BY_THE_DEVICE = {"ok", "client_truncated", "client_reset"}


def known(what, found, names):
    """Fails where an object has fields that the emulation would ignore."""
    unknown = set(found) - set(names)
    require(not unknown, f"{what} has fields that the emulation does not know: {sorted(unknown)}")


class Volumes:
    """ConfigMaps and Secrets as the kubelet mounts them: files are links through `..data`, which is replaced by a rename."""

    def __init__(self, directory, group):
        self.directory, self.group, self.version = directory, group, 0
        self.mode, self.items = {}, {}

    def write(self, name, files, mode, items=None):
        self.mode[name], self.items[name] = mode, items
        top = self.directory / name
        top.mkdir(parents=True, exist_ok=True)
        top.chmod(0o755)
        if items:
            files = {item["path"]: files[item["key"]] for item in items if item["key"] in files}
        self.version += 1
        new = top / f"..version_{self.version}"
        new.mkdir()
        new.chmod(0o755)
        for file, content in files.items():
            (new / file).write_bytes(content)
            (new / file).chmod(mode)
            os.chown(new / file, 0, self.group)
        old = top / "..data"
        before = os.readlink(old) if old.is_symlink() else None
        (top / "..data_tmp").symlink_to(new.name)
        os.rename(top / "..data_tmp", old)
        for file in files:
            if not (top / file).is_symlink():
                (top / file).symlink_to(f"..data/{file}")
        if before:
            shutil.rmtree(top / before)

    def swap(self, name, files):
        self.write(name, files, self.mode[name], self.items[name])


class Container:
    """One container of the manifest."""

    def __init__(self, podman, image, spec, pod):
        known(f"container {spec['name']}", spec, (
            "name", "image", "imagePullPolicy", "command", "args", "env", "ports", "startupProbe", "readinessProbe",
            "livenessProbe", "lifecycle", "resources", "securityContext", "volumeMounts", "restartPolicy"))
        known("lifecycle", spec.get("lifecycle", {}), ("preStop",))
        self.podman, self.image, self.spec, self.pod, self.name = podman, image, spec, pod, spec["name"]
        self.ended_at = None

    def start(self):
        options = [f"--env={each['name']}={each['value']}" for each in self.spec.get("env", [])]
        options += self._security(self.spec["securityContext"])
        options += [f"--group-add={self.pod.group}"]
        for mount in self.spec.get("volumeMounts", []):
            known("volumeMount", mount, ("name", "mountPath", "readOnly"))
            end = ":ro" if mount.get("readOnly") else ""
            options.append(f"--volume={self.pod.volumes.directory}/{mount['name']}:{mount['mountPath']}{end}")
        arguments = list(self.spec.get("args", []))
        if "command" in self.spec:
            options.append("--entrypoint=" + json.dumps(self.spec["command"]))
        self.podman.start(self.name, self.image, options, arguments)

    @staticmethod
    def _security(context):
        known("securityContext", context, (
            "allowPrivilegeEscalation", "capabilities", "readOnlyRootFilesystem", "runAsGroup", "runAsNonRoot",
            "runAsUser", "seccompProfile"))
        require(context["capabilities"] == {"drop": ["ALL"]} and context["seccompProfile"] == {"type": "RuntimeDefault"},
                f"a security context that the emulation does not know: {context}")
        require(context["runAsNonRoot"] and context["runAsUser"] and not context["allowPrivilegeEscalation"],
                f"a security context that is not restricted: {context}")
        return [
            f"--user={context['runAsUser']}:{context['runAsGroup']}", "--cap-drop=all",
            "--security-opt=no-new-privileges",
            f"--read-only={str(context['readOnlyRootFilesystem']).lower()}", "--read-only-tmpfs=false",
        ]

    def probe(self, kind):
        """Returns whether one attempt of a probe succeeds; true without such a probe, as for the kubelet."""
        probe = self.spec.get(kind)
        if not probe:
            return True
        known(kind, probe, ("exec", "httpGet", "tcpSocket", "periodSeconds", "timeoutSeconds", "failureThreshold",
                            "terminationGracePeriodSeconds"))
        if "exec" in probe:
            return self.podman.attempt("exec", self.name, *probe["exec"]["command"])[0] == 0
        if "httpGet" in probe:
            known(kind, probe["httpGet"], ("path", "port"))
            return 200 <= http(f"http://{POD}:{probe['httpGet']['port']}{probe['httpGet']['path']}")[0] < 400
        return accepts(probe["tcpSocket"]["port"])

    def probe_by_command(self):
        """Replaces each HTTP probe by the health command, for Pods whose admin port the kubelet cannot reach."""
        flags = {"/startupz": "--started", "/readyz": "--ready", "/livez": "--live"}
        for kind in ("startupProbe", "readinessProbe", "livenessProbe"):
            path = self.spec[kind].pop("httpGet")["path"]
            self.spec[kind]["exec"] = {"command": ["/tlsidecar", "probe", flags[path]]}

    def until(self, kind):
        """Waits for a probe to succeed, at most as long as the kubelet would before it kills the container."""
        probe = self.spec.get(kind, {})
        seconds = probe.get("periodSeconds", 10) * probe.get("failureThreshold", 3)
        eventually(f"{self.name}'s {kind}", lambda: self.probe(kind) or self._dead(), min(seconds, 20), 0.1)

    def _dead(self):
        require(self.running(), f"{self.name} has ended by itself:\n" + "\n".join(self.podman.log(self.name)))
        return False

    def running(self):
        return self.podman.pid(self.name) != 0

    def terminate(self, on_pre_stop_done):
        """Ends the container as the kubelet does: preStop, then SIGTERM, then a wait."""
        self.pre_stop()
        on_pre_stop_done()
        self.podman("kill", "--signal=TERM", self.name)
        self.code = self.podman.exit_code(self.name, 40)
        self.ended_at = time.monotonic()

    def pre_stop(self):
        hook = self.spec.get("lifecycle", {}).get("preStop", {})
        known("preStop", hook, ("exec", "sleep"))
        if "sleep" in hook:
            time.sleep(self.pod.window(hook["sleep"]["seconds"]))
        elif "exec" in hook:
            command = list(hook["exec"]["command"])
            if command[0] == "sleep":
                command[1] = str(self.pod.window(float(command[1])))
            self.podman("exec", self.name, *command)


class Pod:
    """The Pod of one rendered overlay."""

    def __init__(self, work, rendered, scale, by_command):
        self.work, self.scale, self.by_command = work, scale, by_command
        self.podman = Podman(work.parent, work)
        self.objects = [each for each in yaml.safe_load_all(rendered.read_text()) if each]
        spec = self.one("Deployment")["spec"]["template"]["spec"]
        known("the Pod", spec, ("automountServiceAccountToken", "containers", "initContainers", "securityContext",
                                "terminationGracePeriodSeconds", "volumes"))
        known("the Pod's securityContext", spec["securityContext"], ("fsGroup", "fsGroupChangePolicy"))
        self.group = spec["securityContext"]["fsGroup"]
        self.grace = spec["terminationGracePeriodSeconds"]
        self.volumes = Volumes(work / "volumes", self.group)
        self.native = bool(spec.get("initContainers"))
        every = spec.get("initContainers", []) + spec["containers"]
        require(sorted(each["name"] for each in every) == ["mosquitto", "tlsidecar"],
                "the Pod has other containers than the sidecar and mosquitto")
        self.sidecar, self.backend = (
            Container(self.podman, image, next(each for each in every if each["name"] == name), self)
            for name, image in (("tlsidecar", "localhost/sidecar"), ("mosquitto", "localhost/backend"))
        )
        require(not self.native or self.sidecar.spec.get("restartPolicy") == "Always", "an init container that is no sidecar")
        if by_command:
            self.sidecar.probe_by_command()
        self._certificates()
        for volume in spec["volumes"]:
            self._volume(volume)

    def check_times(self):
        """Checks the times of the manifests. The scaled ones could pass by chance: a final alert is mostly sent at once."""
        hook = self.backend.spec["lifecycle"]["preStop"]
        seconds = hook["sleep"]["seconds"] if "sleep" in hook else float(hook["exec"]["command"][1])
        drain = (self.delay + self.drain_timeout) * self.scale + FORCE_SECONDS
        true(f"the backend's preStop of {seconds} s is longer than the drain, {drain:.0f} s at the most", seconds > drain)
        true(f"and the grace period of {self.grace} s is longer than that", self.grace >= seconds + 10)

    def one(self, kind, name=None):
        found = [each for each in self.objects if each["kind"] == kind and name in (None, each["metadata"]["name"])]
        require(len(found) == 1, f"{len(found)} objects of kind {kind}, name {name}")
        return found[0]

    def window(self, seconds):
        """Returns the backend's sleep, scaled like the drain that it has to outlast, but for FORCE_SECONDS."""
        return (seconds - FORCE_SECONDS) / self.scale + FORCE_SECONDS

    def _certificates(self):
        self.server_ca = Authority(self.work / "server-ca", "example server CA")
        self.device_ca = Authority(self.work / "device-ca", "example device CA")
        self.name = self.one("Certificate", "tlsidecar")["spec"]["dnsNames"][0]
        self.device = self.device_ca.issue("device", "device-0001", usage="client")
        ca = self.device_ca.crt.read_bytes()
        self.secrets = {
            "tlsidecar-tls": self.new_certificate("first"),
            # cert-manager's Secret has the CA's key, which must not be mounted.
            "tlsidecar-client-ca": {"ca.crt": ca, "tls.crt": ca, "tls.key": self.device_ca.key.read_bytes()},
        }

    def new_certificate(self, version):
        crt, key = self.server_ca.issue(version, self.name, [self.name])
        return {"tls.crt": crt.read_bytes(), "tls.key": key.read_bytes(), "ca.crt": self.server_ca.crt.read_bytes()}

    def _volume(self, volume):
        if "configMap" in volume:
            known("configMap", volume["configMap"], ("name", "defaultMode"))
            data = self.one("ConfigMap", volume["configMap"]["name"])["data"]
            files = {file: self._scaled(text).encode() for file, text in data.items()}
            self.volumes.write(volume["name"], files, volume["configMap"].get("defaultMode", 0o644))
        else:
            secret = volume["secret"]
            known("secret", secret, ("secretName", "defaultMode", "items", "optional"))
            self.volumes.write(volume["name"], self.secrets[secret["secretName"]], secret["defaultMode"], secret.get("items"))

    def _scaled(self, text):
        for key in ("delay", "drain_spread", "drain_timeout"):
            seconds = re.search(rf'^{key} = "(\d+)s"$', text, re.MULTILINE)
            if seconds:
                setattr(self, key, int(seconds[1]) / self.scale)
                text = text.replace(seconds[0], f'{key} = "{int(int(seconds[1]) * 1000 / self.scale)}ms"')
        return text

    def access(self):
        """Returns the sidecar's access log, one entry per closed connection."""
        lines = [json.loads(line) for line in self.podman.log("tlsidecar") if line.startswith("{")]
        return [line for line in lines if line.get("target") == "access"]


def accepts(port):
    try:
        socket.create_connection((POD, port), timeout=1).close()
        return True
    except OSError:
        return False


class Publisher:
    """A device: mosquitto_pub over TLS, one line per message, QoS 1, until `end`."""

    def __init__(self, pod, name):
        self.name, self.lines, self.acknowledged, self.connects = name, 0, set(), 0
        self.process = subprocess.Popen(
            ["stdbuf", "-oL", "mosquitto_pub", "-d", "-l", "-q", "1", "-h", pod.name, "-p", "8883", "-i", name,
             "-t", f"plant/{name}", "--cafile", pod.server_ca.crt, "--cert", pod.device[0], "--key", pod.device[1]],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )
        self.ending = threading.Event()
        in_background(self._write)
        self.reader = in_background(self._read)

    def _write(self):
        try:
            while not self.ending.wait(0.02):
                self.lines += 1
                self.process.stdin.write(f"{self.name} {self.lines}\n")
                self.process.stdin.flush()
            self.process.stdin.close()
        except OSError:
            pass

    def _read(self):
        for line in self.process.stdout:
            if "sending CONNECT" in line:
                self.connects += 1
            # Message identifiers count from 1, as the lines do.
            if found := re.search(r"received PUBACK \(Mid: (\d+)", line):
                self.acknowledged.add(int(found[1]))

    def end(self):
        self.ending.set()
        self.process.wait(10)
        self.reader.join(5)

    def kill(self):
        self.ending.set()
        self.process.kill()
        self.process.wait()
        self.reader.join(5)


class Application:
    """A subscriber of the broker in plain text: its lines are the messages that have arrived."""

    def __init__(self, work):
        self.path = work / f"arrived-{time.monotonic_ns()}"
        self.process = subprocess.Popen(
            ["stdbuf", "-oL", "mosquitto_sub", "-h", "127.0.0.1", "-i", "application", "-q", "1", "-t", "plant/#"],
            stdout=self.path.open("w"), stderr=subprocess.DEVNULL)

    def arrived(self):
        return set(self.path.read_text().splitlines())

    def end(self):
        self.process.kill()
        self.process.wait()


def idle_device(pod):
    """Connects a device by MQTT that then stays silent."""
    stream = device((POD, 8883), pod.server_ca.crt, pod.name, pod.device)
    stream.sendall(b"\x10\x10\x00\x04MQTT\x04\x02\x00\x00\x00\x04idle")
    require(stream.recv(4) == b"\x20\x02\x00\x00", "the broker rejects an idle device")
    stream.settimeout(20)
    return stream


def lost(publishers, application):
    acknowledged = {f"{each.name} {number}" for each in publishers for number in each.acknowledged}
    missing = acknowledged - application.arrived()
    return acknowledged, missing


def start(pod):
    """Starts the containers in the order of KEP-753: the others wait for the startup probe of a native sidecar."""
    pod.sidecar.start()
    if pod.native:
        pod.sidecar.until("startupProbe")
        same("the sidecar has started without its backend, and is ready",
                    (http(f"http://{POD}:9902/readyz")[0], accepts(1883)), (200, False))
        with device((POD, 8883), pod.server_ca.crt, pod.name, pod.device) as stream:
            try:
                stream.recv(1)
            except OSError:
                pass
        eventually("the log has backend_refused for a device that is too early",
                   lambda: [each["reason"] for each in pod.access()] == ["backend_refused"])
        true("a device that connects before the backend has started is backend_refused", True)
    pod.backend.start()
    for container in (pod.sidecar, pod.backend):
        for kind in ("startupProbe", "readinessProbe", "livenessProbe"):
            container.until(kind)
    order = "the sidecar's before the backend's start" if pod.native else "in any order"
    true(f"both containers have passed their probes: {order}" + (", by the health command" if pod.by_command else ""), True)


def rotate(pod, publishers):
    """Replaces the Secret as the kubelet does, while devices publish."""
    def serial():
        with device((POD, 8883), pod.server_ca.crt, pod.name, pod.device) as stream:
            return stream.getpeercert()["serialNumber"]

    before, lines = serial(), [each.lines for each in publishers]
    pod.volumes.swap("tlsidecar-tls", pod.new_certificate("second"))
    started = time.monotonic()
    eventually("the new certificate is served", lambda: serial() != before, 20, 0.1)
    true(f"the Secret was replaced: its certificate was served {time.monotonic() - started:.1f} s later", True)
    eventually("devices continue to publish", lambda: all(
        len(each.acknowledged) > line + 20 for each, line in zip(publishers, lines)))
    same("no device was disconnected by it", [each.connects for each in publishers], [1] * DEVICES)


def delete(pod, publishers, leave):
    """Deletes the Pod as the kubelet does: ends both containers, and checks the drain; returns before they have ended."""
    began = time.monotonic()
    backend_ended = threading.Event()
    after = lambda: backend_ended.wait(60) if pod.native else None  # noqa: E731

    def backend():
        pod.backend.terminate(lambda: None)
        backend_ended.set()

    failures = []

    def guarded(function, *arguments):
        try:
            function(*arguments)
        except Failed as failure:
            failures.append(failure)

    threads = [in_background(guarded, backend), in_background(guarded, pod.sidecar.terminate, after)]
    eventually("the sidecar is not ready", lambda: http(f"http://{POD}:9902/readyz")[0] == 503, pod.delay)
    during = time.monotonic() - began
    with device((POD, 8883), pod.server_ca.crt, pod.name, pod.device):
        accepted = time.monotonic() - began
    true(f"not ready after {during:.2f} s, and a device is still accepted at {accepted:.2f} s", accepted < pod.delay,
                f"the delay is {pod.delay} s: the machine is too slow for this SCALE")
    eventually("the listener is closed", lambda: not accepts(8883), pod.delay + 1)
    closed = time.monotonic() - began
    true(f"the listener is closed after {closed:.2f} s, not before the delay of {pod.delay} s",
                closed >= pod.delay - 0.1)
    true("open connections continue", all(each.process.poll() is None and each.connects == 1 for each in publishers))
    same("its probes report alive, started and not ready",
                [pod.sidecar.probe(kind) for kind in ("livenessProbe", "startupProbe", "readinessProbe")], [True, True, False])
    lines = [len(each.acknowledged) for each in publishers]
    eventually("devices publish while they are drained", lambda: all(
        len(each.acknowledged) > line for each, line in zip(publishers, lines)), pod.drain_timeout / 2)
    true("devices publish while they are drained", True)
    if leave:
        for each in publishers:
            each.end()
        leave.close()
    return began, threads, failures


def finish(pod, began, threads, failures, idle):
    if idle:
        try:
            rest = idle.recv(1)
        except OSError as error:
            raise Failed(f"the idle device was disconnected without a close_notify: {error}") from error
        ended = time.monotonic() - began
        true(f"the idle device was closed after {ended:.2f} s, with a close_notify", rest == b"", rest)
        true("not before the listener was closed", ended >= pod.delay - 0.1, f"{ended:.2f} s, {pod.delay} s")
    if pod.native:
        eventually("the backend ends", lambda: pod.backend.ended_at, 40)
        true("the sidecar has outlived its backend: it does not end in its preStop",
                    pod.sidecar.ended_at is None or pod.sidecar.ended_at > pod.backend.ended_at)
    for thread in threads:
        thread.join(60)
    if failures:
        raise failures[0]
    true("both have ended within the grace period", time.monotonic() - began < pod.grace)
    order = pod.sidecar.ended_at - pod.backend.ended_at
    if pod.native:
        true(f"the sidecar ended {order:.2f} s after its backend", order > 0)
    else:
        true(f"the sidecar, which got SIGTERM at once, ended {-order:.2f} s before its backend", order < 0)


def scenario(work, overlay, scale, leaves, by_command):
    """Runs a Pod from start to deletion. Its devices disconnect when it drains, or stay until they are disconnected."""
    pod = Pod(work, work.parent / f"{overlay}.yaml", scale, by_command)
    kind = "native sidecar" if pod.native else "classic sidecar"
    probes = "by command" if by_command else "by HTTP, as in the manifest"
    print(f"-- {kind}; when drained, devices {'disconnect' if leaves else 'stay'}; probes {probes}", flush=True)
    (work / "hosts").write_text(f"127.0.0.1 localhost\n{POD} {pod.name}\n")
    run("mount", "--bind", work / "hosts", "/etc/hosts")
    pod.check_times()
    start(pod)
    seen = sorted(each.name for each in (pod.volumes.directory / "tlsidecar-client-ca").iterdir() if not each.name.startswith(".."))
    same("the CA's key is not mounted", seen, ["ca.crt"])
    application = Application(work)
    publishers = [Publisher(pod, f"device-{number}") for number in range(DEVICES)]
    eventually("devices publish", lambda: all(len(each.acknowledged) > 10 for each in publishers))
    idle = idle_device(pod)
    if not leaves or pod.native:
        rotate(pod, publishers)
    began, threads, failures = delete(pod, publishers, idle if leaves else None)
    finish(pod, began, threads, failures, None if leaves else idle)
    for each in publishers:
        each.kill()
    acknowledged, missing = lost(publishers, application)
    true(f"{len(acknowledged)} messages were acknowledged, and all have arrived", acknowledged and not missing,
                f"{len(missing)} lost, such as {sorted(missing)[:3]}")
    if leaves:
        unsaid = [each.name for each in publishers if len(each.acknowledged) != each.lines]
        same("every message of the devices that disconnected was acknowledged", unsaid, [])
    reasons = {each["reason"] for each in pod.access()} - {"backend_refused"}
    if leaves:
        # The short connections of the check end without a close_notify, or with a ticket unread. The idle device may
        # get its turn before it leaves.
        true("every connection was ended by its device", "ok" in reasons and reasons <= BY_THE_DEVICE | {"drain"}, reasons)
        same("the sidecar's exit code after a complete drain", pod.sidecar.code, 0)
    else:
        true("every connection was ended by its device or by the drain",
                    "drain_deadline" in reasons and reasons <= BY_THE_DEVICE | {"drain", "drain_deadline"}, reasons)
        same("the sidecar's exit code after a forced drain", pod.sidecar.code, 1)
    same("the backend's exit code", pod.backend.code, 0)
    application.end()
    pod.podman("rm", "--all", "--force")
    run("umount", "/etc/hosts")


def main(directory, scale):
    work, scale = pathlib.Path(directory), float(scale)
    own_room([POD])
    print("An emulation of a Pod. It does not cover:\n" + "\n".join(f"  - {line}" for line in NOT_COVERED.splitlines()), flush=True)
    started = time.monotonic()
    scenarios = (("example", True, False), ("example", False, True), ("example-classic", False, False))
    for number, (overlay, leaves, by_command) in enumerate(scenarios):
        room = work / f"pod-{number}"
        room.mkdir()
        scenario(room, overlay, scale, leaves, by_command)
    print(f"pod: {check.passed} checks in {time.monotonic() - started:.0f} s, in an emulation")
