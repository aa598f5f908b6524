#!/usr/bin/env bash
# Checks deploy/docker/, by `image.sh`: the image builds, twice to the same bytes, contains nothing else than documented,
# and serves devices from a container without privileges. Then, or alone by `image.sh pod`, it runs the two containers of
# a Pod as the manifests of deploy/kubernetes say (pod.py).
#
# `image.sh --only-builds DIR` makes both builds in DIR and ends; IMAGE_BUILDS=DIR takes them from there. DIR must be
# outside of the checkout. For a machine that has other work to do meanwhile.
#
# The first build is build.sh on this machine, from this directory. The second is the whole Dockerfile, from another
# directory; each has its own CARGO_HOME. Base images cannot be pulled everywhere: this machine's toolchain, mounted
# read-only into an empty image, takes the place of the Rust image. The builds share only the files that cargo has
# downloaded, and run at the same time.
# Needs root, buildah, podman, python3 with target/checks (tools.sh), and the programs that deploy/docker/build.sh needs; for
# the Pod kubectl, curl, and mosquitto with its clients. Leaves behind target/, cargo's home directory, and buildah's cache
# of blobs in /var/lib/containers/cache.
#   SCALE=5           divisor of the drain's times in the Pod
#   KUBERNETES=DIR    directory of overlays/example and overlays/example-classic
set -euo pipefail
checks=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$checks/../.." && pwd)
kubernetes=${KUBERNETES:-$root/deploy/kubernetes}
IMAGE=localhost/tlsidecar
MAX_BYTES=$((15 * 1024 * 1024))

checked=0
ok() { checked=$((checked + 1)) && printf 'ok: %s\n' "$1"; }
fail() { printf 'FAILED: %s\n' "$1" >&2 && exit 1; }
same() { if [ "$2" = "$3" ]; then ok "$1"; else fail "$1: $2, expected $3"; fi; }

# Container storage in the work directory, by a driver that works on every file system.
with_storage() {
    export STORAGE_DRIVER=vfs STORAGE_OPTS="" BUILDAH_ISOLATION=chroot
    export CONTAINERS_STORAGE_CONF=$work/storage.conf
    printf '[storage]\ndriver = "vfs"\ngraphroot = "%s/storage"\nrunroot = "%s/run"\n' "$work" "$work" >"$CONTAINERS_STORAGE_CONF"
}

cleanup() {
    local each
    for each in $compiling; do kill -- "-$each" 2>/dev/null && wait "$each" 2>/dev/null; done
    buildah umount --all >/dev/null 2>&1 || true
    if [ "$kept" = no ]; then rm -rf "$work"; fi
}

# An empty image with the links of this machine's root, for directories to be mounted into.
machine_image() {
    local rootfs=$work/machine name
    mkdir -p "$rootfs"/{etc,opt/cargo/bin,opt/rust,proc,sys,dev,tmp,usr,var/lib/dpkg}
    for name in bin lib lib64 sbin; do
        if [ -L "/$name" ]; then ln -s "$(readlink "/$name")" "$rootfs/$name"; fi
    done
    cp /etc/os-release "$rootfs/etc/os-release"
    # Installed by the first build: within this image crates.io cannot be reached.
    cp "$home/bin/cargo-auditable" "$rootfs/opt/cargo/bin/"
    cp "$home/.crates.toml" "$home/.crates2.json" "$rootfs/opt/cargo/"
    printf 'FROM scratch\nCOPY machine /\nENV CARGO_HOME=/opt/cargo PATH=/opt/rust/bin:/opt/cargo/bin:/usr/bin:/bin\n' \
        >"$work/Dockerfile.machine"
    buildah bud --quiet --pull=never -f "$work/Dockerfile.machine" -t localhost/machine "$work" >/dev/null
}

