#!/bin/sh
# The supervisor of one member: hosts, network, weights, gate, engine, readiness, canary. Its reports go up the progress
# channel, and down the same channel it is told of a new start of the group, with the documents of that start.
#
# One file for every guest: a cloud image's service manager or the small guest's process 1 starts it, and it ends with
# the machine. It needs a POSIX shell with the usual small programs, and busybox or python3 to tell its peers where it
# stands. Documents are files that Corral delivered; nothing in them is ever evaluated but the engine's command.
#
# CORRAL_DOCUMENTS: the directory of the documents. CORRAL_RUN: where state is kept. CORRAL_CHANNEL: the progress port.
# CORRAL_LOG_PORT: where the engine's words go. CORRAL_HOSTS_FILE: the hosts file. CORRAL_RUNNER: what runs a line for a
# shell, in a session of its own. CORRAL_WEIGHTS: where the model's weights are kept. Each has a default; tests set them,
# and the default guest the last two.
PATH=${PATH:-/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin}
RUN=${CORRAL_RUN:-/run/corral}
DOCUMENTS=${CORRAL_DOCUMENTS:-$RUN/facts}
HOSTS_FILE=${CORRAL_HOSTS_FILE:-/etc/hosts}
RUNNER=${CORRAL_RUNNER:-setsid /bin/sh -c}
# It stays while the machine has its disk: what was fetched is there after a start in place, and after a crash.
WEIGHTS=${CORRAL_WEIGHTS:-/var/lib/corral/weights}
PORT_NAME=org.corral.progress
LOG_PORT_NAME=org.corral.log
FW_CFG=/sys/firmware/qemu_fw_cfg/by_name/opt/org.corral
NOCLOUD_LABEL=cidata
IPV4=/proc/sys/net/ipv4
LOG_BYTES=262144
# Seconds: between two starts of an engine that does not last, and for how long one has to serve to be taken to last.
MOST_PAUSE=${CORRAL_MOST_PAUSE:-30}
STABLE_SECONDS=60
# So often an engine that has served is started again without lasting in between.
MOST_FAULTS=5
# An engine that computes has so many times the patience; so many hundredths of a second between two looks are work.
BUSY_PATIENCE=${CORRAL_BUSY_PATIENCE:-4}
LEAST_TICKS=4
MOST_DEADLINE=60
# Seconds between two looks at the engine, and at what is to be reported: whoever has something new does not wait for them.
LOOK_EVERY=${CORRAL_LOOK_EVERY:-0.5}

log() { echo "corral: $*" >&2; }

# A pause of so many seconds, which whoever has something new ends by a signal; what came before it ends it as well.
rest() {
    sleep "$1" &
    SLEEPER=$!
    [ -z "$WOKEN" ] || kill "$SLEEPER" 2> /dev/null
    wait "$SLEEPER"
    SLEEPER=
    WOKEN=
}

may_be_woken() { trap 'WOKEN=yes; [ -z "$SLEEPER" ] || kill "$SLEEPER" 2> /dev/null' USR1; }

now() { cut -d. -f1 /proc/uptime; }

# The inside of a JSON string: control characters dropped, quotes and backslashes escaped, not too long.
json_text() { printf '%s' "$1" | tr -d '\000-\037\177' | cut -c1-400 | sed 's/\\/\\\\/g; s/"/\\"/g'; }

# --- documents -----------------------------------------------------------------------------------------------------

# From where they were delivered this time, not from what an earlier boot wrote to the disk.
find_documents() {
    [ ! -r "$DOCUMENTS/env" ] || return 0
    mkdir -p "$DOCUMENTS"
    for entry in "$FW_CFG"/*.base64; do
        [ -r "$entry/raw" ] || continue
        name=${entry##*/}
        base64 -d < "$entry/raw" > "$DOCUMENTS/${name%.base64}"
    done
    [ ! -r "$DOCUMENTS/env" ] || return 0
    nocloud=/dev/disk/by-label/$NOCLOUD_LABEL
    if [ -e "$nocloud" ] && mkdir -p "$RUN/nocloud" && mount -o ro "$nocloud" "$RUN/nocloud" 2> /dev/null; then
        for name in env hosts hostfile rendezvous machine; do
            [ ! -r "$RUN/nocloud/$name" ] || cat "$RUN/nocloud/$name" > "$DOCUMENTS/$name"
        done
        umount "$RUN/nocloud"
    fi
    [ -r "$DOCUMENTS/env" ] || [ ! -r /etc/corral/env ] || cp /etc/corral/* "$DOCUMENTS/"
    [ -r "$DOCUMENTS/env" ]
}

# KEY=value lines, taken literally. `$1`: a pattern of names; the engine is given all, this shell only Corral's own, so
# that a variable of the service's cannot change what is done here.
take_documents() {
    while IFS= read -r line || [ -n "$line" ]; do
        case "${line%%=*}" in
            '' | *[!A-Za-z0-9_]* | [0-9]*) continue ;;
            $1) export "${line?}" ;;
        esac
    done < "$DOCUMENTS/env"
}

# --- what is told --------------------------------------------------------------------------------------------------

# A counter rises with every turn of the main loop: a supervisor that hangs falls silent, whatever else goes on.
publish() {
    COUNT=$((COUNT + 1))
    age=-1
    [ -z "$ANSWERED_AT" ] || age=$(($(now) - ANSWERED_AT))
    printf '{"v":1,"stage":"%s","detail":"%s","epoch":%d,"address":"%s","rank":%d,"count":%d,"answered":%d,"restarts":%d,"clash":"%s","boot_id":"%s","endpoint":"%s","ailing":"%s","weights":"%s","fault":"%s"}\n' \
        "$STAGE" "$DETAIL" "${CORRAL_GROUP_EPOCH:-0}" "$ADDRESS" "${CORRAL_NODE_RANK:-0}" "$COUNT" "$age" "$RESTARTS" "$CLASH" "$BOOT_ID" "$HELD" "$AILING" \
        "$FAR" "$FAULT" \
        > "$RUN/report.new"
    mv "$RUN/report.new" "$RUN/report"
    listens=false
    [ -z "${CORRAL_LISTEN_PORT:-}" ] || ! is_listening "$CORRAL_LISTEN_PORT" || ! engine_runs || listens=true
    printf 'group=%s epoch=%s rank=%s stage=%s run=%s follows=%s own=%s listens=%s\n' "${CORRAL_GROUP_UUID:-}" \
        "${CORRAL_GROUP_EPOCH:-0}" "${CORRAL_NODE_RANK:-0}" "$STAGE" "$ENGINE_RUN" "$FOLLOWED" "$OWN" "$listens" \
        > "$RUN/www/status.new"
    mv "$RUN/www/status.new" "$RUN/www/status"
}

stage() {
    before="$STAGE $DETAIL"
    STAGE=$1
    DETAIL=$(json_text "${2:-}")
    publish
    [ "$before" != "$STAGE $DETAIL" ] || return 0
    log "$1 ${2:-}"
    # A reporter that may be woken has said so; before that a signal would end it.
    [ ! -e "$RUN/reporter" ] || kill -USR1 "$REPORTER" 2> /dev/null
}

# The device of the port of this name.
port_named() {
    for port in /sys/class/virtio-ports/*; do
        [ "$(cat "$port/name" 2> /dev/null)" != "$1" ] || { echo "/dev/${port##*/}"; return 0; }
    done
    return 1
}

