"""Loads the archive of an image with podman and starts the image, as root and as an ordinary user. Part of release.sh."""

import pathlib
import shutil

from .check import run, same
from .containers import Podman, own_room

# An account of every Debian without processes of its own.
USER = "games"


def main(work, file, version):
    """Checks the archive `file`, with podman's files in the directory `work`."""
    own_room()
    check("as root", Podman(work), file, version)
    check("as an ordinary user", rootless(), file, version)


def check(who, podman, file, version):
    """Loads and starts the image."""
    loaded = podman("load", "--quiet", "--input", file).split(": ")[-1].strip()
    same(f"image, {who}: loaded", loaded.rsplit("/", 1)[-1], f"tlsidecar:{version}")
    started = podman(
        "run", "--rm", "--pull=never", "--network=host", "--cgroups=disabled", "--ulimit=nofile=4096:4096",
        "--ulimit=nproc=4096:4096", loaded, "--version",
    )
    same(f"image, {who}: starts", started.strip(), f"tlsidecar {version}")


def rootless():
    """Returns podman of an ordinary user, with a home in this namespace's /run."""
    home = pathlib.Path("/run/home")
    (home / "run").mkdir(parents=True)
    for table in ("subuid", "subgid"):
        ids = pathlib.Path("/run") / table
        ids.write_text(f"{USER}:100000:65536\n")
        run("mount", "--bind", ids, f"/etc/{table}")
    run("chown", "-R", f"{USER}:", home)

    def podman(*arguments):
        arguments = [readable(home, argument) for argument in arguments]
        return run(
            "setpriv", f"--reuid={USER}", f"--regid={USER}", "--clear-groups", "env", "-i", f"--chdir={home}",
            "PATH=/usr/sbin:/usr/bin:/sbin:/bin", f"HOME={home}", f"XDG_RUNTIME_DIR={home}/run",
            "podman", "--storage-driver=vfs", "--cgroup-manager=cgroupfs", "--events-backend=file", *arguments,
        )

    return podman


def readable(home, argument):
    """Returns the argument, or a copy of the file that it names in the user's home."""
    if not pathlib.Path(argument).is_file():
        return argument
    shutil.copy(argument, home)
    return home / pathlib.Path(argument).name
