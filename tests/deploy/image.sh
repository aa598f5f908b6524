#!/usr/bin/env bash
# Checks deploy/docker/: that the image builds, twice to the same bytes, that nothing is in it that should not be,
# and that it serves devices from a container that may do nothing else.
#
# The first build is build.sh on this machine, from this directory. The second is the whole Dockerfile, from another
# directory; each has a CARGO_HOME of its own. Since base images cannot be pulled everywhere, this machine's own
# toolchain, mounted read-only into an empty image, takes the place of the Rust image. Both share nothing but what
# cargo has downloaded, and run at the same time.
# Needs root, buildah, podman, and what deploy/docker/build.sh needs. Leaves nothing behind but target/,
# what cargo keeps in its own home, and buildah's list of the blobs that it has seen, /var/lib/containers/cache.
set -euo pipefail
checks=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$checks/../.." && pwd)
IMAGE=localhost/tlsidecar
MAX_BYTES=$((15 * 1024 * 1024))

checked=0
ok() { checked=$((checked + 1)) && printf 'ok: %s\n' "$1"; }
fail() { printf 'FAILED: %s\n' "$1" >&2 && exit 1; }
same() { if [ "$2" = "$3" ]; then ok "$1"; else fail "$1: $2, expected $3"; fi; }

# Storage of our own, which needs nothing of the file system that it is on.
with_storage() {
    export STORAGE_DRIVER=vfs STORAGE_OPTS="" BUILDAH_ISOLATION=chroot
    export CONTAINERS_STORAGE_CONF=$work/storage.conf
    printf '[storage]\ndriver = "vfs"\ngraphroot = "%s/storage"\nrunroot = "%s/run"\n' "$work" "$work" >"$CONTAINERS_STORAGE_CONF"
}

cleanup() {
    local each
    for each in $compiling; do kill -- "-$each" 2>/dev/null && wait "$each" 2>/dev/null; done
    buildah umount --all >/dev/null 2>&1 || true
    rm -rf "$work"
}

# An empty image with the names that this machine's directories go by, to have them mounted into.
machine_image() {
    local rootfs=$work/machine name
    mkdir -p "$rootfs"/{etc,opt/cargo/bin,opt/rust,proc,sys,dev,tmp,usr,var/lib/dpkg}
    for name in bin lib lib64 sbin; do
        if [ -L "/$name" ]; then ln -s "$(readlink "/$name")" "$rootfs/$name"; fi
    done
    cp /etc/os-release "$rootfs/etc/os-release"
    # What the first build has installed: from within this image there is no way to crates.io.
    cp "$work/home/bin/cargo-auditable" "$rootfs/opt/cargo/bin/"
    cp "$work/home/.crates.toml" "$work/home/.crates2.json" "$rootfs/opt/cargo/"
    printf 'FROM scratch\nCOPY machine /\nENV CARGO_HOME=/opt/cargo PATH=/opt/rust/bin:/opt/cargo/bin:/usr/bin:/bin\n' \
        >"$work/Dockerfile.machine"
    buildah bud --quiet --pull=never -f "$work/Dockerfile.machine" -t localhost/machine "$work" >/dev/null
}

