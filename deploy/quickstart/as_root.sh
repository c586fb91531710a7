#!/usr/bin/env bash
# as_root.sh COMMAND...: runs it as root from the checkout's top, by sudo where needed, and gives what root made there to
# the checkout's owner.
# Without sudo it runs as it is: what needs root then says so.
set -uo pipefail
cd "$(dirname "$0")/../.."

if [ "$(id -u)" != 0 ] && command -v sudo >/dev/null; then
    exec sudo -- env "PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin" ${CI:+CI="$CI"} "$PWD/deploy/quickstart/as_root.sh" "$@"
fi
. deploy/quickstart/give_back.sh
trap give_back EXIT
trap : INT TERM
"$@"
