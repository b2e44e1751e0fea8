#!/usr/bin/env bash
# Runs everything, or only the stages that are named:
#
#     scripts/test.sh [dependencies|format|shell|clippy|build|guest|unit|simulator|fuzz|integration]...
#
# Every stage runs even if one before it failed, except those that need what it should have made.
# At the end: what each stage took, what was skipped and why. The status is 0 if none failed.
#
# CARGO_TARGET_DIR is respected. CH_SEED=N repeats a run's random choices; CH_FAILOVERS=N sets the
# number of failovers in a row.
set -euo pipefail

cd "$(dirname "$0")/.."
root=$PWD
target=${CARGO_TARGET_DIR:-$root/target}

stages=(dependencies format shell clippy build guest unit simulator fuzz integration)
# Minutes that a stage may take on a machine with two cores; more is said, not punished.
declare -A budget=([build]=6 [unit]=5 [simulator]=4 [integration]=15)

only=("$@")
for stage in "${only[@]}"; do
    if [[ " ${stages[*]} " != *" $stage "* ]]; then
        sed -n 's/^# \{0,1\}//; 2,4p' "$0" >&2
        exit 2
    fi
done

if cargo nextest --version >/dev/null 2>&1; then nextest=yes; else nextest=no; fi

skips=$(mktemp)
trap 'rm -f "$skips"' EXIT

stage_dependencies() {
    scripts/install-dependencies.sh
}

stage_format() {
    cargo fmt --all --check -- --files-with-diff
    cargo fmt --manifest-path fuzz/Cargo.toml --check -- --files-with-diff
}

stage_shell() {
    shellcheck scripts/*.sh .ci/run tests/guests/{init,load_drivers,services,workloads/cpu-bench}
}

stage_clippy() {
    cargo clippy --locked --workspace --all-targets --profile checked -- -D warnings
}

stage_build() {
    cargo build --locked --workspace --bins --profile checked
}

stage_guest() {
    scripts/guest-workloads.sh
    scripts/guest-services.sh
}

# tests FILTER-FOR-NEXTEST CARGO-TEST-ARGUMENTS...
tests() {
    local filter=$1
    shift
    if [ "$nextest" = yes ]; then
        cargo nextest run --locked --cargo-profile checked --workspace --filterset "$filter"
    else
        cargo test --locked --profile checked "$@"
    fi
}

stage_unit() {
    tests 'not (binary(simulation) or (package(integration) and kind(test)))' \
        --workspace --exclude integration --tests
    # nextest has no documentation tests.
    cargo test --locked --profile checked --workspace --doc --quiet
}

stage_simulator() {
    tests 'binary(simulation)' --package ft --test simulation -- --nocapture
}

# A sample: whether the targets still build, and find nothing in a few seconds.
stage_fuzz() {
    scripts/fuzz.sh all 15 "${CH_SEED:-$RANDOM}"
}

# The digests of a boot are compared over a compile in the guest, and to power-off.
stage_integration() {
    CH_DETERMINISM_INITRAMFS=$root/build/workloads/initramfs.cpio.gz \
        CH_DETERMINISM_TEST=cpu-bench:1:compile CH_DETERMINISM_STEPS=all \
        CH_BIN_DIR=$target/checked CH_GUEST_DIR=$root/build/guest CH_SKIPS=$skips \
        tests 'package(integration) and kind(test)' -p integration --tests -- --test-threads=1
}

# A stage that needs what another should have made is not tried without it.
needs() {
    case $1 in
        integration) echo "build guest" ;;
        unit | simulator) echo "build" ;;
    esac
}

failed=()
report=()
for stage in "${stages[@]}"; do
    if [ "${#only[@]}" -gt 0 ] && [[ " ${only[*]} " != *" $stage "* ]]; then
        continue
    fi
    for need in $(needs "$stage"); do
        if [[ " ${failed[*]} " == *" $need "* ]]; then
            failed+=("$stage")
            report+=("$(printf '%-13s not run: %s failed' "$stage" "$need")")
            continue 2
        fi
    done
    echo "== $stage"
    began=$SECONDS
    # In a shell of its own, so that `set -e` holds inside.
    set +e
    (
        set -e
        "stage_$stage"
    )
    status=$?
    set -e
    took=$((SECONDS - began))
    word=ok
    if [ "$status" -ne 0 ]; then
        word=FAILED
        failed+=("$stage")
    fi
    over=
    if [ "$took" -gt $((${budget[$stage]:-60} * 60)) ]; then
        over=" (more than its ${budget[$stage]} minutes)"
    fi
    report+=("$(printf '%-13s %-6s %4d s%s' "$stage" "$word" "$took" "$over")")
done

echo
echo "== summary"
printf '%s\n' "${report[@]}"
if [ -s "$skips" ]; then
    echo "skipped:"
    sort -u "$skips" | sed 's/^/  /'
else
    echo "skipped: nothing"
fi
[ "$nextest" = yes ] || echo "note: cargo-nextest is not installed; cargo test ran instead"
if [ "${#failed[@]}" -gt 0 ]; then
    echo "FAILED: ${failed[*]}"
    exit 1
fi
echo "all passed"
