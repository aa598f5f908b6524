"""Containers by podman, in namespaces of the caller.

Meant to run within `unshare --net --mount --pid --fork --kill-child --mount-proc`: the containers use the caller's
network (a bridge would leave rules behind on the machine), and no process, mount or address outlives the check.
"""

import os
import pathlib

from .check import attempt, require, run


def own_room(addresses=()):
    """Prepares the namespaces: loopback with addresses, and private directories for the files of podman and crun."""
    require(b"python" in pathlib.Path("/proc/1/cmdline").read_bytes(), "to be run in new namespaces, as image.sh does")
    for place in ("/run", "/dev/shm"):
        run("mount", "-t", "tmpfs", "tmpfs", place)
    # crun refuses to run where both versions of control groups are mounted. The checks use none: show it version 2.
    run("mount", "-t", "tmpfs", "tmpfs", "/sys/fs/cgroup")
    run("mount", "-t", "cgroup2", "cgroup2", "/sys/fs/cgroup")
    # crun changes the owner of a container's standard input, which must not be the machine's /dev/null.
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
        # No systemd, no journal. The limits are low enough to be below the caller's hard limits.
        conf.write_text(
            '[containers]\ndefault_ulimits = ["nofile=4096:4096", "nproc=4096:4096"]\n'
            '[engine]\ncgroup_manager = "cgroupfs"\nevents_logger = "file"\nlock_type = "file"\nruntime = "crun"\n'
            f'tmp_dir = "{self.work}/libpod"\nnum_locks = 64\n'
        )
        os.environ["CONTAINERS_CONF"] = str(conf)
        self.command = ("podman", "--storage-driver", "vfs", "--root", self.work / "storage", "--runroot", self.work / "run")

    def __call__(self, *arguments):
        """Runs a podman command that has to succeed, and returns its output."""
        return run(*self.command, *arguments)

    def attempt(self, *arguments):
        """Runs a podman command that may fail; returns its exit code and output."""
        done = attempt(*self.command, *arguments, timeout=30)
        return done.returncode, done.stdout.strip()

    def start(self, name, image, options=(), arguments=()):
        """Starts a container without control groups, in the caller's network, with its log in a file."""
        self(
            "run", "--detach", "--name", name, "--pull=never", "--network=host", "--cgroups=disabled",
            "--log-driver=k8s-file", f"--log-opt=path={self.log_path(name)}", *options, image, *arguments,
        )

    def log_path(self, name):
        return self.logs / f"{name}.log"

    def log(self, name):
        """Returns the lines that the container has written."""
        try:
            lines = self.log_path(name).read_text().splitlines()
        except FileNotFoundError:
            return []
        return [line.split(" ", 3)[3] for line in lines if line.count(" ") >= 3]

    def pid(self, name):
        """Returns the container's process ID in this namespace, 0 once it has ended."""
        return int(self("inspect", "--format", "{{.State.Pid}}", name))

    def exit_code(self, name, seconds):
        """Waits for the end of the container, and returns its exit code."""
        return int(run(*self.command, "wait", "--interval=20ms", name, timeout=seconds))
