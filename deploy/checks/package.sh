#!/usr/bin/env bash
# Does the Debian package do what docs/systemd.md says? Two versions of it are built, and installed, started,
# reloaded, upgraded, removed and purged in a Debian of its own with a real systemd as PID 1, in
# namespaces. Needs root, cargo-deb, debootstrap, python3, openssl, util-linux.
#
# The Debian is made once and kept in target/. TLSIDECAR_CHECK_SUITES: which ones, "bookworm trixie" by default.
set -euo pipefail
cd "$(dirname "$0")/../.."

read -ra suites <<<"${TLSIDECAR_CHECK_SUITES:-bookworm trixie}"
mirror=${TLSIDECAR_CHECK_MIRROR:-http://deb.debian.org/debian}
kept=$PWD/target/package-check
longest=240 # seconds for one suite

[ "$(id -u)" = 0 ] || { echo "it takes root to start a systemd" >&2; exit 1; }
mkdir -p "$kept"
work=$(mktemp -d "$kept/work.XXXXXX")
# Mounts are in a namespace of their own and are gone with it.
trap 'rm -rf --one-file-system "$work"' EXIT

# Two versions, of the same binary.
first=$(deploy/debian/build.sh --deb-version 1.0.0-1 --output "$work/first.deb")
second=$(deploy/debian/build.sh --deb-version 1.0.1-1 --output "$work/second.deb")
test -f "$first" && test -f "$second"

for suite in "${suites[@]}"; do
    root=$kept/$suite
    if [ ! -e "$root.made" ]; then
        rm -rf --one-file-system "$root"
        # As small as a machine can be that still runs systemd and has what the package depends on.
        debootstrap --variant=minbase --include=systemd,systemd-sysv,dbus,procps "$suite" "$root" "$mirror" \
            >"$work/debootstrap.log" 2>&1 || { cat "$work/debootstrap.log"; exit 1; }
        rm -rf "$root"/var/cache/apt/archives/*.deb
        touch "$root.made"
    fi
    cp -a --reflink=auto "$root" "$work/$suite"
    install -m 644 "$first" "$work/$suite/root/first.deb"
    install -m 644 "$second" "$work/$suite/root/second.deb"
    # Its own network, so that ports are free, and its own mounts, which end with it.
    timeout --kill-after=10 "$longest" unshare --net --mount --ipc --uts \
        python3 deploy/checks/package/inside.py "$work/$suite"
    rm -rf --one-file-system "${work:?}/$suite"
done
