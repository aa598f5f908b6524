"""Checks of the artefacts in deploy/, without a cluster, Grafana or Docker. `python3 tests/deploy` lists them."""
