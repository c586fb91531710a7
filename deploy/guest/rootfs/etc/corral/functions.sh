# Shared by process 1 and the CGI program. Documents come from fw_cfg, state is kept in files under $RUN.
RUN=/run/corral
FW_CFG=/sys/firmware/qemu_fw_cfg/by_name/opt/org.corral
DOCUMENTS=$RUN/facts
PROGRESS_CHANNEL=org.corral.progress

log() { echo "corral-guest: $*" > /dev/console; }

uptime_seconds() { cut -d. -f1 /proc/uptime; }

# Sleeps, but lets a signal's trap run at once.
pause() { sleep "$1" & wait "$!"; }

# fetch URL FILE [SECONDS]. busybox wget's own -T crashes in Debian's static build, so the deadline is put around it.
fetch() { timeout "${3:-3}" wget -q -O "$2" "$1" 2> /dev/null; }

# An address as a URL has it: one of IPv6 in brackets (RFC 3986).
in_url() { case "$1" in *:*) echo "[$1]" ;; *) echo "$1" ;; esac; }

# The inside of a JSON string: control characters dropped, quotes and backslashes escaped.
json_text() { printf '%s' "$1" | tr -d '\000-\037\177' | sed 's/\\/\\\\/g; s/"/\\"/g'; }

number_or() { case "$1" in '' | *[!0-9]*) echo "$2" ;; *) echo "$1" ;; esac; }

# On bare metal that starts from its own disk they are files of a small volume in the BMC's virtual drive, which a USB
# bus may show some seconds after its driver was loaded.
copy_volume() {
    tries=0
    mkdir -p "$RUN/volume"
    while [ "$tries" -le 60 ]; do
        for drive in /dev/sr*; do
            mount -t iso9660 -o ro "$drive" "$RUN/volume" 2> /dev/null || continue
            if [ -r "$RUN/volume/machine" ]; then
                cp "$RUN/volume"/* "$DOCUMENTS/"
                umount "$RUN/volume"
                return 0
            fi
            umount "$RUN/volume"
        done
        tries=$((tries + 1))
        sleep 0.5
    done
    return 1
}

# The documents that the machine was started with, as files under $DOCUMENTS.
unpack_documents() {
    mkdir -p "$DOCUMENTS"
    # On bare metal GRUB has laid them beside the first files.
    if [ -d /seed ]; then
        mv /seed/* "$DOCUMENTS/"
    elif [ ! -d "$FW_CFG" ] && grep -q iso9660 /proc/filesystems; then
        copy_volume || log "no volume with documents is in the drive"
    fi
    for entry in "$FW_CFG"/*.base64; do
        [ -r "$entry/raw" ] || continue
        name=${entry##*/}
        base64 -d < "$entry/raw" > "$DOCUMENTS/${name%.base64}" || log "document $name is damaged"
    done
}

# One KEY=value a line, taken literally: nothing in the file is ever evaluated. Only our own names are taken over, so
# that a service's environment cannot change what these scripts do.
read_documents() {
    if [ -r "$DOCUMENTS/env" ]; then
        while IFS= read -r line || [ -n "$line" ]; do
            case "$line" in
                CORRAL_*=*) case "${line%%=*}" in *[!A-Z0-9_]*) ;; *) export "$line" ;; esac ;;
            esac
        done < "$DOCUMENTS/env"
    else
        log "no documents in fw_cfg: a group of its own"
    fi
    CORRAL_NODE_NAME=${CORRAL_NODE_NAME:-guest}
    CORRAL_HOST_NAME=${CORRAL_HOST_NAME:-guest}
    CORRAL_NODE_RANK=$(number_or "$CORRAL_NODE_RANK" 0)
    CORRAL_GROUP_EPOCH=$(number_or "$CORRAL_GROUP_EPOCH" 0)
    CORRAL_GROUP_SIZE=$(number_or "$CORRAL_GROUP_SIZE" 1)
    CORRAL_SERVICE_PORT=$(number_or "$CORRAL_SERVICE_PORT" 8080)
    CORRAL_LEADER_PORT=$(number_or "$CORRAL_LEADER_PORT" "$CORRAL_SERVICE_PORT")
    CORRAL_START_DEADLINE_SECONDS=$(number_or "$CORRAL_START_DEADLINE_SECONDS" 300)
    case "$CORRAL_NODE_ROLE" in
        leader | worker) ;;
        *) [ "$CORRAL_NODE_RANK" -eq 0 ] && CORRAL_NODE_ROLE=leader || CORRAL_NODE_ROLE=worker ;;
    esac
    BOOT_ID=$(cat /proc/sys/kernel/random/boot_id 2> /dev/null)
    MACHINE_UUID=$(cat /sys/class/dmi/id/product_uuid 2> /dev/null)
    NAME_JSON=$(json_text "$CORRAL_NODE_NAME")
    GROUP_JSON=$(json_text "$CORRAL_GROUP_UUID")
    INSTANCE_JSON=$(json_text "$CORRAL_NODE_INSTANCE")
    export CORRAL_GROUP_UUID CORRAL_GROUP_EPOCH CORRAL_NODE_ROLE
}