# Starts build.sh with a CARGO_HOME in which nothing is installed, as on a machine with only what docs/image.md names.
start_first() {
    cargo fetch --quiet --locked --manifest-path "$root/Cargo.toml"
    mkdir "$home" && ln -s "$cargo_home/registry" "$home/registry"
    # A process group for each build, so that it ends with its children.
    set -m
    CARGO_HOME=$home "$root/deploy/docker/build.sh" "$work/first/out" >"$work/first.log" 2>&1 &
    compiling=$!
    set +m
}

# Waits for build.sh, and makes an image of its binary.
finish_first() {
    wait "${compiling% *}" || { cat "$work/first.log" && fail "build.sh does not build"; }
    compiling=""
    buildah bud --quiet --pull=never --timestamp 0 --build-arg "REVISION=$revision" --build-context "build=$work/first" \
        -f "$root/deploy/docker/Dockerfile" -t "$IMAGE:first" "$root" >/dev/null
}

# Builds both images, the first from the binary of build.sh, the second by every line of the Dockerfile.
build() {
    local sysroot
    sysroot=$(rustc --print sysroot)
    start_first
    until [ -e "$home/bin/cargo-auditable" ] && [ -e "$home/.crates2.json" ]; do
        kill -0 "$compiling" 2>/dev/null || { cat "$work/first.log" && fail "build.sh does not build"; }
        sleep 0.2
    done
    machine_image
    set -m
    buildah bud --quiet --pull=never --timestamp 0 --build-arg "REVISION=$revision" --build-arg RUST_IMAGE=localhost/machine \
        -v /usr:/usr:ro -v /etc/alternatives:/etc/alternatives:ro -v /var/lib/dpkg:/var/lib/dpkg:ro \
        -v "$sysroot:/opt/rust:ro" -v "$cargo_home/registry:/opt/cargo/registry" \
        -f "$root/deploy/docker/Dockerfile" -t "$IMAGE:second" "$root" >"$work/second.log" 2>&1 &
    compiling="$compiling $!"
    set +m
    wait "${compiling#* }" || { cat "$work/second.log" && fail "the Dockerfile does not build"; }
    finish_first
    buildah push --quiet "$IMAGE:first" "dir:$work/image-first"
    buildah push --quiet "$IMAGE:second" "dir:$work/image-second"
    unpack first && unpack second
}

unpack() {
    local container
    container=$(buildah from --pull=never "$IMAGE:$1")
    cp -a "$(buildah mount "$container")" "$work/rootfs-$1"
    buildah rm "$container" >/dev/null
}

sum() { sha256sum "$1" | cut -d ' ' -f 1; }

reproducible() {
    cmp "$work/first/out/tlsidecar" "$work/rootfs-first/tlsidecar" || fail "the binary in the image is not the one that was built"
    same "two builds in two directories make one binary" \
        "$(sum "$work/rootfs-second/tlsidecar")" "$(sum "$work/rootfs-first/tlsidecar")"
    same "and one image" "$(sum "$work/image-second/manifest.json")" "$(sum "$work/image-first/manifest.json")"
    printf '    binary   sha256:%s\n    manifest sha256:%s\n' \
        "$(sum "$work/rootfs-first/tlsidecar")" "$(sum "$work/image-first/manifest.json")"
}

contents() {
    local bytes files
    files=$(cd "$work/rootfs-first" && find . -mindepth 1 -printf '%P %y %m %u:%g\n' | sort)
    same "it contains two files of root, and nothing else: no shell, no directories" "$files" \
        $'tlsidecar f 755 root:root\ntlsidecar.cdx.json f 644 root:root'
    bytes=$(du -sb --apparent-size "$work/rootfs-first" | cut -f 1)
    if [ "$bytes" -ge "$MAX_BYTES" ]; then fail "the image has $bytes bytes"; fi
    ok "$bytes bytes, of at most $MAX_BYTES; $(du -sb "$work/image-first" | cut -f 1) to download"
}

