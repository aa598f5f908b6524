"""Loads the archive of an image with podman and starts the image. Part of release.sh."""

from .check import same
from .containers import Podman, own_room


def main(work, file, version):
    """Checks the archive `file`, with podman's files in the directory `work`."""
    own_room()
    podman = Podman(work)
    loaded = podman("load", "--quiet", "--input", file).split(": ")[-1].strip()
    same("image: loaded", loaded.rsplit("/", 1)[-1], f"tlsidecar:{version}")
    started = podman("run", "--rm", "--pull=never", "--network=host", "--cgroups=disabled", loaded, "--version")
    same("image: starts", started.strip(), f"tlsidecar {version}")