progress_port() {
    [ -z "${CORRAL_CHANNEL:-}" ] || { echo "$CORRAL_CHANNEL"; return 0; }
    port_named "$PORT_NAME"
}

# Bare metal has no such port: it says the same to the address, and by the token, that its own document has. What it was
# told is not to be changed while it runs.
tell_as_machine() {
    trap 'exit 0' TERM INT
    url=$(sed -n 's/^ *"report_url": "\(.*\)",*$/\1/p' "$DOCUMENTS/machine")
    token=$(sed -n 's/^ *"token": "\(.*\)",*$/\1/p' "$DOCUMENTS/machine")
    while :; do
        post_as_machine "$(cat "$RUN/report")" > /dev/null 2>&1
        rest 2
    done
}

post_as_machine() {
    if command -v curl > /dev/null 2>&1; then
        # The token comes by standard input: the command line is readable to all.
        printf 'header = "Authorization: Bearer %s"\n' "$token" |
            curl -sf -m 5 -K - -H 'Content-Type: application/json' --data-binary "$1" "$url"
    elif command -v wget > /dev/null 2>&1; then
        timeout 5 wget -q -O - --header "Authorization: Bearer $token" --header 'Content-Type: application/json' \
            --post-data "$1" "$url"
    else
        TOKEN=$token timeout 5 python3 -c 'import os, sys, urllib.request as u
u.urlopen(u.Request(sys.argv[1], sys.argv[2].encode(), {"Authorization": "Bearer " + os.environ["TOKEN"]}))' "$url" "$1"
    fi
}

# A port can be opened once at a time, so that one opening serves both ways. A write blocks while nobody reads, which is
# why this is a process of its own.
talk_in_background() {
    [ ! -r "$DOCUMENTS/machine" ] || tell_as_machine
    until port=$(progress_port); do sleep 1; done
    exec 3<> "$port"
    listen_in_background <&3 &
    LISTENER=$!
    SLEEPER=
    WOKEN=
    trap 'kill $LISTENER $SLEEPER 2> /dev/null; exit 0' TERM INT
    report
}

# Sends what is new and nothing else; the leading newline ends a line that an earlier reader saw only half of. It looks
# twice a second, and at once where it is woken by another stage.
report() {
    sent=
    may_be_woken
    : > "$RUN/reporter"
    while :; do
        line=$(cat "$RUN/report")
        if [ "$line" != "$sent" ]; then
            printf '\n%s\n' "$line" >&3 2> /dev/null && sent=$line
        fi
        rest "$LOOK_EVERY"
    done
}

# The text of a field of a line of orders, which are letters, digits and what base64 has.
field() { printf '%s' "$line" | sed -n "s|.*\"$1\":\"\{0,1\}\([A-Za-z0-9+/=]*\).*|\1|p"; }

# Keeps the documents of the newest start that this group was told of where the main loop finds them whole.
listen_in_background() {
    trap - TERM INT
    while :; do
        if ! IFS= read -r line; then
            sleep 1  # nobody is at the other end
            continue
        fi
        case "$line" in
            '{"v":1,"do":"restart",'*'}') ;;
            '{"v":1,"do":"take",'*'}')
                [ "$(field group)" = "$CORRAL_GROUP_UUID" ] || continue
                field address | base64 -d > "$RUN/told.new" 2> /dev/null && mv "$RUN/told.new" "$RUN/told"
                kill -USR1 "$$"
                continue
                ;;
            '{"v":1,"do":"quiesce",'*'}')
                [ "$(field group)" = "$CORRAL_GROUP_UUID" ] || continue
                take_no_more  # here, since the main loop may be in the middle of something
                field seconds > "$RUN/quiesce.new" && mv "$RUN/quiesce.new" "$RUN/quiesce"
                kill -USR1 "$$"
                continue
                ;;
            *) continue ;;
        esac
        epoch=$(field epoch)
        case "$epoch" in '' | *[!0-9]*) continue ;; esac
        rm -rf "$RUN/order.new"
        mkdir "$RUN/order.new"
        for name in env hosts hostfile rendezvous; do
            field "$name" | base64 -d > "$RUN/order.new/$name" 2> /dev/null || : > "$RUN/order.new/$name"
        done
        # One for another group or with an epoch of its own is none, and neither is one that was cut.
        grep -q "^CORRAL_GROUP_UUID=$CORRAL_GROUP_UUID\$" "$RUN/order.new/env" || continue
        grep -q "^CORRAL_GROUP_EPOCH=$epoch\$" "$RUN/order.new/env" || continue
        rm -rf "$RUN/order"
        mv "$RUN/order.new" "$RUN/order"
        kill -USR1 "$$"
    done
}

# Takes over a start that is newer than this member's own. Fails where there is none.
heed() {
    [ -r "$RUN/order/env" ] || return 1
    rm -rf "$RUN/taken"
    mv "$RUN/order" "$RUN/taken" || return 1
    epoch=$(sed -n 's/^CORRAL_GROUP_EPOCH=//p' "$RUN/taken/env")
    [ "${epoch:-0}" -gt "${CORRAL_GROUP_EPOCH:-0}" ] || return 1
    for name in env hosts hostfile rendezvous; do
        if [ -s "$RUN/taken/$name" ]; then cat "$RUN/taken/$name" > "$DOCUMENTS/$name"; else rm -f "$DOCUMENTS/$name"; fi
    done
    rm -rf "$RUN/taken"
    # What is in no document any more is so no more.
    export CORRAL_ENDPOINT_ADDRESS=
    take_documents 'CORRAL_*'
    write_hosts
    rm -f "$RUN/told"
    FOLLOWED=
    PASSED_BY=
    PAUSE=0
    FAULTS=0
    return 0
}

# The group's own address, beside this member's: what was told last, or else what the documents say. It is told to one
# member alone, once the machine of whoever had it before is gone, so that nobody is asked here.
have_endpoint() {
    [ -n "$INTERFACE" ] || return 0
    wanted=${CORRAL_ENDPOINT_ADDRESS:-}
    [ ! -r "$RUN/told" ] || wanted=$(cat "$RUN/told")
    case "$wanted" in *[!0-9a-f.:]*) return 0 ;; esac
    [ "$wanted" != "$HELD" ] || return 0
    [ -z "$HELD" ] || ip address del "$HELD/$(longest "$HELD")" dev "$INTERFACE" 2> /dev/null
    HELD=
    if [ -n "$wanted" ]; then
        take_address "$wanted" || holds_address "$wanted" || return 0
        HELD=$wanted
        announce "$wanted" &
    fi
    publish
}

