#!/usr/bin/env bash
# Makes a disk with Debian for the test guest, in build/disk/:
#
#   disk.raw       an ext4 file system, without partitions
#   id_ed25519     the key that root in the guest lets in
#   manifest       what it was made of
#
# To be booted with the test guest's kernel and initramfs (scripts/guest-image.sh):
#
#     root=/dev/vda ip=10.0.0.2::10.0.0.1:255.255.255.0:guest:eth0
#
# There is a shell for root on the serial port without a password; sshd, redis and PostgreSQL
# listen on every address, for every client. So this is for networks that are closed.
#
# Debootstrap needs root, and a network unless build/packages/disk has all packages already.
# --update looks for newer packages.
set -euo pipefail

cd "$(dirname "$0")/.."
root=$PWD
packages=$root/build/packages/disk
out=build/disk
suite=bookworm
mirror=http://deb.debian.org/debian
# In MiB; the file is sparse.
size=2048

wanted=(systemd systemd-sysv dbus udev kmod iproute2 iputils-ping netcat-openbsd procps util-linux
    e2fsprogs openssh-server redis-server postgresql fio rsync curl)

update=no
for argument in "$@"; do
    case $argument in
        --update) update=yes ;;
        *)
            echo "usage: scripts/guest-disk.sh [--update]" >&2
            exit 2
            ;;
    esac
done

if [ "$(id -u)" -ne 0 ]; then
    echo "guest-disk: debootstrap needs root" >&2
    exit 1
fi
missing=()
command -v debootstrap >/dev/null || missing+=(debootstrap)
command -v mke2fs >/dev/null || missing+=(e2fsprogs)
command -v ssh-keygen >/dev/null || missing+=(openssh-client)
if [ "${#missing[@]}" -gt 0 ]; then
    echo "guest-disk: installing ${missing[*]}"
    DEBIAN_FRONTEND=noninteractive apt-get install --yes --quiet --no-install-recommends \
        "${missing[@]}" </dev/null
fi

scripts/guest-image.sh
mkdir -p "$packages"
# Two of us at once would overwrite each other's work.
exec 9>build/disk.lock
flock 9
[ "$update" = no ] || rm -rf "${packages:?}"/*

# Everything that decides what comes out, but for the keys and the times of files.
manifest() {
    (cd "$packages" && find . -name '*.deb' -print0 | LC_ALL=C sort -z | xargs -0 --no-run-if-empty sha256sum)
    (cd build/packages && sha256sum linux-image-*.deb)
    sha256sum scripts/guest-disk.sh
}
if [ -e "$out/disk.raw" ] && manifest | cmp -s - "$out/manifest"; then
    echo "guest-disk: $out is up to date"
    exit 0
fi

work=$(mktemp -d build/disk.XXXXXX)
trap 'rm -rf "$work"' EXIT
tree=$work/tree
mkdir "$work/out"

echo "guest-disk: debootstrap of $suite"
list=$(
    IFS=,
    echo "${wanted[*]}"
)
if ! debootstrap --variant=minbase --include="$list" --cache-dir="$packages" \
    "$suite" "$tree" "$mirror" >"$work/debootstrap.log" 2>&1; then
    tail -n 20 "$work/debootstrap.log" "$tree/debootstrap/debootstrap.log" >&2 || true
    exit 1
fi

# The drivers, as the kernel's package has them.
dpkg-deb -x build/packages/linux-image-*.deb "$work/kernel"
cp -r "$work/kernel/lib/modules" "$tree/lib/"
chroot "$tree" depmod "$(ls "$tree/lib/modules")"

echo guest >"$tree/etc/hostname"
echo '127.0.0.1 localhost guest' >"$tree/etc/hosts"
echo '/dev/vda / ext4 defaults 0 1' >"$tree/etc/fstab"
: >"$tree/etc/resolv.conf"
# Systemd makes one at the first boot.
: >"$tree/etc/machine-id"
chroot "$tree" passwd --delete root >/dev/null

# The initramfs has set the network up from ip= already. Networkd takes it over as it is, so
# that the address is the VM's configuration and not the disk's.
cat >"$tree/etc/systemd/network/50-kept.network" <<'UNIT'
[Match]
Name=eth*

[Network]
KeepConfiguration=static
LinkLocalAddressing=no
IPv6AcceptRA=no
UNIT
ln -sf /dev/null "$tree/etc/systemd/network/99-default.link"
chroot "$tree" systemctl --quiet enable systemd-networkd

mkdir -p "$tree/etc/systemd/system/serial-getty@ttyS0.service.d"
cat >"$tree/etc/systemd/system/serial-getty@ttyS0.service.d/autologin.conf" <<'UNIT'
[Service]
ExecStart=
ExecStart=-/sbin/agetty --autologin root --noclear --keep-baud 115200 %I vt220
UNIT
chroot "$tree" systemctl --quiet enable serial-getty@ttyS0.service
# What a test would have to wait for and does not need.
chroot "$tree" systemctl --quiet mask apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer \
    e2scrub_all.timer e2scrub_reap.service fstrim.timer systemd-timesyncd.service getty@tty1.service \
    systemd-networkd-wait-online.service systemd-network-generator.service

ssh-keygen -q -t ed25519 -N '' -C test -f "$work/out/id_ed25519"
install -d -m 700 "$tree/root/.ssh"
install -m 600 "$work/out/id_ed25519.pub" "$tree/root/.ssh/authorized_keys"
rm "$work/out/id_ed25519.pub"
echo 'UseDNS no' >"$tree/etc/ssh/sshd_config.d/test.conf"

# Every acknowledged write is on the disk.
cat >>"$tree/etc/redis/redis.conf" <<'CONFIGURATION'
bind *
protected-mode no
appendonly yes
appendfsync always
CONFIGURATION
cluster=$(echo "$tree"/etc/postgresql/*/main)
cat >"$cluster/pg_hba.conf" <<'CONFIGURATION'
local all all trust
host all all all trust
CONFIGURATION
mkdir -p "$cluster/conf.d"
echo "listen_addresses = '*'" >"$cluster/conf.d/test.conf"

# Nothing of the packages' own cache, documentation and messages.
rm -rf "$tree"/var/cache/apt/archives/*.deb "$tree"/var/lib/apt/lists/* \
    "$tree"/usr/share/{doc,man,locale,info}/* "$tree"/var/log/*.log

mke2fs -q -t ext4 -L root -E root_owner=0:0 -d "$tree" "$work/out/disk.raw" "${size}M"
manifest >"$work/out/manifest"
rm -rf "$out"
mv "$work/out" "$out"
ls -ls "$out"
