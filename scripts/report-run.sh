#!/usr/bin/env bash
# Runs a measurement, and says before what it printed with which command, when, on what and how busy
# a host it was made: what docs/performance.md wants of each table.
#
#     scripts/report-run.sh [--qemu] AS-TYPED COMMAND [ARGUMENT...]
#
# AS-TYPED is the command that a person gives to do the same. With --qemu, QEMU's version is said too.
set -euo pipefail

cd "$(dirname "$0")/.."
with_qemu=
if [ "$1" = --qemu ]; then
    with_qemu=yes
    shift
fi
typed=${1% }
shift

busy() { cut -d ' ' -f 1-3 /proc/loadavg; }
commit=$(git rev-parse --short=12 HEAD)
git diff --quiet HEAD -- . || commit="$commit, with changes"
before=$(busy)
output=$(mktemp)
trap 'rm -f "$output"' EXIT
"$@" >"$output"

echo "- Command: \`$typed\`"
echo "- Date: $(date --utc +'%F %R') UTC"
echo "- Commit: $commit"
echo "- Host: $(nproc) processors, $(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | head -n 1)," \
    "Linux $(uname -r), load average before $before, after $(busy)"
if [ -n "$with_qemu" ]; then
    echo "- QEMU: $(qemu-system-x86_64 --version | sed -n '1s/.*version //p')"
fi
echo "- Guest: $(cd build/packages && echo linux-image-*.deb)"
echo
cat "$output"
