#!/usr/bin/env bash
# The same trouble many times in a row; the result stands in docs/soak/ with command and seed.
#
#     scripts/soak.sh EVENT [TURNS [SEED]]
#
# EVENT: kill-primary, kill-backup, freeze-primary, freeze-backup, cut-wire or mixed. 50 turns
# unless told otherwise. The status is 0 if the guest's lines were right to the last turn.
set -euo pipefail

cd "$(dirname "$0")/.."
if [ $# -lt 1 ] || [ $# -gt 3 ]; then
    sed -n 's/^# \{0,1\}//; 2,7p' "$0" >&2
    exit 2
fi
event=$1
turns=${2:-50}
seed=${3:-$(od -A n -t u4 -N 4 /dev/urandom | tr -d ' ')}
target=${CARGO_TARGET_DIR:-$PWD/target}

scripts/install-dependencies.sh </dev/null
cargo build --locked --profile checked --workspace --bins
scripts/guest-image.sh </dev/null

mkdir -p docs/soak
result=docs/soak/$(date --utc +%F)-$event-$turns.md
commit=$(git rev-parse --short=12 HEAD)
git diff --quiet HEAD -- . || commit="$commit, with changes"
output=$(mktemp)
trap 'rm -f "$output"' EXIT

status=0
CH_BIN_DIR=$target/checked CH_GUEST_DIR=$PWD/build/guest \
    "$target/checked/soak" "$event" "$turns" "$seed" 2>&1 | tee "$output" || status=$?

{
    echo "# $turns × $event"
    echo
    echo "- Command: \`scripts/soak.sh $event $turns $seed\`"
    echo "- Date: $(date --utc +'%F %R') UTC"
    echo "- Commit: $commit"
    echo "- Host: $(nproc) processors, $(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | head -n 1)"
    echo "- Result: $([ "$status" -eq 0 ] && echo passed || echo FAILED)"
    echo
    echo '```text'
    cat "$output"
    echo '```'
} >"$result"
echo "written to $result"
exit "$status"
