#!/usr/bin/env bash
# Measures how long a client has no answer when a guest's primary freezes or is killed.
#
#     scripts/bench-failover.sh [--rounds N] [--timeouts MS,...] [--events freeze,kill] [--seed N]
#
# `src/bin/bench-failover.rs` says what is measured. Both hosts and the client are network
# namespaces of this one. Prints what docs/performance.md holds. Needs root.
set -euo pipefail

cd "$(dirname "$0")/.."
target=${CARGO_TARGET_DIR:-$PWD/target}

scripts/install-dependencies.sh </dev/null >&2
cargo build --locked --release --bins -p cloud-hypervisor -p integration >&2
scripts/guest-image.sh </dev/null >&2

commit=$(git rev-parse --short=12 HEAD)
git diff --quiet HEAD -- . || commit="$commit, with changes"
before=$(cut -d ' ' -f 1-3 /proc/loadavg)
tables=$(CH_BIN_DIR=$target/release CH_GUEST_DIR=$PWD/build/guest \
    unshare --net "$target/release/bench-failover" "$@")
echo "- Command: \`scripts/bench-failover.sh${*:+ $*}\`"
echo "- Date: $(date --utc +'%F %R') UTC"
echo "- Commit: $commit"
echo "- Host: $(nproc) processors, $(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | head -n 1)," \
    "Linux $(uname -r), load average before $before, after $(cut -d ' ' -f 1-3 /proc/loadavg)"
echo
echo "$tables"
