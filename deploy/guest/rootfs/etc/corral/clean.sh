# Wipes the disks of a machine of bare metal between two projects, instead of serving; read by process 1 where the
# document `clean` is there: `metadata` or `erase`. It says what it did, and waits to be switched off.

WIPE_MIB=16

# The disks that hold what was written to them: no drive for media, no memory, nothing without a size.
disks() {
    for disk in /sys/block/*; do
        case "${disk##*/}" in loop* | ram* | zram* | sr* | fd* | dm-* | md*) continue ;; esac
        [ "$(cat "$disk/size")" -gt 0 ] && echo "${disk##*/}"
    done
}

# A disk may show up a while after its driver was loaded.
settled_disks() {
    found=none
    same=0
    while [ "$same" -lt 3 ]; do
        now=$(disks)
        if [ "$now" = "$found" ]; then same=$((same + 1)); else same=0; fi
        found=$now
        pause 1
    done
    echo "$found"
}

# zero DEVICE FIRST_MIB COUNT_MIB: writes zeros, and sees that they are there.
zero() {
    dd if=/dev/zero of="$1" bs=1M seek="$2" count="$3" conv=fsync,notrunc 2> /dev/null || return 1
    [ "$(dd if="$1" bs=1M skip="$2" count=1 2> /dev/null | tr -d '\000' | wc -c)" -eq 0 ]
}

# The heads of partitions have signatures of file systems, and those of the disk its tables: at both ends.
wipe_metadata() {
    for part in /sys/block/"$1"/"$1"*; do
        [ -r "$part/partition" ] || continue
        zero "/dev/${part##*/}" 0 1 || return 1
    done
    size=$(($(cat "/sys/block/$1/size") / 2048))
    if [ "$size" -le $((2 * WIPE_MIB)) ]; then
        zero "/dev/$1" 0 "$size" && HOW="zeros all over"
        return
    fi
    zero "/dev/$1" 0 "$WIPE_MIB" && zero "/dev/$1" $((size - WIPE_MIB)) "$WIPE_MIB" || return 1
    # What a drive forgets at once it forgets; the tables are gone either way.
    if blkdiscard -f "/dev/$1" 2> /dev/null || blkdiscard "/dev/$1" 2> /dev/null; then HOW="discard, and zeros at both ends"; else HOW="zeros at both ends"; fi
}

# A drive that was locked for an erase which the machine's power cut short is unlocked by the same word.
ATA_WORD=corral

# by_drive DISK: the drive's own command to erase all of it, also where no file can reach; 1: it has none that works.
by_drive() {
    case "$1" in
        nvme*) command -v nvme > /dev/null && by_nvme "$1" && return 0 ;;
        sd*) command -v hdparm > /dev/null && by_ata "$1" && return 0 ;;
    esac
    blkdiscard -s "/dev/$1" 2> /dev/null || return 1
    HOW="secure discard"
}

# NVM Express, Format NVM, secure erase settings 1: user data erase.
by_nvme() {
    nvme format "/dev/$1" --ses=1 --force > "$RUN/erasing" 2>&1 || { log "$1: $(tail -n 1 "$RUN/erasing")"; return 1; }
    HOW="NVMe format with erase of user data"
}

# ATA, Security Erase Unit. One that the firmware has frozen refuses it until its power was off.
by_ata() {
    hdparm -I "/dev/$1" > "$RUN/security" 2> /dev/null || return 1
    if grep -q '^[[:space:]]*locked' "$RUN/security"; then hdparm --user-master u --security-unlock "$ATA_WORD" "/dev/$1" > /dev/null 2>&1; fi
    grep -q '^[[:space:]]*not[[:space:]]*frozen' "$RUN/security" && grep -q 'SECURITY ERASE UNIT' "$RUN/security" || return 1
    hdparm --user-master u --security-set-pass "$ATA_WORD" "/dev/$1" > "$RUN/erasing" 2>&1 || return 1
    if hdparm --user-master u --security-erase "$ATA_WORD" "/dev/$1" >> "$RUN/erasing" 2>&1; then
        HOW="ATA secure erase"
        return 0
    fi
    log "$1: $(tail -n 1 "$RUN/erasing")"
    hdparm --user-master u --security-disable "$ATA_WORD" "/dev/$1" > /dev/null 2>&1
    return 1
}

# All of it: by the drive itself, otherwise by zeros all over.
wipe_all() {
    by_drive "$1" && return 0
    size=$(($(cat "/sys/block/$1/size") / 2048))
    done_mib=0
    while [ "$done_mib" -lt "$size" ]; do
        some=$((size - done_mib))
        [ "$some" -le 1024 ] || some=1024
        zero "/dev/$1" "$done_mib" "$some" || return 1
        done_mib=$((done_mib + some))
        stage cleaning "$1: $done_mib of $size MiB"
    done
    # What is left of less than a MiB at the end.
    dd if=/dev/zero of="/dev/$1" bs=512 seek=$((size * 2048)) conv=fsync,notrunc 2> /dev/null
    HOW="zeros all over, since it has no erase of its own that works"
}

clean_machine() {
    how=$(cat "$DOCUMENTS/clean")
    stage cleaning "looking for disks"
    told=
    for disk in $(settled_disks); do
        stage cleaning "$disk ($how)"
        HOW=
        if [ "$(cat "/sys/block/$disk/ro")" != 0 ]; then
            failed "$disk cannot be written"
        elif [ "$how" = erase ]; then
            wipe_all "$disk" || failed "$disk could not be erased"
        else
            wipe_metadata "$disk" || failed "$disk could not be wiped"
        fi
        told="$told${told:+; }$disk: $HOW"
    done
    sync
    stage ready "${told:-it has no disks}"
    while :; do pause 5; done
}

failed() {
    stage failed "$1"
    while :; do pause 5; done
}
