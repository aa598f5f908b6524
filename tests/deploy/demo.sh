#!/usr/bin/env bash
# Runs the README's first command, then the three devices and the renewal that it prints.
# Needs cargo, python3, openssl and curl, and the ports of the demo.
set -euo pipefail
cd "$(dirname "$0")/../.."
log=$(mktemp)
demo=""

cleanup() {
    if [ -n "$demo" ]; then kill -KILL "$demo" 2>/dev/null || true; fi
    rm -f "$log"
}
trap cleanup EXIT

# Waits for a line of the demo's output that contains $1.
wait_for_line() {
    for _ in $(seq 600); do
        if grep -qF "$1" "$log"; then return 0; fi
        if ! kill -0 "$demo" 2>/dev/null; then break; fi
        sleep 0.1
    done
    cat "$log"
    printf 'the demo does not print: %s\n' "$1"
    return 1
}

# Waits for a line of /metrics.
wait_for_metric() {
    for _ in $(seq 100); do
        if curl -sf http://127.0.0.1:9901/metrics | grep -F "$1"; then return 0; fi
        sleep 0.1
    done
    printf 'no metric: %s\n' "$1"
    return 1
}

# Runs a device, which sends and receives "Hello, server!".
device() {
    local answer
    answer=$( (echo 'Hello, server!' && sleep 1) | "$@" 2>&1)
    printf '%s\n' "$answer"
    grep -qx 'Hello, server!' <<<"$answer"
}

cargo build --quiet --release --locked
rm -rf certs/dev
target/release/tlsidecar demo >"$log" 2>&1 &
demo=$!
wait_for_line "Ctrl-C ends it."
device python3 examples/device.py --port 8883 --ca certs/dev/ca.crt
device python3 examples/device_old.py --port 8883
device timeout 20 openssl s_client -connect 127.0.0.1:8883 -servername localhost \
    -CAfile certs/dev/ca.crt -verify_return_error -quiet -no_ign_eof
wait_for_metric 'tlsidecar_connections_accepted_total{listener="demo"} 3'
eval "$(grep -e ' --renew' "$log")"
wait_for_metric 'reloads_total{outcome="swapped"} 1'
kill -INT "$demo"
wait "$demo"
demo=""
