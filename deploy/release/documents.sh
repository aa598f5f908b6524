#!/usr/bin/env bash
# Makes what every package has beside the program: `documents.sh OUT` creates the directory OUT with
#   man/ completions/    of the program, compressed
#   doc/                 docs/ as installed: links to what is not installed lead to the repository
#   third-party.txt.gz   the licences of the linked crates
#   changelog            in Debian's format, for the version $DEB_VERSION; changelog.gz: CHANGELOG.md
#
# The program makes its man pages and completions: TLSIDECAR_BIN, or the release build. Needs cargo, python3.
set -euo pipefail
cd "$(dirname "$0")/../.."
out=${1:?output directory}
binary=${TLSIDECAR_BIN:-${CARGO_TARGET_DIR:-target}/release/tlsidecar}
value() { sed -n "/^$1 = /{s/$1 = \"\(.*\)\"/\1/p;q}" Cargo.toml; }
version=$(value version)
repository=$(value repository)

rm -rf "$out"
mkdir -p "$out/man" "$out/completions" "$out/doc"
"$binary" man --dir "$out/man"
gzip -9n "$out"/man/*
"$binary" completions bash >"$out/completions/tlsidecar"
"$binary" completions zsh >"$out/completions/_tlsidecar"
"$binary" completions fish >"$out/completions/tlsidecar.fish"

# A page in a directory of docs/ reaches other pages by one `../`, and the rest of the repository by two.
cp -r docs/. "$out/doc"
find "$out/doc" -maxdepth 1 -name '*.md' -exec \
    sed -i -E "s#\]\(\.\./([^)]*)\)#](${repository}/blob/v$version/\1)#g" {} +
find "$out/doc" -mindepth 2 -name '*.md' -exec \
    sed -i -E "s#\]\(\.\./\.\./([^)]*)\)#](${repository}/blob/v$version/\1)#g" {} +

python3 deploy/release/third_party.py | gzip -9n >"$out/third-party.txt.gz"

# The date of the sources, so that the same commit gives the same bytes.
: "${SOURCE_DATE_EPOCH:=$(git log -1 --format=%ct 2>/dev/null || stat -c %Y CHANGELOG.md)}"
cat >"$out/changelog" <<CHANGELOG
tlsidecar (${DEB_VERSION:-$version-1}) stable; urgency=medium

  * Changes of this version: /usr/share/doc/tlsidecar/changelog.gz

 -- $(value maintainer)  $(LC_ALL=C date -u -R -d "@$SOURCE_DATE_EPOCH")
CHANGELOG
gzip -9nc CHANGELOG.md >"$out/changelog.gz"