# Asks the network who else has this address: ARP from no address, as one does before one takes it. The other's hardware
# address is kept for the reports. In the background, since an answer is waited for.
look_for_clash() {
    case "$CORRAL_NODE_ADDRESS" in '' | *:*) return 0 ;; esac
    (
        trap - TERM USR1 USR2
        own=$(cat /sys/class/net/eth0/address)
        arping -D -c 2 -w 3 -I eth0 "${CORRAL_NODE_ADDRESS%%/*}" 2> /dev/null | tr 'A-F' 'a-f' |
            sed -n 's/.*\[\([0-9a-f:]\{17\}\)\].*/\1/p' | grep -vx "$own" | head -n 1 > "$RUN/clash.new"
        mv "$RUN/clash.new" "$RUN/clash"
    ) &
}

joined_count() { ls "$RUN/joined" | wc -l; }

forget_quiet_workers() { find "$RUN/joined" -type f -mmin +1 -exec rm -f {} +; }

# Writes what the guest says of itself, for the progress channel and for HTTP; each file is replaced as a whole.
publish() {
    joined=$(joined_count)
    address=$(cat "$RUN/address" 2> /dev/null)
    status=$STAGE
    [ "$STAGE" != ready ] || status=ok
    printf '{"v":1,"stage":"%s","name":"%s","instance":"%s","epoch":%d,"detail":"%s","joined":%d,"address":"%s","clash":"%s","boot_id":"%s"}\n' \
        "$STAGE" "$NAME_JSON" "$INSTANCE_JSON" "$CORRAL_GROUP_EPOCH" "$DETAIL_JSON" "$joined" "$address" \
        "$(cat "$RUN/clash" 2> /dev/null)" "$BOOT_ID" > "$RUN/progress.new"
    mv "$RUN/progress.new" "$RUN/progress"
    printf '{"status":"%s","stage":"%s","name":"%s","role":"%s","rank":%d,"group":"%s","size":%d,"epoch":%d,"instance":"%s","machine_uuid":"%s","address":"%s","joined":%d}\n' \
        "$status" "$STAGE" "$NAME_JSON" "$CORRAL_NODE_ROLE" "$CORRAL_NODE_RANK" "$GROUP_JSON" "$CORRAL_GROUP_SIZE" \
        "$CORRAL_GROUP_EPOCH" "$INSTANCE_JSON" "$MACHINE_UUID" "$address" "$joined" > "$RUN/health.new"
    mv "$RUN/health.new" /www/health
}

# stage STAGE DETAIL: a step of the guest's life, told at once.
stage() {
    STAGE=$1
    DETAIL_JSON=$(json_text "$2")
    publish
    log "stage=$STAGE name=$CORRAL_NODE_NAME address=$address up=$(cut -d' ' -f1 /proc/uptime) $2"
    [ ! -s "$RUN/reporter.pid" ] || kill -USR1 "$(cat "$RUN/reporter.pid")" 2> /dev/null
}

progress_port() {
    for port in /sys/class/virtio-ports/*; do
        if [ "$(cat "$port/name" 2> /dev/null)" = "$PROGRESS_CHANNEL" ]; then
            echo "/dev/${port##*/}"
            return 0
        fi
    done
    return 1
}

# The value of a line of the document of bare metal.
of_machine() { sed -n "s/^ *\"$1\": \"\(.*\)\",*\$/\1/p" "$DOCUMENTS/machine"; }

# tell_machine TEXT: says it to the listener for machines. One whose attempt was given up (410) is switched off.
tell_machine() {
    timeout 5 wget -q -O /dev/null --header "Authorization: Bearer $(of_machine token)" \
        --header 'Content-Type: application/json' --post-data "$1" "$(of_machine report_url)" 2> "$RUN/telling" && return 0
    if grep -q ' 410 ' "$RUN/telling"; then
        log "this attempt was given up: switched off"
        sync
        poweroff -f
    fi
    return 1
}

# Bare metal has no channel to a hypervisor: it says the same over its network, every 5 s and at each change.
report_by_http() {
    while :; do
        changed=
        cp "$RUN/progress" "$RUN/reporting"
        if tell_machine "$(cat "$RUN/reporting")"; then mv "$RUN/reporting" "$RUN/reported"; fi
        if [ -z "$changed" ]; then
            sleep 5 &
            wait "$!"
            kill "$!" 2> /dev/null
        fi
    done
}

# Repeats the present stage for as long as the guest lives. A write blocks while nobody reads, which is why this is a
# process of its own; the leading newline ends a line that an earlier reader saw only half of.
report_in_background() {
    trap 'changed=yes' USR1
    trap - TERM USR2
    [ ! -r "$DOCUMENTS/machine" ] || report_by_http
    until port=$(progress_port); do sleep 1; done
    while :; do
        changed=
        cp "$RUN/progress" "$RUN/reporting"
        { echo; cat "$RUN/reporting"; } > "$port" 2> /dev/null && mv "$RUN/reporting" "$RUN/reported"
        if [ -z "$changed" ]; then
            sleep 2 &
            wait "$!"
            kill "$!" 2> /dev/null
        fi
    done
}

# Says that it stops, waits a moment for a reader to hear it, and switches the machine off.
stop() {
    trap '' TERM USR2
    stage stopping "$1"
    tries=0
    until grep -q '"stage":"stopping"' "$RUN/reported" 2> /dev/null; do
        tries=$((tries + 1))
        [ "$tries" -le 20 ] || break
        sleep 0.1
    done
    sync
    poweroff -f
    # poweroff returns before the machine is off.
    while :; do sleep 1; done
}
