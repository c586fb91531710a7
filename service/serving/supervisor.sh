#!/bin/sh
# The supervisor of one member: hosts, network, gate, engine, readiness, canary; its reports go up the progress channel.
#
# One file for every guest: a cloud image's service manager or the small guest's process 1 starts it, and it ends with
# the machine. It needs a POSIX shell with the usual small programs, and busybox or python3 to tell its peers where it
# stands. Facts are files that Corral delivered; nothing in them is ever evaluated but the engine's command.
#
# CORRAL_FACTS: the directory of the documents. CORRAL_RUN: where state is kept. CORRAL_CHANNEL: the progress port.
# CORRAL_HOSTS_FILE: the hosts file. Each has a default; tests set them.
PATH=${PATH:-/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin}
RUN=${CORRAL_RUN:-/run/corral}
FACTS=${CORRAL_FACTS:-$RUN/facts}
HOSTS_FILE=${CORRAL_HOSTS_FILE:-/etc/hosts}
PORT_NAME=org.corral.progress
FW_CFG=/sys/firmware/qemu_fw_cfg/by_name/opt/org.corral
SEED_LABEL=cidata
LOG_BYTES=262144
MOST_PAUSE=30
STABLE_SECONDS=60

log() { echo "corral: $*" >&2; }

now() { cut -d. -f1 /proc/uptime; }

# The inside of a JSON string: control characters dropped, quotes and backslashes escaped, not too long.
json_text() { printf '%s' "$1" | tr -d '\000-\037\177' | cut -c1-400 | sed 's/\\/\\\\/g; s/"/\\"/g'; }

# --- facts ---------------------------------------------------------------------------------------------------------

# From where they were delivered this time, not from what an earlier boot wrote to the disk.
find_facts() {
    [ ! -r "$FACTS/env" ] || return 0
    mkdir -p "$FACTS"
    for entry in "$FW_CFG"/*.base64; do
        [ -r "$entry/raw" ] || continue
        name=${entry##*/}
        base64 -d < "$entry/raw" > "$FACTS/${name%.base64}"
    done
    [ ! -r "$FACTS/env" ] || return 0
    seed=/dev/disk/by-label/$SEED_LABEL
    if [ -e "$seed" ] && mkdir -p "$RUN/seed" && mount -o ro "$seed" "$RUN/seed" 2> /dev/null; then
        for name in env hosts hostfile rendezvous; do
            [ ! -r "$RUN/seed/$name" ] || cat "$RUN/seed/$name" > "$FACTS/$name"
        done
        umount "$RUN/seed"
    fi
    [ -r "$FACTS/env" ] || [ ! -r /etc/corral/env ] || cp /etc/corral/* "$FACTS/"
    [ -r "$FACTS/env" ]
}

# KEY=value lines, taken literally. `$1`: a pattern of names; the engine is given all, this shell only Corral's own, so
# that a variable of the service's cannot change what is done here.
take_facts() {
    while IFS= read -r line || [ -n "$line" ]; do
        case "${line%%=*}" in
            '' | *[!A-Za-z0-9_]* | [0-9]*) continue ;;
            $1) export "${line?}" ;;
        esac
    done < "$FACTS/env"
}

# --- what is told --------------------------------------------------------------------------------------------------

# A counter rises with every turn of the main loop: a supervisor that hangs falls silent, whatever else goes on.
publish() {
    COUNT=$((COUNT + 1))
    age=-1
    [ -z "$ANSWERED_AT" ] || age=$(($(now) - ANSWERED_AT))
    printf '{"v":1,"stage":"%s","detail":"%s","epoch":%d,"address":"%s","rank":%d,"count":%d,"answered":%d,"restarts":%d}\n' \
        "$STAGE" "$DETAIL" "${CORRAL_GROUP_EPOCH:-0}" "$ADDRESS" "${CORRAL_NODE_RANK:-0}" "$COUNT" "$age" "$RESTARTS" \
        > "$RUN/report.new"
    mv "$RUN/report.new" "$RUN/report"
    listens=false
    [ -z "${CORRAL_LISTEN_PORT:-}" ] || ! is_listening "$CORRAL_LISTEN_PORT" || ! engine_runs || listens=true
    printf 'group=%s epoch=%s rank=%s stage=%s listens=%s\n' "${CORRAL_GROUP_UUID:-}" "${CORRAL_GROUP_EPOCH:-0}" \
        "${CORRAL_NODE_RANK:-0}" "$STAGE" "$listens" > "$RUN/www/status.new"
    mv "$RUN/www/status.new" "$RUN/www/status"
}

stage() {
    [ "$STAGE $DETAIL" = "$1 $(json_text "${2:-}")" ] || log "$1 ${2:-}"
    STAGE=$1
    DETAIL=$(json_text "${2:-}")
    publish
}

progress_port() {
    [ -z "${CORRAL_CHANNEL:-}" ] || { echo "$CORRAL_CHANNEL"; return 0; }
    for port in /sys/class/virtio-ports/*; do
        [ "$(cat "$port/name" 2> /dev/null)" != "$PORT_NAME" ] || { echo "/dev/${port##*/}"; return 0; }
    done
    return 1
}

