#!/usr/bin/env bash
# Does the Debian package do what docs/systemd.md says? Three versions of it are built, and installed, started,
# reloaded, upgraded, removed and purged in a Debian of its own with a real systemd as PID 1, in
# namespaces. Its man pages are set. Needs root, cargo-deb, dpkg-dev, debootstrap, iproute2, man-db, python3,
# openssl, util-linux.
#
# The Debian is made once and kept in target/. TLSIDECAR_CHECK_SUITES: which ones, "bookworm trixie" by default.
set -euo pipefail
cd "$(dirname "$0")/../.."

read -ra suites <<<"${TLSIDECAR_CHECK_SUITES:-bookworm trixie}"
mirror=${TLSIDECAR_CHECK_MIRROR:-http://deb.debian.org/debian}
kept=$PWD/target/package-check
longest=240 # seconds for one suite

[ "${#suites[@]}" -gt 0 ] || { echo "no suite to check" >&2; exit 1; }
[ "$(id -u)" = 0 ] || { echo "it takes root to start a systemd" >&2; exit 1; }
mkdir -p "$kept"
work=$(mktemp -d "$kept/work.XXXXXX")
running=()
# A process group for each that runs at the same time, so that it ends with all that it has started.
set -m
cleanup() {
    if [ "${#running[@]}" -gt 0 ]; then
        kill -- "${running[@]/#/-}" 2>/dev/null || true
        wait "${running[@]}" || true
    fi
    # Mounts are in namespaces of their own and are gone with them.
    rm -rf --one-file-system "$work"
}
trap cleanup EXIT

# A Debian as small as can be that still runs systemd and has what the package depends on.
debian() {
    local suite=$1 root=$kept/$1
    if [ ! -e "$root.made" ]; then
        rm -rf --one-file-system "$root"
        debootstrap --variant=minbase --include=systemd,systemd-sysv,dbus,procps "$suite" "$root" "$mirror" || return
        rm -f "$root"/var/cache/apt/archives/*.deb
        touch "$root.made"
    fi
    cp -a --reflink=auto "$root" "$work/$suite"
}

# At the same time as the packages are built: most of it is waiting.
for suite in "${suites[@]}"; do
    debian "$suite" >"$work/$suite.debootstrap" 2>&1 &
    running+=($!)
done

# Two versions, of the same binary.
first=$(deploy/debian/build.sh --deb-version 1.0.0-1 --output "$work/first.deb")
second=$(deploy/debian/build.sh --fast --deb-version 1.0.1-1 --output "$work/second.deb")
test -f "$first" && test -f "$second"
# And one with another example, which comes over the one that is installed.
dpkg-deb -R "$second" "$work/third"
echo "# Something new." >>"$work/third/etc/tlsidecar/tlsidecar.toml"
sed -i 's/^Version: .*/Version: 1.0.2-1/' "$work/third/DEBIAN/control"
(cd "$work/third" && find usr etc -type f -exec md5sum {} + >DEBIAN/md5sums)
dpkg-deb --root-owner-group -Znone -b "$work/third" "$work/third.deb" >/dev/null

# Its man pages, as `man` sets them.
pages=0
for page in "$work"/third/usr/share/man/man1/*.1.gz; do
    said=$(MANWIDTH=80 man --warnings -E UTF-8 -l -P cat "$page" 2>&1 >"$work/page") || true
    [ -z "$said" ] || { printf '%s: %s\n' "${page##*/}" "$said" >&2; exit 1; }
    grep -q SYNOPSIS "$work/page" || { printf '%s: no page\n' "$page" >&2; exit 1; }
    pages=$((pages + 1))
done
[ "$pages" -gt 5 ] || { echo "only $pages man pages" >&2; exit 1; }
printf '%d man pages are set without a warning\n' "$pages"

for nth in "${!suites[@]}"; do
    wait "${running[nth]}" || { cat "$work/${suites[nth]}.debootstrap"; exit 1; }
done
running=()

# One suite, at the same time as the others: most of it is waiting. Its own network, so that ports are free, and its
# own mounts, which end with it.
check() {
    local suite=$1
    install -m 644 "$first" "$work/$suite/root/first.deb"
    install -m 644 "$second" "$work/$suite/root/second.deb"
    install -m 644 "$work/third.deb" "$work/$suite/root/third.deb"
    exec timeout --kill-after=10 "$longest" unshare --net --mount --ipc --uts \
        python3 tests/deploy/package/inside.py "$work/$suite"
}

for suite in "${suites[@]}"; do
    check "$suite" >"$work/$suite.out" 2>&1 &
    running+=($!)
done
failed=0
for nth in "${!suites[@]}"; do
    wait "${running[nth]}" || failed=1
    cat "$work/${suites[nth]}.out"
done
running=()
test "$failed" = 0
