"""Writes the generated files of deploy/: Grafana's dashboards, and the rules for the Prometheus operator; and the addresses of
Cargo.toml in the files that repeat them, first."""

from . import addresses, board, device_board, prometheusrule
from .check import report


def main():
    for path, text in addresses.written().items():
        if text != path.read_text():
            path.write_text(text)
            print(path)
    for generator in (board, device_board, prometheusrule):
        generator.WRITTEN.write_text(generator.text())
        print(generator.WRITTEN)
    return report("generate", "written")