# Sends what is new and nothing else. A write blocks while nobody reads, which is why this is a process of its own; the
# leading newline ends a line that an earlier reader saw only half of.
report_in_background() {
    sent=
    until port=$(progress_port); do sleep 1; done
    while :; do
        line=$(cat "$RUN/report")
        if [ "$line" != "$sent" ]; then
            printf '\n%s\n' "$line" > "$port" 2> /dev/null && sent=$line
        fi
        sleep 0.5
    done
}

# Peers ask each other where they stand, because a look at an engine's own port may break it.
tell_peers() {
    port=${CORRAL_SUPERVISOR_PORT:-}
    [ -n "$port" ] && [ -n "$ADDRESS" ] || return 0
    if command -v python3 > /dev/null 2>&1; then
        exec python3 -m http.server "$port" --bind "$ADDRESS" --directory "$RUN/www" > /dev/null 2>&1
    elif command -v httpd > /dev/null 2>&1; then
        exec httpd -f -p "$ADDRESS:$port" -h "$RUN/www"
    elif command -v busybox > /dev/null 2>&1; then
        exec busybox httpd -f -p "$ADDRESS:$port" -h "$RUN/www"
    fi
    log "neither busybox nor python3 is here: peers that wait for this member wait for ever"
}

# fetch SECONDS URL [BODY]: the answer on standard output; fails for anything but an answer of 200 to 299.
fetch() {
    if command -v curl > /dev/null 2>&1; then
        if [ $# -gt 2 ]; then
            curl -sf -m "$1" -H 'Content-Type: application/json' --data-binary "$3" "$2"
        else
            curl -sf -m "$1" "$2"
        fi
    elif command -v wget > /dev/null 2>&1; then
        if [ $# -gt 2 ]; then
            timeout "$1" wget -q -O - --header 'Content-Type: application/json' --post-data "$3" "$2" 2> /dev/null
        else
            timeout "$1" wget -q -O - "$2" 2> /dev/null
        fi
    else
        timeout "$1" python3 -c 'import sys, urllib.request as u
body = sys.argv[2].encode() if len(sys.argv) > 2 else None
r = u.Request(sys.argv[1], body, {"Content-Type": "application/json"} if body else {})
sys.stdout.buffer.write(u.urlopen(r).read())' "$2" ${3+"$3"} 2> /dev/null
    fi
}

# --- the steps before the engine -----------------------------------------------------------------------------------

# The group's lines between two marks; the machine's own name is its planned address, never 127.0.1.1, to which an engine
# would connect on every rank.
write_hosts() {
    [ -r "$FACTS/hosts" ] || return 0
    {
        [ ! -r "$HOSTS_FILE" ] || sed '/^# corral begin$/,/^# corral end$/d; /^127\.0\.1\.1[[:space:]]/d' "$HOSTS_FILE"
        echo '# corral begin'
        cat "$FACTS/hosts"
        echo '# corral end'
    } > "$RUN/hosts.new"
    # In place: the file may be a mount, and others may hold it open.
    cat "$RUN/hosts.new" > "$HOSTS_FILE"
    [ -n "${CORRAL_RUN:-}" ] || hostname "${CORRAL_HOST_NAME:-guest}" || log "the host name was not set"
}

interface_of() { ip -o addr show 2> /dev/null | sed -n "s/^[0-9]*: *\([^ @]*\).* inet6* $1\/.*/\1/p" | head -n 1; }

await_network() {
    ADDRESS=${CORRAL_NODE_ADDRESS%%/*}
    [ -n "$ADDRESS" ] || return 0
    pattern=$(printf '%s' "$ADDRESS" | sed 's/\./\\./g')
    INTERFACE=$(interface_of "$pattern")
    while [ -z "$INTERFACE" ]; do
        stage network "no interface has address $ADDRESS"
        sleep 0.5
        INTERFACE=$(interface_of "$pattern")
    done
}

# Whether a peer of this group and of this start says that its engine listens.
peer_listens() {
    told=$(fetch 2 "http://$1:$CORRAL_SUPERVISOR_PORT/status") || return 1
    case "$told" in
        "group=$CORRAL_GROUP_UUID epoch=$CORRAL_GROUP_EPOCH "*" listens=true") return 0 ;;
    esac
    return 1
}

# Prints the first peer that this member's engine has to wait for; nothing once the gate is open.
waits_for() {
    case "${CORRAL_GATE:-none}" in
        leader) peers=$CORRAL_LEADER_ADDRESS ;;
        workers) peers=${CORRAL_PEERS#* } ;;
        *) return 0 ;;
    esac
    for peer in $peers; do
        [ "$peer" = "$ADDRESS" ] || peer_listens "$peer" || { echo "$peer"; return 0; }
    done
}

pass_gate() {
    late=$(waits_for)
    while [ -n "$late" ]; do
        stage gate "waiting for the engine of $late"
        sleep 0.3
        late=$(waits_for)
    done
}

# --- the engine ----------------------------------------------------------------------------------------------------

start_engine() {
    stage engine "starting"
    (
        trap - TERM INT
        # The group's own names last, so that nobody else's variable has them.
        take_facts '[A-Za-z_]*'
        [ ! -r "$FACTS/hostfile" ] || export CORRAL_HOSTFILE="$FACTS/hostfile"
        if [ -n "$INTERFACE" ]; then
            export GLOO_SOCKET_IFNAME="$INTERFACE" NCCL_SOCKET_IFNAME="$INTERFACE" TP_SOCKET_IFNAME="$INTERFACE"
        fi
        exec setsid /bin/sh -c "$CORRAL_ENGINE_COMMAND"
    ) >> "$RUN/engine.log" 2>&1 < /dev/null &
    ENGINE=$!
    STARTED_AT=$(now)
    READY_AT=
    ANSWERED_AT=
}

# Running, and not a zombie, for which kill -0 is true as well.
engine_runs() {
    [ -n "$ENGINE" ] || return 1
    state=$(sed 's/.*) //; s/ .*//' "/proc/$ENGINE/stat" 2> /dev/null) || return 1
    [ -n "$state" ] && [ "$state" != Z ]
}

# By its process group: children of engines outlive their parent, and go on computing.
stop_engine() {
    [ -n "$ENGINE" ] || return 0
    # Neither dash nor busybox takes "--" here. It may not lead its group yet.
    kill -TERM "-$ENGINE" 2> /dev/null || kill -TERM "$ENGINE" 2> /dev/null
    tries=0
    while kill -0 "-$ENGINE" 2> /dev/null && [ "$tries" -lt "${1:-50}" ]; do
        tries=$((tries + 1))
        # Only what was waited for stops being there.
        engine_runs || wait "$ENGINE" 2> /dev/null
        publish
        sleep 0.1
    done
    kill -KILL "-$ENGINE" 2> /dev/null
    wait "$ENGINE" 2> /dev/null
    ENGINE=
}

last_words() { tail -n 3 "$RUN/engine.log" 2> /dev/null | tr '\n' ' '; }

# The engine appends, so that its log can be cut while it writes.
cut_log() {
    size=$(wc -c < "$RUN/engine.log" 2> /dev/null) || return 0
    [ "$size" -gt $((LOG_BYTES * 4)) ] || return 0
    tail -c "$LOG_BYTES" "$RUN/engine.log" > "$RUN/engine.log.cut"
    cat "$RUN/engine.log.cut" > "$RUN/engine.log"
}

# A pause that grows with each start that did not last.
restart_engine() {
    stop_engine "${2:-50}"
    # The end of its group may be asked for by its peers: they see that it does not listen.
    lasted=0
    [ -z "$READY_AT" ] || lasted=$(($(now) - READY_AT))
    [ "$lasted" -lt "$STABLE_SECONDS" ] || PAUSE=0
    READY_AT=
    RESTARTS=$((RESTARTS + 1))
    stage degraded "$1"
    until=$(($(now) + PAUSE))
    while [ "$(now)" -lt "$until" ]; do publish; sleep 1; done
    PAUSE=$((PAUSE == 0 ? 1 : PAUSE * 2))
    [ "$PAUSE" -le "$MOST_PAUSE" ] || PAUSE=$MOST_PAUSE
    pass_gate
    start_engine
}

# --- readiness -----------------------------------------------------------------------------------------------------

# Whether any process listens on the TCP port: state 0A of the kernel's own table. Nothing is sent.
is_listening() {
    hex=$(printf '%04X' "$1")
    cat /proc/net/tcp /proc/net/tcp6 2> /dev/null | grep -q "^ *[0-9]*: [0-9A-F]*:$hex [0-9A-F]*:0000 0A "
}

own_url() {
    host=${ADDRESS:-127.0.0.1}
    case "$host" in *:*) host="[$host]" ;; esac
    echo "http://$host:$CORRAL_READINESS_PORT$1"
}

looks_ready() {
    case "${CORRAL_READINESS:-process}" in
        http) fetch "${CORRAL_READINESS_TIMEOUT_SECONDS:-2}" "$(own_url "$CORRAL_READINESS_PATH")" > /dev/null ;;
        listening) is_listening "$CORRAL_READINESS_PORT" ;;
        *) [ $(($(now) - STARTED_AT)) -ge 1 ] ;;
    esac
}

