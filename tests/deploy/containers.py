"""What the checks that start containers share. A module, not a check.

Meant to run within `unshare --net --mount --pid --fork --kill-child --mount-proc`: the containers have the network of
whoever runs this (bridges would leave rules behind in the machine's), and whatever happens, no process, mount or
address outlives it.
"""

import os
import pathlib
import socket
import ssl
import subprocess
import sys
import threading
import time


def fail(message):
    raise SystemExit(f"FAILED: {message}")


class Checks:
    """Counts what was checked, and says it."""

    def __init__(self):
        self.count = 0

    def ok(self, what):
        self.count += 1
        print(f"ok: {what}", flush=True)

    def true(self, what, truth, otherwise=""):
        if not truth:
            fail(f"{what}: {otherwise}" if otherwise else what)
        self.ok(what)

    def same(self, what, found, expected):
        self.true(what, found == expected, f"found {found!r}, expected {expected!r}")


def eventually(what, condition, seconds=10.0, pause=0.02):
    """Waits until the condition returns something true, and returns that."""
    deadline = time.monotonic() + seconds
    while True:
        result = condition()
        if result:
            return result
        if time.monotonic() > deadline:
            fail(f"not within {seconds} s: {what}")
        time.sleep(pause)


def run(*command, **options):
    """Runs a command that has to succeed, and returns its output."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, **options)
    if done.returncode != 0:
        fail(f"{' '.join(map(str, command))}: {done.returncode}\n{done.stdout}{done.stderr}")
    return done.stdout


def own_room(addresses=()):
    """Loopback up, and places of our own for what podman and crun keep outside of their storage."""
    if pathlib.Path("/proc/1/cmdline").read_bytes().find(b"python") < 0:
        fail("run me within namespaces of my own: see the script that calls me")
    for place in ("/run", "/dev/shm"):
        run("mount", "-t", "tmpfs", "tmpfs", place)
    # Where the machine has both versions of control groups, crun refuses. We use none: show it the second alone.
    run("mount", "-t", "tmpfs", "tmpfs", "/sys/fs/cgroup")
    run("mount", "-t", "cgroup2", "cgroup2", "/sys/fs/cgroup")
    # crun gives what a container has as its input to the container's user: that must not be the machine's own.
    run("mknod", "-m", "666", "/run/null", "c", "1", "3")
    run("mount", "--bind", "/run/null", "/dev/null")
    run("ip", "link", "set", "lo", "up")
    for address in addresses:
        run("ip", "address", "add", f"{address}/32", "dev", "lo")


class Podman:
    """podman with storage below `work`, shared with the buildah that made the images there."""

    def __init__(self, work, logs=None):
        self.work = pathlib.Path(work)
        self.logs = pathlib.Path(logs or work)
        conf = self.work / "containers.conf"
        # No systemd, no journal. Limits that whoever runs this may set, whatever its own hard ones are.
        conf.write_text(
            '[containers]\ndefault_ulimits = ["nofile=4096:4096", "nproc=4096:4096"]\n'
            '[engine]\ncgroup_manager = "cgroupfs"\nevents_logger = "file"\nlock_type = "file"\nruntime = "crun"\n'
            f'tmp_dir = "{self.work}/libpod"\nnum_locks = 64\n'
        )
        os.environ["CONTAINERS_CONF"] = str(conf)

    def __call__(self, *arguments):
        return run(
            "podman", "--storage-driver", "vfs", "--root", str(self.work / "storage"), "--runroot", str(self.work / "run"),
            *arguments,
        )

    def attempt(self, *arguments):
        """The same for a command that may fail: its exit code and its output."""
        done = subprocess.run(
            ["podman", "--storage-driver", "vfs", "--root", str(self.work / "storage"), "--runroot", str(self.work / "run"),
             *arguments],
            capture_output=True, text=True, timeout=30,
        )
        return done.returncode, done.stdout.strip()

    def start(self, name, image, options=(), arguments=()):
        """Starts a container without control groups, in the network and with the log that it is looked at by."""
        self(
            "run", "--detach", "--name", name, "--pull=never", "--network=host", "--cgroups=disabled",
            "--log-driver=k8s-file", f"--log-opt=path={self.log_path(name)}", *options, image, *arguments,
        )

    def log_path(self, name):
        return self.logs / f"{name}.log"

    def log(self, name):
        """The lines that the container has written."""
        try:
            lines = self.log_path(name).read_text().splitlines()
        except FileNotFoundError:
            return []
        return [line.split(" ", 3)[3] for line in lines if line.count(" ") >= 3]

    def pid(self, name):
        """The container's process as we number it, 0 once it has ended."""
        return int(self("inspect", "--format", "{{.State.Pid}}", name))

    def exit_code(self, name, seconds):
        """Waits for the end of the container."""
        try:
            done = subprocess.run(
                ["podman", "--storage-driver", "vfs", "--root", str(self.work / "storage"),
                 "--runroot", str(self.work / "run"), "wait", "--interval=20ms", name],
                capture_output=True, text=True, timeout=seconds,
            )
        except subprocess.TimeoutExpired:
            fail(f"{name} has not ended within {seconds} s")
        return int(done.stdout)


class Authority:
    """A certificate authority by openssl, for the time of a check."""

    def __init__(self, directory, name):
        self.directory = pathlib.Path(directory)
        self.directory.mkdir(parents=True)
        self.crt, self.key = self.directory / "ca.crt", self.directory / "ca.key"
        self._new_key(self.key)
        run("openssl", "req", "-x509", "-new", "-key", self.key, "-subj", f"/CN={name}", "-days", "2", "-out", self.crt,
            "-addext", "keyUsage=critical,keyCertSign,cRLSign")

    def issue(self, name, common_name, names=(), usage="serverAuth"):
        """Writes name.crt and name.key, and returns their paths."""
        crt, key, csr, ext = (self.directory / f"{name}.{end}" for end in ("crt", "key", "csr", "ext"))
        self._new_key(key)
        run("openssl", "req", "-new", "-key", key, "-subj", f"/CN={common_name}", "-out", csr)
        lines = ["basicConstraints=CA:FALSE", "keyUsage=digitalSignature", f"extendedKeyUsage={usage}"]
        if names:
            lines.append("subjectAltName=" + ",".join(f"DNS:{each}" for each in names))
        ext.write_text("\n".join(lines) + "\n")
        run("openssl", "x509", "-req", "-in", csr, "-CA", self.crt, "-CAkey", self.key, "-CAcreateserial", "-days", "1",
            "-extfile", ext, "-out", crt)
        return crt, key

    @staticmethod
    def _new_key(path):
        run("openssl", "ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", path)


def device(address, ca, name, certificate=None, timeout=10.0):
    """Connects as a device would; the certificate is checked against `name`."""
    context = ssl.create_default_context(cafile=ca)
    if certificate:
        context.load_cert_chain(*certificate)
    stream = context.wrap_socket(
        socket.create_connection(address, timeout=timeout), server_hostname=name, suppress_ragged_eofs=False,
    )
    return stream


def in_background(function, *arguments):
    thread = threading.Thread(target=function, args=arguments, daemon=True)
    thread.start()
    return thread


def http(url, method="GET"):
    """Status and body, by curl, as kubelet would ask; 0 where nobody answers."""
    done = subprocess.run(
        ["curl", "-s", "-X", method, "--max-time", "2", "-w", "\n%{http_code}", url], capture_output=True, text=True, timeout=10,
    )
    body, _, status = done.stdout.rpartition("\n")
    return int(status or 0), body


if __name__ == "__main__":
    sys.exit("a module of the checks beside it")
