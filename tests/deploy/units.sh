#!/usr/bin/env bash
# Checks the units: their syntax, the exposure of the service, and the shell scripts. Needs systemd-analyze of systemd 252
# or later, and shellcheck.
set -euo pipefail
cd "$(dirname "$0")/../.."

units=(deploy/systemd/*.service deploy/systemd/*.socket)
scripts=(deploy/systemd/*.sh deploy/debian/*.sh deploy/debian/{postinst,prerm,postrm} deploy/release/*.sh tests/deploy/*.sh .ci/run fuzz/run)
threshold=15 # 1.5

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

fail() {
    printf '%s\n' "$*" >&2
    exit 1
}

# The service without drop-ins, which are checked below. `verify` requires the executable to exist.
install -D -m 755 /dev/null "$work/usr/bin/tlsidecar"
for unit in "${units[@]}"; do
    sed "s,^ExecStart=/,ExecStart=$work/," "$unit" >"$work/${unit##*/}"
done
grep -q "^ExecStart=$work/usr/bin/tlsidecar " "$work/tlsidecar.service" || fail "the service starts another program"
for unit in "${units[@]}"; do
    output=$(systemd-analyze verify --man=no "$work/${unit##*/}" 2>&1) || fail "$unit: $output"
    [ -z "$output" ] || fail "$unit: $output"
done
printf '%d units are well-formed\n' "${#units[@]}"

exposure=$(systemd-analyze security --offline=true --threshold=$threshold "$work/tlsidecar.service") ||
    fail "$(grep -v '✓' <<<"$exposure")"
sed -n 's/^→ //p' <<<"$exposure" | grep . || fail "systemd-analyze prints no level"

# Settings that break the service: docs/systemd.md gives the reasons.
for trap in LoadCredential SupplementaryGroups ProcSubset DynamicUser; do
    if grep -q "^$trap=" deploy/systemd/tlsidecar.service; then fail "$trap= in the service"; fi
done

# Drop-ins that an operator copies, where this systemd knows their keys.
version=$(systemctl --version | sed -n '1s/^systemd \([0-9]*\).*/\1/p')
checked=0
for dropin in deploy/systemd/tlsidecar.service.d/*.conf; do
    needs=$(sed -n 's/^# For systemd \([0-9]*\) and later.*/\1/p' "$dropin")
    [ -n "$needs" ] || fail "$dropin does not name its version of systemd"
    if [ "$version" -lt "$needs" ]; then
        printf '%s is not checked: it needs systemd %s, here is %s\n' "$dropin" "$needs" "$version"
        continue
    fi
    install -D -m 644 "$dropin" "$work/tlsidecar.service.d/${dropin##*/}"
    checked=$((checked + 1))
done
if [ "$checked" -gt 0 ]; then
    output=$(systemd-analyze verify --man=no "$work/tlsidecar.service" 2>&1) || fail "drop-ins: $output"
    [ -z "$output" ] || fail "drop-ins: $output"
fi
printf '%d drop-ins are well-formed\n' "$checked"

output=$(systemd-sysusers --dry-run "$PWD/deploy/systemd/sysusers.d/tlsidecar.conf" 2>&1) || fail "sysusers.d: $output"
grep -q "tlsidecar" <<<"$output" || [ -n "$(getent passwd tlsidecar)" ] || fail "sysusers.d makes no user: $output"

shellcheck "${scripts[@]}"
printf '%d scripts pass shellcheck\n' "${#scripts[@]}"
