#!/usr/bin/env bash
# Makes a small disk with services for the test guest, in build/services/:
#
#   disk.raw       an ext4 file system with redis, an ssh server and `serve`
#   id_ed25519     the key that root in the guest lets in
#   manifest       what it was made of
#
# To be booted like the disk of scripts/guest-disk.sh, which takes minutes to make; this one takes
# seconds. The programs are those of Debian's packages as they are installed on this host.
set -euo pipefail

cd "$(dirname "$0")/.."
out=build/services
guest=build/guest
# In MiB; the file is sparse.
size=128

mkdir -p build
exec 9>build/services.lock
flock 9

PATH=$PATH:/usr/sbin
redis=$(command -v redis-server)
dropbear=$(command -v dropbear)
busybox=$(echo build/packages/busybox-static_*.deb)
manifest() {
    sha256sum scripts/guest-services.sh tests/guests/services "$redis" "$dropbear" \
        "$guest/serve" "$busybox"
}
if [ -e "$out/disk.raw" ] && manifest | cmp -s - "$out/manifest"; then
    echo "guest-services: $out is up to date"
    exit 0
fi

work=$(mktemp -d build/services.XXXXXX)
trap 'rm -rf "$work"' EXIT
tree=$work/tree
mkdir -p "$work/out" "$tree"/{bin,sbin,dev,proc,sys,tmp,etc/dropbear,data} "$tree/root/.ssh"
dpkg-deb --fsys-tarfile "$busybox" | tar -x -C "$tree" ./bin/busybox
for applet in $("$tree/bin/busybox" --list); do
    [ "$applet" = busybox ] || ln -s busybox "$tree/bin/$applet"
done
cp "$guest/serve" "$tree/bin/serve"
cp tests/guests/services "$tree/sbin/init"
for program in "$redis" "$dropbear"; do
    cp -L "$program" "$tree/bin/"
    # A library is where its loader looks for it on this host.
    ldd "$program" | grep -o '/[^ ]*' | while read -r library; do
        mkdir -p "$tree$(dirname "$library")"
        cp -L "$library" "$tree$library"
    done
done
echo 'root::0:0:root:/root:/bin/sh' >"$tree/etc/passwd"
echo 'root:x:0:' >"$tree/etc/group"
echo '/bin/sh' >"$tree/etc/shells"
ssh-keygen -q -t ed25519 -N '' -C test -f "$work/out/id_ed25519"
chmod 700 "$tree/root" "$tree/root/.ssh"
mv "$work/out/id_ed25519.pub" "$tree/root/.ssh/authorized_keys"
chmod 600 "$tree/root/.ssh/authorized_keys"

mke2fs -q -t ext4 -L root -E root_owner=0:0 -d "$tree" "$work/out/disk.raw" "${size}M"
manifest >"$work/out/manifest"
rm -rf "$out"
mv "$work/out" "$out"
ls -ls "$out"
