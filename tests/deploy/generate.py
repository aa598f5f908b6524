"""Writes the generated files of deploy/: Grafana's dashboard, and the rules for the Prometheus operator."""

from . import board, prometheusrule


def main():
    for generator in (board, prometheusrule):
        generator.WRITTEN.write_text(generator.text())
        print(generator.WRITTEN)
