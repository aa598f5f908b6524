#!/usr/bin/env python3
"""Runs tlsfuzzer's server scripts against tlsidecar, and against HAProxy and nginx where they are installed.

    tests/tlsfuzzer/run.py CHECKOUT [--servers tlsidecar,haproxy,nginx] [--only WORD] [--jobs N] [--json FILE]

CHECKOUT is a clone of https://github.com/tlsfuzzer/tlsfuzzer, fetched by hand: its licence is the GPL, and no part of it is
kept here. What its requirements.txt names is installed into target/tlsfuzzer. Needs Python 3.9, openssl and a built
tlsidecar (target/release/tlsidecar, or --binary).

Prints each failed conversation with what the script expected, then the figure: how many conversations pass, of those
that at least one server passes. A conversation that no server passes tests something that none of them offers, such
as static RSA key exchange.

Promises. Every server has the same certificates, backend and conversations: Python's random numbers start at one
seed, so that the scripts which pick a sample pick the same. What is started here is ended here.

Not here. Where servers differ (servers.py), which script runs with which options (scripts.py), and what its output
means (results.py).
"""

import argparse
import concurrent.futures
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import venv

ROOT = pathlib.Path(__file__).resolve().parents[2]
VENV = ROOT / "target" / "tlsfuzzer"

from results import Results, parse
from scripts import CBC_SUITES, SUITE, plan
from servers import SERVERS, Material, serve_backend

# Starts a script with seeded random numbers, and with what its run replaces in tlslite's names of suites.
START = """
import random, runpy, sys
from tlslite.constants import CipherSuite
suite, replaced = sys.argv[1], sys.argv[2].split()
for name in replaced:
    setattr(CipherSuite, name, getattr(CipherSuite, suite))
random.seed(12)
sys.argv = sys.argv[3:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def main():
    options = arguments()
    python = python_with_requirements(options.checkout)
    runs = [run for run in plan(options.checkout) if options.only in run.name]
    if not runs:
        sys.exit("no script has --only in its name")
    results = {}
    with tempfile.TemporaryDirectory(prefix="tlsfuzzer-") as folder:
        material = Material(pathlib.Path(folder))
        backend = serve_backend()
        for name in options.servers.split(","):
            server = SERVERS[name](options.binary)
            if server.version() is None:
                print(f"{name} is not installed: skipped")
                continue
            print(f"== {name}: {server.version()}", flush=True)
            results[name] = run_all(server, runs, material, backend, python, options)
    report(results)
    if options.json:
        named = {name: result.as_json() for name, result in results.items()}
        options.json.write_text(json.dumps(named, indent=1, sort_keys=True))


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkout", type=pathlib.Path, help="a clone of tlsfuzzer")
    parser.add_argument("--servers", default="tlsidecar,haproxy,nginx", help="which servers, in this order")
    parser.add_argument("--only", default="", help="only runs that have this in their name")
    parser.add_argument("--jobs", type=int, default=4, help="scripts at a time")
    parser.add_argument("--timeout", type=float, default=900, help="seconds for one script")
    parser.add_argument("--binary", type=pathlib.Path, default=ROOT / "target/release/tlsidecar", help="tlsidecar's program")
    parser.add_argument("--json", type=pathlib.Path, help="writes each conversation's result to this file")
    parser.add_argument("--output", type=pathlib.Path, help="keeps each script's output in this folder")
    options = parser.parse_args()
    options.checkout = options.checkout.resolve()
    if not (options.checkout / "tlsfuzzer" / "runner.py").is_file():
        sys.exit(f"{options.checkout} is not a checkout of tlsfuzzer")
    return options


def python_with_requirements(checkout):
    """Returns the interpreter of a virtual environment that has what tlsfuzzer needs."""
    python = VENV / "bin" / "python"
    if not python.exists():
        venv.create(VENV, with_pip=True)
    pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    # The second is for the scripts about ML-KEM.
    subprocess.run([*pip, "-r", checkout / "requirements.txt", "kyber-py"], check=True)
    return python


def run_all(server, runs, material, backend, python, options):
    """Runs every script against one server, which is started once for each site."""
    results = Results()
    with concurrent.futures.ThreadPoolExecutor(options.jobs) as pool:
        for site in sorted({run.site for run in runs}):
            with server.start(site, material, backend) as port:
                mine = [run for run in runs if run.site == site]
                jobs = {pool.submit(run_one, run, port, material, python, options, server.name): run for run in mine}
                for job in concurrent.futures.as_completed(jobs):
                    results.add(jobs[job], job.result())
                    print(results.line(jobs[job]), flush=True)
    return results


def run_one(run, port, material, python, options, server):
    replaced = " ".join(CBC_SUITES) if run.replaces_cbc else ""
    command = [python, "-c", START, SUITE, replaced, run.script, "-h", "localhost", "-p", str(port), *run.arguments(material)]
    environment = os.environ | {"PYTHONPATH": str(options.checkout), "PYTHONHASHSEED": "0", "PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen(
        command, cwd=options.checkout / "scripts", env=environment, text=True, errors="replace",
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )
    try:
        output, _ = process.communicate(timeout=options.timeout)
    except subprocess.TimeoutExpired:
        process.kill()
        output, _ = process.communicate()
        output += f"\nstopped after {options.timeout:.0f} s\n"
    if options.output:
        options.output.mkdir(parents=True, exist_ok=True)
        (options.output / f"{server}-{run.name}.log").write_text(output)
    return parse(output)


def report(results):
    """Prints the failures of each server, then the figures."""
    possible = set().union(*(result.passed() for result in results.values()))
    for name, result in results.items():
        print(f"\n== {name}: conversations that fail" + (" and another server passes" if len(results) > 1 else ""))
        wanted = possible if len(results) > 1 else None
        for line in result.failures(wanted):
            print(line)
    print()
    for name, result in results.items():
        passed = len(result.passed())
        total = len(possible) if len(results) > 1 else result.total()
        whole = "that at least one server passes" if len(results) > 1 else "that were run"
        print(f"{name}: {passed} of {total} conversations {whole} ({100 * passed / max(total, 1):.1f} %)")


if __name__ == "__main__":
    main()
