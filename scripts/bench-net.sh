#!/usr/bin/env bash
# Measures a guest's network, alone and protected, against QEMU's TCG.
#
#     scripts/bench-net.sh [--rounds N] [--seconds N] [--mib N] [--engines NAME,...]
#
# `src/bin/bench-net.rs` says what is measured. Everything runs in one network namespace, on one TAP
# device. Prints what docs/performance.md holds. Needs root.
set -euo pipefail

cd "$(dirname "$0")/.."
target=${CARGO_TARGET_DIR:-$PWD/target}

scripts/install-dependencies.sh qemu-system-x86_64:qemu-system-x86 </dev/null >&2
cargo build --locked --release --bins -p cloud-hypervisor -p integration >&2
scripts/guest-image.sh </dev/null >&2

export CH_BIN_DIR=$target/release CH_GUEST_DIR=$PWD/build/guest
scripts/report-run.sh --qemu "scripts/bench-net.sh $*" \
    unshare --net "$target/release/bench-net" "$@"