# The group's address is another machine's next: whoever is being answered is answered to the end, within the seconds that
# were told, and nobody new is, nor refused. This member never serves again before its machine starts anew.
quiesce() {
    [ -r "$RUN/quiesce" ] || return 0
    seconds=$(cat "$RUN/quiesce")
    case "$seconds" in '' | *[!0-9]*) seconds=0 ;; esac
    until=$(($(hundredths) + 100 * seconds))
    log "it takes no more callers, and ends its answers within $seconds s"
    [ -z "$CANARY" ] || kill_tree "$CANARY"
    while is_answering && [ "$(hundredths)" -lt "$until" ]; do
        publish
        sleep 0.05
    done
    if is_answering; then hang_up; fi
    stage stopping "it answers nobody any more"
    while :; do
        publish
        rest 1
    done
}

# From now on the kernel drops whoever would connect, unanswered, as it does where too many do: the caller's kernel tries
# again, and finds whoever has the address then. It tells so by a backlog that is always full, and would let in whom it
# knows well.
take_no_more() {
    echo 1 > "$IPV4/tcp_no_metrics_save"
    ip tcp_metrics flush
    echo 0 > "$IPV4/tcp_syncookies"
    echo -1000 > "$IPV4/tcp_max_syn_backlog"
} > /dev/null 2>&1

# Whether anybody is connected to the engine, by the kernel's own table: connected, connecting, or waiting for the rest of
# what was sent (states 01, 03, 04, 08, 09).
is_answering() {
    engine_runs && [ -n "${CORRAL_SERVICE_PORT:-}" ] || return 1
    hex=$(printf '%04X' "$CORRAL_SERVICE_PORT")
    cat /proc/net/tcp /proc/net/tcp6 2> /dev/null | grep -q "^ *[0-9]*: [0-9A-F]*:$hex [0-9A-F]*:[0-9A-F]* 0[13489] "
}

# The engine's end tells its callers at once that there is no answer. After it the kernel would refuse new ones.
hang_up() {
    kill -KILL "-$ENGINE" 2> /dev/null || kill -KILL "$ENGINE" 2> /dev/null
    tries=0
    while is_listening "$CORRAL_SERVICE_PORT" && [ "$tries" -lt 20 ]; do
        tries=$((tries + 1))
        sleep 0.02
    done
    [ -z "$INTERFACE" ] || ip link set dev "$INTERFACE" down 2> /dev/null
}

longest() { case "$1" in *:*) echo 128 ;; *) echo 32 ;; esac; }

# One of IPv6 is the member's at once where this says so itself; otherwise its kernel asks first who has it, and says it then.
take_address() {
    case "$1" in
        *:*)
            if command -v python3 > /dev/null 2>&1; then
                ! ip address add "$1/128" dev "$INTERFACE" nodad 2> /dev/null || return 0
            else
                echo 1 2> /dev/null > "/proc/sys/net/ipv6/conf/$INTERFACE/ndisc_notify"
            fi
            ;;
    esac
    ip address add "$1/$(longest "$1")" dev "$INTERFACE" 2> /dev/null
}

holds_address() { ip -o addr show dev "$INTERFACE" 2> /dev/null | grep -qF " $1/$(longest "$1") "; }

# What ARP and, of IPv6, neighbour discovery (RFC 4861) need to be spoken by hand: `line`, `own`, `address`, and frames.
NEIGHBOURS='import socket, sys, time
device, six = sys.argv[1], ":" in sys.argv[2]
address = socket.inet_pton(socket.AF_INET6 if six else socket.AF_INET, sys.argv[2])
line = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x86DD if six else 0x0806))
line.bind((device, 0x86DD if six else 0x0806))
own = line.getsockname()[4]
def icmp(source, target, body):
    # To a group of hosts, whose hardware address follows from it.
    total = source + target + len(body).to_bytes(4, "big") + bytes([0, 0, 0, 58]) + body
    total = sum(int.from_bytes(total[i : i + 2], "big") for i in range(0, len(total), 2))
    total = (total & 0xFFFF) + (total >> 16)
    body = body[:2] + (~(total + (total >> 16)) & 0xFFFF).to_bytes(2, "big") + body[4:]
    head = bytes.fromhex("60000000") + len(body).to_bytes(2, "big") + bytes([58, 255])
    return bytes.fromhex("3333") + target[12:] + own + bytes.fromhex("86dd") + head + source + target + body
def arp(sender, target):
    return b"\377" * 6 + own + bytes.fromhex("0806000108000604" "0001") + own + sender + bytes(6) + target
'

# Neighbours learn at once who has the address now, instead of after their entries expire. Said more than once, since
# nobody acknowledges it.
announce() {
    trap - TERM INT
    if command -v python3 > /dev/null 2>&1; then
        exec python3 -c "$NEIGHBOURS"'
everybody = bytes.fromhex("ff02") + bytes(13) + bytes([1])
news = bytes.fromhex("8800000020000000") + address + bytes([2, 1]) + own
for _ in range(5):
    line.send(icmp(address, everybody, news) if six else arp(address, address))
    time.sleep(0.5)' "$INTERFACE" "$1" > /dev/null 2>&1 < /dev/null
    fi
    case "$1" in *:*) exit 0 ;; esac
    tell=arping
    command -v arping > /dev/null 2>&1 || tell='busybox arping'
    exec $tell -U -c 5 -I "$INTERFACE" "$1" > /dev/null 2>&1 < /dev/null
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
    [ -r "$DOCUMENTS/hosts" ] || return 0
    {
        [ ! -r "$HOSTS_FILE" ] || sed '/^# corral begin$/,/^# corral end$/d; /^127\.0\.1\.1[[:space:]]/d' "$HOSTS_FILE"
        echo '# corral begin'
        cat "$DOCUMENTS/hosts"
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
    # Of IPv6 nobody can use an address that its kernel still asks for, or has found to be somebody else's.
    while ip -o addr show dev "$INTERFACE" 2> /dev/null | grep -F " $ADDRESS/" | grep -q tentative; do
        stage network "address $ADDRESS is not this machine's yet: its kernel looks whether another machine has it"
        sleep 0.3
    done
}

# Who answers for the planned address, as hardware addresses in brackets. Of arping there is more than one: what prints
# no such address tells nothing.
ask_address() {
    if command -v python3 > /dev/null 2>&1; then
        exec python3 -c "$NEIGHBOURS"'
nobody = bytes(len(address))
group = bytes.fromhex("ff02") + bytes(9) + bytes.fromhex("01ff") + address[-3:]
question = icmp(nobody, group, bytes.fromhex("8700000000000000") + address) if six else arp(nobody, address)
def answers(frame):
    if six:
        return (frame[20], frame[54], frame[62:78]) == (58, 136, address)
    return frame[28:32] == address
for _ in range(2):
    line.send(question)
    end = time.monotonic() + 1.5
    while (left := end - time.monotonic()) > 0:
        line.settimeout(left)
        try:
            frame = line.recv(128)
        except OSError:
            break
        if len(frame) > 41 and (not six or len(frame) > 77) and answers(frame) and frame[6:12] != own:
            sys.exit(print("[" + frame[6:12].hex(":") + "]"))' "$INTERFACE" "$ADDRESS"
    fi
    case "$ADDRESS" in *:*) return 0 ;; esac
    ask=arping
    command -v arping > /dev/null 2>&1 || ask='busybox arping'
    $ask -D -c 2 -w 3 -I "$INTERFACE" "$ADDRESS"
}