# Both images, the first from the binary that build.sh has made, the second by every line of the Dockerfile.
build() {
    local sysroot
    sysroot=$(rustc --print sysroot)
    cargo fetch --quiet --locked --manifest-path "$root/Cargo.toml"
    # A home of cargo's in which nothing is installed, as on a machine that has only what docs/image.md names.
    mkdir "$work/home" && ln -s "$cargo_home/registry" "$work/home/registry"
    # Groups of their own, so that they can be ended with all that they have started.
    set -m
    CARGO_HOME=$work/home "$root/deploy/docker/build.sh" "$work/first/out" >"$work/first.log" 2>&1 &
    compiling=$!
    until [ -e "$work/home/bin/cargo-auditable" ] && [ -e "$work/home/.crates2.json" ]; do
        kill -0 "$compiling" 2>/dev/null || { cat "$work/first.log" && fail "build.sh does not build"; }
        sleep 0.2
    done
    machine_image
    buildah bud --quiet --pull=never --timestamp 0 --build-arg "REVISION=$revision" --build-arg RUST_IMAGE=localhost/machine \
        -v /usr:/usr:ro -v /etc/alternatives:/etc/alternatives:ro -v /var/lib/dpkg:/var/lib/dpkg:ro \
        -v "$sysroot:/opt/rust:ro" -v "$cargo_home/registry:/opt/cargo/registry" \
        -f "$root/deploy/docker/Dockerfile" -t "$IMAGE:second" "$root" >"$work/second.log" 2>&1 &
    compiling="$compiling $!"
    set +m
    wait "${compiling#* }" || { cat "$work/second.log" && fail "the Dockerfile does not build"; }
    wait "${compiling% *}" || { cat "$work/first.log" && fail "build.sh does not build"; }
    compiling=""
    buildah bud --quiet --pull=never --timestamp 0 --build-arg "REVISION=$revision" --build-context "build=$work/first" \
        -f "$root/deploy/docker/Dockerfile" -t "$IMAGE:first" "$root" >/dev/null
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
    cmp "$work/first/out/tlsidecar" "$work/rootfs-first/tlsidecar" || fail "the image has another binary than was built"
    same "two builds in two directories make one binary" \
        "$(sum "$work/rootfs-second/tlsidecar")" "$(sum "$work/rootfs-first/tlsidecar")"
    same "and one image" "$(sum "$work/image-second/manifest.json")" "$(sum "$work/image-first/manifest.json")"
    printf '    binary   sha256:%s\n    manifest sha256:%s\n' \
        "$(sum "$work/rootfs-first/tlsidecar")" "$(sum "$work/image-first/manifest.json")"
}

contents() {
    local bytes files
    files=$(cd "$work/rootfs-first" && find . -mindepth 1 -printf '%P %y %m %u:%g\n' | sort)
    same "there are two files in it, of root, and nothing else: no shell, no directories" "$files" \
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
    # The OCI format has no place for it: buildah leaves it out, Docker would not.
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
    # .cargo/config.toml is found by cargo's working directory: easily lost, and nothing would tell.
    if ! grep -qaF 'background_thread:true,dirty_decay_ms:1000,muzzy_decay_ms:0,narenas:4' "$work/rootfs-first/tlsidecar"; then
        fail "the binary lacks jemalloc's settings of .cargo/config.toml"
    fi
    found=$(find "${CARGO_TARGET_DIR:-$root/target}"/*-linux-gnu/image/build/aws-lc-sys-*/out -name '*.a' -print0 |
        xargs -0 nm 2>/dev/null)
    if ! grep -q 'RAND_bytes' <<<"$found"; then fail "no AWS-LC found to look into"; fi
    if grep -q 'jent_entropy_init' <<<"$found"; then fail "AWS-LC was built with jitter entropy"; fi
    ok "the settings of .cargo/config.toml are in force"
}

# Both halves of the list: the crates within the binary, against cargo's own; the rest in the file beside it.
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
# cargo's metadata, which it is made from, counts what only the tests' features turn on.
print(f"    {len(named)} crates, {len(named - expected)} of them for tests alone; " + ", ".join(f"{part['name']} {part['version']}" for part in beside.values()))
PYTHON
    ok "the list of parts is complete"
}

main() {
    work=$(mktemp -d)
    cargo_home=${CARGO_HOME:-$HOME/.cargo}
    revision=$(git -C "$root" rev-parse HEAD 2>/dev/null || echo unknown)
    compiling=""
    trap cleanup EXIT
    with_storage
    build
    reproducible
    contents
    configuration
    binary
    sbom
    # Processes, mounts and addresses of its own: whatever happens, nothing of it stays.
    timeout 120 unshare --net --mount --pid --fork --kill-child --mount-proc \
        /usr/bin/python3 "$checks/image/serve.py" "$work" "$IMAGE:first" || fail "the image does not serve"
    printf 'image: %d checks, and those of serve.py\n' "$checked"
}

main "$@"
