#!/usr/bin/env bash
# Packs a program with its documents, units and rules, the same bytes for the same input, and prints the path:
#   tarball.sh PROGRAM MACHINE DOCUMENTS OUT
# MACHINE is the first part of the name of Rust's target. DOCUMENTS is the directory that documents.sh has made.
set -euo pipefail
program=$(realpath "$1") machine=$2 documents=$(realpath "$3") out=$(realpath "$4")
cd "$(dirname "$0")/../.."
version=$(sed -n '/^version = /{s/version = "\(.*\)"/\1/p;q}' Cargo.toml)
: "${SOURCE_DATE_EPOCH:=$(git log -1 --format=%ct 2>/dev/null || stat -c %Y CHANGELOG.md)}"
name=tlsidecar-$version-$machine-linux

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
top=$work/$name
mkdir -p "$top"/{systemd,prometheus,grafana}
install -m 755 "$program" "$top/tlsidecar"
cp LICENSE* CHANGELOG.md deploy/debian/tlsidecar.toml "$top"
cp -r "$documents"/{man,completions,doc,third-party.txt.gz} "$top"
cp -r deploy/systemd/* "$top/systemd"
cp -r deploy/prometheus/{rules,prometheus.example.yml} "$top/prometheus"
cp deploy/grafana/dashboards/*.json "$top/grafana"
chmod -R u=rwX,go=rX "$top"

tar --create --sort=name --format=gnu --mtime="@$SOURCE_DATE_EPOCH" --owner=0 --group=0 --numeric-owner \
    --directory "$work" "$name" | gzip -9n >"$out/$name.tar.gz"
printf '%s\n' "$out/$name.tar.gz"