# Asks the network who else has the planned address, where a tool for that is here (of IPv6: python3): from no address, as one
# does before one takes an address; every 60 turns of the main loop, half a minute. In the background, since an answer is waited for; `CLASH` is the other's hardware address.
look_for_clash() {
    [ ! -r "$RUN/clash" ] || CLASH=$(cat "$RUN/clash")
    TURNS=$((TURNS + 1))
    [ $((TURNS % ${CORRAL_CLASH_TURNS:-60})) -eq 1 ] && [ -n "$INTERFACE" ] || return 0
    (
        trap - TERM INT
        exec 3>&-
        own=$(cat "/sys/class/net/$INTERFACE/address")
        ask_address 2> /dev/null < /dev/null | tr 'A-F' 'a-f' |
            sed -n 's/.*\[\([0-9a-f:]\{17\}\)\].*/\1/p' | grep -vx "$own" | head -n 1 > "$RUN/clash.new"
        mv "$RUN/clash.new" "$RUN/clash"
    ) &
}

# Where a peer says that it stands, into `told`. Fails for one that does not answer, or is of another group or start.
ask_peer() {
    host=$1
    case "$host" in *:*) host="[$host]" ;; esac
    told=$(fetch 2 "http://$host:$CORRAL_SUPERVISOR_PORT/status") || return 1
    case "$told" in
        "group=$CORRAL_GROUP_UUID epoch=$CORRAL_GROUP_EPOCH "*) return 0 ;;
        "group=$CORRAL_GROUP_UUID epoch="*) note_newer "$told" ;;
    esac
    return 1
}

# What a peer says of itself under a name.
said() { printf '%s' "$told" | sed -n "s/.* $1=\([^ ]*\).*/\1/p"; }

# A peer that was told of a later start: this member has no part in it before it is told as well.
note_newer() {
    epoch=${1#*epoch=}
    epoch=${epoch%% *}
    case "$epoch" in '' | *[!0-9]*) return 0 ;; esac
    [ "$epoch" -le "${CORRAL_GROUP_EPOCH:-0}" ] || PASSED_BY=$epoch
}

# Whether a peer of this group and of this start says that its engine listens, and, where all members start again with
# the leader, that it was started for the leader's present run: an engine may keep a connection to the one before.
peer_listens() {
    ask_peer "$1" || return 1
    [ "$(said listens)" = true ] || return 1
    [ "${CORRAL_NODE_RANK:-0}" != 0 ] || ! together || [ "$(said follows)" = "$ENGINE_RUN" ]
}

# Whether a fault of one member means a new start of all engines.
together() { [ "${CORRAL_SCOPE:-}" = group ] && [ -n "${CORRAL_LEADER_ADDRESS:-}" ] && [ -n "$ADDRESS" ]; }

# The first peer that this member's engine has to wait for, into `late`; nothing once the gate is open.
find_late() {
    case "${CORRAL_GATE:-none}" in
        leader) peers=$CORRAL_LEADER_ADDRESS ;;
        workers) peers=${CORRAL_PEERS#* } ;;
        *) return 0 ;;
    esac
    for peer in $peers; do
        [ "$peer" = "$ADDRESS" ] || peer_listens "$peer" || { late=$peer; return 0; }
    done
}

pass_gate() {
    PASSED_BY=
    follow_leader
    while :; do
        # Not in a shell of its own: what is noted on the way is to stay.
        late=
        find_late
        [ -n "$late" ] || return 0
        stage gate "waiting for the engine of $late"
        rest 0.3
        heed && new_run
        follow_leader
    done
}

# --- the model's weights ---------------------------------------------------------------------------------------------

# One file, by its URL and its digest. It is fetched into `part`, on from where that ends, and has its name only once its
# digest was right; in a later boot it is read again, since a disk may have changed under it.
stage_weights() {
    [ -n "${CORRAL_WEIGHTS_URI:-}" ] || return 0
    end_bringer
    place_weights
    [ "$(cat "$RUN/weights" 2> /dev/null)" != "$CORRAL_WEIGHTS_SHA256" ] || [ ! -f "$CORRAL_WEIGHTS_PATH" ] || return 0
    if [ -f "$CORRAL_WEIGHTS_PATH" ]; then
        wc -c < "$CORRAL_WEIGHTS_PATH" > "$kept/size"
        mv "$CORRAL_WEIGHTS_PATH" "$kept/part"
    fi
    until [ -f "$CORRAL_WEIGHTS_PATH" ]; do
        bring_weights
    done
    echo "$CORRAL_WEIGHTS_SHA256" > "$RUN/weights"
    FAR=
}

