#!/usr/bin/env bash
# Fuzzes with coverage feedback, on the stable toolchain.
#
#     scripts/fuzz.sh [TARGET|all [SECONDS [SEED]]]
#
# TARGET: execute (decoder and engines against each other), paging (MMU), messages (what peers and
# log files send), devices (virtio: any driver, any host, any saved state). All of them, 60 seconds
# each, unless told otherwise. New inputs stay in build/fuzz/TARGET and are the corpus of the next
# run; an input that fails is left in build/fuzz/artifacts. The status is 0 if none failed.
set -euo pipefail

cd "$(dirname "$0")/.."
targets=(execute paging messages devices)
target=${1:-all}
seconds=${2:-60}
seed=${3:-$(od -A n -t u4 -N 4 /dev/urandom | tr -d ' ')}
[ "$target" = all ] || targets=("$target")
triple=$(rustc -vV | sed -n 's/^host: //p')
build=${CARGO_TARGET_DIR:-$PWD/target}/fuzz

# Counters and a table of the edges, as libFuzzer wants them. Tracing comparisons too would cost
# more than it finds here: what is compared are pages.
flags=(-Cpasses=sancov-module)
for option in level=4 inline-8bit-counters pc-table; do
    flags+=("-Cllvm-args=-sanitizer-coverage-$option")
done
RUSTFLAGS="${flags[*]}" CARGO_TARGET_DIR=$build \
    cargo build --quiet --release --manifest-path fuzz/Cargo.toml --target "$triple"

status=0
for target in "${targets[@]}"; do
    mkdir -p "build/fuzz/$target" build/fuzz/artifacts
    echo "fuzzing $target for $seconds s, seed $seed"
    "$build/$triple/release/$target" "build/fuzz/$target" -seed="$seed" -max_total_time="$seconds" \
        -max_len=1024 -timeout=20 -print_final_stats=1 -print_funcs=0 \
        -artifact_prefix="build/fuzz/artifacts/$target-" >"build/fuzz/$target.log" 2>&1 || {
        status=1
        echo "FAILED: $target"
        grep -vE '^#|^[[:space:]]*NEW_FUNC' "build/fuzz/$target.log" | tail -n 60
        continue
    }
    grep -E '^#.*DONE|^stat::number_of_executed_units|^stat::average_exec' "build/fuzz/$target.log"
done
exit "$status"
