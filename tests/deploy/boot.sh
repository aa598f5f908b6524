#!/usr/bin/env bash
# Becomes systemd on the root $1, in the control group $2: PID 1 of new namespaces. Part of package.py.
set -euo pipefail
root=$1
cgroup=$2

mount --bind "$root" "$root"
mount -t proc proc "$root/proc"
mount -t sysfs sysfs "$root/sys"
mount -t tmpfs -o mode=755 tmpfs "$root/run"
mount -t tmpfs -o mode=1777 tmpfs "$root/tmp"
mount -t tmpfs -o mode=755 tmpfs "$root/dev"
for device in null zero full random urandom tty; do
    touch "$root/dev/$device"
    mount --bind "/dev/$device" "$root/dev/$device"
done
mkdir "$root/dev/shm" "$root/dev/pts"
# PrivateDevices= of the service copies this one as well.
mount -t devpts -o newinstance,ptmxmode=0666 devpts "$root/dev/pts"
ln -s pts/ptmx "$root/dev/ptmx"
mount -t tmpfs tmpfs "$root/dev/shm"
# This control group becomes the root of systemd's hierarchy.
echo $$ >"$cgroup/cgroup.procs"
cd "$root"
mkdir -p .old
# shellcheck disable=SC2016 # expanded by the inner shell
exec unshare --cgroup bash -c '
    mount -t cgroup2 cgroup2 sys/fs/cgroup
    pivot_root . .old
    umount -l /.old
    exec env -i container=check PATH=/usr/sbin:/usr/bin:/sbin:/bin \
        /lib/systemd/systemd --log-target=journal --show-status=no systemd.unit=multi-user.target </dev/null'
