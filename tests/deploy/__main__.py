"""Runs one check of deploy/, or writes what is generated there:

    python3 tests/deploy addresses|kubernetes|helm|rules|dashboards
    python3 tests/deploy prometheus [--seconds N] [--draw FILE]
    python3 tests/deploy generate

`archive`, `image`, `pod` and `package` are the parts of release.sh, image.sh and package.sh that run in namespaces.
Packages from PyPI and npm come from target/checks, where tests/deploy/tools.sh installs them.
"""

import importlib
import os
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
TOOLS = HERE.parents[1] / "target/checks"
NAMES = ("addresses", "kubernetes", "helm", "rules", "dashboards", "prometheus", "generate", "archive", "image",
         "pod", "package")


def main():
    name, *arguments = sys.argv[1:] or [""]
    if name not in NAMES:
        sys.exit(__doc__)
    with_tools()
    # The directory above, so that the checks are modules of one package.
    sys.path[0] = str(HERE.parent)
    from deploy.check import Failed  # pylint: disable=import-outside-toplevel
    check = importlib.import_module(f"deploy.{name}")
    try:
        sys.exit(check.main(*arguments))
    except Failed as failed:
        sys.exit(f"{name}: FAILED: {failed}")


def with_tools():
    """Starts again by the Python of target/checks, with the other tools there in the PATH."""
    python = TOOLS / "venv/bin/python"
    if not python.exists() or "TLSIDECAR_CHECK_TOOLS" in os.environ:
        return
    os.environ["TLSIDECAR_CHECK_TOOLS"] = str(TOOLS)
    os.environ["PATH"] = f"{TOOLS}/venv/bin:{TOOLS}:{os.environ['PATH']}"
    os.environ["NODE_PATH"] = f"{TOOLS}/npm/node_modules"
    os.execv(python, [str(python), "-B", str(HERE), *sys.argv[1:]])


main()
