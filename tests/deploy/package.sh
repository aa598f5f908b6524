#!/usr/bin/env bash
# Checks the Debian package against docs/systemd.md: builds three versions of it, and installs, starts, reloads, upgrades,
# removes and purges them in a Debian with systemd as PID 1, in namespaces (package.py). Formats its man pages, and asks
# lintian. Needs root, cargo-deb, dpkg-dev, debootstrap, iproute2, lintian, man-db, python3 with target/checks (tools.sh),
# util-linux.
#
# The Debians are made once and kept in target/: TLSIDECAR_CHECK_SUITES, "bookworm trixie" by default. `package.sh
# --only-debians` makes them and ends.
set -euo pipefail
cd "$(dirname "$0")/../.."

read -ra suites <<<"${TLSIDECAR_CHECK_SUITES:-bookworm trixie}"
mirror=${TLSIDECAR_CHECK_MIRROR:-http://deb.debian.org/debian}
kept=$PWD/target/package-check
longest=240 # seconds for one suite

[ "${#suites[@]}" -gt 0 ] || { echo "no suite to check" >&2; exit 1; }
[ "$(id -u)" = 0 ] || { echo "root is needed to start systemd" >&2; exit 1; }
mkdir -p "$kept"
work=$(mktemp -d "$kept/work.XXXXXX")
running=()
if [ "${1:-}" = --only-debians ]; then only_debians=yes; else only_debians=no; fi
# A process group for each background job, so that it ends with its children.
set -m
cleanup() {
    if [ "${#running[@]}" -gt 0 ]; then
        kill -- "${running[@]/#/-}" 2>/dev/null || true
        wait "${running[@]}" || true
    fi
    # The mounts are in other namespaces and end with them.
    rm -rf --one-file-system "$work"
}
trap cleanup EXIT

# The smallest Debian with systemd and the package's dependencies.
debian() {
    local suite=$1 root=$kept/$1
    if [ ! -e "$root.made" ]; then
        rm -rf --one-file-system "$root"
        debootstrap --variant=minbase --include=systemd,systemd-sysv,dbus,procps "$suite" "$root" "$mirror" || return
        rm -f "$root"/var/cache/apt/archives/*.deb
        touch "$root.made"
    fi
    [ "$only_debians" = yes ] || cp -a --reflink=auto "$root" "$work/$suite"
}

# While the packages are built: debootstrap mostly waits for the network.
for suite in "${suites[@]}"; do
    debian "$suite" >"$work/$suite.debootstrap" 2>&1 &
    running+=($!)
done

finish_debians() {
    for nth in "${!suites[@]}"; do
        wait "${running[nth]}" || { cat "$work/${suites[nth]}.debootstrap"; exit 1; }
    done
    running=()
}
if [ "$only_debians" = yes ]; then
    finish_debians
    exit
fi

# Two versions with the same binary.
first=$(deploy/debian/build.sh --deb-version 1.0.0-1 --output "$work/first.deb")
second=$(deploy/debian/pack.sh --fast --deb-version 1.0.1-1 --output "$work/second.deb")
test -f "$first" && test -f "$second"
# The tarball of the same program, twice: later files give the same bytes.
first_tarball=$(deploy/release/tarball.sh target/release/tlsidecar "$(uname -m)" target/package "$work")
mkdir "$work/again"
find target/package -type f -exec touch {} +
second_tarball=$(deploy/release/tarball.sh target/release/tlsidecar "$(uname -m)" target/package "$work/again")
cmp "$first_tarball" "$second_tarball"
tar -tzf "$first_tarball" | grep '/systemd/tlsidecar.service$' >/dev/null
printf '%s has the same bytes twice\n' "${first_tarball##*/}"

# While the package is installed elsewhere. Not of the second, which is not compressed as the released one.
lintian --fail-on error,warning --tag-display-limit 0 "$first" >"$work/lintian" 2>&1 &
lintian=$!
# A third with another example, to be installed over the second.
dpkg-deb -R "$second" "$work/third"
echo "# Something new." >>"$work/third/etc/tlsidecar/tlsidecar.toml"
sed -i 's/^Version: .*/Version: 1.0.2-1/' "$work/third/DEBIAN/control"
(cd "$work/third" && find usr etc -type f -exec md5sum {} + >DEBIAN/md5sums)
dpkg-deb --root-owner-group -Znone -b "$work/third" "$work/third.deb" >/dev/null

# The man pages, as `man` formats them.
pages=0
for page in "$work"/third/usr/share/man/man1/*.1.gz; do
    warnings=$(MANWIDTH=80 man --warnings -E UTF-8 -l -P cat "$page" 2>&1 >"$work/page") || true
    [ -z "$warnings" ] || { printf '%s: %s\n' "${page##*/}" "$warnings" >&2; exit 1; }
    grep -q SYNOPSIS "$work/page" || { printf '%s: no page\n' "$page" >&2; exit 1; }
    pages=$((pages + 1))
done
[ "$pages" -gt 5 ] || { echo "only $pages man pages" >&2; exit 1; }
printf '%d man pages are formatted without a warning\n' "$pages"

finish_debians

# Checks one suite, while the others are checked: it mostly waits. A new network, so that its ports are free, and new
# mounts, which end with it.
check() {
    local suite=$1
    install -m 644 "$first" "$work/$suite/root/first.deb"
    install -m 644 "$second" "$work/$suite/root/second.deb"
    install -m 644 "$work/third.deb" "$work/$suite/root/third.deb"
    exec timeout --kill-after=10 "$longest" unshare --net --mount --ipc --uts \
        python3 tests/deploy package "$work/$suite"
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
wait "$lintian" || { cat "$work/lintian"; exit 1; }
echo "lintian finds neither errors nor warnings"
