#!/usr/bin/env python3
"""Packs the charts of deploy/helm, without the example: `charts.py OUT`. A chart contains those that it depends on. Needs helm-python-sdk of PyPI, which
tests/deploy/tools.sh installs into target/checks."""

import shutil
import sys
import tempfile
from pathlib import Path

import helm_python as helm

CHARTS = Path(__file__).resolve().parents[1] / "helm"


def main(out):
    with tempfile.TemporaryDirectory() as work:
        copy = Path(shutil.copytree(CHARTS, Path(work, "helm"), symlinks=True))
        charts = [path.parent for path in sorted(copy.glob("*/Chart.yaml")) if path.parent.name != "example"]
        for chart in charts:
            if "dependencies:" in (chart / "Chart.yaml").read_text():
                helm.dependency_update(str(chart))
        packed = [helm.package(str(chart), destination=out) for chart in charts]
    if not packed:
        sys.exit(f"no chart in {CHARTS}")
    print("\n".join(packed))


main(*sys.argv[1:])
