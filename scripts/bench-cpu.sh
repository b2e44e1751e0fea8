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
target=${CARGO_TARGET_DIR:-$PWD/target}

scripts/install-dependencies.sh qemu-system-x86_64:qemu-system-x86 >&2 </dev/null
cargo build --locked --release --workspace --bins >&2
scripts/guest-workloads.sh >&2 </dev/null

export CH_BIN_DIR=$target/release CH_GUEST_DIR=$PWD/build/guest
scripts/report-run.sh --qemu "scripts/bench-cpu.sh $*" \
    "$target/release/bench-cpu" build/workloads/initramfs.cpio.gz "$@"