# Where they go, and nothing else: another model's are of no use to this machine any more.
place_weights() {
    source=${CORRAL_WEIGHTS_URI%%[?#]*}
    name=${source##*/}
    case "$name" in '' | .* | part | size | *[!A-Za-z0-9._-]*) name=weights ;; esac
    kept=$WEIGHTS/$CORRAL_WEIGHTS_SHA256
    export CORRAL_WEIGHTS_PATH="$kept/$name"
    until mkdir -p "$kept"; do stage staging "there is no place for weights at $kept"; rest_weights 2; done
    for other in "$WEIGHTS"/*; do
        [ "$other" = "$kept" ] || rm -rf "$other"
    done
    TOTAL=
    WAITS=1
}

# What a supervisor before this one has left behind would write into the same file.
end_bringer() {
    read -r pid began < "$RUN/bringer" || return 0
    [ "$(begun_at "$pid")" != "$began" ] || kill_tree "$pid"
} 2> /dev/null

# When a process began, in ticks since the boot.
begun_at() { sed 's/.*) //' "/proc/$1/stat" | cut -d' ' -f20; }

# One try: fetches what is missing, and looks at the digest of what is there then.
bring_weights() {
    whole=
    [ -s "$kept/part" ] || whole=begun
    # One that had come whole before is not given again, which is an error to most programs.
    TOTAL=$(cat "$kept/size" 2> /dev/null)
    [ "$(part_size)" = "$TOTAL" ] || fetch_weights || return 0
    rm -f "$kept/size"
    digest_weights
    if [ "$FOUND" = "$CORRAL_WEIGHTS_SHA256" ]; then
        sync
        mv "$kept/part" "$CORRAL_WEIGHTS_PATH"
        return 0
    fi
    if [ -z "$FOUND" ]; then
        stage staging "the weights cannot be checked: neither sha256sum nor python3 could read them"
        rest_weights 5
        return 0
    fi
    rm -f "$kept/part"
    # What was fetched in pieces may be of two files; what came whole is what its server has.
    [ -n "$whole" ] || return 0
    refuse_weights WEIGHTS_MISMATCH "the weights of $source have the SHA-256 $FOUND, not $CORRAL_WEIGHTS_SHA256"
}

part_size() { wc -c 2> /dev/null < "$kept/part" || echo 0; }

# Bytes of all of it, by the headers of the answer that comes in; nothing where they do not say.
weights_size() {
    said=$(tr -d '\r' < "$RUN/headers" 2> /dev/null)
    all=$(printf '%s\n' "$said" | sed -n 's|^ *[Cc]ontent-[Rr]ange: *bytes .*/\([0-9][0-9]*\)$|\1|p' | tail -n 1)
    # Of redirects there may be several answers, the last one of which is the file's.
    [ -n "$all" ] || all=$(printf '%s\n' "$said" | sed -n 's/^ *[Cc]ontent-[Ll]ength: *\([0-9][0-9]*\)$/\1/p' | tail -n 1)
    [ "${all:-0}" -eq 0 ] || echo "$all"
}

note_size() {
    [ -s "$RUN/headers" ] || return 0
    TOTAL=$(weights_size)
    [ -z "$TOTAL" ] || echo "$TOTAL" > "$kept/size"
}

has_room() {
    free=$(df -Pk "$kept" 2> /dev/null | sed -n '2s/.* \([0-9][0-9]*\)  *[0-9]*%.*/\1/p')
    [ -z "$TOTAL" ] || [ -z "$free" ] || [ $(((TOTAL - $(part_size)) / 1024)) -le "$free" ]
}

# Goes on from where `part` ends, as far as it comes. Fails where that is not the end. The URL, which may be as good as a
# password, stands in no command line where the program can do without.
fetch_weights() {
    size=$(part_size)
    : > "$RUN/headers"
    (
        trap - TERM INT
        exec 3>&-
        if command -v curl > /dev/null 2>&1; then
            printf 'url = "%s"\n' "$CORRAL_WEIGHTS_URI" |
                curl -sfL -C - --connect-timeout 20 -D "$RUN/headers" -o "$kept/part" -K -
        elif command -v wget > /dev/null 2>&1; then
            wget -q -S -c -O "$kept/part" "$CORRAL_WEIGHTS_URI" 2> "$RUN/headers"
        else
            python3 -c 'import os, sys, urllib.request as u
there = os.path.getsize(sys.argv[1]) if os.path.exists(sys.argv[1]) else 0
url = os.environ["CORRAL_WEIGHTS_URI"]
answer = u.urlopen(u.Request(url, headers={"Range": "bytes=%d-" % there} if there else {}), timeout=60)
with open(sys.argv[2], "w") as headers:
    headers.write(str(answer.headers))
with open(sys.argv[1], "ab" if answer.status == 206 else "wb", 0) as file:
    while piece := answer.read1(1 << 20):
        file.write(piece)' "$kept/part" "$RUN/headers"
        fi
    ) > /dev/null 2>&1 < /dev/null &
    BRINGER=$!
    watch_weights part_size "fetching the weights from $source"
    status=$?
    after=$(part_size)
    if ! has_room; then
        refuse_weights WEIGHTS_NO_ROOM "the weights of $source take $TOTAL bytes, and $kept has room for $((free * 1024 + after))"
        return 1
    fi
    if [ -n "$TOTAL" ]; then [ "$after" -ne "$TOTAL" ] || return 0; else [ "$status" -ne 0 ] || return 0; fi
    if [ "$after" -gt "$size" ]; then
        WAITS=1
    elif [ "$status" -eq 33 ] || [ -z "$TOTAL" ] || [ "$after" -gt "$TOTAL" ]; then
        # It cannot be gone on with from there (33, as curl says), or is more than there is to be.
        rm -f "$kept/part" "$kept/size"
    fi
    stage staging "the weights come no further from $source: $after${TOTAL:+ of $TOTAL} bytes are here (status $status); again in $WAITS s"
    rest_weights "$WAITS"
    WAITS=$((WAITS * 2 > MOST_PAUSE ? MOST_PAUSE : WAITS * 2))
    return 1
}

# Waits for the process `BRINGER` and tells every few seconds how far it is, which `$1` says in bytes; `$2`: what it does.
# One that comes no further for a minute, or has no room, is ended. Fails as it does.
watch_weights() {
    echo "$BRINGER $(begun_at "$BRINGER")" > "$RUN/bringer"
    began=$(hundredths)
    from=$($1)
    from=${from:-0}
    far=$from
    moved=$(now)
    told=0
    while runs "$BRINGER"; do
        if [ $(($(now) - told)) -ge "${CORRAL_NEWS_SECONDS:-5}" ]; then
            told=$(now)
            [ "$($1)" = "$far" ] || moved=$told
            far=$($1)
            note_size
            spent=$(($(hundredths) - began))
            FAR="$far ${TOTAL:-0} $(((far - from) * 100 / (spent > 0 ? spent : 1)))"
            stage staging "$2"
            { [ $((told - moved)) -lt 60 ] && has_room; } || kill_tree "$BRINGER"
        else
            publish
        fi
        sleep 0.3 &
        wait "$!"
    done
    rm -f "$RUN/bringer"
    note_size
    wait "$BRINGER"
    status=$?
    BRINGER=
    return "$status"
}

# The process and those that it has started.
kill_tree() {
    for child in $(cat "/proc/$1/task/$1/children" 2> /dev/null); do kill_tree "$child"; done
    kill "$1" 2> /dev/null
}

# The SHA-256 of `part`, into `FOUND`.
digest_weights() {
    TOTAL=$(part_size)
    rm -f "$RUN/headers"
    (
        trap - TERM INT
        exec 3>&-
        if command -v sha256sum > /dev/null 2>&1; then
            exec sha256sum
        fi
        exec python3 -c 'import hashlib, sys
found = hashlib.sha256()
while piece := sys.stdin.buffer.read(1 << 20):
    found.update(piece)
print(found.hexdigest())'
    ) < "$kept/part" > "$RUN/digest" 2> /dev/null &
    BRINGER=$!
    watch_weights bytes_read "checking the weights"
    FOUND=$(cut -d' ' -f1 "$RUN/digest")
}

# How far the digest has come, by the position in its file.
bytes_read() { sed -n 's/^pos:[[:space:]]*//p' "/proc/$BRINGER/fdinfo/0" 2> /dev/null || echo 0; }

# Nothing is started with what is not as it is to be, before the group starts anew and says other things.
refuse_weights() {
    FAULT=$1
    FAR=
    stage failed "$2"
    until heed; do
        publish
        sleep 1 &
        wait "$!"
    done
    FAULT=
    place_weights
}

rest_weights() {
    until=$(($(now) + $1))
    while [ "$(now)" -lt "$until" ]; do
        publish
        sleep 0.5 &
        wait "$!"
    done
}

# --- the engine ----------------------------------------------------------------------------------------------------

# A name for the engine's next run, before the gate: members that start again with the leader's see it there.
new_run() { [ "${CORRAL_NODE_RANK:-0}" != 0 ] || ENGINE_RUN=$(cut -c1-8 /proc/sys/kernel/random/uuid); }

# A worker's engine is for one run of the leader's. What it finds before its engine has served anyone it takes as it is.
follow_leader() {
    together && [ "${CORRAL_NODE_RANK:-0}" != 0 ] || return 0
    ask_peer "$CORRAL_LEADER_ADDRESS" || return 0
    leads=$(said run)
    [ -z "$leads" ] || [ -n "$FOLLOWED" ] || FOLLOWED=$leads
    [ -z "$leads" ] || [ "$leads" = "$FOLLOWED" ] || { FOLLOWED=$leads; LEADER_CHANGED=yes; }
}

# Rank 0 looks at its workers in turn: one whose engine was started again has forgotten what it had of this one's.
watch_workers() {
    case "${CORRAL_SCOPE:-}" in group | head) ;; *) return 0 ;; esac
    [ "${CORRAL_NODE_RANK:-0}" = 0 ] || return 0
    turns=0
    for peer in ${CORRAL_PEERS#* }; do
        turns=$((turns + 1))
        [ "$turns" -gt "$WATCHED" ] || continue
        WATCHED=$turns
        ask_peer "$peer" || return 0
        own=$(said own)
        case " $OWNS " in
            *" $peer=$own "*) ;;
            *" $peer="*) WORKER_CHANGED=$peer ;;
            *) OWNS="$OWNS $peer=$own" ;;
        esac
        return 0
    done
    WATCHED=0
}