# --- the canary ----------------------------------------------------------------------------------------------------

# A request of a few tokens whose right answer is known: the only proof that every member did its part. One at a time.
has_canary() { [ -n "${CORRAL_CANARY_PATH:-}" ] && [ "${CORRAL_NODE_RANK:-0}" = 0 ]; }

hundredths() { cut -d' ' -f1 /proc/uptime | tr -d .; }

ask_canary() {
    [ -z "$ASKED" ] || return 0
    ASKED=yes
    ASKED_AT=$(now)
    rm -f "$RUN/canary.done"
    (
        trap - TERM INT
        began=$(hundredths)
        fetch "$DEADLINE" "$(own_url "$CORRAL_CANARY_PATH")" ${CORRAL_CANARY_BODY:+"$CORRAL_CANARY_BODY"} > "$RUN/canary"
        echo "$? $(($(hundredths) - began))" > "$RUN/canary.new"
        mv "$RUN/canary.new" "$RUN/canary.done"
    ) &
    CANARY=$!
}

# Takes an answer that has come. The time that one may take follows from the first right one: five times as long.
judge_canary() {
    [ -n "$ASKED" ] && [ -r "$RUN/canary.done" ] || return 0
    ASKED=
    read -r status took < "$RUN/canary.done"
    if [ "$status" -ne 0 ]; then
        WRONG="no answer within $DEADLINE s"
    elif ! grep -Eq -- "$CORRAL_CANARY_EXPECT" "$RUN/canary"; then
        WRONG="a wrong answer: $(head -c 200 "$RUN/canary" | tr '\n' ' ')"
    else
        WRONG=
        ANSWERED_AT=$(now)
        if [ -z "$MEASURED" ]; then
            MEASURED=$(((took * 5 + 99) / 100))
            DEADLINE=$((MEASURED > LEAST_DEADLINE ? MEASURED : LEAST_DEADLINE))
        fi
    fi
}

