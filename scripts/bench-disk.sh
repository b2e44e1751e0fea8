#!/usr/bin/env bash
# Measures small random reads and writes of a guest's disk, one and eight at a time, in one run, on
# the same image: ours alone, with a peer that acknowledges without replaying, with a backup that
# replays; QEMU's TCG alone and recording:
#
#     scripts/bench-disk.sh [ROUNDS [BLOCKS [DIRECTORY]]]
#
# The image is made in the directory. Each write under protection waits for its storage's flush; if
# it is called "memory", it is a file system on a loop device in memory (which needs root), where that
# costs least.
# The table comes on standard output, in markdown. Ratios are medians of ratios of one round.
set -euo pipefail

cd "$(dirname "$0")/.."
target=${CARGO_TARGET_DIR:-$PWD/target}

scripts/install-dependencies.sh qemu-system-x86_64:qemu-system-x86 >&2 </dev/null
cargo build --locked --release --workspace --bins >&2
scripts/guest-image.sh >&2 </dev/null

typed="scripts/bench-disk.sh $*"
if [ "${3:-}" = memory ]; then
    memory=$(mktemp -d /dev/shm/bench-disk.XXXXXX)
    trap 'umount "$memory/mount" 2>/dev/null; rm -rf "$memory"' EXIT
    truncate -s 512M "$memory/image"
    mkfs.ext4 -q "$memory/image"
    mkdir "$memory/mount"
    mount -o loop "$memory/image" "$memory/mount"
    set -- "$1" "$2" "$memory/mount"
fi

export CH_BIN_DIR=$target/release CH_GUEST_DIR=$PWD/build/guest
scripts/report-run.sh --qemu "$typed" "$target/release/bench-disk" "$@"
