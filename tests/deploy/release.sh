#!/usr/bin/env bash
# Checks the files that deploy/release/build.sh has made, by `release.sh DIR`: sums and signature; the C library that the
# programs need; each file where it has to run. The programs of x86-64 and both packages run in Debian 11, whose C library is
# older than that of any supported distribution but RHEL 8 (2.28); the program of aarch64 in qemu.
#
# The Debians are made once and kept in target/release-check. Needs root, binutils, debootstrap, gpg for a signature,
# openssl, crun, podman and uidmap for the image, python3 with target/checks (tools.sh), qemu-user-static, rpm.
set -euo pipefail
files=$(realpath "${1:?directory of the release}")
cd "$(dirname "$0")/../.."
kept=$PWD/target/release-check
mirror=${TLSIDECAR_CHECK_MIRROR:-http://deb.debian.org/debian}
GLIBC=2.17
here=$(uname -m)
version=$(sed -n '/^version = /{s/version = "\(.*\)"/\1/p;q}' Cargo.toml)

[ "$(id -u)" = 0 ] || { echo "root is needed for chroot" >&2; exit 1; }
mkdir -p "$kept"
work=$(mktemp -d)
trap 'umount "$work/$here/proc" 2>/dev/null || true; rm -rf --one-file-system "$work"' EXIT

ok() { printf 'ok: %s\n' "$1"; }
fail() { printf 'FAILED: %s\n' "$1" >&2 && exit 1; }
same() { if [ "$2" = "$3" ]; then ok "$1"; else fail "$1: $2, expected $3"; fi; }

# Debian 11 for a machine. Of another machine only the files: they cannot be configured here.
debian() {
    local machine=$1 root=$kept/$1 arch foreign=""
    case $machine in
    x86_64) arch=amd64 ;;
    aarch64) arch=arm64 ;;
    esac
    [ "$machine" = "$here" ] || foreign=--foreign
    if [ ! -e "$root.made" ]; then
        rm -rf --one-file-system "$root"
        # shellcheck disable=SC2086 # Empty or one word.
        debootstrap $foreign --arch="$arch" --variant=minbase --include=systemd,procps bullseye "$root" "$mirror" \
            >"$root.log" 2>&1 || { tail -5 "$root.log" && fail "debootstrap of $machine"; }
        rm -rf "$root"/var/cache/apt/archives/*.deb
        touch "$root.made"
    fi
    cp -a "$root" "$work/$machine"
    # Of another machine, base-files is not configured.
    mkdir -p "$work/$machine/opt"
    # Debian 11's systemd-sysusers needs it.
    [ "$machine" != "$here" ] || mount -t proc proc "$work/$machine/proc"
}

sums() {
    (cd "$files" && sha256sum --quiet --check SHA256SUMS) || fail "the sums differ"
    same "each file has a sum" "$(cut -c 67- "$files/SHA256SUMS" | sort)" \
        "$(cd "$files" && find . -type f ! -name 'SHA256SUMS*' -printf '%P\n' | sort)"
    if [ -e "$files/SHA256SUMS.asc" ]; then
        # The key of the files, and no other: root has none of the one who signed.
        local keys=$work/keys
        mkdir -m 700 "$keys"
        gpg --homedir "$keys" --batch --quiet --import "$files/SIGNING-KEY.asc"
        gpg --homedir "$keys" --batch --quiet --verify "$files/SHA256SUMS.asc" "$files/SHA256SUMS" 2>/dev/null ||
            fail "the signature is not valid"
        ok "the signature is valid"
    fi
}

# Runs a program of a machine in its Debian, in place of the shell: only for a subshell, whose ID is then the program's.
run_in() {
    local machine=$1
    shift
    if [ "$machine" = "$here" ]; then
        exec chroot "$work/$machine" "$@"
    else
        local program=$1
        shift
        exec "qemu-$machine-static" -L "$work/$machine" "$work/$machine$program" "$@"
    fi
}

tarball() {
    local machine=$1 name=tlsidecar-$version-$1-linux newest
    tar -xzf "$files/$name.tar.gz" -C "$work"
    install -m 755 "$work/$name/tlsidecar" "$work/$machine/opt/tlsidecar"
    newest=$(readelf --wide --version-info "$work/$name/tlsidecar" | grep -o 'GLIBC_[0-9.]*' | sort -uV | tail -1)
    if [ "$(printf '%s\n' "$newest" "GLIBC_$GLIBC" | sort -V | tail -1)" != "GLIBC_$GLIBC" ]; then
        fail "$machine: needs $newest"
    fi
    ok "$machine: needs $newest"
    for file in doc/configuration.md doc/runbooks/TlsidecarDown.md man/tlsidecar.1.gz completions/_tlsidecar \
        systemd/tlsidecar.service systemd/sysusers.d/tlsidecar.conf prometheus/rules/alerts.yml grafana/tlsidecar.json \
        third-party.txt.gz LICENSE-MIT CHANGELOG.md tlsidecar.toml; do
        [ -s "$work/$name/$file" ] || fail "$name lacks $file"
    done
    same "$machine: starts" "$(run_in "$machine" /opt/tlsidecar --version)" "tlsidecar $version"
    serves "$machine"
}

# A device of the same machine connects: `probe` needs the program's TLS in both roles.
serves() {
    local machine=$1 at=127.0.0.1 place=$work/serve answer="" pid
    mkdir -p "$place" "$work/$machine/$place"
    openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=localhost \
        -addext subjectAltName=DNS:localhost -keyout "$place/tls.key" -out "$place/tls.crt" 2>/dev/null
    cp "$place"/tls.* "$work/$machine/$place/"
    run_in "$machine" /opt/tlsidecar --listen $at:18883 --backend $at:11883 --admin $at:19901 \
        --cert "$place/tls.crt" --key "$place/tls.key" >"$work/log" 2>&1 &
    pid=$!
    for _ in $(seq 100); do
        # Nothing listens as the backend: the handshake is what is shown.
        answer=$(run_in "$machine" /opt/tlsidecar probe $at:18883 --name localhost --ca "$place/tls.crt" 2>&1) || true
        if grep -q 'TLS 1.3\|TLSv1.3\|1\.3' <<<"$answer"; then break; fi
        sleep 0.2
    done
    kill "$pid"
    wait "$pid" 2>/dev/null || true
    grep -q '1\.3' <<<"$answer" || { cat "$work/log" && fail "$machine: no handshake: $answer"; }
    ok "$machine: a TLS 1.3 handshake"
}

deb() {
    local root=$work/$here arch
    arch=$(dpkg --print-architecture)
    cp "$files/tlsidecar_$version-1_$arch.deb" "$root/opt/first.deb"
    chroot "$root" dpkg -i /opt/first.deb >"$work/dpkg" 2>&1 || { cat "$work/dpkg" && fail "dpkg -i"; }
    same "deb: starts in Debian 11" "$(chroot "$root" tlsidecar --version)" "tlsidecar $version"
    same "deb: its user" "$(chroot "$root" stat -c '%a %U:%G' /etc/tlsidecar/tlsidecar.toml)" "640 root:tlsidecar"
    chroot "$root" dpkg -P tlsidecar >"$work/dpkg" 2>&1 || { cat "$work/dpkg" && fail "dpkg -P"; }
    same "deb: purged" "$(ls -d "$root/etc/tlsidecar" 2>/dev/null)" ""
}

# In the same Debian, by this machine's rpm: its scripts run there.
rpm_package() {
    local root=$work/$here file=$files/tlsidecar-$version-1.$here.rpm
    rpm --root "$root" -i --nodeps --ignoreos "$file" >"$work/rpm" 2>&1 || { cat "$work/rpm" && fail "rpm -i"; }
    same "rpm: starts" "$(chroot "$root" tlsidecar --version)" "tlsidecar $version"
    same "rpm: its user, in its scripts" "$(chroot "$root" stat -c '%a %U:%G' /etc/tlsidecar /etc/tlsidecar/tlsidecar.toml)" \
        $'750 root:tlsidecar\n640 root:tlsidecar'
    rpm -qp --requires "$file" >"$work/requires" 2>/dev/null
    grep -q '^glibc >= 2.17' "$work/requires" || fail "rpm: requires $(cat "$work/requires")"
    rpm --root "$root" -e --nodeps tlsidecar >"$work/rpm" 2>&1 || { cat "$work/rpm" && fail "rpm -e"; }
    [ ! -e "$root/usr/bin/tlsidecar" ] || fail "rpm: not removed"
    ok "rpm: removed"
}

image() {
    local file=$files/tlsidecar-$version-$here-image.tar
    if [ ! -e "$file" ]; then printf '  - no image to check\n' && return; fi
    mkdir "$work/podman"
    # No process and no mount outlives it.
    timeout 120 unshare --net --mount --pid --fork --kill-child --mount-proc \
        python3 tests/deploy archive "$work/podman" "$file" "$version"
}

documents() {
    target/checks/venv/bin/python - "$files" "$version" <<'PYTHON'
import json, sys
from pathlib import Path
import helm_python as helm
files, version = Path(sys.argv[1]), sys.argv[2]
bill = json.loads((files / f"tlsidecar-{version}.cdx.json").read_text())
names = {component["name"] for component in bill["components"]}
assert bill["bomFormat"] == "CycloneDX" and {"rustls", "tokio", "aws-lc-sys"} <= names and len(names) > 80, names
charts = sorted(files.glob("*.tgz"))
assert charts and all(helm.Chart.load(str(path)).version == version for path in charts), charts
assert "- " in (files / "CHANGES.md").read_text()
print(f"ok: {len(names)} crates in the bill of materials; {len(charts)} charts load")
PYTHON
}

sums
image
# The files of a machine that builds its image alone end here.
[ -e "$files/CHANGES.md" ] || exit 0
for archive in "$files"/*-linux.tar.gz; do
    machine=${archive##*"-$version-"}
    machine=${machine%-linux.tar.gz}
    debian "$machine"
    tarball "$machine"
done
deb
rpm_package
documents
