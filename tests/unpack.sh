# Programs of other Debian suites, unpacked aside with their libraries, so that nothing of them touches the system.
# Sourced by tests/peers and tests/bench/peers, which set `peers` (the folder), `say` and `die`.
# shellcheck shell=bash disable=SC2154

arch=$(dpkg --print-architecture)
case $arch in
    amd64) triple=x86_64-linux-gnu ;;
    arm64) triple=aarch64-linux-gnu ;;
    *) die "no recipe for the architecture $arch: put the programs into $peers yourself" ;;
esac
keyring=/usr/share/keyrings/debian-archive-keyring.gpg
mkdir -p "$peers"
work=
trap '[ -z "$work" ] || rm -rf "$work"' EXIT

# The mirror that the system itself uses for Debian (not the security archive, not a vendor's), else Debian's own.
mirror=$({ cat /etc/apt/sources.list /etc/apt/sources.list.d/*.list /etc/apt/sources.list.d/*.sources 2>/dev/null || true; } |
    sed -nE 's/^(URIs:|deb(\s+\[[^]]*\])?)\s+(https?:\/\/[^ ]*\/debian)\/?(\s.*)?$/\3/p' | sed -n 1p)
mirror=${mirror:-http://deb.debian.org/debian}

# unpack NAME PROGRAM MIRROR SUITE PACKAGE LIBRARY-SUITE LIBRARY...: PACKAGE's /usr/PROGRAM as $peers/NAME, which runs it by
# its own loader; the package's version is in $peers/root-NAME/version. False when that suite has none.
unpack() {
    local name=$1 program=$2 from=$3 suite=$4 package=$5 library_suite=$6 root=$peers/root-$1 each loader apt
    shift 6
    say "unpacking $name from $from ($suite) into $peers"
    work=$(mktemp -d "$peers/.unpack.XXXXXX")
    mkdir -p "$work"/apt/{lists/partial,cache/archives/partial,parts} "$work"/{root,deb}
    for each in $(printf '%s\n' "$suite" "$library_suite" | sort -u); do
        echo "deb [arch=$arch signed-by=$keyring] $from $each main"
    done >"$work/apt/sources"
    # An apt configuration of its own, so that the system's is not touched. An archived suite is no longer re-signed.
    apt=(apt-get -qq
        -oDir::Etc::SourceList="$work/apt/sources" -oDir::Etc::SourceParts="$work/apt/parts"
        -oDir::State::Lists="$work/apt/lists" -oDir::State::status=/dev/null -oDir::Cache="$work/apt/cache"
        -oAPT::Sandbox::User=root -oAcquire::Languages=none -oAcquire::Check-Valid-Until=false)
    local done=1
    if "${apt[@]}" update &&
        (cd "$work/deb" && "${apt[@]}" download "$package/$suite" "${@/%//$library_suite}"); then
        # A link makes /lib and /usr/lib the same folder, whichever spelling a package uses.
        mkdir -p "$work"/root/usr/{bin,sbin,lib,lib64}
        for each in bin sbin lib lib64; do ln -s "usr/$each" "$work/root/$each"; done
        for each in "$work"/deb/*.deb; do
            dpkg --fsys-tarfile "$each" | tar -xf - -C "$work/root" --keep-directory-symlink
        done
        loader=$(cd "$work/root" && find . -name 'ld-linux-*.so.?' | sed -n 1p)
        dpkg-deb -f "$work/deb/$package"_*.deb Version >"$work/root/version"
        rm -rf "$root"
        mv "$work/root" "$root"
        cat >"$work/wrapper" <<WRAPPER
#!/bin/sh
# $name by its own loader and libraries, so that the system's libc does not matter.
r='$root'
exec "\$r/$loader" --library-path "\$r/usr/lib/$triple:\$r/usr/lib/$triple/systemd" "\$r/usr/$program" "\$@"
WRAPPER
        chmod 755 "$work/wrapper"
        mv "$work/wrapper" "$peers/$name"
        done=0
    fi
    rm -rf "$work"
    work=
    return "$done"
}

[ -s "$keyring" ] || die "$keyring is missing, so Debian's packages cannot be verified"
