#!/usr/bin/env bash
# Clients of one guest whose hosts die many times; the result stands in docs/soak/.
#
#     scripts/soak-clients.sh [FAILOVERS [SEED [debian|services [kill|freeze]]]]
#
# 30 failovers of Debian (scripts/guest-disk.sh) unless told otherwise; `services` is the small disk
# of scripts/guest-services.sh, without PostgreSQL and fio. `src/bin/soak-clients.rs` says what
# happens and what is checked. Needs root. The status is 0 if no client noticed more than a pause.
set -euo pipefail

cd "$(dirname "$0")/.."
if [ $# -gt 4 ]; then
    sed -n 's/^# \{0,1\}//; 2,8p' "$0" >&2
    exit 2
fi
failovers=${1:-30}
seed=${2:-$(od -A n -t u4 -N 4 /dev/urandom | tr -d ' ')}
guest=${3:-debian}
target=${CARGO_TARGET_DIR:-$PWD/target}

scripts/install-dependencies.sh </dev/null
cargo build --locked --profile checked --bins -p cloud-hypervisor -p integration
scripts/guest-image.sh </dev/null
case $guest in
    debian) disk=build/disk make=scripts/guest-disk.sh ;;
    services) disk=build/services make=scripts/guest-services.sh ;;
    *)
        echo "soak-clients: no such guest: $guest" >&2
        exit 2
        ;;
esac
"$make" </dev/null

mkdir -p docs/soak
result=docs/soak/$(date --utc +%F)-clients-$guest-$failovers.md
commit=$(git rev-parse --short=12 HEAD)
git diff --quiet HEAD -- . || commit="$commit, with changes"
output=$(mktemp)
trap 'rm -f "$output"' EXIT

status=0
CH_BIN_DIR=$target/checked CH_GUEST_DIR=$PWD/build/guest \
    unshare --net "$target/checked/soak-clients" "$PWD/$disk" "$failovers" "$seed" "${@:4}" 2>&1 |
    tee "$output" || status=$?

{
    echo "# Clients of $guest through $failovers failovers"
    echo
    echo "- Command: \`scripts/soak-clients.sh $failovers $seed $guest${4:+ $4}\`"
    echo "- Date: $(date --utc +'%F %R') UTC"
    echo "- Commit: $commit"
    echo "- Host: $(nproc) processors, $(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | head -n 1)," \
        "load average after $(cut -d ' ' -f 1-3 /proc/loadavg)"
    echo "- Result: $([ "$status" -eq 0 ] && echo passed || echo FAILED)"
    echo
    echo '```text'
    cat "$output"
    echo '```'
} >"$result"
echo "written to $result"
exit "$status"
