#!/bin/sh
# in_container.sh LINE: runs a line for a shell as the container image's own user, in its root and its directory. The
# environment is what this has, over which the image's own is laid where the documents do not say otherwise. Names here
# are such as no variable of a service's has, and programs are named by their path, since PATH may be the service's.
corral_root=/run/corral/root
corral_told="
$(/bin/cat "${CORRAL_DOCUMENTS:-/run/corral/facts}/env")"
while IFS= read -r corral_line; do
    case "$corral_told" in
        *"
${corral_line%%=*}="*) ;;
        *) export "${corral_line?}" ;;
    esac
done < "$corral_root/.corral/environment"
export CORRAL_WEIGHTS_PATH="${CORRAL_WEIGHTS_PATH#"$corral_root"}"
# One that has no shell is given this guest's.
corral_shell=/bin/sh
corral_applet=
if ! /bin/chroot "$corral_root" /.corral/busybox test -x /bin/sh; then
    corral_shell=/.corral/busybox
    corral_applet=sh
fi
exec /bin/chroot "$corral_root" /.corral/busybox sh -c '
    /.corral/busybox mkdir -p "$2"
    cd "$2" || exit 126
    [ "$1" != 0 ] || exec "$3" ${4:+"$4"} -c "$5"
    exec /.corral/busybox start-stop-daemon -S -p /.corral/none -c "$1" -x "$3" -- ${4:+"$4"} -c "$5"
' corral "$(/bin/cat "$corral_root/.corral/user")" "$(/bin/cat "$corral_root/.corral/directory")" "$corral_shell" \
    "$corral_applet" "$1"
