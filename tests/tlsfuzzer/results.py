"""What the scripts' output means.

Promises. Every conversation that a script has begun has a result, also where the script ends in the middle of it. One
that runs several times, such as `sanity`, counts once and passes if it always does.

Not here. How scripts are run (run.py).
"""

import re

# How a Python traceback ends.
CAUSE = re.compile(r"^(\w[\w.]*(?:Error|Exception|Alert|EOF|Abrupt\w*|\bAlert)|socket\.\w+|TLS\w+)\b:? ?(.*)$")

# What a script that repeats its conversations puts behind each name.
REPEAT = re.compile(r" (?:repeat )?\d+$")


def parse(output):
    """Returns {conversation: cause}; the cause is None where it passed."""
    found = {}
    name, cause, ended = None, None, False

    def close(result):
        if name is not None and found.get(name) is None:
            found[name] = result

    for line in output.splitlines():
        if line.endswith("...") and not line.startswith(" "):
            if name is not None:
                close(cause or "no result")
            name, cause = REPEAT.sub("", line[:-3].strip()), None
        elif line == "OK" and name is not None:
            close(None)
            name = None
        elif line == "Test end":
            if name is not None:
                close(cause or "no result")
            name, ended = None, True
        elif match := CAUSE.match(line):
            cause = f"{match[1]}: {match[2]}".rstrip(": ")
        elif line.startswith("stopped after"):
            cause = line
    if not ended:
        if name is not None:
            close(cause or "the script ended")
        found.setdefault("(the script itself)", cause or (output.strip().splitlines() or ["no output"])[-1])
    return found


class Results:
    """What one server does in all runs."""

    def __init__(self):
        self.runs = {}

    def add(self, run, found):
        self.runs[run.name] = found

    def line(self, run):
        found = self.runs[run.name]
        bad = sum(cause is not None for cause in found.values())
        return f"  {run.name}: {len(found) - bad} passed, {bad} failed"

    def passed(self):
        return {(run, name) for run, found in self.runs.items() for name, cause in found.items() if cause is None}

    def total(self):
        return sum(len(found) for found in self.runs.values())

    def failures(self, wanted):
        """Yields a line per script and failed conversation; all of them, or those in `wanted`."""
        for run, found in sorted(self.runs.items()):
            failed = [(name, cause) for name, cause in found.items() if cause is not None]
            failed = [(name, cause) for name, cause in failed if wanted is None or (run, name) in wanted]
            if failed:
                yield f"{run}: {len(failed)} of {len(found)}"
            for name, cause in sorted(failed):
                yield f"    {name!r}: {cause}"

    def as_json(self):
        return self.runs
