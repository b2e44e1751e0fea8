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

scripts/install-dependencies.sh </dev/null >&2
if ! command -v qemu-system-x86_64 >/dev/null; then
    DEBIAN_FRONTEND=noninteractive apt-get install --yes --quiet --no-install-recommends \
        qemu-system-x86 </dev/null >&2
fi
cargo build --locked --release --bins -p cloud-hypervisor -p integration >&2
scripts/guest-image.sh </dev/null >&2

commit=$(git rev-parse --short=12 HEAD)
git diff --quiet HEAD -- . || commit="$commit, with changes"
before=$(cut -d ' ' -f 1-3 /proc/loadavg)
tables=$(CH_BIN_DIR=$target/release CH_GUEST_DIR=$PWD/build/guest \
    unshare --net "$target/release/bench-net" "$@")
echo "- Command: \`scripts/bench-net.sh${*:+ $*}\`"
echo "- Date: $(date --utc +'%F %R') UTC"
echo "- Commit: $commit"
echo "- Host: $(nproc) processors, $(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | head -n 1)," \
    "Linux $(uname -r), load average before $before, after $(cut -d ' ' -f 1-3 /proc/loadavg)"
echo "- QEMU: $(qemu-system-x86_64 --version | sed -n '1s/.*version //p')"
echo
echo "$tables"
