#!/usr/bin/env bash
# A guest outlives its host, before your eyes.
#
#     scripts/demo.sh
#
# Installs what is missing, builds, makes the guest image, and starts two hosts with a
# `cloud-hypervisor` on each and a client (network namespaces, joined by a wire and a bridge). The
# guest on host-a counts, each line a hash of all its work so far, and a client downloads from it over
# one TCP connection. host-b becomes its backup. Then host-a's process is killed, and host-b takes
# over. What both hosts showed is compared with what an undisturbed run must show, and what the client
# received with what the guest must send. The status is 0 if no line and no byte was lost. Needs root
# (or sudo) for the namespaces, and no terminal.
set -euo pipefail

if [ "$(id -u)" -ne 0 ]; then
    if sudo -n true 2>/dev/null; then exec sudo -n --preserve-env=PATH,CARGO_HOME,RUSTUP_HOME,CARGO_TARGET_DIR "$0" "$@"; fi
    echo "demo: network namespaces need root; run it with sudo" >&2
    exit 1
fi

cd "$(dirname "$0")/.."
root=$PWD
binaries=${CARGO_TARGET_DIR:-$root/target}/release
guest=$root/build/guest

# The guest's work: lines, memory accesses for each, milliseconds of sleep after each, MiB.
lines=400 rounds=4000 pause_ms=40 mib=4
address_a=10.54.0.1 address_b=10.54.0.2 port=7000
# The client's network: a bridge, to which each host's TAP device is connected.
address_client=10.64.0.1 address_guest=10.64.0.2 mac=2e:89:a8:e4:bf:95 serve=5000
# The download: MiB, and the guest's pause after every 16 KiB in milliseconds.
mib_download=14 pause_download=15

if [ -t 1 ]; then
    bold=$'\e[1m' red=$'\e[31m' green=$'\e[32m' colour_a=$'\e[36m' colour_b=$'\e[33m' colour_c=$'\e[35m' plain=$'\e[0m'
else
    bold='' red='' green='' colour_a='' colour_b='' colour_c='' plain=''
fi
say() { printf '%s\n' "${bold}== $*${plain}"; }
verdict() { printf '%s\n' "$1${bold}== $2${plain}"; }

say "installing what is missing, building, making the guest image"
scripts/install-dependencies.sh </dev/null
cargo build --locked --quiet --release --bins --package cloud-hypervisor --package integration
scripts/guest-image.sh </dev/null

run=$(mktemp -d)
host_a=host-a-$$ host_b=host-b-$$ client=client-$$
pid_a='' pid_b='' pid_client=''
finish() {
    status=$?
    trap - EXIT
    for pid in $pid_a $pid_b $pid_client; do kill -KILL "$pid" 2>/dev/null || true; done
    wait 2>/dev/null || true
    for namespace in "$host_a" "$host_b" "$client"; do ip netns delete "$namespace" 2>/dev/null || true; done
    if [ "$status" -eq 0 ]; then
        rm -rf "$run"
    else
        echo "demo: logs are kept in $run"
        for log in "$run"/host-?.errors; do
            if [ -s "$log" ]; then
                echo "--- ${log##*/}:"
                tail -n 20 "$log"
            fi
        done
        verdict "$red" "FAILED"
    fi
    exit "$status"
}
trap finish EXIT
trap 'exit 130' INT TERM

say "two hosts on one wire, a client on a bridge: host-a is $address_a, host-b $address_b, the guest $address_guest"
ip netns add "$host_a"
ip netns add "$host_b"
ip -n "$host_a" link add wire type veth peer name wire netns "$host_b"
for end in "$host_a $address_a" "$host_b $address_b"; do
    read -r namespace address <<<"$end"
    ip -n "$namespace" address add "$address/24" dev wire
    ip -n "$namespace" link set lo up
    ip -n "$namespace" link set wire up
done
ip netns add "$client"
for namespace in "$client" "$host_a" "$host_b"; do
    ip -n "$namespace" link add lan type bridge forward_delay 0
    ip -n "$namespace" link set lan up
done
ip -n "$client" address add "$address_client/24" dev lan
for namespace in "$host_a" "$host_b"; do
    port_name=to-${namespace:0:6}
    ip -n "$client" link add "$port_name" type veth peer name uplink netns "$namespace"
    ip -n "$client" link set "$port_name" master lan up
    ip -n "$namespace" link set uplink master lan up
    ip -n "$namespace" tuntap add dev tap0 mode tap vnet_hdr
    ip -n "$namespace" link set tap0 master lan up
done
mkdir "$run/shared-storage"

# remote a|b COMMAND...
remote() {
    local host=$1
    shift
    "$binaries/ch-remote" --api-socket "$run/host-$host.sock" "$@"
}

