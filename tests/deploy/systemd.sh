#!/usr/bin/env bash
# Are the units well-formed, and is the service shut in as far as it can be? Needs systemd-analyze of systemd
# 252 or later, and shellcheck.
set -euo pipefail
cd "$(dirname "$0")/../.."

units=(deploy/systemd/*.service deploy/systemd/*.socket)
scripts=(deploy/systemd/*.sh deploy/debian/*.sh deploy/debian/{postinst,prerm,postrm} tests/deploy/*.sh tests/deploy/package/*.sh)
threshold=15 # 1.5

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

fail() {
    printf '%s\n' "$*" >&2
    exit 1
}

# The service by itself: drop-ins for other versions of systemd are checked below. `verify` wants to find what
# is executed.
install -D -m 755 /dev/null "$work/usr/bin/tlsidecar"
for unit in "${units[@]}"; do
    sed "s,^ExecStart=/,ExecStart=$work/," "$unit" >"$work/${unit##*/}"
done
grep -q "^ExecStart=$work/usr/bin/tlsidecar " "$work/tlsidecar.service" || fail "the service starts something else"
for unit in "${units[@]}"; do
    said=$(systemd-analyze verify --man=no "$work/${unit##*/}" 2>&1) || fail "$unit: $said"
    [ -z "$said" ] || fail "$unit: $said"
done
printf '%d units are well-formed\n' "${#units[@]}"

exposure=$(systemd-analyze security --offline=true --threshold=$threshold "$work/tlsidecar.service") ||
    fail "$(grep -v '✓' <<<"$exposure")"
sed -n 's/^→ //p' <<<"$exposure" | grep . || fail "systemd-analyze says no level"

# What reference and experience say must not be there.
for trap in LoadCredential SupplementaryGroups ProcSubset DynamicUser; do
    if grep -q "^$trap=" deploy/systemd/tlsidecar.service; then fail "$trap= in the service"; fi
done

# Drop-ins that an operator copies: on a systemd that knows their keys they have to be well-formed as well.
version=$(systemctl --version | sed -n '1s/^systemd \([0-9]*\).*/\1/p')
checked=0
for dropin in deploy/systemd/tlsidecar.service.d/*.conf; do
    needs=$(sed -n 's/^# For systemd \([0-9]*\) and later.*/\1/p' "$dropin")
    [ -n "$needs" ] || fail "$dropin does not say which systemd it is for"
    if [ "$version" -lt "$needs" ]; then
        printf '%s is not checked: it needs systemd %s, here is %s\n' "$dropin" "$needs" "$version"
        continue
    fi
    install -D -m 644 "$dropin" "$work/tlsidecar.service.d/${dropin##*/}"
    checked=$((checked + 1))
done
if [ "$checked" -gt 0 ]; then
    said=$(systemd-analyze verify --man=no "$work/tlsidecar.service" 2>&1) || fail "drop-ins: $said"
    [ -z "$said" ] || fail "drop-ins: $said"
fi
printf '%d drop-ins are well-formed\n' "$checked"

said=$(systemd-sysusers --dry-run "$PWD/deploy/systemd/sysusers.d/tlsidecar.conf" 2>&1) || fail "sysusers.d: $said"
grep -q "tlsidecar" <<<"$said" || [ -n "$(getent passwd tlsidecar)" ] || fail "sysusers.d makes no user: $said"

shellcheck "${scripts[@]}"
printf '%d scripts pass shellcheck\n' "${#scripts[@]}"
