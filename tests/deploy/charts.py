"""Charts of deploy/helm, put together, rendered and linted by Helm's library.

Needs helm-python-sdk of PyPI.
"""

import contextlib
import os
import shutil
import tempfile
from pathlib import Path

import helm_python as helm

from .check import DEPLOY
from .manifests import parse

RELEASE = "plant"


class Charts:
    """A copy of deploy/helm in which each chart has its dependencies, as `helm install --dependency-update` makes it."""

    def __init__(self):
        self.directory = tempfile.TemporaryDirectory()
        self.root = Path(self.directory.name, "helm")
        shutil.copytree(DEPLOY / "helm", self.root, symlinks=True)
        for chart in self.root.iterdir():
            if "dependencies:" in (chart / "Chart.yaml").read_text():
                helm.dependency_update(str(chart))
        self.loaded = {}

    def render(self, name, values):
        """Returns the objects that a chart renders, and its notes."""
        if name not in self.loaded:
            self.loaded[name] = helm.Chart.load(str(self.root / name)).__enter__()
        with standard_error():
            manifests = self.loaded[name].render(values=values, name=RELEASE, namespace="west")
        notes = next(text for path, text in manifests.items() if path.endswith("NOTES.txt"))
        texts = [text for path, text in sorted(manifests.items()) if not path.endswith(".txt")]
        return [thing for text in texts for thing in parse(text)], notes

    def refusal(self, name, values):
        """Returns the error with which Helm refuses values, or None."""
        try:
            self.render(name, values)
        except (helm.HelmValuesError, helm.HelmRenderError) as error:
            return str(error)
        return None

    def lint(self, name, values, version="v1.37.0"):
        """Returns Helm's report on a chart; `failed` has the templates' own errors, which an installation ends with."""
        with standard_error() as lines:
            report = helm.lint(str(self.root / name), values, strict=True, with_subcharts=True, kube_version=version)
        report["failed"] = [line for line in lines if "funcMap fail" in line]
        return report


@contextlib.contextmanager
def standard_error():
    """Collects the lines that the Go library writes to standard error."""
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