has_ended() { ! kill -0 "$1" 2>/dev/null; }
# await SECONDS WHAT COMMAND...: tries the command until it succeeds.
await() {
    local deadline=$((SECONDS + $1)) what=$2 pid
    shift 2
    until "$@"; do
        if [ "$SECONDS" -ge "$deadline" ]; then
            echo "demo: $what did not happen in time"
            return 1
        fi
        for pid in $pid_a $pid_b; do
            if has_ended "$pid" && ! "$@"; then
                echo "demo: a hypervisor ended before $what"
                return 1
            fi
        done
        sleep 0.05
    done
}
answers() { remote "$1" ping >/dev/null 2>&1; }
is_in_state() { remote "$1" ft-info 2>/dev/null | tr -d ' \n' | grep -q "\"state\":\"$2\""; }
# The number of the last line that a host has shown, and whether it is N or more.
line_of() {
    local line
    line=$(tail -c 1000 "$run/host-$1.log" 2>/dev/null | grep -aoE '^[0-9]+ [0-9a-f]{64}' | tail -n 1)
    echo "${line%% *}"
}
has_line() {
    local line
    line=$(line_of "$1") || true
    [ "${line:-0}" -ge "$2" ]
}
# What both sides say, on one line each.
show_both() {
    local host
    for host in a b; do
        printf 'host-%s ft-info: %s\n' "$host" "$(remote "$host" ft-info 2>&1 | tr -s ' \n' ' ')"
    done
}

say "host-a boots Debian's kernel; the guest counts to $lines"
# A process in a namespace is the hypervisor itself: `ip netns exec` replaces itself by it.
ip netns exec "$host_a" "$binaries/cloud-hypervisor" --api-socket "$run/host-a.sock" \
    --kernel "$guest/vmlinux" --initramfs "$guest/initramfs.cpio.gz" \
    --cmdline "console=ttyS0 panic=-1 quiet ip=$address_guest serve=$serve test=count:$lines:$rounds:$pause_ms:$mib" \
    --memory size=512M --serial tty --console off --net "tap=tap0,mac=$mac" \
    </dev/null 2>"$run/host-a.errors" \
    > >("$binaries/console-log" "${colour_a}host-a |${plain} " "$run/host-a.log") &
pid_a=$!
ip netns exec "$host_b" "$binaries/cloud-hypervisor" --api-socket "$run/host-b.sock" \
    </dev/null 2>"$run/host-b.errors" \
    > >("$binaries/console-log" "${colour_b}host-b |${plain} " "$run/host-b.log") &
pid_b=$!
await 10 "host-a's API" answers a
await 10 "host-b's API" answers b
await 60 "the guest's tenth line" has_line a 10

say "a client begins a download of $mib_download MiB from the guest, over one TCP connection"
ip netns exec "$client" "$binaries/download" "$address_guest:$serve" "$mib_download" "$pause_download" \
    > >(sed -u "s/^/${colour_c}client |${plain} /") 2>&1 &
pid_client=$!

say "host-b receives; host-a is told to protect its guest, while that runs"
remote b ft-receive --listen "tcp:$address_b:$port" --insecure
remote a ft-enable --peer "tcp:$address_b:$port" --lease "file:$run/shared-storage/flag" --insecure
await 60 "protection" is_in_state a protected
say "protected: host-b replays what host-a does, and shows nothing"
show_both
target=$(($(line_of a) + 40 + RANDOM % 60))
await 60 "line $target" has_line a "$target"
show_both

sleep "0.$((RANDOM % 10))$((RANDOM % 10))"
say "host-a's process is killed (SIGKILL)"
kill -KILL "$pid_a"
wait "$pid_a" 2>/dev/null || true
pid_a=''
await 30 "the takeover" is_in_state b unprotected
say "host-b is live"
printf 'host-b ft-info: %s\n' "$(remote b ft-info 2>&1 | tr -s ' \n' ' ')"
if ! wait "$pid_client"; then
    pid_client=''
    echo "demo: the client's connection did not live on"
    exit 1
fi
pid_client=''
await 120 "the end of the guest's work" has_ended "$pid_b"
wait "$pid_b"
pid_b=''
# The readers of the consoles end with what they read.
await 10 "the end of host-a's console" grep -q . "$run/host-a.log.times"
sleep 0.2

say "is it the history of one machine? The same program, run on this host, says what it must be"
"$binaries/verify-lines" "$guest/count" "$lines" "$rounds" "$mib" "$run/host-a.log" "$run/host-b.log"
verdict "$green" "PASSED: the guest outlived its host; no line was lost, and the client's connection lived on"