start_engine() {
    stage engine "starting"
    LEADER_CHANGED=
    WORKER_CHANGED=
    OWNS=
    WATCHED=0
    (
        trap - TERM INT
        # What this shell knows is kept where no variable of the service's can change it; the group's own names are
        # exported last, so that nobody else's variable has them.
        set -- "$DOCUMENTS/hostfile" "$INTERFACE" "$RUNNER"
        take_documents '[A-Za-z_]*'
        [ ! -r "$1" ] || export CORRAL_HOSTFILE="$1"
        [ -z "$2" ] || export GLOO_SOCKET_IFNAME="$2" NCCL_SOCKET_IFNAME="$2" TP_SOCKET_IFNAME="$2"
        exec $3 "$CORRAL_ENGINE_COMMAND"
    ) >> "$RUN/engine.log" 2>&1 < /dev/null &
    ENGINE=$!
    LOOKS_AT=0
    STARTED_AT=$(now)
    READY_AT=
    ANSWERED_AT=
    WRONG=
    TICKS=-1
    WORKED_AT=
    drop_canary
}

# Running, and not a zombie, for which kill -0 is true as well.
runs() {
    state=$(sed 's/.*) //; s/ .*//' "/proc/$1/stat" 2> /dev/null) || return 1
    [ -n "$state" ] && [ "$state" != Z ]
}

engine_runs() { [ -n "$ENGINE" ] && runs "$ENGINE"; }

# By its process group: children of engines outlive their parent, and go on computing. It has `$1` tenths of a second, 50
# where nothing is said, to end by itself.
stop_engine() {
    [ -n "$ENGINE" ] || return 0
    # Neither dash nor busybox takes "--" here. It may not lead its group yet.
    kill -TERM "-$ENGINE" 2> /dev/null || kill -TERM "$ENGINE" 2> /dev/null
    ends=$(($(hundredths) + 10 * ${1:-50}))
    while kill -0 "-$ENGINE" 2> /dev/null && [ "$(hundredths)" -lt "$ends" ]; do
        # Only what was waited for stops being there.
        engine_runs || wait "$ENGINE" 2> /dev/null
        publish
        sleep 0.1
    done
    kill -KILL "-$ENGINE" 2> /dev/null
    wait "$ENGINE" 2> /dev/null
    ENGINE=
}

# What the engine has written since, to the port whose other end the host keeps: it takes all, and blocks nobody. Of an
# engine that writes faster than this reads the oldest is left out.
pass_on() {
    [ -n "$LOG_PORT" ] || LOG_PORT=${CORRAL_LOG_PORT:-$(port_named "$LOG_PORT_NAME" || echo none)}
    [ "$LOG_PORT" != none ] || return 0
    size=$(wc -c < "$RUN/engine.log" 2> /dev/null) || return 0
    [ "$size" -gt "$PASSED" ] || return 0
    if [ $((size - PASSED)) -gt "$LOG_BYTES" ]; then
        echo "corral: $((size - PASSED - LOG_BYTES)) bytes of the engine's are left out here" >> "$LOG_PORT"
        PASSED=$((size - LOG_BYTES))
    fi
    tail -c +$((PASSED + 1)) "$RUN/engine.log" | head -c $((size - PASSED)) >> "$LOG_PORT"
    PASSED=$size
}

last_words() { tail -n 3 "$RUN/engine.log" 2> /dev/null | tr '\n' ' '; }

# The engine appends, so that its log can be cut while it writes.
cut_log() {
    size=$(wc -c < "$RUN/engine.log" 2> /dev/null) || return 0
    [ "$size" -gt $((LOG_BYTES * 4)) ] || return 0
    tail -c "$LOG_BYTES" "$RUN/engine.log" > "$RUN/engine.log.cut"
    cat "$RUN/engine.log.cut" > "$RUN/engine.log"
    PASSED=$(wc -c < "$RUN/engine.log.cut")
}

# Again, `$1` says why, within `$2` tenths of a second for its end. A pause that grows with each start that did not last.
restart_engine() {
    # Said before it is done: what hangs takes its time to end.
    stage degraded "$1"
    stop_engine "${2:-50}"
    new_run
    lasted=0
    [ -z "$READY_AT" ] || lasted=$(($(now) - READY_AT))
    if [ "$lasted" -ge "$STABLE_SECONDS" ]; then
        PAUSE=0
        FAULTS=0
    fi
    READY_AT=
    pass_on
    # Not before it has served: one that waits for its peers or loads its model has its boot's deadline.
    [ -z "$SERVED" ] || FAULTS=$((FAULTS + 1))
    if [ "$FAULTS" -gt "$MOST_FAULTS" ]; then
        give_up "$1"
        return
    fi
    RESTARTS=$((RESTARTS + 1))
    stage degraded "$1"
    until=$(($(now) + PAUSE))
    while [ "$(now)" -lt "$until" ]; do
        publish
        rest 1
        ! heed || until=0
    done
    PAUSE=$((PAUSE == 0 ? 1 : PAUSE * 2))
    [ "$PAUSE" -le "$MOST_PAUSE" ] || PAUSE=$MOST_PAUSE
    pass_gate
    start_engine
}

# Started again so often, it would be for ever. What else may help is the control plane's to say: it starts the machine
# anew, or the group.
give_up() {
    stage failed "started again $MOST_FAULTS times, and it never served for $STABLE_SECONDS s: $1"
    until heed; do
        publish
        rest 1
    done
    FAULTS=0
    new_run
    pass_gate
    start_engine
}

# A new start of the group, or the leader's: no fault of this engine's, so that nothing is counted and nothing waits.
rejoin() {
    stage joining "$1"
    stop_engine 30
    new_run
    READY_AT=
    pass_gate
    start_engine
}

