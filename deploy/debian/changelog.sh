#!/bin/sh
# changelog.sh VERSION: the changelog that Debian's tools read; what has changed stands in CHANGELOG.md.
set -eu
printf 'corral (%s) unstable; urgency=medium\n\n  * See /usr/share/doc/corral/changelog.gz.\n\n -- Corral <corral@localhost>  %s\n' \
    "$1" "$(date -u -R -d "@${SOURCE_DATE_EPOCH:-0}")"
