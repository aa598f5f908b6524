"""The addresses and the version of the project, from Cargo.toml, and the lines of other files that repeat them.

generate.py writes these lines after a change of Cargo.toml. The check requires that they are current, and that no shipped
file names another placeholder. Code that makes whole files (board.py) reads the addresses here.
"""

import re
import tomllib

from .check import ROOT, attempt, problem, report

PACKAGE = tomllib.loads((ROOT / "Cargo.toml").read_text())["package"]
REPOSITORY = PACKAGE["repository"]
HOMEPAGE = PACKAGE["homepage"]
ISSUES = f"{REPOSITORY}/issues"
RUNBOOKS = PACKAGE["metadata"]["addresses"]["runbooks"]
IMAGE = PACKAGE["metadata"]["addresses"]["image"]
CHART = PACKAGE["metadata"]["addresses"]["chart"]

# Files, a pattern of the address alone, and its value. Each pattern occurs in at least one of the files.
PLACES = (
    ("README.md", r"(?<=git clone )https\S+(?= )", f"{REPOSITORY}.git"),
    ("README.md", r"https\S+(?=/releases,)", REPOSITORY),
    ("README.md", r"[\w.:/-]+(?=:[\d.]+`<br>`podman run)", IMAGE),
    ("README.md", r"(?<=tlsidecar:ro )[\w.:/-]+(?=:[\d.]+ --config)", IMAGE),
    ("README.md", r"oci://\S+(?= --version)", CHART),
    ("README.md", r"(?<=tlsidecar[-_:])\d+\.\d+\.\d+|(?<=--version )\d+\.\d+\.\d+", PACKAGE["version"]),
    ("deploy/debian/copyright", r"(?<=Source: )\S+", REPOSITORY),
    ("deploy/docker/Dockerfile", r'(?<=opencontainers\.image\.source=")[^"]+', REPOSITORY),
    ("deploy/docker/Dockerfile", r'(?<=opencontainers\.image\.url=")[^"]+', HOMEPAGE),
    ("deploy/helm/*/Chart.yaml", r"(?m)(?<=^home: )\S+", HOMEPAGE),
    ("deploy/helm/tlsidecar/values.yaml", r"(?<=  repository: )\S+", IMAGE),
    ("deploy/helm/tlsidecar/README.md", r"(?<=`image\.repository` \| `)[^`]+", IMAGE),
    ("deploy/helm/tlsidecar-gateway/README.md", r"oci://[^\s`]+(?= --version)", CHART),
    ("deploy/kubernetes/overlays/*/kustomization.yaml", r"(?<=newName: )\S+", IMAGE),
    ("deploy/prometheus/rules/alerts.yml", r"(?<=runbook_url: )\S+(?=/Tlsidecar\w+\.md)", RUNBOOKS),
    ("deploy/prometheus/rules/alerts.yml", r"(?<=sed -i 's#)[^#\n]+", RUNBOOKS),
    ("docs/kubernetes.md", r"(?<=  - )https\S+(?=//deploy/kubernetes)", REPOSITORY),
    ("docs/kubernetes-reference.md", r"oci://[^\s`]+(?= --version)", CHART),
    ("docs/monitoring.md", r"(?<=sed -i 's#)[^#\n]+", RUNBOOKS),
    ("docs/reasons.md", r"(?<=report it at )\S+(?=,)", ISSUES),
    ("docs/runbooks/TlsidecarInternalError.md", r"(?<=report it at )\S+(?=,)", ISSUES),
)

# Names of the reserved domain (RFC 6761) in what is shipped. Tests and sources use it for names that do not exist.
SHIPPED = ("*.md", ".github", "Cargo.toml", "deploy", "docs", "examples")
PLACEHOLDER = re.compile(r"[\w.-]+\.invalid\b[\w./-]*")


def written():
    """Returns the text of each file of PLACES with the current addresses."""
    texts = {}
    for files, pattern, address in PLACES:
        found = 0
        for path in sorted(ROOT.glob(files)):
            text, times = re.subn(pattern, lambda _, address=address: address, texts.get(path) or path.read_text())
            texts[path] = text
            found += times
        if not found:
            problem(f"{files} has no place for {address}")
    return texts


def main():
    texts = written()
    for path, text in texts.items():
        if text != path.read_text():
            problem(f"{path.relative_to(ROOT)} has an old address: run `just generate`")
    ours = [address.split("://")[-1] for address in (REPOSITORY, HOMEPAGE, RUNBOOKS, IMAGE, CHART)]
    files = attempt("git", "ls-files", "-z", "--", *SHIPPED, cwd=ROOT).stdout.split("\0")
    files = [ROOT / name for name in files if name and (ROOT / name).is_file()]
    if len(files) < 100:
        problem(f"only {len(files)} shipped files found")
    for path in files:
        if path.name == "Cargo.toml":
            continue
        for name in PLACEHOLDER.findall(path.read_bytes().decode(errors="replace")):
            if not any(name == own or name.startswith((own + "/", own + ".")) for own in ours):
                problem(f"{path.relative_to(ROOT)} names {name}, which is not in Cargo.toml")
    return report("addresses", f"{len(PLACES)} places in {len(texts)} files; no other placeholder in {len(files)} files")