# The group has gone on without this member: it serves nobody before it is told of that start.
stand_aside() {
    while [ -n "$PASSED_BY" ]; do
        stage degraded "the group is at start $PASSED_BY, and this member is to be told of it"
        stop_engine 30
        until heed; do
            publish
            rest 1
        done
        PASSED_BY=
        new_run
        pass_gate
        start_engine
    done
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

# With the engine's environment, and ended with all that it started where it takes too long.
ready_by_command() {
    (
        trap - TERM INT
        set -- "$RUNNER"
        take_documents '[A-Za-z_]*'
        exec $1 "$CORRAL_READINESS_COMMAND"
    ) > /dev/null 2>&1 < /dev/null &
    LOOKER=$!
    tries=0
    while runs "$LOOKER" && [ "$tries" -lt $((${CORRAL_READINESS_TIMEOUT_SECONDS:-2} * 10)) ]; do
        tries=$((tries + 1))
        sleep 0.1
    done
    # It may not lead its group yet.
    kill -KILL "-$LOOKER" 2> /dev/null || kill -KILL "$LOOKER" 2> /dev/null
    trap '' USR1  # it would end the wait, and be taken for the command's own end
    wait "$LOOKER" 2> /dev/null
    status=$?
    may_be_woken
    LOOKER=
    return "$status"
}

# What was seen to be ready is looked at again after the interval, what was not in the next turn: it would be taken for
# overdue before that.
looks_ready() {
    [ "$(now)" -ge "$LOOKS_AT" ] || return 0
    look || return 1
    LOOKS_AT=$(($(now) + ${CORRAL_READINESS_INTERVAL_SECONDS:-1}))
}

# What the host is asked instead (`agent`, `serial`) is no matter of the guest's: here its engine runs.
look() {
    case "${CORRAL_READINESS:-process}" in
        http) fetch "${CORRAL_READINESS_TIMEOUT_SECONDS:-2}" "$(own_url "$CORRAL_READINESS_PATH")" > /dev/null ;;
        listening) is_listening "$CORRAL_READINESS_PORT" ;;
        command) ready_by_command ;;
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
    # A name for each: one that was dropped may still write its answer.
    ASKS=$((ASKS + 1))
    (
        trap - TERM INT
        exec 3>&-
        began=$(hundredths)
        fetch "$DEADLINE" "$(own_url "$CORRAL_CANARY_PATH")" ${CORRAL_CANARY_BODY:+"$CORRAL_CANARY_BODY"} > "$RUN/canary.$ASKS"
        echo "$? $(($(hundredths) - began))" > "$RUN/canary.new.$ASKS"
        mv "$RUN/canary.new.$ASKS" "$RUN/canary.done.$ASKS"
        kill -USR1 "$$"
    ) &
    CANARY=$!
}

# What an engine was asked that is no more says nothing of the next one.
drop_canary() {
    ASKED=
    ASKED_AT=0
    rm -f "$RUN"/canary.*
}

# Takes an answer that has come. The time that one may take follows from the first right one: five times as long.
judge_canary() {
    [ -n "$ASKED" ] && [ -r "$RUN/canary.done.$ASKS" ] || return 0
    ASKED=
    read -r status took < "$RUN/canary.done.$ASKS"
    if [ "$status" -ne 0 ]; then
        WRONG="no answer within $DEADLINE s"
        # Behind callers' requests an answer takes its turn: the next one may take longer.
        [ -z "$MEASURED" ] || ! works || DEADLINE=$((DEADLINE * 2 > MOST_DEADLINE ? MOST_DEADLINE : DEADLINE * 2))
    elif ! grep -Eq -- "$CORRAL_CANARY_EXPECT" "$RUN/canary.$ASKS"; then
        WRONG="a wrong answer: $(head -c 200 "$RUN/canary.$ASKS" | tr '\n' ' ')"
    else
        WRONG=
        ANSWERED_AT=$(now)
        [ -n "$MEASURED" ] || MEASURED=$(((took * 5 + 99) / 100))
        DEADLINE=$((MEASURED > LEAST_DEADLINE ? MEASURED : LEAST_DEADLINE))
    fi
    rm -f "$RUN"/canary.*
}

# Whether the engine computes: since they were looked at its processes took processor time, or would have for most of the
# time and waited for a processor, as on a busy machine. Of a wait that has not ended the kernel counts nothing: who is
# ready for a processor at two looks in a row waits for it. One that waits for a peer that is gone does none of these. Asked
# only when answers fail to come. The first look has nothing to compare with, and says nothing against it.
works() {
    ticks=0
    waited=0
    ready_now=
    for process in /proc/[0-9]*; do
        read -r line < "$process/stat" || continue
        set -- ${line##*) }
        [ "$4" = "$ENGINE" ] || continue
        ticks=$((ticks + ${12} + ${13}))
        for thread in "$process"/task/*; do
            # Nanoseconds: on a processor; ready to run, and on none.
            read -r _ ready _ < "$thread/schedstat" && waited=$((waited + ready / 10000000))
            read -r line < "$thread/stat" || continue
            case "${line##*) }" in R*) ready_now=yes ;; esac
        done
    done 2> /dev/null
    looked=$(hundredths)
    first=$TICKS
    took=$((ticks - TICKS))
    wanted=$((took + waited - WAITED))
    passed=$((looked - TICKS_AT))
    TICKS=$ticks
    WAITED=$waited
    TICKS_AT=$looked
    ready_before=$READY_BEFORE
    READY_BEFORE=$ready_now
    [ "$first" -ge 0 ] || return 0
    [ "$took" -lt "$LEAST_TICKS" ] && { [ "$wanted" -lt "$LEAST_TICKS" ] || [ $((wanted * 2)) -lt "$passed" ]; } ||
        WORKED_AT=$(now)
    [ -z "$ready_now" ] || [ -z "$ready_before" ] || WORKED_AT=$(now)
    [ -n "$WORKED_AT" ] && [ $(($(now) - WORKED_AT)) -le 5 ]
}

# Whether the model has answered rightly so lately that it may be said to answer.
answers() {
    has_canary || return 0
    judge_canary
    pause=$ASK_EVERY
    [ -z "$WRONG" ] && [ -n "$ANSWERED_AT" ] || pause=1
    [ $(($(now) - ASKED_AT)) -lt "$pause" ] || ask_canary
    # Looked at before it matters, so that there is something to compare with.
    [ -z "$ANSWERED_AT" ] || [ $(($(now) - ANSWERED_AT)) -le "$((PATIENCE / 2))" ] || works || :
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
    FINE_AT=0
    PAUSE=0
    RESTARTS=0
    FAULTS=0
    COUNT=0
    SERVED=
    ASKED=
    ASKED_AT=0
    TELLER=
    REPORTER=
    CANARY=
    WRONG=
    MEASURED=
    ASKS=0
    ENGINE_RUN=
    FOLLOWED=
    LEADER_CHANGED=
    WORKER_CHANGED=
    PASSED_BY=
    OWN=0
    OWNS=
    WATCHED=0
    LOOKS=0
    TICKS=-1
    WAITED=0
    TICKS_AT=0
    WORKED_AT=
    READY_BEFORE=
    START_TOOK=0
    STUCK=0
    CLASH=
    HELD=
    MISSING=
    AILING=
    BOOT_ID=$(cat /proc/sys/kernel/random/boot_id 2> /dev/null)
    TURNS=0
    LOG_PORT=
    PASSED=0
    LOOKER=
    LOOKS_AT=0
    BRINGER=
    FAR=
    FAULT=
    mkdir -p "$RUN/www"
    chmod 700 "$RUN"
    SLEEPER=
    WOKEN=
    rm -f "$RUN/reporter" "$RUN/quiesce"
    trap 'ending' TERM INT
    may_be_woken
    until find_documents; do log "no documents were delivered yet"; sleep 1; done
    take_documents 'CORRAL_*'
    # Seconds: between two right answers, without one until the engine is started again, and the least for one answer.
    ASK_EVERY=${CORRAL_CANARY_INTERVAL_SECONDS:-10}
    PATIENCE=${CORRAL_CANARY_PATIENCE_SECONDS:-15}
    LEAST_DEADLINE=3
    # Before it is measured one answer may take long: the first brings the model's weights into memory.
    DEADLINE=${CORRAL_START_DEADLINE_SECONDS:-300}
    new_run
    stage booting
    talk_in_background &
    REPORTER=$!
    write_hosts
    await_network
    have_endpoint
    tell_peers &
    TELLER=$!
    stage_weights
    pass_gate
    if [ -n "${CORRAL_ENGINE_COMMAND:-}" ]; then start_engine; else STARTED_AT=$(now); fi
    while :; do
        if heed; then
            if [ -n "${CORRAL_ENGINE_COMMAND:-}" ]; then rejoin "start $CORRAL_GROUP_EPOCH of the group"; else publish; fi
        fi
        quiesce
        have_endpoint
        look_for_clash
        look_at_devices
        look_at_peers
        turn
        rest "$LOOK_EVERY"
    done
}

# What was given to this member is there, and what the kernel says of it: errors of the card itself, and none that a program
# can cause. By the numbers of NVIDIA's Xid catalog (docs.nvidia.com/deploy/xid-errors) those that a reset of the card or
# of its machine is to follow at once and a look at the hardware after it: it stopped (46), memory that cannot be corrected
# or remapped (48, 64, 95, 140), its controller halted (62), links to other cards (74, 136, of newer ones 144 to 150), it
# fell off the bus (79), it does not start (143), a fatal timeout (158).
look_at_devices() {
    [ -n "${CORRAL_DEVICES:-}" ] && [ $((TURNS % ${CORRAL_DEVICE_TURNS:-20})) -eq 1 ] || return 0
    MISSING=
    for wanted in $CORRAL_DEVICES; do
        ids=${wanted%=*}
        there=0
        for function in "${CORRAL_PCI:-/sys/bus/pci/devices}"/*; do
            [ "$(cat "$function/vendor" "$function/device" 2> /dev/null | tr -d '\n')" = "0x${ids%:*}0x${ids#*:}" ] || continue
            there=$((there + 1))
        done
        [ "$there" -ge "${wanted#*=}" ] || MISSING="it sees $there of the ${wanted#*=} devices $ids that it was given"
    done
    ailing=$(${CORRAL_KERNEL_LOG:-dmesg} 2> /dev/null | sed -n 's/.*Xid (PCI:\([0-9a-f:]*\)): \([0-9]*\),.*/\1 \2/p' |
        sort -u | while read -r at xid; do
            case "$xid" in 46 | 48 | 62 | 64 | 74 | 79 | 95 | 136 | 140 | 14[3-9] | 150 | 158) printf '%s.0 Xid %s;' "$at" "$xid" ;; esac
        done | cut -c1-1000)
    [ -z "$ailing" ] || AILING=$ailing
}