configuration() {
    local inspect version
    version=$(sed -n '/^version = /{s/version = "\(.*\)"/\1/p;q}' "$root/Cargo.toml")
    inspect=$(buildah inspect --type image "$IMAGE:first")
    python3 - "$version" "$revision" 3<<<"$inspect" <<'PYTHON'
import json, sys
image = json.load(open(3))["OCIv1"]
config, labels = image["config"], image["config"]["Labels"]
prefix = "org.opencontainers.image."
expected = {"title": "tlsidecar", "version": sys.argv[1], "revision": sys.argv[2], "licenses": "Apache-2.0 OR MIT"}
wrong = [f"label {key}: {labels.get(prefix + key)}" for key, value in expected.items() if labels.get(prefix + key) != value]
wrong += [] if labels.get(prefix + "description") else ["label description"]
wrong += [f"label {key}" for key in labels if not key.startswith(prefix) and key != "io.buildah.version"]
wrong += [] if config.get("User") == "65532:65532" else [f"user {config.get('User')}"]
wrong += [] if config.get("Entrypoint") == ["/tlsidecar"] else [f"entrypoint {config.get('Entrypoint')}"]
wrong += [f"{key} is set" for key in ("Cmd", "Volumes", "ExposedPorts") if config.get(key)]
wrong += [f"environment {line}" for line in config.get("Env", []) if not line.startswith("PATH=")]
sys.exit("; ".join(wrong) or 0)
PYTHON
    # The OCI format has none: buildah ignores it, Docker does not.
    if grep -q '^HEALTHCHECK' "$root/deploy/docker/Dockerfile"; then fail "the Dockerfile declares a HEALTHCHECK"; fi
    ok "user, entrypoint, and labels for version $version and its commit"
}

binary() {
    local headers dynamic found place
    headers=$(readelf --wide --file-header --program-headers "$work/rootfs-first/tlsidecar")
    dynamic=$(readelf --wide --dynamic "$work/rootfs-first/tlsidecar")
    if grep -qE 'INTERP' <<<"$headers" || grep -qE 'NEEDED' <<<"$dynamic"; then fail "the binary is not static"; fi
    if ! grep -qE 'Type: +DYN' <<<"$headers"; then fail "the binary is not position independent"; fi
    ok "the binary is static and position independent"
    for place in "$root" "$cargo_home" "$(rustc --print sysroot)" "$work" /opt/cargo; do
        if grep -qaF -- "$place" "$work/rootfs-first/tlsidecar"; then fail "the binary names $place"; fi
    done
    ok "the binary names no directory of this machine"
    # cargo finds .cargo/config.toml by its working directory; without it the build succeeds with other settings.
    if ! grep -qaF 'background_thread:true,dirty_decay_ms:1000,muzzy_decay_ms:0,narenas:4' "$work/rootfs-first/tlsidecar"; then
        fail "the binary lacks jemalloc's settings of .cargo/config.toml"
    fi
    found=$(find "${CARGO_TARGET_DIR:-$root/target}"/*-linux-gnu/image/build/aws-lc-sys-*/out -name '*.a' -print0 |
        xargs -0 nm 2>/dev/null)
    if ! grep -q 'RAND_bytes' <<<"$found"; then fail "no library of AWS-LC found"; fi
    if grep -q 'jent_entropy_init' <<<"$found"; then fail "AWS-LC was built with jitter entropy"; fi
    ok "the settings of .cargo/config.toml apply"
}

