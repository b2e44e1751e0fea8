#!/usr/bin/env bash
# Installs the Debian packages that the other scripts need and that are missing:
#
#     scripts/install-dependencies.sh [PROGRAM:PACKAGE...]
#
# and those of the programs given, which only some need. Quick, and without a network, when nothing is
# missing. Needs root (or sudo) only to install.
set -euo pipefail

# What is looked for, and the package that brings it.
wanted=(
    gcc:gcc
    g++:g++
    strip:binutils
    cpio:cpio
    mkfs.ext4:e2fsprogs
    gzip:gzip
    lz4:lz4
    dpkg-deb:dpkg
    ip:iproute2
    mount:mount
    pgrep:procps
    qemu-img:qemu-utils
    nbdkit:nbdkit
    nbdfuse:libnbd-bin
    fusermount3:fuse3
    redis-server:redis-server
    dropbear:dropbear-bin
    ssh:openssh-client
    pg_ctlcluster:postgresql
    shellcheck:shellcheck
    "$@"
)

packages=()
for pair in "${wanted[@]}"; do
    command -v "${pair%%:*}" >/dev/null || packages+=("${pair#*:}")
done
# The guest's programs are linked statically.
if ! command -v gcc >/dev/null || [ ! -e "$(gcc -print-file-name=libc.a)" ]; then
    packages+=(libc6-dev)
fi

if [ "${#packages[@]}" -gt 0 ]; then
    if ! command -v apt-get >/dev/null; then
        echo "install-dependencies: these are missing and this is not a Debian: ${packages[*]}" >&2
        exit 1
    fi
    as_root=()
    if [ "$(id -u)" -ne 0 ]; then
        as_root=(sudo -n)
        if ! sudo -n true 2>/dev/null; then
            echo "install-dependencies: run as root: apt-get install ${packages[*]}" >&2
            exit 1
        fi
    fi
    install=("${as_root[@]}" env DEBIAN_FRONTEND=noninteractive
        apt-get install --yes --quiet --no-install-recommends "${packages[@]}")
    echo "install-dependencies: installing ${packages[*]}"
    # The package lists may be missing or too old to find anything.
    if ! "${install[@]}" </dev/null; then
        "${as_root[@]}" apt-get update --quiet </dev/null
        "${install[@]}" </dev/null
    fi
fi

if ! command -v cargo >/dev/null; then
    echo "install-dependencies: the Rust toolchain is missing (https://rustup.rs)" >&2
    exit 1
fi
for component in rustfmt clippy; do
    case $component in
        rustfmt) tool=cargo-fmt ;;
        *) tool=cargo-$component ;;
    esac
    # rustup leaves a stand-in for each tool, whether it is installed or not.
    if ! "$tool" --version >/dev/null 2>&1 && command -v rustup >/dev/null; then
        rustup component add "$component"
    fi
done