# Every other second, and the less often the larger the group is.
look_at_peers() {
    [ -n "${CORRAL_ENGINE_COMMAND:-}" ] && [ -n "$ADDRESS" ] && [ -n "${CORRAL_PEERS:-}" ] || return 0
    LOOKS=$((LOOKS + 1))
    [ $((LOOKS % (4 + CORRAL_GROUP_SIZE / 32))) -eq 0 ] || return 0
    follow_leader
    watch_workers
    stand_aside
}

# One look. Before a member has served it is still joining; afterwards it is degraded.
turn() {
    pass_on
    cut_log
    short=joining
    [ -z "$SERVED" ] || short=degraded
    if [ -n "${CORRAL_ENGINE_COMMAND:-}" ] && ! engine_runs; then
        trap '' USR1  # it would end the wait, and be taken for the engine's own end
        wait "$ENGINE"
        status=$?
        may_be_woken
        OWN=$((OWN + 1))
        restart_engine "the engine ended with status $status: $(last_words)"
    elif [ -n "$LEADER_CHANGED" ]; then
        rejoin "the leader's engine was started again"
    elif [ -n "$WORKER_CHANGED" ]; then
        rejoin "the engine of $WORKER_CHANGED was started again"
    elif ! looks_ready; then
        stage "$short" "the engine does not answer"
        has_canary && judge_canary
        ! overdue && ! stuck || restart_engine "the engine does not answer${WRONG:+: $WRONG}"
    elif [ -n "$MISSING" ]; then
        stage "$short" "$MISSING"
    elif answers; then
        FINE_AT=$(now)
        if [ -z "$READY_AT" ]; then
            READY_AT=$FINE_AT
            STUCK=0
            [ $((READY_AT - STARTED_AT)) -le "$START_TOOK" ] || START_TOOK=$((READY_AT - STARTED_AT))
        fi
        has_canary && FINE_AT=$ANSWERED_AT
        SERVED=yes
        stage ready
    elif [ -n "$READY_AT" ] && computes; then
        stage degraded "the engine computes, and has not answered its canary rightly for $PATIENCE s: $WRONG"
    elif [ -n "$READY_AT" ]; then
        restart_engine "the engine has not answered rightly for $PATIENCE s: $WRONG"
    else
        stage "$short" "the model has not answered rightly yet${WRONG:+: $WRONG}"
        ! stuck || restart_engine "the engine has not answered rightly since its start: $WRONG"
    fi
}

# One that was ready and is not for too long. Who is busy with its callers' requests may be late with both answers.
overdue() { [ -n "$READY_AT" ] && [ $(($(now) - FINE_AT)) -gt "$PATIENCE" ] && ! computes; }

# A canary that is overdue has longer while its engine computes.
computes() { [ -n "$ANSWERED_AT" ] && [ $(($(now) - ANSWERED_AT)) -le $((PATIENCE * BUSY_PATIENCE)) ] && works; }

# An engine that was started again and does not come up hangs; one that never served may still load its model. It has
# three times as long as its slowest start took, and each time twice as long as before: the machine may be busy.
stuck() {
    [ -n "$SERVED" ] && [ -n "${CORRAL_ENGINE_COMMAND:-}" ] && [ -z "$READY_AT" ] || return 1
    limit=$((PATIENCE + 2 * DEADLINE))
    [ "$limit" -gt $((3 * START_TOOK)) ] || limit=$((3 * START_TOOK))
    [ $(($(now) - STARTED_AT)) -gt $((limit << STUCK)) ] || return 1
    [ "$STUCK" -ge 6 ] || STUCK=$((STUCK + 1))
}

ending() {
    trap '' TERM INT
    [ -z "$LOOKER" ] || kill -KILL "-$LOOKER" 2> /dev/null
    [ -z "$BRINGER" ] || kill_tree "$BRINGER"
    stage stopping "asked to end"
    stop_engine 50
    pass_on
    # The reporter may be told once more that this one stops, if anybody reads.
    sleep 1
    kill $TELLER $REPORTER $CANARY $SLEEPER 2> /dev/null
    exit 0
}

main
