# A member that is a container image: its disk is a squashfs, with what Corral says of it in /.corral. It is the root of
# the engine alone. What the engine writes goes to the rest of the disk, where there is any, and else to memory.
CONTAINER=$RUN/root
CONTAINER_DISK=/dev/vda
LEAST_REST=16777216

is_container() { grep -q 'corral.container' /proc/cmdline; }

open_container() {
    for module in /lib/modules/container/*.ko; do
        insmod "$module" || log "module ${module##*/} was not loaded"
    done
    until wait_for "$CONTAINER_DISK"; do stage booting "no disk with the container image"; pause 2; done
    mkdir -p "$RUN/image" "$RUN/written" "$CONTAINER"
    until mount -t squashfs -o ro "$CONTAINER_DISK" "$RUN/image"; do
        stage booting "the disk holds no container image"
        pause 2
    done
    open_rest || mount -t tmpfs tmpfs "$RUN/written"
    mkdir -p "$RUN/written/files" "$RUN/written/work"
    mount -t overlay -o "lowerdir=$RUN/image,upperdir=$RUN/written/files,workdir=$RUN/written/work" overlay "$CONTAINER"
    # The image's own words are for its user too; what Corral says of it is not.
    chmod 711 "$CONTAINER/.corral"
    cp /bin/busybox "$CONTAINER/.corral/busybox"
    [ -d "$CONTAINER/tmp" ] || { mkdir "$CONTAINER/tmp" && chmod 1777 "$CONTAINER/tmp"; }
    mkdir -p "$CONTAINER/proc" "$CONTAINER/sys" "$CONTAINER/dev" "$CONTAINER/etc" "$CONTAINER$DOCUMENTS"
    mount -t proc proc "$CONTAINER/proc"
    mount -t sysfs sysfs "$CONTAINER/sys"
    mount -t devtmpfs devtmpfs "$CONTAINER/dev"
    mkdir -p "$CONTAINER/dev/shm" "$CONTAINER/dev/pts"
    mount -t tmpfs tmpfs "$CONTAINER/dev/shm"
    mount -t devpts devpts "$CONTAINER/dev/pts"
    mount -o bind "$DOCUMENTS" "$CONTAINER$DOCUMENTS"
    # The supervisor keeps the guest's file, which is the engine's as well.
    touch /etc/hosts "$CONTAINER/etc/hosts"
    mount -o bind /etc/hosts "$CONTAINER/etc/hosts"
}

# The disk beyond the image, which is as long as its superblock says (bytes 40 to 47), rounded up to a mebibyte. It stays
# as it is while the machine is the same one.
open_rest() {
    used=$(od -An -t u8 -j 40 -N 8 "$CONTAINER_DISK" | tr -d ' ')
    begin=$(((used + 1048575) / 1048576 * 1048576))
    [ $(($(cat "/sys/block/${CONTAINER_DISK##*/}/size") * 512 - begin)) -ge "$LEAST_REST" ] || return 1
    losetup -o "$begin" /dev/loop0 "$CONTAINER_DISK" || return 1
    mount -t ext4 /dev/loop0 "$RUN/written" 2> /dev/null && return 0
    mke2fs -m 0 -i 65536 /dev/loop0 > /dev/null && mount -t ext4 /dev/loop0 "$RUN/written"
}
