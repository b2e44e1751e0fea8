#!/usr/bin/env bash
# Measures guest workloads on QEMU's TCG and on ours, in one run, on the same guest:
#
#     scripts/bench-cpu.sh [--rounds N] [--repeat N] [--clock cpu|wall]
#                          [--engines NAME,...] [--workloads NAME,...]
#
# Engines: qemu, qemu-icount, qemu-record, qemu-replay, interpreter, ours (which compiles, too),
# ours-record, ours-replay. Each round (3 unless told otherwise) boots each engine once, does each
# workload N times (1), and ratios are made of times of the same round. Times are taken on the host: the processor time of the whole
# process unless told otherwise, so that a host with other things to do does not show.
#
# The tables come on standard output, in markdown. The status is 0 if every workload gave the same
# checksum on every engine.
set -euo pipefail

cd "$(dirname "$0")/.."
root=$PWD
target=${CARGO_TARGET_DIR:-$root/target}

scripts/install-dependencies.sh >&2 </dev/null
if ! command -v qemu-system-x86_64 >/dev/null; then
    echo "bench-cpu: installing qemu-system-x86" >&2
    as_root=()
    [ "$(id -u)" -eq 0 ] || as_root=(sudo -n)
    "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive \
        apt-get install --yes --quiet --no-install-recommends qemu-system-x86 >&2 </dev/null
fi
cargo build --locked --release --workspace --bins >&2
scripts/guest-workloads.sh >&2 </dev/null

commit=$(git rev-parse --short=12 HEAD)
git diff --quiet HEAD -- . || commit="$commit, with changes"
busy() { cut -d ' ' -f 1-3 /proc/loadavg; }
load=$(busy)
output=$(mktemp)
trap 'rm -f "$output"' EXIT
CH_BIN_DIR=$target/release CH_GUEST_DIR=$root/build/guest \
    "$target/release/bench-cpu" "$root/build/workloads/initramfs.cpio.gz" "$@" >"$output"

command="scripts/bench-cpu.sh $*"
echo "- Command: \`${command% }\`"
echo "- Date: $(date --utc +'%F %R') UTC"
echo "- Commit: $commit"
echo "- Host: $(nproc) processors, $(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | head -n 1)," \
    "Linux $(uname -r), load average before $load, after $(busy)"
echo "- QEMU: $(qemu-system-x86_64 --version | sed -n 's/^QEMU emulator version //p')"
echo "- Guest: $(cd build/packages && echo linux-image-*.deb), 512 MiB, 1 vCPU, $(gcc --version | head -n 1)"
echo
cat "$output"
