# shellcheck shell=bash
# Debian packages as files, for the scripts that make guests out of them; to be sourced.
#
# Packages are kept in a directory and used again until somebody asks for newer ones. Nothing is
# installed on the host, and no root is needed unless apt's lists are missing.

# Runs apt, refreshing its lists once if the first try fails.
with_lists() {
    "$@" && return
    echo "packages: refreshing the package lists" >&2
    if [ "$(id -u)" -eq 0 ]; then apt-get update --quiet >&2; else sudo -n apt-get update --quiet >&2; fi
    "$@"
}

# fetch DIRECTORY UPDATE PATTERN PACKAGE-NAME-COMMAND...: leaves exactly one package of that
# pattern in the directory: the one that is there if UPDATE is no, else the newest.
fetch() {
    local directory=$1 update=$2 pattern=$3 name found download
    shift 3
    mkdir -p "$directory"
    found=$(find "$directory" -maxdepth 1 -name "$pattern")
    if [ -n "$found" ] && [ "$update" = no ]; then
        return
    fi
    name=$(with_lists "$@")
    echo "packages: downloading $name"
    download=$(mktemp -d "$directory/download.XXXXXX")
    (cd "$download" && with_lists apt-get download --quiet -o APT::Sandbox::User=root "$name")
    find "$directory" -maxdepth 1 -name "$pattern" -delete
    mv "$download"/*.deb "$directory/"
    rmdir "$download"
}

# archive TREE: a directory as an initramfs, on standard output; the same bytes each time.
archive() {
    chmod -R u=rwX,go=rX "$1"
    find "$1" -exec touch --no-dereference --date=@0 {} +
    (cd "$1" && find . -print0 | LC_ALL=C sort -z |
        cpio --quiet --create --null --format=newc --reproducible --owner=0:0) |
        gzip -9 -n
}