# Whether the model has answered rightly so lately that it may be said to answer.
answers() {
    has_canary || return 0
    judge_canary
    pause=$ASK_EVERY
    [ -z "$WRONG" ] && [ -n "$ANSWERED_AT" ] || pause=1
    [ $(($(now) - ASKED_AT)) -lt "$pause" ] || ask_canary
    [ -n "$ANSWERED_AT" ] && [ $(($(now) - ANSWERED_AT)) -le "$PATIENCE" ]
}

main() {
    STAGE=
    DETAIL=
    ADDRESS=
    INTERFACE=
    ENGINE=
    ANSWERED_AT=
    READY_AT=
    PAUSE=0
    RESTARTS=0
    COUNT=0
    SERVED=
    ASKED=
    ASKED_AT=0
    TELLER=
    REPORTER=
    CANARY=
    WRONG=
    MEASURED=
    mkdir -p "$RUN/www"
    chmod 700 "$RUN"
    trap 'ending' TERM INT
    until find_facts; do log "no facts were delivered yet"; sleep 1; done
    take_facts 'CORRAL_*'
    # Seconds: between two right answers, without one until the engine is started again, and the least for one answer.
    ASK_EVERY=${CORRAL_CANARY_INTERVAL_SECONDS:-10}
    PATIENCE=${CORRAL_CANARY_PATIENCE_SECONDS:-15}
    LEAST_DEADLINE=3
    # Before it is measured one answer may take long: the first brings the model's weights into memory.
    DEADLINE=${CORRAL_START_DEADLINE_SECONDS:-300}
    stage booting
    report_in_background &
    REPORTER=$!
    write_hosts
    await_network
    tell_peers &
    TELLER=$!
    pass_gate
    if [ -n "${CORRAL_ENGINE_COMMAND:-}" ]; then start_engine; else STARTED_AT=$(now); fi
    while :; do
        turn
        sleep 0.5 &
        wait "$!"
    done
}

# One look. Before a member has served it is still joining; afterwards it is degraded.
turn() {
    cut_log
    short=joining
    [ -z "$SERVED" ] || short=degraded
    if [ -n "${CORRAL_ENGINE_COMMAND:-}" ] && ! engine_runs; then
        wait "$ENGINE"
        restart_engine "the engine ended with status $?: $(last_words)"
    elif ! looks_ready; then
        stage "$short" "the engine does not answer"
    elif answers; then
        [ -n "$READY_AT" ] || READY_AT=$(now)
        SERVED=yes
        stage ready
    elif [ -n "$READY_AT" ]; then
        restart_engine "the engine has not answered rightly for $PATIENCE s: $WRONG"
    else
        stage "$short" "the model has not answered rightly yet${WRONG:+: $WRONG}"
    fi
}

ending() {
    trap '' TERM INT
    stage stopping "asked to end"
    stop_engine 50
    # The reporter may be told once more that this one stops, if anybody reads.
    sleep 1
    kill $TELLER $REPORTER $CANARY 2> /dev/null
    exit 0
}

main
