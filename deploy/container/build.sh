#!/usr/bin/env bash
# build.sh PACKAGE.deb NAME[:TAG] [BASE]: builds the container image from the Debian package, with buildah, as root. BASE: an image to
# start from instead of debian:bookworm-slim; `mmdebstrap`: a base made here from Debian's packages alone.
set -euo pipefail
[ $# -ge 2 ] || { sed -n '2,3s/^# //p' "$0"; exit 2; }
here=$(realpath "$(dirname "$0")")
package=$(realpath "$1")
name=$2
base=${3:-docker.io/library/debian:bookworm-slim}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
if [ "$base" = mmdebstrap ]; then
    sources=(/etc/apt/sources.list.d/debian.sources)
    [ -e "${sources[0]}" ] || sources=()
    mmdebstrap --quiet --variant=apt bookworm "$work/base.tar" "${sources[@]}"
    base=localhost/corral-base
    container=$(buildah from scratch)
    buildah add --quiet "$container" "$work/base.tar" / >/dev/null
    buildah commit --quiet --rm "$container" "$base" >/dev/null
    rm "$work/base.tar"
fi
mkdir "$work/context"
cp "$here/Containerfile" "$work/context"
cp "$package" "$work/context/corral.deb"
# Where no user namespaces are to be had, a chroot is all the isolation that the installation of packages needs.
buildah build --quiet --isolation chroot --build-arg BASE="$base" --tag "$name" "$work/context"
