#!/bin/sh
# build.sh OUT_DIR: the default guest image. Only finds Python and hands over to build.py, which says the rest.
set -eu
if ! command -v python3 > /dev/null; then
    echo "guest image: python3 is missing: apt-get install --no-install-recommends python3" >&2
    exit 1
fi
exec python3 "$(dirname "$0")/build.py" "$@"
