#!/usr/bin/env python3
"""Prints the licences of the crates that are linked into the program: each crate, and each text once.

The sources of the crates are cargo's; `cargo fetch --locked` downloads them.
"""

import json
import re
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

NAMES = re.compile(r"(?i)(licen[cs]e|copying|copyright|notice|unlicense)")
RULE = "-" * 80


def linked():
    """Yields the packages of normal dependencies, on Linux, without this one."""
    command = ["cargo", "metadata", "--locked", "--offline", "--format-version", "1", "--filter-platform",
               "x86_64-unknown-linux-gnu"]
    metadata = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
    packages = {package["id"]: package for package in metadata["packages"]}
    nodes = {node["id"]: node for node in metadata["resolve"]["nodes"]}
    seen, ahead = set(), [metadata["resolve"]["root"]]
    while ahead:
        for dependency in nodes[ahead.pop()]["deps"]:
            is_linked = any(kind["kind"] is None for kind in dependency["dep_kinds"])
            is_macro = any("proc-macro" in target["kind"] for target in packages[dependency["pkg"]]["targets"])
            if is_linked and not is_macro and dependency["pkg"] not in seen:
                seen.add(dependency["pkg"])
                ahead.append(dependency["pkg"])
    return sorted((packages[name] for name in seen), key=lambda package: (package["name"], package["version"]))


def texts(package):
    """Yields the texts of a package's licences."""
    root = Path(package["manifest_path"]).parent
    for path in sorted(root.iterdir()):
        if path.is_file() and NAMES.match(path.name) and path.suffix not in (".rs", ".py", ".toml"):
            yield path.read_text(errors="replace").strip()
    # AWS-LC's own licence, beside that of its crate.
    if package["name"].endswith("-sys"):
        for path in sorted(root.glob("*/LICENSE")):
            yield path.read_text(errors="replace").strip()


def main():
    packages = linked()
    if len(packages) < 50:
        sys.exit(f"only {len(packages)} crates found")
    users = defaultdict(list)
    print("Crates that are part of tlsidecar, with their licences\n")
    for package in packages:
        name = f"{package['name']} {package['version']}"
        print(f"{name:<40} {package['license'] or 'see its text'}")
        for text in dict.fromkeys(texts(package)):
            users[text].append(name)
    for text, names in users.items():
        print(f"\n{RULE}\n{', '.join(names)}\n{RULE}\n\n{text}")


main()
