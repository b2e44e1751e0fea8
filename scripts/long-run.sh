#!/usr/bin/env bash
# Runs the long form of a test of the CPU, and leaves the result in docs/soak/:
#
#     scripts/long-run.sh engines
#         a boot, a compile inside the guest and the power-off, on interpreter, compiler and the mix
#         of both, and with caches that are emptied now and then: the digests must agree
#     scripts/long-run.sh differential [SCALE [SEED]]
#         every instruction form against the processor underneath, SCALE (100) times the usual cases
#     scripts/long-run.sh sequences [PROGRAMS [SEED]]
#         PROGRAMS (5000) random sequences of instructions, engine against engine
#     scripts/long-run.sh fuzz [SECONDS [SEED]]
#         every target of scripts/fuzz.sh, SECONDS (900) each
#
# The status is 0 if nothing differed.
set -euo pipefail

cd "$(dirname "$0")/.."
usage() {
    sed -n 's/^# \{0,1\}//; 2,14p' "$0" >&2
    exit 2
}
if [ $# -lt 1 ] || [ $# -gt 3 ]; then usage; fi
what=$1
size=${2:-}
seed=${3:-$(od -A n -t u4 -N 4 /dev/urandom | tr -d ' ')}
tests=(cargo test --locked --profile checked)
case $what in
engines)
    if [ $# -gt 1 ]; then usage; fi
    command="scripts/long-run.sh engines"
    run() {
        scripts/guest-workloads.sh </dev/null
        cargo build --locked --profile checked --workspace --bins
        CH_DETERMINISM_INITRAMFS=$PWD/build/workloads/initramfs.cpio.gz \
            CH_DETERMINISM_TEST=cpu-bench:1:compile CH_DETERMINISM_STEPS=all \
            "${tests[@]}" -p integration --test integration caches_and_cuts -- --nocapture
    }
    ;;
differential)
    : "${size:=100}"
    command="scripts/long-run.sh differential $size $seed"
    run() {
        X86_DIFFERENTIAL_SCALE=$size X86_DIFFERENTIAL_SEED=$seed "${tests[@]}" -p x86 --test differential
    }
    ;;
sequences)
    : "${size:=5000}"
    command="scripts/long-run.sh sequences $size $seed"
    run() {
        X86_SEQUENCES=$size X86_SEQUENCES_SEED=$seed "${tests[@]}" -p x86 --test system sequences
    }
    ;;
fuzz)
    : "${size:=900}"
    command="scripts/long-run.sh fuzz $size $seed"
    run() {
        scripts/fuzz.sh all "$size" "$seed"
    }
    ;;
*) usage ;;
esac

mkdir -p docs/soak
result=docs/soak/$(date --utc +%F)-$what${size:+-$size}.md
commit=$(git rev-parse --short=12 HEAD)
git diff --quiet HEAD -- . || commit="$commit, with changes"
output=$(mktemp)
trap 'rm -f "$output"' EXIT

status=0
run 2>"$output.err" | grep -vE '^$|^(NOTE|Get|Fetched)' | tee "$output" || status=$?
[ "$status" -eq 0 ] || cat "$output.err" >&2
rm -f "$output.err"
{
    echo "# $what${size:+ × $size}"
    echo
    echo "- Command: \`$command\`"
    echo "- Date: $(date --utc +'%F %R') UTC"
    echo "- Commit: $commit"
    echo "- Host: $(nproc) processors, $(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | head -n 1)"
    echo "- Result: $([ "$status" -eq 0 ] && echo passed || echo FAILED)"
    echo
    echo '```text'
    grep -E '^(test |running|fuzzing|#|stat::|[0-9]+ digests)' "$output" || true
    echo '```'
} >"$result"
echo "written to $result"
exit "$status"
