#!/usr/bin/env bash
# Builds everything that a release consists of into a new directory: `build.sh OUT`. docs/release.md lists the files.
#   MACHINES       "x86_64 aarch64" by default: for which tarballs and packages are built, by zig's C compiler. This machine has
#                  to be one of them; "" for the image alone
#   PROFILES       a directory with the profiles of an earlier build (*.profdata), or "no"; by default profile.sh makes one for
#                  each machine. The programs are compiled with them
#   IMAGE=no       without the image, which is for this machine alone, and needs root
#   SIGNING_KEY    a key of gpg's keyring, which signs the sums; without it there is no signature
# Needs the tools of tools.sh, which are searched first, the targets of MACHINES (`rustup target add`), python3, gpg for the
# key, buildah for the image, what profile.sh needs, target/checks for the charts (tests/deploy/tools.sh), and `strip` for each
# machine (Debian: binutils-aarch64-linux-gnu). RUSTC chooses another compiler than rustup's, such as Debian's rustc-web with
# libstd-rust-web-dev:arm64 where rustup cannot download a target.
set -euo pipefail
mkdir -p "${1:?output directory}"
out=$(realpath "$1")
case ${PROFILES:-no} in no) ;; *) PROFILES=$(realpath "$PROFILES") ;; esac
cd "$(dirname "$0")/../.."
export PATH=$PWD/target/tools/venv/bin:$PWD/target/tools/bin:$PATH
machines=${MACHINES-x86_64 aarch64}
# The oldest C library that the programs run on: RHEL 7, and everything later.
GLIBC=2.17

version=$(sed -n '/^version = /{s/version = "\(.*\)"/\1/p;q}' Cargo.toml)
SOURCE_DATE_EPOCH=$(git log -1 --format=%ct)
# For `tlsidecar --version --verbose`.
TLSIDECAR_COMMIT=$(git rev-parse HEAD)
export SOURCE_DATE_EPOCH TLSIDECAR_COMMIT
[ -z "$(ls -A "$out")" ] || { echo "$out is not empty" >&2; exit 1; }

programs() (
    local machine target profile used=no
    for machine in $machines; do
        target=$machine-unknown-linux-gnu
        if [ "${PROFILES:-}" != no ]; then
            profile=$out/tlsidecar-$version-$machine.profdata
            if [ -n "${PROFILES:-}" ]; then
                cp "$PROFILES/${profile##*/}" "$profile"
            else
                deploy/release/profile.sh "$target.$GLIBC" "$profile"
            fi
            export RUSTC_WRAPPER=$PWD/deploy/release/rustc.sh TLSIDECAR_PROFILE=$profile
            used=$(sha256sum <"$profile")
        fi
        # cargo does not track the profile.
        if [ "$(cat "target/$target/profile" 2>/dev/null)" != "$used" ]; then rm -rf "target/$target"; fi
        mkdir -p "target/$target"
        printf '%s\n' "$used" >"target/$target/profile"
        cargo zigbuild --release --locked --target "$target.$GLIBC"
        unset RUSTC_WRAPPER TLSIDECAR_PROFILE
    done
)

packages() {
    local machine target
    for machine in $machines; do
        target=$machine-unknown-linux-gnu
        # Each machine's own: cargo-deb takes that of the machine that builds.
        "$machine-linux-gnu-strip" "target/$target/release/tlsidecar"
        deploy/release/tarball.sh "target/$target/release/tlsidecar" "$machine" target/package "$out"
        cargo deb --quiet --locked --no-build --no-strip --variant portable --target "$target" --output "$out"
        cargo generate-rpm --target "$target" --auto-req disabled --payload-compress gzip --output "$out"
    done
}

# The static program of deploy/docker, as an archive that `podman load` and `docker load` take.
image() {
    local work name=tlsidecar:$version
    work=$(mktemp -d)
    deploy/docker/build.sh "$work/out"
    buildah bud --quiet --pull=never --timestamp "$SOURCE_DATE_EPOCH" --build-arg "REVISION=$TLSIDECAR_COMMIT" \
        --build-context "build=$work" --file deploy/docker/Dockerfile --tag "localhost/$name" . >/dev/null
    buildah push --quiet "localhost/$name" "oci-archive:$out/tlsidecar-$version-$(uname -m)-image.tar:$name"
    cp "$work/out/tlsidecar.cdx.json" "$out/tlsidecar-$version-$(uname -m)-image.cdx.json"
    rm -rf "$work"
}

# The crates of the program, in CycloneDX's format.
bill_of_materials() {
    cargo cyclonedx --format json --spec-version 1.5 --target "$(uname -m)-unknown-linux-gnu" --override-filename release
    mv release.json "$out/tlsidecar-$version.cdx.json"
}

# The section of the newest version in CHANGELOG.md.
notes() {
    awk '/^## / { found++; next } found == 1' CHANGELOG.md >"$out/CHANGES.md"
    grep -q . "$out/CHANGES.md"
}

sums() {
    [ -z "${SIGNING_KEY:-}" ] || gpg --batch --armor --export "$SIGNING_KEY" >"$out/SIGNING-KEY.asc"
    (cd "$out" && find . -maxdepth 1 -type f -printf '%P\n' | LC_ALL=C sort | xargs sha256sum >"$out/SHA256SUMS.new")
    mv "$out/SHA256SUMS.new" "$out/SHA256SUMS"
    if [ -n "${SIGNING_KEY:-}" ]; then
        gpg --batch --local-user "$SIGNING_KEY" --armor --detach-sign "$out/SHA256SUMS"
    fi
}

if [ -n "$machines" ]; then
    programs
    TLSIDECAR_BIN=target/$(uname -m)-unknown-linux-gnu/release/tlsidecar deploy/release/documents.sh target/package
    packages
    target/checks/venv/bin/python deploy/release/charts.py "$out"
    bill_of_materials
    notes
fi
[ "${IMAGE:-yes}" = no ] || image
sums
ls -l "$out"
