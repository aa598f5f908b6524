#!/usr/bin/env bash
# An emulation of a Pod: starts the two containers of deploy/kubernetes' examples as their manifests say, in the
# order in which kubelet would, and is their devices. pod/emulate.py does it, and says what it does not show.
#
# Needs root, podman, buildah, kubectl, curl, openssl, mosquitto with its clients, python3-yaml, and what
# deploy/docker/build.sh needs. Leaves behind what image.sh leaves.
#   SCALE=5           the seconds of the drain are divided by this
#   KUBERNETES=DIR    where overlays/example and overlays/example-classic are
set -euo pipefail
checks=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$checks/../.." && pwd)
kubernetes=${KUBERNETES:-$root/deploy/kubernetes}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

export STORAGE_DRIVER=vfs BUILDAH_ISOLATION=chroot CONTAINERS_STORAGE_CONF=$work/storage.conf
printf '[storage]\ndriver = "vfs"\ngraphroot = "%s/storage"\nrunroot = "%s/run"\n' "$work" "$work" >"$CONTAINERS_STORAGE_CONF"

# Debian's mosquitto, unchanged, with the libraries that it is linked to; and the `sleep` that the classic
# example's preStop asks of the backend's image.
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

"$root/deploy/docker/build.sh" "$work/build/out"
buildah bud --quiet --pull=never --build-context "build=$work/build" -f "$root/deploy/docker/Dockerfile" \
    -t localhost/sidecar "$root" >/dev/null
backend_image
for overlay in example example-classic; do
    kubectl kustomize "$kubernetes/overlays/$overlay" >"$work/$overlay.yaml"
done
# Processes, mounts and addresses of its own: whatever happens, nothing of it stays.
timeout 180 unshare --net --mount --pid --fork --kill-child --mount-proc \
    /usr/bin/python3 "$checks/pod/emulate.py" "$work" "${SCALE:-5}"
