#!/usr/bin/env bash
# Measures small random reads and writes of a guest's disk, one and eight at a time, in one run, on
# the same image: ours alone, with a peer that acknowledges without replaying, with a backup that
# replays; QEMU's TCG alone and recording:
#
#     scripts/bench-disk.sh [ROUNDS [BLOCKS [DIRECTORY]]]
#
# The image is made in the directory: /dev/shm shows what the engines cost, a real one what its
# flushes do, which each write under protection waits for.
# The table comes on standard output, in markdown. Ratios are medians of ratios of one round.
set -euo pipefail

cd "$(dirname "$0")/.."
root=$PWD
target=${CARGO_TARGET_DIR:-$root/target}

scripts/install-dependencies.sh >&2 </dev/null
if ! command -v qemu-system-x86_64 >/dev/null; then
    echo "bench-disk: QEMU is missing: apt-get install qemu-system-x86" >&2
    exit 1
fi
cargo build --locked --release --workspace --bins >&2
scripts/guest-image.sh >&2 </dev/null

busy() { cut -d ' ' -f 1-3 /proc/loadavg; }
load=$(busy)
output=$(mktemp)
trap 'rm -f "$output"' EXIT
CH_BIN_DIR=$target/release CH_GUEST_DIR=$root/build/guest \
    "$target/release/bench-disk" "$@" >"$output"

command="scripts/bench-disk.sh $*"
echo "- Command: \`${command% }\`"
echo "- Date: $(date --utc +'%F %R') UTC"
echo "- Commit: $(git rev-parse --short=12 HEAD)"
echo "- Host: $(nproc) processors, $(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | head -n 1)," \
    "Linux $(uname -r), load average before $load, after $(busy)"
echo
cat "$output"
