"""Requirements, reports, and programs to run: the parts that every check shares.

A check that stops at its first failure uses `require`, `true` and `same`. One that reports all of them at its end
uses `problem` and `report`.
"""

import os
import subprocess
import time
import traceback
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
DEPLOY = ROOT / "deploy"

problems = []
passed = 0


class Failed(Exception):
    """A requirement that does not hold."""


def require(condition, message):
    """Fails with the message unless the condition holds."""
    if not condition:
        raise Failed(message)


def true(what, condition, otherwise=""):
    """Requires a condition, and prints and counts it."""
    global passed  # pylint: disable=global-statement
    require(condition, f"{what}: {otherwise}" if otherwise else what)
    passed += 1
    print(f"ok: {what}", flush=True)


def same(what, found, expected):
    """Requires two values to be equal, and prints and counts it."""
    true(what, found == expected, f"found {found!r}, expected {expected!r}")


def problem(text):
    """Records a failure, to be printed by `report`."""
    problems.append(text)


def report(check, summary):
    """Prints the recorded problems, or the summary where there are none; returns the exit code."""
    for text in problems:
        print(f"  {text}")
    print(f"{check}: {len(problems)} problems" if problems else f"{check}: {summary}")
    return 1 if problems else 0


def run_all(checks):
    """Runs functions that return a summary, each whether or not those before it failed; returns the exit code."""
    failures = 0
    for check in checks:
        try:
            print(f"{check.__name__}: {check()}", flush=True)
        except Failed as failed:
            failures += 1
            print(f"{check.__name__}: FAILED: {failed}", flush=True)
        except Exception:  # for example a missing program: the other checks still run
            failures += 1
            print(f"{check.__name__}: FAILED:\n{traceback.format_exc()}", flush=True)
    return 1 if failures else 0


def eventually(what, condition, seconds=30.0, pause=0.05):
    """Waits until the condition returns a true value, and returns that value."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        require(time.monotonic() < deadline, f"not within {seconds:.0f} s: {what}")
        time.sleep(pause)
    return found


def attempt(*command, timeout=120, **options):
    """Runs a command that may fail; returns its exit code and output as `subprocess.run` does."""
    return subprocess.run([str(word) for word in command], text=True, capture_output=True, timeout=timeout, check=False,
                          **{"stdin": subprocess.DEVNULL} | ({"stdin": None} if "input" in options else {}) | options)


def run(*command, **options):
    """Runs a command that has to succeed, and returns its standard output."""
    done = attempt(*command, **options)
    require(done.returncode == 0, f"{' '.join(map(str, command[:9]))}: {done.returncode}\n{done.stdout}{done.stderr}")
    return done.stdout


def program():
    """Returns the tlsidecar to run: TLSIDECAR, or the one that cargo built last."""
    if "TLSIDECAR" in os.environ:
        return Path(os.environ["TLSIDECAR"])
    built = [path for path in (ROOT / "target/release/tlsidecar", ROOT / "target/debug/tlsidecar") if path.exists()]
    require(built, "no tlsidecar: run `cargo build --release`, or set TLSIDECAR")
    return max(built, key=lambda path: path.stat().st_mtime)
