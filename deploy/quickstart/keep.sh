#!/bin/sh
# keep.sh COMMAND...: run it, and again each time that a signal has ended it, as systemd does with Restart=on-failure.
# SIGTERM to this shell is passed on and ends both.
child=
ending=
trap 'ending=1; [ -z "$child" ] || kill "$child" 2> /dev/null' TERM

while [ -z "$ending" ]; do
    "$@" &
    child=$!
    [ -z "$ending" ] || kill "$child"
    # A signal to this shell ends `wait` before the command has ended.
    while :; do
        wait "$child"
        status=$?
        kill -0 "$child" 2> /dev/null || break
    done
    if [ -n "$ending" ] || [ "$status" -le 128 ]; then
        exit "$status"
    fi
    echo "$1 was ended by signal $((status - 128)), and is started again" >&2
    sleep 1
done
