#!/usr/bin/env bash
# Makes the test guest from Debian's packages, in build/guest/:
#
#   bzImage             the amd64 cloud kernel as Debian ships it
#   vmlinux             the ELF file inside it, with its PVH entry
#   initramfs.cpio.gz   busybox, the drivers of virtio devices, our guest programs, our init
#   count               a guest program, to be run on the host for comparison
#   serve               a guest program, to be put on other guests' disks
#   manifest            what it was made of
#
# The same inputs give the same bytes. Packages are kept in build/packages/ and used again;
# --update looks for newer ones. Nothing is installed on the host, and no root is needed.
set -euo pipefail

cd "$(dirname "$0")/.."
. scripts/packages.sh
packages=build/packages
out=build/guest
guests=tests/guests

update=no
for argument in "$@"; do
    case $argument in
        --update) update=yes ;;
        *)
            echo "usage: scripts/guest-image.sh [--update]" >&2
            exit 2
            ;;
    esac
done

mkdir -p "$packages" build
# Two of us at once would overwrite each other's work.
exec 9>build/guest.lock
flock 9

work=$(mktemp -d build/guest.XXXXXX)
trap 'rm -rf "$work"' EXIT

# The package that the metapackage of the cloud kernel stands for.
kernel_package() {
    local name
    name=$(apt-cache depends linux-image-cloud-amd64 | sed -n 's/^ *Depends: //p' | head -n 1)
    [ -n "$name" ] || return 1
    echo "$name"
}

fetch "$packages" "$update" 'linux-image-*.deb' kernel_package
fetch "$packages" "$update" 'busybox-static_*.deb' echo busybox-static

compile=(gcc -std=c11 -O2 -Wall -Wextra -Werror -ffp-contract=off -fno-math-errno
    -static -s "-Wl,--build-id=none")

# Everything that decides what comes out.
manifest() {
    (cd "$packages" && LC_ALL=C sha256sum ./*.deb)
    LC_ALL=C sha256sum scripts/guest-image.sh scripts/packages.sh
    find "$guests" -maxdepth 1 -type f -print0 | LC_ALL=C sort -z | xargs -0 sha256sum
    gcc -dumpfullversion
    sha256sum "$(gcc -print-file-name=libc.a)"
}
manifest >"$work/manifest"
if cmp -s "$work/manifest" "$out/manifest"; then
    echo "guest-image: $out is up to date"
    exit 0
fi

for package in "$packages"/*.deb; do
    dpkg-deb -x "$package" "$work/root"
done

# number FILE OFFSET BYTES: a little-endian number.
number() {
    od -A n -t "u$3" -j "$2" -N "$3" --endian=little "$1" | tr -d ' '
}

# The boot protocol's header says where in a bzImage the compressed kernel is.
extract_vmlinux() {
    local bzimage=$1 sectors start length magic
    sectors=$(number "$bzimage" $((0x1f1)) 1)
    start=$(((sectors + 1) * 512 + $(number "$bzimage" $((0x248)) 4)))
    length=$(number "$bzimage" $((0x24c)) 4)
    # The last four bytes are the length of what is compressed, and not part of it.
    dd if="$bzimage" of="$work/payload" bs=1M iflag=skip_bytes,count_bytes \
        skip="$start" count="$((length - 4))" status=none
    magic=$(od -A n -t x1 -N 4 "$work/payload" | tr -d ' ')
    case $magic in
        02214c18) lz4 -dcq "$work/payload" ;;
        1f8b*) gzip -dc "$work/payload" ;;
        fd377a58) xz -dc "$work/payload" ;;
        28b52ffd) zstd -dcq "$work/payload" ;;
        *)
            echo "guest-image: unknown compression of the kernel (magic $magic)" >&2
            return 1
            ;;
    esac
}

mkdir "$work/out"
cp "$work"/root/boot/vmlinuz-* "$work/out/bzImage"
extract_vmlinux "$work/out/bzImage" >"$work/out/vmlinux"
if [ "$(od -A n -t x1 -N 4 "$work/out/vmlinux" | tr -d ' ')" != 7f454c46 ]; then
    echo "guest-image: what the kernel unpacks to is no ELF file" >&2
    exit 1
fi

"${compile[@]}" -o "$work/out/count" "$guests/count.c" "$guests/sha256.c"
"${compile[@]}" -o "$work/out/serve" "$guests/serve.c"
"${compile[@]}" -o "$work/disk-bench" "$guests/disk-bench.c"
"${compile[@]}" -o "$work/streams" "$guests/streams.c"
"${compile[@]}" -o "$work/channels" "$guests/channels.c"

tree=$work/tree
mkdir -p "$tree"/{bin,dev,proc,sys,tmp,mnt,root,etc}
cp "$work/root/bin/busybox" "$tree/bin/busybox"
for applet in $("$tree/bin/busybox" --list); do
    [ "$applet" = busybox ] || ln -s busybox "$tree/bin/$applet"
done
cp "$work/out/count" "$tree/bin/count"
cp "$work/out/serve" "$work"/{disk-bench,streams,channels} "$tree/bin/"
cp "$guests/load_drivers" "$tree/bin/load_drivers"
cp "$guests/init" "$tree/init"

# Ext4 is part of the kernel, virtio is not.
modules=$(cd "$work/root/lib/modules" && echo *)
for module in virtio virtio_ring virtio_pci_{legacy,modern}_dev virtio_pci virtio_blk virtio_net \
    net_failover failover virtio-rng virtio_console virtio_balloon vsock \
    vmw_vsock_virtio_transport{_common,}; do
    file=$(cd "$work/root" && find "lib/modules/$modules" -name "$module.ko")
    mkdir -p "$tree/$(dirname "$file")"
    cp "$work/root/$file" "$tree/$file"
done
"$tree/bin/busybox" depmod -b "$tree" "$modules"
echo 'root:x:0:0:root:/root:/bin/sh' >"$tree/etc/passwd"
echo 'root:x:0:' >"$tree/etc/group"
archive "$tree" >"$work/out/initramfs.cpio.gz"

mv "$work/manifest" "$work/out/manifest"
rm -rf "$out"
mv "$work/out" "$out"
echo "guest-image: made of $(cd "$packages" && echo ./*.deb)"
(cd "$out" && ls -l bzImage vmlinux initramfs.cpio.gz count serve)
