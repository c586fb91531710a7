#!/usr/bin/env bash
# build.sh DIRECTORY: builds the Debian package of this checkout, and puts it there. As root, with the packages of control's
# Build-Depends; pip fetches what deploy/requirements/runtime.txt pins.
set -euo pipefail
[ $# = 1 ] || { sed -n '2,3s/^# //p' "$0"; exit 2; }
[ "$(id -u)" = 0 ] || { echo "build.sh: needs root: sudo $0 $*" >&2; exit 1; }
root=$(realpath "$(dirname "$0")/../..")
out=$(realpath "$1")
work=$(mktemp -d)
made=()
clean() {
    rm -rf "$work"
    [ "${#made[@]}" -eq 0 ] || rmdir "${made[@]}" 2>/dev/null || true
}
trap clean EXIT
mkdir "$work/corral"
cp -r "$root"/{LICENSE,README.md,CHANGELOG.md,pyproject.toml,placement,service,protos,deploy} "$work/corral"
find "$work/corral" -name __pycache__ -prune -exec rm -rf {} +
cp -r "$root/deploy/debian" "$work/corral/debian"
version=${CORRAL_VERSION:-$(sed -n 's/^version = "\(.*\)"$/\1/p' "$root/pyproject.toml")}
sh "$work/corral/debian/changelog.sh" "$version" >"$work/corral/debian/changelog"
sed -i "s/^version = \".*\"$/version = \"$version\"/" "$work/corral/pyproject.toml"
mkdir "$work/corral/debian/env"
if [ ! -e /opt/corral ]; then
    mkdir -p /opt/corral
    made=(/opt/corral)
fi
# Nobody else sees the mount, and it ends with the build. An installed Corral is only hidden from the build.
unshare --mount --propagation private sh -euc '
    cd "$1/corral"
    mount --bind debian/env /opt/corral
    exec dpkg-buildpackage --build=binary --no-sign --no-pre-clean
' sh "$work" <"/dev/null" >"$work/log" 2>&1 || { tail -n 40 "$work/log" >&2; exit 1; }
mv "$work"/corral_*.deb "$out"
ls "$out"/corral_"$version"_*.deb
