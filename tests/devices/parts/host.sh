# What makes a hypervisor of the machine: run by its first process, with bash.
export PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/
exec < /dev/ttyS0 > /dev/ttyS0 2>&1
say() { echo "HOST $(cut -d' ' -f1 /proc/uptime) $*"; }
for place in /run /tmp /var/tmp /var/log /dev/shm; do mkdir -p $place && mount -t tmpfs none $place; done
mkdir -p /dev/pts /run/lock /sys/fs/cgroup /dev/hugepages /var/log/libvirt/qemu
mount -t devpts pts /dev/pts
mount -t cgroup2 cgroup /sys/fs/cgroup
for module in virtio_net vfio-pci vfio_iommu_type1 nvme; do modprobe $module || say "no module $module"; done
hostname devices
echo '127.0.0.1 devices' >> /etc/hosts
ip link set lo up
ip address add 10.0.2.15/24 dev eth0 && ip link set eth0 up
ip route add default via 10.0.2.2
/lib/systemd/systemd-udevd --daemon
udevadm trigger
udevadm settle -t 60
# Of each node 64 pages of 2 MiB. libvirt looks for where they are mounted as it starts.
for node in 0 1; do echo 64 > /sys/devices/system/node/node$node/hugepages/hugepages-2048kB/nr_hugepages; done
mount -t hugetlbfs hugetlbfs /dev/hugepages
# What the machine below has of its own is none of ours.
rm -rf /etc/libvirt/qemu/*.xml /etc/libvirt/qemu/autostart /etc/libvirt/qemu/networks/autostart \
    /etc/libvirt/storage/* /var/lib/libvirt/qemu/*
cat > /etc/libvirt/libvirtd.conf << 'END'
listen_tls = 0
listen_tcp = 1
auth_tcp = "none"
auth_unix_ro = "none"
auth_unix_rw = "none"
host_uuid = "6f2a1f0e-6d0c-4b2b-9f4e-0c0a1be11a01"
log_filters = "3:qemu 3:util"
log_outputs = "3:file:/var/log/libvirtd.log"
END
cat > /etc/libvirt/qemu.conf << 'END'
stdio_handler = "file"
security_driver = "none"
user = "root"
group = "root"
END
# Each look at its network filters would run dozens of programs here, for a minute.
rm /usr/lib/*/libvirt/connection-driver/libvirt_driver_nwfilter.so
libvirtd -d --listen
until virsh -c qemu:///system version > /dev/null 2>&1; do sleep 1; done
say "libvirt answers"
setsid bash --norc --noediting < /dev/ttyS1 > /dev/ttyS1 2>&1
say "ended"
echo o > /proc/sysrq-trigger
sleep 60
