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

export CH_BIN_DIR=$target/release CH_GUEST_DIR=$PWD/build/guest
scripts/report-run.sh "scripts/bench-failover.sh $*" \
    unshare --net "$target/release/bench-failover" "$@"
