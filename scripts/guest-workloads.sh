#!/usr/bin/env bash
# Makes the guest of the CPU benchmark, in build/workloads/:
#
#   initramfs.cpio.gz   the test guest's, with the workloads (tests/guests/workloads), their
#                       sources, and Debian's tcc with all that it needs to compile those
#   manifest            what it was made of
#
# The kernel is the test guest's (scripts/guest-image.sh). Needs the host's gcc and C library of
# the same Debian.
set -euo pipefail

cd "$(dirname "$0")/.."
# shellcheck source=scripts/packages.sh
. scripts/packages.sh
packages=build/packages/workloads
base=build/guest
out=build/workloads
sources=tests/guests/workloads

scripts/guest-image.sh
fetch "$packages" no 'tcc_*.deb' echo tcc

work=$(mktemp -d build/workloads.XXXXXX)
trap 'rm -rf "$work"' EXIT

# The programs use no instruction that the first x86-64 processors did not have.
compile=(gcc -std=c11 -O2 -march=x86-64 -mtune=generic -Wall -Wextra -Werror -ffp-contract=off
    -fno-math-errno -static -s "-Wl,--build-id=none")

manifest() {
    sha256sum "$base/initramfs.cpio.gz" "$packages"/*.deb scripts/guest-workloads.sh scripts/packages.sh
    find "$sources" -type f -print0 | LC_ALL=C sort -z | xargs -0 sha256sum
    gcc -dumpfullversion
    sha256sum "$(gcc -print-file-name=libc.a)" "$(gcc -print-file-name=libc.so.6)"
}
manifest >"$work/manifest"
if cmp -s "$work/manifest" "$out/manifest"; then
    echo "guest-workloads: $out is up to date"
    exit 0
fi

dpkg-deb -x "$packages"/tcc_*.deb "$work/tcc"
tree=$work/tree
mkdir -p "$tree/bin" "$tree/usr/src/workloads"
"${compile[@]}" -o "$tree/bin/workload" "$sources"/*.c tests/guests/sha256.c
install "$sources/cpu-bench" "$tree/bin/cpu-bench"

install "$work/tcc/usr/bin/tcc" "$tree/bin/tcc"
mkdir -p "$tree/usr/lib/x86_64-linux-gnu"
cp -r "$work/tcc/usr/lib/x86_64-linux-gnu/tcc" "$tree/usr/lib/x86_64-linux-gnu/"
# The libraries that it is linked with, as the host has them.
while read -r library; do
    mkdir -p "$tree/$(dirname "$library")"
    cp --dereference "$library" "$tree/$library"
done < <(ldd "$tree/bin/tcc" | grep -o '/[^ ]*')
# What it compiles, and the headers for that.
cp "$sources"/*.[ch] "$tree/usr/src/workloads/"
cp tests/guests/sha256.h "$tree/usr/src/"
while read -r header; do
    mkdir -p "$tree/$(dirname "$header")"
    cp "$header" "$tree/$header"
done < <(gcc -std=c11 -M "$sources"/*.c | grep -o '/usr/include/[^ ]*' | LC_ALL=C sort -u)

mkdir "$work/out"
# The kernel unpacks one archive after the other.
archive "$tree" | cat "$base/initramfs.cpio.gz" - >"$work/out/initramfs.cpio.gz"
mv "$work/manifest" "$work/out/manifest"
rm -rf "$out"
mv "$work/out" "$out"
ls -l "$out"