# Checks both parts of the list: the crates within the binary, against cargo's; the rest in the file beside it.
sbom() {
    objcopy --dump-section ".dep-v0=$work/dep-v0" "$work/rootfs-first/tlsidecar" "$work/copy"
    cargo tree --manifest-path "$root/Cargo.toml" --locked --edges normal,build --target "$(uname -m)-unknown-linux-gnu" \
        --prefix none --format '{p}' | sed -E 's/^([^ ]+) v([^ ]+).*/\1 \2/' | sort -u >"$work/crates"
    python3 - "$work/dep-v0" "$work/crates" "$work/rootfs-first/tlsidecar.cdx.json" <<'PYTHON'
import json, sys, zlib
within = json.loads(zlib.decompress(open(sys.argv[1], "rb").read()))["packages"]
named = {f"{package['name']} {package['version']}" for package in within}
expected = set(open(sys.argv[2]).read().splitlines())
if not expected or expected - named:
    sys.exit(f"the list of crates lacks {sorted(expected - named)} of {len(expected)}")
beside = {part["name"]: part for part in json.load(open(sys.argv[3]))["components"]}
if not any(name.startswith("gcc-") for name in beside) or not {"glibc", "rust-std"} <= set(beside):
    sys.exit(f"the list beside the binary has only {sorted(beside)}")
if any(not part["version"] or not part["purl"].startswith("pkg:") for part in beside.values()):
    sys.exit(f"a part without a version: {beside}")
# The list is made from cargo's metadata, which includes features that only the tests enable.
print(f"    {len(named)} crates, {len(named - expected)} of them for tests alone; " + ", ".join(f"{part['name']} {part['version']}" for part in beside.values()))
PYTHON
    ok "the list of parts is complete"
}

# Runs a check of this package in namespaces: no process, mount or address outlives it.
in_namespaces() {
    timeout 240 unshare --net --mount --pid --fork --kill-child --mount-proc python3 "$checks" "$@"
}

# Debian's mosquitto with the libraries that it is linked to, and the `sleep` of the classic example's preStop.
backend_image() {
    local rootfs=$work/backend program library
    for program in /usr/sbin/mosquitto /usr/bin/sleep; do
        install -D "$program" "$rootfs$program"
        for library in $(ldd "$program" | grep -oE '/[^ ]+'); do
            if [ ! -e "$rootfs$library" ]; then install -D "$library" "$rootfs$library"; fi
        done
    done
    printf 'FROM scratch\nCOPY backend /\nENV PATH=/usr/sbin:/usr/bin\nCMD ["/usr/sbin/mosquitto", "-c", "/mosquitto/config/mosquitto.conf"]\n' \
        >"$work/Dockerfile.backend"
    buildah bud --quiet --pull=never -f "$work/Dockerfile.backend" -t localhost/backend "$work" >/dev/null
}

pod() {
    local overlay
    backend_image
    buildah tag "$IMAGE:first" localhost/sidecar
    for overlay in example example-classic; do
        PATH=$PATH:$root/target/checks kubectl kustomize "$kubernetes/overlays/$overlay" >"$work/$overlay.yaml"
    done
    in_namespaces pod "$work" "${SCALE:-5}" || fail "the Pod does not do what its manifests say"
}

main() {
    kept=no
    if [ "${1:-}" = --only-builds ]; then
        work=$2 kept=yes
        mkdir -p "$work"
    elif [ "${1:-}" != pod ] && [ -e "${IMAGE_BUILDS:-}/made" ]; then
        work=$IMAGE_BUILDS
    else
        work=$(mktemp -d)
    fi
    # Outside of the checkout, because build.sh maps the paths of both to other names.
    home=$work/home
    cargo_home=${CARGO_HOME:-$HOME/.cargo}
    revision=$(git -C "$root" rev-parse HEAD 2>/dev/null || echo unknown)
    compiling=""
    trap cleanup EXIT
    with_storage
    if [ "${1:-}" = pod ]; then
        start_first
        finish_first
    else
        [ -e "$work/made" ] || build
        touch "$work/made"
        if [ "$kept" = yes ]; then return; fi
        reproducible
        contents
        configuration
        binary
        sbom
        in_namespaces image "$work" "$IMAGE:first" || fail "the image does not serve"
        printf 'image: %d checks of its files\n' "$checked"
    fi
    pod
}

main "$@"
