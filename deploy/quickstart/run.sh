#!/usr/bin/env bash
# run.sh [--once] | down: the quickstart as one command. Installs what is missing, then hands over to quickstart.py.
# libvirt's system instance belongs to root, so all of it runs as root, by sudo where needed.
set -euo pipefail
cd "$(dirname "$0")/../.."

if [ "$(id -u)" != 0 ]; then
    command -v sudo >/dev/null || { echo "corral: libvirt's system instance needs root, and there is no sudo: run this as root" >&2; exit 1; }
    echo "==> root is needed for libvirt's system instance: continuing by sudo"
    exec sudo -- env ${PYTHON:+PYTHON="$PYTHON"} "$PWD/deploy/quickstart/run.sh" "$@"
fi

. deploy/quickstart/give_back.sh
trap give_back EXIT

started=$(date +%s.%N)
if [ "${1:-}" = down ]; then
    [ -x .venv/bin/python ] || { echo "corral: nothing was made here"; exit 0; }
else
    deploy/quickstart/prepare.sh system runtime tools guest
fi
# The child decides what an interrupt means; this shell only waits to give files back.
trap : INT TERM
set +e
CORRAL_STARTED=$started .venv/bin/python deploy/quickstart/quickstart.py "$@" &
child=$!
trap 'kill -TERM "$child" 2>/dev/null' TERM
trap 'kill -INT "$child" 2>/dev/null' INT
while kill -0 "$child" 2>/dev/null; do wait "$child"; code=$?; done
exit "${code:-1}"
